"""The Host interface: authenticated peers, framed message streams, nothing of libp2p (DESIGN 3).

Two implementations are held to the same contract tests: `rrnode.host.libp2p` and `rrnode.host.memory`.

Rules that both keep:
- A stream is fed by one reader task and emptied by one writer task; `send` and `receive` touch only bounded queues, so
  they may be cancelled and put under deadlines freely (LIBP2P.md B4).
- What is queued when the writer is free goes out in one write, at most 64 KiB.
- Handlers of inbound streams run in their own task and are cancelled when the link ends; an exception out of a handler
  ends its stream and nothing else (B3).
- A peer that is silent for `LOST_AFTER` seconds is lost: its streams end, `PeerLost` is told.
- One stream per protocol and peer and direction that an application opens; a newer inbound one replaces the older.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import trio

from protocols.ids import PeerId

HEARTBEAT_EVERY = 8.0  # seconds without hearing anything before a ping goes out
LOST_AFTER = 25.0  # seconds of silence after which the peer is lost (issue: within 30 s)
QUEUE_FRAMES = 256  # frames queued per stream and direction before back-pressure


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConnected:
    """The link stands: both said `Hello` on `/rr/link/1`. `switches` and `agent` are what the peer said of itself."""

    peer: PeerId
    inbound: bool
    switches: int
    agent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLost:
    """The last link to this peer is gone. `reason` is for logs."""

    peer: PeerId
    reason: str


HostEvent = PeerConnected | PeerLost


class FrameStream(ABC):
    """One stream of frames with one peer, for one protocol."""

    peer: PeerId
    protocol: str
    inbound: bool
    remote_address: str  # multiaddr without /p2p part, or "" when unknown; for quotas per address

    @abstractmethod
    async def send(self, payload: bytes) -> None:
        """Queue one frame; waits while the queue is full (back-pressure). Raises LinkClosed."""

    @abstractmethod
    def send_nowait(self, payload: bytes) -> None:
        """Queue one frame now. Raises LinkClosed, or trio.WouldBlock when the queue is full."""

    @abstractmethod
    async def receive(self) -> bytes:
        """The next frame. Raises LinkClosed when the stream has ended (an end proves nothing, B5), DecodeError once
        when the bytes were no frames."""

    @abstractmethod
    async def flush(self) -> None:
        """Wait until everything queued so far was handed to the transport. Raises LinkClosed."""

    @abstractmethod
    async def aclose(self) -> None:
        """Send what is queued, then close both ways. Idempotent, bounded to 5 s."""

    @abstractmethod
    def reset(self) -> None:
        """Drop the stream at once, both ways. Idempotent."""


StreamHandler = Callable[[FrameStream], Awaitable[None]]


class Host(ABC):
    """Identity, links to peers, and streams on them."""

    peer_id: PeerId

    @abstractmethod
    def running(self) -> AbstractAsyncContextManager[None]:
        """Listen and serve while inside; on leaving, say goodbye, end every link and free the port.

        Raises:
            Unreachable: an address to listen on cannot be had (in use, not ours); B17.
        """

    @abstractmethod
    def addresses(self) -> tuple[str, ...]:
        """Where this host listens, as multiaddrs with `/p2p/<id>`; empty for a client. Port 0 is resolved."""

    @abstractmethod
    def handle(self, protocol: str, handler: StreamHandler) -> None:
        """Serve inbound streams of this protocol. The stream is closed when the handler returns, reset when it raises."""

    @abstractmethod
    async def dial(self, address: str) -> PeerId:
        """Connect to one multiaddr ending in `/p2p/<id>` and complete `Hello`; returns at once when already linked.

        Raises:
            Unreachable: no route, refused, another identity, another network, or no answer within 10 s.
        """

    @abstractmethod
    async def open_stream(self, peer: PeerId, protocol: str) -> FrameStream:
        """Open a stream on the standing link; never dials.

        Raises:
            LinkClosed: not connected, or the peer does not speak the protocol (the message says which).
        """

    @abstractmethod
    async def disconnect(self, peer: PeerId, reason: str) -> None:
        """Say goodbye and end the link to this peer."""

    @abstractmethod
    def connected(self) -> dict[PeerId, PeerConnected]:
        """The peers with a standing link now."""

    @abstractmethod
    def events(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[HostEvent]]:
        """Subscribe to `HostEvent`s from now on; unbounded in order, since losing one would lose a peer."""
