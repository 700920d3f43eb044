"""One frame stream over a byte stream that the test holds: batching, bounds, ends. The clock jumps."""

import itertools

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import DecodeError
from protocols.ids import PeerId
from protocols.wire.framing import MAX_FRAME, frame
from rrnode.errors import LinkClosed
from rrnode.host.base import HostConfig
from rrnode.host.link import MAX_WRITE, QueuedStream
from rrnode.host.pace import Pace
from rrnode.host.transport import ByteStream

CONFIG = HostConfig(queue_frames=4, queue_bytes=100_000, close_timeout=5.0)


class Wire(ByteStream):
    """Gives what the test feeds and keeps what is written, one entry a write."""

    def __init__(self) -> None:
        self.feed, self._chunks = trio.open_memory_channel[bytes](1000)
        self.writes: list[bytes] = []
        self.free = trio.Event()  # writes wait for it
        self.free.set()
        self.finished = 0
        self.resets = 0

    async def read(self) -> bytes:
        try:
            return await self._chunks.receive()
        except trio.EndOfChannel:
            return b""

    async def write(self, data: bytes) -> None:
        await self.free.wait()
        self.writes.append(data)
        await trio.lowlevel.checkpoint()

    async def finish(self) -> None:
        self.finished += 1

    async def reset(self) -> None:
        self.resets += 1


class Opened:
    """A running stream on a `Wire`."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.heard = 0
        self.stream = QueuedStream(
            self.wire,
            peer=PeerId(b"\x02" + bytes(32)),
            protocol="/test/1",
            inbound=False,
            remote_address="",
            config=CONFIG,
            pace=Pace(CONFIG.peer_frames, CONFIG.peer_burst, lambda: None),
            heard=self._on_heard,
        )

    def _on_heard(self) -> None:
        self.heard += 1


@pytest.fixture
def opened(nursery: trio.Nursery) -> Opened:
    made = Opened()
    nursery.start_soon(made.stream.run)
    return made


async def test_an_idle_stream_sends_a_frame_at_once(opened: Opened, autojump_clock) -> None:
    await opened.stream.send(b"one")
    await trio.testing.wait_all_tasks_blocked()
    assert opened.wire.writes == [frame(b"one")]
    assert trio.current_time() == autojump_clock.current_time()


async def test_what_gathers_while_a_write_is_under_way_goes_in_one(opened: Opened, autojump_clock) -> None:
    opened.wire.free = trio.Event()
    opened.stream.send_nowait(b"first")
    await trio.testing.wait_all_tasks_blocked()
    for word in (b"a", b"bb", b"ccc"):
        opened.stream.send_nowait(word)
    opened.wire.free.set()
    await opened.stream.flush()
    assert opened.wire.writes == [frame(b"first"), frame(b"a") + frame(b"bb") + frame(b"ccc")]


async def test_no_write_is_longer_than_one_muxer_frame_unless_one_frame_is(opened: Opened, autojump_clock) -> None:
    opened.wire.free = trio.Event()
    await opened.stream.send(b"first")
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(3):
        opened.stream.send_nowait(bytes(30_000))
    opened.wire.free.set()
    await opened.stream.send(bytes(MAX_FRAME))
    await opened.stream.flush()
    sizes = [len(write) for write in opened.wire.writes]
    assert sizes == [6, 60_006, 30_003, MAX_FRAME + 3]
    assert all(size <= MAX_WRITE for size in sizes[:-1])


async def test_the_outgoing_queue_is_bounded_in_frames_and_bytes(opened: Opened, autojump_clock) -> None:
    opened.wire.free = trio.Event()
    await opened.stream.send(b"under way")
    await trio.testing.wait_all_tasks_blocked()
    opened.stream.send_nowait(bytes(60_000))
    with pytest.raises(trio.WouldBlock):
        opened.stream.send_nowait(bytes(60_000))
    for _ in range(3):
        opened.stream.send_nowait(b"x")
    with pytest.raises(trio.WouldBlock):
        opened.stream.send_nowait(b"x")
    with trio.move_on_after(1) as scope:
        await opened.stream.send(b"given up")
    assert scope.cancelled_caught
    opened.wire.free.set()
    await opened.stream.send(b"last")
    await opened.stream.flush()
    assert b"given up" not in b"".join(opened.wire.writes)
    assert opened.wire.writes[-1].endswith(frame(b"last"))


async def test_an_application_that_does_not_read_stops_the_reader(opened: Opened, autojump_clock) -> None:
    for _ in range(100):
        opened.wire.feed.send_nowait(frame(bytes(1000)))
    await trio.testing.wait_all_tasks_blocked()
    assert opened.heard == 5  # four in the queue, one in the reader's hand
    for _ in range(100):
        assert await opened.stream.receive() == bytes(1000)
    assert opened.heard == 100


async def test_frames_before_garbage_are_received_then_one_decode_error_then_the_end(
    opened: Opened, autojump_clock
) -> None:
    opened.wire.feed.send_nowait(frame(b"good"))
    await trio.testing.wait_all_tasks_blocked()
    opened.wire.feed.send_nowait(b"\x00")
    await trio.testing.wait_all_tasks_blocked()
    assert await opened.stream.receive() == b"good"
    with pytest.raises(DecodeError, match="frame of 0 bytes"):
        await opened.stream.receive()
    for _ in range(2):
        with pytest.raises(LinkClosed, match="bad frame"):
            await opened.stream.receive()
    assert opened.stream.bad_frames
    assert (opened.wire.finished, opened.wire.resets) == (0, 1)
    assert opened.stream.finished.is_set()


async def test_the_peers_end_ends_both_ways_but_loses_nothing_received(opened: Opened, autojump_clock) -> None:
    opened.wire.feed.send_nowait(frame(b"a") + frame(b"b"))
    opened.wire.feed.close()
    await opened.stream.finished.wait()
    assert [await opened.stream.receive() for _ in range(2)] == [b"a", b"b"]
    with pytest.raises(LinkClosed, match="ended by the peer"):
        await opened.stream.receive()
    with pytest.raises(LinkClosed, match="ended by the peer"):
        await opened.stream.send(b"x")
    assert (opened.wire.finished, opened.wire.resets) == (1, 0)


async def test_closing_writes_the_queue_then_waits_for_the_peers_end(opened: Opened, autojump_clock) -> None:
    opened.wire.free = trio.Event()
    for word in (b"a", b"b"):
        opened.stream.send_nowait(word)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(opened.stream.aclose)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(LinkClosed, match="closed by us"):
            opened.stream.send_nowait(b"late")
        opened.wire.free.set()
    assert b"".join(opened.wire.writes) == frame(b"a") + frame(b"b")
    opened.wire.feed.send_nowait(frame(b"ignored"))
    await trio.testing.wait_all_tasks_blocked()
    assert not opened.stream.finished.is_set()
    opened.wire.feed.close()
    await opened.stream.finished.wait()
    assert opened.wire.resets == 0


async def test_closing_is_bounded_when_the_peer_takes_nothing(opened: Opened, autojump_clock) -> None:
    opened.wire.free = trio.Event()
    opened.stream.send_nowait(b"stuck")
    began = trio.current_time()
    await opened.stream.aclose()
    await opened.stream.finished.wait()
    assert trio.current_time() - began == pytest.approx(5.0)
    assert opened.wire.resets == 1


async def test_closing_is_bounded_when_the_peer_never_ends(opened: Opened, autojump_clock) -> None:
    began = trio.current_time()
    await opened.stream.aclose()
    assert trio.current_time() == began
    await opened.stream.finished.wait()
    assert trio.current_time() - began == pytest.approx(5.0)
    assert (opened.wire.finished, opened.wire.resets) == (1, 1)


async def test_a_reset_wakes_everybody(opened: Opened, autojump_clock) -> None:
    opened.wire.free = trio.Event()
    ended: list[str] = []

    async def expect_end(name: str, act, *args: bytes) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(LinkClosed):
            await act(*args)
        ended.append(name)

    for _ in range(5):
        await opened.stream.send(b"fill")
        await trio.testing.wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_end, "send", opened.stream.send, b"x")
        nursery.start_soon(expect_end, "receive", opened.stream.receive)
        nursery.start_soon(expect_end, "flush", opened.stream.flush)
        await trio.testing.wait_all_tasks_blocked()
        assert ended == []
        opened.stream.reset()
    assert sorted(ended) == ["flush", "receive", "send"]
    await opened.stream.finished.wait()
    assert opened.wire.resets == 1


@settings(max_examples=50, deadline=None)
@given(
    payloads=st.lists(st.binary(min_size=1, max_size=300), max_size=30),
    cuts=st.lists(st.integers(min_value=1, max_value=400), min_size=1, max_size=20),
)
def test_any_split_of_the_bytes_gives_the_same_frames(payloads: list[bytes], cuts: list[int]) -> None:
    async def play() -> None:
        opened = Opened()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(opened.stream.run)
            data = b"".join(map(frame, payloads))
            sizes = itertools.cycle(cuts)
            while data:
                size = next(sizes)
                await opened.wire.feed.send(data[:size])
                data = data[size:]
                await trio.testing.wait_all_tasks_blocked()
                if len(data) % 2:
                    continue
                while len(opened.stream._inbox) > 2:
                    assert await opened.stream.receive() == payloads.pop(0)
            while payloads:
                assert await opened.stream.receive() == payloads.pop(0)
            nursery.cancel_scope.cancel()

    trio.run(play, clock=trio.testing.MockClock(autojump_threshold=0))
