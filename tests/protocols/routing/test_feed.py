"""The full feed: numbered bundles of what was taken, kept for a while, and what the engine puts into it."""

from protocols.routing.events import FeedOffers
from protocols.routing.feed import Feed
from protocols.wire.routing import MAX_BUNDLE


def fed(effects):
    return [effect.offers for effect in effects if isinstance(effect, FeedOffers)]


def test_what_the_table_takes_is_fed_as_it_came_and_what_it_drops_is_not(kit):
    made = kit.engine("near", "far", feeds=True)
    taken, cheaper = kit.message(1, 1000), kit.message(1, 900)
    assert fed(made.handle(kit.bundle("near", taken, kit.message(2, 700), kit.message(1, 1000)))) == [
        (taken, kit.message(2, 700))
    ]
    assert fed(made.handle(kit.bundle("near", kit.message(1, 950), cheaper))) == [(kit.message(1, 950), cheaper)]
    assert fed(made.handle(kit.bundle("near", kit.message(1, 901)))) == []
    assert fed(made.handle(kit.bundle("stranger", kit.message(3)))) == []


def test_what_we_ask_for_ourselves_is_fed_as_a_neighbour_hears_it(kit):
    made = kit.engine("near", feeds=True)
    assert fed(made.handle(kit.flood(4, 500))) == [(kit.message(4, 500),)]


def test_an_engine_that_nobody_follows_feeds_nothing(kit):
    made = kit.engine("near")
    assert fed(made.handle(kit.bundle("near", kit.message(1)))) == []
    assert fed(made.handle(kit.flood(4))) == []


def test_bundles_are_numbered_and_can_be_asked_for_again(kit):
    feed = Feed(first=100)
    feed.put((kit.message(1),))
    feed.put((kit.message(2), kit.message(3)))
    assert (feed.oldest, feed.next) == (100, 102)
    assert feed.take(100) == (100, (kit.message(1),))
    assert feed.take(101) == (101, (kit.message(2), kit.message(3)))
    assert feed.take(102) is None
    assert [feed.from_number(each) for each in (0, 101, 102, 2**63 - 1)] == [100, 101, 102, 102]


def test_a_feed_is_bounded_and_one_who_is_too_slow_goes_on_at_the_oldest(kit):
    feed = Feed(first=1, most=3)
    for number in range(1, 6):
        feed.put((kit.message(number),))
    assert (feed.oldest, feed.next) == (3, 6)
    assert feed.take(1) == (3, (kit.message(3),))


def test_more_offers_than_a_message_holds_are_several_bundles(kit):
    feed = Feed(first=1)
    offers = tuple(kit.message(number) for number in range(MAX_BUNDLE + 1))
    feed.put(offers)
    assert [feed.take(1), feed.take(2), feed.take(3)] == [(1, offers[:MAX_BUNDLE]), (2, offers[MAX_BUNDLE:]), None]
