"""`/rr/routing/1`: bundles between channel neighbours, and the runtime of the routing engine (DESIGN 3, 4).

The engine is soft state and its `handle` never waits, so it is called in place by whoever has an event: nothing can come
between an event and its effects. A reader takes its next frame only when the last one is dealt with, which is the
back-pressure. Nothing here touches the disk.
"""

from collections.abc import Callable, Sequence

import trio

from protocols.errors import PeerProtocolError
from protocols.ids import PeerId
from protocols.routing.bundles import Inbox, Outbox
from protocols.routing.engine import Engine
from protocols.routing.events import (
    BundleReceived,
    FeedOffers,
    NeighbourDown,
    NeighbourUp,
    OfferArrived,
    PushOffers,
    RoutingEffect,
    RoutingEvent,
    SendOffers,
    SetTimer,
    SubscriptionAccepted,
    SubscriptionRefused,
    TimerFired,
)
from protocols.routing.views import Judged
from protocols.units import UnixTime
from protocols.wire.routing import CODEC, PROTOCOL, Acknowledge, Bundle, Resume, Stop
from rrnode.host.base import FrameStream, Host
from rrnode.services.sessions import Sessions

ACKNOWLEDGE_WITHIN = 1.0  # seconds; a quiet link acknowledges this late, so that a lone offer costs one write, not two
ACKNOWLEDGE_AFTER = 16  # bundles taken; a quarter of what a sender keeps before it stops (`MAX_UNACKNOWLEDGED`)
FIRST_MESSAGE_WITHIN = 10.0  # seconds for the peer's Resume

SubscriptionEffect = PushOffers | FeedOffers | SubscriptionAccepted | SubscriptionRefused


class _Line:
    """What wakes the writer of one stream, and what it owes the peer.

    Attributes:
        wake: there is something to write, or a bundle was taken.
        owed: bundles taken and not acknowledged.
        due: when they are, at the latest; trio's clock.
    """

    __slots__ = ("due", "owed", "wake")

    def __init__(self) -> None:
        self.wake = trio.Event()
        self.owed = 0
        self.due = 0.0

    def taken(self) -> None:
        if self.owed == 0:
            self.due = trio.current_time() + ACKNOWLEDGE_WITHIN
        self.owed += 1
        if self.owed in (1, ACKNOWLEDGE_AFTER):
            self.wake.set()

    def must_acknowledge(self) -> bool:
        return self.owed >= ACKNOWLEDGE_AFTER or (self.owed > 0 and trio.current_time() >= self.due)

    async def sleep(self) -> None:
        """Until there is something to do."""
        with trio.move_on_at(self.due) if self.owed else trio.CancelScope():
            await self.wake.wait()


class RoutingService:
    """Runs the routing engine and its bundles.

    Args:
        host: the links.
        engine: the routing engine.
        epoch: 16 random bytes, drawn at the start of the process.
        routes: whether this node forwards; told to neighbours (R13).
        now: unix time.
        is_neighbour: whether there is a channel with this peer.
        subscriptions: where effects for subscribers go.
        offer_arrived: where offers for hashes that we want to pay go.
        traced: told of every event, with its effects and what became of each offer (`RoutingConfig.judges`).
    """

    def __init__(
        self,
        *,
        host: Host,
        engine: Engine,
        epoch: bytes,
        routes: bool,
        now: Callable[[], UnixTime],
        is_neighbour: Callable[[PeerId], bool],
        subscriptions: Callable[[SubscriptionEffect], None],
        offer_arrived: Callable[[OfferArrived], None],
        traced: Callable[[RoutingEvent, Sequence[RoutingEffect], Sequence[Judged]], None] | None = None,
    ) -> None:
        self.engine = engine
        self._epoch, self._routes, self._now = epoch, routes, now
        self._is_neighbour = is_neighbour
        self._subscriptions, self._offer_arrived = subscriptions, offer_arrived
        self._traced = traced
        self._outboxes: dict[PeerId, Outbox] = {}
        self._inboxes: dict[PeerId, Inbox] = {}
        self._lines: dict[PeerId, _Line] = {}
        self._timer_at: UnixTime | None = None
        self._timer_changed = trio.Event()
        self.sessions = Sessions(
            host=host, protocol=PROTOCOL, session=self._session, needed=is_neighbour, serves=is_neighbour
        )

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.sessions.run)
            nursery.start_soon(self._timer)

    def tell(self, event: RoutingEvent) -> None:
        """Give the engine an event and do what follows; never waits."""
        effects = self.engine.handle(event)
        if self._traced is not None:
            self._traced(event, effects, self.engine.judged())
        for effect in effects:
            match effect:
                case SendOffers():
                    self._outbox(effect.neighbour).put(effect.offers)
                    line = self._lines.get(effect.neighbour)
                    if line is not None:
                        line.wake.set()
                case OfferArrived():
                    self._offer_arrived(effect)
                case SetTimer():
                    self._timer_at = effect.at
                    self._timer_changed.set()
                case PushOffers() | FeedOffers() | SubscriptionAccepted() | SubscriptionRefused():
                    self._subscriptions(effect)

    def forget(self, peer: PeerId) -> None:
        """The last channel with this peer is gone: what was queued for it goes, too."""
        self._outboxes.pop(peer, None)
        self._inboxes.pop(peer, None)
        self.sessions.drop(peer)

    def _outbox(self, peer: PeerId) -> Outbox:
        outbox = self._outboxes.get(peer)
        if outbox is None:
            outbox = self._outboxes[peer] = Outbox(self._epoch)
        return outbox

    async def _timer(self) -> None:
        while True:
            self._timer_changed = trio.Event()
            if self._timer_at is None:
                await self._timer_changed.wait()
                continue
            with trio.move_on_after(max(0, self._timer_at - self._now())) as waiting:
                await self._timer_changed.wait()
            if waiting.cancelled_caught:
                self._timer_at = None
                self.tell(TimerFired(now=self._now()))
                await trio.lowlevel.checkpoint()

    async def _session(self, stream: FrameStream) -> None:
        peer = stream.peer
        outbox, inbox = self._outbox(peer), self._inboxes.setdefault(peer, Inbox())
        await stream.send(CODEC.encode(inbox.resume(epoch=self._epoch, routes=self._routes)))
        with trio.move_on_after(FIRST_MESSAGE_WITHIN) as patience:
            frame = await stream.receive()
        if patience.cancelled_caught:
            raise PeerProtocolError(f"no Resume within {FIRST_MESSAGE_WITHIN:.0f} s")
        theirs = CODEC.decode(frame)
        if not isinstance(theirs, Resume):
            raise PeerProtocolError(f"{type(theirs).__name__} before Resume")
        inbox.begin(theirs)
        outbox.resume(theirs.seen_epoch, theirs.seen_number)
        line = self._lines[peer] = _Line()
        self.tell(NeighbourUp(neighbour=peer, routes=theirs.routes, now=self._now()))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream, line, outbox, inbox)
                await self._read(stream, line, outbox, inbox)
                nursery.cancel_scope.cancel()
        finally:
            del self._lines[peer]
            self.tell(NeighbourDown(neighbour=peer, now=self._now()))

    async def _read(self, stream: FrameStream, line: _Line, outbox: Outbox, inbox: Inbox) -> None:
        peer = stream.peer
        while True:
            match CODEC.decode(await stream.receive()):
                case Bundle() as bundle:
                    offers = inbox.take(bundle)
                    line.taken()
                    if offers and self._is_neighbour(peer):
                        self.tell(BundleReceived(neighbour=peer, offers=offers, now=self._now()))
                        await trio.lowlevel.checkpoint()
                case Acknowledge(number=number):
                    outbox.acknowledged(number)
                    line.wake.set()
                case Stop():
                    return
                case Resume():
                    raise PeerProtocolError("Resume in mid-stream")

    async def _write(self, stream: FrameStream, line: _Line, outbox: Outbox, inbox: Inbox) -> None:
        """One bundle at a time: while it goes out, the next one fills. An acknowledgement rides with a bundle for
        nothing; it never waits for one, nor for a quiet moment: a peer that is not acknowledged stops sending."""
        while True:
            line.wake = trio.Event()
            bundle = outbox.take(self._now())
            if bundle is None and not line.must_acknowledge():
                await line.sleep()
                continue
            line.owed = 0
            if acknowledgement := inbox.acknowledgement():
                await stream.send(CODEC.encode(acknowledgement))
            if bundle is not None:
                await stream.send(CODEC.encode(bundle))
            await stream.flush()
