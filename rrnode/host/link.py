"""A `FrameStream` over a byte stream: a reader task, a bounded queue each way, one batching writer (DESIGN 3, 10).

A libp2p write costs about 150 microseconds whatever its size, so the writer joins what is queued, up to 64 KiB; when
the stream is idle a frame leaves at once. Nobody but the two tasks touches the byte stream, and neither is ever put
under a deadline: a cancelled read or write may break a connection (LIBP2P.md B4). Deadlines stand on the queues.
"""

from collections import deque
from collections.abc import Callable

import trio

from protocols.errors import DecodeError
from protocols.ids import PeerId
from protocols.wire.framing import Deframer, frame
from rrnode.errors import LinkClosed
from rrnode.host.base import FrameStream, HostConfig
from rrnode.host.pace import Pace
from rrnode.host.tap import Tap
from rrnode.host.transport import ByteStream

MAX_WRITE = 65536 - 12  # bytes joined into one write: one yamux frame
_BREATH = 32  # frames that may pass one task before another gets its turn


class _Queue:
    """Byte strings in order, bounded in number and in bytes; one is always let in when empty, whatever its size."""

    __slots__ = ("_changed", "_items", "_max_bytes", "_max_items", "size")

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._items: deque[bytes] = deque()
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._changed = trio.lowlevel.ParkingLot()
        self.size = 0

    def __len__(self) -> int:
        return len(self._items)

    def fits(self, item: bytes) -> bool:
        if not self._items:
            return True
        return len(self._items) < self._max_items and self.size + len(item) <= self._max_bytes

    def put(self, item: bytes) -> None:
        self._items.append(item)
        self.size += len(item)
        self._changed.unpark_all()

    def pop(self) -> bytes:
        item = self._items.popleft()
        self.size -= len(item)
        self._changed.unpark_all()
        return item

    def pop_joined(self, limit: int) -> bytes:
        """What is queued, joined, up to `limit` bytes, and at least one item."""
        item = self.pop()
        if not self._items or len(item) >= limit:
            return item
        parts = [item]
        room = limit - len(item)
        while self._items and len(self._items[0]) <= room:
            room -= len(self._items[0])
            parts.append(self.pop())
        return b"".join(parts)

    def wake(self) -> None:
        self._changed.unpark_all()

    async def changed(self) -> None:
        await self._changed.park()

    def clear(self) -> None:
        self._items.clear()
        self.size = 0
        self._changed.unpark_all()


class QueuedStream(FrameStream):
    """The one implementation of `FrameStream`, for both hosts.

    Args:
        raw: the byte stream; this object owns it from now on.
        pace: how fast the peer is read.
        heard: called whenever bytes came, for the link's heartbeat.
        tap: where frames are shown as they are read and queued.
    """

    def __init__(
        self,
        raw: ByteStream,
        *,
        peer: PeerId,
        protocol: str,
        inbound: bool,
        remote_address: str,
        config: HostConfig,
        pace: Pace,
        heard: Callable[[], None] = lambda: None,
        tap: Tap | None = None,
    ) -> None:
        self.peer = peer
        self.protocol = protocol
        self.inbound = inbound
        self.remote_address = remote_address
        self.finished = trio.Event()  # both tasks are gone and the byte stream is freed
        self.bad_frames = False
        self.writing_since: float | None = None  # start of the write in progress, for the link's stall watch
        self._raw = raw
        self._pace = pace
        self._heard = heard
        self._tap = tap or Tap()
        self._close_timeout = config.close_timeout
        self._inbox = _Queue(config.queue_frames, config.queue_bytes)
        self._outbox = _Queue(config.queue_frames, config.queue_bytes)
        self._breaths = 0
        self._queued = 0  # frames ever queued
        self._written = 0  # frames ever handed to the transport
        self._end: str | None = None  # why receiving and sending is over
        self._decode_error: DecodeError | None = None
        self._closing = False  # our side said it will send no more
        self._peer_ended = False
        self._scope = trio.CancelScope()

    # What applications use. None of these touches the byte stream.

    def send_nowait(self, payload: bytes) -> None:
        framed = frame(payload)
        self._must_send()
        if not self._outbox.fits(framed):
            raise trio.WouldBlock
        self._queued += 1
        self._outbox.put(framed)
        if self._tap.listeners:
            self._tap.tell(self.peer, self.protocol, True, payload)

    async def send(self, payload: bytes) -> None:
        framed = frame(payload)
        self._must_send()
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while not self._outbox.fits(framed):
            await self._outbox.changed()
            waited = True
            self._must_send()
        self._queued += 1
        self._outbox.put(framed)
        if self._tap.listeners:
            self._tap.tell(self.peer, self.protocol, True, payload)
        if not waited:
            await self._breathe()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while not self._inbox:
            if self._decode_error is not None:
                error, self._decode_error = self._decode_error, None
                raise error
            self._must_live()
            await self._inbox.changed()
            waited = True
        if self._closing:
            self._must_live()
        item = self._inbox.pop()
        if not waited:
            await self._breathe()
        return item

    async def flush(self) -> None:
        target = self._queued
        await trio.lowlevel.checkpoint()
        while self._written < target:
            self._must_live()
            await self._outbox.changed()

    async def aclose(self) -> None:
        if not self._closing:
            self._closing = True
            self._end = self._end or "closed by us"
            self._outbox.wake()
            self._inbox.clear()
        with trio.CancelScope(shield=True), trio.move_on_after(self._close_timeout):
            while self._written < self._queued and not self._scope.cancel_called and not self.finished.is_set():
                await self._outbox.changed()
            return
        self.reset()

    def reset(self) -> None:
        self.end("reset by us")

    def end(self, reason: str) -> None:
        """Drop the stream at once; both sides of the queues learn `reason`. Idempotent."""
        if self._end is None:
            self._end = reason
        self._closing = True
        self._scope.cancel()
        self._outbox.clear()
        self._inbox.wake()

    async def _breathe(self) -> None:
        """Let other tasks run now and then: each time would cost more than the frame, and unbundle the writes."""
        self._breaths += 1
        if self._breaths % _BREATH == 0:
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _must_live(self) -> None:
        if self._end is not None:
            raise LinkClosed(f"{self.protocol}: {self._end}")

    def _must_send(self) -> None:
        if self._end is not None or self._closing:
            raise LinkClosed(f"{self.protocol}: {self._end or 'closed by us'}")

    # The two tasks.

    async def run(self) -> None:
        """Pump until the stream has ended, then free the byte stream. Run once, in the link's nursery."""
        clean = False
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_all, nursery.cancel_scope)
                    await self._read_all()
                    # The peer ended or broke rules: what it sent stays readable, what we queued has no reader any more.
                    nursery.cancel_scope.cancel()
                clean = self._peer_ended
        finally:
            self._end = self._end or "the link has ended"
            with trio.CancelScope(shield=True), trio.move_on_after(self._close_timeout):
                if clean:
                    await self._raw.finish()
                else:
                    await self._raw.reset()
            self.finished.set()
            self._outbox.clear()
            self._inbox.wake()

    async def _read_all(self) -> None:
        deframer = Deframer()
        while True:
            try:
                data = await self._raw.read()
            except LinkClosed as error:
                self._end = self._end or str(error)
                return
            if not data:
                self._peer_ended = True
                self._end = self._end or "ended by the peer"
                return
            self._heard()
            if self._closing:
                continue  # nobody reads any more; we only wait for the peer's end
            try:
                frames = deframer.feed(data)
            except DecodeError as error:
                self.bad_frames = True
                self._decode_error = error
                self._end = self._end or f"bad frame: {error}"
                return
            for item in frames:
                await self._pace.take_frame(len(item))
                while not self._inbox.fits(item) and not self._closing:
                    await self._inbox.changed()
                if self._closing:
                    break
                self._inbox.put(item)
                if self._tap.listeners:
                    self._tap.tell(self.peer, self.protocol, False, item)

    async def _write_all(self, both: trio.CancelScope) -> None:
        try:
            while True:
                while not self._outbox:
                    if self._closing:
                        await self._raw.finish()
                        await trio.sleep(self._close_timeout)  # the reader waits for the peer's end no longer than this
                        both.cancel()
                        return
                    await self._outbox.changed()
                before = len(self._outbox)
                data = self._outbox.pop_joined(MAX_WRITE)
                count = before - len(self._outbox)
                self.writing_since = trio.current_time()
                await self._raw.write(data)
                self.writing_since = None
                self._written += count
                self._outbox.wake()
        except LinkClosed as error:
            self._end = self._end or str(error)
            both.cancel()
