"""What the payment engine is told and what it orders: the money side of the node, all channels included.

One engine owns every channel and payment of the node, so that what belongs together (an incoming and an outgoing HTLC)
is committed together. `handle(event, facts)` takes any event of this module or of `protocols.channel.events`.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from protocols.ids import ChannelId, PaymentHash, PeerId, Preimage
from protocols.routing.events import KeptOffer, Liquidity
from protocols.units import Amount, AssetId, BlockDelta, BlockHeight, Msat, UnixTime
from protocols.wire.channel import FailureCode

if TYPE_CHECKING:
    from protocols.channel.state import Channel


class Kind(Enum):
    """Whose secret: *push* is the payer's, sealed to the payee; *request* is the payee's, and the payer ends with a receipt."""

    PUSH = "push"
    REQUEST = "request"


class PayPhase(Enum):
    COLLECTING = "collecting offers"
    LOCKED = "locked"
    PAID = "paid"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One HTLC that the payer locked."""

    channel_id: ChannelId
    htlc_id: int | None
    neighbour: PeerId
    amount: Msat
    expiry: BlockHeight
    failure: FailureCode | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment that we make; stored.

    Attributes:
        amount: what the payee is to receive.
        ceiling: the most we will pay.
        preimage: ours from the start (push), or the receipt once paid (request).
        reason: why it failed, a sentence for the user.
    """

    payment_hash: PaymentHash
    kind: Kind
    payee: PeerId
    amount: Amount
    ceiling: Amount
    preimage: Preimage | None
    phase: PayPhase
    created: UnixTime
    expiry: UnixTime
    attempts: tuple[Attempt, ...] = ()
    ended: UnixTime | None = None
    reason: str = ""
    memo: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HtlcRef:
    """One HTLC of one of our channels; who offered it follows from where the reference stands."""

    channel_id: ChannelId
    htlc_id: int


class PromisePhase(Enum):
    WAITING = "waiting"
    CLAIMED = "claimed"  # preimage released; coming in or in
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A payment that we will take: we hold the preimage and release it once, for at least `amount`; stored.

    Attributes:
        lock_blocks: what our offers asked the last HTLC to live, our random slack included (R5).
        received: what came, at least `amount` once claimed.
        claimed_by: the one HTLC that the preimage was released for.
    """

    payment_hash: PaymentHash
    preimage: Preimage
    kind: Kind
    amount: Amount
    phase: PromisePhase
    created: UnixTime
    expiry: UnixTime
    lock_blocks: BlockDelta
    received: Msat = Msat(0)
    memo: str = ""
    claimed_by: HtlcRef | None = None

    @property
    def came_to_nothing(self) -> bool:
        """A payer announced it and never paid: strangers can make any number of these, so no disk keeps them."""
        return self.kind is Kind.PUSH and self.phase is PromisePhase.EXPIRED


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """An incoming HTLC that we carry on; stored until both sides are gone.

    Attributes:
        outgoing: the live outgoing HTLC, None between tries.
        tried: neighbours whose offer failed; none is tried twice.
        preimage: stored before the incoming HTLC is settled with it.
    """

    incoming: HtlcRef
    payment_hash: PaymentHash
    incoming_amount: Msat
    incoming_expiry: BlockHeight
    upstream: PeerId
    outgoing: HtlcRef | None = None
    outgoing_amount: Msat = Msat(0)
    downstream: PeerId | None = None
    tried: tuple[PeerId, ...] = ()
    preimage: Preimage | None = None


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PayRequested:
    """Our user wants to pay. `preimage` is given for push only.

    Refused (`RequestRefused`) when the hash is live here or was ever settled (R11); one that failed may be tried again.
    """

    payment_hash: PaymentHash
    kind: Kind
    payee: PeerId
    amount: Amount
    ceiling: Amount
    preimage: Preimage | None
    expiry: UnixTime
    memo: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockRequested:
    """The payer is satisfied (R9): lock the cheapest offer that stands, or end the payment if none does.

    When an HTLC comes back (R10), what stands is tried at once; if nothing does, the payment collects again, as whoever
    failed may quote anew, until this, or `PayAbandoned`, is said once more. After a restart it ends instead.
    """

    payment_hash: PaymentHash


@dataclass(frozen=True, slots=True, kw_only=True)
class PayAbandoned:
    """Give up while nothing is locked. `reason` is the sentence the user sees."""

    payment_hash: PaymentHash
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromiseMade:
    """We will take a payment: a request that our user made, or an initialization that a payer sent.

    For a push initialization the preimage came from the payer. Answered by `PromiseChanged` or `RequestRefused`.
    """

    payment_hash: PaymentHash
    preimage: Preimage
    kind: Kind
    amount: Amount
    expiry: UnixTime
    lock_blocks: BlockDelta
    memo: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffersFound:
    """The answer to `FindOffers`: what the routing table holds, cheapest first."""

    reference: bytes
    offers: tuple[KeptOffer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReserveChanged:
    """Confirmed coins that the wallet holds for fees; None: the chain does not answer, so nothing new is taken on.

    Told at every start before HTLCs can move, and whenever it changes.

    Attributes:
        confirmed_sat: satoshi in them together.
        coins: how many they are: unconfirmed change cannot pay (BIP 431), so each carries one transaction at a time.
    """

    confirmed_sat: int | None
    coins: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemediesHeld:
    """How many states of a channel enough watchers hold (DESIGN 7), those numbered below `states`; told when it changes, and
    at every start. Only where channels wait for it (`EngineConfig.needs_cover`)."""

    channel_id: ChannelId
    states: int


PaymentEvent = (
    PayRequested | LockRequested | PayAbandoned | PromiseMade | OffersFound | ChainReserveChanged | RemediesHeld
)  # and protocols.channel.events.ChannelEvent

# --- effects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePayment:
    payment: Payment


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePromise:
    """Keep it, or drop it once it `came_to_nothing`."""

    promise: Promise


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreForward:
    forward: Forward


@dataclass(frozen=True, slots=True, kw_only=True)
class DropForward:
    """Both of its HTLCs are gone for good; a line of history remains with what it earned.

    Attributes:
        earned: what came in less what went out; 0 when it failed, and where the two are of different assets (the gain is
            then in the rate).
    """

    incoming: HtlcRef
    earned: Msat


@dataclass(frozen=True, slots=True, kw_only=True)
class FindOffers:
    """A question to the routing table, answered by `OffersFound` within the same batch.

    Attributes:
        upstream: who locked the incoming HTLC; None when we are the payer.
        asset: in what it was locked; for the payer, what the ceiling is of.
    """

    reference: bytes
    payment_hash: PaymentHash
    upstream: PeerId | None
    asset: AssetId


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourLiquidity:
    """For the routing engine: what the channels with this neighbour can carry now."""

    neighbour: PeerId
    liquidity: tuple[Liquidity, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferUsed:
    """For the routing engine: an HTLC that used an offer of `downstream` ended.

    Attributes:
        amount: what was locked: the price of the offer.
        upstream: whose HTLC it carried on; None when we are the payer.
    """

    payment_hash: PaymentHash
    downstream: PeerId
    paid: bool
    amount: Msat = Msat(0)
    upstream: PeerId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentChanged:
    """For people and programs that follow a payment that we make."""

    payment: Payment


@dataclass(frozen=True, slots=True, kw_only=True)
class PromiseChanged:
    """For people and programs that follow a payment that we take."""

    promise: Promise


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused:
    """An order of our own user was lawfully refused; `reason` is a sentence that says what to do."""

    payment_hash: PaymentHash
    reason: str


PaymentEffect = (
    StorePayment
    | StorePromise
    | StoreForward
    | DropForward
    | FindOffers
    | NeighbourLiquidity
    | OfferUsed
    | PaymentChanged
    | PromiseChanged
    | RequestRefused
)  # and the channel effects that are for disk or world


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPolicy:
    """R5's delta and bounds for HTLCs that pass through or end here.

    Attributes:
        lock_delta: blocks between the incoming and the outgoing expiry.
        final_lock: blocks that a payee needs its HTLC to live.
        max_lock: no HTLC chain may need more.
        max_tries: neighbours tried for one incoming HTLC, one after the other.
        max_live_forwards: HTLCs carried at once; each holds a row on disk and two HTLC slots.
        offer_grace: seconds by which an offer, or a promise, may have expired when its HTLC arrives.
    """

    lock_delta: BlockDelta = BlockDelta(40)
    final_lock: BlockDelta = BlockDelta(24)
    max_lock: BlockDelta = BlockDelta(2016)
    max_tries: int = 5
    max_live_forwards: int = 10_000
    offer_grace: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything the engine starts from, as it was on disk.

    Attributes:
        payments, promises: all that live, and as many of the ended ones as readers are to see.
        settled_hashes: every hash that we ever paid or claimed, whether its payment or promise is given or not (R11).
    """

    channels: tuple["Channel", ...] = ()
    payments: tuple[Payment, ...] = ()
    promises: tuple[Promise, ...] = ()
    forwards: tuple[Forward, ...] = ()
    settled_hashes: frozenset[PaymentHash] = field(default_factory=frozenset)
