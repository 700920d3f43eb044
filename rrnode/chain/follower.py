"""Follow the best chain block by block, across reorganisations, and the mempool; tell what concerns the watches.

Facts come in batches that end at a block: whoever takes them commits that block as its cursor together with what followed
from the facts; after a restart everything above the cursor is told, and what re-issued watches ask for again. A batch is
told in this order: what was undone, then block by block, then the mempool, then `TipChanged`.
Source: DESIGN 8; the events are those of `protocols.channel.events`.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import structlog
import trio

from protocols.channel.events import TipChanged, WatchOutpoint, WatchTx
from protocols.errors import DecodeError
from protocols.ids import Txid
from protocols.units import BlockHeight
from rrnode.chain.base import NO_INTERESTS, BlockRef, ChainBackend, Interests
from rrnode.chain.parse import Tx, outpoint, parse_transaction
from rrnode.chain.watches import ChainFact, Watches
from rrnode.errors import ChainUnavailable

DEEPEST = 144  # blocks: how far back branches are remembered, and watches that were told something
BATCH_BLOCKS = 16
BATCH_BYTES = 8_000_000
RESCAN_BLOCKS = 64  # read again for new watches between two looks at the tip
MEMPOOL_FETCH = 500  # transactions fetched between two looks at the tip
OUTPUTS_TRIED = 4  # of a watched transaction, before its block is searched
_FIRST_RETRY, _LAST_RETRY = 0.5, 30.0  # seconds

log = structlog.get_logger("rrnode.chain")


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedBlock:
    """A block of the best chain with its transactions, at least those that concern who follows."""

    ref: BlockRef
    transactions: tuple[Tx, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """News of the chain.

    Attributes:
        tip: where the follower stands after it: the cursor to commit.
        fork: when blocks were taken back, the one that they stood on; those above it are gone.
        connected: the blocks put on top, in order.
        arrived: transactions that are new in the mempool.
        mempool: all that is in the mempool; None where that is not known (still catching up, or not wanted).
        facts: for the channels, in the order of telling.
    """

    tip: BlockRef
    fork: BlockRef | None
    connected: tuple[FollowedBlock, ...]
    arrived: tuple[Tx, ...]
    mempool: frozenset[Txid] | None
    facts: tuple[ChainFact, ...]


@dataclass(slots=True)
class _Rescan:
    """A new watch whose past, from `height` to the follower's block, was not looked at yet."""

    height: int
    txid: Txid | None = None
    place: bytes | None = None
    tried: bool = False  # the short cut


@dataclass(slots=True)
class _Past:
    """What was found out for new watches, and what remains to be read for them."""

    considered: list[_Rescan]
    confirmed: list[tuple[Tx, BlockHeight]]
    blocks: list[FollowedBlock]
    remaining: list[_Rescan]
    read_to: int = -1


@dataclass(slots=True)
class _Mempool:
    present: frozenset[Txid]
    fetched: frozenset[Txid]
    arrived: list[Tx]
    spenders: dict[bytes, Tx | None]


async def read_blocks(
    backend: ChainBackend, first: BlockHeight, last: BlockRef, interests: Callable[[], Interests]
) -> AsyncIterator[FollowedBlock]:
    """Blocks of the best chain from a height up to a block, for those who are behind it (a restored wallet).

    Args:
        interests: what concerns the reader; asked before each block, for they may grow by what is read.

    Raises:
        ChainUnavailable: no answer, or the chain was reorganised meanwhile: begin again.
    """
    previous: bytes | None = None
    for height in range(first, last.height + 1):
        ref = await backend.block_at(BlockHeight(height))
        if (
            ref is None
            or (previous is not None and ref.previous != previous)
            or (height == last.height and ref.hash != last.hash)
        ):
            raise ChainUnavailable("the chain was reorganised while it was read; it is tried again")
        previous = ref.hash
        yield FollowedBlock(ref=ref, transactions=await backend.transactions(ref, interests()))


class Follower:
    """Follows one chain for one taker of batches.

    Use: `start`, then `watch_*` (also later, at any time), then `next` again and again.
    """

    def __init__(
        self,
        backend: ChainBackend,
        *,
        cursor: tuple[BlockHeight, bytes] | None = None,
        mempool: bool = True,
        interests: Callable[[], Interests] = lambda: NO_INTERESTS,
    ) -> None:
        """Nothing is asked yet.

        Args:
            backend: running.
            cursor: height and hash of the block that the taker committed last; None begins at the tip of now.
            mempool: also bring every unconfirmed transaction (`Batch.arrived`), for a wallet. Spends of watched
                outputs are told from the mempool in any case.
            interests: what concerns the taker beside the watches (its scripts and coins); only this is sure to be in
                `Batch.connected` and `Batch.arrived`.
        """
        self._away: str | None = None  # why the chain does not answer now
        self.behind = True  # the best chain went on, or another way, while we were away: `height` is not the world's
        self._backend, self._cursor, self._whole_mempool = backend, cursor, mempool
        self._taker_interests = interests
        self._watches = Watches()
        self._rescans: list[_Rescan] = []
        self._refs: list[BlockRef] = []  # the last ones, in order
        self._doubted: BlockHeight | None = None  # the backend's `reread_from`, until it is read again
        self._lost_past: BlockRef | None = None  # the branch that the cursor was on is gone
        self._seen: frozenset[Txid] = frozenset()
        self._present: frozenset[Txid] | None = None
        self._sequence = -1
        self._settled: BlockRef | None = None  # all is looked at and this is the tip: wait for a change
        self._asked = trio.Event()

    @property
    def trouble(self) -> str | None:
        """Why the chain cannot be followed now, or not be relied on, for people."""
        return self._away or self._backend.doubt

    @property
    def tip(self) -> BlockRef:
        """Where the follower stands: the last batch's tip. Only after `start`."""
        return self._refs[-1]

    @property
    def height(self) -> BlockHeight:
        """Of `tip`; before `start` the cursor's, or 0."""
        return self._refs[-1].height if self._refs else BlockHeight(self._cursor[0] if self._cursor else 0)

    async def start(self) -> None:
        """Find the place of the cursor in the best chain of now.

        Raises:
            ChainUnavailable: no answer; may be called again.
        """
        best = await self._backend.tip()
        if self._cursor is None:
            self._refs, self.behind = [best], False
            return
        height, block_hash = self._cursor
        ref = await self._backend.block_at(height)
        if ref is not None and ref.hash == block_hash:
            self._refs, self.behind = [ref], ref.hash != best.hash
            return
        fork = await self._fork_below(height, block_hash, best)
        log.warning("chain.reorganised_while_away", height=height, fork=fork.height)
        self._refs, self._lost_past = [fork], fork

    async def _fork_below(self, height: int, block_hash: bytes, best: BlockRef) -> BlockRef:
        """The last common block with a branch that is no longer the best; a deep enough guess where it is unknown."""
        lowest = max(self._backend.lowest, height - DEEPEST)
        while height > lowest:
            try:
                block_hash = await self._backend.parent(block_hash)
            except ChainUnavailable:
                break  # the node never saw that branch
            height -= 1
            ref = await self._backend.block_at(BlockHeight(height))
            if ref is not None and ref.hash == block_hash:
                return ref
        ref = await self._backend.block_at(BlockHeight(min(lowest, best.height)))
        if ref is None:
            raise ChainUnavailable("the chain moved while it was looked at; it is tried again")
        return ref

    # --- watching ----------------------------------------------------------------------------------------------------

    def watch_tx(self, order: WatchTx) -> None:
        """Tell of this transaction's confirmation, also of one in a block from `from_height` on. Idempotent."""
        if self._watches.add_tx(order.txid):
            self._rescans.append(_Rescan(order.from_height, txid=order.txid))
            self._asked.set()

    def watch_outpoint(self, order: WatchOutpoint) -> None:
        """Tell of the spend of this output, also of one in a block from `from_height` on. Idempotent."""
        place = outpoint(order.outpoint.txid, order.outpoint.index)
        if self._watches.add_outpoint(place, order.outpoint):
            self._rescans.append(_Rescan(order.from_height, place=place))
            self._asked.set()

    def _interests(self) -> Interests:
        return self._watches.interests() | self._taker_interests()

    # --- telling -----------------------------------------------------------------------------------------------------

    async def next(self) -> Batch:
        """Wait for news and give them. While the chain is away this waits on, with back-off, and `trouble` says why."""
        retry = _FIRST_RETRY
        while True:
            try:
                if not self._refs:
                    await self.start()
                batch = await self._look()
                if self._away is not None:
                    log.warning("chain.followed_again", height=self.height)
                    self._away = None
                retry = _FIRST_RETRY
                if batch is not None:
                    return batch
                await self._wait()
            except ChainUnavailable as error:
                if self._away is None:
                    log.warning("chain.unavailable", reason=str(error))
                self._away = str(error)
                await trio.sleep(retry)
                retry = min(retry * 2, _LAST_RETRY)

    async def _wait(self) -> None:
        """Until tip or mempool differ from what was looked at, or there is a new watch."""
        if self._settled is None or self._rescans:
            await trio.lowlevel.checkpoint()
            return
        self._asked = trio.Event()
        failures: list[ChainUnavailable] = []
        async with trio.open_nursery() as nursery:

            async def changed(known: BlockRef) -> None:
                try:
                    self._sequence = await self._backend.wait_for_change(known, self._sequence)
                except ChainUnavailable as error:
                    failures.append(error)
                nursery.cancel_scope.cancel()

            nursery.start_soon(changed, self._settled)
            await self._asked.wait()
            nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]

    async def _look(self) -> Batch | None:
        """Gather everything first, then change the state at once: a chain that goes away in between loses nothing."""
        self._settled = None
        if (height := self._backend.reread_from) is not None:
            # Taken at once: what becomes known while we look is for the next look.
            self._doubted = height if self._doubted is None else min(height, self._doubted)
            self._backend.reread_from = None
        best = await self._backend.tip()
        fork, kept = await self._common(best, self._doubted)
        if self._doubted is not None and self._doubted <= fork.height:
            self._rescan_all(self._doubted)  # it is below those that we remember
        blocks = await self._above(fork, best)
        tip = blocks[-1].ref if blocks else fork
        past = await self._past(fork)
        mempool = await self._mempool(fork) if tip.hash == best.hash else None
        now = await self._backend.tip()
        if now.hash != tip.hash:
            # A block came meanwhile, so the mempool may lack what it holds; or the whole branch is gone: look again.
            mempool = None
            there = await self._backend.block_at(tip.height)
            if there is None or there.hash != tip.hash:
                return None
        batch = self._take(fork, kept, blocks, past, mempool)
        self._doubted = None
        self.behind = tip.hash != best.hash
        if mempool is not None and mempool.present <= self._seen:
            self._settled = tip
        return batch

    async def _common(self, best: BlockRef, doubted: BlockHeight | None) -> tuple[BlockRef, int]:
        """The last block of ours that is in the best chain and not in doubt, and how many of ours are kept."""
        for kept in range(len(self._refs), 0, -1):
            ref = self._refs[kept - 1]
            if doubted is not None and ref.height >= doubted and kept > 1:
                continue
            if ref.hash == best.hash:
                return ref, kept
            there = await self._backend.block_at(ref.height)
            if there is not None and there.hash == ref.hash:
                return ref, kept
        return await self._fork_below(self._refs[0].height, self._refs[0].hash, best), 0

    async def _above(self, fork: BlockRef, best: BlockRef) -> list[FollowedBlock]:
        """The next blocks of the best chain, as many as a batch may hold."""
        blocks: list[FollowedBlock] = []
        previous, size = fork, 0
        while previous.height < best.height and len(blocks) < BATCH_BLOCKS and size < BATCH_BYTES:
            ref = await self._backend.block_at(BlockHeight(previous.height + 1))
            if ref is None or ref.previous != previous.hash:
                break  # reorganised this moment: the next look sees it
            transactions = await self._backend.transactions(ref, self._interests())
            blocks.append(FollowedBlock(ref=ref, transactions=transactions))
            previous, size = ref, size + sum(len(tx.raw) for tx in transactions)
        return blocks

    # --- the past of new watches -------------------------------------------------------------------------------------

    async def _past(self, fork: BlockRef) -> _Past:
        """Look for what new watches missed, in blocks up to the fork; those above it are looked at anyway."""
        past = _Past(list(self._rescans), [], [], [])
        for rescan in past.considered:
            if rescan.height <= fork.height and not await self._short_cut(rescan, fork, past):
                past.remaining.append(rescan)
        # Without knowing what an earlier life of this node was told, everything must be found before the first word.
        limit = RESCAN_BLOCKS if self._lost_past is None else fork.height + 1
        if past.remaining:
            first = min(rescan.height for rescan in past.remaining)
            past.read_to = min(first + limit - 1, fork.height)
            for height in range(first, past.read_to + 1):
                ref = await self._backend.block_at(BlockHeight(height))
                if ref is None:
                    raise ChainUnavailable("the chain moved while it was read; it is tried again")
                transactions = await self._backend.transactions(ref, self._interests())
                past.blocks.append(FollowedBlock(ref=ref, transactions=self._missed(transactions, past.remaining)))
        return past

    def _rescan_all(self, height: BlockHeight) -> None:
        """Whatever is watched and was not told is looked for in blocks from this height on."""
        waiting = {(rescan.txid, rescan.place): rescan for rescan in self._rescans}
        for key in self._watches.not_told():
            rescan = waiting.get(key)
            if rescan is None:
                self._rescans.append(_Rescan(height, txid=key[0], place=key[1], tried=True))
            else:
                rescan.height, rescan.tried = min(rescan.height, height), True

    async def _short_cut(self, rescan: _Rescan, fork: BlockRef, past: _Past) -> bool:
        """Whether the past of a watch is known without reading blocks: from the outputs that no block spends."""
        if rescan.tried:
            return False
        if rescan.place is not None:
            txid, index = Txid(rescan.place[:32]), int.from_bytes(rescan.place[32:], "little")
            rescan.tried = await self._backend.surely_unspent(txid, index) is None
            return not rescan.tried
        assert rescan.txid is not None
        for index in range(OUTPUTS_TRIED):
            state = await self._backend.surely_unspent(rescan.txid, index)
            if state is not None:
                if state.height is None or state.height > fork.height:
                    return True
                ref = await self._backend.block_at(state.height)
                block = () if ref is None else await self._backend.transactions(ref, self._interests())
                found = [tx for tx in block if tx.txid == rescan.txid]
                if not found:
                    raise ChainUnavailable("the chain moved while it was read; it is tried again")
                past.confirmed.append((found[0], state.height))
                return True
        rescan.tried = True
        return False

    @staticmethod
    def _missed(transactions: tuple[Tx, ...], rescans: list[_Rescan]) -> tuple[Tx, ...]:
        txids = {rescan.txid for rescan in rescans}
        places = {rescan.place for rescan in rescans}
        return tuple(tx for tx in transactions if tx.txid in txids or not places.isdisjoint(tx.prevouts))

    # --- the mempool -------------------------------------------------------------------------------------------------

    async def _mempool(self, fork: BlockRef) -> _Mempool:
        present = frozenset(await self._backend.mempool(self._interests())) if self._whole_mempool else frozenset()
        new = list(present - self._seen)[:MEMPOOL_FETCH]
        arrived = [_parsed(raw) for raw in (await self._backend.mempool_transactions(new)).values()] if new else []
        by_txid = {tx.txid: tx for tx in arrived}
        places = self._watches.open_outpoints(fork.height)
        found = await self._backend.mempool_spenders(places) if places else {}
        unknown = {
            txid for place, txid in found.items() if txid != self._watches.told_unconfirmed(place)
        } - by_txid.keys()
        if unknown:
            raws = await self._backend.mempool_transactions(list(unknown))
            by_txid |= {txid: _parsed(raw) for txid, raw in raws.items()}
        return _Mempool(present, frozenset(new), arrived, {place: by_txid.get(txid) for place, txid in found.items()})

    # --- taking it in ------------------------------------------------------------------------------------------------

    def _take(
        self, fork: BlockRef, kept: int, blocks: list[FollowedBlock], past: _Past, mempool: _Mempool | None
    ) -> Batch | None:
        undone = fork if fork.hash != self.tip.hash or self._lost_past is not None else None
        facts = self._watches.undo(fork.height)
        for found in past.blocks:
            facts += self._watches.block(found.ref.height, found.transactions)
        for tx, height in past.confirmed:
            facts += self._watches.confirmed(tx, height)
        for block in blocks:
            facts += self._watches.block(block.ref.height, block.transactions)
        if self._lost_past is not None:
            facts = [*self._watches.never_told(), *facts]
            self._lost_past = None
        arrived: list[Tx] = []
        left = False
        if mempool is not None:
            facts += self._watches.mempool(mempool.spenders)
            arrived = mempool.arrived
            left = self._whole_mempool and mempool.present != self._present
            self._present = mempool.present
            self._seen = (self._seen & mempool.present) | mempool.fetched
        self._refs = [*(self._refs[:kept] or [fork]), *(block.ref for block in blocks)][-DEEPEST - 1 :]
        for rescan in past.remaining:
            rescan.height = max(rescan.height, past.read_to + 1)
        self._rescans = [
            rescan
            for rescan in past.remaining
            if rescan.height <= fork.height and not self._watches.is_told(txid=rescan.txid, place=rescan.place)
        ] + self._rescans[len(past.considered) :]  # those that came meanwhile
        self._watches.forget(BlockHeight(self.tip.height - DEEPEST))
        if undone is not None or blocks:
            facts.append(TipChanged())
        if not (facts or arrived or left):
            return None
        return Batch(
            tip=self.tip,
            fork=undone,
            connected=tuple(blocks),
            arrived=tuple(arrived),
            mempool=mempool.present if mempool is not None and self._whole_mempool else None,
            facts=tuple(facts),
        )


def _parsed(raw: bytes) -> Tx:
    try:
        return parse_transaction(raw)
    except DecodeError as error:
        raise ChainUnavailable(f"the chain gave a transaction that is none: {error}") from error
