"""Each command against a fake node that behaves, over its real socket: what people read, and what programs get."""

import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

from rrnode.control import models as m
from rrnode.control.text import peer_text


async def test_status_says_what_matters_and_shows_alarms_harmlessly(run: Any, node: Any, fake: ModuleType) -> None:
    result = await run("status")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == f"node                {peer_text(fake.US)}"
    assert "wallet              1,000,000 sat" in lines
    assert "roles               client (dials out only)" in lines
    assert "up for              1 h 2 min" in lines
    assert lines[-2:] == ["WARNING  no watcher. looks after it", "ALARM  the neighbour .[31mCarol closed by force"]
    assert "\x1b" not in result.out
    assert (await run("status", "--listening")).out == ""
    assert m.Status.model_validate((await run("status", "--json")).json).network == "regtest"


async def test_peers_are_connected_listed_and_let_go(run: Any, node: Any, fake: ModuleType) -> None:
    assert (await run("peers")).out == "No peers. Connect to one with: rrnode connect ADDRESS\n"
    bob = peer_text(fake.BOB)
    assert (await run("connect", fake.BOB_ADDRESS)).out == f"Connected to {bob}.\n"
    listed = await run("peers")
    assert listed.out.splitlines()[0].split() == ["peer", "state", "roles", "channels", "address", "problem"]
    assert listed.out.splitlines()[1].split()[:4] == [bob, "connected", "route", "0"]
    assert [peer["peer_id"] for peer in (await run("peers", "--json")).json] == [bob]
    assert (await run("disconnect", bob)).code == 0
    assert (await run("peers", "--json")).json == []


async def test_helpers_are_shown_with_what_each_was_caught_at(run: Any, node: Any, fake: ModuleType) -> None:
    assert (await run("helpers")).out == "No helpers: this node reads the chain by itself.\n"
    bob, carol = peer_text(fake.BOB), peer_text(fake.CAROL)
    lie = "it kept silent about 77\x1b in block 9"
    node.helping = (
        m.HelperInfo(peer_id=bob, connected=True, height=1234, lag=0, answers=7),
        m.HelperInfo(peer_id=bob, connected=True, height=1234, lag=0, related="it is the same node"),
        m.HelperInfo(peer_id=carol, connected=False, problem="not connected", silences=1, lies=2, last_lie=lie),
    )
    listed = (await run("helpers")).out.splitlines()
    assert listed[1].split() == [bob, "fine", "1,234", "0", "7", "0", "0", "0"]
    assert listed[2].split() == [bob, "it", "is", "the", "same", "node", "1,234", "0", "0", "0", "0", "0"]
    assert listed[3].split()[:9] == [carol, "not", "connected", "-", "-", "0", "1", "0", "2"]
    assert listed[3].endswith("it kept silent about 77. in block 9")
    assert [each["lies"] for each in (await run("helpers", "--json")).json] == [0, 0, 2]


async def test_cover_tells_who_holds_what_and_why_not(run: Any, node: Any, fake: ModuleType) -> None:
    lines = [line.split() for line in (await run("cover")).out.splitlines()]
    assert lines[1] == [peer_text(fake.BOB), "connected", fake.BOB_ADDRESS]
    assert lines[-1] == ["abababab…abababab", "3", "1", "of", "1", "20,000", "sat", "partly", "covered.[31m"]
    found = m.Cover.model_validate((await run("cover", "--json")).json)
    assert found.channels[0].held[0].until_height == 900


async def test_audit_tells_in_words_who_could_take_how_much(run: Any, node: Any, fake: ModuleType) -> None:
    bob, carol, us = (peer_text(each) for each in (fake.BOB, fake.CAROL, fake.US))
    assert (await run("audit")).out.splitlines() == [
        f"channel abababab…abababab with {bob}",
        "  While this node is away for 144 blocks or more, the neighbour alone could take up to 1,500 sat by publishing an old"
        " state of the channel:",
        f"    neighbour {bob}",
        "  While this node is up, these 2 together could take up to 7.001 sat of the payments in flight by hiding the chain"
        " from it until they expire:",
        f"    neighbour {bob}",
        f"    helper and watcher {carol}; helper {us}",
        "      as one: this one has the same operator (a.[31m) as that one",
        "  WARNING  no watcher looks after it",
        "",
        f"channel cdcdcdcd…cdcdcdcd with {carol}",
        "  Nobody could take anything now: there is no old state of it, and no payment is in flight.",
        "",
    ]
    assert m.Audit.model_validate((await run("audit", "--json")).json) == await node.audit()


async def test_bounties_tell_rewards_and_lost_outputs(run: Any, node: Any, fake: ModuleType) -> None:
    listed = (await run("bounty", "list")).out.splitlines()[1].split()
    assert listed[0] == "12" * 32
    assert listed[3:] == ["won", "in", "part", "8,500", "sat", "1", "of", "2"]
    shown = (await run("bounty", "show", "12" * 32)).out
    assert "confirmed  in block 699" in shown
    assert [line.split()[5:] for line in shown.splitlines()[-2:]] == [["us", "700"], ["cd" * 32, "700"]]
    missing = await run("bounty", "show", "34" * 32)
    assert (missing.code, missing.out) == (1, "")
    assert "see: rrnode bounty list" in missing.err
    assert m.BountyInfo.model_validate((await run("bounty", "show", "12" * 32, "--json")).json).lost == 1


async def test_an_address_that_refuses_is_one_sentence_and_what_to_try(run: Any, node: Any, fake: ModuleType) -> None:
    result = await run("connect", fake.DEAD_ADDRESS)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"rrnode: {fake.DEAD_ADDRESS} refused the connection\ntry: check that the node there runs\n"
    as_json = await run("connect", fake.DEAD_ADDRESS, "--json")
    assert (as_json.code, as_json.err) == (1, "")
    assert as_json.json == {
        "error": f"{fake.DEAD_ADDRESS} refused the connection",
        "try": "check that the node there runs",
    }


async def test_a_channel_is_opened_followed_listed_and_closed(run: Any, node: Any, fake: ModuleType) -> None:
    assert (await run("channel", "list")).out == "No channels. Open one with: rrnode channel open PEER CAPACITY\n"
    opened = await run("channel", "open", fake.BOB_ADDRESS, "0.005btc", "--push", "1000.5sat")
    assert opened.code == 0
    assert "ours      498,999.5 sat" in opened.out
    assert "theirs    1,000.5 sat" in opened.out
    assert "rrnode channel list" in opened.out
    waited = await run("channel", "open", peer_text(fake.BOB), "100000", "--wait", "--json")
    assert (waited.json["usable"], waited.json["ours_msat"], waited.json["theirs_msat"]) == (True, 100_000_000, 0)
    assert waited.err == "the funding transaction is published\n"
    listed = (await run("channel", "list")).out.splitlines()
    assert len(listed) == 3
    assert "498,999.5 sat" in listed[1]
    assert all(line.endswith("nobody watches it") for line in listed[1:])
    prefix = waited.json["channel_id"][:10]
    closing = await run("channel", "close", prefix, "--force", "--wait", "--json")
    assert (closing.json["phase"], closing.json["closing_txid"]) == ("closing by force", "cd" * 32)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("abc", "'abc' is too short to name a channel"),
        ("abcdef01", "there is no channel whose id begins with abcdef01"),
        ("nothex!", "'nothex!' is not a channel id"),
        ("ab" * 32, "there is no channel abababab"),
    ],
)
async def test_a_channel_that_is_not_there_is_said_so(run: Any, node: Any, name: str, sentence: str) -> None:
    result = await run("channel", "close", name)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"rrnode: {sentence}\ntry: ")


async def test_more_than_the_wallet_holds_is_refused(run: Any, node: Any, fake: ModuleType) -> None:
    result = await run("channel", "open", fake.BOB_ADDRESS, "2000000")
    assert result.code == 1
    assert result.err == "rrnode: the wallet holds 1000000 sat, 2000000 are wanted\ntry: rrnode wallet address\n"


async def test_contact_and_request_print_a_string_first_and_a_code_after(run: Any, node: Any) -> None:
    assert (await run("contact")).out == "rrr1contact\n"
    assert (await run("contact", "--json")).json["contact"] == "rrr1contact"
    plain = await run("request", "1500.25sat", "--memo", "tea", "--expiry", "10m", "--no-qr")
    assert plain.out.splitlines()[:3] == ["rrr1request1500250", "amount        1,500.25 sat", "memo          tea"]
    with_code = await run("request", "1500.25sat", "--memo", "tea")
    assert with_code.out.splitlines()[0] == "rrr1request1500250"
    assert len(with_code.out.splitlines()) > len(plain.out.splitlines()) + 10
    as_json = (await run("request", "1500250msat", "--json")).json
    assert (as_json["amount_msat"], as_json["expires_unix"]) == (1_500_250, 1_800_003_600)


async def test_pay_shows_each_offer_the_choice_and_the_receipt(run: Any, node: Any, fake: ModuleType) -> None:
    result = await run("pay", "request-dora-100000", "--memo", "books")
    assert result.code == 0
    bob = f"{peer_text(fake.BOB)[:8]}…{peer_text(fake.BOB)[-8:]}"
    assert result.err.splitlines() == [
        "   0.00 s  waiting for the payee to answer",
        f"   0.01 s  offer             104 sat  fee 4 sat (40,000 ppm), from {bob}, best so far",
        f"   0.03 s  offer           102.5 sat  fee 2.5 sat (25,000 ppm), from {bob}, best so far",
        f"   0.70 s  locked          102.5 sat  fee 2.5 sat, to {bob}",
        "   0.90 s  settled         102.5 sat  fee 2.5 sat",
    ]
    assert [line.split()[0] for line in result.out.splitlines()] == [
        "paid", "fee", "sent", "to", "memo", "payment", "receipt",
    ]  # fmt: skip
    assert result.out.splitlines()[0] == "paid          100 sat"


async def test_pay_tells_of_a_failure_on_the_way_and_the_next_attempt(run: Any, node: Any) -> None:
    result = await run("pay", "contact-bumpy", "100")
    assert result.code == 0
    assert "   0.80 s  returned: every way onward failed (at " in result.err
    assert result.err.splitlines()[-2].endswith(", attempt 2")
    assert "secret" in result.out.splitlines()[-1]


async def test_pay_for_programs_is_one_document_and_silence(run: Any, node: Any) -> None:
    result = await run("pay", "contact-dora", "100sat", "--json")
    assert (result.code, result.err) == (0, "")
    payment = m.PaymentInfo.model_validate(result.json)
    assert (payment.phase, payment.sent_msat, payment.fee_msat, payment.kind) == ("paid", 102_500, 2_500, "push")


async def test_pay_hands_its_limits_to_the_node(run: Any, node: Any) -> None:
    await run(
        "pay", "contact-dora", "100", "--ceiling", "110", "--quiet", "250ms", "--max-wait", "3s", "--good-enough", "50"
    )
    await run("pay", "contact-dora", "100", "--max-fee", "0")
    assert node.orders == [
        m.PayOrder(
            target="contact-dora",
            amount_msat=100_000,
            ceiling_msat=110_000,
            quiet_ms=250,
            maximum_ms=3000,
            good_enough_ppm=50,
        ),
        m.PayOrder(target="contact-dora", amount_msat=100_000, max_fee_msat=0),
    ]


async def test_a_payment_without_a_route_fails_with_a_sentence_and_a_hint(run: Any, node: Any) -> None:
    result = await run("pay", "request-nobody-5000")
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[-2:] == [
        "rrnode: no offer came within 10 s: the payee is away, or no channels lead there",
        "try: try later, or open another channel",
    ]
    as_json = await run("pay", "request-nobody-5000", "--json")
    assert (as_json.code, as_json.json["phase"]) == (1, "failed")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nonsense", "5"), "'nonsense' is neither a request nor a contact"),
        (("contact-dora",), "a contact names no amount"),
        (("request-expired-5",), "the request expired on 2026-01-01"),
        (("contact-dora", "0.0001sat"), "'0.0001sat' is finer than a millisatoshi, the smallest amount there is"),
        (("contact-dora", "5", "--ceiling", "6", "--max-fee", "1"), "a ceiling and a maximum fee were both given"),
        (("contact-dora", "5", "--quiet", "soon"), "'soon' is not a length of time"),
    ],
)
async def test_a_payment_that_cannot_be_is_refused(
    run: Any, node: Any, arguments: tuple[str, ...], sentence: str
) -> None:
    result = await run("pay", *arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[0] == f"rrnode: {sentence}"
    assert result.err.splitlines()[1].startswith("try: ")


async def test_payments_lists_both_ways(run: Any, node: Any) -> None:
    assert (await run("payments")).out == "No payments yet.\n"
    payment_hash = (await run("pay", "contact-dora", "100", "--no-wait")).out.strip()
    await run("request", "7", "--memo", "tea", "--no-qr")
    lines = (await run("payments")).out.splitlines()
    assert len(lines) == 3
    assert {line.split()[2] for line in lines[1:]} == {"out", "in"}
    both = (await run("payments", "--json")).json
    assert [payment["payment_hash"] for payment in both["sent"]] == [payment_hash]
    assert [promise["memo"] for promise in both["received"]] == ["tea"]
    assert (await run("payments", "--hash", payment_hash)).out.startswith("paid          100 sat\n")
    unknown = await run("payments", "--hash", "ab" * 32)
    assert (unknown.code, unknown.err.splitlines()[0]) == (1, "rrnode: there is no payment abababab of ours")


async def test_routes_shows_offers_and_neighbours(run: Any, node: Any) -> None:
    result = await run("routes")
    assert "102.5 sat  12 blocks" in result.out
    assert "routes" in result.out.splitlines()[-1]
    assert m.Routes.model_validate((await run("routes", "--json")).json).table_limit == 1000


async def test_wallet_commands(run: Any, node: Any) -> None:
    assert (await run("wallet", "address")).out == "bcrt1qexample\n"
    balance = (await run("wallet", "balance")).out.splitlines()
    assert balance[-1] == "can be spent       990,000 sat"
    sent = await run("wallet", "send", "bcrt1qto", "0.001btc", "--json")
    assert sent.json == {"txid": "12" * 32, "amount_sat": 100_000, "fee_sat": 150}
    everything = await run("wallet", "send", "bcrt1qto", "all")
    assert (everything.code, node.wallet_sat) == (0, 10_000)
    half = await run("wallet", "send", "bcrt1qto", "1.5sat")
    assert half.err.startswith("rrnode: '1.5sat' is not a whole number of satoshi")
    wrong = await run("wallet", "send", "tb1qto", "5")
    assert wrong.err == "rrnode: tb1qto is no regtest address\ntry: regtest addresses begin with bcrt1\n"


async def test_blocks_are_made_through_the_node(run: Any, node: Any) -> None:
    assert (await run("chain", "mine", "3")).out == "3 blocks; the chain is at block 103.\n"
    assert len((await run("chain", "mine", "--json")).json["block_hashes"]) == 1


async def test_events_are_printed_one_a_line_until_the_node_stops(run: Any, node: Any) -> None:
    await node.pay(m.PayOrder(target="contact-dora", amount_msat=100_000))

    async def stop_once_followed() -> None:
        while not node.bus.followers:
            await trio.lowlevel.checkpoint()
        await node.stop()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_once_followed)
        result = await run("events", "--after", "3")
    kinds = [json.loads(line)["kind"] for line in result.out.splitlines()]
    assert (result.code, kinds, result.err) == (0, ["locked", "settled", "stopping"], "")


async def test_the_api_page_and_its_description_can_be_printed(run: Any, node: Any) -> None:
    assert (await run("api")).out.startswith("<!doctype html>")
    assert (await run("api", "--json")).json["info"]["title"] == "rrnode control API"


async def test_stop_ends_the_node_and_waits_for_it(run: Any, node: Any, data_dir: Path) -> None:
    assert (await run("stop", "--json")).json == {"stopped": True}
    assert node.stopping.is_set()
    assert json.loads((await run("status", "--json")).out)["error"] == f"the node in {data_dir} is not running"


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("stop",),
        ("peers",),
        ("helpers",),
        ("audit",),
        ("connect", "/ip4/127.0.0.1/tcp/1"),
        ("disconnect", "x"),
        ("channel", "list"),
        ("channel", "open", "x", "5"),
        ("channel", "close", "abcd"),
        ("contact",),
        ("request", "5"),
        ("pay", "x", "5"),
        ("payments",),
        ("routes",),
        ("wallet", "address"),
        ("wallet", "balance"),
        ("wallet", "send", "x", "5"),
        ("chain", "mine"),
        ("events",),
        ("api",),
    ],
)
async def test_every_command_says_when_no_node_runs(run: Any, data_dir: Path, arguments: tuple[str, ...]) -> None:
    result = await run(*arguments)
    assert (result.code, result.out) == (3, "")
    assert result.err == (
        f"rrnode: there is no node in {data_dir}\ntry: make one with: rrnode --datadir {data_dir} init\n"
    )
    os.mkdir(data_dir, 0o700)
    as_json = await run(*arguments, "--json")
    assert (as_json.code, as_json.err) == (3, "")
    assert as_json.json == {
        "error": f"the node in {data_dir} is not running",
        "try": f"start it with: rrnode --datadir {data_dir} start",
    }


async def test_a_payment_is_handed_over_as_a_text_and_taken(run: Any, node: Any, fake: ModuleType) -> None:
    handed = await run("pay", "contact-carol", "5", "--out-of-band", "--no-wait", "--asleep", "2d")
    assert handed.code == 0
    lines = handed.out.splitlines()
    assert lines[0] == "rrri1qqqq"
    assert any("█" in line or "▀" in line for line in lines), "a QR code"
    assert lines[-2].endswith(": rrnode receive TEXT")
    assert node.orders[-1].asleep_s == 2 * 86_400
    as_json = (await run("pay", "contact-carol", "5", "--out-of-band", "--no-wait", "--asleep", "0", "--json")).json
    assert (as_json["text"], node.orders[-1].asleep_s) == ("rrri1qqqq", 0)
    got = await run("receive", " rrri1qqqq ")
    assert [line.split(maxsplit=1) for line in got.out.splitlines()[:2]] == [["amount", "5 sat"], ["memo", "tea."]]
    assert got.out.splitlines()[-1] == "Received 5 sat."
    assert (await run("receive", "rrri1qqqq", "--json")).json["received_msat"] == 5_000
    wrong = await run("receive", "rrrc1qqqq")
    assert (wrong.code, wrong.err) == (1, "rrnode: this is no payment that waits to be received\n")


async def test_mail_tells_what_was_missed_harmlessly(run: Any, node: Any, fake: ModuleType) -> None:
    lines = (await run("mail")).out.splitlines()
    assert lines[1].split()[-4:] == ["2", "1", "3", "0"]
    assert "7 sat  rent.  the payment has expired" in lines[3]
    assert lines[-1] == "4 wait here for clients of yours."
    assert m.MailInfo.model_validate((await run("mail", "--json")).json).kept_here == 4


async def test_a_payment_that_is_paid_cannot_be_given_up(run: Any, node: Any, fake: ModuleType) -> None:
    paid = (await run("pay", "contact-carol", "5", "--json")).json["payment_hash"]
    result = await run("give-up", paid)
    assert (result.code, result.err) == (1, "rrnode: The payment is paid: it can no longer be given up.\n")
    assert (await run("give-up", "00" * 32)).code == 1
