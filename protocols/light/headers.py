"""The best chain of headers from a checkpoint, by work; branches are checked header by header before they may replace it.

A checkpoint is the first block of a difficulty period, so that every later difficulty can be decided from headers above it
alone. What cannot be seen here: whether a block's transactions are valid, and signet's block signatures (`work`).
Source: DESIGN 8; Bitcoin Core `validation.cpp` (ContextualCheckBlockHeader), BIP 113, BIP 94.
"""

import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache

from protocols.errors import DecodeError, MisuseError, PeerProtocolError
from protocols.light.work import Parent, PowRules, bits_required, target_of, work_of
from protocols.units import BlockHeight, UnixTime

HEADER_SIZE = 80
MAX_HEADERS = 1 << 20  # above the checkpoint: 80 MB, twenty years; then a newer checkpoint must be shipped
MAX_LOCATOR = 32  # hashes: ten blocks, then steps that double; enough for 2^21 blocks
_SUMMED = 2000  # headers whose work is added up once: a million at each comparison would stop a node for a second
_MEDIAN_SPAN = 11  # blocks (BIP 113)
_TIMEWARP = 600  # seconds (BIP 94)
_AHEAD = 2 * 3600  # seconds that a header may be ahead of our clock
_LAYOUT = struct.Struct("<I32s32sIII")
_TIME_AND_BITS = struct.Struct("<II")


class InvalidHeader(PeerProtocolError):
    """A header that no honest node would serve: it breaks a rule that everybody can check."""


class FutureHeader(InvalidHeader):
    """A header ahead of our clock, which may be the one that is wrong."""


class StaleBranch(Exception):
    """The best chain was reorganised below the block that this branch stands on; begin anew."""


@dataclass(frozen=True, slots=True)
class Header:
    """A block's header; hashes in serialization order."""

    raw: bytes
    hash: bytes
    previous: bytes
    merkle_root: bytes
    time: UnixTime
    bits: int


def parse_header(raw: bytes) -> Header:
    """Take 80 bytes apart.

    Raises:
        DecodeError: another number of bytes.
    """
    if len(raw) != HEADER_SIZE:
        raise DecodeError(f"block header of {len(raw)} bytes, {HEADER_SIZE} wanted")
    _, previous, merkle_root, time, bits, _ = _LAYOUT.unpack(raw)
    digest = hashlib.sha256(hashlib.sha256(raw).digest()).digest()
    return Header(bytes(raw), digest, previous, merkle_root, UnixTime(time), bits)


def reaches_its_target(header: Header, rules: PowRules) -> bool:
    """Whether it has the work that it states itself, and no less than the network's least."""
    target = target_of(header.bits)
    return target is not None and target <= rules.limit and int.from_bytes(header.hash, "little") <= target


def split_headers(raw: bytes) -> tuple[bytes, ...]:
    """A run of headers, one after the other. Raises DecodeError when its length is no multiple of 80."""
    if len(raw) % HEADER_SIZE:
        raise DecodeError(f"{len(raw)} bytes of headers, a multiple of {HEADER_SIZE} wanted")
    return tuple(raw[at : at + HEADER_SIZE] for at in range(0, len(raw), HEADER_SIZE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A block that is taken for granted: the first of a difficulty period. What is below it is never asked for."""

    height: BlockHeight
    header: bytes


class _Run:
    """Consecutive headers, 80 bytes each; the first one's height is `start`."""

    __slots__ = ("_sums", "raw", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.raw = bytearray()
        self._sums: list[int] = []  # work of each `_SUMMED` headers, as far as it was asked for

    def __len__(self) -> int:
        return len(self.raw) // HEADER_SIZE

    def at(self, height: int) -> Header | None:
        place = (height - self.start) * HEADER_SIZE
        return parse_header(bytes(self.raw[place : place + HEADER_SIZE])) if 0 <= place < len(self.raw) else None

    def facts(self, height: int) -> Parent | None:
        """Time and difficulty only, without hashing."""
        place = (height - self.start) * HEADER_SIZE
        return Parent(*_TIME_AND_BITS.unpack_from(self.raw, place + 68)) if 0 <= place < len(self.raw) else None

    def replace_above(self, height: int, raw: bytes) -> None:
        kept = height + 1 - self.start
        del self.raw[kept * HEADER_SIZE :], self._sums[kept // _SUMMED :]
        self.raw += raw

    def work_above(self, height: int) -> int:
        first, whole = height + 1 - self.start, len(self) // _SUMMED
        while len(self._sums) < whole:
            self._sums.append(self._work(len(self._sums) * _SUMMED, (len(self._sums) + 1) * _SUMMED))
        summed = -(-first // _SUMMED)
        if summed >= whole:
            return self._work(first, len(self))
        return self._work(first, summed * _SUMMED) + sum(self._sums[summed:]) + self._work(whole * _SUMMED, len(self))

    def _work(self, first: int, end: int) -> int:
        places = range(first * HEADER_SIZE + 72, end * HEADER_SIZE, HEADER_SIZE)
        return sum(_work(int.from_bytes(self.raw[place : place + 4], "little")) for place in places)


class HeaderChain:
    """The heaviest valid chain seen so far. 80 bytes for each block; moved only by `adopt`."""

    def __init__(self, rules: PowRules, checkpoint: Checkpoint) -> None:
        """Begin with the checkpoint alone.

        Raises:
            MisuseError: the checkpoint is not the first block of a period.
        """
        if checkpoint.height % rules.interval:
            raise MisuseError(f"checkpoint at {checkpoint.height}, a multiple of {rules.interval} wanted")
        self.rules, self.base = rules, checkpoint.height
        self._tip = parse_header(checkpoint.header)
        self._run = _Run(checkpoint.height)
        self._run.raw += checkpoint.header

    @property
    def tip(self) -> Header:
        """The best block."""
        return self._tip

    @property
    def height(self) -> BlockHeight:
        """Of the best block."""
        return BlockHeight(self.base + len(self._run) - 1)

    def at(self, height: int) -> Header | None:
        """The best chain's block at this height; None above the tip and below the checkpoint."""
        return self._tip if height == self.height else self._run.at(height)

    def find(self, height: int, block_hash: bytes) -> Header | None:
        """The best chain's block at this height, if it is this one."""
        there = self.at(height)
        return there if there is not None and there.hash == block_hash else None

    def facts_at(self, height: int) -> Parent | None:
        """Time and difficulty of the best chain's block at this height; None where `at` gives None."""
        return self._run.facts(height)

    def height_of(self, block_hash: bytes) -> BlockHeight | None:
        """Where this block stands in the best chain, None when it does not."""
        if block_hash == self._tip.hash:
            return self.height
        # Each hash but the tip's is written in the header after it; looked for from the end, where it mostly is.
        raw, end = self._run.raw, len(self._run.raw)
        while (found := raw.rfind(block_hash, 0, end)) >= 0:
            number, place = divmod(found, HEADER_SIZE)
            if place == 4 and number > 0:
                return BlockHeight(self.base + number - 1)
            end = found + len(block_hash) - 1
        return None

    def raw_above(self, height: int) -> bytes:
        """The best chain's headers above this height, one after the other."""
        return bytes(self._run.raw[max(0, height + 1 - self.base) * HEADER_SIZE :])

    def locator(self) -> tuple[bytes, ...]:
        """Hashes from the tip down, ever farther apart, the checkpoint last: where a helper finds the fork."""
        hashes: list[bytes] = []
        height, step = int(self.height), 1
        while height > self.base and len(hashes) < MAX_LOCATOR - 1:
            hashes.append(self._hash_at(height))
            if len(hashes) >= 10:
                step *= 2
            height -= step
        return (*hashes, self._hash_at(self.base))

    def _hash_at(self, height: int) -> bytes:
        header = self.at(height)
        assert header is not None
        return header.hash

    def branch(self, parent: bytes) -> "Branch | None":
        """Begin a branch on a block of the best chain, None when this is no such block."""
        height = self.height_of(parent)
        return None if height is None else Branch(self, height, parent)

    def adopt(self, branch: "Branch") -> bool:
        """Make a branch the best chain when it has more work than what it would replace; with as much the first seen stays.

        Raises:
            StaleBranch: the best chain has left the block that the branch stands on.
        """
        branch.check_stands()
        if branch.work <= self._run.work_above(branch.fork):
            return False
        self._run.replace_above(branch.fork, branch.raw)
        self._tip = branch.last
        branch.rebase()
        return True


class Branch:
    """Checked headers on top of a block of the best chain. Memory: it may grow as long as the chain itself may."""

    def __init__(self, chain: HeaderChain, fork: BlockHeight, parent: bytes) -> None:
        """Used by `HeaderChain.branch`."""
        there = chain.at(fork)
        assert there is not None
        self._chain, self._parent = chain, there
        self._run = _Run(fork + 1)
        self.last = there  # its last block; the parent while it is empty
        self.work = 0  # of its headers

    @property
    def fork(self) -> BlockHeight:
        """Height of the best chain's block that it stands on."""
        return BlockHeight(self._run.start - 1)

    @property
    def height(self) -> BlockHeight:
        """Of its last block."""
        return BlockHeight(self.fork + len(self._run))

    @property
    def raw(self) -> bytes:
        """Its headers, one after the other."""
        return bytes(self._run.raw)

    def check_stands(self) -> None:
        """Raises StaleBranch when the best chain does not hold its parent any more."""
        if self._chain.find(self.fork, self._parent.hash) is None:
            raise StaleBranch

    def rebase(self) -> None:
        """It has become the best chain: go on from its last block."""
        self._run, self._parent, self.work = _Run(self.height + 1), self.last, 0

    def extend(self, headers: tuple[bytes, ...], now: UnixTime) -> None:
        """Put checked headers on top; those before a bad one are kept.

        Args:
            headers: 80 bytes each, in order.
            now: our clock.

        Raises:
            InvalidHeader: the first one that breaks a rule, and which rule.
            StaleBranch: see `check_stands`.
        """
        self.check_stands()
        for raw in headers:
            header = parse_header(raw)
            self._check(header, now)
            self._run.raw += raw
            self.last = header
            self.work += _work(header.bits)

    def _before(self, height: int) -> Parent | None:
        return self._chain.facts_at(height) if height <= self.fork else self._run.facts(height)

    def _check(self, header: Header, now: UnixTime) -> None:
        height = BlockHeight(self.height + 1)
        rules = self._chain.rules
        if height - self._chain.base >= MAX_HEADERS:
            raise InvalidHeader(f"more than {MAX_HEADERS} headers above the checkpoint; a newer one is needed")
        if header.previous != self.last.hash:
            raise InvalidHeader(f"header {height} does not follow the one before it")
        required = bits_required(rules, height, header.time, self._before)
        if required != header.bits:
            wanted = "unknown" if required is None else f"{required:08x}"
            raise InvalidHeader(f"header {height} states the difficulty {header.bits:08x}, {wanted} wanted")
        if not reaches_its_target(header, rules):
            raise InvalidHeader(f"header {height} has too little work")
        times = [each.time for n in range(1, _MEDIAN_SPAN + 1) if (each := self._before(height - n)) is not None]
        # Within ten blocks of a checkpoint the median depends on blocks that are not known; at block 0 there are none.
        if (len(times) == _MEDIAN_SPAN or self._chain.base == 0) and header.time <= sorted(times)[len(times) // 2]:
            raise InvalidHeader(f"header {height} is not later than the median of the eleven before it")
        if rules.bip94 and height % rules.interval == 0 and header.time < times[0] - _TIMEWARP:
            raise InvalidHeader(f"header {height} turns the time back at the end of a difficulty period")
        if header.time > now + _AHEAD:
            raise FutureHeader(f"header {height} is more than two hours ahead of our clock")


@lru_cache(maxsize=64)
def _work(bits: int) -> int:
    target = target_of(bits)
    assert target is not None, "only checked headers are counted"
    return work_of(target)
