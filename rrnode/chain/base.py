"""The ChainBackend interface: what a node needs of a chain, however it is reached (DESIGN 3, 8).

Held to one set of contract tests: `kernel` (embedded regtest on libbitcoinkernel), `bitcoind` (Bitcoin Core by RPC; also
reaches `rrnode chain serve`), `remote` (several helpers of which one is honest). The first two have whole blocks and a
mempool (`WholeChain`), `remote` learns only what concerns its `Interests`; so whoever asks says what concerns it, and takes
what comes as "at least that". Backends are asked, they do not push: `wait_for_change` is the only wait.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum

import trio

from protocols.errors import DecodeError
from protocols.ids import PeerId, Txid
from protocols.light.agreement import HelperStatus
from protocols.units import BlockHeight, FeeRate, Sat
from rrnode.chain.parse import Block, Tx, outpoint, parse_block, parse_header
from rrnode.errors import ChainUnavailable

_LARGE = 100_000  # bytes of a block that is taken apart in a thread


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRef:
    """A block's place: height, hash and parent's hash (serialization order), header time in unix seconds."""

    height: BlockHeight
    hash: bytes
    previous: bytes
    time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputState:
    """An output as the best chain and the mempool have it now; `height` is None while unconfirmed."""

    value: Sat
    script: bytes
    height: BlockHeight | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interests:
    """What concerns whoever asks: spends of outputs (36 bytes: txid, index as little-endian), transactions, payments to
    output scripts."""

    outpoints: frozenset[bytes] = frozenset()
    txids: frozenset[Txid] = frozenset()
    scripts: frozenset[bytes] = frozenset()

    def __or__(self, other: "Interests") -> "Interests":
        return Interests(
            outpoints=self.outpoints | other.outpoints,
            txids=self.txids | other.txids,
            scripts=self.scripts | other.scripts,
        )

    @classmethod
    def joined(cls, many: Iterable["Interests"]) -> "Interests":
        """Those of all of them."""
        these = tuple(many)
        return cls(
            outpoints=frozenset[bytes]().union(*(each.outpoints for each in these)),
            txids=frozenset[Txid]().union(*(each.txids for each in these)),
            scripts=frozenset[bytes]().union(*(each.scripts for each in these)),
        )

    def but(self, other: "Interests") -> "Interests":
        """Those that the other ones lack."""
        return Interests(
            outpoints=self.outpoints - other.outpoints,
            txids=self.txids - other.txids,
            scripts=self.scripts - other.scripts,
        )

    def within(self, transactions: Sequence[Tx]) -> tuple[int, ...]:
        """Which of a block's transactions concern them; among them those that spend, in this very block, an output that pays
        one of the scripts."""
        found, paid = [], set[bytes]()
        for number, tx in enumerate(transactions):
            concerned = (
                tx.txid in self.txids
                or not self.outpoints.isdisjoint(tx.prevouts)
                or (bool(paid) and not paid.isdisjoint(tx.prevouts))
            )
            for index, output in enumerate(tx.outputs):
                if output.script in self.scripts:
                    paid.add(outpoint(tx.txid, index))
                    concerned = True
            if concerned:
                found.append(number)
        return tuple(found)

    def __len__(self) -> int:
        return len(self.outpoints) + len(self.txids) + len(self.scripts)


NO_INTERESTS = Interests()


class Verdict(Enum):
    ACCEPTED = "accepted"
    KNOWN = "already in the mempool or the chain"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishResult:
    """What became of a transaction or package. `reason` is the backend's own word (e.g. `min relay fee not met`)."""

    verdict: Verdict
    reason: str = ""


class ChainBackend(ABC):
    """A chain. Every method may raise `rrnode.errors.ChainUnavailable`, and only that.

    Attributes:
        reread_from: the lowest block of which more is known now than was told, None mostly; whoever follows the chain takes
            back what it was told from there on, reads again, and sets it to None.
        lowest: the first block that it can tell of.
        is_hearsay: whether mempools are known by others' word only. That a transaction of ours is in one is then no reason
            not to publish it: only a block's proof is.
    """

    name: str
    lowest: BlockHeight = BlockHeight(0)
    is_hearsay: bool = False
    reread_from: BlockHeight | None = None

    @property
    def doubt(self) -> str | None:
        """Why it does not hold now that nothing happened but what was told, for people; None: it holds. What is told holds
        in any case; as long as there is doubt, nothing new is taken on."""
        return None

    def reread(self, height: BlockHeight) -> None:
        """Lower `reread_from` to this height, if it is not lower already."""
        self.reread_from = height if self.reread_from is None else min(height, self.reread_from)

    def helpers(self) -> tuple[HelperStatus, ...]:
        """How those stand that tell us the chain; none where it is our own."""
        return ()

    def set_related(self, related: Mapping[PeerId, str]) -> None:
        """From now on the silence of these helpers, and of no others but liars, counts for nothing; each with a sentence
        why. Never waits."""
        assert not related, "a chain of its own needs no helpers"

    @abstractmethod
    def running(self) -> AbstractAsyncContextManager[None]:
        """Connect, check that it is the expected network and ready, and serve while inside."""

    @abstractmethod
    async def genesis(self) -> bytes:
        """Hash of block 0: the asset id of this chain's coin."""

    @abstractmethod
    async def tip(self) -> BlockRef:
        """The best block."""

    @abstractmethod
    async def block_at(self, height: BlockHeight) -> BlockRef | None:
        """The best chain's block at this height, None above the tip."""

    @abstractmethod
    async def parent(self, block_hash: bytes) -> bytes:
        """The hash before this one, also off the best chain. Raises ChainUnavailable when the block is not known."""

    @abstractmethod
    async def transactions(self, ref: BlockRef, interests: Interests) -> tuple[Tx, ...]:
        """At least those of this block's transactions that concern the interests, in the block's order; so too those that
        spend an output which pays one of their scripts in the same block."""

    @abstractmethod
    async def mempool(self, interests: Interests = NO_INTERESTS) -> tuple[Txid, ...]:
        """Ids of unconfirmed transactions known now: at least those that spend an output or are a transaction of the
        interests."""

    @abstractmethod
    async def mempool_transaction(self, txid: Txid) -> bytes | None:
        """A transaction that is in the mempool now, else None."""

    async def mempool_transactions(self, txids: Sequence[Txid]) -> dict[Txid, bytes]:
        """Those of these that are in the mempool now."""
        found = {txid: await self.mempool_transaction(txid) for txid in txids}
        return {txid: raw for txid, raw in found.items() if raw is not None}

    @abstractmethod
    async def mempool_spenders(self, outpoints: Sequence[bytes]) -> dict[bytes, Txid]:
        """Which of these outpoints (36 bytes: txid, index as little-endian) the mempool spends now, and by whom."""

    @abstractmethod
    async def unspent(self, txid: Txid, index: int) -> OutputState | None:
        """The output if neither the best chain nor the mempool spends it, else None."""

    @abstractmethod
    async def confirmed_output(self, txid: Txid, index: int) -> OutputState | None:
        """The output if the best chain has it unspent, whatever the mempool does with it, else None."""

    async def surely_unspent(self, txid: Txid, index: int) -> OutputState | None:
        """The output when it is certain that no block of the best chain spends it, whatever the mempool does. None may also
        mean that only reading the blocks can tell."""
        return await self.confirmed_output(txid, index) or await self.unspent(txid, index)

    @abstractmethod
    async def publish(self, transactions: tuple[bytes, ...]) -> PublishResult:
        """Give one transaction, or a parent and its child as a package (BIP 431), to the network. Idempotent."""

    @abstractmethod
    async def feerate(self, within_blocks: int) -> FeeRate:
        """Estimate, satoshi per 1000 virtual bytes, never below the relay floor of 1000 (1 sat/vB)."""

    @abstractmethod
    async def wait_for_change(self, known: BlockRef, mempool_sequence: int) -> int:
        """Return when the tip is no longer `known` or the mempool's sequence differs; gives the new sequence.

        May return early for no reason; the caller looks for itself.
        """


class WholeChain(ChainBackend):
    """A chain whose blocks can be read whole, so that its facts can be proven to others."""

    @abstractmethod
    async def block(self, block_hash: bytes) -> bytes:
        """A whole serialized block. Raises ChainUnavailable when it is not there (pruned, unknown)."""

    @abstractmethod
    async def height_of(self, block_hash: bytes) -> BlockHeight | None:
        """Where this block is in the best chain, None when it is not there."""

    @abstractmethod
    async def headers(self, first: BlockHeight, count: int) -> tuple[bytes, ...]:
        """Headers (80 bytes) of the best chain from a height on, fewer at its end."""

    @abstractmethod
    async def mempool_has(self, txids: Sequence[Txid]) -> frozenset[Txid]:
        """Which of these are in the mempool now."""

    async def parent(self, block_hash: bytes) -> bytes:
        try:
            return parse_header(await self.block(block_hash)).previous
        except DecodeError as error:
            raise ChainUnavailable(f"{self.name} gave a block that is none: {error}") from error

    async def transactions(self, ref: BlockRef, interests: Interests) -> tuple[Tx, ...]:
        return (await self.parsed_block(ref.hash)).transactions

    async def parsed_block(self, block_hash: bytes) -> Block:
        """A whole block, taken apart."""
        raw = await self.block(block_hash)
        try:
            block = await trio.to_thread.run_sync(parse_block, raw) if len(raw) > _LARGE else parse_block(raw)
        except DecodeError as error:
            raise ChainUnavailable(f"{self.name} gave a block that is none: {error}") from error
        if block.header.hash != block_hash:
            raise ChainUnavailable(f"{self.name} gave another block than the one asked for")
        return block


class Miner(ABC):
    """For regtest only: make blocks. Implemented by `kernel`, and by `bitcoind` on a regtest Bitcoin Core."""

    @abstractmethod
    async def mine(self, blocks: int, script: bytes) -> tuple[bytes, ...]:
        """Mine blocks holding what is in the mempool, coinbase paid to `script`; gives their hashes."""

    @abstractmethod
    async def invalidate(self, block_hash: bytes) -> None:
        """Make this block and its descendants not part of the best chain: a reorganisation on demand."""
