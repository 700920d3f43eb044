"""Our own commitment on the chain: our balance after its delay, HTLCs by HTLC transactions and their delayed outputs,
at the first block that is possible and not before; told upward when final and not before."""

from typing import Any

import msgspec
import pytest

from protocols.channel.events import Outpoint
from protocols.watch import resolve
from protocols.watch.state import Close, SpendKind


def test_forced_commitment_is_ordered_with_a_child_at_each_block_until_it_is_confirmed(scene: Any) -> None:
    s = scene(tip=100)
    assert s.tell_tip(100) == []
    assert s.tell_force() == [("with child", "ours", 244)]
    assert s.close.forced_at == 100
    assert s.tell_force() == [("with child", "ours", 244)]
    assert s.tell_tip(101) == [("with child", "ours", 244)]
    assert s.tell_tip(300) == [("with child", "ours", 301)]
    assert s.tell_close(s.whole(s.ours), None) == [("watch", "to_local", 294), ("with child", "ours", 301)]
    assert s.close.kind is SpendKind.OURS
    assert s.tell_tip(301) == [("with child", "ours", 302)]
    assert s.tell_close(s.whole(s.ours), 302) == []
    assert s.tell_tip(302) == []


def test_commitment_must_be_in_before_the_htlcs_that_it_holds_expire(scene: Any, htlc: Any) -> None:
    ours = htlc(0, True, expiry=200)
    assert scene(htlcs=(ours,)).tell_force() == [("with child", "ours", 200)]
    assert scene(htlcs=(ours, htlc(0, False, expiry=190))).tell_force() == [("with child", "ours", 200)]
    assert scene(htlcs=(ours, htlc(0, False, expiry=190, known=True))).tell_force() == [("with child", "ours", 184)]
    assert scene(htlcs=(htlc(0, False, expiry=90, known=True),)).tell_force() == [("with child", "ours", 101)]


def test_after_a_loss_of_data_our_commitment_is_never_published(scene: Any) -> None:
    s = scene(may_publish=False)
    assert s.tell_force() == []
    assert s.tell_tip(101) == []


def test_our_balance_is_swept_in_the_first_block_after_the_delay(scene: Any) -> None:
    s = scene()
    assert s.tell_close(s.whole(s.ours), 100) == [("watch", "to_local", 94)]
    sweep = [("publish", "sweep", "to_local")]
    assert s.tell_tip(108) == []
    assert s.tell_tip(109) == sweep  # block 110 is the tenth after block 100
    assert s.tell_tip(110) == sweep
    raw = s.published("to_local")
    assert s.tell_spent(s.at(s.ours, "to_local"), raw, None) == sweep
    assert s.tell_tip(111) == sweep
    assert s.tell_spent(s.at(s.ours, "to_local"), raw, 112) == []
    assert s.tell_tip(116) == []
    assert not s.close.resolved
    assert s.tell_tip(117) == []
    assert s.close.resolved
    assert s.tell_tip(118) == []


def test_our_htlc_is_timed_out_swept_and_failed_only_when_that_is_buried(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, True, expiry=105),))
    assert s.tell_close(s.whole(s.ours), 100) == [("watch", "offered 0", 94), ("watch", "to_local", 94)]
    assert s.tell_tip(104) == []
    timeout = ("with inputs", "HTLC timeout", "offered 0", 117)
    assert s.tell_tip(105) == [timeout]
    raw, place = s.published("offered 0"), s.at(s.ours, "offered 0")
    watch = ("watch", "output of offered 0", 99)
    assert s.tell_spent(place, raw, None) == [watch, timeout]
    assert s.tell_tip(106) == [timeout]
    assert s.tell_spent(place, raw, 107) == []
    to_local = ("publish", "sweep", "to_local")
    assert s.tell_tip(111) == [to_local]
    assert s.tell_tip(112) == [("failed", 0, "TIMED_OUT"), to_local]
    assert s.tell_tip(115) == [to_local]
    delayed = ("publish", "sweep", "output of offered 0")
    assert s.tell_tip(116) == [delayed, to_local]
    assert s.tell_spent(s.at(s.ours, "to_local"), s.published("to_local"), 117) == []
    second = Outpoint(txid=s.close.fates[0].spender, index=0)
    assert s.tell_spent(second, s.published("output of offered 0"), 118) == []
    assert s.tell_tip(122) == []
    assert not s.close.resolved
    assert s.tell_tip(123) == []
    assert s.close.resolved
    assert s.close.failed == (0,)


@pytest.mark.parametrize("height", [None, 103])
def test_preimage_in_their_spend_is_told_at_once_and_once(scene: Any, htlc: Any, height: int | None) -> None:
    s = scene(htlcs=(htlc(0, True, expiry=150),))
    s.tell_close(s.whole(s.ours), 100)
    raw, place = s.bobs_claim(s.ours, "offered 0", preimage=True), s.at(s.ours, "offered 0")
    s.tip = 103
    assert s.tell_spent(place, raw, height) == [("fulfilled", 0)]
    assert s.tell_spent(place, raw, 103) == []
    assert s.tell_tip(104) == []
    assert s.close.fulfilled == (0,)


def test_preimage_that_vanishes_with_its_transaction_stays_told_and_the_htlc_is_taken_back(
    scene: Any, htlc: Any
) -> None:
    s = scene(htlcs=(htlc(0, True, expiry=105),), tip=104)
    s.tell_close(s.whole(s.ours), 100)
    place = s.at(s.ours, "offered 0")
    assert s.tell_spent(place, s.bobs_claim(s.ours, "offered 0", preimage=True), None) == [("fulfilled", 0)]
    assert s.tell_tip(105) == []
    timeout = ("with inputs", "HTLC timeout", "offered 0", 117)
    assert s.tell_gone(place) == [timeout]
    s.tell_spent(place, s.published("offered 0"), 106)
    assert s.tell_tip(108) == []
    assert s.tell_tip(111) == [("publish", "sweep", "to_local")]  # never told as failed


def test_received_htlc_is_claimed_as_soon_as_the_commitment_is_confirmed(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, False, expiry=150, known=True),))
    watches = [("watch", "received 0", 94), ("watch", "to_local", 94)]
    assert s.tell_close(s.whole(s.ours), None) == [*watches, ("with child", "ours", 144)]
    success = ("with inputs", "HTLC success", "received 0", 150)
    assert s.tell_close(s.whole(s.ours), 100) == [success]
    assert s.tell_tip(101) == [success]
    s.tell_spent(s.at(s.ours, "received 0"), s.published("received 0"), 102)
    assert s.tell_tip(110) == [("publish", "sweep", "to_local")]
    assert s.tell_tip(111) == [("publish", "sweep", "output of received 0"), ("publish", "sweep", "to_local")]


def test_preimage_learnt_later_claims_at_once_even_after_the_expiry(scene: Any, htlc: Any) -> None:
    for tip, deadline in ((120, 150), (149, 150), (155, 156)):
        s = scene(htlcs=(htlc(0, False, expiry=150),), tip=tip)
        s.tell_close(s.whole(s.ours), 119)
        assert s.tell_settled(0) == [("with inputs", "HTLC success", "received 0", deadline)]
        assert s.tell_settled(1) == []


def test_htlc_that_they_take_back_in_time_is_theirs_and_too_late_is_an_alarm(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, False, expiry=105), htlc(1, False, expiry=105, known=True)))
    s.tell_close(s.whole(s.ours), 100)
    s.tip = 105
    taken = s.bobs_claim(s.ours, "received 0", preimage=False)
    assert s.tell_spent(s.at(s.ours, "received 0"), taken, 106) == []
    late = s.bobs_claim(s.ours, "received 1", preimage=False)
    fight = ("with inputs", "HTLC success", "received 1", 106)
    assert s.tell_spent(s.at(s.ours, "received 1"), late, None) == [fight]
    assert s.tell_spent(s.at(s.ours, "received 1"), late, 106) == [("alarm",)]
    assert s.tell_spent(s.at(s.ours, "received 1"), late, 106) == []


def test_htlcs_without_an_output_fail_once_the_commitment_is_buried(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, True, sat=300), htlc(1, True, on=frozenset({"next"})), htlc(2, True, known=True, sat=300)))
    s.tell_close(s.whole(s.ours), 100)
    assert s.tell_tip(104) == []
    assert s.tell_tip(105) == [("failed", 0, "CHANNEL_CLOSING"), ("failed", 1, "CHANNEL_CLOSING")]
    assert s.tell_tip(106) == []


@pytest.mark.parametrize(("given_up", "done_at"), [(True, 120), (False, 2166)])
def test_abandoned_htlc_of_theirs_is_waited_for_until_it_cannot_matter(
    scene: Any, htlc: Any, given_up: bool, done_at: int
) -> None:
    s = scene(htlcs=(htlc(0, False, given_up=given_up),))
    s.tell_close(s.whole(s.ours), 100)
    s.tell_tip(109)
    s.tell_spent(s.at(s.ours, "to_local"), s.published("to_local"), 110)
    s.tell_tip(done_at - 1 if not given_up else 114)
    assert not s.close.resolved
    s.tell_tip(done_at)
    assert s.close.resolved


def test_second_stage_that_is_not_worth_its_fee_holds_nothing_up(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, True, sat=400, expiry=101),))
    s.tell_close(s.whole(s.ours), 100)
    s.tell_tip(101)
    s.tell_spent(s.at(s.ours, "offered 0"), s.published("offered 0"), 102)
    s.tell_tip(109)
    s.tell_spent(s.at(s.ours, "to_local"), s.published("to_local"), 110)
    assert s.tell_tip(115) == []
    assert s.close.resolved


def test_state_survives_storage_and_a_start_orders_watches_and_what_is_due(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, True, expiry=105), htlc(0, False, expiry=150, known=True)))
    s.tell_force()
    s.tell_close(s.whole(s.ours), 101)
    s.tell_tip(105)
    s.tell_spent(s.at(s.ours, "offered 0"), s.published("offered 0"), 106)
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(s.close), type=Close)
    assert stored == s.close
    again = s._taken(resolve.resume(stored, s.context, s.facts))
    assert sorted(again[:2]) == [("watch", "offered 0", 95), ("watch", "received 0", 95)]  # order hangs on the scripts
    assert again[2:] == [
        ("watch", "to_local", 95),
        ("watch", "output of offered 0", 100),
        ("with inputs", "HTLC success", "received 0", 150),
    ]
    assert resolve.resume(Close(resolved=True), s.context, s.facts) == []
    assert resolve.resume(Close(), s.context, s.facts) == []
