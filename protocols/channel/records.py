"""What is kept of each revoked commitment of the peer, in a few dozen bytes, for ever (DESIGN 6, StoreRevoked).

Layout: format byte 1; number of outputs kept; per output its kind byte, and as unsigned LEB128 its index and its value
in satoshi; an HTLC adds its payment hash (32 bytes) and its expiry (LEB128). The anchor is not kept: it is worth nothing
to a remedy. Everything else that a claim needs follows from the number, the channel's keys and the revealed secret.
"""

from dataclasses import dataclass
from enum import IntEnum

from protocols.errors import DecodeError
from protocols.ids import PaymentHash
from protocols.onchain.commitment import BuiltCommitment, OutputKind
from protocols.units import BlockHeight, Sat

_FORMAT = 1


class Kept(IntEnum):
    """What an output of the peer's revoked commitment is, from our side."""

    TO_THEM = 0  # delayed; ours by the revocation key
    TO_US = 1
    OFFERED_BY_THEM = 2
    OFFERED_BY_US = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedOutput:
    """One output; hash and expiry are of HTLCs only."""

    kind: Kept
    index: int
    value: Sat
    payment_hash: PaymentHash | None = None
    expiry: BlockHeight = BlockHeight(0)


def encode(built: BuiltCommitment) -> bytes:
    """The record of a commitment whose broadcaster is the peer."""
    parts = []
    for index, each in enumerate(built.outputs):
        if each.htlc is not None:
            kind = Kept.OFFERED_BY_THEM if each.htlc.offered else Kept.OFFERED_BY_US
            parts.append(
                bytes([kind])
                + _varint(index)
                + _varint(each.value)
                + each.htlc.payment_hash
                + _varint(each.htlc.expiry)
            )
        elif each.kind is not OutputKind.ANCHOR:
            kind = Kept.TO_THEM if each.kind is OutputKind.TO_BROADCASTER else Kept.TO_US
            parts.append(bytes([kind]) + _varint(index) + _varint(each.value))
    return b"".join((bytes([_FORMAT]), _varint(len(parts)), *parts))


def decode(record: bytes) -> tuple[RevokedOutput, ...]:
    """The outputs of a record, in the commitment's order.

    Raises:
        DecodeError: not a record of a format known here.
    """
    try:
        return _decode(record)
    except (IndexError, ValueError) as error:
        raise DecodeError(f"record of a revoked commitment: {error}") from None


def _decode(record: bytes) -> tuple[RevokedOutput, ...]:
    if record[0] != _FORMAT:
        raise ValueError(f"format {record[0]}, {_FORMAT} wanted")
    count, place = _read(record, 1)
    outputs = []
    for _ in range(count):
        kind = Kept(record[place])
        index, place = _read(record, place + 1)
        value, place = _read(record, place)
        if kind in (Kept.TO_THEM, Kept.TO_US):
            outputs.append(RevokedOutput(kind=kind, index=index, value=Sat(value)))
            continue
        payment_hash = record[place : place + 32]
        expiry, place = _read(record, place + 32)
        outputs.append(
            RevokedOutput(
                kind=kind,
                index=index,
                value=Sat(value),
                payment_hash=PaymentHash(payment_hash),
                expiry=BlockHeight(expiry),
            )
        )
    if place != len(record):
        raise ValueError(f"{len(record) - place} bytes too many")
    return tuple(outputs)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read(record: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while record[place] & 0x80:
        value |= (record[place] & 0x7F) << shift
        shift += 7
        place += 1
    return value | record[place] << shift, place + 1
