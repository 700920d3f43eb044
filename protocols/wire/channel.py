"""`/rr/channel/1`: the life of a payment channel (BOLT 2), all channels of two neighbours on one stream.

Names, meaning and order of the fields are BOLT 2's; the commitment format is `zero_fee_commitments` (BOLT 3, pull
request 1228), so there is no `update_fee` and no feerate. There is no onion: failures are one of `FailureCode`.
"""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta

from protocols.units import MAX_SAT
from protocols.wire.codec import U8, U16, U32, U63, AmountMsat, Bytes32, Bytes33, Bytes64, Codec, Message, Text

PROTOCOL = "/rr/channel/1"
MAX_HTLCS = 114  # each way; a version 3 transaction is limited to 10 kvB (DESIGN 6)

AmountSat = Annotated[int, Meta(ge=0, le=MAX_SAT)]
Script = Annotated[bytes, Meta(min_length=22, max_length=42)]
TransactionBytes = Annotated[bytes, Meta(min_length=60, max_length=40_000)]


class FailureCode(IntEnum):
    """Why an HTLC was failed; written anew at each hop (DESIGN 4)."""

    UNKNOWN_HASH = 1  # no offer of ours stands for it
    AMOUNT_TOO_LOW = 2
    EXPIRY_TOO_SOON = 3
    EXPIRY_TOO_FAR = 4
    DUPLICATE_HASH = 5  # an HTLC with this hash is live here already (R11)
    DOWNSTREAM_FAILED = 6  # every offer we held was tried
    OFFER_EXPIRED = 7
    NODE_BUSY = 8
    CHANNEL_CLOSING = 9
    TIMED_OUT = 10
    ALREADY_PAID = 11
    INTERNAL = 12


class OpenChannel(Message, frozen=True, tag=0):
    chain: Bytes32
    temporary_channel_id: Bytes32
    funding_sat: AmountSat
    push_msat: AmountMsat
    dust_limit_sat: AmountSat
    max_htlc_value_in_flight_msat: AmountMsat
    channel_reserve_sat: AmountSat
    htlc_minimum_msat: AmountMsat
    to_self_delay: U16
    max_accepted_htlcs: U16
    funding_pubkey: Bytes33
    revocation_basepoint: Bytes33
    payment_basepoint: Bytes33
    delayed_payment_basepoint: Bytes33
    htlc_basepoint: Bytes33
    first_per_commitment_point: Bytes33
    shutdown_script: Script


class AcceptChannel(Message, frozen=True, tag=1):
    temporary_channel_id: Bytes32
    dust_limit_sat: AmountSat
    max_htlc_value_in_flight_msat: AmountMsat
    channel_reserve_sat: AmountSat
    htlc_minimum_msat: AmountMsat
    minimum_depth: U16
    to_self_delay: U16
    max_accepted_htlcs: U16
    funding_pubkey: Bytes33
    revocation_basepoint: Bytes33
    payment_basepoint: Bytes33
    delayed_payment_basepoint: Bytes33
    htlc_basepoint: Bytes33
    first_per_commitment_point: Bytes33
    shutdown_script: Script


class FundingCreated(Message, frozen=True, tag=2):
    temporary_channel_id: Bytes32
    funding_txid: Bytes32
    funding_output_index: U16
    signature: Bytes64


class FundingSigned(Message, frozen=True, tag=3):
    channel_id: Bytes32
    signature: Bytes64


class ChannelReady(Message, frozen=True, tag=4):
    channel_id: Bytes32
    second_per_commitment_point: Bytes33


class UpdateAddHtlc(Message, frozen=True, tag=5):
    channel_id: Bytes32
    id: U63
    amount_msat: AmountMsat
    payment_hash: Bytes32
    cltv_expiry: U32


class UpdateFulfillHtlc(Message, frozen=True, tag=6):
    channel_id: Bytes32
    id: U63
    preimage: Bytes32


class UpdateFailHtlc(Message, frozen=True, tag=7):
    """`code` is one of `FailureCode`; an unknown code is read as INTERNAL."""

    channel_id: Bytes32
    id: U63
    code: U8


class CommitmentSigned(Message, frozen=True, tag=8):
    """`htlc_signatures` in the order of the commitment's outputs (BOLT 3)."""

    channel_id: Bytes32
    signature: Bytes64
    htlc_signatures: Annotated[tuple[Bytes64, ...], Meta(max_length=2 * MAX_HTLCS)]


class RevokeAndAck(Message, frozen=True, tag=9):
    channel_id: Bytes32
    per_commitment_secret: Bytes32
    next_per_commitment_point: Bytes33


class ChannelReestablish(Message, frozen=True, tag=10):
    """First message on each channel after a reconnect. Beyond BOLT 2: `next_commitment_number` 0 is a funder that sent
    funding_created and has no funding_signed; the fundee repeats it, or answers with an Error when it knows no such channel.
    """

    channel_id: Bytes32
    next_commitment_number: U63
    next_revocation_number: U63
    your_last_per_commitment_secret: Bytes32
    my_current_per_commitment_point: Bytes33


class Shutdown(Message, frozen=True, tag=11):
    channel_id: Bytes32
    script: Script


class ClosingComplete(Message, frozen=True, tag=12):
    """Simple close: the sender's proposal, whose fee the sender pays from its own output (BOLT 2, `closing_complete`).

    Exactly the signatures that BOLT 2 asks for are given; a missing one is an empty byte string.
    """

    channel_id: Bytes32
    closer_script: Script
    closee_script: Script
    fee_sat: AmountSat
    locktime: U32
    closer_output_only: Annotated[bytes, Meta(max_length=64)]
    closee_output_only: Annotated[bytes, Meta(max_length=64)]
    closer_and_closee_outputs: Annotated[bytes, Meta(max_length=64)]


class ClosingSig(Message, frozen=True, tag=13):
    """The answer to `ClosingComplete`: the same fields, with exactly one signature, the closee's."""

    channel_id: Bytes32
    closer_script: Script
    closee_script: Script
    fee_sat: AmountSat
    locktime: U32
    closer_output_only: Annotated[bytes, Meta(max_length=64)]
    closee_output_only: Annotated[bytes, Meta(max_length=64)]
    closer_and_closee_outputs: Annotated[bytes, Meta(max_length=64)]


class Error(Message, frozen=True, tag=14):
    """This channel has failed (BOLT 1 `error`). `channel_id` of 32 zero bytes: the peer, not one channel."""

    channel_id: Bytes32
    text: Text


class Warn(Message, frozen=True, tag=15):
    """Something is off; nothing is closed for it (BOLT 1 `warning`)."""

    channel_id: Bytes32
    text: Text


ChannelMessage = (
    OpenChannel
    | AcceptChannel
    | FundingCreated
    | FundingSigned
    | ChannelReady
    | UpdateAddHtlc
    | UpdateFulfillHtlc
    | UpdateFailHtlc
    | CommitmentSigned
    | RevokeAndAck
    | ChannelReestablish
    | Shutdown
    | ClosingComplete
    | ClosingSig
    | Error
    | Warn
)
CODEC: Codec[ChannelMessage] = Codec(ChannelMessage, PROTOCOL)
