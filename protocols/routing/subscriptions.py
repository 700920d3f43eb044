"""Who asked for which hashes: exact hashes and prefixes, found in a time that does not grow with their number (R13).

Source: seed, "Routing server"; DESIGN 4 (`/rr/subscribe/1`). A prefix of n bits tells the server less and costs the
client more. Matching is one look-up for exact hashes plus one for each prefix length in use.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from protocols.ids import PaymentHash, PeerId
from protocols.routing.expiry import Expiries
from protocols.routing.views import PrefixView, SubscriberView
from protocols.units import UnixTime
from protocols.wire.subscribe import MAX_SECONDS, MIN_PREFIX_BITS, Prefix, RefusalCode


@dataclass(frozen=True, slots=True)
class FilterRefusal:
    """A request that is refused as a whole; `code` is one of `RefusalCode`."""

    code: int
    reason: str


# Hashes that one subscriber's prefixes may match, of 2^256: all 256 shortest ones would be the full feed by another name.
MOST_COVERED = 1 << 252

_Filter = tuple[int, int]  # (bits, leading bits of the hash as a number); 256 bits for an exact hash


def _of_hash(payment_hash: bytes) -> _Filter:
    return 256, int.from_bytes(payment_hash, "big")


def _covered(filters: Iterable[_Filter]) -> int:
    """How many hashes the prefixes among these match, those in several counted each time."""
    return sum(1 << 256 - bits for bits, _ in filters if bits < 256)


class _Kept:
    """One filter of one subscriber."""

    __slots__ = ("bucket", "until")

    def __init__(self, until: UnixTime, bucket: int) -> None:
        self.until = until
        self.bucket = bucket


class Subscriptions:
    """All filters of all subscribers, bounded per subscriber and in all.

    Args:
        limit: filters per subscriber.
        total: filters of all subscribers together.
        longest: bits of the longest prefix.
    """

    __slots__ = ("_by_length", "_expiries", "_filters", "_limit", "_longest", "_total", "count")

    def __init__(self, limit: int, total: int, longest: int) -> None:
        self._limit = limit
        self._total = total
        self._longest = longest
        self._by_length: dict[int, dict[int, tuple[PeerId, ...]]] = {}
        self._filters: dict[PeerId, dict[_Filter, _Kept]] = {}
        self._expiries: Expiries[tuple[PeerId, _Filter]] = Expiries()
        self.count = 0

    def __contains__(self, subscriber: PeerId) -> bool:
        return subscriber in self._filters

    def filters_of(self, subscriber: PeerId) -> int:
        return len(self._filters.get(subscriber, ()))

    def add(
        self,
        subscriber: PeerId,
        hashes: tuple[PaymentHash, ...],
        prefixes: tuple[Prefix, ...],
        until: UnixTime,
        now: UnixTime,
    ) -> int | FilterRefusal:
        """Add filters, or renew them; all or none.

        Returns:
            How many more filters this subscriber may have, or why the request is refused.
        """
        if until <= now:
            return FilterRefusal(RefusalCode.BAD_REQUEST, "the subscription would end before it begins")
        wanted: dict[_Filter, None] = dict.fromkeys(map(_of_hash, hashes))
        for prefix in prefixes:
            refusal = self._check(prefix)
            if refusal is not None:
                return refusal
            wanted[self._of_prefix(prefix)] = None
        mine = self._filters.get(subscriber, {})
        new = sum(1 for each in wanted if each not in mine)
        if len(mine) + new > self._limit:
            return FilterRefusal(
                RefusalCode.TOO_MANY_FILTERS, f"{len(mine) + new} filters, at most {self._limit} for one subscriber"
            )
        if prefixes and _covered({*mine, *wanted}) > MOST_COVERED:
            return FilterRefusal(
                RefusalCode.TOO_MANY_FILTERS, "prefixes that cover more than 1 in 16 of all hashes; ask for longer ones"
            )
        if self.count + new > self._total:
            return FilterRefusal(RefusalCode.TOO_MANY_FILTERS, "this server's table of filters is full")
        until = UnixTime(min(until, now + MAX_SECONDS))
        bucket = Expiries.bucket(until)
        if wanted:
            mine = self._filters.setdefault(subscriber, mine)
        for each in wanted:
            kept = mine.get(each)
            if kept is None:
                mine[each] = _Kept(until, bucket)
                same = self._by_length.setdefault(each[0], {})
                same[each[1]] = (*same.get(each[1], ()), subscriber)
                self.count += 1
            else:
                self._expiries.discard((subscriber, each), kept.bucket)
                kept.until = until
                kept.bucket = bucket
            self._expiries.add((subscriber, each), bucket)
        return self._limit - len(mine)

    def remove(self, subscriber: PeerId, hashes: tuple[PaymentHash, ...], prefixes: tuple[Prefix, ...]) -> int:
        """End filters; unknown ones are no error. Returns how many more this subscriber may have."""
        mine = self._filters.get(subscriber)
        if mine is not None:
            unwanted = [_of_hash(each) for each in hashes]
            unwanted += [self._of_prefix(each) for each in prefixes if self._check(each) is None]
            for each in unwanted:
                kept = mine.get(each)
                if kept is not None:
                    self._expiries.discard((subscriber, each), kept.bucket)
                    self._forget(subscriber, each)
        return self._limit - self.filters_of(subscriber)

    def drop(self, subscriber: PeerId) -> None:
        """The subscriber is gone, and all its filters with it."""
        for each, kept in list(self._filters.get(subscriber, {}).items()):
            self._expiries.discard((subscriber, each), kept.bucket)
            self._forget(subscriber, each)

    def match(self, payment_hash: bytes) -> tuple[PeerId, ...]:
        """The subscribers that asked for this hash, each once."""
        by_length = self._by_length
        if not by_length:
            return ()
        number = int.from_bytes(payment_hash, "big")
        found: tuple[PeerId, ...] = ()
        for bits, same in by_length.items():
            peers = same.get(number >> (256 - bits))
            if peers is not None:
                found = tuple(dict.fromkeys(found + peers)) if found else peers
        return found

    def expire(self, now: UnixTime) -> None:
        """End what is over."""
        for subscriber, each in self._expiries.due(now):
            self._forget(subscriber, each)

    def next_expiry(self) -> UnixTime | None:
        return self._expiries.next()

    def views(self) -> Iterator[SubscriberView]:
        """Everything, for people."""
        for subscriber, mine in self._filters.items():
            yield SubscriberView(
                subscriber=subscriber,
                hashes=tuple(PaymentHash(number.to_bytes(32, "big")) for bits, number in mine if bits == 256),
                prefixes=tuple(
                    PrefixView(bits=bits, value=(number << (-bits % 8)).to_bytes((bits + 7) // 8, "big"))
                    for bits, number in mine
                    if bits < 256
                ),
            )

    def _check(self, prefix: Prefix) -> FilterRefusal | None:
        if prefix.bits < MIN_PREFIX_BITS:
            return FilterRefusal(
                RefusalCode.PREFIX_TOO_SHORT, f"prefix of {prefix.bits} bits, at least {MIN_PREFIX_BITS} wanted"
            )
        if prefix.bits > self._longest:
            return FilterRefusal(
                RefusalCode.BAD_REQUEST,
                f"prefix of {prefix.bits} bits, at most {self._longest}: ask for the hash itself",
            )
        if len(prefix.value) != (prefix.bits + 7) // 8:
            return FilterRefusal(RefusalCode.BAD_REQUEST, f"prefix of {prefix.bits} bits in {len(prefix.value)} bytes")
        if prefix.value[-1] & ((1 << (-prefix.bits % 8)) - 1):
            return FilterRefusal(RefusalCode.BAD_REQUEST, "the spare bits of a prefix must be zero")
        return None

    @staticmethod
    def _of_prefix(prefix: Prefix) -> _Filter:
        return prefix.bits, int.from_bytes(prefix.value, "big") >> (-prefix.bits % 8)

    def _forget(self, subscriber: PeerId, each: _Filter) -> None:
        mine = self._filters[subscriber]
        del mine[each]
        if not mine:
            del self._filters[subscriber]
        same = self._by_length[each[0]]
        left = tuple(peer for peer in same[each[1]] if peer != subscriber)
        if left:
            same[each[1]] = left
        else:
            del same[each[1]]
            if not same:
                del self._by_length[each[0]]
        self.count -= 1
