"""`/rr/routing/1`: bundles between channel neighbours, and the runtime of the routing engine (DESIGN 3, 4).

The engine is soft state and its `handle` never waits, so it is called in place by whoever has an event: nothing can come
between an event and its effects. A reader takes its next frame only when the last one is dealt with, which is the
back-pressure. Nothing here touches the disk.
"""

from collections.abc import Callable

import structlog
import trio

from protocols.errors import PeerProtocolError
from protocols.ids import PeerId
from protocols.routing.bundles import Inbox, Outbox
from protocols.routing.engine import Engine
from protocols.routing.events import (
    BundleReceived,
    NeighbourDown,
    NeighbourUp,
    OfferArrived,
    PushOffers,
    RoutingEvent,
    SendOffers,
    SetTimer,
    SubscriptionAccepted,
    SubscriptionRefused,
    TimerFired,
)
from protocols.units import UnixTime
from protocols.wire.routing import CODEC, PROTOCOL, Acknowledge, Bundle, Resume, Stop
from rrnode.host.base import FrameStream, Host
from rrnode.services.sessions import Sessions

log = structlog.get_logger(__name__)

ACKNOWLEDGE_WITHIN = 1.0  # seconds; a quiet link acknowledges this late, so that a lone offer costs one write, not two
FIRST_MESSAGE_WITHIN = 10.0  # seconds for the peer's Resume

SubscriptionEffect = PushOffers | SubscriptionAccepted | SubscriptionRefused


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
    ) -> None:
        self.engine = engine
        self._epoch, self._routes, self._now = epoch, routes, now
        self._is_neighbour = is_neighbour
        self._subscriptions, self._offer_arrived = subscriptions, offer_arrived
        self._outboxes: dict[PeerId, Outbox] = {}
        self._inboxes: dict[PeerId, Inbox] = {}
        self._wake: dict[PeerId, trio.Event] = {}
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
        for effect in self.engine.handle(event):
            match effect:
                case SendOffers():
                    self._outbox(effect.neighbour).put(effect.offers)
                    wake = self._wake.get(effect.neighbour)
                    if wake is not None:
                        wake.set()
                case OfferArrived():
                    self._offer_arrived(effect)
                case SetTimer():
                    self._timer_at = effect.at
                    self._timer_changed.set()
                case PushOffers() | SubscriptionAccepted() | SubscriptionRefused():
                    self._subscriptions(effect)

    def forget(self, peer: PeerId) -> None:
        """The last channel with this peer is gone: what was queued for it goes, too."""
        self._outboxes.pop(peer, None)
        self._inboxes.pop(peer, None)
        self.sessions.drop(peer)

    def _outbox(self, peer: PeerId) -> Outbox:
        return self._outboxes.setdefault(peer, Outbox(self._epoch))

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
        self._wake[peer] = trio.Event()
        self.tell(NeighbourUp(neighbour=peer, routes=theirs.routes, now=self._now()))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream, outbox, inbox)
                await self._read(stream, outbox, inbox)
                nursery.cancel_scope.cancel()
        finally:
            self._wake.pop(peer, None)
            self.tell(NeighbourDown(neighbour=peer, now=self._now()))

    async def _read(self, stream: FrameStream, outbox: Outbox, inbox: Inbox) -> None:
        peer = stream.peer
        while True:
            match CODEC.decode(await stream.receive()):
                case Bundle() as bundle:
                    offers = inbox.take(bundle)
                    if offers and self._is_neighbour(peer):
                        self.tell(BundleReceived(neighbour=peer, offers=offers, now=self._now()))
                        await trio.lowlevel.checkpoint()
                case Acknowledge(number=number):
                    outbox.acknowledged(number)
                    if outbox.queued:
                        self._wake[peer].set()
                case Stop():
                    return
                case Resume():
                    raise PeerProtocolError("Resume in mid-stream")

    async def _write(self, stream: FrameStream, outbox: Outbox, inbox: Inbox) -> None:
        """One bundle at a time: while it goes out, the next one fills."""
        peer = stream.peer
        while True:
            self._wake[peer] = wake = trio.Event()
            bundle = outbox.take(self._now())
            if bundle is not None:
                await stream.send(CODEC.encode(bundle))
                await stream.flush()
                continue
            with trio.move_on_after(ACKNOWLEDGE_WITHIN):
                await wake.wait()
                continue
            if acknowledgement := inbox.acknowledgement():
                await stream.send(CODEC.encode(acknowledgement))
