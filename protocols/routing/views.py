"""What a person or a tool may look at in the routing engine; answers to queries, never fed back into it."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from protocols.ids import PaymentHash, PeerId
from protocols.routing.events import Liquidity
from protocols.units import Amount, BlockDelta, Msat, UnixTime


class Drop(Enum):
    """Why an offer was not taken, or not passed on."""

    OVER_BUDGET = "the neighbour sent more than its record allows (R7)"
    NO_CHANNEL = "no channel with this neighbour in this asset; kept aside for one that is being re-established"
    DOWN = "the neighbour's routing stream does not stand; kept aside until it does"
    TOO_POOR = "our side of the channel cannot carry the amount (R1); kept aside until it can"
    OWN_HASH = "we ask for this hash ourselves"
    EXPIRED = "it had ended"
    LOCK_TOO_LONG = "it needs more blocks than the maximum (R5)"
    ABOVE_CEILING = "it costs more than the payer will pay (R8)"
    NOT_CHEAPER = "no cheaper than what the same neighbour offered before (R3)"
    TOO_DEAR = "the offers kept for this hash are cheaper (R4)"
    TOO_MANY_IMPROVEMENTS = "the neighbour has bettered its price for this hash too often (R12)"
    ZERO = "an amount of 0"
    EVICTED = "the neighbour's own newer offers took its place (R6)"
    FLOODS_FULL = "too many hashes of our own at a time (R6)"
    WANTED_FULL = "too many hashes that we want to pay at a time (R6)"


class Judged(NamedTuple):  # one per offer: a frozen dataclass costs several times as much to make
    """What became of one offer that `neighbour` made.

    Attributes:
        kept: it was taken into the table.
        drop: why not; or, of one that was kept, why it is not passed on.
    """

    neighbour: PeerId
    payment_hash: PaymentHash
    amount: Msat
    lock_blocks: int
    kept: bool
    drop: Drop | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOffer:
    """One kept offer; `usable` says whether an HTLC could be locked to it now."""

    neighbour: PeerId
    amount: Amount
    lock_blocks: BlockDelta
    hops_left: int
    ceiling: Amount
    expiry: UnixTime
    improvements: int
    usable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """The last quote that one neighbour was sent."""

    neighbour: PeerId
    amount: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One hash of the routing table, offers cheapest first."""

    payment_hash: PaymentHash
    ours: bool  # we are the payee and ask for it
    wanted: bool  # we want to pay it
    offers: tuple[RouteOffer, ...]
    quoted: tuple[Quoted, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourView:
    """A neighbour and its record.

    Attributes:
        paid, failed: HTLCs over its offers that ended so.
        budget_per_second: what its record allows it (R7).
        offers_received, offers_taken: since the node started; what is between was dropped.
        offers_kept: in the table now.
    """

    neighbour: PeerId
    up: bool
    routes: bool
    liquidity: tuple[Liquidity, ...]
    paid: int
    failed: int
    budget_per_second: int
    offers_received: int
    offers_taken: int
    offers_kept: int
    filters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixView:
    bits: int
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberView:
    subscriber: PeerId
    hashes: tuple[PaymentHash, ...]
    prefixes: tuple[PrefixView, ...]
