"""The routing engine, event by event, with the whole list of effects each time (THEORY; R1 to R8, R12, R13)."""

from dataclasses import replace

import msgspec
import pytest

from protocols.errors import MisuseError
from protocols.routing.engine import MAX_GONE
from protocols.routing.events import (
    FloodEnded,
    KeptOffer,
    Liquidity,
    LiquidityChanged,
    NeighbourDown,
    NeighbourUp,
    OfferArrived,
    OffersNoLongerWanted,
    OffersWanted,
    PaymentEnded,
    PushOffers,
    SendOffers,
    SetTimer,
    Subscribed,
    SubscriberGone,
    SubscriptionAccepted,
    SubscriptionRefused,
    TimerFired,
    Unsubscribed,
)
from protocols.routing.pricing import FeePolicy, NeighbourFee, Rate
from protocols.routing.quoting import MAX_PUSHED
from protocols.routing.views import Drop
from protocols.units import MAX_MSAT, Amount, UnixTime
from protocols.wire.subscribe import Prefix, RefusalCode


def send(kit, name, *offers):
    return SendOffers(neighbour=kit.peer(name), offers=offers)


def carried(message, amount, *, delta=40):
    """The same offer as the next node makes it."""
    return msgspec.structs.replace(
        message, amount_msat=amount, lock_blocks=message.lock_blocks + delta, hops_left=max(0, message.hops_left - 1)
    )


# --- one offer ------------------------------------------------------------------------------------------------------


def test_an_offer_is_kept_and_quoted_to_every_other_neighbour(kit):
    engine = kit.engine("B", "C", "D")
    offer = kit.message(amount=1000)
    quote = carried(offer, 1010)
    assert engine.handle(kit.bundle("D", offer)) == [
        send(kit, "B", quote),
        send(kit, "C", quote),
        SetTimer(at=kit.TIMER),
    ]
    assert engine.offers(kit.hash(1), kit.peer("B"), kit.COIN, kit.NOW) == (
        KeptOffer(
            neighbour=kit.peer("D"),
            amount=Amount(1000, kit.COIN),
            lock_blocks=10,
            expiry=kit.NOW + 600,
            quote=Amount(1010, kit.COIN),
        ),
    )


def test_an_offer_is_never_an_offer_to_the_one_who_made_it(kit):
    engine = kit.engine("D")
    assert engine.handle(kit.bundle("D", kit.message())) == [SetTimer(at=kit.TIMER)]
    assert engine.offers(kit.hash(1), kit.peer("D"), kit.COIN, kit.NOW) == ()


def test_the_payer_pays_no_fee_to_itself(kit):
    engine = kit.engine("D")
    engine.handle(kit.bundle("D", kit.message(amount=1000)))
    (kept,) = engine.offers(kit.hash(1), None, kit.COIN, kit.NOW)
    assert kept.quote == kept.amount == Amount(1000, kit.COIN)


@pytest.mark.parametrize("amount", [1000, 1001])
def test_an_offer_that_is_no_cheaper_changes_nothing(kit, amount):
    engine = kit.engine("B", "D")
    engine.handle(kit.bundle("D", kit.message(amount=1000)))
    before = engine.routes(kit.NOW)
    assert engine.handle(kit.bundle("D", kit.message(amount=amount))) == []
    assert engine.routes(kit.NOW) == before
    assert engine.dropped() == {Drop.NOT_CHEAPER: 1}


def test_a_cheaper_offer_replaces_the_old_one_and_lowers_the_quotes(kit):
    engine = kit.engine("B", "D")
    engine.handle(kit.bundle("D", kit.message(amount=1000)))
    cheaper = kit.message(amount=900)
    assert engine.handle(kit.bundle("D", cheaper)) == [send(kit, "B", carried(cheaper, 910))]
    assert [each.amount.msat for each in engine.offers(kit.hash(1), None, kit.COIN, kit.NOW)] == [900]


def test_a_dearer_offer_of_another_neighbour_is_kept_and_quoted_only_where_nothing_cheaper_was(kit):
    """D has heard nothing from us, because the best offer is its own: C's price is news for D alone (R3)."""
    engine = kit.engine("B", "C", "D")
    engine.handle(kit.bundle("D", kit.message(amount=1000)))
    dearer = kit.message(amount=1200)
    assert engine.handle(kit.bundle("C", dearer)) == [send(kit, "D", carried(dearer, 1210))]
    assert [each.amount.msat for each in engine.offers(kit.hash(1), kit.peer("B"), kit.COIN, kit.NOW)] == [1000, 1200]
    assert [each.amount.msat for each in engine.offers(kit.hash(1), kit.peer("D"), kit.COIN, kit.NOW)] == [1200]


def test_ties_go_to_fewer_lock_blocks_then_to_the_first_seen(kit):
    engine = kit.engine("A", "B", "C")
    engine.handle(kit.bundle("A", kit.message(lock_blocks=20)))
    engine.handle(kit.bundle("B", kit.message(lock_blocks=10)))
    engine.handle(kit.bundle("C", kit.message(lock_blocks=10)))
    found = engine.offers(kit.hash(1), None, kit.COIN, kit.NOW)
    assert [each.neighbour for each in found] == [kit.peer("B"), kit.peer("C"), kit.peer("A")]


def test_only_the_few_cheapest_are_kept(kit):
    engine = kit.engine("A", "B", "C", "D", kept_per_hash=2)
    for name, amount in (("A", 1000), ("B", 1100), ("C", 1050), ("D", 1200)):
        engine.handle(kit.bundle(name, kit.message(amount=amount, hops_left=0)))
    assert [each.amount.msat for each in engine.offers(kit.hash(1), None, kit.COIN, kit.NOW)] == [1000, 1050]
    assert engine.dropped() == {Drop.TOO_DEAR: 1}


def test_two_hashes_of_one_bundle_leave_in_one_effect_each_neighbour(kit):
    engine = kit.engine("B", "D")
    one, two = kit.message(1), kit.message(2, amount=2000)
    assert engine.handle(kit.bundle("D", one, two)) == [
        send(kit, "B", carried(one, 1010), carried(two, 2010)),
        SetTimer(at=kit.TIMER),
    ]


# --- what both sides can carry (R1) ---------------------------------------------------------------------------------


def test_a_neighbour_that_could_not_pay_the_quote_is_not_told(kit):
    engine = kit.engine("C", "D")
    kit.join(engine, "B", theirs=1009)
    offer = kit.message(amount=1000)
    assert engine.handle(kit.bundle("D", offer)) == [send(kit, "C", carried(offer, 1010)), SetTimer(at=kit.TIMER)]


def test_a_neighbour_is_told_once_it_could_pay(kit):
    engine = kit.engine("D")
    kit.join(engine, "B", theirs=1009)
    offer = kit.message(amount=1000)
    engine.handle(kit.bundle("D", offer))
    assert engine.handle(kit.liquidity("B", theirs=1010)) == [send(kit, "B", carried(offer, 1010))]
    assert engine.handle(kit.liquidity("B", theirs=1011)) == []


def test_an_offer_above_our_side_is_not_passed_on_until_our_side_can_carry_it(kit):
    engine = kit.engine("B")
    kit.join(engine, "D", ours=999)
    offer = kit.message(amount=1000)
    assert engine.handle(kit.bundle("D", offer)) == []
    assert engine.dropped() == {Drop.TOO_POOR: 1}
    assert engine.handle(kit.liquidity("D", ours=1000)) == [
        send(kit, "B", carried(offer, 1010)),
        SetTimer(at=kit.TIMER),
    ]


def test_an_offer_that_we_can_no_longer_carry_is_offered_no_more(kit):
    engine = kit.engine("B", "C", "D")
    engine.handle(kit.bundle("D", kit.message(amount=1000)))
    engine.handle(kit.bundle("C", kit.message(amount=1200)))
    engine.handle(kit.liquidity("D", ours=500))
    assert [each.amount.msat for each in engine.offers(kit.hash(1), kit.peer("B"), kit.COIN, kit.NOW)] == [1200]
    late = kit.join(engine, "E")
    assert late == [send(kit, "E", carried(kit.message(amount=1200), 1210))]


def test_a_neighbour_without_a_channel_is_told_nothing_and_believed_nothing(kit):
    engine = kit.engine("D")
    engine.handle(NeighbourUp(neighbour=kit.peer("B"), routes=True, now=kit.NOW))
    assert engine.handle(kit.bundle("B", kit.message())) == []
    assert engine.handle(kit.bundle("stranger", kit.message())) == []
    assert engine.dropped() == {Drop.NO_CHANNEL: 2}
    assert engine.handle(kit.bundle("D", kit.message())) == [SetTimer(at=kit.TIMER)]


def test_no_liquidity_at_all_means_no_channel_is_usable(kit):
    engine = kit.engine("B", "D")
    engine.handle(kit.bundle("D", kit.message()))
    engine.handle(LiquidityChanged(neighbour=kit.peer("D"), liquidity=(), now=kit.NOW))
    assert engine.offers(kit.hash(1), kit.peer("B"), kit.COIN, kit.NOW) == ()


# --- neighbours come and go -----------------------------------------------------------------------------------------


def test_offers_of_a_lost_neighbour_cannot_be_used_until_it_is_back(kit):
    engine = kit.engine("B", "D")
    engine.handle(kit.bundle("D", kit.message()))
    engine.handle(NeighbourDown(neighbour=kit.peer("D"), now=kit.NOW))
    assert engine.offers(kit.hash(1), kit.peer("B"), kit.COIN, kit.NOW) == ()
    assert engine.handle(NeighbourUp(neighbour=kit.peer("D"), routes=True, now=kit.NOW)) == []
    assert len(engine.offers(kit.hash(1), kit.peer("B"), kit.COIN, kit.NOW)) == 1


def test_a_neighbour_that_comes_back_is_told_again_what_stands(kit):
    """It may have lost everything; what it still knows changes nothing there."""
    engine = kit.engine("B", "D")
    offer = kit.message()
    engine.handle(kit.bundle("D", offer))
    engine.handle(kit.flood(2))
    engine.handle(NeighbourDown(neighbour=kit.peer("B"), now=kit.NOW))
    assert engine.handle(NeighbourUp(neighbour=kit.peer("B"), routes=True, now=kit.NOW)) == [
        send(kit, "B", kit.message(2), carried(offer, 1010))
    ]


def test_a_neighbour_that_comes_up_is_told_only_of_the_newest(kit):
    engine = kit.engine("D", catch_up=2)
    for number in range(1, 5):
        engine.handle(kit.bundle("D", kit.message(number)))
    assert kit.join(engine, "B") == [
        send(kit, "B", carried(kit.message(3), 1010), carried(kit.message(4), 1010)),
    ]


def test_nothing_is_sent_to_a_neighbour_that_is_down(kit):
    engine = kit.engine("B", "D")
    engine.handle(NeighbourDown(neighbour=kit.peer("B"), now=kit.NOW))
    engine.handle(NeighbourDown(neighbour=kit.peer("stranger"), now=kit.NOW))
    assert engine.handle(kit.bundle("D", kit.message())) == [SetTimer(at=kit.TIMER)]


def test_we_are_not_our_own_neighbour(kit):
    with pytest.raises(MisuseError, match="our own neighbour"):
        kit.engine("us")


def test_a_neighbour_without_channel_link_or_offers_gives_its_place_back(kit):
    engine = kit.engine("A", "B", "D")
    engine.handle(kit.bundle("D", kit.message()))
    for name in ("A", "D"):
        engine.handle(NeighbourDown(neighbour=kit.peer(name), now=kit.NOW))
        engine.handle(LiquidityChanged(neighbour=kit.peer(name), liquidity=(), now=kit.NOW))
    engine.handle(TimerFired(now=kit.TIMER))
    offer = kit.message(2, expiry=kit.TIMER + 600)
    kit.join(engine, "E")
    effects = engine.handle(kit.bundle("B", offer, now=kit.TIMER))
    assert effects[0] == send(kit, "E", carried(offer, 1010))
    (route,) = engine.routes(kit.TIMER)
    assert [(each.neighbour, each.amount.msat) for each in route.quoted] == [(kit.peer("E"), 1010)]


# --- limits of one offer (R5, R8, R12) ------------------------------------------------------------------------------


def test_a_hop_budget_of_nothing_ends_the_journey_but_the_offer_is_kept(kit):
    engine = kit.engine("B", "D")
    assert engine.handle(kit.bundle("D", kit.message(hops_left=0))) == [SetTimer(at=kit.TIMER)]
    assert len(engine.offers(kit.hash(1), None, kit.COIN, kit.NOW)) == 1


def test_an_offer_needing_more_blocks_than_the_maximum_is_dropped(kit):
    engine = kit.engine("B", "D", max_lock_blocks=100)
    assert engine.handle(kit.bundle("D", kit.message(lock_blocks=101))) == []
    assert engine.offers(kit.hash(1), None, kit.COIN, kit.NOW) == ()
    assert engine.dropped() == {Drop.LOCK_TOO_LONG: 1}


def test_an_offer_that_our_own_blocks_lift_above_the_maximum_is_not_passed_on(kit):
    engine = kit.engine("B", "D", max_lock_blocks=100)
    assert engine.handle(kit.bundle("D", kit.message(lock_blocks=61))) == [SetTimer(at=kit.TIMER)]
    assert len(engine.offers(kit.hash(1), None, kit.COIN, kit.NOW)) == 1
    offer = kit.message(2, lock_blocks=60)
    assert engine.handle(kit.bundle("D", offer)) == [send(kit, "B", carried(offer, 1010))]


def test_what_exceeds_the_ceiling_is_dropped(kit):
    engine = kit.engine("B", "D")
    assert engine.handle(kit.bundle("D", kit.message(amount=1001, ceiling_msat=1000))) == []
    assert engine.dropped() == {Drop.ABOVE_CEILING: 1}


def test_a_quote_above_the_ceiling_is_not_sent(kit):
    engine = kit.engine("B", "D")
    assert engine.handle(kit.bundle("D", kit.message(amount=1000, ceiling_msat=1009))) == [SetTimer(at=kit.TIMER)]
    fits = kit.message(2, amount=1000, ceiling_msat=1010)
    assert engine.handle(kit.bundle("D", fits)) == [send(kit, "B", carried(fits, 1010))]


def test_a_ceiling_in_another_asset_is_passed_on_and_not_applied(kit):
    engine = kit.engine("B", "D")
    offer = kit.message(amount=1000, ceiling_msat=1, ceiling_asset=kit.GOLD)
    assert engine.handle(kit.bundle("D", offer)) == [send(kit, "B", carried(offer, 1010)), SetTimer(at=kit.TIMER)]


def test_an_amount_of_nothing_is_no_payment(kit):
    engine = kit.engine("B", "D")
    assert engine.handle(kit.bundle("D", kit.message(amount=0))) == []
    assert engine.dropped() == {Drop.ZERO: 1}


def test_a_neighbour_may_better_its_price_only_so_often(kit):
    engine = kit.engine("B", "D", max_improvements=3)
    sent = [engine.handle(kit.bundle("D", kit.message(amount=1000 - each)))[:1] for each in range(5)]
    assert [bool(each) and isinstance(each[0], SendOffers) for each in sent] == [True, True, True, True, False]
    assert engine.dropped() == {Drop.TOO_MANY_IMPROVEMENTS: 1}


def test_being_displaced_does_not_reset_the_count_of_improvements(kit):
    engine = kit.engine("A", "B", "C", kept_per_hash=2, max_improvements=2)
    price = 10_000
    taken = 0
    for _ in range(6):
        for name in ("A", "B", "C"):
            price -= 100
            taken += engine.handle(kit.bundle(name, kit.message(amount=price))) != []
    assert taken == 9  # three each: the first and two improvements
    assert engine.dropped() == {Drop.TOO_MANY_IMPROVEMENTS: 9}


# --- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("late", "taken"), [(0, True), (30, True), (31, False)])
def test_clocks_may_differ_by_thirty_seconds(kit, late, taken):
    engine = kit.engine("B", "D")
    offer = kit.message(expiry=kit.NOW - late)
    engine.handle(kit.bundle("D", offer))
    assert bool(engine.offers(kit.hash(1), kit.peer("B"), kit.COIN, kit.NOW)) is taken
    assert engine.dropped() == ({} if taken else {Drop.EXPIRED: 1})


def test_the_payer_takes_no_offer_that_has_ended_by_its_own_clock(kit):
    engine = kit.engine("D")
    engine.handle(kit.bundle("D", kit.message(expiry=kit.NOW)))
    assert len(engine.offers(kit.hash(1), None, kit.COIN, kit.NOW)) == 1
    assert engine.offers(kit.hash(1), None, kit.COIN, UnixTime(kit.NOW + 1)) == ()


def test_an_offer_that_would_last_too_long_lasts_as_long_as_we_keep_any(kit):
    engine = kit.engine("B", "D", max_lifetime=100)
    offer = kit.message(expiry=kit.NOW + 10**6)
    effects = engine.handle(kit.bundle("D", offer))
    assert effects[0] == send(kit, "B", carried(msgspec.structs.replace(offer, expiry=kit.NOW + 100), 1010))


def test_what_has_ended_leaves_the_table(kit):
    engine = kit.engine("B", "D")
    engine.handle(kit.bundle("D", kit.message(1), kit.message(2, expiry=kit.NOW + 1200)))
    assert engine.handle(TimerFired(now=kit.TIMER)) == [SetTimer(at=(kit.NOW + 1200) // 8 * 8 + 8 + 30)]
    assert [route.payment_hash for route in engine.routes(kit.TIMER)] == [kit.hash(2)]


def test_a_timer_that_fires_early_only_asks_again(kit):
    engine = kit.engine("D")
    engine.handle(kit.bundle("D", kit.message()))
    assert engine.handle(TimerFired(now=kit.NOW)) == [SetTimer(at=kit.TIMER)]
    assert len(engine.routes(kit.NOW)) == 1


def test_when_the_cheapest_has_ended_the_next_one_is_quoted(kit):
    engine = kit.engine("B", "C", "D")
    lasting = kit.message(amount=1200, expiry=kit.NOW + 2000)
    engine.handle(kit.bundle("D", kit.message(amount=1000)))
    engine.handle(kit.bundle("C", lasting))
    assert engine.handle(TimerFired(now=kit.TIMER)) == [
        send(kit, "B", carried(lasting, 1210)),
        send(kit, "D", carried(lasting, 1210)),
        SetTimer(at=(kit.NOW + 2000) // 8 * 8 + 8 + 30),
    ]


def test_an_ended_offer_of_the_same_neighbour_is_no_measure_for_a_new_one(kit):
    engine = kit.engine("B", "D")
    engine.handle(kit.bundle("D", kit.message(amount=1000, expiry=kit.NOW)))
    later = UnixTime(kit.NOW + 31)
    dearer = kit.message(amount=2000)
    assert engine.handle(kit.bundle("D", dearer, now=later))[0] == send(kit, "B", carried(dearer, 2010))


# --- we are the payee -----------------------------------------------------------------------------------------------


def test_a_flood_asks_every_neighbour_that_could_bring_the_amount(kit):
    engine = kit.engine("C", "D")
    kit.join(engine, "B", theirs=999)
    kit.join(engine, "client", routes=False)
    asked = kit.message(amount=1000)
    assert engine.handle(kit.flood(amount=1000)) == [
        send(kit, "C", asked),
        send(kit, "D", asked),
        SetTimer(at=(kit.NOW + 600) // 8 * 8 + 8),
    ]


def test_a_flood_is_repeated_only_when_it_asks_for_less(kit):
    engine = kit.engine("D")
    engine.handle(kit.flood(amount=1000))
    assert engine.handle(kit.flood(amount=1000)) == []
    assert engine.handle(kit.flood(amount=900)) == [send(kit, "D", kit.message(amount=900))]


def test_an_offer_for_a_hash_that_we_ask_for_ourselves_is_ignored(kit):
    engine = kit.engine("C", "D")
    engine.handle(kit.flood())
    assert engine.handle(kit.bundle("D", kit.message(amount=500))) == []
    assert engine.dropped() == {Drop.OWN_HASH: 1}


def test_our_flood_takes_the_place_of_what_others_offered(kit):
    engine = kit.engine("C", "D")
    engine.handle(kit.bundle("D", kit.message(amount=500)))
    engine.handle(kit.flood())
    assert engine.offers(kit.hash(1), None, kit.COIN, kit.NOW) == ()


def test_a_flood_that_ended_is_quoted_to_nobody_any_more(kit):
    engine = kit.engine("D")
    engine.handle(kit.flood(1))
    engine.handle(kit.flood(2))
    engine.handle(FloodEnded(payment_hash=kit.hash(1), now=kit.NOW))
    assert kit.join(engine, "B") == [send(kit, "B", kit.message(2))]


def test_a_flood_ends_by_itself(kit):
    engine = kit.engine("D")
    engine.handle(kit.flood())
    engine.handle(TimerFired(now=UnixTime(kit.NOW + 608)))
    assert engine.routes(kit.NOW) == ()
    assert engine.handle(kit.flood(2, expiry=kit.NOW)) == []


def test_a_neighbour_that_could_not_bring_the_flood_is_asked_once_it_can(kit):
    engine = kit.engine()
    kit.join(engine, "B", theirs=999)
    engine.handle(kit.flood(amount=1000))
    assert engine.handle(kit.liquidity("B", theirs=1000)) == [send(kit, "B", kit.message(amount=1000))]


def test_floods_and_wishes_are_bounded(kit):
    engine = kit.engine("D", max_floods=1, max_wanted=1)
    engine.handle(kit.flood(1))
    assert engine.handle(kit.flood(2)) == []
    engine.handle(want(kit, 3))
    assert engine.handle(want(kit, 4)) == []
    assert engine.dropped() == {Drop.FLOODS_FULL: 1, Drop.WANTED_FULL: 1}


# --- we are the payer -----------------------------------------------------------------------------------------------


def want(kit, number=1, expiry=None):
    return OffersWanted(payment_hash=kit.hash(number), expiry=expiry or UnixTime(kit.NOW + 60), now=kit.NOW)


def arrived(kit, name, message):
    return OfferArrived(neighbour=kit.peer(name), offer=message, now=kit.NOW)


def test_the_payer_hears_of_offers_already_here_then_of_each_that_is_kept(kit):
    engine = kit.engine("C", "D", routes=False)
    first, second, third = kit.message(amount=1000), kit.message(amount=1200), kit.message(amount=900)
    engine.handle(kit.bundle("C", first))
    assert engine.handle(want(kit)) == [arrived(kit, "C", first), SetTimer(at=(kit.NOW + 60) // 8 * 8 + 8)]
    assert engine.handle(kit.bundle("D", second)) == [arrived(kit, "D", second)]
    assert engine.handle(kit.bundle("C", second)) == []
    assert engine.handle(kit.bundle("C", third)) == [arrived(kit, "C", third)]


def test_the_payer_that_wants_no_more_hears_no_more(kit):
    engine = kit.engine("D", routes=False)
    engine.handle(want(kit))
    engine.handle(OffersNoLongerWanted(payment_hash=kit.hash(1), now=kit.NOW))
    assert engine.handle(kit.bundle("D", kit.message())) == []  # the wish's own timer comes before the offer's
    engine.handle(want(kit, 2))
    engine.handle(TimerFired(now=UnixTime(kit.NOW + 68)))
    assert not any(isinstance(each, OfferArrived) for each in engine.handle(kit.bundle("D", kit.message(2))))


def test_the_payer_hears_of_an_offer_when_its_neighbour_comes_up(kit):
    engine = kit.engine(routes=False)
    engine.handle(kit.liquidity("D"))
    engine.handle(want(kit))
    offer = kit.message()
    assert not any(isinstance(each, OfferArrived) for each in engine.handle(kit.bundle("D", offer)))
    assert engine.handle(NeighbourUp(neighbour=kit.peer("D"), routes=True, now=kit.NOW)) == [arrived(kit, "D", offer)]


def test_a_client_passes_nothing_on_and_carries_for_nobody(kit):
    engine = kit.engine("C", "D", routes=False)
    assert engine.handle(kit.bundle("D", kit.message())) == [SetTimer(at=kit.TIMER)]
    assert engine.offers(kit.hash(1), kit.peer("C"), kit.COIN, kit.NOW) == ()
    assert engine.answer(kit.peer("C"), (kit.hash(1),), kit.NOW) == ()
    assert len(engine.offers(kit.hash(1), None, kit.COIN, kit.NOW)) == 1


# --- subscribers (R13) ----------------------------------------------------------------------------------------------


def subscribe(kit, name, *numbers, prefixes=(), request=1, until=None, now=None):
    return Subscribed(
        subscriber=kit.peer(name),
        request=request,
        hashes=tuple(map(kit.hash, numbers)),
        prefixes=prefixes,
        until=until or UnixTime(kit.NOW + 3600),
        now=now or kit.NOW,
    )


def push(kit, name, *offers):
    return PushOffers(subscriber=kit.peer(name), offers=offers)


def accepted(kit, name, left=1023, request=1):
    return SubscriptionAccepted(subscriber=kit.peer(name), request=request, filters_left=left)


def test_a_subscriber_gets_the_best_offer_so_far_then_each_cheaper_one(kit):
    engine = kit.engine("C", "D")
    kit.join(engine, "client", routes=False)
    first, dearer, cheaper = kit.message(amount=1000), kit.message(amount=1200), kit.message(amount=900)
    engine.handle(kit.bundle("D", first))
    engine.handle(kit.bundle("C", dearer))
    assert engine.handle(subscribe(kit, "client", 1)) == [
        accepted(kit, "client"),
        push(kit, "client", carried(first, 1010)),
    ]
    assert engine.handle(kit.bundle("C", kit.message(amount=1100))) == [
        send(kit, "D", carried(kit.message(amount=1100), 1110))
    ]
    assert engine.handle(kit.bundle("C", cheaper)) == [
        send(kit, "D", carried(cheaper, 910)),
        push(kit, "client", carried(cheaper, 910)),
    ]


def test_a_neighbour_that_does_not_route_is_told_nothing_that_it_did_not_ask_for(kit):
    engine = kit.engine("D")
    kit.join(engine, "client", routes=False)
    engine.handle(subscribe(kit, "client", 7))
    assert engine.handle(kit.bundle("D", kit.message(1))) == [SetTimer(at=kit.TIMER)]


def test_a_prefix_gets_every_hash_below_it(kit):
    engine = kit.engine("D")
    kit.join(engine, "client", routes=False)
    engine.handle(kit.bundle("D", kit.message(1)))
    prefix = Prefix(bits=12, value=bytes(2))
    assert engine.handle(subscribe(kit, "client", prefixes=(prefix,))) == [
        accepted(kit, "client"),
        push(kit, "client", carried(kit.message(1), 1010)),
    ]
    assert engine.handle(kit.bundle("D", kit.message(2)))[-1] == push(kit, "client", carried(kit.message(2), 1010))
    outside = kit.message(1 << 255)
    assert engine.handle(kit.bundle("D", outside)) == []


def test_a_push_is_not_stopped_by_the_hop_budget(kit):
    engine = kit.engine("D")
    kit.join(engine, "client", routes=False)
    engine.handle(subscribe(kit, "client", 1))
    offer = kit.message(hops_left=0)
    assert engine.handle(kit.bundle("D", offer)) == [push(kit, "client", carried(offer, 1010)), SetTimer(at=kit.TIMER)]


def test_a_subscriber_that_could_not_pay_is_told_once_it_can(kit):
    engine = kit.engine("D")
    kit.join(engine, "client", theirs=1009, routes=False)
    engine.handle(subscribe(kit, "client", 1))
    assert engine.handle(kit.bundle("D", kit.message())) == [SetTimer(at=kit.TIMER)]
    assert engine.handle(kit.liquidity("client", theirs=1010)) == [push(kit, "client", carried(kit.message(), 1010))]


def test_a_payee_tells_its_subscribed_client_directly(kit):
    engine = kit.engine()
    kit.join(engine, "client", routes=False)
    engine.handle(subscribe(kit, "client", 1))
    assert engine.handle(kit.flood())[0] == push(kit, "client", kit.message())


def test_a_routing_neighbour_that_subscribes_is_told_once_and_then_as_before(kit):
    engine = kit.engine("B", "D")
    engine.handle(kit.bundle("D", kit.message(amount=1000)))
    assert engine.handle(subscribe(kit, "B", 1))[1:] == [push(kit, "B", carried(kit.message(), 1010))]
    assert engine.handle(kit.bundle("D", kit.message(amount=900))) == [send(kit, "B", carried(kit.message(), 910))]
    last = kit.message(amount=800, hops_left=0)
    assert engine.handle(kit.bundle("D", last)) == [push(kit, "B", carried(last, 810))]


def test_a_subscriber_that_is_no_neighbour_is_refused(kit):
    engine = kit.engine("D")
    assert engine.handle(subscribe(kit, "stranger", 1)) == [
        SubscriptionRefused(
            subscriber=kit.peer("stranger"),
            request=1,
            code=RefusalCode.NO_CHANNEL,
            reason="quotes are priced for channel neighbours only",
        )
    ]


def test_a_subscriber_above_its_limit_is_told_so(kit):
    engine = kit.engine("D", max_filters=2)
    assert engine.handle(subscribe(kit, "D", 1, 2))[0] == accepted(kit, "D", left=0)
    assert engine.handle(subscribe(kit, "D", 3)) == [
        SubscriptionRefused(
            subscriber=kit.peer("D"),
            request=1,
            code=RefusalCode.TOO_MANY_FILTERS,
            reason="3 filters, at most 2 for one subscriber",
        )
    ]


def test_a_subscriber_that_asks_too_fast_is_told_so(kit):
    engine = kit.engine("D", budget=kit.BudgetConfig(requests=1, burst_seconds=1))
    engine.handle(subscribe(kit, "D", 1))
    (refused,) = engine.handle(subscribe(kit, "D", 1))
    assert refused.code == RefusalCode.TOO_FAST
    later = UnixTime(kit.NOW + 1)
    assert engine.handle(subscribe(kit, "D", 1, now=later))[0] == accepted(kit, "D")


def test_filters_end_when_they_are_taken_back_or_their_owner_goes(kit):
    engine = kit.engine("D")
    kit.join(engine, "client", routes=False)
    engine.handle(subscribe(kit, "client", 1, 2, 3))
    gone = Unsubscribed(subscriber=kit.peer("client"), request=2, hashes=(kit.hash(1),), prefixes=(), now=kit.NOW)
    assert engine.handle(gone) == [accepted(kit, "client", left=1022, request=2)]
    assert engine.handle(kit.bundle("D", kit.message(1))) == [SetTimer(at=kit.TIMER)]
    engine.handle(SubscriberGone(subscriber=kit.peer("client"), now=kit.NOW))
    assert engine.handle(kit.bundle("D", kit.message(2))) == []
    assert engine.subscribers() == ()


def test_subscriptions_end_with_their_time_and_their_stream_but_not_with_the_routing_stream(kit):
    engine = kit.engine("D")
    kit.join(engine, "client", routes=False)
    engine.handle(subscribe(kit, "client", 1, until=UnixTime(kit.NOW + 10)))
    engine.handle(TimerFired(now=UnixTime(kit.NOW + 24)))
    assert engine.subscribers() == ()
    engine.handle(subscribe(kit, "client", 1))
    engine.handle(NeighbourDown(neighbour=kit.peer("client"), now=kit.NOW))
    pushed = push(kit, "client", carried(kit.message(1), 1010))
    assert engine.handle(kit.bundle("D", kit.message(1)))[:-1] == [pushed]  # and a timer
    engine.handle(SubscriberGone(subscriber=kit.peer("client"), now=kit.NOW))
    assert engine.subscribers() == ()


def test_when_the_cheapest_has_ended_the_subscriber_is_pushed_the_next_one(kit):
    engine = kit.engine("C", "D")
    kit.join(engine, "client", routes=False)
    engine.handle(subscribe(kit, "client", 1))
    lasting = kit.message(amount=1200, expiry=kit.NOW + 2000)
    engine.handle(kit.bundle("D", kit.message(amount=1000)))
    engine.handle(kit.bundle("C", lasting))
    effects = engine.handle(TimerFired(now=kit.TIMER))
    assert push(kit, "client", carried(lasting, 1210)) in effects


def test_a_hash_that_comes_back_after_its_end_is_pushed_whatever_its_price(kit):
    engine = kit.engine("D")
    kit.join(engine, "client", routes=False)
    engine.handle(subscribe(kit, "client", 1))
    engine.handle(kit.bundle("D", kit.message(amount=1000)))
    engine.handle(TimerFired(now=kit.TIMER))
    later = kit.message(amount=2000, expiry=kit.TIMER + 100)
    assert engine.handle(kit.bundle("D", later, now=kit.TIMER))[0] == push(kit, "client", carried(later, 2010))


def test_a_query_is_answered_for_neighbours_that_could_pay(kit):
    engine = kit.engine("B", "D")
    kit.join(engine, "poor", theirs=5)
    engine.handle(kit.bundle("D", kit.message()))
    hashes = (kit.hash(1), kit.hash(2), kit.hash(1))
    assert engine.answer(kit.peer("B"), hashes, kit.NOW) == (carried(kit.message(), 1010),)
    assert engine.answer(kit.peer("poor"), hashes, kit.NOW) == ()
    assert engine.answer(kit.peer("stranger"), hashes, kit.NOW) == ()


# --- room and budgets (R6, R7) --------------------------------------------------------------------------------------


def test_a_flood_of_offers_pushes_out_only_the_flooders_own(kit):
    engine = kit.engine("honest", "attacker", max_offers=10)
    for number in range(4):
        engine.handle(kit.bundle("honest", kit.message(number, amount=1000)))
    for number in range(100, 160):
        engine.handle(kit.bundle("attacker", kit.message(number)))
    held = {route.payment_hash for route in engine.routes(kit.NOW)}
    assert held == {kit.hash(each) for each in (*range(4), *range(154, 160))}
    assert engine.dropped() == {Drop.EVICTED: 54}


def test_an_attacker_that_heard_a_hash_first_cannot_take_honest_offers_down_with_its_own(kit):
    engine = kit.engine("honest", "attacker", max_offers=10)
    engine.handle(kit.bundle("attacker", kit.message(1, amount=1500)))
    engine.handle(kit.bundle("honest", kit.message(1, amount=1000)))
    for number in range(100, 160):
        engine.handle(kit.bundle("attacker", kit.message(number)))
    (kept,) = engine.offers(kit.hash(1), None, kit.COIN, kit.NOW)
    assert kept.neighbour == kit.peer("honest")


def test_a_newcomer_finds_room_in_a_full_table(kit):
    engine = kit.engine("old", "new", max_offers=10)
    for number in range(10):
        engine.handle(kit.bundle("old", kit.message(number)))
    for number in range(100, 105):
        engine.handle(kit.bundle("new", kit.message(number)))
    held = {route.payment_hash for route in engine.routes(kit.NOW)}
    assert held == {kit.hash(each) for each in (*range(5, 10), *range(100, 105))}


def test_offers_above_the_budget_are_cut_before_any_state_is_made(kit):
    engine = kit.engine("D", budget=kit.BudgetConfig(floor=2, burst_seconds=2))
    engine.handle(kit.bundle("D", *(kit.message(number) for number in range(6))))
    assert engine.dropped() == {Drop.OVER_BUDGET: 2}
    assert len(engine.routes(kit.NOW)) == 4
    later = UnixTime(kit.NOW + 1)
    engine.handle(kit.bundle("D", *(kit.message(number) for number in range(10, 16)), now=later))
    assert engine.dropped() == {Drop.OVER_BUDGET: 6}


def test_completed_payments_raise_a_budget_and_failed_ones_never_below_the_floor(kit):
    engine = kit.engine("D", budget=kit.BudgetConfig(floor=100, per_payment=10, most=125, half_life=1000))

    def ended(paid, times=1, now=kit.NOW):
        for _ in range(times):
            engine.handle(PaymentEnded(payment_hash=kit.hash(1), downstream=kit.peer("D"), paid=paid, now=now))
        return engine.neighbours(now)[0].budget_per_second

    assert ended(False, 5) == 100
    assert ended(True, 2) == 120
    assert ended(False) == 110
    assert ended(True, 9) == 125
    assert engine.neighbours(UnixTime(kit.NOW + 3000))[0].budget_per_second == 100 + 10 * 10 // 8
    (view,) = engine.neighbours(kit.NOW)
    assert (view.paid, view.failed) == (11, 6)


def test_a_payment_over_a_forgotten_neighbour_is_nobodys_record(kit):
    engine = kit.engine("D")
    gone = PaymentEnded(payment_hash=kit.hash(1), downstream=kit.peer("gone"), paid=True, now=kit.NOW)
    assert engine.handle(gone) == []


def test_what_waits_for_a_channel_is_bounded_and_keeps_the_cheapest(kit):
    engine = kit.engine("B", max_waiting=2)
    kit.join(engine, "D", ours=1)
    for number in (1, 2, 3):
        engine.handle(kit.bundle("D", kit.message(number)))
    engine.handle(kit.bundle("D", kit.message(3, amount=5000)))
    effects = engine.handle(kit.liquidity("D"))
    assert effects[0] == send(kit, "B", carried(kit.message(2), 1010), carried(kit.message(3), 1010))


# --- two assets -----------------------------------------------------------------------------------------------------


def both(kit, name, amount=10**9):
    return LiquidityChanged(
        neighbour=kit.peer(name),
        liquidity=tuple(Liquidity(asset=asset, ours=amount, theirs=amount) for asset in (kit.COIN, kit.GOLD)),
        now=kit.NOW,
    )


def test_a_node_with_channels_in_both_assets_converts_at_its_own_rate(kit):
    """THEORY, step 3: (amount in + fee) x rate, rounded up: (1000 + 10) x 3/7 = 432.86."""
    rates = (Rate(downstream=kit.COIN, upstream=kit.GOLD, numerator=3, denominator=7),)
    engine = kit.engine("D", rates=rates, fee=FeePolicy(base_msat=10, ppm=0))
    kit.join(engine, "B", asset=kit.GOLD)
    offer = kit.message(amount=1000)
    quote = msgspec.structs.replace(carried(offer, 433), asset=kit.GOLD)
    assert engine.handle(kit.bundle("D", offer)) == [send(kit, "B", quote), SetTimer(at=kit.TIMER)]
    (kept,) = engine.offers(kit.hash(1), kit.peer("B"), kit.GOLD, kit.NOW)
    assert (kept.amount, kept.quote) == (Amount(1000, kit.COIN), Amount(433, kit.GOLD))
    assert engine.offers(kit.hash(1), None, kit.GOLD, kit.NOW) == ()


def test_without_a_rate_nothing_is_converted(kit):
    engine = kit.engine("D")
    kit.join(engine, "B", asset=kit.GOLD)
    assert engine.handle(kit.bundle("D", kit.message())) == [SetTimer(at=kit.TIMER)]
    assert engine.offers(kit.hash(1), kit.peer("B"), kit.GOLD, kit.NOW) == ()
    assert engine.dropped() == {}


def test_a_neighbour_in_both_assets_is_quoted_in_each(kit):
    rates = (Rate(downstream=kit.COIN, upstream=kit.GOLD, numerator=1, denominator=10),)
    engine = kit.engine("D", rates=rates)
    engine.handle(both(kit, "B"))
    engine.handle(NeighbourUp(neighbour=kit.peer("B"), routes=True, now=kit.NOW))
    offer = kit.message(amount=1000)
    in_gold = msgspec.structs.replace(carried(offer, 101), asset=kit.GOLD)
    assert engine.handle(kit.bundle("D", offer))[0] == send(kit, "B", carried(offer, 1010), in_gold)


def test_a_converted_quote_is_held_to_a_ceiling_in_its_asset(kit):
    rates = (Rate(downstream=kit.COIN, upstream=kit.GOLD, numerator=1, denominator=10),)
    engine = kit.engine("D", rates=rates)
    kit.join(engine, "B", asset=kit.GOLD)
    offer = kit.message(amount=1000, ceiling_msat=100, ceiling_asset=kit.GOLD)
    assert engine.handle(kit.bundle("D", offer)) == [SetTimer(at=kit.TIMER)]
    assert engine.dropped() == {Drop.ABOVE_CEILING: 1}


def test_offers_in_two_assets_are_ordered_by_what_they_cost_the_upstream(kit):
    rates = (Rate(downstream=kit.GOLD, upstream=kit.COIN, numerator=10, denominator=1),)
    engine = kit.engine("B", "D", rates=rates)
    kit.join(engine, "G", asset=kit.GOLD)
    engine.handle(kit.bundle("D", kit.message(amount=1000)))
    engine.handle(kit.bundle("G", kit.message(amount=80, asset=kit.GOLD)))
    found = engine.offers(kit.hash(1), kit.peer("B"), kit.COIN, kit.NOW)
    assert [(each.neighbour, each.quote.msat) for each in found] == [(kit.peer("G"), 900), (kit.peer("D"), 1010)]


# --- what people see ------------------------------------------------------------------------------------------------


def test_the_table_can_be_read(kit):
    engine = kit.engine("B", "D")
    engine.handle(want(kit, 1))
    engine.handle(kit.bundle("D", kit.message(1)))
    engine.handle(kit.flood(2))
    ours, route = engine.routes(kit.NOW)
    assert (ours.payment_hash, ours.ours, len(ours.quoted)) == (kit.hash(2), True, 2)
    assert (route.payment_hash, route.ours, route.wanted) == (kit.hash(1), False, True)
    assert [(each.neighbour, each.amount) for each in route.quoted] == [(kit.peer("B"), Amount(1010, kit.COIN))]
    (offer,) = route.offers
    assert (offer.neighbour, offer.amount, offer.usable) == (kit.peer("D"), Amount(1000, kit.COIN), True)


def test_subscribers_and_neighbours_can_be_read(kit):
    engine = kit.engine("D")
    kit.join(engine, "client", routes=False)
    engine.handle(subscribe(kit, "client", 1, prefixes=(Prefix(bits=12, value=b"\xab\xc0"),)))
    (subscriber,) = engine.subscribers()
    assert subscriber.hashes == (kit.hash(1),)
    assert [(each.bits, each.value) for each in subscriber.prefixes] == [(12, b"\xab\xc0")]
    engine.handle(kit.bundle("D", kit.message(1)))
    neighbour, client = engine.neighbours(kit.NOW)
    assert (neighbour.offers_received, neighbour.offers_taken, neighbour.offers_kept) == (1, 1, 1)
    assert (client.filters, client.routes, client.up) == (2, False, True)
    assert [each.neighbour for each in engine.routes(kit.NOW)[0].quoted] == [kit.peer("client")]


def test_a_configuration_that_makes_no_sense_is_refused(kit):
    with pytest.raises(MisuseError, match="at least 2"):
        kit.config(kept_per_hash=1)
    with pytest.raises(MisuseError, match="delta"):
        kit.config(delta=3000)
    with pytest.raises(MisuseError, match="floor"):
        kit.BudgetConfig(floor=0)
    with pytest.raises(MisuseError, match="above 0"):
        replace(kit.BudgetConfig(), half_life=0)


# --- corners --------------------------------------------------------------------------------------------------------


def test_of_two_equal_prices_the_one_that_locks_longer_makes_room(kit):
    engine = kit.engine("A", "B", "C", "D", kept_per_hash=2)
    for name, lock in (("A", 20), ("B", 30), ("C", 10), ("D", 20)):
        engine.handle(kit.bundle(name, kit.message(lock_blocks=lock, hops_left=0)))
    found = engine.offers(kit.hash(1), None, kit.COIN, kit.NOW)
    assert [each.neighbour for each in found] == [kit.peer("C"), kit.peer("A")]
    assert engine.dropped() == {Drop.TOO_DEAR: 1}


def test_a_new_stream_of_a_neighbour_that_never_went_down_is_told_again_what_stands(kit):
    engine = kit.engine("B", "D")
    engine.handle(kit.bundle("D", kit.message()))
    engine.handle(kit.flood(2))
    assert engine.handle(NeighbourUp(neighbour=kit.peer("B"), routes=True, now=kit.NOW)) == [
        send(kit, "B", kit.message(2), carried(kit.message(), 1010))
    ]


def test_a_quote_above_all_money_is_made_to_nobody(kit):
    engine = kit.engine("B", "D", ours=MAX_MSAT, theirs=MAX_MSAT)
    offer = kit.message(amount=MAX_MSAT, ceiling_msat=MAX_MSAT)
    assert engine.handle(kit.bundle("D", offer)) == [SetTimer(at=kit.TIMER)]


def test_what_is_remembered_of_pushes_is_bounded(kit):
    engine = kit.engine("D", max_waiting=1)
    kit.join(engine, "client", theirs=1010, routes=False)
    engine.handle(subscribe(kit, "client", prefixes=(Prefix(bits=8, value=b"\x00"),)))
    for number in range(MAX_PUSHED + 1):
        engine.handle(kit.bundle("D", kit.message(number)))
    assert kit.hash(0) not in {each.payment_hash for each in engine.routes(kit.NOW) if each.quoted[1:]}
    again = engine.handle(kit.bundle("D", kit.message(0, amount=999)))
    assert again == [push(kit, "client", carried(kit.message(0), 1009))]


def test_of_what_was_withheld_the_oldest_is_forgotten_first(kit):
    engine = kit.engine("D", max_waiting=1)
    kit.join(engine, "B", theirs=500)
    engine.handle(kit.bundle("D", kit.message(1), kit.message(2)))
    assert engine.handle(kit.liquidity("B")) == [send(kit, "B", carried(kit.message(2), 1010))]


def test_what_was_withheld_and_is_gone_is_not_quoted(kit):
    engine = kit.engine("D")
    kit.join(engine, "B", theirs=500)
    kit.join(engine, "client", theirs=500, routes=False)
    engine.handle(subscribe(kit, "client", 1))
    engine.handle(kit.bundle("D", kit.message(1)))
    engine.handle(TimerFired(now=kit.TIMER))
    assert engine.handle(kit.liquidity("B", now=kit.TIMER)) == []
    assert engine.handle(kit.liquidity("client", now=kit.TIMER)) == []


def test_a_subscriber_that_gave_up_is_not_pushed_what_was_withheld(kit):
    engine = kit.engine("D")
    kit.join(engine, "client", theirs=500, routes=False)
    engine.handle(subscribe(kit, "client", 1))
    engine.handle(kit.bundle("D", kit.message(1)))
    engine.handle(SubscriberGone(subscriber=kit.peer("client"), now=kit.NOW))
    assert engine.handle(kit.liquidity("client")) == []


def test_a_source_that_subscribes_is_not_pushed_its_own_offer(kit):
    engine = kit.engine()
    kit.join(engine, "client", routes=False)
    engine.handle(subscribe(kit, "client", 1))
    assert engine.handle(kit.bundle("client", kit.message())) == [SetTimer(at=kit.TIMER)]


def test_a_cheaper_offer_that_waited_replaces_an_older_one_and_a_dearer_does_not(kit):
    engine = kit.engine("B", "D")
    engine.handle(kit.bundle("D", kit.message(1, amount=1000), kit.message(2, amount=1000)))
    engine.handle(kit.liquidity("D", ours=100))
    engine.handle(kit.bundle("D", kit.message(1, amount=900), kit.message(3, amount=200, expiry=kit.NOW + 10)))
    late = UnixTime(kit.NOW + 41)
    assert engine.handle(kit.liquidity("D", now=late)) == [send(kit, "B", carried(kit.message(1, amount=900), 910))]
    assert engine.dropped() == {Drop.TOO_POOR: 2, Drop.EXPIRED: 1}


def test_records_of_the_long_gone_are_bounded(kit):
    engine = kit.engine()
    for number in range(MAX_GONE + 3):
        name = f"n{number}"
        kit.join(engine, name)
        engine.handle(NeighbourDown(neighbour=kit.peer(name), now=kit.NOW))
        engine.handle(LiquidityChanged(neighbour=kit.peer(name), liquidity=(), now=kit.NOW))
    engine.handle(TimerFired(now=kit.NOW))
    assert len(engine.neighbours(kit.NOW)) == MAX_GONE


def test_the_payer_is_told_again_of_an_offer_whose_neighbour_is_back(kit):
    engine = kit.engine("D", routes=False)
    engine.handle(want(kit))
    engine.handle(kit.bundle("D", kit.message()))
    engine.handle(NeighbourDown(neighbour=kit.peer("D"), now=kit.NOW))
    up = NeighbourUp(neighbour=kit.peer("D"), routes=True, now=kit.NOW)
    assert engine.handle(up) == [arrived(kit, "D", kit.message())]


def test_a_neighbour_whose_channel_opens_after_its_stream_is_told_what_stands(kit):
    engine = kit.engine("D")
    engine.handle(kit.bundle("D", kit.message()))
    engine.handle(NeighbourUp(neighbour=kit.peer("B"), routes=True, now=kit.NOW))
    assert engine.handle(kit.liquidity("B")) == [send(kit, "B", carried(kit.message(), 1010))]
    assert engine.handle(kit.liquidity("B", theirs=0)) == []
    assert engine.handle(kit.bundle("D", kit.message(2))) == []


def test_who_subscribes_to_what_we_ask_for_ourselves_is_pushed_it(kit):
    engine = kit.engine()
    kit.join(engine, "client", routes=False)
    engine.handle(kit.flood())
    assert engine.handle(subscribe(kit, "client", 1)) == [accepted(kit, "client"), push(kit, "client", kit.message())]
    assert engine.answer(kit.peer("client"), (kit.hash(1),), kit.NOW) == (kit.message(),)


def test_a_table_for_one_offer_holds_one(kit):
    engine = kit.engine("A", "B", max_offers=1)
    for number in range(6):
        engine.handle(kit.bundle("AB"[number % 2], kit.message(number)))
        assert len(engine.routes(kit.NOW)) <= 1
    assert engine.dropped() == {Drop.EVICTED: 5}


def test_a_neighbour_with_its_own_fee_is_quoted_that_in_bundles_and_for_its_htlcs(kit):
    own = NeighbourFee(neighbour=kit.peer("B"), fee=FeePolicy(base_msat=500, ppm=0))
    engine = kit.engine("A", "B", "C", neighbour_fees=(own,))
    effects = engine.handle(kit.bundle("A", kit.message(amount=1000)))
    quoted = {each.neighbour: each.offers[0].amount_msat for each in effects if isinstance(each, SendOffers)}
    assert quoted == {kit.peer("B"): 1500, kit.peer("C"): 1010}
    for upstream, quote in (("B", 1500), ("C", 1010)):
        (offer,) = engine.offers(kit.hash(1), kit.peer(upstream), kit.COIN, kit.NOW)
        assert offer.quote.msat == quote


def ended(kit, downstream, amount, upstream=None, number=1):
    return PaymentEnded(
        payment_hash=kit.hash(number),
        downstream=kit.peer(downstream),
        paid=False,
        amount=amount,
        upstream=None if upstream is None else kit.peer(upstream),
        now=kit.NOW,
    )


def test_an_offer_that_failed_is_gone_and_its_upstream_alone_is_quoted_the_next_one_dearer(kit):
    engine = kit.engine("B", "C", "D", "X")
    engine.handle(kit.bundle("D", kit.message(amount=1000)))
    engine.handle(kit.bundle("C", kit.message(amount=1500)))
    effects = engine.handle(ended(kit, "D", 1000, "B"))
    dearer = kit.message(amount=1510, lock_blocks=50, hops_left=4)
    assert [each for each in effects if isinstance(each, SendOffers)] == [send(kit, "B", dearer)]
    assert [offer.neighbour for offer in engine.offers(kit.hash(1), kit.peer("B"), kit.COIN, kit.NOW)] == [
        kit.peer("C")
    ]


def test_a_failure_at_another_price_takes_nothing_back(kit):
    engine = kit.engine("B", "D")
    engine.handle(kit.bundle("D", kit.message(amount=1000)))
    before = engine.routes(kit.NOW)
    engine.handle(ended(kit, "D", 1100))
    assert engine.routes(kit.NOW) == before


@pytest.mark.parametrize("dearer_first", [True, False])
def test_a_dearer_offer_of_the_same_neighbour_counts_once_the_cheaper_one_has_failed(kit, dearer_first):
    engine = kit.engine("D", routes=False)
    engine.handle(want(kit))
    engine.handle(kit.bundle("D", kit.message(amount=1000)))
    steps = [kit.bundle("D", kit.message(amount=1200)), ended(kit, "D", 1000)]
    told = []
    for step in steps if dearer_first else reversed(steps):
        told += [each for each in engine.handle(step) if isinstance(each, OfferArrived)]
    assert told == [arrived(kit, "D", kit.message(amount=1200))]
    (kept,) = engine.offers(kit.hash(1), None, kit.COIN, kit.NOW)
    assert kept.amount.msat == 1200
