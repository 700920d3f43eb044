"""Random numbers from the entropy that came with an event, so that a journal replays exactly (CONVENTIONS)."""

import hashlib

from protocols.errors import MisuseError


def draw(entropy: bytes, label: bytes, below: int) -> int:
    """A number from 0 to `below - 1`. Values drawn under different labels are independent of each other.

    Args:
        entropy: 32 fresh random bytes.
        below: at most 2^64, so that 256 bits leave no bias to speak of.
    """
    if len(entropy) != 32 or not 0 < below <= 2**64:
        raise MisuseError(f"entropy of {len(entropy)} bytes and a bound of {below}: 32, and 1 to 2^64, wanted")
    digest = hashlib.sha256(len(label).to_bytes(2, "big") + label + entropy).digest()
    return int.from_bytes(digest, "big") % below
