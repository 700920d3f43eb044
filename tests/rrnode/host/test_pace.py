"""How fast one peer is read, on a clock that jumps: bursts, the long run, turns between streams, what a new link gets; and
over memory hosts, that who floods waits alone."""

from contextlib import suppress

import pytest
import trio
import trio.testing

from protocols.ids import PeerId
from protocols.wire.framing import frame
from rrnode.errors import LinkClosed
from rrnode.host.base import FrameStream, HostConfig
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.host.pace import BYTES_PER_FRAME, FRAMES_PER_STREAM, Pace, Paces

Clock = trio.testing.MockClock
GENESIS = b"\x01" * 32
ECHO, SINK = "/test/echo/1", "/test/sink/1"
SLOW = HostConfig(peer_frames=100, peer_burst=800)


class Watched:
    """A pace of 10 frames a second, 80 at once, and how often it was exceeded."""

    def __init__(self) -> None:
        self.exceeded = 0
        self.pace = Pace(10, 80, self._on_exceeded)

    def _on_exceeded(self) -> None:
        self.exceeded += 1

    async def takes(self, *sizes: int) -> float:
        """Seconds until frames of these sizes were taken."""
        before = trio.current_time()
        for size in sizes:
            await self.pace.take_frame(size)
        return trio.current_time() - before


async def test_who_was_quiet_takes_its_burst_at_once_and_then_its_rate(autojump_clock: Clock) -> None:
    watched = Watched()
    await trio.sleep(3600)
    assert await watched.takes(*[100] * 80) == 0
    assert watched.exceeded == 0
    assert await watched.takes(*[100] * 50) == pytest.approx(5)
    assert watched.exceeded == 1  # told once


async def test_a_new_peer_begins_with_an_eighth_of_the_burst(autojump_clock: Clock) -> None:
    assert await Watched().takes(*[100] * 10) == 0
    assert await Watched().takes(*[100] * 30) == pytest.approx(2)


async def test_a_long_frame_and_the_start_of_a_stream_count_as_what_they_cost(autojump_clock: Clock) -> None:
    watched = Watched()
    await watched.takes(*[100] * 10)
    assert await watched.takes(BYTES_PER_FRAME - 1) == pytest.approx(0.1)
    assert await watched.takes(8 * BYTES_PER_FRAME) == pytest.approx(0.9)
    before = trio.current_time()
    await watched.pace.take_stream()
    assert trio.current_time() - before == pytest.approx(FRAMES_PER_STREAM / 10)


async def test_a_stream_that_floods_leaves_the_others_of_its_peer_their_turn(autojump_clock: Clock) -> None:
    watched = Watched()

    async def flood() -> None:
        while True:
            await watched.pace.take_frame(1)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(flood)
        await trio.sleep(100)
        assert await watched.takes(1) == pytest.approx(0.4)
        nursery.cancel_scope.cancel()


async def test_a_peer_that_connects_again_finds_the_budget_that_it_left(autojump_clock: Clock) -> None:
    exceeded: list[PeerId] = []
    paces = Paces(10, 80, most=2, exceeded=exceeded.append)
    one, two, three = (PeerId(bytes([number]) * 33) for number in range(3))
    pace = paces.of(one)
    for _ in range(11):
        await pace.take_frame(1)
    assert exceeded == [one]
    paces.of(two)
    assert paces.of(one) is pace
    paces.of(three)  # the second was there longest ago
    assert paces.of(one) is pace
    assert len(paces._known) == 2


async def sink(stream: FrameStream) -> None:
    while True:
        await stream.receive()


async def echo(stream: FrameStream) -> None:
    while True:
        await stream.send(await stream.receive())


async def hosts(nursery: trio.Nursery, *numbers: int) -> list[MemoryHost]:
    """Running hosts; the first is slow, listens and serves, the others are linked to it."""
    network, made = MemoryNetwork(), []
    for number in numbers:
        listen = ("/memory/1",) if not made else ()
        host = MemoryHost(bytes([number]) * 32, network=network, genesis=GENESIS, listen=listen, config=SLOW)
        host.handle(ECHO, echo)
        host.handle(SINK, sink)
        await nursery.start(_run, host)
        made.append(host)
        if len(made) > 1:
            await host.dial(made[0].addresses()[0])
    return made


async def _run(host: MemoryHost, task_status: trio.TaskStatus[None]) -> None:
    async with host.running():
        task_status.started()
        await trio.sleep_forever()


async def pour(host: MemoryHost, to: PeerId, protocol: str, payload: bytes) -> None:
    """Write one frame over and over, below what would brake ourselves: at the budget of these tests, for 5 minutes."""
    with suppress(LinkClosed):
        raw = await host._links[to].connection.open(protocol)
        for _ in range(300):
            await raw.write(frame(payload) * 100)


async def trip(stream: FrameStream) -> float:
    """Seconds for a frame there and back."""
    before = trio.current_time()
    await stream.send(b"honest")
    assert await stream.receive() == b"honest"
    return trio.current_time() - before


async def test_who_floods_one_protocol_waits_and_nobody_else_does(nursery: trio.Nursery, autojump_clock: Clock) -> None:
    victim, attacker, honest = await hosts(nursery, 1, 2, 3)
    nursery.start_soon(pour, attacker, victim.peer_id, SINK, b"x")
    theirs = await honest.open_stream(victim.peer_id, ECHO)
    own = await attacker.open_stream(victim.peer_id, ECHO)
    await trio.sleep(60)
    assert await trip(theirs) == 0
    assert 0 < await trip(own) <= 0.05  # behind a few frames of the flood
    assert victim.counters.slowed_peers == 1
    assert set(victim.connected()) == {attacker.peer_id, honest.peer_id}


async def test_dialling_again_renews_nothing(nursery: trio.Nursery, autojump_clock: Clock) -> None:
    victim, attacker = await hosts(nursery, 1, 2)
    nursery.start_soon(pour, attacker, victim.peer_id, SINK, b"x")
    await trio.sleep(60)
    await attacker.disconnect(victim.peer_id, "again")
    before = trio.current_time()
    await attacker.dial(victim.addresses()[0])
    assert trio.current_time() - before >= FRAMES_PER_STREAM / 100


async def test_streams_are_started_no_faster_than_the_budget(nursery: trio.Nursery, autojump_clock: Clock) -> None:
    victim, attacker = await hosts(nursery, 1, 2)
    await trio.sleep(60)
    before = trio.current_time()
    for _ in range(100):
        stream = await attacker.open_stream(victim.peer_id, ECHO)
        await trip(stream)
        stream.reset()
    assert trio.current_time() - before == pytest.approx((100 * (FRAMES_PER_STREAM + 1) - 800) / 100, abs=1)
