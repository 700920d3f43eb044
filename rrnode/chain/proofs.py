"""Facts of a whole chain with their proofs, for clients that hold none (DESIGN 8). Asks the chain, remembers two blocks."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio

from protocols.ids import Txid
from protocols.light.merkle import branch_of, tree_of
from protocols.light.witness import commitment_of, witness_tree_of
from protocols.units import BlockHeight
from protocols.wire.chain import MAX_HEADERS, Proven, ProvenWhole
from rrnode.chain.base import Interests, WholeChain
from rrnode.chain.parse import Tx, parse_header
from rrnode.errors import ChainUnavailable

BLOCKS_KEPT = 2  # taken apart, for several clients ask for the same: some 30 MB each on mainnet
READERS = 2  # blocks read at a time for all clients together, so that the node itself is not held up
_MANY = 500  # transactions of a block whose trees are built in a thread
_ASKED_ONE_BY_ONE = 100  # watched transactions; of more, the mempool's ids are asked for first


_Tree = tuple[tuple[bytes, ...], ...]


@dataclass(frozen=True, slots=True)
class _Block:
    transactions: tuple[Tx, ...]
    tree: _Tree
    witness_tree: _Tree | None  # None: it commits to no witnesses, and has none

    def proven(self, number: int) -> Proven:
        return Proven(number, branch_of(self.tree, number), self.transactions[number].raw)

    def proven_whole(self, number: int) -> ProvenWhole:
        witnesses = () if self.witness_tree is None else branch_of(self.witness_tree, number)
        return ProvenWhole(number, branch_of(self.tree, number), self.transactions[number].raw, witnesses)


def _block_of(transactions: tuple[Tx, ...]) -> _Block:
    commitment = commitment_of([output.script for output in transactions[0].outputs])
    witnesses = None if commitment is None else witness_tree_of([tx.wtxid for tx in transactions])
    return _Block(transactions, tree_of([tx.txid for tx in transactions]), witnesses)


@dataclass(frozen=True, slots=True)
class MempoolLook:
    """Which watched transactions the mempool holds, and who spends watched outputs there."""

    present: frozenset[Txid]
    spenders: Mapping[bytes, Txid]

    def of(self, interests: Interests) -> frozenset[Txid]:
        """What of it concerns one client."""
        spending = {self.spenders[place] for place in self.spenders.keys() & interests.outpoints}
        return (self.present & interests.txids) | spending


class Proofs:
    """Answers the questions of `/rr/chain/1`. Every method may raise ChainUnavailable."""

    def __init__(self, chain: WholeChain) -> None:
        self._chain = chain
        self._blocks: OrderedDict[bytes, _Block] = OrderedDict()
        self._reading = trio.CapacityLimiter(READERS)

    async def headers_after(self, locator: Sequence[bytes]) -> tuple[BlockHeight, bytes] | None:
        """The tip's height, and headers after the first of these blocks that is in the best chain; None: none of them is."""
        tip = await self._chain.tip()
        for block_hash in locator:
            height = await self._chain.height_of(block_hash)
            if height is not None:
                headers = await self._chain.headers(BlockHeight(height + 1), MAX_HEADERS)
                previous = block_hash
                for raw in headers:
                    header = parse_header(raw)
                    if header.previous != previous:  # reorganised this moment; a client would take it for a lie
                        raise ChainUnavailable("the chain moved while it was looked at")
                    previous = header.hash
                return tip.height, b"".join(headers)
        return None

    async def matches(
        self, block_hash: bytes, interests: Interests
    ) -> tuple[tuple[Proven, ...], tuple[ProvenWhole, ...]] | None:
        """The coinbase, and what of this block concerns somebody; both empty when nothing does, None when the block is not in
        the best chain."""
        if await self._chain.height_of(block_hash) is None:
            return None
        block = await self._block(block_hash)
        found = tuple(block.proven_whole(number) for number in interests.within(block.transactions))
        return (block.proven(0),) if found else (), found

    async def output(self, txid: Txid, index: int) -> tuple[bytes, bytes, Proven] | None:
        """The tip as of which an output is unspent by blocks, the block that made it, and its transaction; None: it is not."""
        tip = await self._chain.tip()
        state = await self._chain.confirmed_output(txid, index)
        ref = None if state is None or state.height is None else await self._chain.block_at(state.height)
        if ref is None:
            return None
        block = await self._block(ref.hash)
        number = next((number for number, tx in enumerate(block.transactions) if tx.txid == txid), None)
        if number is None:
            raise ChainUnavailable("the chain moved while it was looked at")
        return tip.hash, ref.hash, block.proven(number)

    async def mempool(self, interests: Interests) -> dict[Txid, bytes]:
        """What in the mempool spends somebody's outputs or is one of their transactions."""
        there = (await self.look_at_mempool(interests)).of(interests)
        return await self._chain.mempool_transactions(tuple(there)) if there else {}

    async def look_at_mempool(self, interests: Interests) -> MempoolLook:
        """Look once for all whose interests are joined in these; no transaction is fetched."""
        txids, outpoints = interests.txids, tuple(interests.outpoints)
        if len(txids) > _ASKED_ONE_BY_ONE:
            present = txids & frozenset(await self._chain.mempool())
        else:
            present = await self._chain.mempool_has(tuple(txids)) if txids else frozenset()
        return MempoolLook(present, await self._chain.mempool_spenders(outpoints) if outpoints else {})

    async def _block(self, block_hash: bytes) -> _Block:
        async with self._reading:
            block = self._blocks.get(block_hash)
            if block is None:
                transactions = (await self._chain.parsed_block(block_hash)).transactions
                if len(transactions) < _MANY:
                    block = _block_of(transactions)
                else:
                    block = await trio.to_thread.run_sync(_block_of, transactions)
                self._blocks[block_hash] = block
            self._blocks.move_to_end(block_hash)
            while len(self._blocks) > BLOCKS_KEPT:
                self._blocks.popitem(last=False)
            return block
