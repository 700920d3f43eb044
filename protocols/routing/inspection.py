"""Reading the routing engine's state for people and tools; changes nothing."""

from collections.abc import Container

from protocols.ids import PaymentHash
from protocols.routing.events import Liquidity
from protocols.routing.quoting import Quoter
from protocols.routing.table import Offer
from protocols.routing.views import NeighbourView, Quoted, Route, RouteOffer
from protocols.units import Amount, BlockDelta, Msat, UnixTime


def routes(quoter: Quoter, wanted: Container[PaymentHash], now: UnixTime) -> tuple[Route, ...]:
    """Our own hashes first, then the table in the order in which hashes were first heard."""
    everybody = quoter.neighbours.values()
    slots = {link.slot: link for each in everybody for link in each.links.values() if link.slot >= 0}

    def quoted(sent: list[Msat], payment_hash: PaymentHash) -> tuple[Quoted, ...]:
        told = [
            Quoted(neighbour=slots[slot].neighbour.peer, amount=Amount(amount, slots[slot].asset))
            for slot, amount in enumerate(sent)
            if amount and slot in slots
        ]
        told += [
            Quoted(neighbour=each.peer, amount=Amount(link.pushed[payment_hash], link.asset))
            for each in everybody
            for link in each.links.values()
            if payment_hash in link.pushed
        ]
        return tuple(told)

    def offer_view(offer: Offer) -> RouteOffer:
        return RouteOffer(
            neighbour=offer.link.neighbour.peer,
            amount=Amount(offer.amount, offer.link.asset),
            lock_blocks=BlockDelta(offer.lock_blocks),
            hops_left=offer.hops_left,
            ceiling=Amount(offer.ceiling, offer.ceiling_asset),
            expiry=offer.expiry,
            improvements=offer.improvements,
            usable=quoter.carries(offer, now - quoter.config.clock_skew),
        )

    found = [
        Route(payment_hash=each, ours=True, wanted=each in wanted, offers=(), quoted=quoted(flood.sent, each))
        for each, flood in quoter.floods.items()
    ]
    found += [
        Route(
            payment_hash=each,
            ours=False,
            wanted=each in wanted,
            offers=tuple(map(offer_view, entry.every())),
            quoted=quoted(entry.sent, each),
        )
        for each, entry in quoter.table.entries.items()
    ]
    return tuple(found)


def neighbours(quoter: Quoter, now: UnixTime) -> tuple[NeighbourView, ...]:
    """Neighbours and what their records allow them (R7)."""
    return tuple(
        NeighbourView(
            neighbour=each.peer,
            up=each.up,
            routes=each.routes,
            liquidity=tuple(
                Liquidity(asset=link.asset, ours=link.ours, theirs=link.theirs)
                for link in each.links.values()
                if link.ours or link.theirs
            ),
            paid=each.record.paid,
            failed=each.record.failed,
            budget_per_second=each.record.rate(now),
            offers_received=each.record.received,
            offers_taken=each.record.taken,
            offers_kept=sum(link.held for link in each.links.values()),
            filters=quoter.subscriptions.filters_of(each.peer),
        )
        for each in quoter.neighbours.values()
    )
