"""The routing engine: offers come in, quotes go out (THEORY, "The protocol"; R1 to R8, R12, R13). Soft state."""

from protocols.ids import PaymentHash, PeerId
from protocols.routing.config import RoutingConfig
from protocols.routing.events import KeptOffer, RoutingEffect, RoutingEvent
from protocols.routing.views import Drop, NeighbourView, Route, SubscriberView
from protocols.units import AssetId, UnixTime
from protocols.wire.routing import RoutingMessage


class Engine:
    def __init__(self, config: RoutingConfig, us: PeerId) -> None:
        self.config = config
        self.us = us

    def handle(self, event: RoutingEvent) -> list[RoutingEffect]:
        """Take one event; the effects are to be done in this order."""
        raise NotImplementedError

    def offers(
        self, payment_hash: PaymentHash, upstream: PeerId | None, asset: AssetId, now: UnixTime
    ) -> tuple[KeptOffer, ...]:
        """Offers that an HTLC could be locked to now, cheapest first (R4); `upstream` None: we are the payer."""
        raise NotImplementedError

    def answer(self, peer: PeerId, hashes: tuple[PaymentHash, ...], now: UnixTime) -> tuple[RoutingMessage, ...]:
        """The best quote for each hash, priced for this channel neighbour (`/rr/subscribe/1` Query)."""
        raise NotImplementedError

    def routes(self, now: UnixTime) -> tuple[Route, ...]:
        """The routing table."""
        raise NotImplementedError

    def neighbours(self, now: UnixTime) -> tuple[NeighbourView, ...]:
        """Neighbours and their records."""
        raise NotImplementedError

    def subscribers(self) -> tuple[SubscriberView, ...]:
        """Who asked for what."""
        raise NotImplementedError

    def dropped(self) -> dict[Drop, int]:
        """How many offers were dropped, by reason."""
        raise NotImplementedError
