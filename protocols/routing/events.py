"""What the routing engine is told and what it orders (DESIGN 3, "How a routing message flows").

The engine is soft state: it is lost at a restart and nothing is owed for it. Every event carries `now`.
"""

from dataclasses import dataclass

from protocols.ids import PaymentHash, PeerId
from protocols.units import Amount, AssetId, BlockDelta, Msat, UnixTime
from protocols.wire.routing import RoutingMessage
from protocols.wire.subscribe import Prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Liquidity:
    """What the channels with one neighbour can carry now, in one asset: the most that a single HTLC can move.

    Attributes:
        ours: the largest HTLC we could offer to the neighbour.
        theirs: the largest HTLC the neighbour could offer to us.
    """

    asset: AssetId
    ours: Msat
    theirs: Msat


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourUp:
    """The routing stream to a channel neighbour stands. A neighbour that does not route gets only what it asked for."""

    neighbour: PeerId
    routes: bool
    now: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourDown:
    """The routing stream is gone; its offers cannot be used until it is back. Subscriptions have a stream of their own."""

    neighbour: PeerId
    now: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class LiquidityChanged:
    """The whole truth about one neighbour's channels, replacing what was known; empty when none is usable."""

    neighbour: PeerId
    liquidity: tuple[Liquidity, ...]
    now: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleReceived:
    """Offers from a neighbour: over `/rr/routing/1`, or pushed to us by the server we subscribed at."""

    neighbour: PeerId
    offers: tuple[RoutingMessage, ...]
    now: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodRequested:
    """We are the payee: ask every neighbour that could bring the amount (THEORY, step 2; R14).

    Attributes:
        amount: what must arrive.
        lock_blocks: what we need the last HTLC to live, our random slack included (R5).
        hops: the hop budget, its random part included (R8).
        ceiling: the most the payer will pay, its random margin included.
    """

    payment_hash: PaymentHash
    amount: Amount
    lock_blocks: BlockDelta
    hops: int
    ceiling: Amount
    expiry: UnixTime
    now: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodEnded:
    """The payee no longer wants it (paid or expired): quote it to nobody any more."""

    payment_hash: PaymentHash
    now: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class OffersWanted:
    """We are the payer: tell of each better offer for this hash until `expiry`, beginning with those already here."""

    payment_hash: PaymentHash
    expiry: UnixTime
    now: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class OffersNoLongerWanted:
    payment_hash: PaymentHash
    now: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribed:
    """A client asked for these hashes and prefixes; the engine answers with `SubscriptionAccepted` or `...Refused`."""

    subscriber: PeerId
    request: int
    hashes: tuple[PaymentHash, ...]
    prefixes: tuple[Prefix, ...]
    until: UnixTime
    now: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribed:
    subscriber: PeerId
    request: int
    hashes: tuple[PaymentHash, ...]
    prefixes: tuple[Prefix, ...]
    now: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberGone:
    """The subscription stream ended; all its filters end with it."""

    subscriber: PeerId
    now: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentEnded:
    """An HTLC that used an offer of `downstream` ended; feeds the neighbour's record (R7, "watch thy neighbour").

    An offer that failed no longer stands, nor does our quote that rested on it: `upstream`, whose HTLC came back, is
    quoted anew, dearer than before if that is what is left.

    Attributes:
        amount: the price of the offer; 0: unknown, then nothing is taken back.
        upstream: whose HTLC it carried on; None when we are the payer.
    """

    payment_hash: PaymentHash
    downstream: PeerId
    paid: bool
    now: UnixTime
    amount: Msat = Msat(0)
    upstream: PeerId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    """The time that `SetTimer` asked for has come."""

    now: UnixTime


RoutingEvent = (
    NeighbourUp
    | NeighbourDown
    | LiquidityChanged
    | BundleReceived
    | FloodRequested
    | FloodEnded
    | OffersWanted
    | OffersNoLongerWanted
    | Subscribed
    | Unsubscribed
    | SubscriberGone
    | PaymentEnded
    | TimerFired
)

# --- effects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOffers:
    """Quotes for one routing neighbour; the runtime bundles and numbers them."""

    neighbour: PeerId
    offers: tuple[RoutingMessage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOffers:
    """Quotes for one subscriber that is a channel neighbour; priced for it and for nobody else."""

    subscriber: PeerId
    offers: tuple[RoutingMessage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedOffers:
    """What was taken into the table, or asked by ourselves: for those who follow everything (`RoutingConfig.feeds`)."""

    offers: tuple[RoutingMessage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionAccepted:
    subscriber: PeerId
    request: int
    filters_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionRefused:
    """`code` is one of `protocols.wire.subscribe.RefusalCode`."""

    subscriber: PeerId
    request: int
    code: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferArrived:
    """We are the payer and this offer, from `neighbour`, is the newest for a hash we want (cheapest or not)."""

    neighbour: PeerId
    offer: RoutingMessage
    now: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTimer:
    """Send `TimerFired` at this time; a later order replaces the earlier."""

    at: UnixTime


RoutingEffect = (
    SendOffers | PushOffers | FeedOffers | SubscriptionAccepted | SubscriptionRefused | OfferArrived | SetTimer
)

# --- answers to queries ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptOffer:
    """An offer in the table, cheapest first when several are returned (R4).

    Attributes:
        neighbour: who made it: the one to lock an HTLC to.
        amount: what the neighbour wants to be sent.
        lock_blocks: what the neighbour needs the HTLC to live.
        expiry: when the offer ends.
        quote: what we ask of the upstream neighbour that the query named, in the asset it named, to carry this offer
            (R2); equal to `amount` when the query named nobody: we are the payer.
    """

    neighbour: PeerId
    amount: Amount
    lock_blocks: BlockDelta
    expiry: UnixTime
    quote: Amount
