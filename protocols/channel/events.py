"""What a channel is told and what it orders. The engine behind it follows BOLT 2; amounts here are of the channel's asset.

A channel is frozen state: `protocols.channel.engine.handle(channel, event, env)` gives the channel after, and effects
in the order of doing. Effects named `Store...` are committed before any other effect of the same batch is performed.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from protocols.ids import ChannelId, PaymentHash, PeerId, Preimage, Txid
from protocols.units import BlockDelta, BlockHeight, Msat, Sat
from protocols.wire.channel import ChannelMessage, FailureCode

if TYPE_CHECKING:
    from protocols.channel.state import Channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Outpoint:
    """One output of a transaction (txid in serialization order)."""

    txid: Txid
    index: int


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequested:
    """Our user wants a channel; we fund it.

    Attributes:
        temporary_id: 32 random bytes.
        key_index: which of our channel keys it uses; never used before.
        capacity: value of the funding output, satoshi.
        push: given to the peer at once, millisatoshi.
    """

    temporary_id: ChannelId
    peer: PeerId
    key_index: int
    capacity: Sat
    push: Msat


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReceived:
    """A message of `/rr/channel/1`. `key_index` is given with `OpenChannel` only: fresh keys, should we accept."""

    peer: PeerId
    message: ChannelMessage
    key_index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FundingBuilt:
    """The wallet built and signed the funding transaction; its inputs are set aside and nothing was published."""

    channel_id: ChannelId
    transaction: bytes
    output_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FundingFailed:
    """The wallet cannot fund it. `reason` is a sentence for the user."""

    channel_id: ChannelId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkUp:
    """The channel stream to the peer stands (anew): reestablish."""

    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkDown:
    """The channel stream is gone: what was not committed by both is forgotten (BOLT 2, "Message Retransmission")."""

    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferHtlc:
    """Add an HTLC that we offer. Answered at once by `HtlcOffered` or `HtlcRefused`, which repeat `reference`.

    One that no signature covers when the link is lost has failed (`HtlcFailed`); its id may then be used again.
    """

    channel_id: ChannelId
    reference: bytes
    amount: Msat
    payment_hash: PaymentHash
    expiry: BlockHeight


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleHtlc:
    """Claim an HTLC that they offered; off chain while the channel lives, on chain when it does not. Idempotent."""

    channel_id: ChannelId
    htlc_id: int
    preimage: Preimage


@dataclass(frozen=True, slots=True, kw_only=True)
class FailHtlc:
    """Give up an HTLC that they offered. Idempotent; on a channel that is being closed by force it does nothing."""

    channel_id: ChannelId
    htlc_id: int
    code: FailureCode


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRequested:
    """Close together, or by force (publish our commitment now)."""

    channel_id: ChannelId
    force: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Flush:
    """The runtime has no further event at hand: sign what gathered, where no revocation is outstanding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TipChanged:
    """The best block is another one now; its height is `Facts.tip`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TxConfirmed:
    """A watched transaction is in the best chain at `height`. May be told again, with another height, after a reorganisation.

    `transaction` is the whole of it: a channel that the peer funded is used only after its output was looked at.
    """

    txid: Txid
    height: BlockHeight
    transaction: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class TxUnconfirmed:
    """A transaction that was told as confirmed no longer is (reorganisation)."""

    txid: Txid


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpent:
    """A watched output was spent. `height` is None while the spender is only in the mempool.

    `record`: where the spender is a commitment of the peer's, what is kept of that state (`StoreRevoked`): it names the
    HTLCs that have left the channel since. Empty: not at hand; what is still in the channel is claimed all the same.
    """

    outpoint: Outpoint
    transaction: bytes
    height: BlockHeight | None
    record: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendGone:
    """The spend told last for this output is in neither the best chain nor the mempool any more."""

    outpoint: Outpoint


ChannelEvent = (
    OpenRequested
    | MessageReceived
    | FundingBuilt
    | FundingFailed
    | LinkUp
    | LinkDown
    | OfferHtlc
    | SettleHtlc
    | FailHtlc
    | CloseRequested
    | Flush
    | TipChanged
    | TxConfirmed
    | TxUnconfirmed
    | OutputSpent
    | SpendGone
)

# --- effects: to disk -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreChannel:
    """The channel's state after the event. Also given under its new id, with `replaces`, when the temporary id ends."""

    channel: "Channel"
    replaces: ChannelId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRevoked:
    """What a remedy for a state that the peer revoked will need (DESIGN 6); one row per (channel, number), for ever."""

    channel_id: ChannelId
    number: int
    txid: Txid
    record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetChannel:
    """Nothing was ever at stake in this channel: drop it."""

    channel_id: ChannelId


# --- effects: to the world ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SendMessage:
    peer: PeerId
    message: ChannelMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildFunding:
    """The wallet shall build the funding transaction and answer with `FundingBuilt` or `FundingFailed`."""

    channel_id: ChannelId
    script: bytes
    amount: Sat


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFunding:
    """The inputs set aside for this channel's funding are free again: it will never be published."""

    channel_id: ChannelId


class Purpose(Enum):
    """What a published transaction is for; shown to people and kept in logs."""

    FUNDING = "funding"
    MUTUAL_CLOSE = "mutual close"
    COMMITMENT = "commitment"
    HTLC_SUCCESS = "HTLC success"
    HTLC_TIMEOUT = "HTLC timeout"
    SWEEP = "sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Publish a whole, fee-paying transaction. Ordered again at each new block until it, or a rival, is buried."""

    channel_id: ChannelId
    transaction: bytes
    purpose: Purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishWithChild:
    """Publish a zero-fee commitment together with a child that spends its anchor and pays for both.

    The wallet adds confirmed coins. Ordered again at each new block until buried; the broadcaster raises the fee as
    `deadline` comes near, whatever an estimate says (DESIGN 6).
    """

    channel_id: ChannelId
    transaction: bytes
    anchor_index: int
    deadline: BlockHeight


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishWithInputs:
    """Publish a zero-fee, SINGLE|ANYONECANPAY-signed HTLC transaction after adding confirmed coins for its fee.

    `transaction` has one input and one output, with its whole witness; input i and output i must stay together.
    """

    channel_id: ChannelId
    transaction: bytes
    purpose: Purpose
    spent_value: Sat
    deadline: BlockHeight


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchTx:
    """Tell of this transaction's confirmation. `script` is one of its output scripts, for backends that look by script."""

    txid: Txid
    script: bytes
    from_height: BlockHeight


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOutpoint:
    """Tell of the spend of this output."""

    outpoint: Outpoint
    script: bytes
    from_height: BlockHeight


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Something that a person must know (a breach, a deadline missed, a peer that broke a rule)."""

    channel_id: ChannelId
    text: str


# --- effects: upward, to payments -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class HtlcOffered:
    """`OfferHtlc` was taken into the state; it is binding once this batch is committed."""

    channel_id: ChannelId
    reference: bytes
    htlc_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HtlcRefused:
    """`OfferHtlc` was not taken; nothing has changed."""

    channel_id: ChannelId
    reference: bytes
    reason: "Refusal"


@dataclass(frozen=True, slots=True, kw_only=True)
class HtlcReceived:
    """An HTLC of theirs is irrevocably committed on both sides: forward it, settle it or fail it.

    Told again after a restart (`engine.resume`) while it is neither settled nor failed by us.
    """

    channel_id: ChannelId
    htlc_id: int
    amount: Msat
    payment_hash: PaymentHash
    expiry: BlockHeight


@dataclass(frozen=True, slots=True, kw_only=True)
class HtlcFulfilled:
    """They showed the preimage of an HTLC of ours, off chain or on chain (then even before it is buried)."""

    channel_id: ChannelId
    htlc_id: int
    payment_hash: PaymentHash
    preimage: Preimage


@dataclass(frozen=True, slots=True, kw_only=True)
class HtlcFailed:
    """An HTLC of ours can no longer be claimed by them: irrevocably removed on both sides, or its resolution on the
    chain is buried (R10). Never told earlier."""

    channel_id: ChannelId
    htlc_id: int
    payment_hash: PaymentHash
    code: FailureCode


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelChanged:
    """Something that a person or the routing engine wants to know has changed: phase, balances, reachability."""

    channel_id: ChannelId


class Refusal(Enum):
    """Why an operation was lawfully refused. The value is a sentence for people."""

    UNKNOWN_CHANNEL = "there is no such channel"
    NOT_OPEN = "the channel is not open for payments"
    PEER_AWAY = "the neighbour is not connected"
    BELOW_RESERVE = "it would take our balance below the channel reserve"
    THEIR_RESERVE = "it would take their balance below the channel reserve"
    TOO_MANY_HTLCS = "the channel has no room for another HTLC"
    TOO_MUCH_IN_FLIGHT = "more would be in flight than the neighbour allows"
    TOO_SMALL = "the amount is below the neighbour's HTLC minimum"
    EXPIRES_TOO_SOON = "the HTLC would expire too soon"
    EXPIRES_TOO_FAR = "the HTLC would expire too far in the future"
    DUPLICATE_HASH = "an HTLC with this hash is live on this channel already"
    DUST_EXPOSURE = "too much would be held in amounts too small for the chain"
    NOT_COVERED_YET = "the watchers do not hold the channel's newest revoked state yet"
    UNCOVERED = "fewer watchers than watch.quorum asks for hold the channel's newest revoked state; see: rrnode cover"
    NO_CHAIN_RESERVE = "there are not enough confirmed coins to resolve it on the chain, should that be needed"


ChannelEffect = (
    StoreChannel
    | StoreRevoked
    | ForgetChannel
    | SendMessage
    | BuildFunding
    | ReleaseFunding
    | Publish
    | PublishWithChild
    | PublishWithInputs
    | WatchTx
    | WatchOutpoint
    | Alarm
    | HtlcOffered
    | HtlcRefused
    | HtlcReceived
    | HtlcFulfilled
    | HtlcFailed
    | ChannelChanged
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConfig:
    """What this node asks of a channel and grants to it; the defaults are for real chains, demos shorten delays.

    Attributes:
        to_self_delay: how long the *peer* must wait for its own coins after it closes by force.
        dust_limit: outputs below exist on no commitment of ours (BOLT 3).
        reserve_ppm: share of the capacity that the peer must keep at stake, parts per million (DESIGN 7: 2 %).
        max_in_flight_ppm: share of the capacity that may be in HTLCs towards us.
        funding_depth: confirmations before a channel is used.
        buried_depth: confirmations after which a resolution is final.
        settle_margin: blocks before an incoming HTLC's expiry at which we go to the chain with its preimage.
        timeout_grace: blocks after an outgoing HTLC's expiry at which we go to the chain to take it back.
        max_expiry: no HTLC may expire further away than this.
        max_dust_exposure: sum of trimmed HTLCs that we tolerate on a commitment.
    """

    to_self_delay: BlockDelta = BlockDelta(144)
    dust_limit: Sat = Sat(354)
    htlc_minimum: Msat = Msat(1)
    reserve_ppm: int = 20_000
    max_in_flight_ppm: int = 900_000
    max_accepted_htlcs: int = 114
    minimum_capacity: Sat = Sat(20_000)
    maximum_capacity: Sat = Sat(1_000_000_000)
    maximum_to_self_delay: BlockDelta = BlockDelta(2016)
    funding_depth: int = 3
    funding_patience: BlockDelta = BlockDelta(2016)
    buried_depth: int = 7  # more than the deepest reorganisation that is prepared for, 6 blocks
    settle_margin: BlockDelta = BlockDelta(18)
    timeout_grace: BlockDelta = BlockDelta(2)
    max_expiry: BlockDelta = BlockDelta(2016 + 144)
    max_dust_exposure: Msat = Msat(5_000_000_000 // 1000)
