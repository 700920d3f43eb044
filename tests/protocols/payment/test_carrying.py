"""HTLCs that pass through, event by event, over channels that behave; whole lists of effects."""

from dataclasses import replace

import pytest

from protocols.channel.events import Alarm, LinkDown, Refusal, SendMessage
from protocols.channel.state import Phase
from protocols.payment.config import EngineConfig
from protocols.payment.events import (
    ChainReserveChanged,
    DropForward,
    FindOffers,
    Forward,
    ForwardPolicy,
    OffersFound,
    OfferUsed,
    StoreForward,
)
from protocols.units import Amount, BlockDelta, Msat, UnixTime
from protocols.wire.channel import FailureCode, UpdateAddHtlc, UpdateFailHtlc, UpdateFulfillHtlc

IN, OUT = 1_010_000, 1_000_000


def question(kit, name="up", number=1, htlc_id=0):
    return FindOffers(
        reference=b"carry" + kit.channel_id(name) + htlc_id.to_bytes(8, "big"),
        payment_hash=kit.hash(number),
        upstream=kit.peer(name),
        asset=kit.COIN,
    )


def answer(kit, *offers, name="up", htlc_id=0):
    return OffersFound(reference=question(kit, name, htlc_id=htlc_id).reference, offers=offers)


def forward(kit, **fields):
    defaults = {
        "incoming": kit.ref("up"),
        "payment_hash": kit.hash(1),
        "incoming_amount": Msat(IN),
        "incoming_expiry": kit.TIP + 100,
        "upstream": kit.peer("up"),
    }
    return Forward(**(defaults | fields))


def live(kit, name="near", amount=OUT, htlc_id=0, **fields):
    out = {"outgoing": kit.ref(name, htlc_id), "outgoing_amount": Msat(amount), "downstream": kit.peer(name)}
    return forward(kit, **(out | fields))


def adding(kit, name="near", amount=OUT, htlc_id=0):
    message = UpdateAddHtlc(kit.channel_id(name), htlc_id, amount, kit.hash(1), kit.TIP + 60)
    return SendMessage(peer=kit.peer(name), message=message)


def failing(kit, code, name="up", htlc_id=0):
    return SendMessage(peer=kit.peer(name), message=UpdateFailHtlc(kit.channel_id(name), htlc_id, code))


def settling(kit, name="up"):
    message = UpdateFulfillHtlc(kit.channel_id(name), 0, kit.preimage(1))
    return SendMessage(peer=kit.peer(name), message=message)


def carried(kit, desk, *offers):
    """An HTLC from `up` that is locked on to the first of these offers."""
    desk.htlc_in("up", 1, IN)
    return desk.do(answer(kit, *offers))


def used(kit, *, paid):
    return OfferUsed(
        payment_hash=kit.hash(1), downstream=kit.peer("near"), paid=paid, amount=Msat(OUT), upstream=kit.peer("up")
    )


def test_an_incoming_htlc_asks_what_stands_for_its_hash(kit, desk):
    assert desk.htlc_in("up", 1, IN) == [desk.stored("up"), question(kit)]


def test_the_cheapest_offer_is_locked_less_our_delta_and_stored_with_it(kit, desk):
    effects = carried(kit, desk, kit.offer("far", OUT + 1, quote=IN), kit.offer("near", OUT, quote=IN - 1))
    assert effects == [desk.stored("near"), adding(kit), StoreForward(forward=live(kit))]
    assert desk.engine.forwards() == (live(kit),)


def test_the_preimage_is_stored_before_it_is_used_upstream_and_the_fee_is_counted_when_both_are_gone(kit, desk):
    carried(kit, desk, kit.offer("near", OUT, quote=IN))
    settled = live(kit, preimage=kit.preimage(1))
    assert desk.fulfilled("near", 1) == [
        desk.stored("near"),
        StoreForward(forward=settled),
        used(kit, paid=True),
        desk.stored("up"),
        settling(kit),
    ]
    assert desk.engine.forwards() == (settled,)
    assert desk.revoked("up") == [desk.stored("up"), DropForward(incoming=kit.ref("up"), earned=Msat(IN - OUT))]
    assert desk.engine.forwards() == ()


def test_after_a_failure_the_next_offer_is_locked_and_no_neighbour_is_tried_twice(kit, desk):
    near, far = kit.offer("near", OUT, quote=IN - 9), kit.offer("far", OUT + 5, quote=IN)
    carried(kit, desk, near, far)
    failed = forward(kit, downstream=kit.peer("near"), tried=(kit.peer("near"),))
    assert desk.failed("near") == [
        desk.stored("near"),
        StoreForward(forward=failed),
        used(kit, paid=False),
        question(kit),
    ]
    second = live(kit, "far", OUT + 5, tried=(kit.peer("near"),))
    assert desk.do(answer(kit, near, far)) == [
        desk.stored("far"),
        adding(kit, "far", OUT + 5),
        StoreForward(forward=second),
    ]
    assert desk.failed("far")[-1] == question(kit)
    assert desk.do(answer(kit, near, far)) == [
        DropForward(incoming=kit.ref("up"), earned=Msat(0)),
        desk.stored("up"),
        failing(kit, FailureCode.DOWNSTREAM_FAILED),
    ]
    assert desk.engine.forwards() == ()


@pytest.mark.parametrize(
    ("code", "offers"),
    [
        (FailureCode.UNKNOWN_HASH, []),
        (FailureCode.UNKNOWN_HASH, [("up", OUT, IN, {})]),  # never back to where it came from
        (FailureCode.AMOUNT_TOO_LOW, [("near", OUT, IN + 1, {}), ("far", OUT, IN, {"expiry": UnixTime(1)})]),
        (FailureCode.OFFER_EXPIRED, [("far", OUT, IN, {"expiry": UnixTime(1)})]),
        (FailureCode.EXPIRY_TOO_SOON, [("near", OUT, IN, {"lock_blocks": BlockDelta(61)})]),
        (FailureCode.NODE_BUSY, [("near", 499_000_001, IN, {})]),
    ],
)
def test_an_htlc_that_no_offer_carries_is_failed_back_with_the_reason(kit, desk, code, offers):
    effects = carried(
        kit, desk, *(kit.offer(name, amount, quote=quote, **more) for name, amount, quote, more in offers)
    )
    assert effects == [desk.stored("up"), failing(kit, code)]
    assert desk.engine.forwards() == ()


def test_an_offer_that_ended_a_moment_ago_is_still_carried(kit, desk):
    effects = carried(kit, desk, kit.offer("near", OUT, quote=IN, expiry=UnixTime(kit.NOW - 30)))
    assert effects[-1] == StoreForward(forward=live(kit))


def test_a_quote_in_another_coin_is_no_price_for_this_htlc(kit, desk):
    offer = replace(kit.offer("near", OUT), quote=Amount(Msat(1), kit.GOLD))
    assert carried(kit, desk, offer) == [desk.stored("up"), failing(kit, FailureCode.UNKNOWN_HASH)]


def test_a_refused_offer_is_followed_by_the_next_at_once(kit, desk):
    desk.rules.refuse[kit.channel_id("near")] = Refusal.TOO_MANY_HTLCS
    effects = carried(kit, desk, kit.offer("near", OUT, quote=IN - 1), kit.offer("far", OUT, quote=IN))
    assert effects == [desk.stored("far"), adding(kit, "far"), StoreForward(forward=live(kit, "far"))]


def test_tries_are_bounded(kit):
    config = EngineConfig(forward=ForwardPolicy(max_tries=1))
    desk = kit.Desk(kit.channel("up"), kit.channel("near"), kit.channel("far"), config=config)
    offers = (kit.offer("near", OUT, quote=IN), kit.offer("far", OUT, quote=IN))
    carried(kit, desk, *offers)
    desk.failed("near")
    effects = desk.do(answer(kit, *offers))
    assert effects[-1] == failing(kit, FailureCode.DOWNSTREAM_FAILED)


def test_a_second_htlc_with_a_live_hash_is_refused_on_whichever_channel_it_comes(kit, desk):
    carried(kit, desk, kit.offer("near", OUT, quote=IN))
    for name, htlc_id in (("up", 1), ("near", 0), ("far", 0)):
        effects = desk.htlc_in(name, 1, IN, id=htlc_id)
        assert effects[-1] == failing(kit, FailureCode.DUPLICATE_HASH, name, htlc_id)
    desk.fulfilled("near", 1)  # settled upstream, but still in the channel: live
    assert desk.htlc_in("up", 1, IN, id=2)[-1] == failing(kit, FailureCode.DUPLICATE_HASH, htlc_id=2)
    assert desk.engine.forwards() == (live(kit, preimage=kit.preimage(1)),)


def test_an_htlc_with_the_hash_of_our_own_payment_is_refused(kit, desk):
    desk.locked(kit.offer("near", 1_002_000))
    assert desk.htlc_in("up", 1, IN)[-1] == failing(kit, FailureCode.DUPLICATE_HASH)
    desk.fulfilled("near", 1)
    assert desk.htlc_in("up", 1, IN, id=1)[-1] == failing(kit, FailureCode.ALREADY_PAID, htlc_id=1)


def test_nothing_is_carried_that_the_chain_reserve_does_not_cover(kit, desk):
    desk.do(ChainReserveChanged(confirmed_sat=29_999, coins=100))
    assert desk.htlc_in("up", 1, IN)[-1] == failing(kit, FailureCode.NODE_BUSY)
    assert desk.htlc_in("up", 2, 329_999, id=1)[-1] == question(kit, number=2, htlc_id=1)
    desk.do(ChainReserveChanged(confirmed_sat=30_000, coins=100))
    assert desk.htlc_in("up", 3, IN, id=2)[-1] == question(kit, number=3, htlc_id=2)
    desk.do(ChainReserveChanged(confirmed_sat=None, coins=100))
    assert desk.htlc_in("up", 4, 1, id=3)[-1] == failing(kit, FailureCode.NODE_BUSY, htlc_id=3)


def test_live_forwards_are_bounded(kit):
    desk = kit.Desk(
        kit.channel("up"), kit.channel("near"), config=EngineConfig(forward=ForwardPolicy(max_live_forwards=1))
    )
    carried(kit, desk, kit.offer("near", OUT, quote=IN))
    assert desk.htlc_in("up", 2, IN, id=1)[-1] == failing(kit, FailureCode.NODE_BUSY, htlc_id=1)


@pytest.mark.parametrize("phase", [Phase.FORCED, Phase.LOST, Phase.CLOSED])
def test_no_other_offer_is_tried_once_the_chain_decides_over_the_incoming_htlc(kit, desk, phase):
    carried(kit, desk, kit.offer("near", OUT, quote=IN))
    forced = replace(desk.channel("up"), phase=phase)
    again = kit.Desk(forced, desk.channel("near"), desk.channel("far"), forwards=desk.engine.forwards())
    assert again.failed("near")[-1] == question(kit)
    assert again.do(answer(kit, kit.offer("far", OUT, quote=IN)))[0] == DropForward(
        incoming=kit.ref("up"), earned=Msat(0)
    )
    assert again.channel("far").htlcs == ()


def test_no_other_offer_is_tried_while_a_reorganisation_holds_the_incoming_channels_coins(kit, desk):
    carried(kit, desk, kit.offer("near", OUT, quote=IN))
    shaken = replace(desk.channel("up"), deep=False)
    again = kit.Desk(shaken, desk.channel("near"), desk.channel("far"), forwards=desk.engine.forwards())
    again.failed("near")
    assert again.do(answer(kit, kit.offer("far", OUT, quote=IN)))[-1] == failing(kit, FailureCode.CHANNEL_CLOSING)
    assert again.channel("far").htlcs == ()


def test_no_other_offer_is_tried_for_an_incoming_htlc_that_is_gone(kit, desk):
    carried(kit, desk, kit.offer("near", OUT, quote=IN))
    gone = replace(desk.channel("up"), htlcs=())
    again = kit.Desk(gone, desk.channel("near"), desk.channel("far"), forwards=desk.engine.forwards())
    again.failed("near")
    assert again.do(answer(kit, kit.offer("far", OUT, quote=IN))) == [
        DropForward(incoming=kit.ref("up"), earned=Msat(0))
    ]


def test_a_failure_for_an_incoming_channel_that_is_forgotten_ends_the_forward(kit, desk):
    carried(kit, desk, kit.offer("near", OUT, quote=IN))
    again = kit.Desk(desk.channel("near"), forwards=desk.engine.forwards())
    assert again.failed("near")[-1] == DropForward(incoming=kit.ref("up"), earned=Msat(0))
    assert again.engine.forwards() == ()


def test_a_claim_after_the_incoming_htlc_ended_raises_an_alarm(kit, desk):
    carried(kit, desk, kit.offer("near", OUT, quote=IN))
    gone = replace(desk.channel("up"), htlcs=())
    again = kit.Desk(gone, desk.channel("near"), forwards=desk.engine.forwards())
    settled = live(kit, preimage=kit.preimage(1))
    text = "1,000 sat were claimed from us after the incoming lock had ended"
    assert again.fulfilled("near", 1) == [
        again.stored("near"),
        StoreForward(forward=settled),
        used(kit, paid=True),
        Alarm(channel_id=kit.channel_id("near"), text=text),
        DropForward(incoming=kit.ref("up"), earned=Msat(IN - OUT)),
    ]


def test_a_restart_with_a_live_outgoing_htlc_waits_for_it_and_settles(kit, desk):
    carried(kit, desk, kit.offer("near", OUT, quote=IN))
    again = desk.restarted()
    assert not any(isinstance(effect, FindOffers) for effect in again.resumed)
    assert again.fulfilled("near", 1)[-1] == settling(kit)


def test_a_restart_after_the_preimage_was_stored_settles_again(kit, desk):
    carried(kit, desk, kit.offer("near", OUT, quote=IN))
    before = desk.channel("up")  # as if the settlement had been lost with a link that went down
    desk.fulfilled("near", 1)
    again = kit.Desk(before, desk.channel("near"), forwards=desk.engine.forwards())
    assert again.resumed[:2] == [again.stored("up"), settling(kit)]
    assert len(again.engine.forwards()) == 1
    assert again.revoked("up")[-1] == DropForward(incoming=kit.ref("up"), earned=Msat(IN - OUT))


def test_a_restart_after_the_incoming_htlc_has_left_drops_the_forward(kit, desk):
    carried(kit, desk, kit.offer("near", OUT, quote=IN))
    desk.fulfilled("near", 1)
    gone = replace(desk.channel("up"), htlcs=())
    again = kit.Desk(gone, desk.channel("near"), forwards=desk.engine.forwards())
    assert again.resumed[0] == DropForward(incoming=kit.ref("up"), earned=Msat(IN - OUT))


def test_a_restart_between_two_tries_asks_again(kit, desk):
    offers = (kit.offer("near", OUT, quote=IN), kit.offer("far", OUT, quote=IN))
    carried(kit, desk, *offers)
    desk.failed("near")
    again = desk.restarted()
    assert question(kit) in again.resumed
    assert again.do(answer(kit, *offers))[-1] == StoreForward(forward=live(kit, "far", tried=(kit.peer("near"),)))


def test_a_received_htlc_that_is_told_again_changes_nothing_while_it_is_carried(kit, desk):
    carried(kit, desk, kit.offer("near", OUT, quote=IN))
    again = desk.restarted()  # `resume` tells the incoming one again
    assert again.engine.forwards() == (live(kit),)
    assert again.channel("near").htlcs == desk.channel("near").htlcs


def test_a_neighbour_that_is_away_cannot_be_locked_to(kit, desk):
    desk.do(LinkDown(peer=kit.peer("near")))
    effects = carried(kit, desk, kit.offer("near", OUT, quote=IN))
    assert effects == [desk.stored("up"), failing(kit, FailureCode.NODE_BUSY)]


def test_an_answer_for_a_forward_that_has_ended_changes_nothing(kit, desk):
    carried(kit, desk)
    assert desk.do(answer(kit, kit.offer("near", OUT, quote=IN))) == []


def test_between_two_coins_the_offer_names_what_goes_out_and_the_quote_what_came_in(kit):
    gold = kit.channel("near", asset=kit.GOLD)
    desk = kit.Desk(kit.channel("up"), gold)
    offer = kit.offer("near", 7_000_000, quote=IN, asset=kit.GOLD)
    carried(kit, desk, offer)
    assert desk.engine.forwards() == (live(kit, amount=7_000_000),)
    desk.fulfilled("near", 1)
    assert desk.revoked("up")[-1] == DropForward(incoming=kit.ref("up"), earned=Msat(0))
    again = kit.Desk(kit.channel("up"), kit.channel("near"))  # an offer in a coin that we share no channel in
    assert carried(kit, again, offer) == [again.stored("up"), failing(kit, FailureCode.NODE_BUSY)]
