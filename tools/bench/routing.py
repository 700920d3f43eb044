"""What routing costs: offers through the engine and through codec and engine, and memory per table entry and filter.

The engine has eight neighbours, all rich and routing, so each improvement is quoted seven times. Floor for speed: the
least that any table must do with the same messages, a dictionary that keeps the cheapest per hash and neighbour. Floor
for codec and engine: the codec alone, in and out. Floors for memory: a dictionary with the same information.
"""

import random
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial

from protocols.ids import PaymentHash, PeerId
from protocols.routing.config import BudgetConfig, RoutingConfig
from protocols.routing.engine import Engine
from protocols.routing.events import BundleReceived, Liquidity, LiquidityChanged, NeighbourUp, SendOffers, Subscribed
from protocols.units import AssetId, Msat, UnixTime
from protocols.wire.routing import CODEC, Bundle, RoutingMessage
from tools.bench.table import Row, bench, seconds_of

NOW = UnixTime(1_700_000_000)
COIN = AssetId(bytes(31) + b"\x01")
PEERS = [PeerId(bytes([2]) + bytes([number]) * 32) for number in range(1, 9)]
HASHES = 6_000
PER_BUNDLE = 64
AIM = 100_000.0

Traffic = list[tuple[PeerId, RoutingMessage]]


def _engine() -> Engine:
    budget = BudgetConfig(floor=10**9, most=10**9)  # the engine is measured, not its brake
    engine = Engine(RoutingConfig(budget=budget, max_offers=10**6), PeerId(bytes([3]) * 33))
    for peer in PEERS:
        rich = (Liquidity(asset=COIN, ours=Msat(10**12), theirs=Msat(10**12)),)
        engine.handle(LiquidityChanged(neighbour=peer, liquidity=rich, now=NOW))
        engine.handle(NeighbourUp(neighbour=peer, routes=True, now=NOW))
    return engine


def _message(payment_hash: bytes, amount: int) -> RoutingMessage:
    return RoutingMessage(payment_hash, COIN, amount, 100, 8, 10**12, COIN, NOW + 600)


def _bundles(traffic: Traffic) -> list[BundleReceived]:
    """The traffic as bundles of one neighbour each, decoded from bytes so that no two messages share an object."""
    by_peer: dict[PeerId, list[RoutingMessage]] = {peer: [] for peer in PEERS}
    found = []
    for peer, message in traffic:
        mine = by_peer[peer]
        mine.append(message)
        if len(mine) == PER_BUNDLE:
            found.append((peer, tuple(mine)))
            mine.clear()
    found += [(peer, tuple(mine)) for peer, mine in by_peer.items() if mine]
    events = []
    for peer, offers in found:
        bundle = CODEC.decode(CODEC.encode(Bundle(number=1, offers=offers)))
        assert isinstance(bundle, Bundle)
        events.append(BundleReceived(neighbour=peer, offers=bundle.offers, now=NOW))
    return events


def _traffic() -> dict[str, list[BundleReceived]]:
    """New hashes; then, in this order, other neighbours' dearer offers, cheaper ones, and repeats that change nothing."""
    rng = random.Random(11)
    new: Traffic = []
    cheaper: Traffic = []
    useless: Traffic = []
    for _ in range(HASHES):
        payment_hash, amount = rng.randbytes(32), rng.randrange(10**5, 10**9)
        first, second = rng.sample(PEERS, 2)
        new.append((first, _message(payment_hash, amount)))
        better = (second if rng.random() < 0.5 else first, _message(payment_hash, amount - rng.randrange(1, 5000)))
        cheaper.append(better)
        useless.append((better[0], _message(payment_hash, better[1].amount_msat + rng.randrange(2))))
    return {"new hashes": _bundles(new), "cheaper offers": _bundles(cheaper), "no cheaper": _bundles(useless)}


def _plainly(table: dict[tuple[bytes, PeerId], RoutingMessage], events: list[BundleReceived]) -> Callable[[], None]:
    def work() -> None:
        for event in events:
            peer = event.neighbour
            for offer in event.offers:
                key = (offer.payment_hash, peer)
                known = table.get(key)
                if known is None or offer.amount_msat < known.amount_msat:
                    table[key] = offer

    return work


@bench("routing", about="offers through the routing engine, eight neighbours")
def routing() -> Iterator[Row]:
    traffic = _traffic()
    spent = dict.fromkeys(traffic, float("inf"))
    floors = dict.fromkeys(traffic, float("inf"))
    for _ in range(3):
        engine = _engine()
        table: dict[tuple[bytes, PeerId], RoutingMessage] = {}
        for name, events in traffic.items():
            spent[name] = min(spent[name], seconds_of(_through(engine, events), rounds=1))
            floors[name] = min(floors[name], seconds_of(_plainly(table, events), rounds=1))
    for name in traffic:
        yield Row(
            what=f"engine, {name}",
            figure=HASHES / spent[name],
            unit="offers/s",
            floor=HASHES / floors[name],
            floor_is="a dictionary of the cheapest per hash and neighbour",
        )
    yield Row(
        what="engine, fair mix: a third of each",
        figure=3 * HASHES / sum(spent.values()),
        unit="offers/s",
        floor=3 * HASHES / sum(floors.values()),
        floor_is="the same dictionary",
        aim=AIM,
    )
    yield from _with_codec(traffic)


def _through(engine: Engine, events: list[BundleReceived]) -> Callable[[], None]:
    def work() -> None:
        for event in events:
            engine.handle(event)

    return work


def _with_codec(traffic: dict[str, list[BundleReceived]]) -> Iterator[Row]:
    """Bytes in, bytes out: what a node does between its streams."""
    incoming = [
        (event.neighbour, CODEC.encode(Bundle(number=1, offers=event.offers)))
        for events in traffic.values()
        for event in events
    ]
    engine = _engine()
    outgoing: list[Bundle] = []

    def whole() -> None:
        for peer, data in incoming:
            bundle = CODEC.decode(data)
            assert isinstance(bundle, Bundle)
            for effect in engine.handle(BundleReceived(neighbour=peer, offers=bundle.offers, now=NOW)):
                if isinstance(effect, SendOffers):
                    outgoing.append(Bundle(number=1, offers=effect.offers))
                    CODEC.encode(outgoing[-1])

    def codec() -> None:
        for _, data in incoming:
            CODEC.decode(data)
        for bundle in outgoing:
            CODEC.encode(bundle)

    seconds = seconds_of(whole, rounds=1)
    quotes = sum(len(bundle.offers) for bundle in outgoing)
    yield Row(
        what=f"bytes in, bytes out, fair mix ({quotes / (3 * HASHES):.1f} quotes out per offer in)",
        figure=3 * HASHES / seconds,
        unit="offers/s",
        floor=3 * HASHES / seconds_of(codec),
        floor_is="decoding and encoding the same bundles",
    )


def _bytes_of(build: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = build()
        after = tracemalloc.get_traced_memory()[0]
        del kept
        return after - before
    finally:
        tracemalloc.stop()


@bench("routing-memory", about="memory per idle routing-table entry and per subscription")
def memory() -> Iterator[Row]:
    for offers in (1, 3):
        size = _bytes_of(partial(_filled, offers))
        floor = _bytes_of(partial(_plain, offers))
        yield Row(
            what=f"idle routing-table entry, {offers} offer{'s' * (offers > 1)} kept, quoted to 8 neighbours",
            figure=size / HASHES,
            unit="bytes",
            floor=floor / HASHES,
            floor_is="a dictionary of the same offers as they stand on the wire",
        )
    hashes = [PaymentHash(random.Random(number).randbytes(32)) for number in range(HASHES)]
    engine = Engine(RoutingConfig(max_filters=HASHES), PeerId(bytes([3]) * 33))
    rich = (Liquidity(asset=COIN, ours=Msat(1), theirs=Msat(1)),)
    engine.handle(LiquidityChanged(neighbour=PEERS[0], liquidity=rich, now=NOW))
    yield Row(
        what="subscription to one hash",
        figure=_bytes_of(lambda: _subscribed(engine, hashes)) / HASHES,
        unit="bytes",
        floor=_bytes_of(lambda: {bytes([*each]): PEERS[0] for each in hashes}) / HASHES,
        floor_is="a dictionary from hash to subscriber",
    )


def _filled(offers: int) -> Engine:
    engine = _engine()
    rng = random.Random(3)
    hashes = [rng.randbytes(32) for _ in range(HASHES)]
    for number in range(offers):
        for event in _bundles([(PEERS[number], _message(each, 10**6 + number)) for each in hashes]):
            engine.handle(event)
    return engine


def _plain(offers: int) -> dict[bytes, list[bytes]]:
    rng = random.Random(3)
    return {
        each: [CODEC.encode(Bundle(number=1, offers=(_message(each, 10**6),))) for _ in range(offers)]
        for each in (rng.randbytes(32) for _ in range(HASHES))
    }


def _subscribed(engine: Engine, hashes: list[PaymentHash]) -> None:
    for at in range(0, len(hashes), 100):
        engine.handle(
            Subscribed(
                subscriber=PEERS[0],
                request=1,
                hashes=tuple(PaymentHash(bytes([*each])) for each in hashes[at : at + 100]),
                prefixes=(),
                until=UnixTime(NOW + 3600),
                now=NOW,
            )
        )
