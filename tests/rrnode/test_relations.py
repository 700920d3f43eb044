"""Who counts as related: the same key, or the same network of addresses."""

import pytest

from protocols.ids import PeerId
from rrnode.relations import network_of, relation

ONE, TWO = PeerId(b"\x02" + b"1" * 32), PeerId(b"\x02" + b"2" * 32)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("/ip4/203.0.113.7/tcp/9780", "203.0.0.0/16"),
        ("/ip4/127.2.0.1/tcp/1", "127.2.0.0/16"),
        ("/ip6/2001:db8:1::7/tcp/9780", "2001:db8::/32"),
        ("/dns4/Node.Example/tcp/9780", "node.example"),
        ("/memory/3", ""),
        ("/ip4/nonsense/tcp/1", ""),
        ("", ""),
    ],
)
def test_network_of_an_address(address: str, network: str) -> None:
    assert network_of(address) == network


def test_the_same_node_is_related_whatever_its_addresses() -> None:
    assert relation(ONE, ["/ip4/203.0.113.7/tcp/1"], ONE, []) == "is the same node"


def test_nodes_of_one_network_are_related_by_any_of_their_addresses() -> None:
    ours = ["/memory/1", "/ip4/203.0.113.7/tcp/1"]
    theirs = ["/ip6/2001:db8::1/tcp/1", "/ip4/203.0.99.99/tcp/2"]
    assert relation(ONE, ours, TWO, theirs) == "is in the same network, 203.0.0.0/16"
    assert relation(ONE, ours, TWO, theirs[:1]) == ""
    assert relation(ONE, ["/memory/1"], TWO, ["/memory/2"]) == ""
