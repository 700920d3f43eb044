"""A sealed payment initialization: the payer's first word to the payee, readable by the payee alone (R14).

Sealed, 512 bytes (`protocols.wire.init.SEALED_SIZE`, whatever is inside, so that none tells by its length):

    ephemeral    33 bytes   compressed key, drawn for this one message
    ciphertext  463 bytes   ChaCha20-Poly1305 (RFC 8439) of the 463 bytes below
    tag          16 bytes

The key is HKDF-SHA256 with salt `ephemeral || payee`, info `rr initialization 1`, of SHA-256 of the compressed Diffie-Hellman
point (ephemeral secret times payee key); the nonce is 12 zero bytes, as a key is used once; associated data are
`ephemeral || payee`. Inside, big-endian:

    version 1 · kind 1 (0 push, 1 request) · nonce 16 · secret (push) or hash (request) 32 · amount 8 · its asset 32 ·
    ceiling 8 · its asset 32 · expiry 8 (unix seconds) · memo: 1 byte of length, then UTF-8 · zeros to the end
"""

import struct
from dataclasses import dataclass

from coincurve import PrivateKey
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocols.errors import DecodeError, MisuseError
from protocols.ids import PeerId
from protocols.onchain import ec
from protocols.payment.events import Kind
from protocols.payment.request import check_memo
from protocols.units import MAX_MSAT, Amount, AssetId, Msat, UnixTime
from protocols.wire.init import SEALED_SIZE

_VERSION = 1
_KINDS = (Kind.PUSH, Kind.REQUEST)
_FIXED = struct.Struct(">BB16s32sQ32sQ32sQB")
_PLAIN = SEALED_SIZE - 33 - 16
_ZERO_NONCE = bytes(12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Initialization:
    """What a payer asks of the payee: ask the network for offers, for this payment.

    Attributes:
        nonce: 16 random bytes; the payee floods once per nonce.
        secret: push: the preimage, 32 bytes. Request: the payment hash, which says which request is meant.
        amount: what the payee is to receive.
        ceiling: the most the payer says it pays, its random margin included (R8).
        expiry: until when offers are of use.
    """

    nonce: bytes
    kind: Kind
    secret: bytes
    amount: Amount
    ceiling: Amount
    expiry: UnixTime
    memo: str = ""


def seal(initialization: Initialization, payee: PeerId, ephemeral: bytes) -> bytes:
    """512 bytes that only the payee can read and that say nothing to anybody else.

    Args:
        ephemeral: a fresh secret key, 32 bytes, never used before or after.

    Raises:
        MisuseError: a field of the wrong size, or a secret that is no secret key.
        DecodeError: the payee's key is no point of the curve.
    """
    init, memo = initialization, check_memo(initialization.memo)
    if len(init.nonce) != 16 or len(init.secret) != 32:
        raise MisuseError(f"nonce of {len(init.nonce)} and secret of {len(init.secret)} bytes, 16 and 32 wanted")
    fixed = _FIXED.pack(
        _VERSION,
        _KINDS.index(init.kind),
        init.nonce,
        init.secret,
        init.amount.msat,
        init.amount.asset,
        init.ceiling.msat,
        init.ceiling.asset,
        init.expiry,
        len(memo),
    )
    public = ec.point_of(ephemeral)
    cipher = ChaCha20Poly1305(_key(_shared(ephemeral, payee), public + payee))
    return public + cipher.encrypt(_ZERO_NONCE, (fixed + memo).ljust(_PLAIN, b"\0"), public + payee)


def unseal(sealed: bytes, secret: bytes) -> Initialization:
    """Read an initialization that was sealed to our node key.

    Args:
        secret: our node secret, 32 bytes.

    Raises:
        DecodeError: not for us, damaged, or not of this form.
    """
    if len(sealed) != SEALED_SIZE:
        raise DecodeError(f"sealed initialization of {len(sealed)} bytes, {SEALED_SIZE} wanted")
    public, us = sealed[:33], ec.point_of(secret)
    if not ec.is_point(public):
        raise DecodeError("sealed initialization without a key")
    try:
        cipher = ChaCha20Poly1305(_key(_shared(secret, public), public + us))
        plain = cipher.decrypt(_ZERO_NONCE, sealed[33:], public + us)
    except InvalidTag:
        raise DecodeError("sealed initialization that is damaged or not for this node") from None
    version, kind, nonce, what, amount, asset, ceiling, ceiling_asset, expiry, size = _FIXED.unpack_from(plain)
    if version != _VERSION or kind >= len(_KINDS):
        raise DecodeError(f"initialization of version {version} and kind {kind}; {_VERSION}, and 0 or 1, are known")
    memo, padding = plain[_FIXED.size :][:size], plain[_FIXED.size + size :]
    if any(padding) or len(memo) != size:
        raise DecodeError("initialization with more in it than this version knows")
    if not 0 < amount <= MAX_MSAT or not 0 < ceiling <= MAX_MSAT:
        raise DecodeError(f"initialization of {amount} msat with a ceiling of {ceiling} msat")
    try:
        note = memo.decode()
    except UnicodeDecodeError:
        raise DecodeError("initialization with a memo that is not UTF-8") from None
    return Initialization(
        nonce=nonce,
        kind=_KINDS[kind],
        secret=what,
        amount=Amount(Msat(amount), AssetId(asset)),
        ceiling=Amount(Msat(ceiling), AssetId(ceiling_asset)),
        expiry=UnixTime(expiry),
        memo=note,
    )


def _shared(secret: bytes, public: bytes) -> bytes:
    try:
        return PrivateKey(secret).ecdh(public)
    except ValueError as error:
        raise DecodeError(f"no key can be agreed with {public.hex()}: {error}") from None


def _key(shared: bytes, salt: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"rr initialization 1").derive(shared)
