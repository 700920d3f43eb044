"""Scripts of a channel's transactions, commitment type `zero_fee_commitments`.

Source: BOLT 3 and its pull request 1228 (HTLC scripts without `1 OP_CSV`, one keyless pay-to-anchor output), BIP 141.
"""

import hashlib
from functools import lru_cache

from bitcoin.core.contrib.ripemd160 import ripemd160 as _slow_ripemd160

from protocols.errors import MisuseError
from protocols.units import BlockDelta, BlockHeight, Sat

ANCHOR_SCRIPT = bytes.fromhex("51024e73")  # OP_1 <0x4e73>: anybody can spend it with an empty witness
_HAS_RIPEMD = "ripemd160" in hashlib.algorithms_available


def sha256d(raw: bytes) -> bytes:
    """SHA-256 of SHA-256."""
    return hashlib.sha256(hashlib.sha256(raw).digest()).digest()


def _ripemd160(raw: bytes) -> bytes:
    if _HAS_RIPEMD:
        return hashlib.new("ripemd160", raw).digest()
    return bytes(_slow_ripemd160(raw))  # OpenSSL 3.0 before 3.0.7 ships it only in its "legacy" provider


@lru_cache(maxsize=4096)  # a payment's hash enters four commitments or more
def ripemd160(raw: bytes) -> bytes:
    """RIPEMD-160, 20 bytes."""
    return _ripemd160(raw)


def hash160(raw: bytes) -> bytes:
    """RIPEMD-160 of SHA-256, 20 bytes."""
    return _ripemd160(hashlib.sha256(raw).digest())


def number(value: int) -> bytes:
    """A script that pushes a non-negative number in its one minimal form (BIP 62)."""
    if value < 0:
        raise MisuseError(f"script number {value}, at least 0 wanted")
    if value == 0:
        return b"\x00"
    if value <= 16:
        return bytes([0x50 + value])
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little")  # one bit more than the value: the sign stays 0
    return bytes([len(raw)]) + raw


def p2wsh(witness_script: bytes) -> bytes:
    """Output script that pays to a witness script."""
    return b"\x00\x20" + hashlib.sha256(witness_script).digest()


def p2wpkh(public_key: bytes) -> bytes:
    """Output script that pays to a compressed public key."""
    return b"\x00\x14" + hash160(public_key)


def p2wpkh_code(script: bytes) -> bytes:
    """The script code that a signature for a P2WPKH output covers (BIP 143)."""
    return b"\x76\xa9\x14" + script[2:] + b"\x88\xac"


@lru_cache(maxsize=1024)
def funding_script(first: bytes, second: bytes) -> bytes:
    """Witness script of the funding output: 2 of 2, the keys in ascending order."""
    low, high = sorted((first, second))
    return b"\x52\x21" + low + b"\x21" + high + b"\x52\xae"


def to_local_script(revocation_pubkey: bytes, to_self_delay: BlockDelta, delayed_pubkey: bytes) -> bytes:
    """Witness script of `to_local`, and of the output of every HTLC transaction."""
    return (
        b"\x63\x21" + revocation_pubkey  # OP_IF: the penalty
        + b"\x67" + number(to_self_delay) + b"\xb2\x75\x21" + delayed_pubkey  # OP_ELSE <delay> CSV DROP
        + b"\x68\xac"
    )  # fmt: skip


def offered_htlc_script(
    revocation_hash: bytes, their_htlc_key: bytes, own_htlc_key: bytes, payment_hash: bytes
) -> bytes:
    """Witness script of an HTLC that the commitment's owner offered.

    Args:
        revocation_hash: HASH160 of the revocation public key.
        their_htlc_key: the countersignatory's, who claims with the preimage.
        own_htlc_key: the owner's, who takes it back by the HTLC-timeout transaction.
    """
    return htlc_script(revocation_hash, their_htlc_key, own_htlc_key, ripemd160(payment_hash), None)


def received_htlc_script(
    revocation_hash: bytes, their_htlc_key: bytes, own_htlc_key: bytes, payment_hash: bytes, expiry: BlockHeight
) -> bytes:
    """Witness script of an HTLC that the commitment's owner received: the owner claims by the HTLC-success transaction,
    the countersignatory takes it back after `expiry`. Arguments as for `offered_htlc_script`."""
    return htlc_script(revocation_hash, their_htlc_key, own_htlc_key, ripemd160(payment_hash), expiry)


def htlc_script(
    revocation_hash: bytes, their_htlc_key: bytes, own_htlc_key: bytes, lock: bytes, expiry: BlockHeight | None
) -> bytes:
    """Either of the two, from the 20 bytes that stand in it for the payment hash.

    Args:
        lock: RIPEMD-160 of the payment hash.
        expiry: of an HTLC that the owner received; None: the owner offered it.
    """
    head = b"\x76\xa9\x14" + revocation_hash + b"\x87\x63\xac\x67\x21" + their_htlc_key + b"\x7c\x82\x01\x20\x87"
    if expiry is None:
        return (
            head + b"\x64\x75\x52\x7c\x21" + own_htlc_key + b"\x52\xae"
            b"\x67\xa9\x14" + lock + b"\x88\xac\x68\x68"
        )  # fmt: skip
    return (
        head + b"\x63\xa9\x14" + lock + b"\x88\x52\x7c\x21" + own_htlc_key + b"\x52\xae"
        b"\x67\x75" + number(expiry) + b"\xb1\x75\xac\x68\x68"
    )  # fmt: skip


def dust_threshold(script: bytes) -> Sat:
    """Value below which an output of this script is not relayed (BOLT 3, "Dust Limits")."""
    match len(script), script[:1]:
        case 22, b"\x00":
            return Sat(294)
        case 34, b"\x00":
            return Sat(330)
        case _:
            return Sat(354)


def is_shutdown_script(script: bytes) -> bool:
    """Whether a peer may ask to be paid here: P2WPKH, P2WSH, or a later witness version (BOLT 2, `shutdown`).

    Of the later ones only programs of 20 to 40 bytes: the wire carries scripts of 22 to 42 bytes, and OP_RETURN pays nobody.
    """
    if len(script) < 4 or script[1] != len(script) - 2:
        return False
    if script[0] == 0x00:
        return len(script) in (22, 34)
    return 0x51 <= script[0] <= 0x60 and 22 <= len(script) <= 42
