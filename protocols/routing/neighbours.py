"""Neighbours and the links that money takes between them and us (R1, R7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ids import PaymentHash, PeerId
from protocols.routing.admission import Record
from protocols.units import AssetId, Msat
from protocols.wire.routing import RoutingMessage

if TYPE_CHECKING:
    from protocols.routing.table import Offer

NO_SLOT = -1


class Link:
    """All channels with one neighbour in one asset, as one way for money.

    Attributes:
        ours: the largest HTLC that we could offer the neighbour; 0 when none.
        theirs: the largest HTLC that the neighbour could offer us.
        slot: where each entry's `sent` keeps what this link was quoted; `NO_SLOT` until it is quoted anything.
        offers: the neighbour's newest offer for each hash, the hash first heard of first.
        held: its offers in the table, those included that only stand for older quotes: its share of the table.
        pushed: quotes sent to a subscriber that does not route, by hash (R13).
        withheld: hashes and quotes not sent because `theirs` was too low, to be looked at again when it grows.
    """

    __slots__ = ("asset", "held", "neighbour", "offers", "ours", "pushed", "slot", "theirs", "withheld")

    def __init__(self, neighbour: Neighbour, asset: AssetId) -> None:
        self.neighbour = neighbour
        self.asset = asset
        self.slot = NO_SLOT
        self.ours = Msat(0)
        self.theirs = Msat(0)
        self.offers: dict[PaymentHash, Offer] = {}
        self.held = 0
        self.pushed: dict[PaymentHash, Msat] = {}
        self.withheld: dict[PaymentHash, Msat] = {}


class Neighbour:
    """A node that we share channels with.

    Attributes:
        up: its routing stream stands; otherwise its offers are kept but cannot be used.
        routes: it passes offers on; one that does not is sent only what it subscribed to (R13).
        links: one per asset.
        waiting: offers that no channel can carry at this moment, by asset and hash.
        outgoing, pushes: quotes gathered while one event is handled.
    """

    __slots__ = ("links", "outgoing", "peer", "pushes", "record", "routes", "up", "waiting")

    def __init__(self, peer: PeerId, record: Record) -> None:
        self.peer = peer
        self.record = record
        self.up = False
        self.routes = False
        self.links: dict[AssetId, Link] = {}
        self.waiting: dict[tuple[AssetId, PaymentHash], RoutingMessage] = {}
        self.outgoing: list[RoutingMessage] = []
        self.pushes: list[RoutingMessage] = []

    def has_channel(self) -> bool:
        """Whether any channel could move anything, either way."""
        return any(link.ours or link.theirs for link in self.links.values())
