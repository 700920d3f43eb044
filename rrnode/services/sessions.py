"""One standing stream per peer and protocol, opened by whoever needs it, opened again when it ends (DESIGN 4).

When both sides open one, the stream of the lower peer id stands; a newer stream in the same direction replaces the
older. So both ends settle on the same stream without a word about it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
import trio

from protocols.errors import PeerProtocolError
from protocols.ids import PeerId
from rrnode.errors import LinkClosed, leaves
from rrnode.host.base import FrameStream, Host, PeerConnected, PeerLost
from rrnode.host.peer_text import to_text
from rrnode.services.limits import arrivals, printable

log = structlog.get_logger(__name__)

ANSWERER_WAITS = 1.5  # seconds that the side that was dialled leaves the other to open the stream
FIRST_RETRY = 0.5  # seconds before a stream that ended on a standing link is opened again; doubles
LAST_RETRY = 30.0

Session = Callable[[FrameStream], Awaitable[None]]


@dataclass(slots=True)
class _Standing:
    stream: FrameStream
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)


class Sessions:
    """Keeps a session with every connected peer that is needed.

    Args:
        host: the links.
        protocol: the libp2p protocol id.
        session: runs one stream until it ends; a `PeerProtocolError` out of it is the peer's fault, anything but that
            and `LinkClosed` is our bug: each ends this stream and nothing else, is logged and counted.
        needed: whether we want a session with this peer; asked when the peer connects and by `check`.
        serves: whether an inbound stream of this peer is welcome; None when somebody else handles inbound streams, as
            with protocols in which client and server have different parts.
    """

    def __init__(
        self,
        *,
        host: Host,
        protocol: str,
        session: Session,
        needed: Callable[[PeerId], bool],
        serves: Callable[[PeerId], bool] | None,
    ) -> None:
        self._host, self._protocol = host, protocol
        self._session, self._needed, self._serves = session, needed, serves
        self._current: dict[PeerId, _Standing] = {}
        self._openers: dict[PeerId, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._arrivals = arrivals()
        self.broken = 0  # streams ended by something that is no message of the protocol
        if serves is not None:
            host.handle(protocol, self._inbound)

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with self._host.events() as events, trio.open_nursery() as nursery:
                self._nursery = nursery
                for peer in self._host.connected():
                    self.check(peer)
                async for event in events:
                    match event:
                        case PeerConnected():
                            self.check(event.peer)
                        case PeerLost():
                            self._stop_opening(event.peer)
        finally:
            self._nursery = None  # others may still ask us to `check` while the node ends
            self._openers.clear()

    def check(self, peer: PeerId) -> None:
        """Something changed: open a session with this peer if it is needed, possible and not there."""
        if self._nursery is None or peer in self._openers or not self._needed(peer):
            return
        if peer in self._host.connected():
            scope = self._openers[peer] = trio.CancelScope()
            self._nursery.start_soon(self._keep_open, peer, scope)

    def stream(self, peer: PeerId) -> FrameStream | None:
        """The standing stream with this peer, if any."""
        current = self._current.get(peer)
        return current.stream if current else None

    def drop(self, peer: PeerId) -> None:
        """End the session at once; if it is still needed it is opened anew."""
        if current := self._current.get(peer):
            current.scope.cancel()

    def _stop_opening(self, peer: PeerId) -> None:
        """The link is gone. A newer one may stand already: its opener does not wait until this one has cleared up."""
        if scope := self._openers.pop(peer, None):
            scope.cancel()

    async def _keep_open(self, peer: PeerId, scope: trio.CancelScope) -> None:
        try:
            with scope:
                link = self._host.connected().get(peer)
                if link is not None and link.inbound:
                    await trio.sleep(ANSWERER_WAITS)
                delay = FIRST_RETRY
                while peer in self._host.connected() and self._needed(peer):
                    began = trio.current_time()
                    if current := self._current.get(peer):
                        await current.ended.wait()
                    else:
                        await self._open(peer)
                    if trio.current_time() - began > LAST_RETRY:
                        delay = FIRST_RETRY
                    await trio.sleep(delay)
                    delay = min(2 * delay, LAST_RETRY)
        finally:
            if self._openers.get(peer) is scope:
                del self._openers[peer]

    async def _open(self, peer: PeerId) -> None:
        try:
            stream = await self._host.open_stream(peer, self._protocol)
        except LinkClosed as error:
            log.debug("stream not opened", peer=to_text(peer), protocol=self._protocol, error=str(error))
        else:
            await self._run(stream)

    async def _inbound(self, stream: FrameStream) -> None:
        if self._serves is None or not self._serves(stream.peer):
            stream.reset()
        elif not self._arrivals.take(stream.peer):
            log.info("too many streams", peer=to_text(stream.peer), protocol=self._protocol)
            stream.reset()
        else:
            await self._run(stream)

    def _stands(self, new: FrameStream, old: FrameStream) -> bool:
        """Whether a new stream replaces the one that is there."""
        if new.inbound == old.inbound:
            return True
        theirs_wins = new.peer < self._host.peer_id
        return new.inbound == theirs_wins

    async def _run(self, stream: FrameStream) -> None:
        peer = stream.peer
        mine = _Standing(stream)
        try:
            with mine.scope:
                while (old := self._current.get(peer)) is not None:
                    if not self._stands(stream, old.stream):
                        stream.reset()
                        if not stream.inbound:
                            await old.ended.wait()  # do not open again while the other one stands
                        return
                    old.scope.cancel()
                    await old.ended.wait()
                self._current[peer] = mine
                await self._supervise(stream)
        finally:
            stream.reset()
            if self._current.get(peer) is mine:
                del self._current[peer]
            mine.ended.set()

    async def _supervise(self, stream: FrameStream) -> None:
        """Run the session; what it raises ends this stream only, whoever opened it (LIBP2P.md B3)."""
        who = {"peer": to_text(stream.peer), "protocol": self._protocol}
        counters = self._host.counters
        try:
            await self._session(stream)
            await stream.aclose()
        except* LinkClosed:
            pass
        except* PeerProtocolError as group:
            self.broken += 1
            counters.bad_messages += not stream.bad_frames
            reason = printable(str(next(leaves(group))))
            log.warning("peer broke the protocol; its stream ends", reason=reason, **who)
        except* Exception as group:
            counters.handler_errors += 1
            log.error("a session met a bug; its stream ends", exc_info=group, **who)
