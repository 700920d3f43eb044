"""Token buckets: how often somebody may ask for something, with a burst."""

from collections.abc import Hashable

import trio


class Allowance:
    """A rate limit per key and in total, bounded in memory.

    Args:
        per_key: tokens per second that one key earns.
        burst: tokens that a key can save up.
        total: tokens per second for all keys together; the total's burst is ten seconds' worth.
        most_keys: keys remembered; beyond it the oldest is forgotten, which at worst gives it a fresh burst.
    """

    def __init__(self, *, per_key: float, burst: float, total: float, most_keys: int = 4096) -> None:
        self._per_key, self._burst, self._most = per_key, burst, most_keys
        self._total, self._total_burst = total, total * 10
        self._keys: dict[Hashable, tuple[float, float]] = {}
        self._all = (self._total_burst, 0.0)

    def take(self, key: Hashable) -> bool:
        """Use one token of this key and one of the total, if both have one."""
        now = trio.current_time()
        saved, since = self._all
        everybody = min(self._total_burst, saved + max(0.0, now - since) * self._total)
        tokens, then = self._keys.pop(key, (self._burst, now))
        mine = min(self._burst, tokens + (now - then) * self._per_key)
        allowed = mine >= 1 and everybody >= 1
        if allowed:
            mine -= 1
            everybody -= 1
        self._all = (everybody, now)
        self._keys[key] = (mine, now)
        while len(self._keys) > self._most:
            del self._keys[next(iter(self._keys))]
        return allowed
