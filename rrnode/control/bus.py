"""Events of the node for those who follow it: numbered, a bounded history, a bounded queue per follower.

The node publishes without waiting: a slow follower is cut off rather than allowed to hold up a payment. The history
lets a follower that begins (or comes back) a moment later miss nothing: `rrnode pay` asks for the payment first.
"""

import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from rrnode.control import models as m

HISTORY = 4096  # events kept: some minutes of a busy node, a few megabytes
QUEUE = 8192  # events a follower may lag behind: the whole history and as much again


class EventBus:
    """Publish to any number of followers, synchronously.

    Args:
        clock: unix time in seconds, for `at_ms`.
    """

    def __init__(self, clock: Callable[[], float], *, history: int = HISTORY, queue: int = QUEUE) -> None:
        self._clock = clock
        self._queue = max(queue, history)
        self._kept: deque[m.Event] = deque(maxlen=history)
        self._followers: set[trio.MemorySendChannel[m.Event]] = set()
        self.last = 0  # number of the newest event

    @property
    def followers(self) -> int:
        """How many follow now."""
        return len(self._followers)

    def publish(self, event: m.Event) -> m.Event:
        """Number and date an event, keep it, and hand it to every follower; never waits. Gives the event as kept."""
        self.last += 1
        numbered = event.model_copy(update={"seq": self.last, "at_ms": math.floor(self._clock() * 1000)})
        self._kept.append(numbered)
        for follower in tuple(self._followers):
            try:
                follower.send_nowait(numbered)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._followers.discard(follower)
                follower.close()
        return numbered

    def close(self) -> None:
        """End every subscription after what it has queued."""
        for follower in self._followers:
            follower.close()
        self._followers.clear()

    @asynccontextmanager
    async def subscribe(self, *, after: int | None = None) -> AsyncIterator[trio.MemoryReceiveChannel[m.Event]]:
        """Follow from now on, or from the kept event after number `after`."""
        send, receive = trio.open_memory_channel[m.Event](self._queue)
        if after is not None:
            for event in self._kept:
                if event.seq > after:
                    send.send_nowait(event)
        self._followers.add(send)
        try:
            yield receive
        finally:
            self._followers.discard(send)
            send.close()
            receive.close()
