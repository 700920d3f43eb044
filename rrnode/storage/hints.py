"""A small table in memory that says of almost every transaction that no remedy is filed under its hint (a Bloom filter).

The disk is asked for the others only. Memory is bounded whatever the number of hints: a filter that is too full lets more
through, and lies in that direction only. Hints are hashes, so their own bits serve as positions; a client that makes hints
up can set no more bits than it has room for.
"""

import struct

BITS_PER_HINT = 10  # with four positions 1.2 % of strangers' transactions get through, one disk read each
LEAST_BITS, MOST_BITS = (
    1 << 20,
    1 << 28,
)  # 128 kB to 32 MB; the latter serves 27 million hints as said, 100 million at 36 %
_POSITIONS = struct.Struct(">IIII")


class HintFilter:
    """Which hints may be there. Nothing can be taken out; make a new one when too many were.

    Args:
        expected: hints that it is made for.

    Attributes:
        added: how often `add` was called.
        is_full: so many were added since that it is worth making a new one; those that are gone are in it still.
    """

    def __init__(self, expected: int) -> None:
        bits = LEAST_BITS
        while bits < MOST_BITS and bits < 2 * BITS_PER_HINT * expected:
            bits *= 2
        self._mask = bits - 1
        self._bytes = bytearray(bits // 8)
        self._room = max(bits // BITS_PER_HINT, 2 * expected)
        self.added = 0

    @property
    def is_full(self) -> bool:
        return self.added > self._room

    def add(self, hint: bytes) -> None:
        """A hint of 16 bytes is there from now on."""
        for word in _POSITIONS.unpack(hint):
            place = word & self._mask
            self._bytes[place >> 3] |= 1 << (place & 7)
        self.added += 1

    def __contains__(self, hint: bytes) -> bool:
        table, mask = self._bytes, self._mask
        for word in _POSITIONS.unpack(hint):
            place = word & mask
            if not table[place >> 3] >> (place & 7) & 1:
                return False
        return True
