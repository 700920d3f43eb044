"""`/rr/routing/1`: numbered bundles of routing messages between channel neighbours (DESIGN 4, THEORY "The protocol").

Both sides send `Resume` first. Each then sends bundles with rising numbers and acknowledges what it took. After a
reconnect a sender repeats the bundles above the number that the other names, when it still has them under that epoch.
"""

from typing import Annotated

from msgspec import Meta

from protocols.wire.codec import U8, U16, U32, U63, AmountMsat, Bytes16, Bytes32, Codec, Message, Text

PROTOCOL = "/rr/routing/1"
MAX_BUNDLE = 480  # routing messages of at most 131 bytes: they fit one frame whatever their amounts


class RoutingMessage(Message, frozen=True):
    """ "Send me this much under this hash, and I will bring the payment on" (an *offer* to its receiver).

    Attributes:
        payment_hash: 32 bytes, SHA-256 of the preimage.
        asset: what `amount_msat` is an amount of.
        amount_msat: what the sender wants to be sent.
        lock_blocks: how many blocks the sender needs the incoming HTLC to live beyond the payer's start (R5).
        hops_left: how many further hops this message may travel.
        ceiling_msat: the most the payer will pay; binding only for nodes that quote in `ceiling_asset` (R8).
        ceiling_asset: the ceiling's asset.
        expiry: unix seconds; clocks may differ by 30 s.
    """

    payment_hash: Bytes32
    asset: Bytes32
    amount_msat: AmountMsat
    lock_blocks: U16
    hops_left: U8
    ceiling_msat: AmountMsat
    ceiling_asset: Bytes32
    expiry: U32


class Resume(Message, frozen=True, tag=0):
    """First message each way.

    Attributes:
        epoch: drawn by the sender when its process started; its bundle numbers count within it.
        seen_epoch: the receiver's epoch as this node last saw it, 16 zero bytes if never.
        seen_number: the last bundle taken under `seen_epoch`.
        routes: whether this node forwards; one that does not is sent only what it subscribed to (R13).
    """

    epoch: Bytes16
    seen_epoch: Bytes16
    seen_number: U63
    routes: bool


class Bundle(Message, frozen=True, tag=1):
    number: U63
    offers: Annotated[tuple[RoutingMessage, ...], Meta(min_length=1, max_length=MAX_BUNDLE)]


class Acknowledge(Message, frozen=True, tag=2):
    """Everything up to and including this number has been taken; the sender may forget it."""

    number: U63


class Stop(Message, frozen=True, tag=3):
    """The last message: no more bundles will come or be read."""

    reason: Text


RoutingStreamMessage = Resume | Bundle | Acknowledge | Stop
CODEC: Codec[RoutingStreamMessage] = Codec(RoutingStreamMessage, PROTOCOL)
