"""Keys of a channel and what is derived of them for each commitment.

Source: BOLT 3, "Keys" (derivation, revocation, per-commitment points; appendix E). `to_remote` and the targets of all
sweeps pay the payment basepoint itself (static remote key), which is an ordinary key of the wallet: no secret of it is here.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from protocols.errors import MisuseError
from protocols.onchain import ec
from protocols.onchain.scripts import p2wpkh
from protocols.onchain.secrets import secret_at


@dataclass(frozen=True, slots=True, kw_only=True)
class BasePoints:
    """One side's public keys for a channel, 33 bytes each. Stored."""

    funding_pubkey: bytes
    revocation: bytes
    payment: bytes
    delayed_payment: bytes
    htlc: bytes


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)  # a repr ends in logs
class ChannelKeys:
    """Our secrets for one channel, 32 bytes each, and the wallet key that is our payment basepoint. Never stored.

    Build it with `from_seed`; tests with vectors give the secrets themselves.
    """

    funding_secret: bytes
    revocation_secret: bytes
    delayed_payment_secret: bytes
    htlc_secret: bytes
    shachain_seed: bytes
    payment_basepoint: bytes

    @staticmethod
    def from_seed(seed: bytes, payment_basepoint: bytes) -> "ChannelKeys":
        """All secrets of the channel, grown from its own 32-byte seed.

        Args:
            payment_basepoint: public key, 33 bytes, of the wallet address that this channel pays us on.
        """
        if len(seed) != 32 or len(payment_basepoint) != 33:
            raise MisuseError(f"seed of {len(seed)} and basepoint of {len(payment_basepoint)} bytes, 32 and 33 wanted")
        return ChannelKeys(
            funding_secret=_secret_from(seed, b"funding"),
            revocation_secret=_secret_from(seed, b"revocation"),
            delayed_payment_secret=_secret_from(seed, b"delayed payment"),
            htlc_secret=_secret_from(seed, b"htlc"),
            shachain_seed=_tagged(seed, b"shachain"),
            payment_basepoint=payment_basepoint,
        )

    @property
    def points(self) -> BasePoints:
        """The public half, as it goes into `open_channel` and `accept_channel`."""
        return _points(self)

    def per_commitment_secret(self, number: int) -> bytes:
        """The secret that revokes our commitment `number` (0 first), 32 bytes."""
        return secret_at(self.shachain_seed, number)

    def per_commitment_point(self, number: int) -> bytes:
        """The point, 33 bytes, that the keys of our commitment `number` are derived with."""
        return _commitment_point(self.shachain_seed, number)


def _tagged(seed: bytes, label: bytes) -> bytes:
    tag = hashlib.sha256(b"rrnode channel key: " + label).digest()
    return hashlib.sha256(tag + tag + seed).digest()  # BIP 340's tagged hash


def _secret_from(seed: bytes, label: bytes) -> bytes:
    secret = _tagged(seed, label)
    while not 0 < int.from_bytes(secret, "big") < ec.ORDER:  # once in 2^128 keys
        secret = hashlib.sha256(secret).digest()
    return secret


@lru_cache(maxsize=1024)
def _points(keys: ChannelKeys) -> BasePoints:
    return BasePoints(
        funding_pubkey=ec.point_of(keys.funding_secret),
        revocation=ec.point_of(keys.revocation_secret),
        payment=keys.payment_basepoint,
        delayed_payment=ec.point_of(keys.delayed_payment_secret),
        htlc=ec.point_of(keys.htlc_secret),
    )


@lru_cache(maxsize=4096)
def _commitment_point(shachain_seed: bytes, number: int) -> bytes:
    return ec.point_of(secret_at(shachain_seed, number))


@lru_cache(maxsize=4096)
def derive_pubkey(basepoint: bytes, per_commitment_point: bytes) -> bytes:
    """`basepoint + SHA256(per_commitment_point || basepoint) * G`."""
    return ec.add_to_point(basepoint, hashlib.sha256(per_commitment_point + basepoint).digest())


def derive_privkey(basepoint_secret: bytes, basepoint: bytes, per_commitment_point: bytes) -> bytes:
    """The secret of `derive_pubkey(basepoint, per_commitment_point)`."""
    return ec.add_secrets(basepoint_secret, hashlib.sha256(per_commitment_point + basepoint).digest())


@lru_cache(maxsize=4096)
def derive_revocation_pubkey(revocation_basepoint: bytes, per_commitment_point: bytes) -> bytes:
    """The key that punishes the broadcast of the commitment of this point, of the other side's revocation basepoint."""
    return ec.combine_multiples(
        revocation_basepoint,
        hashlib.sha256(revocation_basepoint + per_commitment_point).digest(),
        per_commitment_point,
        hashlib.sha256(per_commitment_point + revocation_basepoint).digest(),
    )


def derive_revocation_privkey(revocation_basepoint_secret: bytes, per_commitment_secret: bytes) -> bytes:
    """The secret of that key, known once the per-commitment secret is."""
    basepoint, point = ec.point_of(revocation_basepoint_secret), ec.point_of(per_commitment_secret)
    return ec.combine_secrets(
        revocation_basepoint_secret,
        hashlib.sha256(basepoint + point).digest(),
        per_commitment_secret,
        hashlib.sha256(point + basepoint).digest(),
    )


def payout_script(payment_basepoint: bytes) -> bytes:
    """Where this channel pays its owner: P2WPKH of the payment basepoint, an ordinary address of the owner's wallet."""
    return p2wpkh(payment_basepoint)
