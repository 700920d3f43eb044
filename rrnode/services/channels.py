"""`/rr/channel/1`: messages of all channels with one neighbour, between the stream and the money engine (DESIGN 4, 6)."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog
import trio

from protocols.channel.events import LinkDown, LinkUp, MessageReceived
from protocols.errors import PeerProtocolError
from protocols.ids import ChannelId, PeerId
from protocols.wire.channel import CODEC, PROTOCOL, ChannelMessage, Error, OpenChannel
from rrnode.dispatcher import Halted
from rrnode.errors import LinkClosed, StorageFailed
from rrnode.host.base import FrameStream, Host
from rrnode.services.limits import Allowance, printable
from rrnode.services.sessions import Sessions

log = structlog.get_logger(__name__)

MOST_IN_HAND = 256  # messages of one neighbour with the engine at a time: a full channel's, and a quarter of its inbox
MOST_WAITING = 4 << 20  # bytes for one neighbour beyond its stream's queue: what a batch gives at once fits many times


class Post(Protocol):
    """`Dispatcher.post`."""

    async def __call__(self, event: Any, *, before: Callable[[], None] | None = None) -> None: ...


class _Line:
    """A stream that the engine knows of, and what did not fit its queue: a batch is performed without a pause.

    Attributes:
        turns: messages from this stream that the engine may be given before it has dealt with an earlier one.
    """

    __slots__ = ("_size", "_waiting", "_wake", "stream", "turns")

    def __init__(self, stream: FrameStream) -> None:
        self.stream = stream
        self.turns = trio.Semaphore(MOST_IN_HAND)
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._wake = trio.Event()

    def put(self, payload: bytes) -> None:
        """Queue it, in order. Raises LinkClosed, or trio.WouldBlock when too much waits already."""
        if not self._waiting:
            try:
                self.stream.send_nowait(payload)
            except trio.WouldBlock:
                pass
            else:
                return
        if self._size + len(payload) > MOST_WAITING:
            raise trio.WouldBlock
        self._waiting.append(payload)
        self._size += len(payload)
        self._wake.set()

    async def write(self) -> None:
        """Move what waits into the stream's queue, for as long as the stream lasts. Raises LinkClosed."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting:
                await self.stream.send(self._waiting[0])
                self._size -= len(self._waiting.popleft())


class ChannelService:
    """One stream per neighbour, told to the engine as LinkUp, messages, LinkDown.

    Args:
        host: the links.
        post: gives an event to the money engine.
        is_neighbour: whether there is a channel, or one is being opened, with this peer.
        concerns: whether a message is about a channel of its sender, as the engine knows them now.
        fresh_keys: sets aside a never-used channel key index, durably, before it is told.
        refuses_open: a sentence why a stranger's channel is not wanted now, or None.
        error_received: hears what a neighbour says is wrong with a channel, before the engine acts on it.
        link_changed: called after a stream came to stand, or went, as the engine sees it.
    """

    def __init__(
        self,
        *,
        host: Host,
        post: Post,
        is_neighbour: Callable[[PeerId], bool],
        concerns: Callable[[MessageReceived], bool],
        fresh_keys: Callable[[], Awaitable[int]],
        refuses_open: Callable[[PeerId, OpenChannel], str | None],
        error_received: Callable[[ChannelId, str], None],
        link_changed: Callable[[], None],
    ) -> None:
        self._link_changed = link_changed
        self._error_received = error_received
        self._is_neighbour, self._concerns = is_neighbour, concerns
        self._post, self._fresh_keys, self._refuses_open = post, fresh_keys, refuses_open
        self._wanted: set[PeerId] = set()
        self._ready: dict[PeerId, _Line] = {}
        self._opens = Allowance(per_key=0.1, burst=10, total=2)  # each sets a key index aside
        # Messages about no channel of their sender: each is an event of the engine, a journal line and an Error back.
        self._strangers = Allowance(per_key=1, burst=20, total=100)
        self._astray = Allowance(
            per_key=1, burst=64, total=1000
        )  # of neighbours: one to reestablish each channel we lost
        self.sessions = Sessions(
            host=host,
            protocol=PROTOCOL,
            session=self._session,
            needed=lambda peer: peer in self._wanted or is_neighbour(peer),
            serves=lambda peer: True,
        )

    async def run(self) -> None:
        """Serve until cancelled."""
        await self.sessions.run()

    def want(self, peer: PeerId) -> None:
        """A channel shall be opened with this connected peer: open the stream although there is no channel yet."""
        self._wanted.add(peer)
        self.sessions.check(peer)

    def is_up(self, peer: PeerId) -> bool:
        """Whether the engine has been told that the stream to this peer stands."""
        return peer in self._ready

    def send(self, peer: PeerId, message: ChannelMessage) -> None:
        """Queue a message on the stream that the engine knows of. Without one it is dropped: reestablishing repeats it."""
        line = self._ready.get(peer)
        if line is None:
            return
        try:
            line.put(CODEC.encode(message))
        except LinkClosed:
            pass
        except trio.WouldBlock:
            log.warning("a neighbour does not read its channel messages; its stream is dropped")
            line.stream.reset()

    async def _session(self, stream: FrameStream) -> None:
        peer = stream.peer
        line = _Line(stream)
        stands = trio.Event()

        def up() -> None:
            self._ready[peer] = line
            stands.set()
            self._link_changed()

        def down() -> None:
            if self._ready.get(peer) is line:
                del self._ready[peer]
                self._link_changed()

        try:
            await self._post(LinkUp(peer=peer), before=up)
            await stands.wait()  # what an older stream left is dealt with first: a newer one brings no new turns
            async with trio.open_nursery() as nursery:
                nursery.start_soon(line.write)
                await self._read(line)
        except* Halted:
            pass
        finally:
            self._wanted.discard(peer)
            with trio.CancelScope(shield=True):
                try:
                    await self._post(LinkDown(peer=peer), before=down)
                except Halted:
                    down()

    async def _read(self, line: _Line) -> None:
        peer = line.stream.peer
        while True:
            message = CODEC.decode(await line.stream.receive())
            if isinstance(message, OpenChannel):
                await self._opening(line, message)
                continue
            event = MessageReceived(peer=peer, message=message, key_index=None)
            if self._is_cut(event):
                raise PeerProtocolError("too many messages about channels that are not there")
            if isinstance(message, Error):
                self._error_received(ChannelId(message.channel_id), printable(message.text))
            await self._tell(line, event)

    def _is_cut(self, event: MessageReceived) -> bool:
        if not self._is_neighbour(event.peer):
            return not self._strangers.take(event.peer)
        return not self._concerns(event) and not self._astray.take(event.peer)

    async def _tell(self, line: _Line, event: MessageReceived) -> None:
        """Give the engine a message when it has few enough of this stream: its inbox is everybody's."""
        try:
            line.turns.acquire_nowait()
        except trio.WouldBlock:
            await line.turns.acquire()
        await self._post(event, before=line.turns.release)

    async def _opening(self, line: _Line, message: OpenChannel) -> None:
        peer = line.stream.peer
        refusal = self._refuses_open(peer, message)
        if refusal is None and not self._opens.take(peer):
            refusal = "too many channel openings; try again in a minute"
        if refusal is None:
            try:
                key_index = await self._fresh_keys()
            except StorageFailed:
                refusal = "this node can write nothing to its disk now"
            else:
                await self._tell(line, MessageReceived(peer=peer, message=message, key_index=key_index))
                return
        await line.stream.send(CODEC.encode(Error(message.temporary_channel_id, refusal[:256])))
