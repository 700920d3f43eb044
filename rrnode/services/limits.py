"""What strangers may cost: token buckets per key and in total, who counts as one, and text that a terminal can bear."""

from collections.abc import Hashable

import trio

from bootstrap.addresses import first_part, number_of
from rrnode.relations import network_of

_UNLIMITED = 1e9  # requests a second


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
        self._all: tuple[float, float] | None = None  # tokens, when

    def take(self, key: Hashable, count: float = 1) -> bool:
        """Use so many tokens of this key and of the total, if both have them; never, when that is more than a burst."""
        now = trio.current_time()
        saved, since = self._all or (self._total_burst, now)
        everybody = min(self._total_burst, saved + (now - since) * self._total)
        tokens, then = self._keys.pop(key, (self._burst, now))
        mine = min(self._burst, tokens + (now - then) * self._per_key)
        allowed = mine >= count and everybody >= count
        if allowed:
            mine -= count
            everybody -= count
        self._all = (everybody, now)
        self._keys[key] = (mine, now)
        while len(self._keys) > self._most:
            del self._keys[next(iter(self._keys))]
        return allowed


def one_sender(address: str, peer: bytes) -> bytes:
    """Whom a stream counts for: its IPv4 address or IPv6 /64, without the port, which is new with each connection.

    What comes from this machine itself (a relay, an onion service) cannot be told apart and counts for its key; the
    limits on all together still hold.

    Args:
        address: `FrameStream.remote_address`.
        peer: `FrameStream.peer`.
    """
    kind, value = first_part(address)
    number = number_of(value)
    if number is None or number.is_loopback or kind not in ("ip4", "ip6"):
        return peer
    return number.packed if number.version == 4 else number.packed[:8]


def one_network(address: str, peer: bytes) -> Hashable:
    """Whose share a sender's requests come out of: the IPv4 /16 or IPv6 /32 that its address is in, else its own.

    One who has many addresses has them there. All of this machine are one: behind a relay are as many as like.
    """
    return network_of(address) or peer


class Shares:
    """A rate limit for strangers of whom none, and no network, can use up what the others need.

    Each sender has its rate, each network a share of the total, and beyond the total each network still has a little of its
    own: from however many networks a flood comes, who asks seldom is served.

    Args:
        per_sender, per_network, total: requests, or whatever else is counted, a second.
        own: requests a second that a network has even when the total is used up.
        burst: seconds' worth that can be saved up.
    """

    def __init__(self, *, per_sender: float, per_network: float, total: float, own: float, burst: float) -> None:
        self._senders = Allowance(per_key=per_sender, burst=per_sender * burst, total=_UNLIMITED)
        self._networks = Allowance(per_key=per_network, burst=per_network * burst, total=total)
        self._own = Allowance(per_key=own, burst=own * burst, total=_UNLIMITED)
        self._retry = 1 / per_sender

    def take(self, address: str, peer: bytes, count: float = 1) -> bool:
        """Use so many requests of whoever is at this address."""
        network = one_network(address, peer)
        if not self._senders.take(one_sender(address, peer), count):
            return False  # first, so that what it asks in vain costs its network nothing
        return self._networks.take(network, count) or self._own.take(network, count)

    async def wait(self, address: str, peer: bytes) -> None:
        """Wait until there is one."""
        await trio.lowlevel.checkpoint()
        while not self.take(address, peer):  # noqa: ASYNC110 - time brings it, and nobody tells
            await trio.sleep(self._retry)


def arrivals() -> Allowance:
    """Streams that one may open: each replaces the last, with a farewell and a welcome, so not as often as a peer likes."""
    return Allowance(per_key=1, burst=20, total=1000)


def printable(text: str) -> str:
    """A stranger's text without what would drive a terminal."""
    return "".join(each if each.isprintable() else "·" for each in text)
