"""The Host interface: authenticated peers, framed message streams, nothing of libp2p (DESIGN 3).

Two implementations are held to the same contract tests: `rrnode.host.libp2p` and `rrnode.host.memory`.

Rules that both keep:
- A stream is fed by one reader task and emptied by one writer task; `send` and `receive` touch only bounded queues, so
  they may be cancelled and put under deadlines freely (LIBP2P.md B4).
- What is queued when the writer is free goes out in one write, at most 64 KiB.
- Handlers of inbound streams run in their own task and are cancelled when the link ends; an exception out of a handler
  ends its stream and nothing else (B3).
- All streams of one peer together are read no faster than its budget; beyond it the peer's own writes wait (DESIGN 9).
- A peer that is silent for `LOST_AFTER` seconds is lost: its streams end, `PeerLost` is told.
- One stream per protocol and peer and direction that an application opens; a newer inbound one replaces the older.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import trio

from protocols.ids import PeerId
from rrnode.host.tap import Tap

HEARTBEAT_EVERY = 10.0  # seconds without hearing anything before a ping goes out
LOST_AFTER = 25.0  # seconds of silence after which the peer is lost (issue: within 30 s)
QUEUE_FRAMES = 256  # frames queued per stream and direction before back-pressure
QUEUE_BYTES = 1 << 20  # bytes queued likewise: what one stream of a slow or hostile peer may make us hold
PEER_FRAMES = 2000  # a second: about twice what 800 payments a second need; at 0.1 ms each, a fifth of a processor
PEER_BURST = (
    4096  # frames: what a neighbour repeats after a reconnect, or sends for 300 payments at once, passes unbraked
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitLimits:
    """What circuits through us may cost, and those that reach us (`rrnode.host.relay`): a payment initialization takes
    1.2 KiB there and 0.7 back, and some 100 ms; they are of no use for much else.

    Attributes:
        reservations: peers that may be reached through us at once.
        reserved: seconds that a reservation holds.
        circuits: through us, in all; each holds at most a chunk of 64 KiB a way, and what Yamux lets come in.
        per_listener: circuits to one peer at once.
        per_dialler: circuits from one network (IPv4 /16, IPv6 /32) at once.
        bytes: of one circuit, each way.
        seconds: that one circuit may last.
        rest: seconds for which a circuit counts at the least: who calls and hangs up costs the called a handshake each time.
        inbound: circuits at whose end we are, from all relays together.
    """

    reservations: int = 1000
    reserved: float = 3600.0
    circuits: int = 64
    per_listener: int = 8
    per_dialler: int = 16
    bytes: int = 32 * 1024
    seconds: float = 30.0
    rest: float = 2.0
    inbound: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """Limits and deadlines of a host, in seconds where not said otherwise; the defaults are for a real network.

    Attributes:
        heartbeat_every: silence before a ping goes out.
        lost_after: silence after which a peer is lost.
        dial_timeout: for one whole dial, `Hello` included.
        hello_timeout: how long an inbound connection may stay without its `Hello`.
        stall_after: how long one write may take before its stream is dropped (LIBP2P.md B9).
        close_timeout: for polite ends: goodbye, flush, close.
        crossing_wait: how long the lower peer id lets its own dial finish before it takes the other's instead.
        queue_frames, queue_bytes: bound of each stream's queue, per direction.
        peer_frames: frames a second read from one peer in the long run; `rrnode.host.pace` says what counts as how many.
        peer_burst: frames that a quiet peer may save up.
        max_connections: links and handshakes, inbound, in all.
        max_per_address: inbound connections of one IP address.
        max_streams: open streams of one peer.
        listen_backlog: of the listening socket.
        share_port: several processes of one identity may listen on one port; the kernel spreads connections over them. Off,
            a port that is in use is refused (LIBP2P.md B17).
        circuit: of circuits through us and to us.
    """

    heartbeat_every: float = HEARTBEAT_EVERY
    lost_after: float = LOST_AFTER
    dial_timeout: float = 10.0
    hello_timeout: float = 10.0
    stall_after: float = 30.0
    close_timeout: float = 5.0
    crossing_wait: float = 2.0
    queue_frames: int = QUEUE_FRAMES
    queue_bytes: int = QUEUE_BYTES
    peer_frames: int = PEER_FRAMES
    peer_burst: int = PEER_BURST
    max_connections: int = 2000
    max_per_address: int = 64
    max_streams: int = 64
    listen_backlog: int = 256
    share_port: bool = False
    circuit: CircuitLimits = CircuitLimits()


@dataclass(slots=True)
class HostCounters:
    """What went wrong so far, for `rrnode status` and metrics; each only grows."""

    bad_frames: int = 0  # streams ended for bytes that were no frames
    bad_messages: int = 0  # streams ended because their handler met a `PeerProtocolError`
    handler_errors: int = 0  # streams ended because their handler raised anything else: our bug
    refused_connections: int = 0  # above a limit, before any handshake
    refused_streams: int = 0
    refused_peers: int = 0  # another network, or no `Hello`
    stalled_streams: int = 0
    lost_peers: int = 0  # by silence
    slowed_peers: int = 0  # links that were read more slowly than they were written to, for their budget


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConnected:
    """The link stands: both said `Hello` on `/rr/link/1`. `switches` and `agent` are what the peer said of itself;
    `address` is where it is connected from or was dialled: a multiaddr without /p2p part, or "" when unknown."""

    peer: PeerId
    inbound: bool
    switches: int
    agent: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLost:
    """The link to this peer is gone. `reason` is for logs. When a newer connection took its place, `PeerConnected`
    follows at once: streams must be opened anew."""

    peer: PeerId
    reason: str


HostEvent = PeerConnected | PeerLost


class FrameStream(ABC):
    """One stream of frames with one peer, for one protocol."""

    peer: PeerId
    protocol: str
    inbound: bool
    remote_address: str  # multiaddr without /p2p part, or "" when unknown; for quotas per address
    bad_frames: bool  # the stream ended because its bytes were no frames; the host has counted it

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
    counters: HostCounters
    tap: Tap

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
    def handle(self, protocol: str, handler: StreamHandler, *, relayed: bool = False) -> None:
        """Serve inbound streams of this protocol. The stream is closed when the handler returns, reset when it raises.

        Args:
            relayed: also those of peers that came through a relay; to them everything else is refused, as they reach nodes
                that open no port and expect no strangers.
        """

    @abstractmethod
    def protocols(self) -> tuple[str, ...]:
        """The protocols whose inbound streams are served, in alphabetical order."""

    @abstractmethod
    async def dial(self, address: str) -> PeerId:
        """Connect to one multiaddr ending in `/p2p/<id>` and complete `Hello`; returns at once when already linked. One with
        `/p2p-circuit` before that leads through a relay, which is dialled first and stays linked.

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
    def relay_for(self, admits: Callable[[PeerId], bool]) -> None:
        """Be a relay: let others reach the peers that reserve it here and are admitted. A transport that has no relays does
        not."""

    @abstractmethod
    async def reserve(self, peer: PeerId) -> float:
        """Ask a linked peer to let others reach us through it, at `<its address>/p2p-circuit/p2p/<our id>`.

        Returns:
            Seconds for which it holds, while the link stands.

        Raises:
            LinkClosed: not connected, no relay, or it will not (the message says which).
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
