"""`/rr/subscribe/1`: clients ask a routing server for the offers they care about (seed, "Routing server").

Two parts. The server keeps, per subscriber, a queue with one offer per hash, and waits for no client: a slow one is
told less, and later, but never costs more. The client holds a stream to each of its routing servers and repeats its
subscriptions whenever a stream begins, so that a reconnect loses nothing that is still on offer.
"""

from collections.abc import Callable
from itertools import count, islice

import structlog
import trio

from protocols.errors import PeerProtocolError
from protocols.ids import PaymentHash, PeerId
from protocols.routing.bundles import OfferQueue
from protocols.routing.events import (
    BundleReceived,
    FeedOffers,
    PushOffers,
    RoutingEvent,
    Subscribed,
    SubscriberGone,
    SubscriptionAccepted,
    SubscriptionRefused,
    Unsubscribed,
)
from protocols.routing.feed import Feed
from protocols.units import UnixTime
from protocols.wire.routing import RoutingMessage
from protocols.wire.subscribe import (
    CODEC,
    MAX_FILTERS,
    MAX_PREFIXES,
    MAX_SECONDS,
    PROTOCOL,
    Accepted,
    Answer,
    Fed,
    Follow,
    Following,
    Offers,
    Prefix,
    Query,
    RefusalCode,
    Refused,
    Stop,
    Subscribe,
    Unsubscribe,
)
from rrnode.errors import LinkClosed
from rrnode.host.base import FrameStream, Host
from rrnode.host.peer_text import to_text
from rrnode.services.limits import Allowance, arrivals, printable
from rrnode.services.sessions import Sessions

log = structlog.get_logger(__name__)

Tell = Callable[[RoutingEvent], None]

MOST_ANSWERS = 16  # to requests of one subscriber, not yet written; beyond it we read no further request
PAUSE = 0.2  # seconds in which one who asks too fast is not read: a refusal costs us as much as it costs to ask
FIRST_REPEAT = 0.5  # seconds before subscriptions that were refused are asked for again; doubles
LAST_REPEAT = 30.0
RENEW_EVERY = MAX_SECONDS / 3  # seconds: a filter ends after `MAX_SECONDS`, a payee may sleep for longer
MOST_ASKED = 1024  # requests that a server has not answered; then it never will


class _Subscriber:
    """What waits for one subscriber: control answers first, then offers, then what it follows from a number on."""

    __slots__ = ("answers", "follows", "offers", "stream", "wake", "written")

    def __init__(self, stream: FrameStream) -> None:
        self.stream = stream
        self.answers: list[Accepted | Refused | Answer | Following] = []  # one per request, which are read one by one
        self.offers = OfferQueue()
        self.follows: int | None = None  # the number of the next bundle of the full feed
        self.wake = trio.Event()
        self.written = trio.Event()  # the writer has taken the answers that waited

    def was_too_fast(self) -> bool:
        """Whether its last request was refused for coming too soon."""
        last = self.answers[-1] if self.answers else None
        return isinstance(last, Refused) and last.code == RefusalCode.TOO_FAST


class SubscriptionServer:
    """Serves subscriptions of channel neighbours; the matching is the routing engine's.

    Args:
        host: the links.
        tell: gives an event to the routing engine.
        answer: the best quotes for these hashes now, priced for this peer.
        now: unix time.
        most: subscribers at once; one more is told so.
        is_neighbour: whether there is a channel with this peer; a stranger is told so and takes nobody's place.
        followers: who may follow the full feed, neighbour or not.
        first_number: of the feed (`Feed`).
    """

    def __init__(
        self,
        *,
        host: Host,
        tell: Tell,
        answer: Callable[[PeerId, tuple[PaymentHash, ...], UnixTime], tuple[RoutingMessage, ...]],
        now: Callable[[], UnixTime],
        most: int,
        is_neighbour: Callable[[PeerId], bool] = lambda peer: True,
        followers: frozenset[PeerId] = frozenset(),
        first_number: int = 1,
    ) -> None:
        self._tell, self._answer, self._now, self._most = tell, answer, now, most
        self._is_neighbour, self._followers = is_neighbour, followers
        self._feed = Feed(first_number)
        self._subscribers: dict[PeerId, _Subscriber] = {}
        self._queries = Allowance(per_key=5, burst=20, total=2000)
        self._arrivals = arrivals()
        host.handle(PROTOCOL, self._serve)

    def __len__(self) -> int:
        return len(self._subscribers)

    def perform(self, effect: PushOffers | FeedOffers | SubscriptionAccepted | SubscriptionRefused) -> None:
        """Queue what the engine has for subscribers; never waits."""
        if isinstance(effect, FeedOffers):
            self._feed.put(effect.offers)
            for peer in self._followers & self._subscribers.keys():
                self._subscribers[peer].wake.set()
            return
        subscriber = self._subscribers.get(effect.subscriber)
        if subscriber is None:
            return
        match effect:
            case PushOffers():
                subscriber.offers.put(effect.offers)
            case SubscriptionAccepted():
                subscriber.answers.append(Accepted(effect.request, effect.filters_left))
            case SubscriptionRefused():
                subscriber.answers.append(Refused(effect.request, effect.code, effect.reason[:256]))
        subscriber.wake.set()

    async def _serve(self, stream: FrameStream) -> None:
        peer = stream.peer
        if not self._arrivals.take(peer):
            await stream.send(CODEC.encode(Stop(RefusalCode.TOO_FAST, "too many streams; wait some seconds")))
            return
        if not self._is_neighbour(peer) and peer not in self._followers:
            await stream.send(CODEC.encode(Stop(RefusalCode.NO_CHANNEL, "subscriptions are for channel neighbours")))
            return
        if len(self._subscribers) >= self._most and peer not in self._subscribers:
            await stream.send(CODEC.encode(Stop(RefusalCode.TOO_FAST, "this server has all the clients it can serve")))
            return
        if older := self._subscribers.get(peer):
            older.stream.reset()
            self._tell(SubscriberGone(subscriber=peer, now=self._now()))
        subscriber = self._subscribers[peer] = _Subscriber(stream)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, subscriber)
                await self._read(subscriber)
                nursery.cancel_scope.cancel()
        finally:
            if self._subscribers.get(peer) is subscriber:
                del self._subscribers[peer]
                self._tell(SubscriberGone(subscriber=peer, now=self._now()))

    async def _read(self, subscriber: _Subscriber) -> None:
        peer = subscriber.stream.peer
        while True:
            message = CODEC.decode(await subscriber.stream.receive())
            now = self._now()
            match message:
                case Subscribe():
                    self._tell(
                        Subscribed(
                            subscriber=peer,
                            request=message.request,
                            hashes=tuple(PaymentHash(each) for each in message.hashes),
                            prefixes=message.prefixes,
                            until=UnixTime(now + min(message.seconds, MAX_SECONDS)),
                            now=now,
                        )
                    )
                case Unsubscribe():
                    self._tell(
                        Unsubscribed(
                            subscriber=peer,
                            request=message.request,
                            hashes=tuple(PaymentHash(each) for each in message.hashes),
                            prefixes=message.prefixes,
                            now=now,
                        )
                    )
                case Query():
                    self._query(subscriber, message, now)
                case Follow():
                    self._follow(subscriber, message)
                case Stop():
                    return
                case _:
                    raise PeerProtocolError(f"{type(message).__name__} from a subscriber")
            subscriber.wake.set()
            if subscriber.was_too_fast():
                await trio.sleep(PAUSE)  # what it sends meanwhile waits unread, and then with its sender
            await trio.lowlevel.checkpoint()
            while len(subscriber.answers) >= MOST_ANSWERS:  # it asks without reading what it is told
                await subscriber.written.wait()

    def _query(self, subscriber: _Subscriber, message: Query, now: UnixTime) -> None:
        peer = subscriber.stream.peer
        if not self._queries.take(peer):
            reason = "more than 5 queries a second; hold a subscription instead"
            subscriber.answers.append(Refused(message.request, RefusalCode.TOO_FAST, reason))
            return
        hashes = tuple(PaymentHash(each) for each in message.hashes)
        subscriber.answers.append(Answer(message.request, self._answer(peer, hashes, now)))

    def _follow(self, subscriber: _Subscriber, message: Follow) -> None:
        if subscriber.stream.peer not in self._followers:
            reason = "the full feed is only for keys that this server's owner lists"
            subscriber.answers.append(Refused(message.request, RefusalCode.NOT_LISTED, reason))
        elif subscriber.follows is not None:
            reason = "this stream follows already"
            subscriber.answers.append(Refused(message.request, RefusalCode.BAD_REQUEST, reason))
        else:
            subscriber.follows = first = self._feed.from_number(message.from_number)
            subscriber.answers.append(Following(message.request, first))

    async def _write(self, subscriber: _Subscriber) -> None:
        """One write at a time: while it goes out, cheaper offers replace those that wait."""
        stream = subscriber.stream
        numbers = count(1)
        while True:
            subscriber.wake = wake = trio.Event()
            answers, subscriber.answers = subscriber.answers, []
            subscriber.written.set()
            subscriber.written = trio.Event()
            for answer in answers:
                await stream.send(CODEC.encode(answer))
            offers = subscriber.offers.take(self._now())
            if offers:
                await stream.send(CODEC.encode(Offers(next(numbers), offers)))
            fed = None if subscriber.follows is None else self._feed.take(subscriber.follows)
            if fed is not None:
                subscriber.follows = fed[0] + 1
                await stream.send(CODEC.encode(Fed(*fed)))
            if answers or offers:
                await stream.flush()
            elif fed is None:  # bundles of the feed that wait leave together, as fast as they are read
                await wake.wait()


class _Held:
    """Our stream to one server.

    Attributes:
        asked: requests that are not answered yet.
        refused: something was refused: the whole list shall be repeated.
    """

    __slots__ = ("asked", "refused", "stream")

    def __init__(self, stream: FrameStream) -> None:
        self.stream = stream
        self.asked: dict[int, None] = {}
        self.refused = trio.Event()


class SubscriptionClient:
    """Keeps our subscriptions at each of our routing servers.

    Args:
        host: the links.
        tell: gives an event to the routing engine: a pushed offer is an offer of that neighbour.
        is_server: whether this peer is a channel neighbour that routes and that we subscribe at.
        now: unix time.
        prefix_bits: ask for all hashes that begin like ours in so many bits, so that a server learns no more; 0: for the
            hash itself. What comes for others' hashes goes no further.
    """

    def __init__(
        self,
        *,
        host: Host,
        tell: Tell,
        is_server: Callable[[PeerId], bool],
        now: Callable[[], UnixTime],
        prefix_bits: int = 0,
    ) -> None:
        self._tell, self._now, self._bits = tell, now, prefix_bits
        self._wanted: dict[PaymentHash, UnixTime] = {}
        self._requests = count(1)
        self._held: dict[PeerId, _Held] = {}
        self.refusals: dict[PeerId, str] = {}
        self.sessions = Sessions(host=host, protocol=PROTOCOL, session=self._session, needed=is_server, serves=None)

    async def run(self) -> None:
        """Hold the streams until cancelled."""
        await self.sessions.run()

    def want(self, payment_hash: PaymentHash, until: UnixTime) -> None:
        """Subscribe to this hash everywhere, now and after every reconnect."""
        self._wanted[payment_hash] = until
        for held in tuple(self._held.values()):
            self._say(held, self._subscribe((payment_hash,), until))

    def forget(self, payment_hash: PaymentHash) -> None:
        """End the subscription everywhere."""
        if self._wanted.pop(payment_hash, None) is None:
            return
        hashes, prefixes = self._filters((payment_hash,))
        if self._bits and any(self._filters((other,))[1] == prefixes for other in self._wanted):
            return  # another hash of ours begins likewise
        for held in tuple(self._held.values()):
            self._say(held, Unsubscribe(self._number(), hashes, prefixes))

    def servers(self) -> int:
        """How many servers hold our subscriptions now."""
        return len(self._held)

    def _number(self) -> int:
        return next(self._requests) & 0xFFFF_FFFF

    def _filters(self, hashes: tuple[PaymentHash, ...]) -> tuple[tuple[PaymentHash, ...], tuple[Prefix, ...]]:
        """What is asked for: exact hashes, or prefixes that they share with others."""
        if not self._bits:
            return hashes, ()
        return (), tuple(dict.fromkeys(prefix_of(each, self._bits) for each in hashes))

    def _subscribe(self, hashes: tuple[PaymentHash, ...], until: UnixTime) -> Subscribe:
        if self._bits:  # a server keeps the newest end of a filter: one that hashes share lasts as long as any of them
            until = max(self._wanted.values())
        seconds = min(MAX_SECONDS, max(1, until - self._now()))
        return Subscribe(self._number(), *self._filters(hashes), seconds)

    def _say(self, held: _Held, message: Subscribe | Unsubscribe) -> None:
        try:
            held.stream.send_nowait(CODEC.encode(message))
        except (LinkClosed, trio.WouldBlock):
            held.stream.reset()  # opened anew, the whole list is repeated
        held.asked[message.request] = None
        if len(held.asked) > MOST_ASKED:
            held.stream.reset()

    def _say_all(self, held: _Held) -> None:
        now = self._now()
        self._wanted = {each: until for each, until in self._wanted.items() if until > now}
        waiting = iter(self._wanted)
        while hashes := tuple(islice(waiting, MAX_PREFIXES if self._bits else MAX_FILTERS)):
            self._say(held, self._subscribe(hashes, max(self._wanted[each] for each in hashes)))

    async def _session(self, stream: FrameStream) -> None:
        held = _Held(stream)
        self._held[stream.peer] = held
        self._say_all(held)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._repeat, held)
                nursery.start_soon(self._renew, held)
                await self._read(held)
                nursery.cancel_scope.cancel()
        finally:
            if self._held.get(stream.peer) is held:
                del self._held[stream.peer]

    async def _repeat(self, held: _Held) -> None:
        """A server refuses while it takes us for a stranger (our channel is not re-established yet) or for too eager:
        ask again, later each time. To ask for what is held already only renews it."""
        delay = FIRST_REPEAT
        while True:
            await held.refused.wait()
            await trio.sleep(delay)
            delay = min(2 * delay, LAST_REPEAT)
            held.refused = trio.Event()
            self._say_all(held)

    async def _renew(self, held: _Held) -> None:
        while True:
            await trio.sleep(RENEW_EVERY)
            self._say_all(held)

    def _ours(self, offers: tuple[RoutingMessage, ...]) -> tuple[RoutingMessage, ...]:
        if not self._bits:
            return offers
        return tuple(each for each in offers if PaymentHash(each.payment_hash) in self._wanted)

    async def _read(self, held: _Held) -> None:
        stream = held.stream
        while True:
            match CODEC.decode(await stream.receive()):
                case Offers(offers=offers):
                    if ours := self._ours(offers):
                        self._tell(BundleReceived(neighbour=stream.peer, offers=ours, now=self._now()))
                    await trio.lowlevel.checkpoint()
                case Accepted(request=request):
                    self._answered(held, request)
                    self.refusals.pop(stream.peer, None)
                case Refused(request=request, reason=reason):
                    self._answered(held, request)
                    self._refused(stream.peer, reason)
                    held.refused.set()
                case Stop(reason=reason):
                    self._refused(stream.peer, reason)
                    return
                case other:
                    raise PeerProtocolError(f"{type(other).__name__} from a routing server")

    def _answered(self, held: _Held, request: int) -> None:
        if request not in held.asked:
            raise PeerProtocolError(f"an answer to request {request}, which is not open")
        del held.asked[request]

    def _refused(self, peer: PeerId, reason: str) -> None:
        if peer not in self.refusals:
            log.warning("a routing server refused a subscription", peer=to_text(peer), reason=printable(reason))
        self.refusals[peer] = printable(reason)


def prefix_of(payment_hash: PaymentHash, bits: int) -> Prefix:
    """The first bits of a hash, as they are asked for."""
    size = (bits + 7) // 8
    spare = 8 * size - bits
    number = int.from_bytes(payment_hash[:size], "big") >> spare << spare
    return Prefix(bits, number.to_bytes(size, "big"))
