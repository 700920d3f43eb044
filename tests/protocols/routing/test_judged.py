"""What the engine says became of each offer: every reason next to its count, and nothing while nobody wants to know."""

from protocols.routing.views import Drop, Judged


def told(made):
    return [(each.payment_hash[-1], each.amount, each.kept, each.drop) for each in made.judged()]


def test_every_offer_of_a_bundle_is_judged_in_the_order_of_judging(kit):
    made = kit.engine("near", judges=True, max_offers=2)
    near = kit.peer("near")
    made.handle(kit.bundle("near", kit.message(1, 1000)))
    assert made.judged() == (Judged(neighbour=near, payment_hash=kit.hash(1), amount=1000, lock_blocks=10, kept=True),)
    made.handle(
        kit.bundle(
            "near",
            kit.message(1, 1000),
            kit.message(1, 900),
            kit.message(2, 0),
            kit.message(3, expiry=kit.NOW - 100),
            kit.message(4, lock_blocks=3000),
            kit.message(5, 1001, ceiling_msat=1000),
            kit.message(6, asset=kit.GOLD),
            kit.message(7, 2 * 10**9),
            kit.message(8),
            kit.message(9),
        )
    )
    assert told(made) == [
        (1, 1000, False, Drop.NOT_CHEAPER),
        (1, 900, True, None),
        (2, 0, False, Drop.ZERO),
        (3, 1000, False, Drop.EXPIRED),
        (4, 1000, False, Drop.LOCK_TOO_LONG),
        (5, 1001, False, Drop.ABOVE_CEILING),
        (6, 1000, False, Drop.NO_CHANNEL),
        (7, 2 * 10**9, False, Drop.TOO_POOR),
        (8, 1000, True, None),
        (9, 1000, True, None),
        (1, 900, False, Drop.EVICTED),
    ]


def test_strangers_and_those_over_their_budget_are_judged_too(kit):
    made = kit.engine("near", judges=True, budget=kit.BudgetConfig(floor=1, burst_seconds=1))
    made.handle(kit.bundle("near", kit.message(1), kit.message(2)))
    assert told(made) == [(2, 1000, False, Drop.OVER_BUDGET), (1, 1000, True, None)]
    made.handle(kit.bundle("stranger", kit.message(3)))
    assert made.judged() == (
        Judged(
            neighbour=kit.peer("stranger"),
            payment_hash=kit.hash(3),
            amount=1000,
            lock_blocks=10,
            kept=False,
            drop=Drop.NO_CHANNEL,
        ),
    )


def test_an_offer_that_is_kept_but_not_passed_on_says_why(kit):
    made = kit.engine("near", "far", judges=True)
    made.handle(kit.bundle("near", kit.message(1, 1000, ceiling_msat=1005), kit.message(2, lock_blocks=2000)))
    assert told(made) == [
        (1, 1000, True, None),
        (1, 1000, True, Drop.ABOVE_CEILING),
        (2, 1000, True, None),
        (2, 1000, True, Drop.LOCK_TOO_LONG),
    ]


def test_as_many_are_judged_dropped_as_are_counted(kit):
    made = kit.engine("near", "far", judges=True, max_improvements=1, kept_per_hash=2)
    found = []
    for name, amount in (("near", 900), ("near", 800), ("near", 700), ("far", 600), ("far", 600), ("near", 500)):
        made.handle(kit.bundle(name, kit.message(1, amount)))
        found += [each.drop for each in made.judged() if each.drop is not None]
    assert {reason: found.count(reason) for reason in found} == made.dropped()


def test_each_event_begins_anew_and_nobody_who_does_not_ask_pays_for_it(kit):
    made = kit.engine("near", judges=True)
    made.handle(kit.bundle("near", kit.message(1)))
    made.handle(kit.flood(4))
    assert made.judged() == ()
    silent = kit.engine("near")
    silent.handle(kit.bundle("near", kit.message(1), kit.message(1)))
    assert silent.judged() == ()
