"""The smallest sets that could rob us, against a model: what a given coalition can take, asked guard by guard.

The model knows nothing of sets: it plays each theft and looks for one honest guard who stops it.
"""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from protocols.ids import PeerId
from protocols.units import Msat
from protocols.watch.collusion import Collusion, Guarded, Means, When, smallest

N, W1, W2, H1, H2, H3 = (PeerId(b"\x02" + bytes([number]) * 32) for number in range(6))


def alone(*peers: PeerId) -> frozenset[frozenset[PeerId]]:
    return frozenset(frozenset({peer}) for peer in peers)


def taken(guarded: Guarded, when: When, coalition: frozenset[PeerId]) -> int:
    """The most that these can take from us while nobody else is dishonest, msat."""
    if guarded.neighbour not in coalition:
        return 0

    def we_see_it() -> bool:
        if when is When.AWAY:
            return False
        if guarded.helpers is None:
            return True
        return any(helper not in coalition for helper in guarded.helpers)

    lost = 0
    if guarded.in_flight and not we_see_it():
        lost = guarded.in_flight
    watcher_acts = any(holder not in coalition for holder in guarded.holders)
    if guarded.old_states and not we_see_it() and not watcher_acts:
        lost = guarded.ours + guarded.in_flight
    return lost


_AMOUNTS = st.sampled_from([0, 1, 5, 1000]).map(Msat)
_SOME = st.frozensets(st.sampled_from([N, W1, W2, H1, H2, H3]), max_size=4)
_GUARDED = st.builds(
    lambda ours, in_flight, old, holders, helpers: Guarded(
        neighbour=N, ours=ours, in_flight=in_flight, old_states=old, holders=holders, helpers=helpers
    ),
    _AMOUNTS,
    _AMOUNTS,
    st.sampled_from([0, 3]),
    _SOME,
    st.none() | _SOME,
)


@st.composite
def _groups(draw: st.DrawFn) -> list[frozenset[PeerId]]:
    number_of = {peer: draw(st.integers(0, 5)) for peer in (N, W1, W2, H1, H2, H3)}
    return [frozenset(peer for peer in number_of if number_of[peer] == n) for n in set(number_of.values())]


def members(parties: frozenset[frozenset[PeerId]]) -> frozenset[PeerId]:
    return frozenset[PeerId]().union(*parties)


@given(_GUARDED, _groups())
def test_each_set_suffices_and_takes_what_is_said_and_with_one_party_less_it_does_not(
    guarded: Guarded, groups: list[frozenset[PeerId]]
) -> None:
    for each in smallest(guarded, groups):
        assert taken(guarded, each.when, members(each.parties)) == each.at_stake > 0
        for party in each.parties:
            assert taken(guarded, each.when, members(each.parties - {party})) < each.at_stake


@given(_GUARDED, _groups())
def test_whatever_parties_can_take_there_is_a_set_among_them_that_is_told_to_take_it(
    guarded: Guarded, groups: list[frozenset[PeerId]]
) -> None:
    told = smallest(guarded, groups)
    for when in When:
        for size in range(len(groups) + 1):
            for coalition in combinations(groups, size):
                peers = frozenset[PeerId]().union(*coalition)
                within = [each.at_stake for each in told if each.when is when and members(each.parties) <= peers]
                assert taken(guarded, when, peers) == max(within, default=0)


@given(_GUARDED, _groups())
def test_no_set_says_what_another_says_already(guarded: Guarded, groups: list[frozenset[PeerId]]) -> None:
    told = smallest(guarded, groups)
    for one, other in combinations(told, 2):
        if one.when is other.when:
            assert not (one.parties <= other.parties and one.at_stake >= other.at_stake)
            assert not (other.parties <= one.parties and other.at_stake >= one.at_stake)


def test_a_neighbour_that_runs_one_of_two_watchers_needs_no_other_for_what_it_can_take_alone() -> None:
    guarded = Guarded(
        neighbour=N, ours=Msat(0), in_flight=Msat(1), old_states=3, holders=frozenset({W1, W2}), helpers=None
    )
    assert smallest(guarded, [frozenset({N, W1}), frozenset({W2})]) == (
        Collusion(when=When.AWAY, means=Means.IN_FLIGHT, parties=alone(N), at_stake=Msat(1)),
    )


def test_client_with_two_watchers_and_three_helpers() -> None:
    guarded = Guarded(
        neighbour=N,
        ours=Msat(900),
        in_flight=Msat(100),
        old_states=7,
        holders=frozenset({W1, W2}),
        helpers=frozenset({H1, H2, H3}),
    )
    assert smallest(guarded) == (
        Collusion(when=When.AWAY, means=Means.IN_FLIGHT, parties=alone(N), at_stake=Msat(100)),
        Collusion(when=When.AWAY, means=Means.OLD_STATE, parties=alone(N, W1, W2), at_stake=Msat(1000)),
        Collusion(when=When.UP, means=Means.IN_FLIGHT, parties=alone(N, H1, H2, H3), at_stake=Msat(100)),
        Collusion(when=When.UP, means=Means.OLD_STATE, parties=alone(N, W1, W2, H1, H2, H3), at_stake=Msat(1000)),
    )


def test_those_who_belong_together_are_one_party_and_one_node_in_two_roles_is_one() -> None:
    guarded = Guarded(
        neighbour=N,
        ours=Msat(1000),
        in_flight=Msat(0),
        old_states=1,
        holders=frozenset({W1, H1}),
        helpers=frozenset({H1, H2}),
    )
    away, up = smallest(guarded, [frozenset({N, W1}), frozenset({H1, H2, H3})])
    assert (away.when, away.parties) == (When.AWAY, {frozenset({N, W1}), frozenset({H1})})
    assert (up.when, up.parties) == (When.UP, {frozenset({N, W1}), frozenset({H1, H2})})


def test_without_a_watcher_the_neighbour_alone_suffices_while_we_are_away_and_a_chain_of_our_own_ends_that() -> None:
    guarded = Guarded(neighbour=N, ours=Msat(900), in_flight=Msat(100), old_states=1)
    assert smallest(guarded) == (
        Collusion(when=When.AWAY, means=Means.OLD_STATE, parties=alone(N), at_stake=Msat(1000)),
    )


def test_from_a_channel_without_an_old_state_and_payments_nobody_can_take_anything() -> None:
    assert smallest(Guarded(neighbour=N, ours=Msat(900), in_flight=Msat(0), old_states=0)) == ()
