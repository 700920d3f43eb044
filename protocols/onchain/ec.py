"""secp256k1 as the channel needs it: compact low-S signatures and tweaks of raw keys, with nothing computed twice.

Source: BOLT 2 (64-byte compact signatures on the wire), BOLT 3 (key derivation). coincurve's classes compute a public
key for every private key they wrap (39 us, more than the signature itself) and speak DER only, so its binding to
libsecp256k1 is called directly; coincurve's version is pinned exactly, and the tests hold these functions to its classes.
"""

from functools import lru_cache
from typing import Any

from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT

from protocols.errors import DecodeError, MisuseError

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_CONTEXT = GLOBAL_CONTEXT.ctx
_COMPRESSED = 258  # SECP256K1_EC_COMPRESSED


def sign(secret: bytes, digest: bytes) -> bytes:
    """A deterministic (RFC 6979), low-S signature of a 32-byte digest, 64 bytes compact."""
    if len(digest) != 32 or len(secret) != 32:
        raise MisuseError(f"digest of {len(digest)} and secret of {len(secret)} bytes, 32 each wanted")
    signature = ffi.new("secp256k1_ecdsa_signature *")
    if not lib.secp256k1_ecdsa_sign(_CONTEXT, signature, digest, secret, ffi.NULL, ffi.NULL):
        raise MisuseError("not a valid secret key")
    compact = ffi.new("unsigned char[64]")
    lib.secp256k1_ecdsa_signature_serialize_compact(_CONTEXT, compact, signature)
    return bytes(ffi.buffer(compact, 64))


def verify(public_key: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether a compact signature is this key's and low-S (BOLT 2 demands it: high-S is not relayed).

    Raises:
        DecodeError: the public key is not on the curve.
    """
    if len(signature) != 64:
        return False
    parsed = ffi.new("secp256k1_ecdsa_signature *")
    if not lib.secp256k1_ecdsa_signature_parse_compact(_CONTEXT, parsed, signature):
        return False
    return bool(lib.secp256k1_ecdsa_verify(_CONTEXT, parsed, digest, _parsed(public_key)))


def is_point(public_key: bytes) -> bool:
    """Whether these are 33 bytes of a compressed key that lies on the curve. Ask before a peer's key is stored."""
    try:
        _parsed(public_key)
    except DecodeError:
        return False
    return True


def point_of(secret: bytes) -> bytes:
    """The compressed public key of a 32-byte secret."""
    point = ffi.new("secp256k1_pubkey *")
    if not lib.secp256k1_ec_pubkey_create(_CONTEXT, point, secret):
        raise MisuseError("not a valid secret key")
    return _formatted(point)


def add_to_point(public_key: bytes, scalar: bytes) -> bytes:
    """`public_key + scalar * G`."""
    point = _copy(public_key)
    if not lib.secp256k1_ec_pubkey_tweak_add(_CONTEXT, point, scalar):
        raise DecodeError("a key derivation that ends at infinity")
    return _formatted(point)


def combine_multiples(first: bytes, first_scalar: bytes, second: bytes, second_scalar: bytes) -> bytes:
    """`first * first_scalar + second * second_scalar` of two public keys."""
    points = [_copy(first), _copy(second)]
    for point, scalar in zip(points, (first_scalar, second_scalar), strict=True):
        if not lib.secp256k1_ec_pubkey_tweak_mul(_CONTEXT, point, scalar):
            raise DecodeError("a key derivation that ends at infinity")
    total = ffi.new("secp256k1_pubkey *")
    if not lib.secp256k1_ec_pubkey_combine(_CONTEXT, total, points, 2):
        raise DecodeError("a key derivation that ends at infinity")
    return _formatted(total)


def add_secrets(first: bytes, second: bytes) -> bytes:
    """The sum of two scalars, 32 bytes each."""
    return _scalar(int.from_bytes(first, "big") + int.from_bytes(second, "big"))


def combine_secrets(first: bytes, first_scalar: bytes, second: bytes, second_scalar: bytes) -> bytes:
    """`first * first_scalar + second * second_scalar` of scalars, 32 bytes each."""
    return _scalar(
        int.from_bytes(first, "big") * int.from_bytes(first_scalar, "big")
        + int.from_bytes(second, "big") * int.from_bytes(second_scalar, "big")
    )


def to_der(signature: bytes) -> bytes:
    """The strict DER form (BIP 66) of a compact signature, as witnesses carry it, without the hash type."""
    if len(signature) != 64:
        raise MisuseError(f"signature of {len(signature)} bytes, 64 wanted")
    body = _der_integer(signature[:32]) + _der_integer(signature[32:])
    return b"\x30" + bytes([len(body)]) + body


def _der_integer(raw: bytes) -> bytes:
    digits = raw.lstrip(b"\x00")
    if not digits or digits[0] & 0x80:
        digits = b"\x00" + digits
    return b"\x02" + bytes([len(digits)]) + digits


def _scalar(value: int) -> bytes:
    value %= ORDER
    if value == 0:
        raise MisuseError("a key derivation that ends at zero")
    return value.to_bytes(32, "big")


@lru_cache(maxsize=4096)  # decompression costs a square root; a channel uses the same few keys again and again
def _parsed(public_key: bytes) -> Any:
    point = ffi.new("secp256k1_pubkey *")
    if len(public_key) != 33 or not lib.secp256k1_ec_pubkey_parse(_CONTEXT, point, public_key, 33):
        raise DecodeError(f"{public_key.hex()} is no compressed public key")
    return point


def _copy(public_key: bytes) -> Any:
    point = ffi.new("secp256k1_pubkey *")
    ffi.memmove(point, _parsed(public_key), ffi.sizeof("secp256k1_pubkey"))
    return point


def _formatted(point: Any) -> bytes:
    raw = ffi.new("unsigned char[33]")
    size = ffi.new("size_t *", 33)
    lib.secp256k1_ec_pubkey_serialize(_CONTEXT, raw, size, point, _COMPRESSED)
    return bytes(ffi.buffer(raw, 33))
