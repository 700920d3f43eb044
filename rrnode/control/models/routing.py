"""The routing table, and what the routing engine knows of its neighbours."""

from typing import Literal

from rrnode.control.models.base import Model


class OfferInfo(Model):
    """An offer in the routing table: lock `amount_msat` to `neighbour` and it brings the payment on."""

    neighbour: str
    amount_msat: int
    lock_blocks: int
    expires_unix: int


class RouteInfo(Model):
    """One payment hash in the routing table, its offers cheapest first. `role` is `payer`, `payee` or `forwarder`."""

    payment_hash: str
    role: Literal["payer", "payee", "forwarder"]
    offers: tuple[OfferInfo, ...]


class NeighbourInfo(Model):
    """What the routing engine knows of a channel neighbour: what could pass, and its record (R7)."""

    peer_id: str
    connected: bool
    routes: bool
    can_send_msat: int
    can_receive_msat: int
    offers_received: int = 0
    payments_completed: int = 0


class Routes(Model):
    """The routing table; soft state, empty after a restart."""

    entries: tuple[RouteInfo, ...]
    table_limit: int
    subscriptions: int
    neighbours: tuple[NeighbourInfo, ...] = ()
