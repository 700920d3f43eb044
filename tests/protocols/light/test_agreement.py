"""The rule of negative facts, the choice of a fee estimate, and what is kept of each helper."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ids import PeerId
from protocols.light.agreement import Agreed, HelperStatus, Standing, agree, choose_feerate, is_far_apart

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


def test_a_helpers_status_is_its_record_and_how_far_it_is_behind():
    standing = Standing(A)
    assert (standing.status(10).lag, standing.status(10).trouble) == (None, "not connected")
    standing.connected, standing.trouble, standing.height = True, "", 9
    standing.answers, standing.silences, standing.refusals = 7, 2, 1
    standing.disagreed("its fee estimate is 900 sat/vB")
    standing.lied("a spend that is in no block")
    assert [standing.status(best).lag for best in (8, 9, 11)] == [0, 0, 2]
    assert standing.status(10) == HelperStatus(
        peer=A, connected=True, height=9, lag=1, answers=7, silences=2, refusals=1, disagreements=1,
        last_disagreement="its fee estimate is 900 sat/vB", lies=1, last_lie="a spend that is in no block", trouble="",
    )  # fmt: skip
