"""Per-commitment secrets: made from one seed, and those of the peer kept in at most 49 entries.

Source: BOLT 3, "Per-commitment Secret Requirements" and "Efficient Per-commitment Secret Storage". Callers count
commitments upwards from 0; the secret of commitment n has index 2^48 - 1 - n.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from protocols.errors import MisuseError

INDEX_BITS = 48
MAX_NUMBER = (1 << INDEX_BITS) - 1
_LOW_BITS = 10  # secrets of neighbouring commitments share the hashing above these bits


def secret_at(seed: bytes, number: int) -> bytes:
    """The 32-byte secret of commitment `number` (0 first), grown from a 32-byte seed."""
    if not 0 <= number <= MAX_NUMBER:
        raise MisuseError(f"commitment number {number}, 0 to {MAX_NUMBER} wanted")
    index = MAX_NUMBER - number
    high = index >> _LOW_BITS << _LOW_BITS
    return _flip_and_hash(_derived_high(seed, high), index, _LOW_BITS)


@lru_cache(maxsize=1024)
def _derived_high(seed: bytes, index: int) -> bytes:
    return _flip_and_hash(seed, index, INDEX_BITS)


def _flip_and_hash(base: bytes, index: int, bits: int) -> bytes:
    """The secret of `index`, given that of the index which has the same bits above the lowest `bits` and zeros there."""
    value = base
    for bit in range(bits - 1, -1, -1):
        if index >> bit & 1:
            flipped = bytearray(value)
            flipped[bit // 8] ^= 1 << bit % 8
            value = hashlib.sha256(flipped).digest()
    return value


@dataclass(frozen=True, slots=True)
class KnownSecret:
    """One kept secret; every secret whose index continues this one's prefix can be derived from it."""

    index: int
    secret: bytes


@dataclass(frozen=True, slots=True)
class SecretStore:
    """All secrets that the peer revealed, in order, without a gap. Stored with the channel.

    Attributes:
        known: entry b holds the newest secret whose index ends in b zero bits.
    """

    known: tuple[KnownSecret, ...] = ()

    @property
    def count(self) -> int:
        """How many secrets are in: those of commitments 0 to count - 1."""
        return 0 if not self.known else MAX_NUMBER + 1 - min(entry.index for entry in self.known)

    def insert(self, number: int, secret: bytes) -> "SecretStore | None":
        """The store with the secret of commitment `number` too, or None: it does not fit those revealed before.

        Raises:
            MisuseError: not the next number, or not 32 bytes.
        """
        if number != self.count or number > MAX_NUMBER or len(secret) != 32:
            raise MisuseError(f"secret {number} of {len(secret)} bytes, number {self.count} of 32 bytes wanted")
        index = MAX_NUMBER - number
        bucket = (index & -index).bit_length() - 1 if index else INDEX_BITS
        for entry in self.known[:bucket]:
            if _flip_and_hash(secret, entry.index, bucket) != entry.secret:
                return None
        return SecretStore((*self.known[:bucket], KnownSecret(index, secret), *self.known[bucket + 1 :]))

    def get(self, number: int) -> bytes | None:
        """The secret of commitment `number`, None when it was not revealed."""
        index = MAX_NUMBER - number
        for bucket, entry in enumerate(self.known):
            if index >> bucket << bucket == entry.index:
                return _flip_and_hash(entry.secret, index, bucket)
        return None
