"""Tables and lines for people; programs get `--json`. Nothing that came from a peer is read as markup."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rrnode.cli.amounts import msat, sat, seconds
from rrnode.cli.context import console, say

Json = dict[str, Any]


def clean(text: str) -> str:
    """A text from elsewhere, harmless for a terminal: control characters become dots."""
    return "".join(character if character.isprintable() else "." for character in text)


def short(text: str, keep: int = 8) -> str:
    """An id that fits a line: both ends."""
    return text if len(text) <= 2 * keep + 1 else f"{text[:keep]}…{text[-keep:]}"


def when(unix: int | None) -> str:
    """A moment, local time."""
    return "" if unix is None else datetime.fromtimestamp(unix, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """A table; columns whose name ends in `>` are right-aligned. `empty` is the sentence for no rows."""
    from rich.table import Table
    from rich.text import Text

    lines = [tuple(rows_) for rows_ in rows]
    if not lines:
        say(empty)
        return
    out = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        out.add_column(Text(column.rstrip(">")), justify="right" if column.endswith(">") else "left", overflow="fold")
    for line in lines:
        out.add_row(*(Text(clean(cell)) for cell in line))
    console().print(out)


def pairs(facts: Iterable[tuple[str, str]]) -> None:
    """Names and values, one a line, aligned; empty values are left out."""
    kept = [(name, clean(value)) for name, value in facts if value]
    width = max((len(name) for name, _ in kept), default=0)
    for name, value in kept:
        say(f"{name:<{width}}  {value}")


def duration(total_s: int) -> str:
    """Days, hours, minutes: the two largest that are not zero."""
    days, rest = divmod(total_s, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(shown[:2]) or "0 s"


def status(found: Json) -> None:
    """What `rrnode status` prints."""
    chain = found["chain"]
    pairs(
        [
            ("node", found["peer_id"]),
            ("network", found["network"]),
            ("operator", found["operator"]),
            ("roles", ", ".join(found["switches"]) or "client (dials out only)"),
            ("listening", ", ".join(found["listening"])),
            ("chain", f"{chain['backend']}, block {chain['height']:,}" + ("" if chain["ready"] else ", NOT READY")),
            ("chain problem", chain["problem"]),
            ("peers", str(found["peers_connected"])),
            (
                "channels",
                f"{found['channels_open']} open, {found['channels_opening']} opening, {found['channels_closing']} closing",
            ),
            ("ours in channels", msat(found["channel_ours_msat"])),
            ("theirs in channels", msat(found["channel_theirs_msat"])),
            (
                "in flight",
                f"{msat(found['in_flight_out_msat'])} out, {msat(found['in_flight_in_msat'])} in"
                if found["in_flight_out_msat"] or found["in_flight_in_msat"]
                else "",
            ),
            ("wallet", sat(found["wallet_confirmed_sat"])),
            ("wallet unconfirmed", sat(found["wallet_unconfirmed_sat"]) if found["wallet_unconfirmed_sat"] else ""),
            ("payments under way", str(found["payments_live"]) if found["payments_live"] else ""),
            (
                "carried for others",
                f"{found['forwards_done']}, earned {msat(found['earned_msat'])}" if found["forwards_done"] else "",
            ),
            ("up for", duration(found["uptime_s"])),
            ("version", found["version"]),
            ("data", found["data_dir"]),
            ("HALTED", found["halted"]),
        ]
    )
    for warning in found["warnings"]:
        say(f"WARNING  {clean(warning)}")
    for alarm in found["alarms"]:
        say(f"ALARM  {clean(alarm)}")


def peers(found: list[Json]) -> None:
    """What `rrnode peers` prints."""
    table(
        ("peer", "state", "roles", "channels>", "address", "problem"),
        (
            (
                peer["peer_id"],
                ("connected" + (" (they dialled)" if peer["inbound"] else "")) if peer["connected"] else "away",
                ", ".join(peer["switches"]),
                str(peer["channels"]),
                peer["address"],
                peer["problem"],
            )
            for peer in found
        ),
        empty="No peers. Connect to one with: rrnode connect ADDRESS",
    )


def helpers(found: list[Json]) -> None:
    """What `rrnode helpers` prints."""
    table(
        ("helper", "state", "block>", "lag>", "answers>", "silent>", "disagreed>", "caught lying>", "last"),
        (
            (
                helper["peer_id"],
                helper["problem"] or helper["related"] or "fine",
                "-" if helper["height"] is None else f"{helper['height']:,}",
                "-" if helper["lag"] is None else str(helper["lag"]),
                str(helper["answers"]),
                str(helper["silences"]),
                str(helper["disagreements"]),
                str(helper["lies"]),
                helper["last_lie"] or helper["last_disagreement"],
            )
            for helper in found
        ),
        empty="No helpers: this node reads the chain by itself.",
    )


def channels(found: list[Json]) -> None:
    """What `rrnode channel list` prints."""
    table(
        ("channel", "peer", "state", "capacity>", "ours>", "theirs>", "in flight>", "note"),
        (
            (
                short(channel["channel_id"]),
                short(channel["peer_id"]),
                channel["phase"] + ("" if channel["usable"] or channel["phase"] != "open" else " (unusable now)"),
                sat(channel["capacity_sat"]),
                msat(channel["ours_msat"]),
                msat(channel["theirs_msat"]),
                msat(channel["in_flight_out_msat"] + channel["in_flight_in_msat"]) if channel["htlcs"] else "-",
                "; ".join(each for each in (channel["note"], channel["warning"]) if each),
            )
            for channel in found
        ),
        empty="No channels. Open one with: rrnode channel open PEER CAPACITY",
    )


def channel(found: Json) -> None:
    """One channel, after an order about it."""
    pairs(
        [
            ("channel", found["channel_id"]),
            ("peer", found["peer_id"]),
            ("state", found["phase"]),
            ("capacity", sat(found["capacity_sat"])),
            ("ours", msat(found["ours_msat"])),
            ("theirs", msat(found["theirs_msat"])),
            ("funding", f"{found['funding_txid']}:{found['funding_index']}" if found["funding_txid"] else ""),
            ("closing", found["closing_txid"]),
            ("note", found["note"]),
        ]
    )


def payments(sent: list[Json], taken: list[Json]) -> None:
    """What `rrnode payments` prints: made and taken, newest first."""
    rows = [
        (
            payment["created_unix"],
            "out",
            payment["phase"],
            payment["amount_msat"],
            "" if payment["fee_msat"] is None else msat(payment["fee_msat"]),
            payment["payment_hash"],
            payment["reason"] or payment["memo"],
        )
        for payment in sent
    ] + [
        (
            promise["created_unix"],
            "in",
            {"claimed": "received"}.get(promise["phase"], promise["phase"]),
            promise["received_msat"] or promise["amount_msat"],
            "",
            promise["payment_hash"],
            promise["memo"],
        )
        for promise in taken
    ]
    rows.sort(key=lambda row: row[0], reverse=True)
    table(
        ("when", "way", "state", "amount>", "fee>", "payment hash", "note"),
        ((when(row[0]), row[1], row[2], msat(row[3]), row[4], short(row[5]), row[6]) for row in rows),
        empty="No payments yet.",
    )


def mail(found: Json) -> None:
    """What `rrnode mail` prints."""
    table(
        ("mailbox at", "emptied", "taken>", "left>", "turned away>", "expired>", "problem"),
        (
            (
                box["server"],
                when(box["at_unix"]) or "not yet",
                str(box["taken"]),
                str(box["left"]),
                str(box["turned_away"]),
                str(box["expired"]),
                box["problem"],
            )
            for box in found["mailboxes"]
        ),
        empty="No mailbox: no server of yours, with which you have a channel, keeps payments while you are away.",
    )
    table(
        ("missed", "amount>", "memo", "why"),
        (
            (
                when(missed["at_ms"] // 1000),
                f"{missed['count']} unknown" if missed["amount_msat"] is None else msat(missed["amount_msat"]),
                missed["memo"],
                " ".join(filter(None, (missed["reason"], missed["where"]))),
            )
            for missed in found["missed"]
        ),
        empty="Nothing was missed since the node was started.",
    )
    if found["kept_here"] is not None:
        say(f"{found['kept_here']:,} wait here for clients of yours.")


def receipt(payment: Json) -> None:
    """The end of a payment that was paid."""
    proof = "receipt" if payment["kind"] == "request" else "secret"
    sent = payment["sent_msat"]
    pairs(
        [
            ("paid", msat(payment["amount_msat"])),
            ("fee", "" if payment["fee_msat"] is None else msat(payment["fee_msat"])),
            ("sent", "" if sent is None else msat(sent)),
            ("to", payment["payee"]),
            ("memo", payment["memo"]),
            ("payment hash", payment["payment_hash"]),
            (proof, payment["preimage"]),
        ]
    )


def progress_line(event: Json) -> str | None:
    """One event of a payment as a line for people; None for events that say nothing new."""
    at = f"{seconds(event.get('after_ms', 0)):>9}  "
    match event["kind"]:
        case "offer":
            fee = (
                "in another coin"
                if event["fee_msat"] is None
                else f"fee {msat(event['fee_msat'])} ({event['fee_ppm']:,} ppm)"
            )
            best = "best so far" if event["cheapest"] else "dearer"
            return f"{at}offer    {msat(event['amount_msat']):>16}  {fee}, from {short(event['neighbour'])}, {best}"
        case "waiting":
            return f"{at}waiting for {clean(event['what'])}"
        case "locked":
            return (
                f"{at}locked   {msat(event['amount_msat']):>16}  fee {msat(event['fee_msat'])}, to {short(event['neighbour'])}"
                + (f", attempt {event['attempt']}" if event["attempt"] > 1 else "")
            )
        case "attempt_failed":
            return f"{at}returned: {clean(event['reason'])} (at {short(event['neighbour'])})"
        case "settled":
            return f"{at}settled  {msat(event['sent_msat']):>16}  fee {msat(event['fee_msat'])}"
        case "payment_failed":
            return f"{at}failed: {clean(event['reason'])}"
        case _:
            return None


def routes(found: Json) -> None:
    """What `rrnode routes` prints."""
    table(
        ("payment hash", "as", "from", "amount>", "lock>", "until"),
        (
            (
                short(entry["payment_hash"]) if first else "",
                entry["role"] if first else "",
                short(offer["neighbour"]),
                msat(offer["amount_msat"]),
                f"{offer['lock_blocks']} blocks",
                when(offer["expires_unix"]),
            )
            for entry in found["entries"]
            for first, offer in ((index == 0, offer) for index, offer in enumerate(entry["offers"]))
        ),
        empty="No offers in the routing table. They come when somebody pays.",
    )
    table(
        ("neighbour", "state", "can send>", "can receive>", "offers>", "completed>"),
        (
            (
                short(neighbour["peer_id"]),
                ("routes" if neighbour["routes"] else "client") if neighbour["connected"] else "away",
                msat(neighbour["can_send_msat"]),
                msat(neighbour["can_receive_msat"]),
                str(neighbour["offers_received"]),
                str(neighbour["payments_completed"]),
            )
            for neighbour in found["neighbours"]
        ),
        empty="No neighbours.",
    )
