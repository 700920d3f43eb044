"""The shipped relay lists: readable, honest about being empty, and strict about what may stand in them."""

import pytest

from bootstrap.networks import NETWORKS
from bootstrap.relays import Relay, parse_relays, shipped_relays
from rrnode.host.peer_text import split_address, to_text

PEER = to_text(b"\x02" * 33)  # type: ignore[arg-type]
GOOD = f"/ip4/192.0.2.7/tcp/9780/p2p/{PEER}"


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
def test_every_network_ships_a_list_or_says_why_not(network: object) -> None:
    shipped = shipped_relays(network)  # type: ignore[arg-type]
    assert shipped.relays or shipped.note
    for relay in shipped.relays:
        split_address(relay.address)


def entry(address: str = GOOD, operator: str = "Ann") -> str:
    return f'[signet]\nrelays = [{{address = "{address}", operator = "{operator}"}}]'


def test_a_relay_has_an_address_and_an_operator() -> None:
    assert parse_relays(entry())["signet"].relays == (Relay(address=GOOD, operator="Ann"),)
    assert parse_relays(entry(f"/dns4/relay.example/tcp/1/p2p/{PEER}"))["signet"].relays[0].operator == "Ann"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[moon]\n", "unknown networks: moon"),
        ("signet = 1", "may hold note and relays"),
        ("[signet]\nrelay = []", "may hold note and relays"),
        ("[signet]\nrelays = 1", "wants a text as note and a list"),
        ("[signet]\nnote = 1", "wants a text as note and a list"),
        ("[signet]\nrelays = [1]", "wants an address and an operator, came: 1"),
        (entry(operator=" "), "names no operator"),
        (entry("/ip4/192.0.2.7/tcp/9780"), "is not /ip4/<ip>/tcp/<port>/p2p/<peer id>"),
        (entry(GOOD + "/p2p-circuit"), "is not /ip4"),
        (entry(GOOD[:-1]), "is not /ip4"),
        (
            f'[signet]\nrelays = [{{address = "{GOOD}", operator = "A"}}, {{address = "{GOOD}", operator = "B"}}]',
            "twice",
        ),
    ],
)
def test_anything_else_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("[", r"\[").replace("/", "/")):
        parse_relays(text)
