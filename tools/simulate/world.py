"""Many nodes in one process under virtual time: one queue of what happens next, delays drawn per link, no clock.

What is real: every routing message and every decision about money, made by `protocols.routing.engine` and
`protocols.payment.engine` of each node; the payer's waiting (`protocols.payment.payer`), the payee's judgement
(`protocols.payment.payee`); the bytes of bundles, as encoded. What is modelled: channels (`light`); links, which delay and
never lose; bundles, which leave at once; processing, which takes no time; initializations, which arrive unsealed; prices (`_wired`).
"""

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from protocols.channel.events import MessageReceived
from protocols.channel.state import Channel
from protocols.facts import Facts
from protocols.ids import ChannelId, PaymentHash, PeerId
from protocols.payment.events import Forward, Payment
from protocols.routing.events import BundleReceived, NeighbourUp, OfferArrived, SendOffers
from protocols.routing.pricing import FeePolicy
from protocols.units import BlockDelta, FeeRate, Msat, UnixTime
from protocols.wire.channel import ChannelMessage
from protocols.wire.routing import CODEC, Bundle, RoutingMessage
from tools.simulate import light
from tools.simulate.graph import Direction, Graph
from tools.simulate.oracle import Oracle
from tools.simulate.station import COIN, Station, id_of

START = UnixTime(1_700_000_000)
_NUMBER = 1000  # of a bundle, where its size is taken
SECOND = 1_000_000  # virtual time is counted in microseconds


@dataclass(slots=True)
class Traffic:
    """What all nodes sent.

    Attributes:
        offers, bundles, offer_bytes: of `/rr/routing/1`.
        updates, update_bytes: of `/rr/channel/1`, as the real channel engine would send them.
    """

    offers: int = 0
    bundles: int = 0
    offer_bytes: int = 0
    updates: int = 0
    update_bytes: int = 0


@dataclass(slots=True)
class Watching:
    """Whoever drives a payment hears of it here."""

    arrived: Callable[[OfferArrived], None]
    changed: Callable[[Payment], None]
    offers: int = 0
    carriers: list[str] = field(default_factory=list)


class World:
    """Nodes, links between them, and what happens next.

    Args:
        graph: with a balance in every channel.
        rng: for delays and the engines' entropy.
        delays: one way over a link, milliseconds, from and to; uniform.
    """

    def __init__(self, graph: Graph, rng: random.Random, delays: tuple[int, int] = (20, 100)) -> None:
        self._rng, self._delays = rng, delays
        self._at = 0
        self.now = START  # as the nodes' clocks show it
        self._serial = 0
        self._queue: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._watching: dict[PaymentHash, Watching] = {}
        self._measured: tuple[RoutingMessage | None, int] = (None, 0)
        self.traffic = Traffic()
        channels, asks, deltas = _wired(graph)
        self.stations = {
            id_of(name): Station(self, name, channels[name], asks[id_of(name)], deltas[name]) for name in graph.nodes
        }
        self.oracle = Oracle({peer: each.room for peer, each in self.stations.items()}, asks)
        self._delay: dict[tuple[PeerId, PeerId], int] = {}
        self._connect(graph)

    def _connect(self, graph: Graph) -> None:
        for station in self.stations.values():
            station.start()
        for edge in graph.edges:
            one, other = (id_of(name) for name in edge.ends)
            if (one, other) not in self._delay:
                self._delay[one, other] = self._delay[other, one] = self.delay()
                self.stations[one].tell(NeighbourUp(neighbour=other, routes=True, now=self.now))
                self.stations[other].tell(NeighbourUp(neighbour=one, routes=True, now=self.now))

    def __getitem__(self, name: str) -> Station:
        return self.stations[id_of(name)]

    # --- time ---------------------------------------------------------------------------------------------------------

    @property
    def milliseconds(self) -> int:
        """Since the start."""
        return self._at // 1000

    def delay(self) -> int:
        """One way over some link, microseconds."""
        least, most = self._delays
        return self._rng.randint(least * 1000, most * 1000)

    def after(self, microseconds: int, call: Callable[..., object], *arguments: Any) -> None:
        """Call later."""
        self._serial += 1
        heapq.heappush(self._queue, (self._at + microseconds, self._serial, call, arguments))

    def wake(self, at: UnixTime, call: Callable[[], None]) -> None:
        """Call when the clocks show this time."""
        self.after(max(0, (at - START) * SECOND - self._at), call)

    def run(self, until: int | None = None) -> None:
        """Let everything happen, or what happens before this time (microseconds), in its order."""
        queue = self._queue
        while queue and (until is None or queue[0][0] < until):
            at, _, call, arguments = heapq.heappop(queue)
            self._set_clock(at)
            call(*arguments)
        if until is not None:
            self._set_clock(max(self._at, until))

    def _set_clock(self, at: int) -> None:
        self._at = at
        self.now = UnixTime(START + at // SECOND)

    def facts(self) -> Facts:
        """For one event of a money engine."""
        return Facts(now=self.now, tip=light.TIP, feerate=FeeRate(1000), entropy=self._rng.randbytes(32))

    # --- what nodes send ----------------------------------------------------------------------------------------------

    def offers(self, sender: Station, effect: SendOffers) -> None:
        """A bundle leaves."""
        offers, traffic, watched = effect.offers, self.traffic, self._watching
        traffic.offers += len(offers)
        traffic.bundles += 1
        traffic.offer_bytes += self._size(offers)
        for offer in offers:
            if (watching := watched.get(PaymentHash(offer.payment_hash))) is not None:
                watching.offers += 1
        receiver = self.stations[effect.neighbour]
        self.after(self._delay[sender.id, receiver.id], self._bundle, receiver, sender.id, offers)

    def _size(self, offers: tuple[RoutingMessage, ...]) -> int:
        """Bytes of a bundle. One quote goes to many neighbours, so the last one is remembered."""
        offer, *more = offers
        if not more and offer is self._measured[0]:
            return self._measured[1]
        size = len(CODEC.encode(Bundle(number=_NUMBER, offers=offers)))
        if not more:
            self._measured = offer, size
        return size

    def _bundle(self, receiver: Station, sender: PeerId, offers: Any) -> None:
        receiver.tell(BundleReceived(neighbour=sender, offers=offers, now=self.now))

    def update(self, sender: Station, peer: PeerId, message: ChannelMessage) -> None:
        """An update of a channel leaves; it counts when the dance around it is over."""
        messages, size = light.cost(message)
        self.traffic.updates += messages
        self.traffic.update_bytes += size
        trips = light.one_way_trips(message)
        received = MessageReceived(peer=sender.id, message=message)
        self.after(trips * self._delay[sender.id, peer], self.stations[peer].give, received)

    # --- what whoever drives a payment hears --------------------------------------------------------------------------

    def watch(self, payment_hash: PaymentHash, watching: Watching) -> None:
        """Tell of this payment from now on."""
        self._watching[payment_hash] = watching

    def arrived(self, effect: OfferArrived) -> None:
        """A payer has an offer."""
        watching = self._watching.get(PaymentHash(effect.offer.payment_hash))
        if watching is not None:
            watching.arrived(effect)

    def changed(self, payment: Payment) -> None:
        """A payer's engine says how a payment stands."""
        watching = self._watching.get(payment.payment_hash)
        if watching is not None:
            watching.changed(payment)

    def carried(self, station: Station, forward: Forward) -> None:
        """A node has carried a payment on."""
        watching = self._watching.get(forward.payment_hash)
        if watching is not None:
            watching.carriers.append(station.name)


def _wired(
    graph: Graph,
) -> tuple[dict[str, list[Channel]], dict[PeerId, dict[PeerId, FeePolicy]], dict[str, BlockDelta]]:
    """Each node's channels, what it asks of each neighbour, and its blocks between two locks.

    An engine asks by who sends (R2); a list prices by who is sent to. So that every way keeps its price, the price of
    *source to target* is what target asks of source: on a path the first way is paid for and the last is not, where
    Lightning has it the other way round. Where two nodes share several channels, the largest one's price counts.
    """
    channels: dict[str, list[Channel]] = {name: [] for name in graph.nodes}
    ways: dict[tuple[PeerId, PeerId], Direction] = {}
    asks: dict[PeerId, dict[PeerId, FeePolicy]] = {id_of(name): {} for name in graph.nodes}
    deltas: dict[str, Counter[BlockDelta]] = {name: Counter() for name in graph.nodes}
    for number, edge in enumerate(graph.edges):
        channel_id = ChannelId(hashlib.sha256(b"channel %d" % number).digest())
        there, back = edge.sides()
        for (name, other, way, balance), theirs in ((there, back), (back, there)):
            most = tuple(each.most if each is not None else Msat(0) for each in (way, theirs[2]))
            channels[name].append(light.opened(channel_id, id_of(other), COIN, edge.capacity, balance, *most))
            pair = id_of(name), id_of(other)
            asks[pair[1]].setdefault(pair[0], FeePolicy())
            if way is not None:
                deltas[name][way.delta] += 1
                if pair not in ways or ways[pair].most < way.most:
                    ways[pair] = way
    for (sender, asker), way in ways.items():
        asks[asker][sender] = way.fee
    return channels, asks, {name: _usual(counted) for name, counted in deltas.items()}


def _usual(counted: Counter[BlockDelta]) -> BlockDelta:
    """The most common one; the engine wants at least 1."""
    ((delta, _),) = counted.most_common(1) or ((BlockDelta(40), 0),)
    return BlockDelta(min(max(delta, 1), 2016))
