"""The routing table: the few cheapest offers per hash and asset, and what was quoted to whom (R3, R4, R6, R12).

Source: THEORY, steps 3 and 4. Room is shared out by neighbour: when the table is full, the newest offer takes the
place of the oldest of the neighbour that holds the most, so that nobody can push out more than their own.

A quote stands until it ends, though a cheaper one follows: an offer that was quoted on and is no longer among the
cheapest is kept on the side, unless its own neighbour's cheaper one carries all that it does. A cheaper offer that needs
a longer lock may never be heard of upstream (no hop left, a brake on the way), and would leave an HTLC locked to the
quote before it without a way on.
"""

from protocols.ids import PaymentHash
from protocols.routing.expiry import Expiries
from protocols.routing.neighbours import Link
from protocols.units import AssetId, Msat, UnixTime

_RECOUNT = 256  # evictions after which the neighbour that holds the most is looked for again


class Offer:
    """One neighbour's offer for one hash. `serial` tells which of two came first; `quoted`, whether anybody was quoted it."""

    __slots__ = (
        "amount",
        "ceiling",
        "ceiling_asset",
        "expiry",
        "hops_left",
        "improvements",
        "link",
        "lock_blocks",
        "quoted",
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
        self.quoted = False


class Entry:
    """One hash.

    Attributes:
        offers: cheapest first within an asset; ties by fewer lock blocks, then first seen (R4). One of each link at most.
        standing: offers that cheaper ones displaced or replaced and that quotes may rest on, longest displaced first.
        sent: by link slot, the last quote sent, 0 for none; may be shorter than the number of slots.
        counts: improvements of links whose offer was displaced, so that being displaced resets nothing (R12).
        bucket: under which the entry stands among the expiries.
    """

    __slots__ = ("bucket", "counts", "offers", "payment_hash", "sent", "standing")

    def __init__(self, payment_hash: PaymentHash, bucket: int) -> None:
        self.payment_hash = payment_hash
        self.offers: list[Offer] = []
        self.standing: tuple[Offer, ...] = ()
        self.sent: list[Msat] = []
        self.counts: dict[Link, int] | None = None
        self.bucket = bucket

    def every(self) -> tuple[Offer, ...]:
        """All offers, those kept for their price first."""
        return (*self.offers, *self.standing)


class Table:
    """All entries, bounded in the number of offers.

    Args:
        limit: offers in all.
        kept: offers per hash and asset.
        standing: offers per hash that are kept for the quotes that rest on them.
    """

    __slots__ = (
        "_heaviest",
        "_kept",
        "_limit",
        "_links",
        "_recount",
        "_serial",
        "_standing",
        "entries",
        "expiries",
        "size",
    )

    def __init__(self, limit: int, kept: int, standing: int) -> None:
        self._limit = limit
        self._kept = kept
        self._standing = standing
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
        replaced: Offer | None = None
        displaced: Offer | None = None
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
                if before not in entry.standing:
                    replaced = before
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
                    if before is None:
                        self._count(entry, link, improvements)
                    else:
                        before.improvements = improvements
                    return None
                displaced = offers.pop(dearest)
            bucket = Expiries.bucket(expiry)
            if bucket < entry.bucket:
                self.expiries.discard(payment_hash, entry.bucket)
                self.expiries.add(payment_hash, bucket)
                entry.bucket = bucket
        self._serial += 1
        offer = Offer(link, amount, lock_blocks, hops_left, ceiling, ceiling_asset, expiry, improvements, self._serial)
        offers.insert(place, offer)
        link.offers[payment_hash] = offer
        link.held += 1
        self.size += 1
        if entry.standing:
            for each in entry.standing:
                if each.link is link and _carries(offer, each):
                    self.remove(payment_hash, each)
        if replaced is not None:
            self._leave(entry, replaced, stands=replaced.quoted and not _carries(offer, replaced))
        if displaced is not None:
            self._leave(entry, displaced, stands=displaced.quoted)
        return offer

    def overfull(self) -> tuple[PaymentHash, Offer] | None:
        """When there are too many offers: which must go. The neighbour that holds the most pays for it, with its oldest hash."""
        if self.size <= self._limit:
            return None
        heaviest = self._heaviest
        if heaviest is None or self._recount == 0 or heaviest.held * len(self._links) <= self._limit:
            heaviest = self._heaviest = max(self._links, key=lambda link: link.held)
            self._recount = _RECOUNT
        self._recount -= 1
        return next(iter(heaviest.offers.items()))

    def remove(self, payment_hash: PaymentHash, offer: Offer) -> None:
        """Take out one offer, and the entry with its last one."""
        entry = self.entries[payment_hash]
        if offer in entry.standing:
            entry.standing = tuple(each for each in entry.standing if each is not offer)
        else:
            entry.offers.remove(offer)
        self._gone(entry, offer)
        if not entry.offers and not entry.standing:
            self.expiries.discard(payment_hash, entry.bucket)
            del self.entries[payment_hash]

    def improvements(self, link: Link, payment_hash: PaymentHash) -> int:
        """How often this link, which has no offer in the table for this hash, had bettered its price; -1: it never offered."""
        entry = self.entries.get(payment_hash)
        return entry.counts.get(link, -1) if entry is not None and entry.counts else -1

    def _leave(self, entry: Entry, offer: Offer, *, stands: bool) -> None:
        """An offer is not among those kept for their price any more: it stands on the side, or it goes."""
        if stands:
            entry.standing = (*entry.standing, offer)
            if len(entry.standing) <= self._standing:
                return
            offer, entry.standing = entry.standing[0], entry.standing[1:]
        self._gone(entry, offer)
        if entry.payment_hash not in offer.link.offers:
            self._count(entry, offer.link, offer.improvements)

    def _gone(self, entry: Entry, offer: Offer) -> None:
        """An offer was taken out of its entry; the link's one before it, if that still stands, is its newest again."""
        link = offer.link
        link.held -= 1
        self.size -= 1
        if link.offers[entry.payment_hash] is offer:
            mine = [each for each in entry.standing if each.link is link]
            if mine:
                mine[-1].improvements = offer.improvements
                link.offers[entry.payment_hash] = mine[-1]
            else:
                del link.offers[entry.payment_hash]

    @staticmethod
    def _count(entry: Entry, link: Link, improvements: int) -> None:
        if entry.counts is None:
            entry.counts = {}
        entry.counts[link] = improvements


def _carries(offer: Offer, other: Offer) -> bool:
    """Whether this cheaper offer carries every HTLC that the other could: no longer lock, no earlier end."""
    return offer.lock_blocks <= other.lock_blocks and offer.expiry >= other.expiry
