"""A hunter's case from its opening to its end: rubbish that is left out, rivals, reorganisations, what never ends."""

from dataclasses import replace
from typing import Any

import pytest

from protocols.ids import Txid
from protocols.onchain import tx
from protocols.units import BlockHeight, Sat, UnixTime
from protocols.watch import hunt, pairs, remedy
from protocols.watch.hunt import PATIENCE, Case, Outcome, Taken
from protocols.watch.policy import BountyConfig

OURS, THEIRS = Txid(b"o" * 32), Txid(b"t" * 32)
HTLCS = ((True, 400_000, 500),)
DEPTH = 3


def sealed(breach: Any, config: BountyConfig | None = None) -> bytes:
    made = breach.remedy(config)
    assert made is not None
    return remedy.seal(made, breach.txid, bytes(12))


def of(breach: Any, config: BountyConfig | None = None) -> tuple[pairs.Pair, ...]:
    held = pairs.check(breach.remedy(config), breach.parsed)
    return tuple(sorted(held, key=lambda each: each.index))


@pytest.fixture
def breach(breaches: Any) -> Any:
    return breaches.Breach(htlcs=HTLCS)


@pytest.fixture
def case(breach: Any, breaches: Any) -> Case:
    return Case(
        txid=breach.txid,
        breach=breach.raw,
        pairs=of(breach),
        script=breaches.HUNTER,
        first_seen=UnixTime(1),
        opened_at=BlockHeight(10),
        claims=(OURS,),
    )


def taken(case: Case, place: int, by: Txid, reward: int, height: int) -> Case:
    place_of = tx.outpoint(case.txid, case.pairs[place].index)
    return hunt.spent(case, by, [b"x" * 36, place_of], Sat(reward), BlockHeight(height))


def test_only_remedies_that_open_hold_and_offer_more_bring_pairs(breach: Any, breaches: Any) -> None:
    other = breaches.Breach(htlcs=HTLCS, number=7)
    cheap, dear = sealed(breach, BountyConfig(stake_share=20)), sealed(breach)
    for rubbish in (b"", b"\0" * 184, sealed(other), dear[:-1] + b"\0"):
        assert hunt.offers(breach.parsed, rubbish, {}) == {}
    best = hunt.offers(breach.parsed, dear, {})
    assert best == {each.index: each for each in of(breach)}
    for no_more in (cheap, dear):
        assert hunt.offers(breach.parsed, no_more, best) == {}
    assert hunt.offers(breach.parsed, dear, hunt.offers(breach.parsed, cheap, {})) == best
    assert hunt.offers(other.parsed, dear, {}) == {}


def test_signature_is_not_checked_where_it_brings_nothing(breach: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    best = hunt.offers(breach.parsed, sealed(breach), {})

    def never(*_: Any) -> bool:
        raise AssertionError("a signature was checked in vain")

    monkeypatch.setattr(pairs.ec, "verify", never)
    assert hunt.offers(breach.parsed, sealed(breach), best) == {}


def test_of_several_pairs_for_an_output_the_larger_bounty_counts(case: Case, breach: Any) -> None:
    cheap = of(breach, BountyConfig(stake_share=20))
    assert len(cheap) == len(case.pairs) == 2
    assert hunt.improved(case, cheap) == case
    assert hunt.improved(replace(case, pairs=cheap), case.pairs) == case
    assert hunt.improved(replace(case, pairs=()), case.pairs[::-1]) == case


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


def test_rival_who_pays_our_address_has_still_won(case: Case) -> None:
    case = taken(taken(case, 0, THEIRS, 330, 12), 1, OURS, 900, 12)
    assert [(each.ours, each.reward) for each in case.taken] == [(False, 0), (True, 900)]
    assert hunt.settled(case, BlockHeight(20), DEPTH).outcome is Outcome.SHARED


def test_claims_are_remembered_once_each_and_not_without_end(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hunt, "MOST_CLAIMS", 2)
    assert hunt.claimed(case, OURS) == case
    more = hunt.claimed(hunt.claimed(case, Txid(b"2" * 32)), Txid(b"3" * 32))
    assert more.claims == (b"2" * 32, b"3" * 32)


def test_closed_case_that_is_seen_again_keeps_what_is_ours_and_forgets_what_blocks_did(case: Case) -> None:
    ended = replace(taken(hunt.confirmed(case, BlockHeight(11)), 0, OURS, 900, 12), closed=True, left=True)
    assert ended.outcome is Outcome.LEFT
    assert hunt.reopened(ended, BlockHeight(30)) == replace(case, opened_at=BlockHeight(30))


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


def test_patience_begins_anew_when_the_breach_is_confirmed_and_when_that_is_undone(case: Case) -> None:
    late = BlockHeight(10 + PATIENCE)
    confirmed = hunt.confirmed(case, late)
    assert not hunt.settled(confirmed, BlockHeight(late + PATIENCE), DEPTH).closed
    assert hunt.settled(confirmed, BlockHeight(late + PATIENCE + 1), DEPTH).outcome is Outcome.GONE
    undone = hunt.undone(confirmed, BlockHeight(late - 1))
    assert not hunt.settled(undone, BlockHeight(late - 1 + PATIENCE), DEPTH).closed
    assert hunt.settled(undone, BlockHeight(late + PATIENCE), DEPTH).closed
