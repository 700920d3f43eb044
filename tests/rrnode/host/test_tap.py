"""Listening to a host's frames: what is seen, what a slow listener loses, and that nobody else notices."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio
import trio.testing

from protocols.ids import PeerId
from protocols.wire import link
from rrnode.host.base import FrameStream, HostConfig
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.host.tap import Listener, Tap

ECHO = "/test/echo/1"
CALM = HostConfig(heartbeat_every=100, lost_after=300)


def everything(peer: PeerId, protocol: str, outward: bool, payload: bytes) -> bool:
    return True


def only_echo(peer: PeerId, protocol: str, outward: bool, payload: bytes) -> bool:
    return protocol == ECHO


def listener(wants=everything, **bounds: int) -> Listener:
    return Listener(wants, lambda: 1_800_000_000.25, **bounds)


async def echo(stream: FrameStream) -> None:
    while True:
        await stream.send((await stream.receive()).upper())


@asynccontextmanager
async def two_hosts() -> AsyncIterator[tuple[MemoryHost, MemoryHost]]:
    """A server that echoes, and a client; not linked yet."""
    network = MemoryNetwork()
    server, client = (
        MemoryHost(
            number.to_bytes(32, "big"),
            network=network,
            genesis=b"\x01" * 32,
            listen=("/memory/0",) if number == 1 else (),
            config=CALM,
        )
        for number in (1, 2)
    )
    server.handle(ECHO, echo)
    async with server.running(), client.running():
        yield server, client


async def ask(server: MemoryHost, client: MemoryHost, *words: bytes) -> None:
    await client.dial(server.addresses()[0])
    stream = await client.open_stream(server.peer_id, ECHO)
    for word in words:
        await stream.send(word)
        assert await stream.receive() == word.upper()


def drained(heard: Listener) -> list[tuple[PeerId, str, bool, bytes]]:
    found = []
    with suppress(trio.WouldBlock):
        while True:
            frame = heard.receive_nowait()
            found.append((frame.peer, frame.protocol, frame.outward, frame.payload))
    return found


async def test_a_listener_sees_every_frame_both_ways_in_order(autojump_clock: trio.testing.MockClock) -> None:
    async with two_hosts() as (server, client):
        with server.tap.listening(listener()) as heard:
            await ask(server, client, b"one", b"two")
        await ask(server, client, b"three")
        seen = drained(heard)
    hello, answer, *rest = seen
    assert [type(link.CODEC.decode(each[3])).__name__ for each in (hello, answer)] == ["Hello", "Hello"]
    assert [(each[0], each[1], each[2]) for each in (hello, answer)] == [
        (client.peer_id, link.PROTOCOL, False),
        (client.peer_id, link.PROTOCOL, True),
    ]
    assert rest == [
        (client.peer_id, ECHO, False, b"one"),
        (client.peer_id, ECHO, True, b"ONE"),
        (client.peer_id, ECHO, False, b"two"),
        (client.peer_id, ECHO, True, b"TWO"),
    ]


async def test_what_a_listener_does_not_want_takes_no_room(autojump_clock: trio.testing.MockClock) -> None:
    async with two_hosts() as (server, client):
        with server.tap.listening(listener(only_echo, most_frames=2)) as heard:
            await ask(server, client, b"one")
    assert [each[3] for each in drained(heard)] == [b"one", b"ONE"]
    assert heard.dropped == 0


async def test_a_listener_that_does_not_read_loses_frames_and_the_peers_go_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_hosts() as (server, client):
        with server.tap.listening(listener(only_echo, most_frames=3)) as heard:
            await ask(server, client, b"a", b"b", b"c")
            kept = [heard.receive_nowait() for _ in range(3)]
            await ask(server, client, b"d")
            later = heard.receive_nowait()
    assert [frame.payload for frame in kept] == [b"a", b"A", b"b"]
    assert (later.payload, later.dropped, later.at_ms) == (b"d", 3, 1_800_000_000_250)


def test_large_frames_are_bounded_by_their_bytes() -> None:
    tap = Tap()
    with tap.listening(listener(most_bytes=100)) as heard:
        for size in (60, 41, 40):
            tap.tell(PeerId(b"\x02" + bytes(32)), ECHO, True, b"x" * size)
    assert [len(each[3]) for each in drained(heard)] == [60, 40]
    assert heard.dropped == 1


async def test_each_listener_has_its_own_queue_and_waits_for_its_frames(autojump_clock: trio.testing.MockClock) -> None:
    async with two_hosts() as (server, client), trio.open_nursery() as nursery:
        with server.tap.listening(listener(only_echo)) as one, server.tap.listening(listener(only_echo)) as other:
            nursery.start_soon(ask, server, client, b"one")
            assert [(await one.receive()).payload for _ in range(2)] == [b"one", b"ONE"]
            assert [(await other.receive()).payload for _ in range(2)] == [b"one", b"ONE"]
        assert server.tap.listeners == ()
