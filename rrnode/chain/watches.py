"""What the follower watches and has told: from blocks and mempool to facts, each told once. No I/O.

Source: the events of `protocols.channel.events`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocols.channel.events import (
    Outpoint,
    OutputSpent,
    SpendGone,
    TipChanged,
    TxConfirmed,
    TxUnconfirmed,
)
from protocols.ids import Txid
from protocols.units import BlockHeight
from rrnode.chain.base import Interests
from rrnode.chain.parse import Tx

ChainFact = TxUnconfirmed | SpendGone | TxConfirmed | OutputSpent | TipChanged


@dataclass(slots=True)
class _TxWatch:
    told: BlockHeight | None = None  # height told last; None when told as unconfirmed, or never


@dataclass(slots=True)
class _SpendWatch:
    outpoint: Outpoint
    spender: Txid | None = None  # told last
    height: BlockHeight | None = None  # of the spend told last; None while in the mempool


class Watches:
    """Watched transactions and outputs with what was told of each."""

    def __init__(self) -> None:
        self._txs: dict[Txid, _TxWatch] = {}
        self._spends: dict[bytes, _SpendWatch] = {}

    def add_tx(self, txid: Txid) -> bool:
        """Watch a transaction; False when it is watched already."""
        return self._txs.setdefault(txid, watch := _TxWatch()) is watch

    def add_outpoint(self, place: bytes, outpoint: Outpoint) -> bool:
        """Watch an output (`place`: its 36 bytes); False when it is watched already."""
        return self._spends.setdefault(place, watch := _SpendWatch(outpoint)) is watch

    def interests(self) -> Interests:
        """What blocks and mempool must be looked through for."""
        return Interests(outpoints=frozenset(self._spends), txids=frozenset(self._txs))

    def open_outpoints(self, fork: BlockHeight) -> list[bytes]:
        """Those that no block up to this height is known to spend."""
        return [place for place, watch in self._spends.items() if watch.height is None or watch.height > fork]

    def told_unconfirmed(self, place: bytes) -> Txid | None:
        """The spender told last, if it was told as unconfirmed."""
        watch = self._spends[place]
        return watch.spender if watch.height is None else None

    def is_told(self, *, txid: Txid | None, place: bytes | None) -> bool:
        """Whether a confirmation or a confirmed spend was told (or the watch has ended)."""
        if txid is not None:
            return txid not in self._txs or self._txs[txid].told is not None
        return place not in self._spends or self._spends[place].height is not None

    def not_told(self) -> list[tuple[Txid | None, bytes | None]]:
        """Transactions and outputs of which no block's fact was told, each as (txid, place)."""
        txs: list[tuple[Txid | None, bytes | None]] = [(txid, None) for txid, w in self._txs.items() if w.told is None]
        return txs + [(None, place) for place, w in self._spends.items() if w.height is None]

    def undo(self, fork: BlockHeight) -> list[ChainFact]:
        """Blocks above this height are gone."""
        facts: list[ChainFact] = []
        for txid, tx_watch in self._txs.items():
            if tx_watch.told is not None and tx_watch.told > fork:
                tx_watch.told = None
                facts.append(TxUnconfirmed(txid=txid))
        for watch in self._spends.values():
            if watch.height is not None and watch.height > fork:
                watch.spender = watch.height = None
                facts.append(SpendGone(outpoint=watch.outpoint))
        return facts

    def never_told(self) -> list[ChainFact]:
        """That nothing is known of these: said when an earlier life of this node may have been told otherwise."""
        return [
            *(TxUnconfirmed(txid=txid) for txid, watch in self._txs.items() if watch.told is None),
            *(SpendGone(outpoint=watch.outpoint) for watch in self._spends.values() if watch.spender is None),
        ]

    def confirmed(self, tx: Tx, height: BlockHeight) -> list[ChainFact]:
        """A transaction is in the block at this height."""
        watch = self._txs.get(tx.txid)
        if watch is None or watch.told == height:
            return []
        watch.told = height
        return [TxConfirmed(txid=tx.txid, height=height, transaction=tx.raw)]

    def block(self, height: BlockHeight, transactions: Iterable[Tx]) -> list[ChainFact]:
        """A block of the best chain, in the order of its transactions."""
        facts: list[ChainFact] = []
        txs, spends = self._txs, self._spends
        for tx in transactions:
            if tx.txid in txs:
                facts += self.confirmed(tx, height)
            for place in tx.prevouts:
                if place in spends:
                    watch = spends[place]
                    if (watch.spender, watch.height) != (tx.txid, height):
                        watch.spender, watch.height = tx.txid, height
                        facts.append(OutputSpent(outpoint=watch.outpoint, transaction=tx.raw, height=height))
        return facts

    def mempool(self, spenders: Mapping[bytes, Tx | None]) -> list[ChainFact]:
        """Who spends the open outpoints now, nobody where one is missing; None where it is no news."""
        facts: list[ChainFact] = []
        for place, watch in self._spends.items():
            if watch.height is not None:
                continue
            tx = spenders.get(place)
            if tx is not None and tx.txid != watch.spender:
                watch.spender = tx.txid
                facts.append(OutputSpent(outpoint=watch.outpoint, transaction=tx.raw, height=None))
            elif watch.spender is not None and place not in spenders:
                watch.spender = None
                facts.append(SpendGone(outpoint=watch.outpoint))
        return facts

    def forget(self, height: BlockHeight) -> None:
        """End the watches whose fact was told for this height or below: nothing can undo it."""
        self._txs = {txid: w for txid, w in self._txs.items() if w.told is None or w.told > height}
        self._spends = {place: w for place, w in self._spends.items() if w.height is None or w.height > height}
