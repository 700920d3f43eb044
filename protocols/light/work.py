"""Proof of work: targets, and how hard the next block must be. One `PowRules` per network; no state.

Source: Bitcoin Core 31 `pow.cpp`, `arith_uint256.cpp` (compact form), `kernel/chainparams.cpp`; BIP 94 (testnet4).
"""

from collections.abc import Callable
from dataclasses import dataclass

from protocols.units import BlockHeight, UnixTime

_SPACING = 600  # seconds between blocks
_SIGN = 0x0080_0000


@dataclass(frozen=True, slots=True, kw_only=True)
class PowRules:
    """How one network's difficulty moves.

    Attributes:
        limit: the easiest target.
        interval: blocks of one difficulty period.
        retargets: whether a new period's difficulty follows from the time that the last one took; else it never moves.
        minimum_after_20_minutes: a block that comes later than so after its parent must have the easiest target, and
            such blocks do not count for those that follow.
        bip94: a period's difficulty follows from its first block, which may not be more than 600 s older than its parent.
    """

    limit: int
    interval: int
    retargets: bool
    minimum_after_20_minutes: bool
    bip94: bool


MAINNET_RULES = PowRules(
    limit=(1 << 224) - 1, interval=2016, retargets=True, minimum_after_20_minutes=False, bip94=False
)
TESTNET4_RULES = PowRules(
    limit=(1 << 224) - 1, interval=2016, retargets=True, minimum_after_20_minutes=True, bip94=True
)
# Signet's blocks are also signed, but the signature is in the coinbase transaction, where headers cannot show it: who has
# machines enough for its small difficulty can show a client a signet that nobody signed.
SIGNET_RULES = PowRules(
    limit=0x377AE << 216, interval=2016, retargets=True, minimum_after_20_minutes=False, bip94=False
)
# Work on regtest costs nothing: there a single lying helper can invent any chain. Bitcoin Core's rule of easy blocks after
# 20 minutes says nothing here: every block is one.
REGTEST_RULES = PowRules(
    limit=(1 << 255) - 1, interval=144, retargets=False, minimum_after_20_minutes=False, bip94=False
)


@dataclass(frozen=True, slots=True)
class Parent:
    """What the difficulty of a block depends on, of a block before it."""

    time: UnixTime
    bits: int


def target_of(bits: int) -> int | None:
    """The target of a compact form; None for what no block may state (negative, zero, above 256 bits)."""
    exponent, mantissa = bits >> 24, bits & 0x007F_FFFF
    target = mantissa >> 8 * (3 - exponent) if exponent <= 3 else mantissa << 8 * (exponent - 3)
    if bits & _SIGN and mantissa:
        return None
    return target if 0 < target < 1 << 256 else None


def bits_of(target: int) -> int:
    """The compact form of a target, rounded down to three bytes."""
    size = (target.bit_length() + 7) // 8
    mantissa = target << 8 * (3 - size) if size <= 3 else target >> 8 * (size - 3)
    if mantissa & _SIGN:  # it would be read as negative
        mantissa, size = mantissa >> 8, size + 1
    return mantissa | size << 24


def work_of(target: int) -> int:
    """How many hashes a block of this target takes on average: what chains are compared by."""
    return (1 << 256) // (target + 1)


def bits_required(
    rules: PowRules, height: BlockHeight, time: UnixTime, before: Callable[[int], Parent | None]
) -> int | None:
    """What a block at this height and time must state as nBits.

    Args:
        before: the block of the same branch at a lower height, None where it is not known.

    Returns:
        None when it cannot be decided, because a block it depends on is not known.
    """
    parent = before(height - 1)
    if parent is None or not rules.retargets:
        return None if parent is None else parent.bits
    if height % rules.interval == 0:
        return _retargeted(rules, parent, before(height - rules.interval))
    if not rules.minimum_after_20_minutes:
        return parent.bits
    easiest = bits_of(rules.limit)
    if time > parent.time + 2 * _SPACING:
        return easiest
    ancestor: Parent | None = parent
    at = height - 1
    while ancestor is not None and at % rules.interval != 0 and ancestor.bits == easiest:
        at -= 1
        ancestor = before(at)
    return None if ancestor is None else ancestor.bits


def _retargeted(rules: PowRules, last: Parent, first: Parent | None) -> int | None:
    """The difficulty after a period, from its last and first block."""
    if first is None:
        return None
    wanted = rules.interval * _SPACING
    took = min(max(last.time - first.time, wanted // 4), wanted * 4)
    old = target_of(first.bits if rules.bip94 else last.bits)
    return None if old is None else bits_of(min(old * took // wanted, rules.limit))
