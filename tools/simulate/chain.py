"""A chain that believes everything: for engines that are tried out without a real one.

It checks neither scripts nor signatures, only that an output is spent once and that a locktime has been reached; what
is published goes into the next block.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from protocols.channel.events import Outpoint
from protocols.ids import Txid
from protocols.onchain.tx import Tx, parse
from protocols.units import BlockHeight


@dataclass(slots=True)
class Chain:
    """Attributes:
    height: of the best block.
    mempool: transactions for the next block, by id.
    confirmed: height and bytes of each transaction.
    spends: who spent an output, confirmed or not.
    """

    height: BlockHeight = BlockHeight(1000)
    mempool: dict[Txid, bytes] = field(default_factory=dict)
    confirmed: dict[Txid, tuple[BlockHeight, bytes]] = field(default_factory=dict)
    spends: dict[Outpoint, Txid] = field(default_factory=dict)

    def publish(self, transaction: bytes) -> bool:
        """Take a transaction into the mempool; False when it is there, too early, or spends what was spent."""
        tx = parse(transaction)
        txid = tx.txid()
        if txid in self.confirmed or txid in self.mempool or self._too_early(tx):
            return False
        spent = spends(tx)
        if any(self.spends.get(outpoint, txid) != txid for outpoint in spent):
            return False
        self.mempool[txid] = transaction
        self.spends.update(dict.fromkeys(spent, txid))
        return True

    def _too_early(self, tx: Tx) -> bool:
        if any(each.sequence != 0xFFFFFFFF for each in tx.inputs) and self.height < tx.locktime < 500_000_000:
            return True
        for each in tx.inputs:
            there = self.confirmed.get(each.txid)
            relative = each.sequence & 0xFFFF if not each.sequence & (1 << 31) else 0
            if relative and (there is None or self.height + 1 < there[0] + relative):
                return True
        return False

    def mine(self, only: Iterable[Txid] | None = None) -> None:
        """One block with what is in the mempool, or a part of it."""
        self.height = BlockHeight(self.height + 1)
        for txid in list(self.mempool) if only is None else only:
            self.confirmed[txid] = (self.height, self.mempool.pop(txid))

    def spender(self, outpoint: Outpoint) -> tuple[bytes, BlockHeight | None] | None:
        """Who spent an output, and in which block if in any."""
        txid = self.spends.get(outpoint)
        if txid is None:
            return None
        if txid in self.mempool:
            return self.mempool[txid], None
        height, transaction = self.confirmed[txid]
        return transaction, height


def spends(tx: Tx) -> list[Outpoint]:
    """The outputs that a transaction spends."""
    return [Outpoint(txid=each.txid, index=each.index) for each in tx.inputs]
