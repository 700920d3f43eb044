"""Identifiers, checked where they enter. Bytes inside; text forms exist only at the edges (CONVENTIONS)."""

from typing import NewType

from protocols.errors import DecodeError

PeerId = NewType("PeerId", bytes)  # 33 bytes: the node's compressed secp256k1 key, which is its libp2p identity
PaymentHash = NewType("PaymentHash", bytes)  # 32 bytes: SHA-256 of the preimage
Preimage = NewType("Preimage", bytes)  # 32 bytes
ChannelId = NewType("ChannelId", bytes)  # 32 bytes: funding txid xor output index (BOLT 2); random before funding
Txid = NewType("Txid", bytes)  # 32 bytes in the order of serialization (not the reversed order of displays)


def _sized(raw: bytes, size: int, what: str) -> bytes:
    if not isinstance(raw, bytes) or len(raw) != size:
        raise DecodeError(f"{what} of {len(raw)} bytes, {size} wanted")
    return raw


def peer_id(raw: bytes) -> PeerId:
    """Check a compressed public key's form (not that it lies on the curve, which its first use does).

    Raises:
        DecodeError: not 33 bytes, or not beginning with 02 or 03.
    """
    _sized(raw, 33, "peer id")
    if raw[0] not in (2, 3):
        raise DecodeError(f"peer id begins with {raw[0]:02x}, a compressed key (02 or 03) wanted")
    return PeerId(raw)


def payment_hash(raw: bytes) -> PaymentHash:
    """Check a payment hash (32 bytes). Raises DecodeError."""
    return PaymentHash(_sized(raw, 32, "payment hash"))


def preimage(raw: bytes) -> Preimage:
    """Check a preimage (32 bytes). Raises DecodeError."""
    return Preimage(_sized(raw, 32, "preimage"))


def channel_id(raw: bytes) -> ChannelId:
    """Check a channel id (32 bytes). Raises DecodeError."""
    return ChannelId(_sized(raw, 32, "channel id"))


def channel_id_of(funding_txid: Txid, funding_index: int) -> ChannelId:
    """The permanent id of a channel: its funding txid with the output index xored into the last two bytes (BOLT 2)."""
    tail = int.from_bytes(funding_txid[30:], "big") ^ funding_index
    return ChannelId(funding_txid[:30] + tail.to_bytes(2, "big"))
