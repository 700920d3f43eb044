"""A quote stands until it ends, though a cheaper one followed: which older offers are kept for it, and which go (R4, R12)."""

from protocols.routing.events import PaymentEnded, Subscribed
from protocols.routing.views import Drop
from protocols.units import UnixTime


def held(kit, engine, upstream=None):
    """What an HTLC of this upstream neighbour could be locked to: the neighbour, the amount, the blocks it needs."""
    found = engine.offers(kit.hash(1), upstream and kit.peer(upstream), kit.COIN, kit.NOW)
    return [(each.neighbour[1:2].decode(), each.amount.msat, each.lock_blocks) for each in found]


def fail(kit, engine, amount):
    engine.handle(
        PaymentEnded(payment_hash=kit.hash(1), downstream=kit.peer("D"), paid=False, amount=amount, now=kit.NOW)
    )


def test_a_quote_outlives_the_cheaper_offer_that_replaced_what_it_rests_on(kit):
    """The cheaper one needs a longer lock and has no hop left: B still holds the quote of 1010 and locks for 50 blocks."""
    engine = kit.engine("B", "D")
    engine.handle(kit.bundle("D", kit.message(amount=1000, lock_blocks=10)))
    assert engine.handle(kit.bundle("D", kit.message(amount=900, lock_blocks=50, hops_left=0))) == []
    assert held(kit, engine, "B") == [("D", 900, 50), ("D", 1000, 10)]


def test_a_quote_outlives_the_cheaper_offers_of_others_that_displaced_what_it_rests_on(kit):
    engine = kit.engine("A", "B", "C", "D", kept_per_hash=2)
    engine.handle(kit.bundle("D", kit.message(amount=1000, lock_blocks=10)))
    engine.handle(kit.bundle("A", kit.message(amount=900, lock_blocks=50, hops_left=0)))
    engine.handle(kit.bundle("C", kit.message(amount=800, lock_blocks=50, hops_left=0)))
    assert held(kit, engine, "B") == [("C", 800, 50), ("A", 900, 50), ("D", 1000, 10)]


def test_what_a_subscriber_was_pushed_stands(kit):
    engine = kit.engine("D", max_lock_blocks=90)
    kit.join(engine, "B", routes=False)
    asked = Subscribed(
        subscriber=kit.peer("B"), request=1, hashes=(kit.hash(1),), prefixes=(), until=kit.TIMER, now=kit.NOW
    )
    engine.handle(asked)
    engine.handle(kit.bundle("D", kit.message(amount=1000, lock_blocks=10, hops_left=0)))
    engine.handle(kit.bundle("D", kit.message(amount=900, lock_blocks=60, hops_left=0)))  # too long to be quoted on
    assert held(kit, engine, "B") == [("D", 900, 60), ("D", 1000, 10)]


def test_what_a_query_was_answered_stands(kit):
    engine = kit.engine("B", "D")
    engine.handle(kit.bundle("D", kit.message(amount=1000, lock_blocks=10, hops_left=0)))
    assert len(engine.answer(kit.peer("B"), (kit.hash(1),), kit.NOW)) == 1
    engine.handle(kit.bundle("D", kit.message(amount=900, lock_blocks=50, hops_left=0)))
    assert held(kit, engine, "B") == [("D", 900, 50), ("D", 1000, 10)]


def test_an_offer_that_nobody_was_quoted_stands_for_nothing(kit):
    engine = kit.engine("B", "D")
    engine.handle(kit.bundle("D", kit.message(amount=1000, lock_blocks=10, hops_left=0)))
    engine.handle(kit.bundle("D", kit.message(amount=900, lock_blocks=50, hops_left=0)))
    assert held(kit, engine, "B") == [("D", 900, 50)]


def test_a_cheaper_offer_that_needs_no_longer_lock_takes_the_place_of_all_before_it(kit):
    engine = kit.engine("B", "D")
    for amount, lock in ((1000, 20), (900, 30), (800, 20)):
        engine.handle(kit.bundle("D", kit.message(amount=amount, lock_blocks=lock)))
    assert held(kit, engine, "B") == [("D", 800, 20)]


def test_what_one_neighbour_offers_cannot_stand_in_for_what_it_was_quoted_itself(kit):
    """B was quoted D's offer, and now offers better on each count: its own HTLC still needs D."""
    engine = kit.engine("A", "B", "C", "D", kept_per_hash=2)
    engine.handle(kit.bundle("D", kit.message(amount=1000, lock_blocks=50)))
    for name, amount in (("A", 900), ("C", 800), ("B", 700)):
        engine.handle(kit.bundle(name, kit.message(amount=amount, lock_blocks=60, hops_left=0)))
    engine.handle(kit.bundle("B", kit.message(amount=600, lock_blocks=5, hops_left=0)))
    assert held(kit, engine, "B") == [("C", 800, 60), ("D", 1000, 50)]


def test_only_so_many_offers_stand_for_older_quotes_and_the_oldest_goes_first(kit):
    engine = kit.engine("B", "D", standing_per_hash=2)
    for amount, lock in ((1000, 10), (900, 20), (800, 30), (700, 40)):
        engine.handle(kit.bundle("D", kit.message(amount=amount, lock_blocks=lock)))
    assert held(kit, engine, "B") == [("D", 700, 40), ("D", 800, 30), ("D", 900, 20)]


def test_an_offer_for_which_there_is_no_room_is_not_quoted_though_others_for_its_hash_stand(kit):
    engine = kit.engine("A", "B", "D", max_offers=2)
    engine.handle(kit.bundle("A", kit.message(amount=2000)))
    engine.handle(kit.bundle("D", kit.message(amount=1000, lock_blocks=10)))
    assert engine.handle(kit.bundle("D", kit.message(amount=900, lock_blocks=50))) == []
    assert held(kit, engine, "B") == [("D", 1000, 10), ("A", 2000, 10)]
    assert engine.dropped() == {Drop.EVICTED: 1}


def test_when_an_offer_fails_those_before_it_go_too_and_the_cheaper_ones_after_it_stay(kit):
    """A dearer one that came later counts only when nothing else of its neighbour is left."""
    engine = kit.engine("B", "D")
    for amount, lock in ((1000, 10), (900, 20), (800, 30), (1100, 5)):
        engine.handle(kit.bundle("D", kit.message(amount=amount, lock_blocks=lock)))
    fail(kit, engine, 901)
    assert held(kit, engine, "B") == [("D", 800, 30), ("D", 900, 20), ("D", 1000, 10)]
    fail(kit, engine, 900)
    assert held(kit, engine, "B") == [("D", 800, 30)]
    fail(kit, engine, 800)
    assert held(kit, engine, "B") == [("D", 1100, 5)]


def test_improvements_of_an_offer_that_only_stands_are_counted_though_others_are_cheaper(kit):
    engine = kit.engine("A", "B", "C", kept_per_hash=2, max_improvements=2)
    engine.handle(kit.bundle("A", kit.message(amount=1000)))
    for name in "BC":
        engine.handle(kit.bundle(name, kit.message(amount=500, hops_left=0)))
    for amount in (900, 800, 700):
        engine.handle(kit.bundle("A", kit.message(amount=amount)))
    assert engine.dropped() == {Drop.TOO_DEAR: 2, Drop.TOO_MANY_IMPROVEMENTS: 1}


def test_when_the_cheaper_one_has_ended_the_one_before_it_is_the_measure_again(kit):
    """And the count of improvements goes on (R12)."""
    engine = kit.engine("B", "D", max_improvements=2)
    engine.handle(kit.bundle("D", kit.message(amount=1000, lock_blocks=10)))
    engine.handle(kit.bundle("D", kit.message(amount=900, lock_blocks=10, expiry=kit.NOW)))
    later = UnixTime(kit.NOW + 31)
    engine.handle(kit.bundle("D", kit.message(amount=1100), now=later))
    assert held(kit, engine, "B") == [("D", 1000, 10)]
    engine.handle(kit.bundle("D", kit.message(amount=950, lock_blocks=60), now=later))
    engine.handle(kit.bundle("D", kit.message(amount=940, lock_blocks=60), now=later))
    assert held(kit, engine, "B") == [("D", 950, 60), ("D", 1000, 10)]
    assert engine.dropped() == {Drop.NOT_CHEAPER: 1, Drop.TOO_MANY_IMPROVEMENTS: 1}
