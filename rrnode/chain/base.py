"""The ChainBackend interface: what a node needs of a chain, however it is reached (DESIGN 3, 8).

Held to one set of contract tests: `kernel` (embedded regtest on libbitcoinkernel), `bitcoind` (Bitcoin Core by RPC; also
reaches `rrnode chain serve`), later `remote`. Backends are asked, they do not push: `wait_for_change` is the only wait.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum

from protocols.ids import Txid
from protocols.units import BlockHeight, FeeRate, Sat


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
    """A chain. Every method may raise `rrnode.errors.ChainUnavailable`, and only that."""

    name: str

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
    async def block(self, block_hash: bytes) -> bytes:
        """A whole serialized block. Raises ChainUnavailable when it is not there (pruned, unknown)."""

    @abstractmethod
    async def mempool(self) -> tuple[Txid, ...]:
        """Ids of the unconfirmed transactions known now."""

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


class Miner(ABC):
    """For regtest only: make blocks. Implemented by `kernel`, and by `bitcoind` on a regtest Bitcoin Core."""

    @abstractmethod
    async def mine(self, blocks: int, script: bytes) -> tuple[bytes, ...]:
        """Mine blocks holding what is in the mempool, coinbase paid to `script`; gives their hashes."""

    @abstractmethod
    async def invalidate(self, block_hash: bytes) -> None:
        """Make this block and its descendants not part of the best chain: a reorganisation on demand."""
