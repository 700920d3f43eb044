"""Bad bytes against a live libp2p host, at every layer and on every protocol: the stream ends, others notice nothing.

The attacker is a linked peer that writes below its frames, a peer that never says `Hello`, or a stranger's socket. Each
attack is repeated with a seeded random number generator; meanwhile an honest peer keeps getting its echoes.
"""

import importlib
import pkgutil
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import trio

import protocols.wire
from protocols.wire import link as link_wire
from protocols.wire.framing import encode_varint, frame
from rrnode.errors import LinkClosed
from rrnode.host import sockets
from rrnode.host.base import FrameStream, HostConfig
from rrnode.host.libp2p import LibP2PHost
from rrnode.host.peer_text import split_address
from rrnode.host.transport import ByteStream

ECHO = "/test/echo/1"
CODECS: dict[str, Any] = {
    module.PROTOCOL: module.CODEC
    for module in (
        importlib.import_module(f"protocols.wire.{found.name}")
        for found in pkgutil.iter_modules(protocols.wire.__path__)
    )
    if hasattr(module, "PROTOCOL") and module.PROTOCOL != link_wire.PROTOCOL
}
CONFIG = HostConfig(
    heartbeat_every=1.0, lost_after=5.0, hello_timeout=0.5, close_timeout=1.0, crossing_wait=0.1, queue_bytes=100_000
)


async def echo(stream: FrameStream) -> None:
    while True:
        await stream.send(await stream.receive())


def reading(codec: Any) -> Any:
    async def read(stream: FrameStream) -> None:
        while True:
            codec.decode(await stream.receive())

    return read


def host(number: int, *, listen: bool = False) -> LibP2PHost:
    where = ("/ip4/127.0.0.1/tcp/0",) if listen else ()
    return LibP2PHost(number.to_bytes(32, "big"), genesis=bytes(32), listen=where, config=CONFIG)


async def _until(condition: Callable[..., bool]) -> None:
    with trio.fail_after(3):
        while not condition():  # noqa: ASYNC110 - it asks what a host shows, which has no event
            await trio.sleep(0.01)


class Scene:
    """A server of every protocol, an honest peer that talks to it, and an attacker."""

    def __init__(self) -> None:
        self.server, self.honest, self.attacker = host(1, listen=True), host(2), host(3)
        self.server.handle(ECHO, echo)
        for protocol, codec in CODECS.items():
            self.server.handle(protocol, reading(codec))
        self.echoes = 0

    @property
    def address(self) -> str:
        return self.server.addresses()[0]

    async def talk(self) -> None:
        stream = await self.honest.open_stream(await self.honest.dial(self.address), ECHO)
        while True:
            payload = self.echoes.to_bytes(4, "big")
            with trio.fail_after(2):
                await stream.send(payload)
                assert await stream.receive() == payload
            self.echoes += 1
            await trio.sleep(0.005)

    async def progress(self) -> None:
        """The honest peer gets its answers."""
        before = self.echoes
        await _until(lambda: self.echoes > before + 2)

    async def raw(self, protocol: str) -> ByteStream:
        return await self.attacker._links[self.server.peer_id].connection.open(protocol)

    def held(self) -> int:
        """Bytes that the server holds for the attacker, in every queue."""
        total = 0
        for link in self.server._all.values():
            if link.peer == self.attacker.peer_id:
                muxed = link.connection._swarm_conn.muxed_conn  # type: ignore[attr-defined]
                total += sum(map(len, muxed.stream_buffers.values()))
                total += sum(stream._inbox.size + stream._outbox.size for stream in link.streams)
        return total


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    with trio.fail_after(30):
        async with (
            made.server.running(),
            made.honest.running(),
            made.attacker.running(),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(made.talk)
            await made.attacker.dial(made.address)
            await made.progress()
            yield made
            await made.progress()
            nursery.cancel_scope.cancel()


async def ends(stream: ByteStream) -> None:
    """Wait until the server has ended this stream."""
    with trio.fail_after(5), suppress(LinkClosed):
        while await stream.read():
            pass


def bad_bytes(randomness: random.Random) -> list[bytes]:
    return [
        randomness.randbytes(70_000),  # whatever length they begin with, it is complete
        encode_varint(65_537) + randomness.randbytes(1000),
        encode_varint(2**60) + randomness.randbytes(1000),
        b"\x00",
        frame(randomness.randbytes(randomness.randint(1, 200))),
        frame(msgspec.msgpack.encode([99, *range(randomness.randint(0, 9))])),
        frame(msgspec.msgpack.encode([2, b"", -1, "x" * 300])),
        frame(b"\x91" * 60_000),  # arrays in arrays
        frame(b"\xdd\xff\xff\xff\xff"),  # an array of four thousand million
        frame(b"\xc6\xff\xff\xff\xff"),  # bytes likewise
    ]


@pytest.mark.parametrize("protocol", sorted(CODECS))
async def test_bad_bytes_end_their_stream_only(scene: Scene, protocol: str) -> None:
    randomness = random.Random(protocol)
    attacks = bad_bytes(randomness)
    for attack in attacks:
        stream = await scene.raw(protocol)
        with suppress(LinkClosed):
            await stream.write(attack)
        await ends(stream)
        await stream.reset()
        assert scene.held() < 600_000
    counters = scene.server.counters
    assert counters.bad_frames + counters.bad_messages == len(attacks)
    assert counters.bad_frames >= 3
    assert counters.handler_errors == 0
    assert scene.server.peer_id in scene.attacker.connected()


@pytest.mark.parametrize("protocol", sorted(CODECS))
async def test_half_a_frame_then_silence_or_a_cut_holds_little(scene: Scene, protocol: str) -> None:
    for round_number in range(10):
        stream = await scene.raw(protocol)
        await stream.write(encode_varint(60_000) + bytes(59_999))
        if round_number % 2:
            await stream.finish()
            await ends(stream)
    await trio.sleep(0.1)
    assert scene.held() <= 70_000
    link = scene.server._links[scene.attacker.peer_id]
    assert len([stream for stream in link.streams if stream.protocol == protocol]) <= 1  # the newest replaces the older
    assert scene.server.peer_id in scene.attacker.connected()


async def test_a_flood_of_streams_is_cut(scene: Scene) -> None:
    connection: Any = scene.attacker._links[scene.server.peer_id].connection
    muxed = connection._swarm_conn.muxed_conn
    for number in range(1500):
        await muxed._write_frame(bytes([0, 1, 0, 1]) + (100_001 + 2 * number).to_bytes(4, "big") + bytes(4))
    await trio.sleep(0.2)
    assert len(scene.server._links[scene.attacker.peer_id].connection._swarm_conn.streams) <= 300  # type: ignore[attr-defined]


async def test_nonsense_in_the_muxer_ends_that_connection(scene: Scene) -> None:
    randomness = random.Random(5)
    for _ in range(5):
        attacker = host(4)
        async with attacker.running():
            await attacker.dial(scene.address)
            connection: Any = attacker._links[scene.server.peer_id].connection
            with suppress(Exception):
                await connection._swarm_conn.muxed_conn.secured_conn.write(
                    bytes([0, 0, 0, 1]) + randomness.randbytes(500)
                )
            with suppress(Exception):
                await connection._below.send_all(randomness.randbytes(500))  # and in the encryption
            await _until(lambda peer=attacker.peer_id: peer not in scene.server.connected())


async def test_a_peer_without_a_hello_is_cut(scene: Scene) -> None:
    where, peer = split_address(scene.address)
    attacker = host(5)
    async with attacker.running():
        connections = [await attacker._connect(where, peer) for _ in range(3)]
        for attack, connection in zip((b"", b"\x00\x00", frame(b"\x91\x02")), connections, strict=True):
            stream = await connection.open(link_wire.PROTOCOL)
            if attack:
                await stream.write(attack)
        with trio.fail_after(5):
            for connection in connections:
                await connection.closed.wait()
        assert attacker.peer_id not in scene.server.connected()
        assert scene.server.counters.refused_peers >= 1


async def test_one_peer_may_not_hold_many_connections(scene: Scene) -> None:
    where, peer = split_address(scene.address)
    attacker = host(6)
    async with attacker.running():
        connections = [await attacker._connect(where, peer) for _ in range(7)]
        await _until(lambda: scene.server.counters.refused_connections == 3)
        await _until(lambda: sum(not connection.closed.is_set() for connection in connections) <= 4)


async def test_a_second_hello_ends_its_stream_only(scene: Scene) -> None:
    stream = await scene.raw(link_wire.PROTOCOL)
    await stream.write(frame(link_wire.CODEC.encode(link_wire.Hello(network=bytes(32), switches=0, agent="again"))))
    await ends(stream)
    assert scene.attacker.peer_id in scene.server.connected()


async def test_strangers_sockets_are_closed_in_time(scene: Scene) -> None:
    randomness = random.Random(7)
    where = split_address(scene.address)[0]
    tasks = trio.lowlevel.current_statistics().tasks_living
    for attack in (
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x13/multistream/1.0.0\n",
        randomness.randbytes(3000),
        b"\xff" * 50,
    ):
        socket = await sockets.connect(where)
        with suppress(trio.BrokenResourceError):
            await socket.send_all(attack)
        with trio.fail_after(3), suppress(trio.BrokenResourceError):
            while await socket.receive_some(65536):
                pass
        await socket.aclose()
    await _until(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)


async def test_connections_above_the_limit_of_an_address_are_refused_before_the_handshake(scene: Scene) -> None:
    where = split_address(scene.address)[0]
    open_sockets = [await sockets.connect(where) for _ in range(CONFIG.max_per_address + 5)]
    await _until(lambda: scene.server.counters.refused_connections >= 5)
    for socket in open_sockets:
        await socket.aclose()
