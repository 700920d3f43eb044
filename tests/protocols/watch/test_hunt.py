"""A hunter's case from its opening to its end: rubbish that is left out, rivals, reorganisations, what never ends."""

from dataclasses import replace
from typing import Any

import pytest

from protocols.ids import Txid
from protocols.onchain import tx
from protocols.units import BlockHeight, Sat, UnixTime
from protocols.watch import hunt, remedy
from protocols.watch.hunt import PATIENCE, Case, Outcome, Taken
from protocols.watch.policy import BountyConfig

OURS, THEIRS = Txid(b"o" * 32), Txid(b"t" * 32)
HTLCS = ((True, 400_000, 500),)
DEPTH = 3


def sealed(breach: Any, config: BountyConfig | None = None) -> bytes:
    made = breach.remedy(config)
    assert made is not None
    return remedy.seal(made, breach.txid, bytes(12))


@pytest.fixture
def breach(breaches: Any) -> Any:
    return breaches.Breach(htlcs=HTLCS)


@pytest.fixture
def case(breach: Any, breaches: Any) -> Case:
    return Case(
        txid=breach.txid,
        breach=breach.raw,
        remedies=hunt.useful(breach.raw, [sealed(breach)]),
        script=breaches.HUNTER,
        first_seen=UnixTime(1),
        opened_at=BlockHeight(10),
    )


def taken(case: Case, place: int, by: Txid, reward: int, height: int) -> Case:
    place_of = tx.outpoint(case.txid, case.pairs[place].index)
    return hunt.spent(case, by, [b"x" * 36, place_of], Sat(reward), BlockHeight(height))


def test_only_remedies_that_open_hold_and_offer_more_are_kept(breach: Any, breaches: Any) -> None:
    other = breaches.Breach(htlcs=HTLCS, number=7)
    mean = BountyConfig(stake_share=20)
    cheap, dear = sealed(breach, mean), sealed(breach)
    rubbish = [b"", b"\0" * 184, sealed(other), dear[:-1] + b"\0"]
    assert hunt.useful(breach.raw, [*rubbish, dear, cheap, dear]) == (remedy.encode(breach.remedy()),)
    assert hunt.useful(breach.raw, [cheap, dear]) == (
        remedy.encode(breach.remedy(mean)),
        remedy.encode(breach.remedy()),
    )
    assert hunt.useful(other.raw, [dear]) == ()


def test_of_several_remedies_the_larger_bounty_counts(case: Case, breach: Any) -> None:
    both = hunt.useful(breach.raw, [sealed(breach, BountyConfig(stake_share=20)), sealed(breach)])
    assert replace(case, remedies=both).pairs == case.pairs
    assert len(case.pairs) == 2


def test_case_is_won_when_all_is_ours_and_buried(case: Case) -> None:
    case = hunt.confirmed(case, BlockHeight(11))
    case = taken(taken(case, 0, OURS, 900, 12), 1, OURS, 900, 12)
    assert (case.reward, case.open_pairs, case.outcome) == (900, (), Outcome.HUNTING)
    assert not hunt.settled(case, BlockHeight(13), DEPTH).closed
    closed = hunt.settled(case, BlockHeight(14), DEPTH)
    assert (closed.outcome, closed.lost) == (Outcome.WON, 0)


def test_lost_race_is_recorded_output_by_output(case: Case) -> None:
    case = taken(taken(case, 0, OURS, 900, 12), 1, THEIRS, 0, 13)
    closed = hunt.settled(case, BlockHeight(20), DEPTH)
    assert (closed.outcome, closed.lost, closed.reward) == (Outcome.SHARED, 1, 900)
    index = case.pairs[1].index
    assert case.taken[1] == Taken(index=index, spender=THEIRS, height=BlockHeight(13), ours=False, reward=Sat(0))
    lost = taken(taken(replace(case, taken=()), 0, THEIRS, 0, 12), 1, THEIRS, 0, 12)
    assert hunt.settled(lost, BlockHeight(20), DEPTH).outcome is Outcome.LOST


def test_reorganisation_takes_back_what_it_undid_and_no_more(case: Case) -> None:
    case = hunt.confirmed(case, BlockHeight(11))
    whole = taken(taken(case, 0, OURS, 900, 11), 1, THEIRS, 0, 13)
    assert hunt.undone(whole, BlockHeight(13)) == whole
    assert [each.spender for each in hunt.undone(whole, BlockHeight(12)).taken] == [OURS]
    assert hunt.undone(whole, BlockHeight(10)) == replace(case, height=None)
    again = taken(hunt.undone(whole, BlockHeight(12)), 1, OURS, 900, 13)
    assert hunt.settled(again, BlockHeight(20), DEPTH).outcome is Outcome.WON


def test_what_never_comes_to_an_end_is_given_up(case: Case) -> None:
    assert not hunt.settled(case, BlockHeight(10 + PATIENCE), DEPTH).closed
    assert hunt.settled(case, BlockHeight(11 + PATIENCE), DEPTH).outcome is Outcome.GONE
