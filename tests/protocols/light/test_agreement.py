"""The rule of negative facts, the choice of a fee estimate, and what is kept of each helper."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ids import PeerId
from protocols.light.agreement import Agreed, Standing, agree, choose_feerate, is_far_apart

A, B, C = (PeerId(bytes([2, number]) + bytes(31)) for number in range(3))
SPEND = frozenset({"spend"})
NOTHING = frozenset[str]()


def test_one_honest_helper_is_enough_to_see_a_spend():
    agreed = agree({A: NOTHING, B: SPEND, C: NOTHING}, 2)
    assert agreed == Agreed(SPEND, {A: SPEND, C: SPEND}, True)


def test_nothing_holds_when_enough_answered_and_none_proved_the_contrary():
    assert agree({A: NOTHING, B: NOTHING}, 2) == Agreed(NOTHING, {}, True)


def test_when_too_few_answer_what_they_prove_is_known_and_that_there_is_no_more_is_not():
    assert agree({A: NOTHING}, 2) == Agreed(NOTHING, {}, False)
    assert agree({A: SPEND}, 2) == Agreed(SPEND, {}, False)
    assert agree({}, 1) == Agreed(NOTHING, {}, False)


def test_what_a_known_liar_proves_holds_and_its_silence_counts_for_nothing():
    assert agree({A: NOTHING, B: NOTHING}, 2, also=[SPEND]) == Agreed(SPEND, {A: SPEND, B: SPEND}, True)
    assert agree({A: NOTHING}, 2, also=[SPEND, NOTHING]) == Agreed(SPEND, {A: SPEND}, False)


def test_each_tells_a_part():
    assert agree({A: frozenset("xy"), B: frozenset("yz")}, 2) == Agreed(
        frozenset("xyz"), {A: frozenset("z"), B: frozenset("x")}, True
    )


@pytest.mark.parametrize(
    ("estimates", "chosen"),
    [
        ([5000], 5000),
        ([5000, 9000], 9000),
        ([5000, 9000, 6000], 6000),
        ([5000, 9000, 6000, 7000], 7000),
        ([1], 1000),
        ([10**9], 100_000),
    ],
)
def test_the_middle_estimate_within_its_bounds_is_taken(estimates, chosen):
    assert choose_feerate(estimates, 1000, 100_000) == chosen


@given(st.lists(st.integers(1000, 100_000), min_size=2, max_size=7), st.integers(0, 10**12))
def test_one_liar_among_three_or_more_never_leaves_the_range_of_the_others(honest, lie):
    assert min(honest) <= choose_feerate([*honest, lie], 1000, 100_000) <= max(honest)


def test_only_estimates_far_from_the_one_that_is_taken_are_disagreements():
    assert [is_far_apart(each, 4000) for each in (999, 1000, 4000, 16_000, 16_001)] == [True, False, False, False, True]


def test_a_helper_that_lied_lags_or_is_in_trouble_is_not_fine():
    standing = Standing(A)
    assert not standing.status(10).is_fine
    standing.connected, standing.trouble, standing.height = True, "", 9
    assert standing.status(10).is_fine
    assert standing.status(10).lag == 1
    assert not standing.status(11).is_fine
    assert standing.status(8).lag == 0
    standing.disagreed("its fee estimate is 900 sat/vB")
    assert standing.status(9).is_fine
    assert (standing.status(9).disagreements, standing.status(9).last_disagreement) == (
        1,
        "its fee estimate is 900 sat/vB",
    )
    standing.lied("a spend that is in no block")
    assert not standing.status(9).is_fine
    assert (standing.status(9).lies, standing.status(9).last_lie) == (1, "a spend that is in no block")
