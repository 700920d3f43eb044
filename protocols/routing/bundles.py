"""Bundles: what is queued for one neighbour, numbered, repeated after a reconnect, and taken once.

Source: DESIGN 4 (`/rr/routing/1`; "flushed at once when the link is idle and filled while it is busy"; "a slow
subscriber's queue holds one offer per hash: bounded by construction"), THEORY, "Bundling". Pure: the service that owns
the stream calls `take` whenever its writer is free.
"""

from collections import deque
from collections.abc import Iterable

from protocols.errors import MisuseError, PeerProtocolError
from protocols.units import UnixTime
from protocols.wire.routing import MAX_BUNDLE, Acknowledge, Bundle, Resume, RoutingMessage

MAX_QUEUED = 8192  # offers waiting for one peer, about 1 MB: sixteen full frames, what a slow link sends in seconds
MAX_UNACKNOWLEDGED = 64  # bundles kept for a repeat, at most 4 MB; then the link is slow and the queue coalesces
CLOCK_SKEW = 30  # seconds; an offer that ended longer ago than this is worth nothing to anybody
NEVER = bytes(16)  # the epoch of a peer never seen


class OfferQueue:
    """Offers waiting to be sent, one per hash and asset: the cheapest. Old hashes first, the cheapest price last known."""

    __slots__ = ("_limit", "_waiting", "lost")

    def __init__(self, limit: int = MAX_QUEUED) -> None:
        self._waiting: dict[tuple[bytes, bytes], RoutingMessage] = {}
        self._limit = limit
        self.lost = 0  # offers that were pushed out by newer ones

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, offers: Iterable[RoutingMessage]) -> None:
        """Queue offers; one that is no cheaper than what waits for its hash and asset is dropped, unless it lasts
        longer (the engine quotes a dearer one only when the cheaper has ended).

        At the limit the oldest waiting offer goes: its payment is the likeliest to have been made without it.
        """
        waiting = self._waiting
        for offer in offers:
            key = (offer.payment_hash, offer.asset)
            before = waiting.get(key)
            if before is None:
                if len(waiting) >= self._limit:
                    del waiting[next(iter(waiting))]
                    self.lost += 1
                waiting[key] = offer
            elif offer.amount_msat < before.amount_msat or before.expiry < offer.expiry:
                waiting[key] = offer

    def take(self, now: UnixTime, most: int = MAX_BUNDLE) -> tuple[RoutingMessage, ...]:
        """Up to `most` offers in the order in which their hashes were queued; what has ended is left out."""
        waiting = self._waiting
        taken: list[RoutingMessage] = []
        while waiting and len(taken) < most:
            offer = waiting.pop(next(iter(waiting)))
            if offer.expiry + CLOCK_SKEW >= now:
                taken.append(offer)
        return tuple(taken)


class Outbox:
    """One neighbour's outgoing bundles. It outlives the streams that carry it; a new process draws a new epoch.

    Args:
        epoch: 16 random bytes, drawn once per process.
    """

    __slots__ = ("_kept", "_last", "_queue", "_repeat", "epoch")

    def __init__(self, epoch: bytes, limit: int = MAX_QUEUED) -> None:
        if len(epoch) != 16 or epoch == NEVER:
            raise MisuseError("an epoch is 16 random bytes, not all zero")
        self.epoch = epoch
        self._queue = OfferQueue(limit)
        self._last = 0  # number of the newest bundle made
        self._kept: deque[Bundle] = deque()  # made, not acknowledged
        self._repeat: deque[Bundle] = deque()  # of those, to be sent once more on this stream

    @property
    def queued(self) -> int:
        """Offers that wait for a bundle."""
        return len(self._queue)

    @property
    def unacknowledged(self) -> int:
        """Bundles kept for a repeat."""
        return len(self._kept)

    @property
    def lost(self) -> int:
        """Offers that newer ones pushed out of the full queue."""
        return self._queue.lost

    def put(self, offers: Iterable[RoutingMessage]) -> None:
        """Queue offers, coalesced by hash and asset."""
        self._queue.put(offers)

    def take(self, now: UnixTime, most: int = MAX_BUNDLE) -> Bundle | None:
        """The next bundle to write, or None: nothing waits, or too much is unacknowledged (back-pressure)."""
        if self._repeat:
            return self._repeat.popleft()
        if len(self._kept) >= MAX_UNACKNOWLEDGED:
            return None
        offers = self._queue.take(now, min(most, MAX_BUNDLE))
        if not offers:
            return None
        self._last += 1
        bundle = Bundle(number=self._last, offers=offers)
        self._kept.append(bundle)
        return bundle

    def acknowledged(self, number: int) -> None:
        """The neighbour has taken everything up to `number`; an old number is no news.

        Raises:
            PeerProtocolError: a bundle that was never sent.
        """
        if number > self._last:
            raise PeerProtocolError(f"acknowledges bundle {number}, the last one sent is {self._last}")
        for bundles in (self._kept, self._repeat):
            while bundles and bundles[0].number <= number:
                bundles.popleft()

    def resume(self, seen_epoch: bytes, seen_number: int) -> None:
        """A new stream begins with the neighbour's `Resume`: repeat what it has not taken, oldest first.

        Under another epoch than ours the number means nothing, and everything kept is repeated.

        Raises:
            PeerProtocolError: under our epoch, a bundle that was never sent.
        """
        if seen_epoch == self.epoch:
            self.acknowledged(seen_number)
        self._repeat = deque(self._kept)


class Inbox:
    """One neighbour's incoming bundles: each is taken once, whatever is repeated."""

    __slots__ = ("_acknowledged", "_epoch", "_seen")

    def __init__(self) -> None:
        self._epoch = NEVER
        self._seen = 0
        self._acknowledged = 0

    def resume(self, *, epoch: bytes, routes: bool) -> Resume:
        """Our first message on a new stream.

        Args:
            epoch: our own outbox's.
            routes: whether we forward (R13).
        """
        return Resume(epoch=epoch, seen_epoch=self._epoch, seen_number=self._seen, routes=routes)

    def begin(self, theirs: Resume) -> None:
        """The neighbour's `Resume` came: a new epoch starts numbers anew.

        Raises:
            PeerProtocolError: an epoch of zeros, which means "never seen".
        """
        if theirs.epoch == NEVER:
            raise PeerProtocolError("an epoch of 16 zero bytes")
        if theirs.epoch != self._epoch:
            self._epoch = theirs.epoch
            self._seen = 0
        self._acknowledged = 0

    def take(self, bundle: Bundle) -> tuple[RoutingMessage, ...]:
        """The bundle's offers, or none when this number was taken before.

        A gap is lawful: the neighbour keeps a bounded number of bundles for repeats.

        Raises:
            PeerProtocolError: no `Resume` before, or number 0.
        """
        if self._epoch == NEVER:
            raise PeerProtocolError("a bundle before Resume")
        if bundle.number == 0:
            raise PeerProtocolError("bundle number 0, they begin with 1")
        if bundle.number <= self._seen:
            return ()
        self._seen = bundle.number
        return bundle.offers

    def acknowledgement(self) -> Acknowledge | None:
        """What to acknowledge now, once per number; None when there is nothing new."""
        if self._seen == self._acknowledged:
            return None
        self._acknowledged = self._seen
        return Acknowledge(number=self._seen)
