"""A miner of headers at a difficulty that costs nothing."""

import hashlib
import struct
from collections.abc import Callable

import pytest

from protocols.light.work import target_of

Mine = Callable[..., bytes]


def double(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def mine_header(previous: bytes, time: int, *, bits: int = 0x207FFFFF, mark: int = 0, enough: bool = True) -> bytes:
    """A header that states `bits` and reaches them, or (`enough` False) does not. `mark` tells siblings apart."""
    for nonce in range(1 << 20):
        raw = struct.pack("<I32s32sIII", 4, previous, mark.to_bytes(32, "big"), time, bits, nonce)
        if (int.from_bytes(double(raw), "little") <= target_of(bits)) == enough:
            return raw
    raise AssertionError("too much work for a test")


@pytest.fixture
def mine() -> Mine:
    """See `mine_header`."""
    return mine_header
