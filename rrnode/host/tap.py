"""Listening to a host's frames, for its owner's tools. Nobody does at most times, which costs a look at a tuple per frame.

A listener that is too slow loses frames and is told how many; it never holds up the node. Nothing is decoded here.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from protocols.ids import PeerId

MOST_FRAMES = 8192  # that a listener may lag behind: a busy second of four peers
MOST_BYTES = 8 << 20  # likewise: what a sniffer that hangs makes the node hold


@dataclass(frozen=True, slots=True, kw_only=True)
class TappedFrame:
    """A frame as it was read from a peer, or queued for it.

    Attributes:
        at_ms: unix milliseconds.
        dropped: frames that this listener has lost before this one, in all.
    """

    at_ms: int
    peer: PeerId
    protocol: str
    outward: bool
    payload: bytes
    dropped: int = 0


class Listener:
    """The frames that one listener wants, in order, up to a bound.

    Args:
        wants: whether to take a frame; called in the node's own tasks, so it must be quick and must not raise.
        clock: unix time, seconds.
    """

    def __init__(
        self,
        wants: Callable[[PeerId, str, bool, bytes], bool],
        clock: Callable[[], float],
        *,
        most_frames: int = MOST_FRAMES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.dropped = 0
        self._wants, self._clock = wants, clock
        self._most_frames, self._most_bytes = most_frames, most_bytes
        self._queue: deque[TappedFrame] = deque()
        self._size = 0
        self._came = trio.lowlevel.ParkingLot()

    def offer(self, peer: PeerId, protocol: str, outward: bool, payload: bytes) -> None:
        """Take a frame, drop it for want of room, or leave it; never waits."""
        if not self._wants(peer, protocol, outward, payload):
            return
        if len(self._queue) >= self._most_frames or self._size + len(payload) > self._most_bytes:
            self.dropped += 1
            return
        self._queue.append(
            TappedFrame(
                at_ms=math.floor(self._clock() * 1000),
                peer=peer,
                protocol=protocol,
                outward=outward,
                payload=payload,
                dropped=self.dropped,
            )
        )
        self._size += len(payload)
        self._came.unpark()

    def receive_nowait(self) -> TappedFrame:
        """The next frame. Raises trio.WouldBlock when there is none."""
        if not self._queue:
            raise trio.WouldBlock
        found = self._queue.popleft()
        self._size -= len(found.payload)
        return found

    async def receive(self) -> TappedFrame:
        """The next frame, when there is one."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._queue:
            await self._came.park()
        return self.receive_nowait()


class Tap:
    """Where the frames of a host pass.

    Attributes:
        listeners: whoever has a frame looks here first.
    """

    __slots__ = ("listeners",)

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()

    def tell(self, peer: PeerId, protocol: str, outward: bool, payload: bytes) -> None:
        """A frame passes."""
        for listener in self.listeners:
            listener.offer(peer, protocol, outward, payload)

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[Listener]:
        """Give this listener the frames that pass while inside."""
        self.listeners += (listener,)
        try:
            yield listener
        finally:
            self.listeners = tuple(each for each in self.listeners if each is not listener)
