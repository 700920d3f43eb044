"""A remedy as bytes: what a possible victim has signed for one revoked commitment, packed, sealed, and read again.

Source: DESIGN 7. What a watcher cannot work out stands in the remedy; scripts and amounts follow from it and from the published
commitment. Big-endian; keys as their x coordinate where a bit for y is at hand:

    flags 1 · victim's P2WPKH program 20 · revocation key 32
    to_local, if flagged:  delayed key 32 · delay 2 · index 1 · bounty 4 · signature 64
    HTLCs, if flagged:     cheat's HTLC key 33 · victim's HTLC key 33 · count 1, then each:
                           index 1 · bounty 4 · expiry 4 (0: the cheat offered it) · RIPEMD-160 of the hash 20 · signature 64
    zeros to one of five sizes

Flags: the version (1) in the upper half; 8 to_local follows; 4 HTLCs follow; 2 the revocation key's y is odd; 1 the delayed
key's. Sealed: nonce 12 · ChaCha20-Poly1305 of that · tag 16; the key is HKDF-SHA256 of the commitment's txid.
"""

import hashlib
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocols.errors import DecodeError, MisuseError
from protocols.ids import Txid
from protocols.units import BlockDelta, BlockHeight, Sat

FORMAT = 1
MAX_HTLCS = 228  # 114 each way (BOLT 2)
NONCE_SIZE, TAG_SIZE = 12, 16
_HEAD, _BALANCE, _HTLCS, _HTLC = (struct.Struct(each) for each in (">B20s32s", ">32sHBI64s", ">33s33sB", ">BII20s64s"))
_TO_LOCAL, _WITH_HTLCS, _ODD_REVOCATION, _ODD_DELAYED = 8, 4, 2, 1
_STEPS = (2, 8, 32, MAX_HTLCS)  # HTLCs that fit each size but the first, which is for a balance alone


def _with_htlcs(count: int) -> int:
    return _HEAD.size + _BALANCE.size + _HTLCS.size + count * _HTLC.size


PLAIN_SIZES = (_HEAD.size + _BALANCE.size, *(_with_htlcs(count) for count in _STEPS))
SEALED_SIZES = tuple(NONCE_SIZE + size + TAG_SIZE for size in PLAIN_SIZES)
HINT_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancePair:
    """What is signed for `to_local`. `signature` is compact, 64 bytes."""

    index: int
    bounty: Sat
    signature: bytes
    delayed_pubkey: bytes
    to_self_delay: BlockDelta


@dataclass(frozen=True, slots=True, kw_only=True)
class HtlcPair:
    """What is signed for an HTLC output.

    Attributes:
        lock: RIPEMD-160 of the payment hash.
        expiry: of an HTLC that the victim offered; 0: the cheat offered it.
    """

    index: int
    bounty: Sat
    signature: bytes
    lock: bytes
    expiry: BlockHeight


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """All that was signed for one revoked commitment.

    Attributes:
        payout: HASH160 of the key that the victim is paid on.
        htlc_keys: the cheat's and the victim's, as the HTLC scripts have them; () without HTLCs.
    """

    payout: bytes
    revocation_pubkey: bytes
    balance: BalancePair | None = None
    htlc_keys: tuple[bytes, ...] = ()
    htlcs: tuple[HtlcPair, ...] = ()


# --- as bytes ---------------------------------------------------------------------------------------------------------


def encode(remedy: Remedy) -> bytes:
    """A remedy as bytes, padded to one of `PLAIN_SIZES`. MisuseError for one that has no such form."""
    revocation, balance, htlcs = remedy.revocation_pubkey, remedy.balance, remedy.htlcs
    if len(htlcs) > MAX_HTLCS or (balance is None and not htlcs):
        raise MisuseError(f"a remedy of {len(htlcs)} HTLCs and {'a' if balance else 'no'} balance")
    flags = FORMAT << 4 | _ODD_REVOCATION * (revocation[0] & 1)
    parts = []
    if balance is not None:
        flags |= _TO_LOCAL | _ODD_DELAYED * (balance.delayed_pubkey[0] & 1)
        parts.append(
            _BALANCE.pack(
                balance.delayed_pubkey[1:], balance.to_self_delay, balance.index, balance.bounty, balance.signature
            )
        )
    if htlcs:
        flags |= _WITH_HTLCS
        parts.append(_HTLCS.pack(*remedy.htlc_keys, len(htlcs)))
        parts += [_HTLC.pack(each.index, each.bounty, each.expiry, each.lock, each.signature) for each in htlcs]
    raw = b"".join((_HEAD.pack(flags, remedy.payout, revocation[1:]), *parts))
    return raw.ljust(next(size for size in PLAIN_SIZES if size >= len(raw)), b"\0")


def decode(plain: bytes) -> Remedy:
    """Read a remedy. Whether its signatures hold is for `pairs.check` to say.

    Raises:
        DecodeError: not a remedy of a form known here.
    """
    if len(plain) not in PLAIN_SIZES:
        raise DecodeError(f"remedy of {len(plain)} bytes, one of {PLAIN_SIZES} wanted")
    flags, payout, revocation = _HEAD.unpack_from(plain)
    if flags >> 4 != FORMAT or not flags & (_TO_LOCAL | _WITH_HTLCS):
        raise DecodeError(f"remedy with the flags {flags:02x}, which are not known here")
    place, balance = _HEAD.size, None
    try:
        if flags & _TO_LOCAL:
            delayed, delay, index, bounty, signature = _BALANCE.unpack_from(plain, place)
            place += _BALANCE.size
            balance = BalancePair(
                index=index,
                bounty=Sat(bounty),
                signature=signature,
                delayed_pubkey=_point(delayed, odd=flags & _ODD_DELAYED),
                to_self_delay=BlockDelta(delay),
            )
        htlc_keys, htlcs, place = _read_htlcs(plain, place) if flags & _WITH_HTLCS else ((), (), place)
    except struct.error as error:
        raise DecodeError(f"remedy that breaks off: {error}") from None
    if any(plain[place:]):
        raise DecodeError("remedy with more in it than this version knows")
    return Remedy(
        payout=payout,
        revocation_pubkey=_point(revocation, odd=flags & _ODD_REVOCATION),
        balance=balance,
        htlc_keys=htlc_keys,
        htlcs=htlcs,
    )


def _read_htlcs(plain: bytes, place: int) -> tuple[tuple[bytes, ...], tuple[HtlcPair, ...], int]:
    first, second, count = _HTLCS.unpack_from(plain, place)
    if not 0 < count <= MAX_HTLCS:
        raise DecodeError(f"remedy of {count} HTLCs, 1 to {MAX_HTLCS} wanted")
    start = place + _HTLCS.size
    end = start + count * _HTLC.size
    htlcs = tuple(
        HtlcPair(index=index, bounty=Sat(bounty), expiry=BlockHeight(expiry), lock=lock, signature=signature)
        for index, bounty, expiry, lock, signature in (
            _HTLC.unpack_from(plain, at) for at in range(start, end, _HTLC.size)
        )
    )
    return (first, second), htlcs, end


def _point(x: bytes, *, odd: int) -> bytes:
    return (b"\x03" if odd else b"\x02") + x


# --- sealed -----------------------------------------------------------------------------------------------------------


def hint_of(txid: Txid) -> bytes:
    """What a sealed remedy is filed under, 16 bytes: the watcher looks every transaction that it sees up by this."""
    return hashlib.sha256(txid).digest()[:HINT_SIZE]


def seal(remedy: Remedy, txid: Txid, nonce: bytes) -> bytes:
    """The remedy, to be read by those alone who have seen the commitment of this id. One of `SEALED_SIZES` long.

    What a passive watcher learns before a breach: that whoever uploaded this had a state revoked at about this time, which
    with one payment happens a few times; how many HTLCs that state had, as one of five sizes (none, up to 2, 8, 32, 228);
    and by the hint which uploads to other watchers are of the same state, should watchers compare. Not: whose channel, how
    much, to whom. Waiting with uploads blurs the time and leaves the state uncovered meanwhile. After a breach the watcher
    can read the remedies of that one state. The cheat knows its own txids: it can find its state's remedies, and open them.

    Args:
        nonce: 12 random bytes, fresh for each call: one state may be sealed for several watchers.
    """
    if len(nonce) != NONCE_SIZE:
        raise MisuseError(f"nonce of {len(nonce)} bytes, {NONCE_SIZE} wanted")
    return nonce + ChaCha20Poly1305(_key(txid)).encrypt(nonce, encode(remedy), None)


def unseal(sealed: bytes, txid: Txid) -> Remedy:
    """Read a remedy that was filed under this transaction's hint. Anybody may file anything there: try every one.

    Raises:
        DecodeError: rubbish, or made for another transaction.
    """
    if len(sealed) not in SEALED_SIZES:
        raise DecodeError(f"sealed remedy of {len(sealed)} bytes, one of {SEALED_SIZES} wanted")
    try:
        plain = ChaCha20Poly1305(_key(txid)).decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], None)
    except InvalidTag:
        raise DecodeError("sealed remedy that is damaged or for another transaction") from None
    return decode(plain)


def _key(txid: Txid) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"rr remedy 1").derive(txid)
