"""The routing engine: offers come in, the few cheapest are kept, quotes go out (THEORY, "The protocol"; R1 to R8, R12, R13).

Soft state and mutable: a restart loses it and nothing is owed for it. One engine per node; whoever owns it calls
`handle` with one event at a time and asks the queries in between. It knows channels only as `Liquidity`.
"""

from itertools import islice
from typing import assert_never

from protocols.errors import MisuseError
from protocols.ids import PaymentHash, PeerId
from protocols.routing import inspection
from protocols.routing.admission import Record, refusal
from protocols.routing.config import RoutingConfig
from protocols.routing.events import (
    BundleReceived,
    FeedOffers,
    FloodEnded,
    FloodRequested,
    KeptOffer,
    LiquidityChanged,
    NeighbourDown,
    NeighbourUp,
    OfferArrived,
    OffersNoLongerWanted,
    OffersWanted,
    PaymentEnded,
    RoutingEffect,
    RoutingEvent,
    SetTimer,
    Subscribed,
    SubscriberGone,
    SubscriptionAccepted,
    SubscriptionRefused,
    TimerFired,
    Unsubscribed,
)
from protocols.routing.expiry import Expiries
from protocols.routing.neighbours import Link, Neighbour
from protocols.routing.quoting import Flood, Quoter
from protocols.routing.subscriptions import FilterRefusal, Subscriptions
from protocols.routing.table import Entry, Offer, Table
from protocols.routing.views import Drop, Judged, NeighbourView, Route, SubscriberView
from protocols.units import Amount, AssetId, BlockDelta, Msat, UnixTime
from protocols.wire.routing import MAX_BUNDLE, RoutingMessage
from protocols.wire.subscribe import RefusalCode

MAX_GONE = 4096  # neighbours without link or channel whose record is remembered: some 1 KB each


class Engine:
    """One node's routing.

    Args:
        config: fees, rates and limits.
        us: this node's own id, which is nobody's neighbour.
    """

    def __init__(self, config: RoutingConfig, us: PeerId) -> None:
        self.config = config
        self.us = us
        self._table = Table(config.max_offers, config.kept_per_hash)
        self._subscriptions = Subscriptions(config.max_filters, config.max_filters_total, config.max_prefix_bits)
        self._quoter = Quoter(config, self._table, self._subscriptions)
        self._neighbours = self._quoter.neighbours
        self._floods = self._quoter.floods
        self._dropped = self._quoter.dropped
        self._judged = self._quoter.judged
        self._wanted: dict[PaymentHash, UnixTime] = {}
        self._flood_ends: Expiries[PaymentHash] = Expiries()
        self._want_ends: Expiries[PaymentHash] = Expiries()
        self._assets: dict[AssetId, AssetId] = {}  # one copy of each
        self._timer: UnixTime | None = None
        self._fed: list[RoutingMessage] = []

    def handle(self, event: RoutingEvent) -> list[RoutingEffect]:
        """Take one event; the effects are to be done in this order.

        Raises:
            MisuseError: an event about ourselves as a neighbour.
        """
        first: list[RoutingEffect] = []
        self._judged.clear()
        match event:
            case BundleReceived():
                self._bundle(event, first)
            case LiquidityChanged():
                self._liquidity(event, first)
            case NeighbourUp():
                self._up(event, first)
            case NeighbourDown():
                self._down(event)
            case FloodRequested():
                self._flood(event)
            case FloodEnded():
                self._end_flood(event.payment_hash)
            case OffersWanted():
                self._want(event, first)
            case OffersNoLongerWanted():
                self._end_want(event.payment_hash)
            case Subscribed():
                self._subscribe(event, first)
            case Unsubscribed():
                left = self._subscriptions.remove(event.subscriber, event.hashes, event.prefixes)
                first.append(
                    SubscriptionAccepted(subscriber=event.subscriber, request=event.request, filters_left=left)
                )
            case SubscriberGone():
                self._subscriber_gone(event.subscriber)
            case PaymentEnded():
                neighbour = self._neighbours.get(event.downstream)
                if neighbour is not None:
                    neighbour.record.ended(event.paid, event.now)
                    if not event.paid:
                        self._failed(neighbour, event, first)
            case TimerFired():
                self._timer = None
                self._expire(event.now)
            case _:
                assert_never(event)
        first.extend(self._quoter.effects())
        if self._fed:
            first.append(FeedOffers(offers=tuple(self._fed)))
            self._fed.clear()
        self._set_timer(first)
        return first

    # --- queries ----------------------------------------------------------------------------------------------------

    def offers(
        self, payment_hash: PaymentHash, upstream: PeerId | None, asset: AssetId, now: UnixTime
    ) -> tuple[KeptOffer, ...]:
        """Offers that an HTLC could be locked to now, cheapest first (R1, R4).

        Args:
            upstream: who would pay us, and is never offered back to itself; None: we are the payer, and quotes are the
                bare amounts.
            asset: what we would be paid in, or what we would pay in ourselves.
            now: the payer takes no offer that has ended by its own clock; a forwarder allows for clocks that differ,
                so that what a slower clock still takes for valid can be carried.
        """
        entry = self._table.entries.get(payment_hash)
        if entry is None or (upstream is not None and not self.config.routes):
            return ()
        since = now if upstream is None else now - self.config.clock_skew
        found: list[tuple[Msat, int, int, KeptOffer]] = []
        for offer in entry.offers:
            link = offer.link
            if link.neighbour.peer == upstream or not self._quoter.carries(offer, since):
                continue
            if upstream is None:
                quote = offer.amount if link.asset == asset else None
            else:
                quote = self._quoter.pricer.quote(offer.amount, link.asset, asset, upstream)
            if quote is None:
                continue
            kept = KeptOffer(
                neighbour=link.neighbour.peer,
                amount=Amount(offer.amount, link.asset),
                lock_blocks=BlockDelta(offer.lock_blocks),
                expiry=offer.expiry,
                quote=Amount(quote, asset),
            )
            found.append((quote, offer.lock_blocks, offer.serial, kept))
        found.sort(key=lambda each: each[:3])
        return tuple(each[3] for each in found)

    def answer(self, peer: PeerId, hashes: tuple[PaymentHash, ...], now: UnixTime) -> tuple[RoutingMessage, ...]:
        """The best quote for each hash that has one, priced for this channel neighbour (`/rr/subscribe/1`, Query).

        Empty for strangers: a quote goes only to the neighbour it is priced for. At most what one message holds.
        """
        neighbour = self._neighbours.get(peer)
        if neighbour is None:
            return ()
        found = []
        for payment_hash in dict.fromkeys(hashes):
            for link in neighbour.links.values():
                message = self._quoter.best(payment_hash, link, now)
                if message is not None and message.amount_msat <= link.theirs:
                    found.append(message)
        return tuple(found[:MAX_BUNDLE])

    def routes(self, now: UnixTime) -> tuple[Route, ...]:
        """The routing table, for people: our own hashes first, then in the order in which they were first heard."""
        return inspection.routes(self._quoter, self._wanted, now)

    def neighbours(self, now: UnixTime) -> tuple[NeighbourView, ...]:
        """Neighbours and what their records allow them."""
        return inspection.neighbours(self._quoter, now)

    def subscribers(self) -> tuple[SubscriberView, ...]:
        """Who asked for what."""
        return tuple(self._subscriptions.views())

    def dropped(self) -> dict[Drop, int]:
        """How many offers were not taken or not passed on since the start, by reason."""
        return {reason: count for reason, count in self._dropped.items() if count}

    def judged(self) -> tuple[Judged, ...]:
        """What became of each offer that the last event concerned, in order; empty unless `RoutingConfig.judges`."""
        return tuple(self._judged)

    # --- neighbours -------------------------------------------------------------------------------------------------

    def _neighbour(self, peer: PeerId, now: UnixTime) -> Neighbour:
        neighbour = self._neighbours.get(peer)
        if neighbour is None:
            if peer == self.us:
                raise MisuseError("we are not our own neighbour")
            neighbour = self._neighbours[peer] = Neighbour(peer, Record(self.config.budget, now))
        return neighbour

    def _up(self, event: NeighbourUp, effects: list[RoutingEffect]) -> None:
        neighbour = self._neighbour(event.neighbour, event.now)
        neighbour.up = True
        neighbour.routes = event.routes
        self._quoter.forget_sent(neighbour)
        self._quoter.regroup(neighbour)
        self._quoter.catch_up(neighbour, event.now)
        for payment_hash in self._wanted:
            for link in neighbour.links.values():
                offer = link.offers.get(payment_hash)
                if offer is not None:
                    self._tell(payment_hash, offer, event.now, effects)
        self._retry_waiting(neighbour, event.now, effects)

    def _down(self, event: NeighbourDown) -> None:
        neighbour = self._neighbours.get(event.neighbour)
        if neighbour is None:
            return
        neighbour.up = False
        self._quoter.forget_sent(neighbour)
        self._quoter.regroup(neighbour)

    def _subscriber_gone(self, peer: PeerId) -> None:
        self._subscriptions.drop(peer)
        neighbour = self._neighbours.get(peer)
        if neighbour is not None:
            for link in neighbour.links.values():
                link.pushed.clear()

    def _liquidity(self, event: LiquidityChanged, effects: list[RoutingEffect]) -> None:
        neighbour = self._neighbour(event.neighbour, event.now)
        known = {each.asset: each for each in event.liquidity}
        for asset in known:
            if asset not in neighbour.links:
                asset = self._assets.setdefault(asset, asset)
                link = neighbour.links[asset] = Link(neighbour, asset)
                self._table.attach(link)
        began = richer = changed = False
        for asset, link in neighbour.links.items():
            now = known.get(asset)
            ours, theirs = (now.ours, now.theirs) if now is not None else (Msat(0), Msat(0))
            began = began or (link.theirs == 0 and theirs > 0)
            changed = changed or (link.theirs == 0) != (theirs == 0)
            richer = richer or ours > link.ours
            link.ours = ours
            link.theirs = theirs
        if changed:
            self._quoter.regroup(neighbour)
        if began and neighbour.up and neighbour.routes:
            self._quoter.catch_up(neighbour, event.now)
        for link in neighbour.links.values():
            if link.withheld:
                self._quoter.look_again(link, event.now)
        if richer:
            self._retry_waiting(neighbour, event.now, effects)

    def _forget_gone(self) -> None:
        """Links without channel, stream and offers give their slot back; records of the long gone are bounded."""
        gone = []
        for neighbour in self._neighbours.values():
            if neighbour.up or neighbour.peer in self._subscriptions or neighbour.has_channel():
                continue
            neighbour.waiting.clear()
            for asset, link in list(neighbour.links.items()):
                if not link.offers:
                    self._quoter.release(link)
                    del neighbour.links[asset]
            if not neighbour.links:
                gone.append(neighbour.peer)
        for peer in gone[: max(0, len(gone) - MAX_GONE)]:
            del self._neighbours[peer]

    # --- offers in --------------------------------------------------------------------------------------------------

    def _bundle(self, event: BundleReceived, effects: list[RoutingEffect]) -> None:
        now = event.now
        offers = event.offers
        neighbour = self._neighbours.get(event.neighbour)
        if neighbour is None:
            self._drop(event.neighbour, offers, Drop.NO_CHANNEL)
            return
        allowed = neighbour.record.spend(len(offers), now)
        if allowed < len(offers):
            self._drop(event.neighbour, offers[allowed:], Drop.OVER_BUDGET)
            offers = offers[:allowed]
        links = neighbour.links
        since = now - self.config.clock_skew
        for message in offers:
            link = links.get(AssetId(message.asset))
            if link is not None:
                before = link.offers.get(PaymentHash(message.payment_hash))
                if before is not None and before.amount <= message.amount_msat and before.expiry >= since:
                    self._dropped[Drop.NOT_CHEAPER] += 1  # the usual case, so it comes first and costs least
                    if self.config.judges:
                        self._judge(event.neighbour, message, Drop.NOT_CHEAPER)
                    if before.amount < message.amount_msat:
                        self._set_aside(neighbour, message)  # what counts when the cheaper one has failed
                    continue
            self._admit(neighbour, link, message, now, effects)

    def _admit(
        self,
        neighbour: Neighbour,
        link: Link | None,
        message: RoutingMessage,
        now: UnixTime,
        effects: list[RoutingEffect],
    ) -> None:
        """Take an offer into the table and quote it on, or drop it and count why."""
        payment_hash = PaymentHash(message.payment_hash)
        reason = Drop.OWN_HASH if payment_hash in self._floods else refusal(message, self.config, now)
        if reason is not None:
            self._drop(neighbour.peer, (message,), reason)
            return
        if link is None or not neighbour.up or message.amount_msat > link.ours:
            reason = Drop.NO_CHANNEL if link is None else Drop.TOO_POOR if neighbour.up else Drop.DOWN
            self._drop(neighbour.peer, (message,), reason)
            self._set_aside(neighbour, message)
            return
        before = link.offers.get(payment_hash)
        if before is not None and before.expiry + self.config.clock_skew < now:
            self._end_offers(payment_hash, now)
        if self._table.improvements(link, payment_hash) >= self.config.max_improvements:
            self._drop(neighbour.peer, (message,), Drop.TOO_MANY_IMPROVEMENTS)
            return
        ceiling_asset = AssetId(message.ceiling_asset)
        offer = self._table.insert(
            link,
            payment_hash,
            Msat(message.amount_msat),
            message.lock_blocks,
            message.hops_left,
            Msat(message.ceiling_msat),
            self._assets.get(ceiling_asset, ceiling_asset),
            UnixTime(min(message.expiry, now + self.config.max_lifetime)),
        )
        if offer is None:
            self._drop(neighbour.peer, (message,), Drop.TOO_DEAR)
            return
        if self.config.judges:
            self._judge(neighbour.peer, message, None)
        neighbour.record.taken += 1
        if self.config.feeds:
            self._fed.append(message)
        while (full := self._table.overfull()) is not None:
            self._dropped[Drop.EVICTED] += 1
            if self.config.judges:
                self._judged.append(_evicted(*full))
            self._remove(*full)
        entry = self._table.entries.get(payment_hash)
        if entry is None:
            return  # it was itself the oldest of whoever holds the most
        self._quoter.offer(entry, offer)
        if payment_hash in self._wanted:
            self._tell(payment_hash, offer, now, effects)

    def _drop(self, peer: PeerId, offers: tuple[RoutingMessage, ...], reason: Drop) -> None:
        self._dropped[reason] += len(offers)
        if self.config.judges:
            for message in offers:
                self._judge(peer, message, reason)

    def _judge(self, peer: PeerId, message: RoutingMessage, drop: Drop | None) -> None:
        payment_hash, amount = PaymentHash(message.payment_hash), Msat(message.amount_msat)
        self._judged.append(Judged(peer, payment_hash, amount, message.lock_blocks, drop is None, drop))

    def _failed(self, neighbour: Neighbour, event: PaymentEnded, effects: list[RoutingEffect]) -> None:
        """An HTLC over this offer came back: the offer no longer stands, and whoever was quoted for it is told anew."""
        for link in tuple(neighbour.links.values()):
            offer = link.offers.get(event.payment_hash)
            if offer is not None and offer.amount == event.amount:
                self._remove(link, event.payment_hash)
                dearer = neighbour.waiting.pop((link.asset, event.payment_hash), None)
                if dearer is not None:
                    self._admit(neighbour, link, dearer, event.now, effects)
        upstream = self._neighbours.get(event.upstream) if event.upstream is not None else None
        if upstream is not None:
            self._quoter.quote_anew(event.payment_hash, upstream, event.now)

    def _set_aside(self, neighbour: Neighbour, message: RoutingMessage) -> None:
        """Keep an offer that no channel can carry at this moment: a channel may be just being re-established."""
        waiting = neighbour.waiting
        key = (AssetId(message.asset), PaymentHash(message.payment_hash))
        before = waiting.pop(key, None)
        if before is not None and before.amount_msat <= message.amount_msat:
            message = before
        if len(waiting) >= self.config.max_waiting:
            del waiting[next(iter(waiting))]
        waiting[key] = message

    def _retry_waiting(self, neighbour: Neighbour, now: UnixTime, effects: list[RoutingEffect]) -> None:
        for key, message in list(neighbour.waiting.items()):
            link = neighbour.links.get(key[0])
            if neighbour.up and link is not None and message.amount_msat <= link.ours:
                before = link.offers.get(key[1])
                since = now - self.config.clock_skew
                if before is None or message.amount_msat < before.amount or before.expiry < since:
                    del neighbour.waiting[key]
                    self._admit(neighbour, link, message, now, effects)

    def _remove(self, link: Link, payment_hash: PaymentHash) -> None:
        self._table.remove(link, payment_hash)
        if payment_hash not in self._table.entries:
            self._quoter.hash_gone(payment_hash)

    def _tell(self, payment_hash: PaymentHash, offer: Offer, now: UnixTime, effects: list[RoutingEffect]) -> None:
        """We are the payer: tell of an offer that we could lock to."""
        if self._quoter.carries(offer, now):
            message = RoutingMessage(
                payment_hash=payment_hash,
                asset=offer.link.asset,
                amount_msat=offer.amount,
                lock_blocks=offer.lock_blocks,
                hops_left=offer.hops_left,
                ceiling_msat=offer.ceiling,
                ceiling_asset=offer.ceiling_asset,
                expiry=offer.expiry,
            )
            effects.append(OfferArrived(neighbour=offer.link.neighbour.peer, offer=message, now=now))

    # --- our own hashes ---------------------------------------------------------------------------------------------

    def _flood(self, event: FloodRequested) -> None:
        payment_hash = event.payment_hash
        before = self._floods.get(payment_hash)
        if before is None and len(self._floods) >= self.config.max_floods:
            self._dropped[Drop.FLOODS_FULL] += 1
            return
        if event.expiry <= event.now:
            self._dropped[Drop.EXPIRED] += 1
            return
        entry = self._table.entries.get(payment_hash)
        if entry is not None:
            for offer in list(entry.offers):
                self._remove(offer.link, payment_hash)
        flood = Flood(event.amount, event.lock_blocks, event.hops, event.ceiling, event.expiry)
        if before is not None and before.amount.asset == event.amount.asset and before.expiry >= event.now:
            flood.sent = before.sent
        self._end_flood(payment_hash)
        self._floods[payment_hash] = flood
        self._flood_ends.add(payment_hash, Expiries.bucket(event.expiry))
        self._quoter.flood(payment_hash, flood)
        if self.config.feeds:
            self._fed.append(self._quoter.flood_message(payment_hash, flood))

    def _want(self, event: OffersWanted, effects: list[RoutingEffect]) -> None:
        payment_hash = event.payment_hash
        if payment_hash not in self._wanted and len(self._wanted) >= self.config.max_wanted:
            self._dropped[Drop.WANTED_FULL] += 1
            return
        self._end_want(payment_hash)
        self._wanted[payment_hash] = event.expiry
        self._want_ends.add(payment_hash, Expiries.bucket(event.expiry))
        entry = self._table.entries.get(payment_hash)
        if entry is not None:
            for offer in entry.offers:
                self._tell(payment_hash, offer, event.now, effects)

    def _end_flood(self, payment_hash: PaymentHash) -> None:
        flood = self._floods.pop(payment_hash, None)
        if flood is not None:
            self._flood_ends.discard(payment_hash, Expiries.bucket(flood.expiry))

    def _end_want(self, payment_hash: PaymentHash) -> None:
        expiry = self._wanted.pop(payment_hash, None)
        if expiry is not None:
            self._want_ends.discard(payment_hash, Expiries.bucket(expiry))

    # --- subscribers ------------------------------------------------------------------------------------------------

    def _subscribe(self, event: Subscribed, effects: list[RoutingEffect]) -> None:
        peer = event.subscriber
        neighbour = self._neighbours.get(peer)
        answer: int | FilterRefusal
        if neighbour is None or not (neighbour.up or neighbour.has_channel()):
            answer = FilterRefusal(RefusalCode.NO_CHANNEL, "quotes are priced for channel neighbours only")
        elif not neighbour.record.spend_request(event.now):
            answer = FilterRefusal(RefusalCode.TOO_FAST, "too many requests, try again in a second")
        else:
            answer = self._subscriptions.add(peer, event.hashes, event.prefixes, event.until, event.now)
        if isinstance(answer, FilterRefusal):
            effects.append(
                SubscriptionRefused(subscriber=peer, request=event.request, code=answer.code, reason=answer.reason)
            )
            return
        effects.append(SubscriptionAccepted(subscriber=peer, request=event.request, filters_left=answer))
        wanted = dict.fromkeys(event.hashes)
        if event.prefixes:
            wanted |= dict.fromkeys(self._newest_matching(event))
        self._quoter.push_best((peer,), wanted, event.now, again=True)

    def _newest_matching(self, event: Subscribed) -> list[PaymentHash]:
        """Hashes already here under the new prefixes, among the newest: a prefix must not make us read the whole table."""
        prefixes = [(256 - each.bits, int.from_bytes(each.value, "big") >> (-each.bits % 8)) for each in event.prefixes]
        found = []
        newest = [*self._floods, *islice(reversed(self._table.entries), self.config.catch_up)]
        for payment_hash in newest:
            number = int.from_bytes(payment_hash, "big")
            if any(number >> shift == value for shift, value in prefixes):
                found.append(payment_hash)
        return found

    # --- time -------------------------------------------------------------------------------------------------------

    def _expire(self, now: UnixTime) -> None:
        for payment_hash in self._table.expiries.due(UnixTime(now - self.config.clock_skew)):
            self._end_offers(payment_hash, now)
        for payment_hash in self._flood_ends.due(now):
            del self._floods[payment_hash]
        for payment_hash in self._want_ends.due(now):
            del self._wanted[payment_hash]
        self._subscriptions.expire(now)
        self._forget_gone()

    def _end_offers(self, payment_hash: PaymentHash, now: UnixTime) -> None:
        """Take out what has ended of one hash, and quote what is left anew."""
        entry = self._table.entries[payment_hash]
        since = now - self.config.clock_skew
        ended = [offer for offer in entry.offers if offer.expiry < since]
        for offer in ended:
            self._remove(offer.link, payment_hash)
        if entry.offers:
            self._rebucket(entry)
            if ended:
                self._quoter.again(entry, now)

    def _rebucket(self, entry: Entry) -> None:
        expiries = self._table.expiries
        expiries.discard(entry.payment_hash, entry.bucket)
        entry.bucket = Expiries.bucket(min(offer.expiry for offer in entry.offers))
        expiries.add(entry.payment_hash, entry.bucket)

    def _set_timer(self, effects: list[RoutingEffect]) -> None:
        ends = self._table.expiries.next()
        times = [self._flood_ends.next(), self._want_ends.next(), self._subscriptions.next_expiry()]
        if ends is not None:
            times.append(UnixTime(ends + self.config.clock_skew))
        at = min((each for each in times if each is not None), default=None)
        if at is not None and (self._timer is None or at < self._timer):
            self._timer = at
            effects.append(SetTimer(at=at))


def _evicted(link: Link, payment_hash: PaymentHash) -> Judged:
    offer = link.offers[payment_hash]
    return Judged(link.neighbour.peer, payment_hash, offer.amount, offer.lock_blocks, False, Drop.EVICTED)
