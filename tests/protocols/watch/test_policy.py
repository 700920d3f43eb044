"""Which outputs of a revoked state get a bounty, and how much: exact cases, and what holds for every state."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import MisuseError
from protocols.onchain import scripts
from protocols.units import FeeRate, Msat, Sat
from protocols.watch import policy
from protocols.watch.policy import BountyConfig, Uncovered

LEAST = 2_014  # of to_local at 10 sat per virtual byte: 166 vB, and an output


def summary(plan: Any) -> tuple[list[tuple[str, int, int]], list[tuple[str, int, Uncovered]]]:
    return (
        [(each.output.kind.name, each.output.value, each.bounty) for each in plan.priced],
        [(each.output.kind.name, each.output.value, each.reason) for each in plan.left],
    )


def test_a_balance_alone_takes_the_whole_budget(breaches: Any) -> None:
    plan = breaches.Breach(bob=6_000_000).plan()
    assert summary(plan) == ([("TO_THEM", 6_000_000, 100_000)], [])
    assert (plan.bounties, plan.stake, plan.trimmed, plan.deters) == (100_000, 200_000, 0, True)


def test_no_bounty_is_above_a_tenth_of_its_output(breaches: Any) -> None:
    assert summary(breaches.Breach(bob=50_000).plan())[0] == [("TO_THEM", 50_000, 5_000)]


def test_the_budget_is_shared_by_value_and_what_each_output_needs_at_least(breaches: Any) -> None:
    htlcs = ((True, 1_000_000, 500), (False, 3_000_000, 500))
    plan = breaches.Breach(bob=4_000_000, htlcs=htlcs).plan()
    least = [policy.least_bounty(each.output.kind, BountyConfig()) for each in plan.priced]
    rest = 100_000 - sum(least)
    assert summary(plan)[0] == [
        ("TO_THEM", 4_000_000, least[0] + rest * 4 // 8),
        ("OFFERED_BY_US", 3_000_000, least[1] + rest * 3 // 8),
        ("OFFERED_BY_THEM", 1_000_000, least[2] + rest * 1 // 8),
    ]
    assert 99_997 <= plan.bounties <= 100_000


def test_htlcs_below_the_threshold_get_none(breaches: Any) -> None:
    plan = breaches.Breach(htlcs=((True, 24_999, 500), (False, 25_000, 500))).plan()
    assert [each[:2] for each in summary(plan)[0]] == [("TO_THEM", 6_000_000), ("OFFERED_BY_US", 25_000)]
    assert summary(plan)[1] == [("OFFERED_BY_THEM", 24_999, Uncovered.BELOW_THRESHOLD)]


def test_a_balance_too_small_for_its_claims_fee_gets_none(breaches: Any) -> None:
    assert policy.least_bounty(policy.Kept.TO_THEM, BountyConfig()) == LEAST
    assert summary(breaches.Breach(bob=10 * LEAST).plan()) == ([("TO_THEM", 10 * LEAST, LEAST)], [])
    small = breaches.Breach(bob=10 * LEAST - 1).plan()
    assert summary(small) == ([], [("TO_THEM", 10 * LEAST - 1, Uncovered.OUTPUT_TOO_SMALL)])
    assert small.deters  # for the cheat could win 20,000 and would lose 200,000


def test_nobody_is_paid_from_a_stake_that_is_not_there(breaches: Any) -> None:
    """Bob never had anything of his own in the channel: the reserve that he agreed to is not there to be lost."""
    htlcs = ((False, 5_000_000, 500),)
    plan = breaches.Breach(bob=0, htlcs=htlcs, stake=policy.at_stake(Sat(200_000), Msat(0), Sat(354))).plan()
    assert summary(plan) == ([], [("OFFERED_BY_US", 5_000_000, Uncovered.NOTHING_AT_STAKE)])
    assert not plan.deters


def test_what_is_over_the_budget_gets_none_and_the_smallest_go_first(breaches: Any) -> None:
    htlcs = tuple((True, 100_000 + place, 500) for place in range(60))
    plan = breaches.Breach(bob=100_000, htlcs=htlcs).plan()
    assert [each.output.value for each in plan.left] == [100_000 + place for place in reversed(range(60 - 44))]
    assert {each.reason for each in plan.left} == {Uncovered.OVER_BUDGET}
    assert plan.priced[0].output.kind is policy.Kept.TO_THEM
    assert not plan.deters


def test_a_state_that_holds_nothing_for_the_cheat_needs_no_bounty(breaches: Any) -> None:
    plan = breaches.Breach(bob=0, stake=0).plan()
    assert summary(plan) == ([], [])
    assert plan.deters


@pytest.mark.parametrize(("trimmed", "deters"), [(19, True), (20, False)])
def test_what_was_trimmed_is_lost_for_the_victim_and_counts(breaches: Any, trimmed: int, deters: bool) -> None:
    plan = breaches.Breach(bob=50_000, htlcs=((False, 353, 500),) * trimmed, stake=12_000).plan()
    assert (plan.bounties, plan.trimmed, plan.deters) == (5_000, 353 * trimmed, deters)


@pytest.mark.parametrize(
    ("balance", "stake"),
    [(0, 0), (353_999, 0), (354_000, 354), (199_999_999, 199_999), (200_000_000, 200_000), (10**9, 200_000)],
)
def test_the_stake_is_the_reserve_once_the_balance_is_above_it(balance: int, stake: int) -> None:
    assert policy.at_stake(Sat(200_000), Msat(balance), Sat(354)) == stake


@pytest.mark.parametrize(
    "wrong", [{"stake_share": 1}, {"output_share": 1}, {"feerate": FeeRate(999)}, {"htlc_minimum": Sat(-1)}]
)
def test_a_policy_under_which_cheating_may_pay_is_refused(wrong: Any) -> None:
    with pytest.raises(MisuseError):
        BountyConfig(**wrong)


@st.composite
def states(draw: st.DrawFn) -> dict[str, Any]:
    capacity = draw(st.integers(20_000, 100_000_000))
    rest, htlcs = capacity, []
    for _ in range(draw(st.integers(0, 12))):
        sat = draw(st.integers(1, max(1, rest // 3)))
        rest -= sat
        htlcs.append((draw(st.booleans()), sat, draw(st.integers(1, 900_000))))
    return {
        "capacity": capacity,
        "bob": draw(st.integers(0, rest)),
        "htlcs": tuple(htlcs),
        "stake": draw(st.integers(0, capacity // 50)),
    }


@settings(max_examples=300, deadline=None)
@given(state=states(), feerate=st.integers(1_000, 100_000), minimum=st.integers(0, 100_000))
def test_every_plan_keeps_within_its_bounds(breaches: Any, state: Any, feerate: int, minimum: int) -> None:
    config = BountyConfig(feerate=FeeRate(feerate), htlc_minimum=Sat(minimum))
    breach = breaches.Breach(**state)
    plan = breach.plan(config)
    assert plan.bounties * 2 <= state["stake"]
    for each in plan.priced:
        assert policy.least_bounty(each.output.kind, config) <= each.bounty <= each.output.value // 10
        assert each.output.value - each.bounty >= scripts.dust_threshold(b"\x00\x14" + bytes(20))
        assert each.output.kind is policy.Kept.TO_THEM or each.output.value >= minimum
    known = [each.output for each in (*plan.priced, *plan.left)]
    assert sorted(each.index for each in known) == [
        each.index for each in breach.outputs if each.kind is not policy.Kept.TO_US
    ]
    assert sum(each.value for each in breach.outputs) + plan.trimmed == state["capacity"]
