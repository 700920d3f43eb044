"""Who is told what: quotes for routing neighbours and subscribers, each sent only where it lowers the price.

Source: THEORY, steps 2 to 4; R1 (what both sides can carry), R2, R3 (split horizon, only lower), R5, R8, R13.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import islice

from protocols.ids import PaymentHash, PeerId
from protocols.routing.config import RoutingConfig
from protocols.routing.events import PushOffers, RoutingEffect, SendOffers
from protocols.routing.neighbours import NO_SLOT, Link, Neighbour
from protocols.routing.pricing import Pricer
from protocols.routing.subscriptions import Subscriptions
from protocols.routing.table import Entry, Offer, Table
from protocols.routing.views import Drop, Judged
from protocols.units import MAX_MSAT, Amount, AssetId, BlockDelta, Msat, UnixTime
from protocols.wire.routing import RoutingMessage

MAX_PUSHED = 4096  # hashes per subscriber whose last push is remembered; beyond it the oldest may be pushed again
_NOTHING = Msat(0)
_Group = tuple[AssetId, PeerId | None]  # what quotes are in, and whose fee they hold (`Pricer.tariff`)


class Flood:
    """A hash that we ask for as its payee. `sent` as in `Entry`."""

    __slots__ = ("amount", "ceiling", "expiry", "hops", "lock_blocks", "sent")

    def __init__(self, amount: Amount, lock_blocks: BlockDelta, hops: int, ceiling: Amount, expiry: UnixTime) -> None:
        self.amount = amount
        self.lock_blocks = lock_blocks
        self.hops = hops
        self.ceiling = ceiling
        self.expiry = expiry
        self.sent: list[Msat] = []


class Quoter:
    """Quotes gathered while one event is handled, then handed over as effects."""

    def __init__(self, config: RoutingConfig, table: Table, subscriptions: Subscriptions) -> None:
        self.config = config
        self.pricer = Pricer(config.fee, config.asset_fees, config.rates, config.neighbour_fees)
        self.table = table
        self.subscriptions = subscriptions
        self.neighbours: dict[PeerId, Neighbour] = {}
        self.floods: dict[PaymentHash, Flood] = {}
        self.dropped: Counter[Drop] = Counter()
        self.judged: list[Judged] = []  # while one event is handled
        self._routing: dict[_Group, dict[Link, None]] = {}  # links to be quoted, those with equal quotes together
        self._slots = 0
        self._free_slots: list[int] = []
        self._touched: list[Neighbour] = []

    # --- who is to be quoted ----------------------------------------------------------------------------------------

    def regroup(self, neighbour: Neighbour) -> None:
        """The neighbour came, went, or its channels changed: which of its links can quotes go over now?"""
        for link in neighbour.links.values():
            key = self._group(link)
            group = self._routing.setdefault(key, {})
            if not (neighbour.up and neighbour.routes and link.theirs > 0):
                group.pop(link, None)
            elif link not in group:
                if link.slot == NO_SLOT:
                    link.slot = self._free_slots.pop() if self._free_slots else self._new_slot()
                group[link] = None
            if not group:
                del self._routing[key]

    def _group(self, link: Link) -> _Group:
        return link.asset, self.pricer.tariff(link.neighbour.peer)

    def _new_slot(self) -> int:
        self._slots += 1
        return self._slots - 1

    def forget_sent(self, neighbour: Neighbour) -> None:
        """The neighbour's stream ended or began anew: it may have lost everything that we quoted."""
        for link in neighbour.links.values():
            link.pushed.clear()
            link.withheld.clear()
            if link.slot != NO_SLOT:
                self.table.forget_sent(link.slot)
                for flood in self.floods.values():
                    if len(flood.sent) > link.slot:
                        flood.sent[link.slot] = _NOTHING

    def release(self, link: Link) -> None:
        """The link is gone for good and holds no offers: its slot is free, after `forget_sent`."""
        if link.slot != NO_SLOT:
            self._free_slots.append(link.slot)
            link.slot = NO_SLOT
        self.table.detach(link)

    def hash_gone(self, payment_hash: PaymentHash) -> None:
        """No offer is left for this hash: a later one is pushed whatever its price."""
        if self.subscriptions.count:
            for peer in self.subscriptions.match(payment_hash):
                for link in self.neighbours[peer].links.values():
                    link.pushed.pop(payment_hash, None)

    # --- quoting ----------------------------------------------------------------------------------------------------

    def offer(self, entry: Entry, offer: Offer) -> None:
        """A new or cheaper offer stands: quote it wherever that lowers the price."""
        config = self.config
        if not config.routes:
            return
        if offer.lock_blocks + config.delta > config.max_lock_blocks:
            self.dropped[Drop.LOCK_TOO_LONG] += 1
            self._judge(entry, offer, Drop.LOCK_TOO_LONG)
            return
        source = offer.link.neighbour
        if offer.hops_left > 0 and self._routing:
            sent = entry.sent
            if len(sent) < self._slots:
                sent.extend([_NOTHING] * (self._slots - len(sent)))
            touched = self._touched
            for group, links in self._routing.items():
                message = self._message(entry.payment_hash, offer, group)
                if message is None:
                    if self.pricer.terms(offer.link.asset, *group) is not None:
                        self.dropped[Drop.ABOVE_CEILING] += 1
                        self._judge(entry, offer, Drop.ABOVE_CEILING)
                    continue
                amount = message.amount_msat
                for link in links:
                    neighbour = link.neighbour
                    if neighbour is source:
                        continue
                    last = sent[link.slot]
                    if last and last <= amount:
                        continue
                    if amount > link.theirs:
                        self._withhold(link, entry.payment_hash, amount)
                        continue
                    sent[link.slot] = Msat(amount)
                    if not neighbour.outgoing:
                        touched.append(neighbour)
                    neighbour.outgoing.append(message)
        if self.subscriptions.count:
            for peer in self.subscriptions.match(entry.payment_hash):
                subscriber = self.neighbours[peer]
                if subscriber is source or (offer.hops_left > 0 and subscriber.up and subscriber.routes):
                    continue
                for link in subscriber.links.values():
                    message = self._message(entry.payment_hash, offer, self._group(link))
                    if message is not None:
                        self._push(link, message, again=False)

    def _judge(self, entry: Entry, offer: Offer, drop: Drop) -> None:
        """An offer that was kept is not passed on."""
        if self.config.judges:
            peer = offer.link.neighbour.peer
            self.judged.append(Judged(peer, entry.payment_hash, offer.amount, offer.lock_blocks, True, drop))

    def flood(self, payment_hash: PaymentHash, flood: Flood) -> None:
        """We are the payee: ask every neighbour that could bring the amount, and may be told (R13)."""
        for (asset, _), links in self._routing.items():
            if asset == flood.amount.asset:
                for link in links:
                    self._send_flood(payment_hash, flood, link)
        if self.subscriptions.count:
            for peer in self.subscriptions.match(payment_hash):
                subscriber = self.neighbours[peer]
                if not (subscriber.up and subscriber.routes) and flood.amount.asset in subscriber.links:
                    link = subscriber.links[flood.amount.asset]
                    self._push(link, self.flood_message(payment_hash, flood), again=False)

    def again(self, entry: Entry, now: UnixTime) -> None:
        """An offer of this hash has ended: the quotes that rested on it have too, so quote the best of what is left."""
        entry.sent.clear()
        self.hash_gone(entry.payment_hash)
        for links in self._routing.values():
            for link in links:
                self._send_best(entry, link, now)
        if self.subscriptions.count:
            self.push_best(self.subscriptions.match(entry.payment_hash), (entry.payment_hash,), now, again=False)

    def quote_anew(self, payment_hash: PaymentHash, neighbour: Neighbour, now: UnixTime) -> None:
        """What this neighbour was quoted does not stand any more: tell it of the best that is left, if there is any.

        Nobody else is told: their quotes fail, and are replaced, when they are used. So a failure costs messages only
        along the way that failed.
        """
        entry = self.table.entries.get(payment_hash)
        for link in neighbour.links.values():
            link.pushed.pop(payment_hash, None)
            if entry is not None and link.slot != NO_SLOT and len(entry.sent) > link.slot:
                entry.sent[link.slot] = _NOTHING
        if entry is None:
            return
        if neighbour.up and neighbour.routes:
            for link in neighbour.links.values():
                if link in self._routing.get(self._group(link), ()):
                    self._send_best(entry, link, now)
        elif neighbour.peer in self.subscriptions.match(payment_hash):
            self.push_best((neighbour.peer,), (payment_hash,), now, again=False)

    def catch_up(self, neighbour: Neighbour, now: UnixTime) -> None:
        """The neighbour can be quoted now and could not before: tell it of what is newest, oldest of it first."""
        newest = list(islice(reversed(self.table.entries.values()), self.config.catch_up))
        for link in neighbour.links.values():
            if link in self._routing.get(self._group(link), ()):
                for payment_hash, flood in self.floods.items():
                    if flood.amount.asset == link.asset:
                        self._send_flood(payment_hash, flood, link)
                for entry in reversed(newest):
                    self._send_best(entry, link, now)

    def look_again(self, link: Link, now: UnixTime) -> None:
        """The neighbour can pay more than before: quote what was withheld for that (R1)."""
        for payment_hash, amount in list(link.withheld.items()):
            if amount <= link.theirs:
                del link.withheld[payment_hash]
                if not (link.neighbour.up and link.neighbour.routes):
                    if link.neighbour.peer in self.subscriptions.match(payment_hash):
                        message = self.best(payment_hash, link, now)
                        if message is not None:
                            self._push(link, message, again=False)
                    continue
                flood = self.floods.get(payment_hash)
                entry = self.table.entries.get(payment_hash)
                if flood is not None:
                    self._send_flood(payment_hash, flood, link)
                elif entry is not None:
                    self._send_best(entry, link, now)

    def push_best(
        self, subscribers: Iterable[PeerId], hashes: Iterable[PaymentHash], now: UnixTime, *, again: bool
    ) -> None:
        """Push the best quote for each of these hashes; `again`: even when it was sent before."""
        hashes = tuple(hashes)
        for peer in subscribers:
            neighbour = self.neighbours[peer]
            for payment_hash in hashes:
                for link in neighbour.links.values():
                    message = self.best(payment_hash, link, now)
                    if message is not None:
                        self._push(link, message, again=again)

    def best(
        self, payment_hash: PaymentHash, link: Link, now: UnixTime, *, flooding: bool = False
    ) -> RoutingMessage | None:
        """The best quote that this link could be given now, whether or not it can pay it.

        Args:
            flooding: only offers that may travel on; a subscriber has asked, so the hop budget does not stop it there.
        """
        flood = self.floods.get(payment_hash)
        if flood is not None:
            return self.flood_message(payment_hash, flood) if flood.amount.asset == link.asset else None
        entry = self.table.entries.get(payment_hash)
        if entry is None or not self.config.routes:
            return None
        config = self.config
        best: RoutingMessage | None = None
        for offer in entry.offers:
            if (
                offer.link.neighbour is link.neighbour
                or not self.carries(offer, now - config.clock_skew)
                or (flooding and offer.hops_left == 0)
                or offer.lock_blocks + config.delta > config.max_lock_blocks
            ):
                continue
            message = self._message(payment_hash, offer, self._group(link))
            if message is not None and (
                best is None or (message.amount_msat, message.lock_blocks) < (best.amount_msat, best.lock_blocks)
            ):
                best = message
        return best

    @staticmethod
    def carries(offer: Offer, since: int) -> bool:
        """Whether an HTLC could be locked to this offer: its neighbour up, our side rich enough, not ended (R1, R4)."""
        link = offer.link
        return link.neighbour.up and offer.amount <= link.ours and offer.expiry >= since

    def effects(self) -> list[RoutingEffect]:
        """Hand over what was gathered since the last time."""
        found: list[RoutingEffect] = []
        for neighbour in self._touched:
            if neighbour.outgoing:
                found.append(SendOffers(neighbour=neighbour.peer, offers=tuple(neighbour.outgoing)))
                neighbour.outgoing.clear()
            if neighbour.pushes:
                found.append(PushOffers(subscriber=neighbour.peer, offers=tuple(neighbour.pushes)))
                neighbour.pushes.clear()
        self._touched.clear()
        return found

    # --- one message ------------------------------------------------------------------------------------------------

    def _message(self, payment_hash: PaymentHash, offer: Offer, group: _Group) -> RoutingMessage | None:
        asset, tariff = group
        terms = self.pricer.terms(offer.link.asset, asset, tariff)
        if terms is None:
            return None
        quote = -(-(offer.amount * terms[0] + terms[1]) // terms[2])  # R2: rounded up
        if quote > MAX_MSAT or (quote > offer.ceiling and offer.ceiling_asset == asset):
            return None  # R8: only whoever quotes in the ceiling's asset can apply it
        hops = offer.hops_left
        return RoutingMessage(
            payment_hash,
            asset,
            quote,
            offer.lock_blocks + self.config.delta,
            hops - 1 if hops else 0,
            offer.ceiling,
            offer.ceiling_asset,
            offer.expiry,
        )

    @staticmethod
    def flood_message(payment_hash: PaymentHash, flood: Flood) -> RoutingMessage:
        """What we ask for as the payee, as a neighbour hears it."""
        return RoutingMessage(
            payment_hash=payment_hash,
            asset=flood.amount.asset,
            amount_msat=flood.amount.msat,
            lock_blocks=flood.lock_blocks,
            hops_left=flood.hops,
            ceiling_msat=flood.ceiling.msat,
            ceiling_asset=flood.ceiling.asset,
            expiry=flood.expiry,
        )

    def _send_flood(self, payment_hash: PaymentHash, flood: Flood, link: Link) -> None:
        self._send(payment_hash, flood.sent, link, self.flood_message(payment_hash, flood))

    def _send_best(self, entry: Entry, link: Link, now: UnixTime) -> None:
        message = self.best(entry.payment_hash, link, now, flooding=True)
        if message is not None:
            self._send(entry.payment_hash, entry.sent, link, message)

    def _send(self, payment_hash: PaymentHash, sent: list[Msat], link: Link, message: RoutingMessage) -> None:
        if len(sent) < self._slots:
            sent.extend([_NOTHING] * (self._slots - len(sent)))
        amount = Msat(message.amount_msat)
        last = sent[link.slot]
        if last and last <= amount:
            return
        if amount > link.theirs:
            self._withhold(link, payment_hash, amount)
            return
        sent[link.slot] = amount
        neighbour = link.neighbour
        self._touched.append(neighbour)
        neighbour.outgoing.append(message)

    def _push(self, link: Link, message: RoutingMessage, *, again: bool) -> None:
        payment_hash = PaymentHash(message.payment_hash)
        amount = Msat(message.amount_msat)
        neighbour = link.neighbour
        sent = self._sent(payment_hash) if neighbour.up and neighbour.routes and link.slot != NO_SLOT else None
        last = sent[link.slot] if sent is not None else link.pushed.get(payment_hash)
        if not again and last and last <= amount:
            return
        if amount > link.theirs:
            self._withhold(link, payment_hash, amount)
            return
        if sent is not None:
            sent[link.slot] = amount  # one memory of what it knows, whichever stream told it
        else:
            link.pushed.pop(payment_hash, None)
            if len(link.pushed) >= MAX_PUSHED:
                del link.pushed[next(iter(link.pushed))]
            link.pushed[payment_hash] = amount
        self._touched.append(neighbour)
        neighbour.pushes.append(message)

    def _sent(self, payment_hash: PaymentHash) -> list[Msat]:
        holder = self.floods.get(payment_hash) or self.table.entries[payment_hash]
        if len(holder.sent) < self._slots:
            holder.sent.extend([_NOTHING] * (self._slots - len(holder.sent)))
        return holder.sent

    def _withhold(self, link: Link, payment_hash: PaymentHash, amount: int) -> None:
        link.withheld.pop(payment_hash, None)
        if len(link.withheld) >= self.config.max_waiting:
            del link.withheld[next(iter(link.withheld))]
        link.withheld[payment_hash] = Msat(amount)
