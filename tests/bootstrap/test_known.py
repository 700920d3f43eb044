"""The table of servers that were heard of: bounded, and nobody can fill it alone, whoever claims what; records are signed
by nobody here, since the table does not look at signatures."""

from dataclasses import replace

from bootstrap.known import (
    MOST,
    MOST_ALIKE,
    MOST_TOLD,
    Known,
    KnownServer,
    is_server,
    met,
    page,
    relay_of,
    remember,
    still_good,
    teller_of,
)
from bootstrap.relays import Relay
from protocols.ids import PeerId
from protocols.node_record import NodeRecord
from protocols.units import AssetId, UnixTime
from protocols.wire.info import Signed


def server(
    number: int, *, at: str = "", operator: str = "", made: int = 1000, teller: str = "", met_at: int = 0
) -> KnownServer:
    """By default each in a /16 of its own."""
    address = at or f"/ip4/{20 + number // 250}.{number % 250}.0.1/tcp/1"
    record = NodeRecord(
        node=PeerId(b"\x02" + number.to_bytes(32, "big")),
        network=AssetId(bytes(32)),
        made=UnixTime(made),
        switches=1,
        operator=operator,
        addresses=(address,),
    )
    return KnownServer(
        record=record, signed=Signed(number.to_bytes(4, "big"), b""), teller=teller, met=UnixTime(met_at)
    )


def all_of(*servers: KnownServer) -> Known:
    known: Known = ()
    for each in servers:
        known = remember(known, each)
    return known


def test_the_later_record_of_a_server_counts_and_that_we_met_it_stays() -> None:
    old, new = server(1, made=1000), server(1, made=1001, operator="Ann")
    known = met(all_of(old), old.record.node, UnixTime(50))
    assert remember(known, old) == known
    assert remember(known, new) == (server(1, made=1001, operator="Ann", met_at=50),)
    assert remember(all_of(new), old) == (new,)


def test_the_table_has_a_most_and_forgets_who_was_heard_of_longest_ago() -> None:
    servers = [server(number) for number in range(MOST + 10)]
    assert all_of(*servers) == tuple(servers[10:])


def test_one_operator_has_a_few_places_however_the_name_is_written() -> None:
    names = ["Ann", "ann ", "ANN", " aNN", "Ann", "ann"]
    servers = [server(number, operator=name) for number, name in enumerate(names)]
    assert all_of(server(99, operator="Bob"), *servers) == (server(99, operator="Bob"), *servers[-MOST_ALIKE:])


def test_one_network_has_a_few_places_whatever_operators_it_claims() -> None:
    servers = [server(number, at=f"/ip4/8.8.{number}.1/tcp/1", operator=f"op{number}") for number in range(9)]
    assert all_of(*servers) == tuple(servers[-MOST_ALIKE:])


def test_tellers_of_one_network_have_an_eighth_and_push_out_their_own_only() -> None:
    honest = [server(number, teller=f"network {number % 10}") for number in range(100)]
    lies = [server(1000 + number, teller="evil") for number in range(MOST)]
    assert all_of(*honest, *lies) == (*honest, *lies[-MOST_TOLD:])


def test_one_liar_pushes_out_nobody_by_claiming_the_names_and_addresses_of_others() -> None:
    honest = [server(number, operator=f"op{number}", teller=f"network {number}") for number in range(60)]
    lies = []
    for number in range(60):
        for twin in range(2 * MOST_ALIKE):
            lie = server(1000 + 100 * number + twin, operator=f"op{number}", teller="evil")
            lies.append(replace(lie, record=replace(lie.record, addresses=honest[number].record.addresses)))
    known = all_of(*honest, *lies)
    assert known[: len(honest)] == tuple(honest)
    assert {each.teller for each in known[len(honest) :]} == {"evil"}
    (late,) = all_of(server(99, operator="op59", teller="network 99"))
    assert late in remember(known, late)


def test_a_relay_that_tells_what_others_told_before_pushes_out_nobody() -> None:
    honest = [server(number, teller=f"network {number % 10}") for number in range(100)]
    again = [server(number, made=2000, teller="relay") for number in range(100)]
    told_by = {each.record.node: each.teller for each in all_of(*honest, *again)}
    assert told_by == {each.record.node: each.teller for each in honest}


def test_whom_we_met_stays_when_strangers_claim_its_name_or_network() -> None:
    good = [server(number, operator="Ann", met_at=10) for number in range(MOST_ALIKE)]
    known = all_of(*good)
    assert remember(known, server(50, operator="Ann")) == known
    assert remember(known, server(50, operator="Ann", met_at=11)) == (*known[1:], server(50, operator="Ann", met_at=11))
    full = all_of(*(server(number, met_at=1) for number in range(MOST)))
    assert remember(full, server(5000)) == full


def test_addresses_of_a_regtest_are_not_limited_by_network() -> None:
    servers = [server(number, at=f"/ip4/127.0.0.1/tcp/{number + 1}") for number in range(9)]
    assert all_of(*servers) == tuple(servers)


def test_old_records_are_dropped() -> None:
    assert still_good(all_of(server(1, made=99), server(2, made=100)), UnixTime(100)) == (server(2, made=100),)


def test_pages_come_in_the_order_of_keys_and_say_whether_there_are_more() -> None:
    known = all_of(*(server(number) for number in (3, 1, 2)))
    assert page(known, bytes(33), 2) == ((server(1).signed, server(2).signed), True)
    assert page(known, server(2).record.node, 2) == ((server(3).signed,), False)
    assert page(known, server(3).record.node, 2) == ((), False)


def record(*addresses: str, switches: int = 1) -> NodeRecord:
    return NodeRecord(
        node=PeerId(b"\x02" * 33),
        network=AssetId(bytes(32)),
        made=UnixTime(1),
        switches=switches,
        addresses=addresses,
    )


def test_nobodys_word_makes_us_dial_inside_our_own_network() -> None:
    inside = (
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/10.0.0.1/tcp/1",
        "/ip4/192.168.1.1/tcp/22",
        "/ip4/169.254.169.254/tcp/80",
        "/ip4/0.0.0.0/tcp/1",
        "/ip4/224.0.0.1/tcp/1",
        "/ip6/::1/tcp/1",
        "/ip6/fd00::1/tcp/1",
        "/ip6/::ffff:127.0.0.1/tcp/1",
        "/ip6/2002:7f00:1::1/tcp/1",
        "/ip6/64:ff9b::10.0.0.1/tcp/1",
        "/ip6/64:ff9b:1::10.0.0.1/tcp/1",
        "/ip6/::127.0.0.1/tcp/1",
        "/ip6/::ffff:0:127.0.0.1/tcp/1",
        "/ip6/fec0::1/tcp/1",
        "/dns4/points-wherever-its-owner-likes.example/tcp/1",
        "/unix/run/docker.sock",
        "/ip4/host/tcp/1",
    )
    for address in inside:
        assert not is_server(record(address), anywhere=False), address
        assert is_server(record(address), anywhere=True)
    for address in ("/ip4/8.8.8.8/tcp/1", "/ip6/2600::1/tcp/1"):
        assert is_server(record(address, *inside[:2]), anywhere=False)
        assert not is_server(record(address, switches=0b1110), anywhere=True)
    assert not is_server(record(), anywhere=True)


def test_a_server_becomes_a_relay_with_the_addresses_that_may_be_dialled() -> None:
    known = KnownServer(
        record=record("/ip4/10.0.0.1/tcp/1", "/ip4/8.8.8.8/tcp/1", switches=0b101), signed=Signed(b"", b"")
    )
    assert relay_of(known, anywhere=False, identity="16U") == Relay(
        identity="16U", addresses=("/ip4/8.8.8.8/tcp/1",), operator="", serves=("route", "watch")
    )


def test_who_told_is_a_network_or_nobody() -> None:
    assert teller_of("/ip4/8.8.1.2/tcp/5") == teller_of("/ip6/::ffff:8.8.3.4/tcp/5") == "8.8.0.0/16"
    assert teller_of("/ip4/127.0.0.1/tcp/5") == teller_of("/memory/0") == teller_of("") == ""
