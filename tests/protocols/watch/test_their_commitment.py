"""Their commitment on the chain, current or next: HTLCs are claimed directly, by preimage or after their expiry."""

from typing import Any

import pytest

from protocols.onchain import tx
from protocols.watch.state import SpendKind

MARGIN = 12


def test_nothing_of_ours_is_locked_in_it_then_nothing_is_done(scene: Any) -> None:
    s = scene()
    assert s.tell_close(s.whole(s.theirs), None) == []  # they pay for their own close
    assert s.tell_close(s.whole(s.theirs), 100) == []
    assert s.close.kind is SpendKind.THEIRS
    s.tell_tip(104)
    assert not s.close.resolved
    assert s.tell_tip(105) == []
    assert s.close.resolved


def test_unconfirmed_commitment_that_holds_our_htlcs_is_paid_for_by_us(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, True, expiry=150),))
    watch = ("watch", "offered 0", 94)
    assert s.tell_close(s.whole(s.theirs), None) == [watch, ("with child", "theirs", 150)]
    assert s.tell_tip(101) == [("with child", "theirs", 150)]
    assert s.tell_close(s.whole(s.theirs), 102) == []


def test_we_wanted_to_close_and_theirs_came_first(scene: Any) -> None:
    s = scene()
    s.tell_force()
    assert s.tell_close(s.whole(s.theirs), None) == [("with child", "theirs", 244)]
    assert s.tell_close(s.whole(s.theirs), 101) == []


def test_our_htlc_is_taken_back_at_its_expiry_and_failed_when_that_is_buried(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, True, expiry=105),))
    assert s.tell_close(s.whole(s.theirs), 100) == [("watch", "offered 0", 94)]
    assert s.tell_tip(104) == []
    timeout = ("publish", "HTLC timeout", "offered 0")
    assert s.tell_tip(105) == [timeout]
    raw, place = s.published("offered 0"), s.at(s.theirs, "offered 0")
    assert s.tell_spent(place, raw, None) == [timeout]
    assert s.tell_tip(106) == [timeout]
    assert s.tell_spent(place, raw, 107) == []
    assert s.tell_tip(111) == []
    assert s.tell_tip(112) == [("failed", 0, "TIMED_OUT")]
    assert s.close.resolved


def test_preimage_in_their_success_transaction_is_told_at_once(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, True, expiry=105),), tip=110)
    s.tell_close(s.whole(s.theirs), 100)
    claim = s.bobs_claim(s.theirs, "offered 0", preimage=True)
    place = s.at(s.theirs, "offered 0")
    assert s.tell_spent(place, claim, None) == [("fulfilled", 0)]
    assert s.tell_spent(place, claim, 111) == []
    assert s.tell_tip(116) == []
    assert s.close.resolved


def test_received_htlc_is_claimed_by_preimage_known_or_learnt(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, False, expiry=150, known=True), htlc(1, False, sat=60_000, expiry=150)))
    first, second = ("publish", "HTLC success", "received 0"), ("publish", "HTLC success", "received 1")
    watches = [("watch", "received 0", 94), ("watch", "received 1", 94)]
    assert s.tell_close(s.whole(s.theirs), 100) == [*watches, first]
    assert s.tell_settled(1) == [second]
    assert s.tell_tip(101) == [first, second]
    assert s.tell_spent(s.at(s.theirs, "received 0"), s.published("received 0"), 102) == []
    assert s.tell_tip(102) == [second]
    assert s.tell_spent(s.at(s.theirs, "received 1"), s.published("received 1"), 103) == []
    s.tell_tip(107)
    assert not s.close.resolved
    s.tell_tip(108)
    assert s.close.resolved


def test_their_timeout_of_an_htlc_that_we_could_claim_is_an_alarm(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, False, expiry=105, known=True),), tip=106)
    s.tell_close(s.whole(s.theirs), 100)
    claim = s.bobs_claim(s.theirs, "received 0", preimage=False)
    assert s.tell_spent(s.at(s.theirs, "received 0"), claim, 107) == [("alarm",)]


def test_either_of_two_unrevoked_commitments_is_resolved_by_what_is_on_it(scene: Any, htlc: Any) -> None:
    only_next = htlc(1, True, sat=60_000, on=frozenset({"next"}), expiry=105)
    htlcs = (htlc(0, True, expiry=105), only_next)
    s = scene(htlcs=htlcs, next_is_signed=True)
    assert s.tell_close(s.whole(s.theirs), 100) == [("watch", "offered 0", 94)]
    assert s.tell_tip(105) == [("failed", 1, "CHANNEL_CLOSING"), ("publish", "HTLC timeout", "offered 0")]
    s = scene(htlcs=htlcs, next_is_signed=True)
    assert s.tell_close(s.whole(s.next), 100) == [("watch", "offered 0", 94), ("watch", "offered 1", 94)]
    both = [("publish", "HTLC timeout", "offered 0"), ("publish", "HTLC timeout", "offered 1")]
    assert s.tell_tip(105) == both


def test_dust_that_must_be_taken_back_is_with_added_inputs_and_dust_that_may_be_left_is_left(
    scene: Any, htlc: Any
) -> None:
    s = scene(htlcs=(htlc(0, True, sat=400, expiry=105), htlc(0, False, sat=401, expiry=150, known=True)))
    s.tell_close(s.whole(s.theirs), 100)
    assert s.tell_tip(105) == [("with inputs", "HTLC timeout", "offered 0", 105 + MARGIN)]
    s.tell_spent(s.at(s.theirs, "offered 0"), s.published("offered 0"), 106)
    assert s.tell_tip(111) == [("failed", 0, "TIMED_OUT")]
    assert s.close.resolved


@pytest.mark.parametrize(
    ("tip", "sat_per_kvb"),
    [(100, 2_000), (138, 2_000), (140, 4_000), (144, 16_000), (148, 64_000), (150, 128_000), (170, 128_000)],
)
def test_claim_with_a_deadline_pays_more_as_it_comes_near(scene: Any, htlc: Any, tip: int, sat_per_kvb: int) -> None:
    s = scene(htlcs=(htlc(0, False, expiry=150, known=True),), tip=tip)
    s.tell_close(s.whole(s.theirs), 100)
    raw = s.published("received 0")
    fee = 50_000 - tx.parse(raw).outputs[0].value
    assert sat_per_kvb <= fee * 1000 / -(-tx.weight(raw) // 4) <= sat_per_kvb * 1.02


def test_claim_never_pays_more_than_leaves_a_relayed_output(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, False, sat=2_000, expiry=150, known=True),), tip=149)
    s.tell_close(s.whole(s.theirs), 100)
    assert 294 <= tx.parse(s.published("received 0")).outputs[0].value <= 300
