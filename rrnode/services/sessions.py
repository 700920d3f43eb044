"""One standing stream per peer and protocol, opened by whoever needs it, opened again when it ends (DESIGN 4).

When both sides open one, the stream of the lower peer id stands; a newer stream in the same direction replaces the
older. So both ends settle on the same stream without a word about it.
"""

from collections.abc import Awaitable, Callable

import structlog
import trio

from protocols.errors import PeerProtocolError
from protocols.ids import PeerId
from rrnode.errors import LinkClosed
from rrnode.host.base import FrameStream, Host, PeerConnected, PeerLost

log = structlog.get_logger(__name__)

ANSWERER_WAITS = 1.5  # seconds that the side that was dialled leaves the other to open the stream
FIRST_RETRY = 0.5  # seconds before a stream that ended on a standing link is opened again; doubles
LAST_RETRY = 30.0

Session = Callable[[FrameStream], Awaitable[None]]


class Sessions:
    """Keeps a session with every connected peer that is needed.

    Args:
        host: the links.
        protocol: the libp2p protocol id.
        session: runs one stream until it ends; a `PeerProtocolError` out of it is the peer's fault and is logged.
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
        self._current: dict[PeerId, tuple[FrameStream, trio.CancelScope, trio.Event]] = {}
        self._openers: dict[PeerId, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self.broken = 0  # streams ended by something that is no message of the protocol
        if serves is not None:
            host.handle(protocol, self._inbound)

    async def run(self) -> None:
        """Serve until cancelled."""
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

    def check(self, peer: PeerId) -> None:
        """Something changed: open a session with this peer if it is needed, possible and not there."""
        if self._nursery is None or peer in self._openers or not self._needed(peer):
            return
        if peer in self._host.connected():
            self._nursery.start_soon(self._keep_open, peer)

    def stream(self, peer: PeerId) -> FrameStream | None:
        """The standing stream with this peer, if any."""
        current = self._current.get(peer)
        return current[0] if current else None

    def drop(self, peer: PeerId) -> None:
        """End the session at once; if it is still needed it is opened anew."""
        if current := self._current.get(peer):
            current[1].cancel()

    def _stop_opening(self, peer: PeerId) -> None:
        if scope := self._openers.get(peer):
            scope.cancel()

    async def _keep_open(self, peer: PeerId) -> None:
        if peer in self._openers:
            return
        with trio.CancelScope() as scope:
            self._openers[peer] = scope
            try:
                link = self._host.connected().get(peer)
                if link is None:
                    return
                if link.inbound:
                    await trio.sleep(ANSWERER_WAITS)
                delay = FIRST_RETRY
                while peer in self._host.connected() and self._needed(peer):
                    if current := self._current.get(peer):
                        await current[2].wait()
                    else:
                        began = trio.current_time()
                        try:
                            stream = await self._host.open_stream(peer, self._protocol)
                        except LinkClosed as error:
                            log.debug("stream not opened", protocol=self._protocol, error=str(error))
                        else:
                            await self._run(stream)
                        if trio.current_time() - began > LAST_RETRY:
                            delay = FIRST_RETRY
                    await trio.sleep(delay)
                    delay = min(2 * delay, LAST_RETRY)
            finally:
                if self._openers.get(peer) is scope:
                    del self._openers[peer]

    async def _inbound(self, stream: FrameStream) -> None:
        if self._serves is None or not self._serves(stream.peer):
            stream.reset()
            return
        await self._run(stream)

    def _stands(self, new: FrameStream, old: FrameStream) -> bool:
        """Whether a new stream replaces the one that is there."""
        if new.inbound == old.inbound:
            return True
        theirs_wins = new.peer < self._host.peer_id
        return new.inbound == theirs_wins

    async def _run(self, stream: FrameStream) -> None:
        peer = stream.peer
        ended = trio.Event()
        with trio.CancelScope() as scope:
            while (old := self._current.get(peer)) is not None:
                if not self._stands(stream, old[0]):
                    stream.reset()
                    if not stream.inbound:
                        await old[2].wait()  # do not open again while the other one stands
                    return
                old[1].cancel()
                await old[2].wait()
            self._current[peer] = (stream, scope, ended)
            try:
                await self._session(stream)
                await stream.aclose()
            except LinkClosed:
                pass
            except PeerProtocolError as error:
                self.broken += 1
                log.warning("peer broke the protocol; its stream ends", protocol=self._protocol, error=str(error))
            finally:
                stream.reset()
                if self._current.get(peer, (None,))[0] is stream:
                    del self._current[peer]
                ended.set()
