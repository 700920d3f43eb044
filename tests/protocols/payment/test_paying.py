"""The payments that we make, event by event, over channels that behave; whole lists of effects."""

from dataclasses import replace

import pytest

from protocols.channel.events import (
    Flush,
    HtlcFailed,
    HtlcFulfilled,
    LinkDown,
    LinkUp,
    Refusal,
    SendMessage,
)
from protocols.payment.config import EngineConfig
from protocols.payment.events import (
    Attempt,
    ChainReserveChanged,
    FindOffers,
    Kind,
    LockRequested,
    OffersFound,
    OfferUsed,
    PayAbandoned,
    Payment,
    PaymentChanged,
    PayPhase,
    RequestRefused,
    StorePayment,
)
from protocols.payment.payer import slack
from protocols.units import Amount, BlockDelta, UnixTime
from protocols.wire.channel import FailureCode, UpdateAddHtlc


def collecting(kit, **fields):
    defaults = {
        "payment_hash": kit.hash(1),
        "kind": Kind.REQUEST,
        "payee": kit.peer("payee"),
        "amount": kit.coin(1_000_000),
        "ceiling": kit.coin(1_100_000),
        "preimage": None,
        "phase": PayPhase.COLLECTING,
        "created": kit.NOW,
        "expiry": kit.NOW + 60,
    }
    return Payment(**(defaults | fields))


def attempt(kit, desk, name, amount, htlc_id=0, failure=None):
    expiry = kit.TIP + 30 + slack(desk.config, kit.ENTROPY, kit.hash(1))
    return Attempt(
        channel_id=kit.channel_id(name),
        htlc_id=htlc_id,
        neighbour=kit.peer(name),
        amount=amount,
        expiry=expiry,
        failure=failure,
    )


def kept(payment):
    return [StorePayment(payment=payment), PaymentChanged(payment=payment)]


def question(kit, number=1, *, again=False):
    reference = b"pay" + kit.hash(number) + (b"again" if again else b"")
    return FindOffers(reference=reference, payment_hash=kit.hash(number), upstream=None, asset=kit.COIN)


def adding(kit, one):
    message = UpdateAddHtlc(one.channel_id, one.htlc_id, one.amount, kit.hash(1), one.expiry)
    return SendMessage(peer=one.neighbour, message=message)


def answered(kit, *offers, again=False):
    return OffersFound(reference=question(kit, again=again).reference, offers=offers)


def test_an_order_is_stored_before_anybody_is_asked(kit, desk):
    assert desk.do(desk.order()) == kept(collecting(kit))


def test_a_satisfied_payer_asks_the_routing_table(kit, desk):
    desk.do(desk.order())
    assert desk.do(LockRequested(payment_hash=kit.hash(1))) == [question(kit)]


def test_the_cheapest_offer_is_locked_and_stored_with_its_htlc(kit, desk):
    effects = desk.locked(kit.offer("far", 1_003_000), kit.offer("near", 1_002_000))
    one = attempt(kit, desk, "near", 1_002_000)
    locked = collecting(kit, phase=PayPhase.LOCKED, attempts=(one,))
    assert effects == [desk.stored("near"), adding(kit, one), *kept(locked)]
    assert kit.TIP + 30 + 3 <= one.expiry <= kit.TIP + 30 + 8  # at least 3 random blocks (R5)


def test_of_equal_offers_the_one_with_fewer_lock_blocks_is_locked(kit, desk):
    desk.locked(kit.offer("far", 1_002_000), kit.offer("near", 1_002_000, lock_blocks=BlockDelta(29)))
    assert desk.engine.payments()[0].attempts[0].neighbour == kit.peer("near")


def test_an_offer_that_cannot_be_locked_is_followed_by_the_next_at_once(kit, desk):
    desk.rules.refuse[kit.channel_id("near")] = Refusal.TOO_MANY_HTLCS
    effects = desk.locked(kit.offer("near", 1_002_000), kit.offer("far", 1_003_000))
    one = attempt(kit, desk, "far", 1_003_000)
    assert effects == [
        desk.stored("far"),
        adding(kit, one),
        *kept(collecting(kit, phase=PayPhase.LOCKED, attempts=(one,))),
    ]


def test_the_preimage_is_the_receipt(kit, desk):
    desk.locked(kit.offer("near", 1_002_000))
    effects = desk.fulfilled("near", 1)
    one = attempt(kit, desk, "near", 1_002_000)
    paid = collecting(kit, phase=PayPhase.PAID, attempts=(one,), preimage=kit.preimage(1), ended=kit.NOW)
    assert effects == [
        desk.stored("near"),
        *kept(paid),
        OfferUsed(payment_hash=kit.hash(1), downstream=kit.peer("near"), paid=True, amount=1_002_000),
    ]


@pytest.mark.parametrize("name", ["near", "far"])
def test_the_end_of_an_htlc_told_again_changes_nothing(kit, desk, name):
    """First settled or failed, then told both once more: the payment has another HTLC, or none, by then."""
    desk.locked(kit.offer("near", 1_002_000))
    told = {"channel_id": kit.channel_id("near"), "htlc_id": 0, "payment_hash": kit.hash(1)}
    desk.fulfilled("near", 1) if name == "near" else desk.failed("near")
    before = desk.engine.payments()
    desk.rules.tell = [
        HtlcFulfilled(preimage=kit.preimage(1), **told),
        HtlcFailed(code=FailureCode.NODE_BUSY, **told),
    ]
    assert desk.do(LinkUp(peer=kit.peer("near"))) == []
    assert desk.engine.payments() == before


def test_a_failed_attempt_is_followed_by_the_next_offer_and_the_same_offer_is_not_tried_twice(kit, desk):
    near, far = kit.offer("near", 1_002_000), kit.offer("far", 1_003_000)
    desk.locked(near, far)
    effects = desk.failed("near", FailureCode.DOWNSTREAM_FAILED)
    first = attempt(kit, desk, "near", 1_002_000, failure=FailureCode.DOWNSTREAM_FAILED)
    assert effects == [
        desk.stored("near"),
        *kept(collecting(kit, attempts=(first,))),
        OfferUsed(payment_hash=kit.hash(1), downstream=kit.peer("near"), paid=False, amount=1_002_000),
        question(kit, again=True),
    ]
    second = attempt(kit, desk, "far", 1_003_000)
    assert desk.do(answered(kit, near, far, again=True)) == [
        desk.stored("far"),
        adding(kit, second),
        *kept(collecting(kit, phase=PayPhase.LOCKED, attempts=(first, second))),
    ]
    desk.failed("far", FailureCode.NODE_BUSY)
    second = replace(second, failure=FailureCode.NODE_BUSY)
    reason = "The payment was tried 2 times and came back (last: a node was busy); no other offer stands. Nothing was paid. Try again later."
    ended = collecting(kit, phase=PayPhase.FAILED, attempts=(first, second), ended=kit.NOW, reason=reason)
    assert desk.do(answered(kit, near, far, again=True)) == []  # whoever failed may quote anew
    assert desk.engine.payments() == (collecting(kit, attempts=(first, second)),)
    assert desk.do(LockRequested(payment_hash=kit.hash(1))) == [question(kit)]
    assert desk.do(answered(kit, near, far)) == kept(ended)


def test_a_new_price_of_a_neighbour_that_failed_may_be_tried(kit, desk):
    desk.locked(kit.offer("near", 1_002_000))
    desk.failed("near")
    desk.do(answered(kit, kit.offer("near", 1_001_000)))
    assert [one.amount for one in desk.engine.payments()[0].attempts] == [1_002_000, 1_001_000]


def test_attempts_are_bounded(kit):
    desk = kit.Desk(kit.channel("near"), config=EngineConfig(max_attempts=2))
    desk.locked(kit.offer("near", 1_009_000))
    desk.failed("near")
    desk.do(answered(kit, kit.offer("near", 1_008_000)))
    desk.failed("near", id=1)
    desk.do(answered(kit, kit.offer("near", 1_007_000)))
    (payment,) = desk.engine.payments()
    assert (payment.phase, len(payment.attempts)) == (PayPhase.FAILED, 2)


@pytest.mark.parametrize(
    ("offers", "reason"),
    [
        (
            [],
            "What was offered no longer stands: it expired, was withdrawn, or the link to the neighbour that made it was lost. "
            "Nothing was paid. Try again.",
        ),
        (
            [("near", 1_200_000, {}), ("far", 1_150_500, {})],
            "The cheapest offer asks 1,150.5 sat, the most to be paid is 1,100 sat. Allow a higher fee, or try again later.",
        ),
        (
            [("near", 1_001_000, {"lock_blocks": 2014})],
            "Every offer would lock the money for longer than this node allows. Raise locks.max_lock, or try later.",
        ),
        (
            [("stranger", 1_001_000, {})],
            "An offer came, but it could not be locked: the channel is not open for payments. Nothing was paid. Try again later.",
        ),
        (
            [("near", 1_001_000, {"expiry": UnixTime(1)})],
            "What was offered no longer stands: it expired, was withdrawn, or the link to the neighbour that made it was lost. "
            "Nothing was paid. Try again.",
        ),
    ],
)
def test_a_payment_that_cannot_be_locked_ends_with_one_plain_sentence(kit, desk, offers, reason):
    effects = desk.locked(*(kit.offer(name, amount, **fields) for name, amount, fields in offers))
    assert effects == kept(collecting(kit, phase=PayPhase.FAILED, ended=kit.NOW, reason=reason))


def test_a_lock_near_the_longest_allowed_has_less_slack_and_never_less_than_three_blocks(kit, desk):
    desk.locked(kit.offer("near", 1_001_000, lock_blocks=BlockDelta(2013)))
    assert desk.engine.payments()[0].attempts[0].expiry == kit.TIP + 2016


def test_a_hash_that_was_settled_is_never_paid_again_even_after_a_restart(kit, desk):
    desk.locked(kit.offer("near", 1_002_000))
    desk.fulfilled("near", 1)
    reason = "This was paid already: whoever saw the receipt on the way could take a second payment (R11)."
    refused = [RequestRefused(payment_hash=kit.hash(1), reason=reason)]
    assert desk.do(desk.order()) == refused
    assert desk.restarted(payments=()).do(desk.order()) == refused


def test_a_hash_that_is_being_paid_is_not_paid_twice_at_once(kit, desk):
    desk.locked(kit.offer("near", 1_002_000))
    reason = "A payment with this hash is under way already."
    assert desk.do(desk.order()) == [RequestRefused(payment_hash=kit.hash(1), reason=reason)]


def test_a_payment_that_failed_may_be_ordered_again(kit, desk):
    desk.locked()
    assert desk.do(desk.order()) == kept(collecting(kit))
    assert len(desk.engine.payments()) == 1


def test_an_order_is_refused_with_what_to_do_about_it(kit, desk):
    def reason(**fields):
        (effect,) = desk.do(desk.order(**fields))
        assert isinstance(effect, RequestRefused)
        return effect.reason

    desk.do(desk.promise(2))
    assert reason(payee=kit.peer("us")) == "This is a request of this node's own; it cannot pay itself."
    assert reason(number=2) == "This is a request of this node's own; it cannot pay itself."
    assert reason(expiry=kit.NOW) == "The request has expired; ask the payee for a new one."
    assert reason(amount=0) == "The amount must be above 0."
    assert reason(ceiling=999_999) == "The most to be paid (999.999 sat) is below the amount itself."
    assert reason(kind=Kind.PUSH) == "A push payment needs its secret."
    assert reason(amount=499_000_001, ceiling=600_000_000) == (
        "The largest payment that a channel of this node can carry now is 499,000 sat; pay less, or open another."
    )
    for name in ("up", "near", "far"):
        desk.do(LinkDown(peer=kit.peer(name)))
    assert reason() == "No neighbour that this node has a channel with is connected now; see: rrnode peers"
    assert desk.engine.payments() == ()


def test_a_node_without_channels_is_told_to_open_one(kit):
    (refused,) = kit.Desk().do(kit.Desk().order())
    assert refused.reason == "This node has no open channel to pay from; open one with: rrnode channel open"


def test_nothing_is_paid_without_a_chain_or_a_reserve(kit, desk):
    desk.do(ChainReserveChanged(confirmed_sat=None, coins=100))
    (refused,) = desk.do(desk.order())
    assert refused.reason == (
        "The chain does not answer, and without it no payment can be made safely; see: rrnode status"
    )
    desk.do(ChainReserveChanged(confirmed_sat=29_999, coins=100))  # three channels of 10,000 each
    (refused,) = desk.do(desk.order())
    assert refused.reason == (
        "This node keeps 30,000 confirmed sat to pay for the end of its channels on the chain, and has 29,999. "
        "Send coins to: rrnode wallet address"
    )
    assert desk.do(desk.order(amount=329_999, ceiling=330_000)) != []  # can never be an output: needs no reserve
    assert desk.engine.payments()[0].amount == kit.coin(329_999)


def test_a_reserve_that_is_gone_when_it_is_time_to_lock_is_said(kit, desk):
    desk.do(desk.order())
    desk.do(ChainReserveChanged(confirmed_sat=0, coins=100))
    desk.do(answered(kit, kit.offer("near", 1_001_000)))
    assert desk.engine.payments()[0].reason == (
        "An offer came, but it could not be locked: there are not enough confirmed coins to resolve it on the chain, "
        "should that be needed. Nothing was paid. Try again later."
    )


def test_payments_under_way_are_bounded(kit):
    desk = kit.Desk(kit.channel("near"), config=EngineConfig(max_payments=1))
    desk.do(desk.order(1))
    (refused,) = desk.do(desk.order(2))
    assert refused.reason == "1 payments are under way already; wait until some have ended."
    desk.do(PayAbandoned(payment_hash=kit.hash(1), reason="No."))
    assert len(desk.do(desk.order(2))) == 2


def test_a_payment_can_be_given_up_until_something_is_locked(kit, desk):
    desk.do(desk.order())
    ended = collecting(kit, phase=PayPhase.FAILED, ended=kit.NOW, reason="Too slow.")
    assert desk.do(PayAbandoned(payment_hash=kit.hash(1), reason="Too slow.")) == kept(ended)
    desk.locked(kit.offer("near", 1_002_000))
    assert desk.do(PayAbandoned(payment_hash=kit.hash(1), reason="Too slow.")) == [
        RequestRefused(payment_hash=kit.hash(1), reason="The payment is locked: it can no longer be given up.")
    ]
    assert desk.do(PayAbandoned(payment_hash=kit.hash(9), reason="")) == [
        RequestRefused(payment_hash=kit.hash(9), reason="There is no such payment.")
    ]


def test_a_payment_expires_while_nothing_is_locked_and_lives_on_while_something_is(kit, desk):
    desk.do(desk.order())
    desk.locked(kit.offer("near", 1_002_000), number=2)
    desk.do(Flush())
    desk.now = UnixTime(kit.NOW + 60 + 31)
    reason = "The payment expired before anything could be locked. Nothing was paid; ask for a new request."
    expired = collecting(kit, phase=PayPhase.FAILED, ended=desk.now, reason=reason)
    assert desk.do(Flush()) == kept(expired)
    assert desk.do(Flush()) == []
    desk.failed("near")
    desk.do(OffersFound(reference=b"pay" + kit.hash(2), offers=(kit.offer("far", 1_003_000, expiry=desk.now),)))
    assert desk.engine.payment(kit.hash(2)).reason == (
        "The payment expired after 1 attempts that came back before anything could be locked. "
        "Nothing was paid; ask for a new request."
    )


def test_a_restart_ends_what_was_collecting_and_keeps_what_is_locked(kit, desk):
    desk.do(desk.order())
    desk.locked(kit.offer("near", 1_002_000), number=2)
    again = desk.restarted()
    reason = "The node was stopped while it collected offers. Nothing was locked; pay again."
    assert again.resumed[:2] == kept(collecting(kit, phase=PayPhase.FAILED, ended=kit.NOW, reason=reason))
    again.fulfilled("near", 2)
    assert again.engine.payment(kit.hash(2)).phase is PayPhase.PAID


def test_a_payment_that_comes_back_after_a_restart_ends_as_nobody_collects_for_it(kit, desk):
    desk.locked(kit.offer("near", 1_002_000))
    again = desk.restarted()
    assert again.failed("near")[-1] == question(kit)
    again.do(answered(kit))
    (payment,) = again.engine.payments()
    assert (payment.phase, payment.reason[:43]) == (PayPhase.FAILED, "The payment was tried once and came back (l")


def test_a_dearer_quote_after_a_failure_is_locked_once_the_payer_is_satisfied_again(kit, desk):
    desk.locked(kit.offer("near", 1_002_000))
    desk.failed("near")
    assert desk.do(answered(kit, again=True)) == []
    desk.do(LockRequested(payment_hash=kit.hash(1)))
    desk.do(answered(kit, kit.offer("near", 1_009_000)))
    assert [one.amount for one in desk.engine.payments()[0].attempts] == [1_002_000, 1_009_000]


def test_a_payment_that_collects_again_and_is_forgotten_expires(kit, desk):
    desk.locked(kit.offer("near", 1_002_000))
    desk.failed("near")
    desk.do(answered(kit, again=True))
    desk.now = UnixTime(kit.NOW + 60 + 31)
    desk.do(Flush())
    assert desk.engine.payments()[0].phase is PayPhase.FAILED


def test_a_payment_whose_tries_are_used_up_ends_without_waiting(kit):
    desk = kit.Desk(kit.channel("near"), config=EngineConfig(max_attempts=1))
    desk.locked(kit.offer("near", 1_002_000))
    desk.failed("near")
    desk.do(answered(kit, kit.offer("near", 1_001_000), again=True))
    assert desk.engine.payments()[0].phase is PayPhase.FAILED


def test_offers_that_come_when_nobody_asks_any_more_change_nothing(kit, desk):
    desk.locked(kit.offer("near", 1_002_000))
    assert desk.do(answered(kit, kit.offer("far", 1_001_000))) == []
    assert desk.do(OffersFound(reference=b"pay" + kit.hash(7), offers=(kit.offer("far", 1),))) == []
    assert desk.do(LockRequested(payment_hash=kit.hash(7))) == []


def test_an_amount_in_another_coin_needs_a_usable_channel_only(kit, desk):
    order = desk.order(amount=10**12)
    order = replace(order, amount=Amount(order.amount.msat, kit.GOLD))
    assert len(desk.do(order)) == 2
    assert desk.do(answered(kit, kit.offer("near", 1_050_000)))[0] == desk.stored("near")


def test_the_tightest_channel_that_fits_is_used(kit):
    desk = kit.Desk(
        kit.channel("wide", of="near"),
        kit.channel("tight", of="near", ours=2010),
        kit.channel("poor", of="near", ours=1500),
    )
    desk.locked(kit.offer("near", 1_002_000))
    assert desk.engine.payments()[0].attempts[0].channel_id == kit.channel_id("tight")


def test_ended_payments_are_kept_for_readers_up_to_a_number(kit):
    desk = kit.Desk(kit.channel("near"), config=EngineConfig(history=2))
    for number in range(5):
        desk.locked(number=number)
    assert [each.payment_hash for each in desk.engine.payments()] == [kit.hash(3), kit.hash(4)]
    desk.do(Flush())
