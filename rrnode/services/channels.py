"""`/rr/channel/1`: messages of all channels with one neighbour, between the stream and the money engine (DESIGN 4, 6)."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog
import trio

from protocols.channel.events import LinkDown, LinkUp, MessageReceived
from protocols.ids import ChannelId, PeerId
from protocols.wire.channel import CODEC, PROTOCOL, ChannelMessage, Error, OpenChannel
from rrnode.dispatcher import Halted
from rrnode.errors import LinkClosed
from rrnode.host.base import FrameStream, Host
from rrnode.services.limits import Allowance
from rrnode.services.sessions import Sessions

log = structlog.get_logger(__name__)


class Post(Protocol):
    """`Dispatcher.post`."""

    async def __call__(self, event: Any, *, before: Callable[[], None] | None = None) -> None: ...


class ChannelService:
    """One stream per neighbour, told to the engine as LinkUp, messages, LinkDown.

    Args:
        host: the links.
        post: gives an event to the money engine.
        is_neighbour: whether there is a channel, or one is being opened, with this peer.
        fresh_keys: sets aside a never-used channel key index, durably, before it is told.
        refuses_open: a sentence why a stranger's channel is not wanted now, or None.
        error_received: hears what a neighbour says is wrong with a channel, before the engine acts on it.
    """

    def __init__(
        self,
        *,
        host: Host,
        post: Post,
        is_neighbour: Callable[[PeerId], bool],
        fresh_keys: Callable[[], Awaitable[int]],
        refuses_open: Callable[[PeerId, OpenChannel], str | None],
        error_received: Callable[[ChannelId, str], None],
    ) -> None:
        self._error_received = error_received
        self._post, self._fresh_keys, self._refuses_open = post, fresh_keys, refuses_open
        self._wanted: set[PeerId] = set()
        self._ready: dict[PeerId, FrameStream] = {}
        self._opens = Allowance(per_key=0.1, burst=10, total=5)
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
        stream = self._ready.get(peer)
        if stream is None:
            return
        try:
            stream.send_nowait(CODEC.encode(message))
        except LinkClosed:
            pass
        except trio.WouldBlock:
            log.warning("a neighbour does not read its channel messages; its stream is dropped")
            self.sessions.drop(peer)

    async def _session(self, stream: FrameStream) -> None:
        peer = stream.peer

        def up() -> None:
            self._ready[peer] = stream

        def down() -> None:
            if self._ready.get(peer) is stream:
                del self._ready[peer]

        try:
            await self._post(LinkUp(peer=peer), before=up)
            while True:
                message = CODEC.decode(await stream.receive())
                key_index = None
                if isinstance(message, Error):
                    self._error_received(ChannelId(message.channel_id), message.text)
                if isinstance(message, OpenChannel):
                    refusal = self._refuses_open(peer, message)
                    if refusal is None and not self._opens.take(peer):
                        refusal = "too many channel openings; try again in a minute"
                    if refusal is not None:
                        await stream.send(CODEC.encode(Error(message.temporary_channel_id, refusal[:256])))
                        continue
                    key_index = await self._fresh_keys()
                await self._post(MessageReceived(peer=peer, message=message, key_index=key_index))
        except Halted:
            return
        finally:
            with trio.CancelScope(shield=True):
                try:
                    await self._post(LinkDown(peer=peer), before=down)
                except Halted:
                    down()
