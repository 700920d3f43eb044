"""Who counts as related: the same key, the same operator, or the same network of addresses; and who belongs to one group."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ids import PeerId
from rrnode.relations import Known, groups, known, network_of, relation, tells_who

ONE, TWO, THREE = (PeerId(b"\x02" + each * 32) for each in (b"1", b"2", b"3"))


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("/ip4/203.0.113.7/tcp/9780", "203.0.0.0/16"),
        ("/ip4/127.2.0.1/tcp/1", "127.2.0.0/16"),
        ("/ip6/2001:db8:1::7/tcp/9780", "2001:db8::/32"),
        ("/ip6/::ffff:203.0.113.7/tcp/9780", "203.0.0.0/16"),
        ("/ip6/fe80::7%eth0/tcp/9780", "fe80::/32"),
        ("/dns4/Node.Example./tcp/9780", "node.example"),
        ("/memory/3", ""),
        ("/ip4/nonsense/tcp/1", ""),
        ("", ""),
    ],
)
def test_network_of_an_address(address: str, network: str) -> None:
    assert network_of(address) == network


def test_address_of_this_machine_itself_or_of_no_known_form_tells_nothing_of_who_came_from_it() -> None:
    here = ["/ip4/127.9.0.1/tcp/1", "/ip6/::1/tcp/1", "/ip6/::ffff:127.0.0.1/tcp/1", "/memory/0", ""]
    assert [tells_who(each) for each in [*here, "/ip4/10.0.0.1/tcp/1"]] == [False] * len(here) + [True]


def test_the_same_node_is_related_whatever_its_addresses() -> None:
    assert relation(known(ONE, addresses=["/ip4/203.0.113.7/tcp/1"]), known(ONE)) == "is the same node"


def test_nodes_of_one_network_are_related_by_any_of_their_addresses() -> None:
    ours = known(ONE, addresses=["/memory/1", "/ip4/203.0.113.7/tcp/1"])
    theirs = known(TWO, addresses=["/ip6/2001:db8::1/tcp/1", "/ip4/203.0.99.99/tcp/2"])
    assert relation(ours, theirs) == "is in the same network (203.0.0.0/16)"
    assert relation(ours, known(TWO, addresses=["/ip6/2001:db8::1/tcp/1"])) == ""
    assert relation(known(ONE, addresses=["/memory/1"]), known(TWO, addresses=["/memory/2"])) == ""


def test_nodes_of_one_operator_are_related_however_the_name_is_written() -> None:
    ours = known(ONE, operators=["Ann  Other", "Bob"])
    assert relation(ours, known(TWO, operators=[" ann other"])) == "has the same operator (ann other)"
    assert relation(ours, known(TWO, operators=["annother"])) == ""
    assert relation(known(ONE, operators=["  "]), known(TWO, operators=["", " "])) == ""


def test_what_two_sources_know_is_joined() -> None:
    joined = known(ONE, operators=["Ann"]) | known(ONE, addresses=["/ip4/203.0.113.7/tcp/1"])
    assert joined == Known(peer=ONE, operators=frozenset({"ann"}), networks=frozenset({"203.0.0.0/16"}))


def test_two_who_share_nothing_belong_together_through_a_third() -> None:
    through = known(TWO, operators=["Ann"], addresses=["/ip4/203.0.113.7/tcp/1"])
    apart = [known(ONE, operators=["Ann"]), known(THREE, addresses=["/ip4/203.0.1.1/tcp/1"])]
    assert set(groups(apart)) == {frozenset({ONE}), frozenset({THREE})}
    assert groups([*apart, through]) == (frozenset({ONE, TWO, THREE}),)


_PEERS = st.builds(
    lambda peer, operators, networks: Known(peer=peer, operators=operators, networks=networks),
    st.sampled_from([PeerId(b"\x02" + bytes([n]) * 32) for n in range(6)]),
    st.frozensets(st.sampled_from("abcd"), max_size=2),
    st.frozensets(st.sampled_from("wxyz"), max_size=2),
)


@given(st.lists(_PEERS, max_size=8))
def test_groups_share_nobody_leave_out_nobody_and_nobody_in_one_is_related_to_another(everybody: list[Known]) -> None:
    found = groups(everybody)
    assert sorted(peer for group in found for peer in group) == sorted({each.peer for each in everybody})
    group_of = {peer: group for group in found for peer in group}
    for one in everybody:
        for other in everybody:
            assert not relation(one, other) or group_of[one.peer] == group_of[other.peer]
