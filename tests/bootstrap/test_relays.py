"""The shipped relay lists: readable, honest about being empty, and strict about what may stand in them."""

import re

import pytest

from bootstrap.networks import NETWORKS
from bootstrap.relays import Relay, RelayList, parse_relays, shipped_relays, write_relays
from rrnode.host.peer_text import split_address, to_text

PEER, OTHER = to_text(b"\x02" * 33), to_text(b"\x03" * 33)  # type: ignore[arg-type]
GOOD = "/ip4/192.0.2.7/tcp/9780"


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
def test_every_network_ships_a_list_or_says_why_not(network: object) -> None:
    shipped = shipped_relays(network)  # type: ignore[arg-type]
    assert shipped.relays or shipped.note
    for relay in shipped.relays:
        assert relay.operator, "a shipped relay whose operator nobody knows"
        for address in relay.dialled_at:
            split_address(address)


def entry(address: str = GOOD, operator: str = "Ann", identity: str = PEER, more: str = "") -> str:
    return (
        f'[signet]\nrelays = [{{identity = "{identity}", addresses = ["{address}"], operator = "{operator}"{more}}}]\n'
    )


def test_a_relay_has_an_identity_addresses_and_an_operator_and_may_say_what_it_serves() -> None:
    ann = Relay(identity=PEER, addresses=(GOOD,), operator="Ann")
    assert parse_relays(entry())["signet"].relays == (ann,)
    assert ann.dialled_at == (f"{GOOD}/p2p/{PEER}",)
    (named,) = parse_relays(entry("/dns4/relay.example/tcp/1", more=', serves = ["route", "chain"]'))["signet"].relays
    assert (named.addresses, named.serves) == (("/dns4/relay.example/tcp/1",), ("route", "chain"))


def test_a_list_that_is_written_can_be_read_again() -> None:
    relays = (
        Relay(identity=PEER, addresses=(GOOD, "/dns/a.example/tcp/1"), operator='A"n\\n\n\x1b🎈', serves=("route",)),
        Relay(identity=OTHER, addresses=(GOOD,), operator="Bob"),
    )
    assert parse_relays(write_relays("signet", relays)) == {"signet": RelayList(relays=relays)}
    assert parse_relays(write_relays("signet", ())) == {"signet": RelayList(relays=())}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[moon]\n", "unknown networks: moon"),
        ("signet = 1", "may hold note and relays"),
        ("[signet]\nrelay = []", "may hold note and relays"),
        ("[signet]\nrelays = 1", "wants a text as note and a list"),
        ("[signet]\nnote = 1", "wants a text as note and a list"),
        ("[signet]\nrelays = [1]", "wants identity, addresses, operator, and perhaps serves; came: 1"),
        ("[signet]\nrelays = [{}]", "wants identity, addresses, operator"),
        (entry(more=", port = 1"), "wants identity, addresses, operator"),
        (entry().replace('"Ann"', "1"), "wants a text as operator"),
        (entry(identity=PEER[:-1]), "is no peer id"),
        (entry("/ip4/192.0.2.7"), "is not /ip4/<ip>/tcp/<port>"),
        (entry(f"{GOOD}/p2p/{PEER}"), "is not /ip4"),
        (entry(more=', serves = ["beer"]'), "serves beer; known are route, chain, watch, mailbox"),
        (entry(more=", serves = 1"), "wants a list of 0 to 4 texts"),
        (entry().replace(f'["{GOOD}"]', "[]"), "addresses wants a list of 1 to 6 texts"),
    ],
)
def test_anything_else_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        parse_relays(text)


def test_a_relay_that_stands_there_twice_is_refused() -> None:
    ann = Relay(identity=PEER, addresses=(GOOD,), operator="Ann")
    with pytest.raises(ValueError, match="names a relay twice"):
        parse_relays(write_relays("signet", (ann, ann)))
