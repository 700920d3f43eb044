"""`/rr/watch/1`, the client's side: every state that a neighbour revokes is handed to every watcher (DESIGN 7).

Which watchers may be used is asked anew whenever neighbours change; what is said with one is in `rrnode.services.handing`.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import structlog
import trio

from protocols.channel.events import Flush
from protocols.ids import ChannelId, PeerId
from protocols.payment.events import RemediesHeld
from protocols.wire.watch import CODEC, PROTOCOL, Stop, WatchMessage
from rrnode.host.base import FrameStream, Host
from rrnode.host.peer_text import to_text
from rrnode.services.handing import Means, Talk, Watcher
from rrnode.services.limits import printable
from rrnode.services.quorum import Quorum
from rrnode.services.sessions import Sessions
from rrnode.storage.cover import Extent

log = structlog.get_logger(__name__)


class CoverClient:
    """Hands remedies to our watchers and renews them.

    Args:
        host: the links.
        means: what is needed of the node; its `news` is set here.
        watchers: their peer ids and addresses, as configured.
        refuses: why this watcher must not be used now, "" when it may.
        related: why this watcher counts for nothing on channels with this neighbour, "" when it counts.
        quorum: watchers that must hold a state before its channel takes on anything new; 0: none.
        post: gives an event to the money engine.
    """

    def __init__(
        self,
        *,
        host: Host,
        means: Means,
        watchers: Sequence[tuple[PeerId, str]],
        refuses: Callable[[PeerId], str],
        related: Callable[[PeerId, PeerId], str],
        quorum: int,
        post: Callable[[RemediesHeld | Flush], Awaitable[None]],
    ) -> None:
        self._refuses, self._related = refuses, related
        self._store = means.store
        self.watchers = {
            peer: Watcher(peer=peer, address=address, number=self._store.watcher(peer)) for peer, address in watchers
        }
        self.quorum = Quorum(
            needed=quorum,
            store=means.store,
            watchers=self._counting,
            channels=means.channels,
            height=means.height,
            post=post,
        )
        self._means = replace(means, news=self.quorum.wake)
        self._sessions = Sessions(
            host=host, protocol=PROTOCOL, session=self._session, needed=self._is_needed, serves=None
        )

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sessions.run)
            nursery.start_soon(self.quorum.run)

    def wake(self) -> None:
        """A state was revoked, or there is a new block. Never waits."""
        for watcher in self.watchers.values():
            watcher.wake.set()
        self.quorum.wake()

    def neighbours_changed(self) -> None:
        """Whom we may use may have changed."""
        for peer in self.watchers:
            if self._is_needed(peer):
                self._sessions.check(peer)
            else:
                self._sessions.drop(peer)
        self.quorum.wake()

    def extent(self, watcher: Watcher, channel_id: ChannelId) -> Extent:
        """How much of a channel a watcher covers now. Blocking."""
        return self._store.extent(watcher.number, channel_id, self._means.height())

    def _counting(self, neighbour: PeerId) -> list[int]:
        return [
            each.number
            for each in self.watchers.values()
            if not self._refuses(each.peer) and not self._related(each.peer, neighbour)
        ]

    def _is_needed(self, peer: PeerId) -> bool:
        watcher = self.watchers.get(peer)
        if watcher is None:
            return False
        refusal = self._refuses(peer)
        if refusal and watcher.problem != refusal:
            watcher.problem = refusal
            log.warning("a watcher is not used", watcher=to_text(peer), why=refusal)
        return not refusal

    async def _session(self, stream: FrameStream) -> None:
        watcher = self.watchers[stream.peer]
        send, receive = trio.open_memory_channel[WatchMessage](1)
        watcher.connected, watcher.problem = True, ""
        watcher.done.clear()
        watcher.withdrawn.clear()
        try:
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    while True:
                        message = CODEC.decode(await stream.receive())
                        if isinstance(message, Stop):
                            watcher.problem = printable(message.reason)
                            nursery.cancel_scope.cancel()
                        await send.send(message)

                nursery.start_soon(read)
                await Talk(self._means, watcher, stream, receive).run()
        finally:
            watcher.connected = False
            watcher.problem = watcher.problem or "not connected"
