"""Which keys end when: buckets of a few seconds, so that adding, removing and finding cost the same for any number (R6)."""

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

from protocols.units import UnixTime

K = TypeVar("K", bound=Hashable)

WIDTH = 8  # seconds per bucket: what is over stays that much longer at most, and a timer fires that seldom at most


class Expiries(Generic[K]):
    """Keys with the time after which each is to be looked at again."""

    __slots__ = ("_buckets", "_heap")

    def __init__(self) -> None:
        self._buckets: dict[int, dict[K, None]] = {}  # dicts, not sets: a replay must find the same order
        self._heap: list[int] = []

    @staticmethod
    def bucket(at: UnixTime) -> int:
        """The bucket that covers this time; keep it to `discard` the key later."""
        return at // WIDTH

    def add(self, key: K, bucket: int) -> None:
        keys = self._buckets.get(bucket)
        if keys is None:
            self._buckets[bucket] = {key: None}
            heapq.heappush(self._heap, bucket)
        else:
            keys[key] = None

    def discard(self, key: K, bucket: int) -> None:
        keys = self._buckets.get(bucket)
        if keys is not None:
            keys.pop(key, None)  # the bucket stays, or adding and removing one key would grow the heap

    def due(self, now: UnixTime) -> list[K]:
        """Remove and return the keys whose whole bucket is over."""
        found: list[K] = []
        heap = self._heap
        while heap and (heap[0] + 1) * WIDTH <= now:
            found.extend(self._buckets.pop(heapq.heappop(heap)))
        return found

    def next(self) -> UnixTime | None:
        """When `due` will find something, or None."""
        heap = self._heap
        while heap and not self._buckets[heap[0]]:
            del self._buckets[heapq.heappop(heap)]
        return UnixTime((heap[0] + 1) * WIDTH) if heap else None
