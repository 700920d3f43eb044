"""The routing table: the few cheapest offers per hash and asset, and what was quoted to whom (R3, R4, R6, R12).

Source: THEORY, steps 3 and 4. Room is shared out by neighbour: when the table is full, the newest offer takes the
place of the oldest of the neighbour that holds the most, so that nobody can push out more than their own.
"""

from protocols.ids import PaymentHash
from protocols.routing.expiry import Expiries
from protocols.routing.neighbours import Link
from protocols.units import AssetId, Msat, UnixTime

_RECOUNT = 256  # evictions after which the neighbour that holds the most is looked for again


class Offer:
    """One neighbour's offer for one hash. `serial` tells which of two came first."""

    __slots__ = (
        "amount",
        "ceiling",
        "ceiling_asset",
        "expiry",
        "hops_left",
        "improvements",
        "link",
        "lock_blocks",
        "serial",
    )

    def __init__(
        self,
        link: Link,
        amount: Msat,
        lock_blocks: int,
        hops_left: int,
        ceiling: Msat,
        ceiling_asset: AssetId,
        expiry: UnixTime,
        improvements: int,
        serial: int,
    ) -> None:
        self.link = link
        self.amount = amount
        self.lock_blocks = lock_blocks
        self.hops_left = hops_left
        self.ceiling = ceiling
        self.ceiling_asset = ceiling_asset
        self.expiry = expiry
        self.improvements = improvements
        self.serial = serial


class Entry:
    """One hash.

    Attributes:
        offers: cheapest first within an asset; ties by fewer lock blocks, then first seen (R4).
        sent: by link slot, the last quote sent, 0 for none; may be shorter than the number of slots.
        counts: improvements of links whose offer was displaced, so that being displaced resets nothing (R12).
        bucket: under which the entry stands among the expiries.
    """

    __slots__ = ("bucket", "counts", "offers", "payment_hash", "sent")

    def __init__(self, payment_hash: PaymentHash, bucket: int) -> None:
        self.payment_hash = payment_hash
        self.offers: list[Offer] = []
        self.sent: list[Msat] = []
        self.counts: dict[Link, int] | None = None
        self.bucket = bucket


class Table:
    """All entries, bounded in the number of offers.

    Args:
        limit: offers in all.
        kept: offers per hash and asset.
    """

    __slots__ = ("_heaviest", "_kept", "_limit", "_links", "_recount", "_serial", "entries", "expiries", "size")

    def __init__(self, limit: int, kept: int) -> None:
        self._limit = limit
        self._kept = kept
        self._serial = 0
        self._links: dict[Link, None] = {}
        self._heaviest: Link | None = None
        self._recount = 0
        self.entries: dict[PaymentHash, Entry] = {}
        self.expiries: Expiries[PaymentHash] = Expiries()
        self.size = 0  # offers in all entries

    def attach(self, link: Link) -> None:
        """This link has a share of the table from now on."""
        self._links[link] = None

    def detach(self, link: Link) -> None:
        """This link, which has no offers, is gone for good."""
        self._links.pop(link, None)
        self._heaviest = None

    def forget_sent(self, slot: int) -> None:
        """The neighbour may have lost what we quoted it."""
        for entry in self.entries.values():
            if len(entry.sent) > slot:
                entry.sent[slot] = Msat(0)

    def insert(
        self,
        link: Link,
        payment_hash: PaymentHash,
        amount: Msat,
        lock_blocks: int,
        hops_left: int,
        ceiling: Msat,
        ceiling_asset: AssetId,
        expiry: UnixTime,
    ) -> Offer | None:
        """Put in a link's first or cheaper offer. None: those kept for the hash are cheaper, and it is not."""
        entry = self.entries.get(payment_hash)
        if entry is None:
            bucket = Expiries.bucket(expiry)
            entry = self.entries[payment_hash] = Entry(payment_hash, bucket)
            self.expiries.add(payment_hash, bucket)
            offers = entry.offers
            improvements = place = 0
        else:
            payment_hash = entry.payment_hash  # one copy of the bytes for everybody
            offers = entry.offers
            before = link.offers.get(payment_hash)
            place = 0
            if before is not None:
                improvements = before.improvements + 1
                offers.remove(before)
            else:
                improvements = entry.counts.get(link, -1) + 1 if entry.counts else 0
            same = 0
            dearest = -1
            asset = link.asset
            for at, other in enumerate(offers):
                if other.link.asset is asset:
                    same += 1
                    dearest = at
                    if other.amount < amount or (other.amount == amount and other.lock_blocks <= lock_blocks):
                        place = at + 1
            if same >= self._kept:
                if place > dearest:
                    self._count(entry, link, improvements)
                    return None
                self._displace(entry, payment_hash, dearest)
            if before is not None:
                self.size -= 1
            bucket = Expiries.bucket(expiry)
            if bucket < entry.bucket:
                self.expiries.discard(payment_hash, entry.bucket)
                self.expiries.add(payment_hash, bucket)
                entry.bucket = bucket
        self._serial += 1
        offer = Offer(link, amount, lock_blocks, hops_left, ceiling, ceiling_asset, expiry, improvements, self._serial)
        offers.insert(place, offer)
        link.offers[payment_hash] = offer
        self.size += 1
        return offer

    def overfull(self) -> tuple[Link, PaymentHash] | None:
        """When there are too many offers: whose oldest must go. The neighbour that holds the most pays for it."""
        if self.size <= self._limit:
            return None
        heaviest = self._heaviest
        if heaviest is None or self._recount == 0 or len(heaviest.offers) * len(self._links) <= self._limit:
            heaviest = self._heaviest = max(self._links, key=lambda link: len(link.offers))
            self._recount = _RECOUNT
        self._recount -= 1
        return heaviest, next(iter(heaviest.offers))

    def remove(self, link: Link, payment_hash: PaymentHash) -> None:
        """Take out one offer, and the entry with its last one."""
        offer = link.offers.pop(payment_hash)
        self.size -= 1
        entry = self.entries[payment_hash]
        entry.offers.remove(offer)
        if not entry.offers:
            self.expiries.discard(payment_hash, entry.bucket)
            del self.entries[payment_hash]

    def improvements(self, link: Link, payment_hash: PaymentHash) -> int:
        """How often this link has bettered its price for this hash, its present offer or a displaced one; -1: never offered."""
        before = link.offers.get(payment_hash)
        if before is not None:
            return before.improvements
        entry = self.entries.get(payment_hash)
        return entry.counts.get(link, -1) if entry is not None and entry.counts else -1

    def _displace(self, entry: Entry, payment_hash: PaymentHash, at: int) -> None:
        offer = entry.offers.pop(at)
        del offer.link.offers[payment_hash]
        self.size -= 1
        self._count(entry, offer.link, offer.improvements)

    @staticmethod
    def _count(entry: Entry, link: Link, improvements: int) -> None:
        if entry.counts is None:
            entry.counts = {}
        entry.counts[link] = improvements
