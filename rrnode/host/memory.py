"""A host in this process only, with delay, silence and cuts, for tests and the simulator (DESIGN 3).

It shares everything above the byte streams with the libp2p host and behaves like TCP below: bytes arrive in order,
a full pipe makes the writer wait, a silenced direction keeps its bytes for later, a cut ends both sides at once.
Time is trio's clock, so a test under `autojump_clock` waits for nothing.
"""

import random
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from protocols.ids import PeerId
from protocols.wire import link as wire
from rrnode.errors import LinkClosed, Unreachable
from rrnode.host.base import HostConfig
from rrnode.host.peer_text import join_address, to_text
from rrnode.host.peers import LinkedHost
from rrnode.host.transport import ByteStream, Connection

_WINDOW = 256 * 1024  # bytes under way per stream and direction, as yamux has it
_READ = 64 * 1024


class MemoryNetwork:
    """What connects memory hosts: who listens where, how long bytes take, what is cut.

    Args:
        seed: of the jitter, so that a run repeats.
        delay: seconds every chunk of bytes takes one way.
        jitter: up to this many seconds more, drawn per chunk; the order is kept.
    """

    def __init__(self, *, seed: int = 0, delay: float = 0.0, jitter: float = 0.0) -> None:
        self.delay = delay
        self.jitter = jitter
        self._random = random.Random(seed)
        self._listeners: dict[str, MemoryHost] = {}
        self._silent: set[tuple[PeerId, PeerId]] = set()
        self._parted: set[frozenset[PeerId]] = set()
        self._connections: set[MemoryConnection] = set()
        self._next_port = 1
        self._healed = trio.lowlevel.ParkingLot()

    def cut(self, one: PeerId, other: PeerId) -> None:
        """Break every connection of these two now; both sides notice at once, and may connect again."""
        for connection in list(self._connections):
            if {connection.peer, connection.owner} == {one, other}:
                connection.break_off("the connection was cut")

    def part(self, one: PeerId, other: PeerId) -> None:
        """Cut, and refuse new connections until `heal`."""
        self._parted.add(frozenset((one, other)))
        self.cut(one, other)

    def silence(self, sender: PeerId, receiver: PeerId) -> None:
        """Hold back all bytes of one direction until `heal`; nobody is told."""
        self._silent.add((sender, receiver))

    def heal(self) -> None:
        """End every silence and partition; what was held back arrives now."""
        self._silent.clear()
        self._parted.clear()
        self._healed.unpark_all()
        for connection in list(self._connections):
            if connection.other.closed.is_set():
                connection.break_off("the connection was closed")

    # Used by hosts and connections.

    def _bind(self, where: str, host: "MemoryHost") -> str:
        if where == "/memory/0":
            while f"/memory/{self._next_port}" in self._listeners:
                self._next_port += 1
            where = f"/memory/{self._next_port}"
        if not where.startswith("/memory/"):
            raise Unreachable(f"cannot listen on {where}: not an address of the form /memory/<number>")
        if where in self._listeners:
            raise Unreachable(f"cannot listen on {where}: the address is in use")
        self._listeners[where] = host
        return where

    def _release(self, where: str) -> None:
        self._listeners.pop(where, None)

    def _latency(self) -> float:
        return self.delay + (self._random.random() * self.jitter if self.jitter else 0.0)

    async def _pass(self, sender: PeerId, receiver: PeerId) -> None:
        while (sender, receiver) in self._silent:
            await self._healed.park()


class _Pipe:
    """One direction of one stream: chunks with the time they arrive; a broken pipe loses what is under way."""

    def __init__(self, network: MemoryNetwork, sender: PeerId, receiver: PeerId) -> None:
        self._network = network
        self._sender = sender
        self._receiver = receiver
        self._chunks: deque[tuple[float, bytes]] = deque()  # b"" is the end
        self._size = 0
        self._last = 0.0
        self._changed = trio.lowlevel.ParkingLot()
        self._broken: str | None = None

    def break_off(self, reason: str) -> None:
        if self._broken is None:
            self._broken = reason
            self._chunks.clear()
            self._size = 0
        self._changed.unpark_all()

    def put(self, data: bytes) -> None:
        self._last = max(self._last, trio.current_time() + self._network._latency())
        self._chunks.append((self._last, data))
        self._size += len(data)
        self._changed.unpark_all()

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        for start in range(0, len(data), _READ):
            while self._broken is None and self._size >= _WINDOW:
                await self._changed.park()
            if self._broken is not None:
                raise LinkClosed(self._broken)
            self.put(data[start : start + _READ])

    async def read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self._broken is not None:
                raise LinkClosed(self._broken)
            if self._chunks:
                arrives, data = self._chunks[0]
                if arrives > trio.current_time():
                    await trio.sleep_until(arrives)
                    continue
                if (self._sender, self._receiver) in self._network._silent:
                    await self._network._pass(self._sender, self._receiver)
                    continue
                if data:
                    self._chunks.popleft()
                    self._size -= len(data)
                    self._changed.unpark_all()
                return data
            await self._changed.park()


class _MemoryStream(ByteStream):
    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._finished = False

    async def read(self) -> bytes:
        return await self._incoming.read()

    async def write(self, data: bytes) -> None:
        await self._outgoing.write(data)

    async def finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._outgoing.put(b"")
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        self.break_off("the stream was reset")
        await trio.lowlevel.checkpoint()

    def break_off(self, reason: str) -> None:
        self._incoming.break_off(reason)
        self._outgoing.break_off(reason)


class MemoryConnection(Connection):
    """One end of a connection; `other` is the peer's end."""

    other: "MemoryConnection"

    def __init__(self, network: MemoryNetwork, host: "MemoryHost", peer: PeerId, inbound: bool, remote: str) -> None:
        self.peer = peer
        self.owner = host.peer_id
        self.inbound = inbound
        self.remote_address = remote
        self.closed = trio.Event()
        self._network = network
        self._host = host
        self._streams: set[_MemoryStream] = set()

    async def open(self, protocol: str) -> ByteStream:
        if self.closed.is_set():
            raise LinkClosed("the connection has ended")
        network = self._network
        await trio.sleep(network._latency())
        await network._pass(self.owner, self.peer)
        if self.closed.is_set():
            raise LinkClosed("the connection has ended")
        if protocol != wire.PROTOCOL and protocol not in self.other._host._handlers:
            raise LinkClosed(f"{to_text(self.peer)} does not speak {protocol}")
        there, back = _Pipe(network, self.owner, self.peer), _Pipe(network, self.peer, self.owner)
        ours, theirs = _MemoryStream(back, there), _MemoryStream(there, back)
        self._streams.add(ours)
        self.other._serve(protocol, theirs)
        return ours

    def _serve(self, protocol: str, stream: _MemoryStream) -> None:
        self._streams.add(stream)
        self._host._accept_stream(self, protocol, stream)

    def break_off(self, reason: str) -> None:
        """Both ends notice now."""
        self._end_here(reason)
        self.other._end_here(reason)

    def _end_here(self, reason: str) -> None:
        if not self.closed.is_set():
            self.closed.set()
            self._network._connections.discard(self)
            for stream in self._streams:
                stream.break_off(reason)
            self._streams.clear()

    async def close(self) -> None:
        self._end_here("the connection was closed")
        if (self.owner, self.peer) not in self._network._silent:  # else the other end learns of it when that is over
            self.other._end_here("the connection was closed")
        await trio.lowlevel.checkpoint()


class MemoryHost(LinkedHost):
    """A host whose transport is a `MemoryNetwork`; addresses are `/memory/<number>`, number 0 asks for a free one.

    Args:
        network: where it lives; the other arguments are those of `LinkedHost`.
    """

    def __init__(
        self,
        secret: bytes,
        *,
        network: MemoryNetwork,
        genesis: bytes,
        switches: int = 0,
        agent: str = "rrnode",
        listen: tuple[str, ...] = (),
        announce: tuple[str, ...] = (),
        config: HostConfig | None = None,
    ) -> None:
        super().__init__(
            secret, genesis=genesis, switches=switches, agent=agent, listen=listen, announce=announce, config=config
        )
        self._network = network
        self._bound: tuple[str, ...] = ()

    def addresses(self) -> tuple[str, ...]:
        return tuple(join_address(where, self.peer_id) for where in self._announce or self._bound)

    def _transport(self) -> AbstractAsyncContextManager[None]:
        return self._listening()

    @asynccontextmanager
    async def _listening(self) -> AsyncGenerator[None, None]:
        bound: list[str] = []
        try:
            for where in self._listen:
                bound.append(self._network._bind(where, self))
            self._bound = tuple(bound)
            yield
        finally:
            for where in bound:
                self._network._release(where)
            self._bound = ()

    def relay_for(self, admits: Callable[[PeerId], bool]) -> None:
        """There are no relays here."""

    async def reserve(self, peer: PeerId) -> float:
        await trio.lowlevel.checkpoint()
        raise LinkClosed(f"{to_text(peer)} is no relay: there are none in memory")

    async def _connect(self, where: str, peer: PeerId) -> Connection:
        network = self._network
        await trio.sleep(2 * network._latency())
        await network._pass(self.peer_id, peer)
        host = network._listeners.get(where)
        if host is None or frozenset((self.peer_id, peer)) in network._parted:
            raise Unreachable(f"{where}: connection refused")
        if host.peer_id != peer:
            raise Unreachable(f"{where} is {to_text(host.peer_id)}, not {to_text(peer)}")
        ours = MemoryConnection(network, self, peer, False, where)
        theirs = MemoryConnection(network, host, self.peer_id, True, "/memory/0")
        ours.other, theirs.other = theirs, ours
        network._connections |= {ours, theirs}
        host._attach(theirs)
        return ours

    def _accept_stream(self, connection: MemoryConnection, protocol: str, stream: ByteStream) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._incoming, connection, protocol, stream)
