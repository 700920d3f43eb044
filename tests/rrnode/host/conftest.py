"""Worlds in which hosts live: the memory network under a clock that jumps, and libp2p over loopback with short deadlines."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

from protocols.ids import PeerId
from rrnode.host.base import Host, HostConfig
from rrnode.host.libp2p import LibP2PHost
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.host.peer_text import join_address, split_address
from rrnode.host.peers import LinkedHost
from rrnode.host.transport import ByteStream

NETWORK = b"\x01" * 32
OTHER_NETWORK = b"\x02" * 32
SHORT = HostConfig(
    heartbeat_every=0.1,
    lost_after=0.5,
    dial_timeout=2.0,
    hello_timeout=1.0,
    stall_after=0.5,
    close_timeout=1.0,
    crossing_wait=0.5,
    queue_frames=8,
    queue_bytes=100_000,
    max_streams=8,
)


def secret(number: int) -> bytes:
    return number.to_bytes(32, "big")


class World:
    """Makes hosts and troubles the wires between them; the same words for both kinds."""

    kind: str

    def host(
        self,
        number: int,
        *,
        listen: bool = True,
        network: bytes = NETWORK,
        switches: int = 0,
        config: HostConfig = SHORT,
    ) -> LinkedHost:
        raise NotImplementedError

    async def address(self, host: Host, dialler: Host) -> str:
        """An address of `host` for `dialler`, over a wire that `silence` can hold up."""
        raise NotImplementedError

    def silence(self) -> None:
        """From now on no byte passes on wires that `address` gave, and nobody is told."""
        raise NotImplementedError

    def heal(self) -> None:
        raise NotImplementedError

    async def raw(self, host: LinkedHost, peer: PeerId, protocol: str) -> ByteStream:
        """A stream below the frames, to write what no honest peer writes."""
        return await host._links[peer].connection.open(protocol)


class MemoryWorld(World):
    kind = "memory"

    def __init__(self) -> None:
        self.network = MemoryNetwork(seed=1, delay=0.005, jitter=0.005)
        self._pairs: list[tuple[PeerId, PeerId]] = []

    def host(
        self,
        number: int,
        *,
        listen: bool = True,
        network: bytes = NETWORK,
        switches: int = 0,
        config: HostConfig = SHORT,
    ) -> LinkedHost:
        where = ("/memory/0",) if listen else ()
        return MemoryHost(
            secret(number), network=self.network, genesis=network, switches=switches, agent=f"n{number}", listen=where,
            config=config,
        )  # fmt: skip

    async def address(self, host: Host, dialler: Host) -> str:
        self._pairs += [(host.peer_id, dialler.peer_id), (dialler.peer_id, host.peer_id)]
        return host.addresses()[0]

    def silence(self) -> None:
        for sender, receiver in self._pairs:
            self.network.silence(sender, receiver)

    def heal(self) -> None:
        self._pairs.clear()
        self.network.heal()


class LibP2PWorld(World):
    kind = "libp2p"

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._open = trio.Event()
        self._open.set()

    def host(
        self,
        number: int,
        *,
        listen: bool = True,
        network: bytes = NETWORK,
        switches: int = 0,
        config: HostConfig = SHORT,
    ) -> LinkedHost:
        where = ("/ip4/127.0.0.1/tcp/0",) if listen else ()
        return LibP2PHost(
            secret(number), genesis=network, switches=switches, agent=f"n{number}", listen=where, config=config
        )

    async def address(self, host: Host, dialler: Host) -> str:
        where, peer = split_address(host.addresses()[0])
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self._nursery.start_soon(trio.serve_listeners, self._forwarder(int(where.split("/")[-1])), listeners)
        return join_address(f"/ip4/127.0.0.1/tcp/{listeners[0].socket.getsockname()[1]}", peer)

    def _forwarder(self, port: int) -> Callable[[trio.SocketStream], Awaitable[None]]:
        async def pump(source: trio.SocketStream, target: trio.SocketStream) -> None:
            try:
                while data := await source.receive_some(65536):
                    await self._open.wait()
                    await target.send_all(data)
                await target.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await trio.aclose_forcefully(target)
                await trio.aclose_forcefully(source)

        async def serve(ours: trio.SocketStream) -> None:
            await self._open.wait()
            try:
                theirs = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                return
            async with theirs, trio.open_nursery() as nursery:
                nursery.start_soon(pump, ours, theirs)
                nursery.start_soon(pump, theirs, ours)

        return serve

    def silence(self) -> None:
        self._open = trio.Event()

    def heal(self) -> None:
        self._open.set()


@pytest.fixture(params=["memory", "libp2p"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def clock(kind: str) -> trio.abc.Clock | None:
    """Jumps where nothing real is waited for."""
    return trio.testing.MockClock(autojump_threshold=0) if kind == "memory" else None


@pytest.fixture
async def world(kind: str) -> AsyncIterator[World]:
    if kind == "memory":
        yield MemoryWorld()
        return
    async with trio.open_nursery() as nursery:
        yield LibP2PWorld(nursery)
        nursery.cancel_scope.cancel()
