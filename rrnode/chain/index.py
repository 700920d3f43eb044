"""The best chain as the embedded regtest sees it: its blocks' places and its unspent outputs, in memory.

Rebuilt by reading the blocks at start (a regtest is small); undo data is kept for recent blocks, deeper reorganisations
read the chain again. Consensus is libbitcoinkernel's business: only blocks that it has connected come here.
"""

from collections import OrderedDict
from dataclasses import dataclass

from protocols.units import BlockHeight, Sat
from rrnode.chain.base import BlockRef
from rrnode.chain.parse import Block, Header, outpoint

UNDO_KEPT = 288  # blocks that can be taken back without reading the chain again
_MEDIAN_SPAN = 11  # BIP 113


@dataclass(frozen=True, slots=True)
class Unspent:
    """An unspent output of the best chain."""

    value: Sat
    script: bytes
    height: BlockHeight
    coinbase: bool


@dataclass(frozen=True, slots=True)
class _Undo:
    spent: tuple[tuple[bytes, Unspent], ...]
    created: tuple[bytes, ...]


class ChainIndex:
    """Places and unspent outputs of the best chain, moved block by block."""

    def __init__(self, genesis: Header) -> None:
        """Begin at block 0, whose output is not spendable."""
        self.start_again(genesis)

    def start_again(self, genesis: Header) -> None:
        """Forget everything above block 0."""
        self.unspent: dict[bytes, Unspent] = {}
        self._refs = [BlockRef(height=BlockHeight(0), hash=genesis.hash, previous=genesis.previous, time=genesis.time)]
        self._headers = [genesis.raw]
        self._undo: OrderedDict[bytes, _Undo] = OrderedDict()

    @property
    def tip(self) -> BlockRef:
        return self._refs[-1]

    def at(self, height: int) -> BlockRef | None:
        """The block at this height, None above the tip."""
        return self._refs[height] if 0 <= height < len(self._refs) else None

    def headers(self, first: int, count: int) -> tuple[bytes, ...]:
        """Up to so many headers from a height on."""
        return tuple(self._headers[max(first, 0) : max(first, 0) + count])

    def height_of(self, block_hash: bytes) -> BlockHeight | None:
        """Where this block stands in the best chain, None when it does not."""
        return next((ref.height for ref in reversed(self._refs) if ref.hash == block_hash), None)

    def median_time(self, height: int) -> int:
        """Median of the times of this block and the ten before it (BIP 113)."""
        times = sorted(ref.time for ref in self._refs[max(0, height - _MEDIAN_SPAN + 1) : height + 1])
        return times[len(times) // 2]

    def connect(self, block: Block) -> None:
        """Put the next block on top; it was validated, and its parent is the tip."""
        header = block.header
        if header.previous != self.tip.hash:
            raise AssertionError("a block that does not follow the tip")
        height = BlockHeight(self.tip.height + 1)
        spent, created = [], []
        for transaction in block.transactions:
            if not transaction.is_coinbase:
                spent += [(prevout, self.unspent.pop(prevout)) for prevout in transaction.prevouts]
            for number, output in enumerate(transaction.outputs):
                if output.script[:1] == b"\x6a":  # OP_RETURN can never be spent
                    continue
                place = outpoint(transaction.txid, number)
                self.unspent[place] = Unspent(output.value, output.script, height, transaction.is_coinbase)
                created.append(place)
        self._refs.append(BlockRef(height=height, hash=header.hash, previous=header.previous, time=header.time))
        self._headers.append(header.raw)
        self._undo[header.hash] = _Undo(tuple(spent), tuple(created))
        while len(self._undo) > UNDO_KEPT:
            self._undo.popitem(last=False)

    def disconnect(self) -> bool:
        """Take the tip off; False when its undo data is no longer kept (then start again from block 0)."""
        undo = self._undo.pop(self.tip.hash, None)
        if undo is None:
            return False
        self._refs.pop()
        self._headers.pop()
        self.unspent.update(undo.spent)  # first what it spent: an output made and spent in one block stays gone
        for place in undo.created:
            self.unspent.pop(place, None)
        return True
