"""The engine against a plain model: random neighbours, offers, balances and time; after each event every promise holds.

The model keeps each neighbour's cheapest live offer in a dictionary and prices by hand. What is checked after each
event: the offers that an HTLC could be locked to, in order; that each quote sent can be honoured, could be paid, goes to
nobody it came from and is lower than the last; that nothing grows beyond its bound. Offers that only stand for older
quotes have a test of their own, which remembers each quote and asks whether an HTLC locked to it would find a way on.
"""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.ids import PaymentHash
from protocols.routing.events import (
    NeighbourDown,
    NeighbourUp,
    PaymentEnded,
    PushOffers,
    SendOffers,
    Subscribed,
    TimerFired,
)
from protocols.routing.pricing import Rate
from protocols.units import AssetId, BlockDelta, UnixTime

NAMES = ["A", "B", "C", "D"]
names = st.sampled_from(NAMES)
amounts = st.integers(1, 60)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), names, st.integers(0, 2), amounts, st.integers(1, 120), st.integers(0, 3)),
        st.tuples(st.just("liquidity"), names, amounts, amounts),
        st.tuples(st.just("up"), names, st.booleans()),
        st.tuples(st.just("down"), names),
        st.tuples(st.just("wait"), st.integers(1, 100)),
        st.tuples(st.just("subscribe"), names, st.integers(0, 2)),
    ),
    max_size=60,
)
FEE, DELTA = 10, 40


class Model:
    """What the engine should know, kept the slow way."""

    def __init__(self, now):
        self.now = now
        self.up = dict.fromkeys(NAMES, True)
        self.ours = dict.fromkeys(NAMES, 50)
        self.theirs = dict.fromkeys(NAMES, 50)
        self.offers = {}  # (hash number, name): (amount, lock, expiry, serial)
        self.serial = 0
        self.aside = {}

    def take(self, name, number, amount, lock, expiry):
        before = self.offers.get((number, name))
        if before is not None and before[2] + 30 < self.now:
            before = None
        if expiry + 30 < self.now or (before is not None and before[0] <= amount):
            return
        if amount > self.ours[name] or not self.up[name]:
            waiting = self.aside.pop((number, name), None)
            if waiting is not None and waiting[0] <= amount:
                amount, lock, expiry = waiting
            self.aside[number, name] = (amount, lock, expiry)
            return
        self.serial += 1
        self.offers[number, name] = (amount, lock, expiry, self.serial)

    def retry(self, name):
        for (number, who), waiting in list(self.aside.items()):
            if who == name and self.up[name] and waiting[0] <= self.ours[name]:
                del self.aside[number, who]
                before = self.offers.get((number, name))
                if before is None or waiting[0] < before[0] or before[2] + 30 < self.now:
                    self.take(name, number, *waiting)

    def usable(self, number, upstream):
        found = [
            (amount, lock, serial, name)
            for (each, name), (amount, lock, expiry, serial) in self.offers.items()
            if each == number
            and name != upstream
            and self.up[name]
            and amount <= self.ours[name]
            and expiry + 30 >= self.now
        ]
        return [(name, amount, lock) for amount, lock, _, name in sorted(found)]


@settings(max_examples=200, deadline=None)
@given(steps)
def test_whatever_happens_the_engine_offers_only_what_it_can_carry(kit, steps):
    engine = kit.engine(
        *NAMES, ours=50, theirs=50, kept_per_hash=8, standing_per_hash=0, max_improvements=100, max_waiting=100
    )
    model = Model(kit.NOW)
    routes = dict.fromkeys(NAMES, True)
    last = {}
    by_peer = {kit.peer(name): name for name in NAMES}
    for step in steps:
        now = model.now
        match step:
            case ("offer", name, number, amount, seconds, hops):
                lock = amount % 7 + 1
                offer = kit.message(number, amount, lock_blocks=lock, expiry=now + seconds, hops_left=hops)
                if model.offers.get((number, name), (0, 0, now))[2] + 30 < now:
                    last = {key: sent for key, sent in last.items() if key[1] != number}
                model.take(name, number, amount, lock, now + seconds)
                effects = engine.handle(kit.bundle(name, offer, now=now))
            case ("liquidity", name, ours, theirs):
                richer = ours > model.ours[name]
                model.ours[name], model.theirs[name] = ours, theirs
                if richer:
                    model.retry(name)
                    last = {} if any(each[2] + 30 < now for each in model.offers.values()) else last
                effects = engine.handle(kit.liquidity(name, ours, theirs, now=now))
            case ("up", name, flag):
                model.up[name], routes[name] = True, flag
                model.retry(name)
                last = {key: sent for key, sent in last.items() if key[0] != name}
                if any(each[2] + 30 < now for each in model.offers.values()):
                    last = {}
                effects = engine.handle(NeighbourUp(neighbour=kit.peer(name), routes=flag, now=now))
            case ("down", name):
                model.up[name] = False
                effects = engine.handle(NeighbourDown(neighbour=kit.peer(name), now=now))
            case ("wait", seconds):
                model.now = now = UnixTime(now + seconds)
                last = {}  # quotes may rest on offers that ended
                effects = engine.handle(TimerFired(now=now))
            case ("subscribe", name, number):
                last.pop((name, number), None)
                effects = engine.handle(
                    Subscribed(
                        subscriber=kit.peer(name),
                        request=1,
                        hashes=(kit.hash(number),),
                        prefixes=(),
                        until=UnixTime(now + 10_000),
                        now=now,
                    )
                )
        for number in range(3):
            for upstream in [*NAMES, None]:
                found = engine.offers(kit.hash(number), upstream and kit.peer(upstream), kit.COIN, now)
                expected = model.usable(number, upstream)
                if upstream is None:
                    expected = [each for each in expected if model.offers[number, each[0]][2] >= now]
                assert [(by_peer[each.neighbour], each.amount.msat, each.lock_blocks) for each in found] == expected
                fee = FEE if upstream else 0
                assert all(each.quote.msat == each.amount.msat + fee for each in found)
        for effect in effects:
            if not isinstance(effect, SendOffers | PushOffers):
                continue
            pushed = isinstance(effect, PushOffers)
            name = by_peer[effect.subscriber if pushed else effect.neighbour]
            assert pushed or (model.up[name] and routes[name])
            for quote in effect.offers:
                number = int.from_bytes(quote.payment_hash, "big")
                assert quote.amount_msat <= model.theirs[name]
                assert any(amount + FEE <= quote.amount_msat for _, amount, _ in model.usable(number, name))
                before = last.get((name, number))
                assert before is None or quote.amount_msat < before
                last[name, number] = quote.amount_msat


offers = st.tuples(
    names,
    st.integers(0, 1),
    amounts,
    st.integers(1, 40),  # lock blocks; with our 40 a few are too long
    st.integers(0, 3),  # hops left
    st.sampled_from([60, 1000]),  # ceiling
    st.integers(50, 150),  # seconds
)
ordinary = st.one_of(offers, st.tuples(st.just("wait"), st.integers(1, 60)), st.tuples(st.just("ask"), names))


@pytest.mark.parametrize("halved", [False, True], ids=["one asset", "converted, so that quotes coincide"])
@settings(max_examples=300, deadline=None)
@given(steps=st.lists(ordinary, max_size=60))
def test_a_quote_stands_until_it_ends(kit, steps, halved):
    """Balances stay, nothing fails: what was quoted once can be carried at that price and under that lock (R5)."""
    rates = (Rate(downstream=kit.COIN, upstream=kit.GOLD, numerator=1, denominator=2),) if halved else ()
    asset = kit.GOLD if halved else kit.COIN
    engine = kit.engine(
        *NAMES, kept_per_hash=2, standing_per_hash=64, max_improvements=100, max_lock_blocks=BlockDelta(75), rates=rates
    )
    kit.join(engine, "U", asset=asset)
    now = kit.NOW
    quotes = []
    for step in steps:
        match step:
            case ("wait", seconds):
                now = UnixTime(now + seconds)
                effects = engine.handle(TimerFired(now=now))
            case ("ask", name):
                hashes = (kit.hash(0), kit.hash(1))
                quotes += [(kit.peer(name), each) for each in engine.answer(kit.peer(name), hashes, now)]
                effects = []
            case (name, number, amount, lock, hops, ceiling, seconds):
                offer = kit.message(
                    number, amount, lock_blocks=lock, hops_left=hops, ceiling_msat=ceiling, expiry=now + seconds
                )
                effects = engine.handle(kit.bundle(name, offer, now=now))
        quotes += [(each.neighbour, quote) for each in effects if isinstance(each, SendOffers) for quote in each.offers]
        for upstream, quote in quotes:
            if quote.expiry >= now:
                found = engine.offers(PaymentHash(quote.payment_hash), upstream, AssetId(quote.asset), now)
                assert any(
                    each.quote.msat <= quote.amount_msat
                    and each.lock_blocks + DELTA <= quote.lock_blocks
                    and each.expiry >= quote.expiry
                    for each in found
                )


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(st.one_of(offers, st.tuples(st.just("fail"), names, st.integers(0, 1), amounts)), max_size=60))
def test_the_table_stays_within_its_bounds_and_each_neighbour_has_what_is_counted_as_its_own(kit, steps):
    engine = kit.engine(*NAMES, kept_per_hash=2, standing_per_hash=2, max_offers=7)
    for step in steps:
        match step:
            case ("fail", name, number, amount):
                engine.handle(
                    PaymentEnded(
                        payment_hash=kit.hash(number),
                        downstream=kit.peer(name),
                        paid=False,
                        now=kit.NOW,
                        amount=amount,
                        upstream=kit.peer("A"),
                    )
                )
            case (name, number, amount, lock, hops, ceiling, seconds):
                offer = kit.message(
                    number, amount, lock_blocks=lock, hops_left=hops, ceiling_msat=ceiling, expiry=kit.NOW + seconds
                )
                engine.handle(kit.bundle(name, offer))
        kept = Counter(offer.neighbour for route in engine.routes(kit.NOW) for offer in route.offers)
        assert kept == Counter({each.neighbour: each.offers_kept for each in engine.neighbours(kit.NOW)})
        assert kept.total() <= 7
        assert all(0 < len(route.offers) <= 4 for route in engine.routes(kit.NOW))
