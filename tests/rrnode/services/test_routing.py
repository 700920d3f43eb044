"""`/rr/routing/1` over memory hosts: bundles, repeats, acknowledgements and slow readers with an engine that says what it
is told to; then whole exchanges, in one asset and in two, with real engines."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from services_kit import COIN, GOLD, START, Net, ended, hash_, liquidity, now, offer, until, within

from protocols.ids import PaymentHash, PeerId
from protocols.routing.bundles import MAX_UNACKNOWLEDGED
from protocols.routing.config import RoutingConfig
from protocols.routing.engine import Engine
from protocols.routing.events import (
    BundleReceived,
    FloodRequested,
    NeighbourDown,
    NeighbourUp,
    OfferArrived,
    OffersWanted,
    SendOffers,
    SetTimer,
    TimerFired,
)
from protocols.routing.pricing import FeePolicy, Rate
from protocols.units import Amount, BlockDelta, Msat, UnixTime
from protocols.wire.framing import Deframer, frame
from protocols.wire.routing import CODEC, MAX_BUNDLE, PROTOCOL, Acknowledge, Bundle, Resume, RoutingMessage, Stop
from rrnode.host.base import FrameStream, HostConfig
from rrnode.host.memory import MemoryHost
from rrnode.services.routing import RoutingService

Clock = trio.testing.MockClock
EPOCH, OTHER_EPOCH, NEVER = b"\x0e" * 16, b"\x0f" * 16, bytes(16)
FEE = FeePolicy(base_msat=Msat(10), ppm=1000)


@dataclass(frozen=True)
class Order:
    """An event for the scripted engine: do this."""

    effects: tuple[Any, ...]


class Scripted:
    """An engine that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def handle(self, event: Any) -> Iterable[Any]:
        if isinstance(event, Order):
            return event.effects
        self.told.append(event)
        return ()

    def offers(self) -> list[RoutingMessage]:
        return [each for event in self.told if isinstance(event, BundleReceived) for each in event.offers]


class Scene:
    """A service on host 1 with a scripted engine, and a peer on host 0 that writes what it likes."""

    def __init__(self, net: Net, server: MemoryHost, peer: MemoryHost) -> None:
        self.net, self.server, self.peer = net, server, peer
        self.engine = Scripted()
        self.neighbour = True
        self.service = RoutingService(
            host=server,
            engine=self.engine,  # type: ignore[arg-type]
            epoch=EPOCH,
            routes=True,
            now=now,
            is_neighbour=lambda peer: self.neighbour,
            subscriptions=lambda effect: None,
            offer_arrived=lambda effect: None,
        )
        peer.handle(PROTOCOL, self._refuse)

    async def _refuse(self, stream: FrameStream) -> None:
        stream.reset()

    def quote(self, *offers: RoutingMessage) -> None:
        self.service.tell(Order((SendOffers(neighbour=self.peer.peer_id, offers=offers),)))  # type: ignore[arg-type]

    async def stream(
        self, *, epoch: bytes = OTHER_EPOCH, seen_epoch: bytes = NEVER, seen: int = 0
    ) -> "tuple[FrameStream, Resume]":
        made = await self.peer.open_stream(self.server.peer_id, PROTOCOL)
        await made.send(CODEC.encode(Resume(epoch, seen_epoch, seen, True)))
        theirs = CODEC.decode(await made.receive())
        assert isinstance(theirs, Resume)
        await trio.sleep(0.1)
        return made, theirs


@pytest.fixture
async def scene(net: Net) -> Scene:
    made = Scene(net, await net.host(1), await net.host(0))
    net.spawn(made.service)
    await net.link(made.peer, made.server)
    return made


async def say(stream: FrameStream, *messages: Any) -> None:
    for message in messages:
        await stream.send(CODEC.encode(message))


async def hear(stream: FrameStream, seconds: float = 5.0) -> Any:
    """The next message, or None."""
    frame = await within(seconds, stream.receive)
    return None if frame is None else CODEC.decode(frame)


async def test_a_lone_offer_leaves_at_once_and_is_acknowledged_within_a_second(
    scene: Scene, autojump_clock: Clock
) -> None:
    stream, theirs = await scene.stream()
    assert theirs == Resume(EPOCH, NEVER, 0, True)
    began = trio.current_time()
    scene.quote(offer(1))
    assert await hear(stream) == Bundle(1, (offer(1),))
    assert trio.current_time() - began < 0.05
    await say(stream, Bundle(1, (offer(2),)))
    assert await hear(stream) == Acknowledge(1)
    assert trio.current_time() - began < 1.2
    assert scene.engine.told == [
        NeighbourUp(neighbour=scene.peer.peer_id, routes=True, now=UnixTime(START)),
        BundleReceived(neighbour=scene.peer.peer_id, offers=(offer(2),), now=UnixTime(START)),
    ]


async def test_an_acknowledgement_rides_with_a_bundle(scene: Scene, autojump_clock: Clock) -> None:
    stream, _ = await scene.stream()
    await say(stream, Bundle(1, (offer(1),)))
    await trio.sleep(0.1)
    scene.quote(offer(2))
    assert await hear(stream, 0.1) == Acknowledge(1)
    assert await hear(stream, 0.1) == Bundle(1, (offer(2),))
    assert await hear(stream, 5) is None


async def test_a_neighbour_is_acknowledged_though_the_link_is_never_quiet(scene: Scene, autojump_clock: Clock) -> None:
    stream, _ = await scene.stream()
    for number in range(1, MAX_UNACKNOWLEDGED + 1):  # the peer acknowledges nothing: our outbox fills up and stalls
        scene.quote(offer(number))
        await trio.sleep(0.05)
    for number in range(1, 20):
        await say(stream, Bundle(number, (offer(1000 + number),)))
        scene.quote(offer(2000 + number))  # there is always something that waits
        await trio.sleep(0.3)
    heard = []
    while (message := await hear(stream, 0.1)) is not None:
        heard.append(message)
    assert [each.number for each in heard if isinstance(each, Bundle)] == list(range(1, MAX_UNACKNOWLEDGED + 1))
    assert [each.number for each in heard if isinstance(each, Acknowledge)] == [4, 8, 12, 16]


async def test_many_bundles_in_a_row_are_acknowledged_before_the_sender_must_stop(
    scene: Scene, autojump_clock: Clock
) -> None:
    stream, _ = await scene.stream()
    began = trio.current_time()
    acknowledged = 0
    for number in range(1, 1 + 10 * MAX_UNACKNOWLEDGED):
        while number - acknowledged > MAX_UNACKNOWLEDGED:  # as an Outbox: nothing more until something is acknowledged
            acknowledged = (await hear(stream)).number
        await say(stream, Bundle(number, (offer(number),)))
    await trio.sleep(0.1)
    assert trio.current_time() - began < 1.0
    assert len(scene.engine.offers()) == 10 * MAX_UNACKNOWLEDGED


async def test_what_was_not_acknowledged_is_repeated_on_the_next_stream(scene: Scene, autojump_clock: Clock) -> None:
    stream, _ = await scene.stream()
    for number in (1, 2, 3):
        scene.quote(offer(number))
        assert await hear(stream) == Bundle(number, (offer(number),))
    await say(stream, Acknowledge(1))
    stream.reset()
    await trio.sleep(0.1)
    scene.quote(offer(4))  # while nobody is there
    stream, _ = await scene.stream(seen_epoch=EPOCH, seen=2)
    assert [await hear(stream) for _ in range(3)] == [Bundle(3, (offer(3),)), Bundle(4, (offer(4),)), None]
    stream.reset()
    await trio.sleep(0.1)
    stream, _ = await scene.stream(epoch=b"\x10" * 16)  # the peer was restarted and knows nothing
    assert [await hear(stream) for _ in range(3)] == [Bundle(3, (offer(3),)), Bundle(4, (offer(4),)), None]


async def test_a_bundle_that_is_repeated_counts_once_and_the_resume_names_it(
    scene: Scene, autojump_clock: Clock
) -> None:
    stream, _ = await scene.stream()
    await say(stream, Bundle(1, (offer(1),)), Bundle(2, (offer(2),)), Bundle(2, (offer(3),)), Bundle(1, (offer(4),)))
    await trio.sleep(2)
    assert scene.engine.offers() == [offer(1), offer(2)]
    stream.reset()
    await trio.sleep(0.1)
    stream, theirs = await scene.stream()
    assert (theirs.seen_epoch, theirs.seen_number) == (OTHER_EPOCH, 2)
    await say(stream, Bundle(2, (offer(5),)), Bundle(4, (offer(6),)))  # a gap is lawful
    await trio.sleep(2)
    assert scene.engine.offers() == [offer(1), offer(2), offer(6)]
    stream.reset()
    stream, _ = await scene.stream(epoch=b"\x11" * 16)
    await say(stream, Bundle(1, (offer(7),)))  # another process counts anew
    await trio.sleep(2)
    assert scene.engine.offers() == [offer(1), offer(2), offer(6), offer(7)]


async def test_a_peer_that_acknowledges_nothing_is_sent_no_more_than_can_be_kept(
    scene: Scene, autojump_clock: Clock
) -> None:
    stream, _ = await scene.stream()
    for number in range(200):
        scene.quote(offer(number))
        await trio.sleep(0.01)
    bundles = [await hear(stream, 0.1) for _ in range(MAX_UNACKNOWLEDGED + 1)]
    assert [each.number for each in bundles[:-1]] == list(range(1, MAX_UNACKNOWLEDGED + 1))
    assert bundles[-1] is None
    await say(stream, Acknowledge(MAX_UNACKNOWLEDGED))
    last = await hear(stream)
    assert len(last.offers) == 200 - MAX_UNACKNOWLEDGED  # the rest has gathered in one


async def test_a_slow_reader_is_told_one_offer_per_hash_the_cheapest(scene: Scene, autojump_clock: Clock) -> None:
    raw = await scene.net.raw(scene.peer, scene.server.peer_id, PROTOCOL)
    await raw.write(frame(CODEC.encode(Resume(OTHER_EPOCH, NEVER, 0, True))))
    await trio.sleep(0.1)
    for first in range(0, 40 * MAX_BUNDLE, MAX_BUNDLE):  # more than the window and the queue hold
        scene.quote(*(offer(number, 10**11) for number in range(first, first + MAX_BUNDLE)))
    await trio.sleep(1)
    for amount in range(5000, 1000, -1):
        scene.quote(offer(999_999, amount), offer(999_998, amount))
    deframer, heard = Deframer(), []
    with trio.move_on_after(5):
        while True:
            heard += [CODEC.decode(each) for each in deframer.feed(await raw.read())]
    offers = [each for bundle in heard if isinstance(bundle, Bundle) for each in bundle.offers]
    assert [each for each in offers if each.payment_hash == hash_(999_999)] == [offer(999_999, 1001)]
    assert [each for each in offers if each.payment_hash == hash_(999_998)] == [offer(999_998, 1001)]


@pytest.mark.parametrize(
    "messages",
    [
        (Bundle(1, (offer(1),)),),
        (Resume(NEVER, NEVER, 0, True),),
        (Resume(OTHER_EPOCH, EPOCH, 7, True),),  # a bundle that was never sent
        (Resume(OTHER_EPOCH, NEVER, 0, True), Resume(OTHER_EPOCH, NEVER, 0, True)),
        (Resume(OTHER_EPOCH, NEVER, 0, True), Acknowledge(1)),
        (Resume(OTHER_EPOCH, NEVER, 0, True), Bundle(0, (offer(1),))),
    ],
)
async def test_a_broken_rule_ends_the_stream_and_the_engine_knows(
    scene: Scene, autojump_clock: Clock, messages: tuple[Any, ...]
) -> None:
    stream = await scene.peer.open_stream(scene.server.peer_id, PROTOCOL)
    await say(stream, *messages)
    await ended(stream)
    assert scene.service.sessions.broken == scene.server.counters.bad_messages == 1
    told = [type(event) for event in scene.engine.told]
    assert told in ([], [NeighbourUp, NeighbourDown])
    _, theirs = await scene.stream()  # and it may come back
    assert theirs.epoch == EPOCH


async def test_silence_before_the_first_message_ends_the_stream(scene: Scene, autojump_clock: Clock) -> None:
    stream = await scene.peer.open_stream(scene.server.peer_id, PROTOCOL)
    began = trio.current_time()
    await ended(stream)
    assert trio.current_time() - began == pytest.approx(10, abs=0.5)
    assert scene.engine.told == []


async def test_a_stop_ends_the_stream_in_peace(scene: Scene, autojump_clock: Clock) -> None:
    stream, _ = await scene.stream()
    await say(stream, Stop("I am going"))
    await ended(stream)
    assert scene.service.sessions.broken == 0
    assert isinstance(scene.engine.told[-1], NeighbourDown)


async def test_offers_of_one_that_is_no_neighbour_any_more_are_not_read(scene: Scene, autojump_clock: Clock) -> None:
    stream, _ = await scene.stream()
    scene.neighbour = False
    await say(stream, Bundle(1, (offer(1),)))
    await trio.sleep(1)
    assert scene.engine.offers() == []
    scene.service.forget(scene.peer.peer_id)
    await ended(stream)
    assert isinstance(scene.engine.told[-1], NeighbourDown)
    assert (scene.service._outboxes, scene.service._inboxes, scene.service._lines) == ({}, {}, {})


async def test_the_engines_timer_fires_and_a_later_order_replaces_it(scene: Scene, autojump_clock: Clock) -> None:
    scene.service.tell(Order((SetTimer(at=UnixTime(START + 100)),)))  # type: ignore[arg-type]
    await trio.sleep(50)
    scene.service.tell(Order((SetTimer(at=UnixTime(START + 60)),)))  # type: ignore[arg-type]
    await trio.sleep(100)
    assert scene.engine.told == [TimerFired(now=UnixTime(START + 60))]


# --- whole exchanges --------------------------------------------------------------------------------------------------


class Router:
    """A node's routing, all of it."""

    def __init__(self, host: MemoryHost, *, routes: bool = True, rates: tuple[Rate, ...] = ()) -> None:
        self.host = host
        self.arrived: list[OfferArrived] = []
        config = RoutingConfig(routes=routes, fee=FEE, rates=rates, delta=BlockDelta(6))
        self.neighbours: set[PeerId] = set()
        self.service = RoutingService(
            host=host,
            engine=Engine(config, host.peer_id),
            epoch=host.peer_id[1:17],
            routes=routes,
            now=now,
            is_neighbour=self.neighbours.__contains__,
            subscriptions=lambda effect: None,
            offer_arrived=self.arrived.append,
        )

    def channel(self, other: "Router", asset: Any, *, ours: int = 10**9, theirs: int = 10**9) -> None:
        self.neighbours.add(other.host.peer_id)
        self.service.tell(liquidity(other.host.peer_id, ours=ours, theirs=theirs, asset=asset))

    def is_up(self, other: "Router") -> bool:
        return other.host.peer_id in self.service._lines


async def chain(net: Net, *routers: Router, assets: tuple[Any, ...]) -> None:
    for (one, other), asset in zip(pairwise(routers), assets, strict=True):
        one.channel(other, asset)
        other.channel(one, asset)
    net.spawn(*(router.service for router in routers))
    for one, other in pairwise(routers):
        await net.link(one.host, other.host)
        await until(lambda one=one, other=other: one.is_up(other) and other.is_up(one))  # type: ignore[misc]


def flood(amount: Amount, number: int = 1) -> FloodRequested:
    return FloodRequested(
        payment_hash=hash_(number),
        amount=amount,
        lock_blocks=BlockDelta(9),
        hops=5,
        ceiling=Amount(Msat(10**11), COIN),
        expiry=UnixTime(START + 300),
        now=now(),
    )


def wanted(number: int = 1) -> OffersWanted:
    return OffersWanted(payment_hash=hash_(number), expiry=UnixTime(START + 300), now=now())


async def test_an_offer_travels_from_payee_to_payer_and_each_node_on_the_way_adds_its_fee(
    net: Net, autojump_clock: Clock
) -> None:
    payer, one, two, payee = [Router(await net.host(number)) for number in range(4)]
    await chain(net, payer, one, two, payee, assets=(COIN, COIN, COIN))
    payer.service.tell(wanted())
    payee.service.tell(flood(Amount(Msat(1_000_001), COIN)))
    await until(lambda: bool(payer.arrived))
    first = 1_000_001 + 10 + 1001  # 1000.001 of fee is 1001
    second = first + 10 + 1002
    (arrived,) = payer.arrived
    assert (arrived.neighbour, arrived.offer.amount_msat) == (one.host.peer_id, second)
    assert arrived.offer.lock_blocks == 9 + 6 + 6


async def test_an_offer_made_while_the_link_was_cut_arrives_after_it(net: Net, autojump_clock: Clock) -> None:
    payer, one, payee = [Router(await net.host(number)) for number in range(3)]
    await chain(net, payer, one, payee, assets=(COIN, COIN))
    payer.service.tell(wanted())
    net.network.part(payer.host.peer_id, one.host.peer_id)
    await until(lambda: not payer.is_up(one) and not one.is_up(payer))
    payee.service.tell(flood(Amount(Msat(5000), COIN)))
    await trio.sleep(1)
    assert payer.arrived == []
    net.network.heal()
    await net.link(payer.host, one.host)
    await until(lambda: bool(payer.arrived))
    assert payer.arrived[0].offer.amount_msat == 5000 + 10 + 5


@pytest.mark.parametrize("amount", [1, 999, 1001, 123_456_789])
@pytest.mark.parametrize(("numerator", "denominator"), [(7, 3), (3, 7), (1, 1_000_000), (64_001, 1)])
async def test_a_node_with_channels_in_two_assets_converts_at_its_own_rate_and_rounds_up(
    net: Net, autojump_clock: Clock, amount: int, numerator: int, denominator: int
) -> None:
    rate = Rate(downstream=GOLD, upstream=COIN, numerator=numerator, denominator=denominator)
    payer, middle, payee = (
        Router(await net.host(0)),
        Router(await net.host(1), rates=(rate,)),
        Router(await net.host(2)),
    )
    await chain(net, payer, middle, payee, assets=(COIN, GOLD))
    for one, other, asset in ((payer, middle, COIN), (middle, payer, COIN)):
        one.channel(other, asset, ours=10**14, theirs=10**14)
    payer.service.tell(wanted())
    event = flood(Amount(Msat(amount), GOLD))
    ceiling = Amount(Msat(10**14), COIN)
    payee.service.tell(
        FloodRequested(**{name: getattr(event, name) for name in event.__slots__} | {"ceiling": ceiling})
    )
    await until(lambda: bool(payer.arrived))
    fee = 10 + Fraction(amount * 1000, 1_000_000)
    exact = (amount + fee) * Fraction(numerator, denominator)
    (arrived,) = payer.arrived
    assert (arrived.neighbour, arrived.offer.asset) == (middle.host.peer_id, COIN)
    assert exact <= arrived.offer.amount_msat < exact + 1
    # The node that will carry it sees the same: sent so much COIN, it can bring the GOLD on.
    kept = middle.service.engine.offers(PaymentHash(hash_(1)), payer.host.peer_id, COIN, now())
    assert [(each.amount, each.quote) for each in kept] == [
        (Amount(Msat(amount), GOLD), Amount(Msat(arrived.offer.amount_msat), COIN))
    ]


async def test_a_node_without_a_rate_does_not_convert(net: Net, autojump_clock: Clock) -> None:
    back = Rate(downstream=COIN, upstream=GOLD, numerator=1, denominator=2)  # the way back is a rate of its own
    payer, middle, payee = (
        Router(await net.host(0)),
        Router(await net.host(1), rates=(back,)),
        Router(await net.host(2)),
    )
    await chain(net, payer, middle, payee, assets=(COIN, GOLD))
    payer.service.tell(wanted())
    payee.service.tell(flood(Amount(Msat(5000), GOLD)))
    await trio.sleep(60)
    assert payer.arrived == []


async def test_what_the_payers_side_could_not_pay_after_conversion_is_not_offered(
    net: Net, autojump_clock: Clock
) -> None:
    rate = Rate(downstream=GOLD, upstream=COIN, numerator=100, denominator=1)
    payer, middle, payee = (
        Router(await net.host(0)),
        Router(await net.host(1), rates=(rate,)),
        Router(await net.host(2)),
    )
    await chain(net, payer, middle, payee, assets=(COIN, GOLD))
    quote = (5000 + 10 + 5) * 100
    middle.channel(payer, COIN, theirs=quote - 1)  # plenty of GOLD's 5000, too little COIN
    payer.service.tell(wanted())
    payee.service.tell(flood(Amount(Msat(5000), GOLD)))
    await trio.sleep(5)
    assert payer.arrived == []
    middle.channel(payer, COIN, theirs=quote)
    await until(lambda: bool(payer.arrived))
    assert payer.arrived[0].offer.amount_msat == quote


async def test_a_reader_that_stops_is_dropped_and_the_node_goes_on(net: Net, autojump_clock: Clock) -> None:
    server, peer = await net.host(1, config=HostConfig(stall_after=5)), await net.host(0)
    scene = Scene(net, server, peer)
    net.spawn(scene.service)
    await net.link(peer, server)
    raw = await net.raw(peer, server.peer_id, PROTOCOL)
    await raw.write(frame(CODEC.encode(Resume(OTHER_EPOCH, NEVER, 0, True))))
    await trio.sleep(0.1)
    for first in range(0, 40 * MAX_BUNDLE, MAX_BUNDLE):
        scene.quote(*(offer(number) for number in range(first, first + MAX_BUNDLE)))
    await until(lambda: server.counters.stalled_streams == 1, within=30)
    await until(lambda: isinstance(scene.engine.told[-1], NeighbourDown))
    outbox = scene.service._outboxes[peer.peer_id]
    assert outbox.queued <= 8192
    assert outbox.unacknowledged <= MAX_UNACKNOWLEDGED
