"""The embedded regtest: a chain of our own on libbitcoinkernel, in this process, kept on disk (DESIGN 3).

libbitcoinkernel validates every block and every input; this module makes the blocks, keeps the mempool and answers.
`rrnode chain serve` offers it to other processes (`rpc_server`).
"""

import fcntl
import gc
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pbk
import structlog
import trio
from pbk.util.exc import ProcessBlockException

from bootstrap.networks import REGTEST
from protocols.errors import DecodeError, MisuseError
from protocols.ids import Txid
from protocols.units import BlockHeight, FeeRate
from rrnode.chain import parse
from rrnode.chain.base import (
    NO_INTERESTS,
    BlockRef,
    Interests,
    Miner,
    OutputState,
    PublishResult,
    Verdict,
    WholeChain,
)
from rrnode.chain.index import ChainIndex, Unspent
from rrnode.chain.mempool import MAX_PACKAGE, Mempool, Outcome, PackageOutcome
from rrnode.chain.mining import build_block
from rrnode.chain.parse import Block, Tx, outpoint
from rrnode.chain.scopes import background
from rrnode.chain.store import ChainStore
from rrnode.chain.verdicts import verdict_of_package, verdict_of_single
from rrnode.chain.verify import check_transaction
from rrnode.errors import ChainUnavailable, StorageFailed

RELAY_FLOOR = FeeRate(1000)
ANYONE_CAN_SPEND = bytes.fromhex(  # P2WSH of OP_TRUE: where a block goes when nobody is named
    "00204ae81572f06e1b88fd5ced7a1a000945432e83e1551e6f721ee9c00b8cc33260"
)

log = structlog.get_logger("rrnode.chain")


def scripts_hold(transaction: Tx, coins: Sequence[Unspent]) -> bool:
    """Does libbitcoinkernel accept every input, all consensus rules on?"""
    return check_transaction(transaction.raw, [(coin.value, coin.script) for coin in coins]) is None


class KernelChain(WholeChain, Miner):
    """A regtest chain of our own. All methods are for one Trio loop; use it inside `running`."""

    name = "kernel"

    def __init__(
        self,
        directory: Path,
        *,
        feerate: FeeRate = RELAY_FLOOR,
        mine_every: float | None = None,
        mine_to: bytes = ANYONE_CAN_SPEND,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is opened yet.

        Args:
            directory: made when it does not exist; used by one process at a time.
            feerate: the constant estimate, satoshi per 1000 virtual bytes, at least 1000.
            mine_every: seconds between blocks made by themselves; None for on demand only.
            mine_to: output script that those blocks pay to.
            clock: seconds since 1970.
        """
        if feerate < RELAY_FLOOR:
            raise MisuseError(f"feerate of {feerate} sat/kvB, at least {RELAY_FLOOR} wanted")
        self._directory, self._feerate, self._clock = directory, feerate, clock
        self._mine_every, self._mine_to = mine_every, mine_to
        self._changed = trio.Event()
        self._mining = trio.Lock()
        self._open = False

    # --- opening and closing -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the chain (validating what libbitcoinkernel had not written yet) and serve while inside.

        Raises:
            ChainUnavailable: another process uses the directory, or it cannot be read or written.
        """
        if self._open:
            raise MisuseError("this chain is running already")
        try:
            await trio.to_thread.run_sync(self._open_all)
        except BaseException:
            self._close_all()
            raise
        self._open = True
        try:
            async with background() as nursery:
                if self._mine_every is not None:
                    nursery.start_soon(self._mine_by_timer, self._mine_every)
                yield
        finally:
            self._open = False
            self._changed.set()
            self._close_all()

    def _open_all(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ChainUnavailable(
                f"the regtest in {self._directory} is in use by another process; reach it by RPC, or stop that one"
            ) from error
        except OSError as error:
            raise ChainUnavailable(f"the regtest's directory {self._directory} cannot be used: {error}") from error
        try:
            self._store = ChainStore(self._directory / "chain.sqlite")
        except StorageFailed as error:
            raise ChainUnavailable(str(error)) from error
        try:
            self._open_kernel()
        except RuntimeError:
            # Its files are damaged; ours are the truth, so it begins anew. No other process has them: we hold the lock.
            log.warning("chain.kernel_rebuilt", directory=str(self._directory))
            shutil.rmtree(self._directory / "kernel", ignore_errors=True)
            self._open_kernel()
        for block_hash, raw in self._store.blocks():
            if pbk.BlockHash(block_hash) not in self._manager.block_tree_entries:
                try:
                    self._manager.process_block(pbk.Block(raw))
                except ProcessBlockException:  # refused once, refused now (or the machine's clock was set back)
                    log.warning("chain.block_not_taken", block=block_hash[::-1].hex())
        genesis = parse.parse_header(bytes(self._manager.blocks[self._entry(0)]))
        if genesis.hash != REGTEST.genesis:
            raise ChainUnavailable(f"{self._directory} holds no regtest chain")
        self._genesis = genesis
        self.index = ChainIndex(genesis)
        self.mempool_now = Mempool(self.index, scripts_hold, floor=RELAY_FLOOR)
        self._follow_kernel()
        kept = []
        for raw in self._store.mempool():
            kept.append(parse.parse_transaction(raw))
        self.mempool_now.rebuild(kept)
        self._save_mempool()

    def _open_kernel(self) -> None:
        directory = self._directory / "kernel"
        context = pbk.make_context(pbk.ChainType.REGTEST)
        options = pbk.ChainstateManagerOptions(context, str(directory), str(directory / "blocks"))
        self._manager = pbk.ChainstateManager(options)
        self._active = self._manager.get_active_chain()

    def _close_all(self) -> None:
        for name in ("_active", "_manager"):  # the kernel writes its index when its last reference goes
            self.__dict__.pop(name, None)
        gc.collect()
        if store := self.__dict__.pop("_store", None):
            store.close()
        if lock := self.__dict__.pop("_lock", None):
            os.close(lock)

    def _check_open(self) -> None:
        if not self._open:
            raise ChainUnavailable(f"the regtest in {self._directory} is not running")

    # --- the kernel --------------------------------------------------------------------------------------------------

    def _entry(self, height: int) -> "pbk.BlockTreeEntry":
        return self._active.block_tree_entries[height]

    def _read(self, entry: "pbk.BlockTreeEntry") -> bytes:
        try:
            return bytes(self._manager.blocks[entry])
        except RuntimeError as error:
            raise ChainUnavailable(f"a block of the regtest in {self._directory} cannot be read") from error

    def _follow_kernel(self) -> None:
        """Bring index and mempool to the kernel's best chain."""
        height = self._active.height
        stale = []
        ref: BlockRef | None = self.index.tip
        while ref is not None and (ref.height > height or self._hash_at(ref.height) != ref.hash):
            stale.append(ref)
            ref = self.index.at(ref.height - 1)
        returning: list[Tx] = []
        for gone in stale:
            returning = [tx for tx in self._block_by_hash(gone.hash).transactions if not tx.is_coinbase] + returning
        for _ in stale:
            if not self.index.disconnect():
                self.index.start_again(self._genesis)  # deeper than undo data reaches
                break
        while self.index.tip.height < height:
            block = parse.parse_block(self._read(self._entry(self.index.tip.height + 1)))
            self.index.connect(block)
            self.mempool_now.block_connected(block.transactions)
        if stale:
            self.mempool_now.rebuild(returning)

    def _hash_at(self, height: int) -> bytes:
        return bytes(self._entry(height).block_hash)

    def _block_by_hash(self, block_hash: bytes) -> Block:
        return parse.parse_block(self._read(self._manager.block_tree_entries[pbk.BlockHash(block_hash)]))

    def _save_mempool(self) -> None:
        entries = self.mempool_now.entries
        try:
            self._store.save_mempool({bytes(txid): entry.tx.raw for txid, entry in entries.items()})
        except StorageFailed as error:
            log.error("chain.mempool_not_saved", reason=str(error))  # it may be lost; the chain goes on

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- ChainBackend ------------------------------------------------------------------------------------------------

    async def genesis(self) -> bytes:
        return REGTEST.genesis

    async def tip(self) -> BlockRef:
        self._check_open()
        return self.index.tip

    async def block_at(self, height: BlockHeight) -> BlockRef | None:
        self._check_open()
        return self.index.at(height)

    async def block(self, block_hash: bytes) -> bytes:
        self._check_open()
        key = pbk.BlockHash(block_hash) if len(block_hash) == 32 else None
        if key is None or key not in self._manager.block_tree_entries:
            raise ChainUnavailable(f"no block {block_hash[::-1].hex()} on this regtest")
        return self._read(self._manager.block_tree_entries[key])

    async def height_of(self, block_hash: bytes) -> BlockHeight | None:
        self._check_open()
        return self.index.height_of(block_hash)

    async def headers(self, first: BlockHeight, count: int) -> tuple[bytes, ...]:
        self._check_open()
        return self.index.headers(first, count)

    async def mempool(self, interests: Interests = NO_INTERESTS) -> tuple[Txid, ...]:
        self._check_open()
        return tuple(self.mempool_now.entries)

    async def mempool_transaction(self, txid: Txid) -> bytes | None:
        self._check_open()
        entry = self.mempool_now.entries.get(txid)
        return entry.tx.raw if entry else None

    async def mempool_has(self, txids: Sequence[Txid]) -> frozenset[Txid]:
        self._check_open()
        return frozenset(txid for txid in txids if txid in self.mempool_now.entries)

    async def mempool_spenders(self, outpoints: Sequence[bytes]) -> dict[bytes, Txid]:
        self._check_open()
        found = {place: self.mempool_now.spender(place) for place in outpoints}
        return {place: txid for place, txid in found.items() if txid is not None}

    async def unspent(self, txid: Txid, index: int) -> OutputState | None:
        self._check_open()
        if self.mempool_now.spender(outpoint(txid, index)) is not None:
            return None
        if confirmed := await self.confirmed_output(txid, index):
            return confirmed
        entry = self.mempool_now.entries.get(txid)
        if entry is None or index >= len(entry.tx.outputs):
            return None
        output = entry.tx.outputs[index]
        return OutputState(value=output.value, script=output.script, height=None)

    async def confirmed_output(self, txid: Txid, index: int) -> OutputState | None:
        self._check_open()
        coin = self.index.unspent.get(outpoint(txid, index))
        return OutputState(value=coin.value, script=coin.script, height=coin.height) if coin else None

    async def publish(self, transactions: tuple[bytes, ...]) -> PublishResult:
        try:
            parsed = [parse.parse_transaction(raw) for raw in transactions]
        except DecodeError as error:
            return PublishResult(verdict=Verdict.REFUSED, reason=f"TX decode failed: {error}")
        if len(parsed) == 1:
            outcome = self.submit(parsed[0])
            return verdict_of_single(outcome.error, known=outcome.known)
        package = self.submit_package(parsed)
        return verdict_of_package(package.message, [(o.error, o.known) for o in package.outcomes])

    async def feerate(self, within_blocks: int) -> FeeRate:
        self._check_open()
        return self._feerate

    async def wait_for_change(self, known: BlockRef, mempool_sequence: int) -> int:
        self._check_open()
        if known.hash == self.index.tip.hash and mempool_sequence == self.mempool_now.sequence:
            await self._changed.wait()
            self._check_open()
        else:
            await trio.lowlevel.checkpoint()
        return self.mempool_now.sequence

    # --- for `rpc_server` --------------------------------------------------------------------------------------------

    def submit(self, transaction: Tx) -> Outcome:
        """Take one transaction into the mempool, or say why not."""
        self._check_open()
        outcome = self.mempool_now.submit(transaction)
        if not outcome.error and not outcome.known:
            self._save_mempool()
            self._tell_changed()
        return outcome

    def submit_package(self, transactions: Sequence[Tx]) -> PackageOutcome:
        """Take a child with its parents into the mempool, or say why not; some of them may be taken all the same."""
        self._check_open()
        children = {prevout[:32] for prevout in transactions[-1].prevouts} if transactions else set()
        distinct = len({tx.txid for tx in transactions}) == len(transactions)
        if not 1 <= len(transactions) <= MAX_PACKAGE or not distinct:
            return PackageOutcome(
                message="package-too-many-transactions" if distinct else "package-contains-duplicates", outcomes=()
            )
        if any(tx.txid not in children for tx in transactions[:-1]):
            return PackageOutcome(message="package-not-child-with-parents", outcomes=())
        sequence = self.mempool_now.sequence
        package = self.mempool_now.submit_package(transactions)
        if self.mempool_now.sequence != sequence:
            self._save_mempool()
            self._tell_changed()
        return package

    def height_of_any(self, block_hash: bytes) -> int:
        """Height of a block that is there, in the best chain or not."""
        return int(self._manager.block_tree_entries[pbk.BlockHash(block_hash)].height)

    # --- Miner -------------------------------------------------------------------------------------------------------

    async def mine(self, blocks: int, script: bytes) -> tuple[bytes, ...]:
        async with self._mining:
            hashes = []
            for _ in range(blocks):
                self._check_open()
                entries = self.mempool_now.for_block()
                transactions, fees = [entry.tx for entry in entries], sum(entry.fee for entry in entries)
                hashes.append(self._make_block(self.index.tip, transactions, fees, script))
                if self.index.tip.hash != hashes[-1]:
                    raise ChainUnavailable("libbitcoinkernel did not connect a block of this regtest")
                await trio.lowlevel.checkpoint()
            return tuple(hashes)

    async def invalidate(self, block_hash: bytes) -> None:
        """The kernel has no such order, so a longer branch of empty blocks grows from the block's parent."""
        async with self._mining:
            self._check_open()
            height = self.index.height_of(block_hash)
            if height is None:
                return
            if height == 0:
                raise MisuseError("the first block cannot be undone")
            parent = self.index.at(height - 1)
            assert parent is not None
            missing = self.index.tip.height - parent.height + 1
            times = [ref.time for n in range(max(0, height - 11), height) if (ref := self.index.at(n))]
            for _ in range(missing):
                parent = self._make_side_block(parent, times)
                times = [*times, parent.time][-11:]
            self._follow_kernel()
            self._save_mempool()
            self._tell_changed()
            if self.index.tip.hash != parent.hash:
                raise ChainUnavailable("libbitcoinkernel did not take the longer branch")
        await trio.lowlevel.checkpoint()

    def _make_block(self, parent: BlockRef, transactions: Sequence[Tx], fees: int, script: bytes) -> bytes:
        when = max(self.index.median_time(parent.height) + 1, int(self._clock()))
        raw = build_block(parent, transactions, fees, script, when, number=self._store.block_count())
        made = self._keep_block(raw)
        self._follow_kernel()
        self._save_mempool()
        self._tell_changed()
        return made

    def _make_side_block(self, parent: BlockRef, times: list[int]) -> BlockRef:
        when = max(sorted(times)[len(times) // 2] + 1, int(self._clock()))
        raw = build_block(parent, (), 0, ANYONE_CAN_SPEND, when, number=self._store.block_count())
        made = self._keep_block(raw)
        return BlockRef(height=BlockHeight(parent.height + 1), hash=made, previous=parent.hash, time=when)

    def _keep_block(self, raw: bytes) -> bytes:
        block_hash = parse.parse_header(raw).hash
        try:
            self._store.add_block(block_hash, raw)  # first to disk: the kernel writes its own index much later
        except StorageFailed as error:
            raise ChainUnavailable(str(error)) from error
        try:
            self._manager.process_block(pbk.Block(raw))
        except ProcessBlockException as error:
            self._store.drop_block(block_hash)
            raise ChainUnavailable("libbitcoinkernel refused a new block; check this machine's clock") from error
        return block_hash

    async def _mine_by_timer(self, seconds: float) -> None:
        while True:
            await trio.sleep(seconds)
            try:
                await self.mine(1, self._mine_to)
            except ChainUnavailable as error:
                log.error("chain.no_block_made", reason=str(error))
