"""Which coins are ours, and how sure that is: an account book over the transactions that concern the wallet.

No I/O, no BDK. Confirmations are told by whoever follows the chain; a reorganisation turns them back. A coin is an output
that pays one of our scripts; it is spent as soon as any transaction we know of spends it, for good once that is confirmed.
"""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from protocols.ids import Txid
from protocols.units import BlockHeight, Sat, UnixTime
from rrnode.chain.parse import Tx, outpoint, parse_transaction
from rrnode.storage import WalletTransaction
from rrnode.wallet.scripts import Place, Scripts

COINBASE_MATURITY = 100  # blocks (consensus)
V3 = 3  # unconfirmed outputs of such transactions may be spent by such transactions only (BIP 431)


class BlockPlace(NamedTuple):
    """Where a block is in the best chain."""

    height: BlockHeight
    hash: bytes
    time: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Coin:
    """An output that pays us.

    Attributes:
        place: which of our addresses it pays.
        height: of the block that made it, None while unconfirmed.
        coinbase: a block's reward, spendable after 100 blocks.
    """

    txid: Txid
    index: int
    value: Sat
    script: bytes
    place: Place
    height: BlockHeight | None
    coinbase: bool

    @property
    def outpoint(self) -> bytes:
        return outpoint(self.txid, self.index)


@dataclass(slots=True)
class Entry:
    """A known transaction and its place; `place` None: unconfirmed."""

    tx: Tx
    block: BlockPlace | None
    first_seen: UnixTime

    def record(self) -> WalletTransaction:
        """As it is stored."""
        block = self.block
        return WalletTransaction(
            txid=self.tx.txid,
            raw=self.tx.raw,
            height=None if block is None else block.height,
            block_hash=b"" if block is None else block.hash,
            block_time=UnixTime(0) if block is None else block.time,
            first_seen=self.first_seen,
        )


class Ledger:
    """The account book. Changes gather in `changed` and `dropped` until `taken`.

    Args:
        scripts: our scripts; grows as addresses are used.
        transactions: as they were stored.
    """

    def __init__(self, scripts: Scripts, transactions: Iterable[WalletTransaction] = ()) -> None:
        self._scripts = scripts
        self._entries: dict[Txid, Entry] = {}
        self._coins: dict[bytes, Coin] = {}  # every output that ever paid us, by outpoint
        self._spenders: dict[bytes, set[Txid]] = {}  # of those
        self._changed: set[Txid] = set()
        self._dropped: set[Txid] = set()
        for stored in transactions:
            block = None
            if stored.height is not None:
                block = BlockPlace(stored.height, stored.block_hash, stored.block_time)
            self._put(Entry(parse_transaction(stored.raw), block, stored.first_seen))
        for entry in self._entries.values():  # in any order: link spends once every coin is known
            self._link(entry.tx)
        self._changed.clear()

    # --- taking in ----------------------------------------------------------------------------------------------------

    def take_block(self, block: BlockPlace, transactions: Iterable[Tx]) -> bool:
        """Take in a block of the best chain; gives whether anything of it concerns us."""
        concerned = False
        waiting = list(transactions)
        while True:
            known = len(self._scripts)
            rest = []
            for tx in waiting:
                if self._concerns(tx):
                    self._confirm(tx, block)
                    concerned = True
                else:
                    rest.append(tx)
            waiting = rest
            if len(self._scripts) == known:  # else addresses came in sight that earlier transactions may pay
                return concerned

    def take_unconfirmed(self, transactions: Iterable[Tx], now: UnixTime) -> bool:
        """Take in transactions of the mempool (or our own new ones); gives whether one concerns us and is news."""
        news = False
        for tx in transactions:
            if tx.txid in self._entries or tx.is_coinbase or not self._concerns(tx):
                continue
            if any(self._is_final_spend(prevout) for prevout in tx.prevouts):
                continue
            self._drop_rivals(tx)  # a mempool holds no two spends of a coin: what we knew of was replaced
            self._put(Entry(tx, None, now))
            self._link(tx)
            news = True
        return news

    def undo_blocks(self, from_height: BlockHeight) -> bool:
        """Blocks from this height on are not in the best chain: what they held is unconfirmed again."""
        undone = False
        for entry in list(self._entries.values()):
            if entry.block is not None and entry.block.height >= from_height:
                undone = True
                if entry.tx.is_coinbase:
                    self.drop(entry.tx.txid)
                else:
                    entry.block = None
                    self._renew(entry)
        return undone

    def drop(self, txid: Txid) -> bool:
        """An unconfirmed transaction will never confirm: forget it and all that spends from it."""
        entry = self._entries.pop(txid, None)
        if entry is None:
            return False
        for prevout in entry.tx.prevouts:
            self._spenders.get(prevout, set()).discard(txid)
        for index in range(len(entry.tx.outputs)):
            point = outpoint(txid, index)
            for spender in tuple(self._spenders.pop(point, ())):
                self.drop(spender)
            self._coins.pop(point, None)
        self._changed.discard(txid)
        self._dropped.add(txid)
        return True

    def _confirm(self, tx: Tx, block: BlockPlace) -> None:
        entry = self._entries.get(tx.txid)
        if entry is None:
            entry = Entry(tx, block, block.time)
        entry.tx, entry.block = tx, block  # the witness that was mined is the one that counts
        self._put(entry)
        self._drop_rivals(tx)
        self._link(tx)

    def _drop_rivals(self, tx: Tx) -> None:
        for prevout in tx.prevouts:
            for rival in tuple(self._spenders.get(prevout, ())):
                if rival != tx.txid:
                    self.drop(rival)

    def _concerns(self, tx: Tx) -> bool:
        return (
            tx.txid in self._entries
            or any(output.script in self._scripts for output in tx.outputs)
            or any(prevout in self._coins for prevout in tx.prevouts)
        )

    def _put(self, entry: Entry) -> None:
        self._entries[entry.tx.txid] = entry
        for output in entry.tx.outputs:
            place = self._scripts.place(output.script)
            if place is not None:
                self._scripts.used(place)
        self._renew(entry)

    def _renew(self, entry: Entry) -> None:
        height = None if entry.block is None else entry.block.height
        for index, output in enumerate(entry.tx.outputs):
            place = self._scripts.place(output.script)
            if place is not None:
                self._coins[outpoint(entry.tx.txid, index)] = Coin(
                    txid=entry.tx.txid,
                    index=index,
                    value=output.value,
                    script=output.script,
                    place=place,
                    height=height,
                    coinbase=entry.tx.is_coinbase,
                )
        self._dropped.discard(entry.tx.txid)
        self._changed.add(entry.tx.txid)

    def _link(self, tx: Tx) -> None:
        for prevout in tx.prevouts:
            if prevout in self._coins:
                self._spenders.setdefault(prevout, set()).add(tx.txid)

    # --- asking -------------------------------------------------------------------------------------------------------

    def coin(self, point: bytes) -> Coin | None:
        """An output of ours, spent or not, by its 36-byte outpoint."""
        return self._coins.get(point)

    def coins(self) -> Iterator[Coin]:
        """Every coin that nothing we know of spends."""
        return (coin for point, coin in self._coins.items() if not self._spenders.get(point))

    def not_spent_before(self, height: BlockHeight) -> Iterator[bytes]:
        """Every coin's outpoint that no block below this height spends."""
        return (point for point in self._coins if (spent := self.spent_height(point)) is None or spent >= height)

    def is_spent(self, point: bytes) -> bool:
        """Whether anything we know of, confirmed or not, spends it."""
        return bool(self._spenders.get(point))

    def _is_final_spend(self, point: bytes) -> bool:
        return self.spent_height(point) is not None

    def spent_height(self, point: bytes) -> BlockHeight | None:
        """Height of the confirmed spend of a coin, None while there is none."""
        for spender in self._spenders.get(point, ()):
            block = self._entries[spender].block
            if block is not None:
                return block.height
        return None

    def trusts(self, coin: Coin) -> bool:
        """Whether an unconfirmed coin may be built upon: change of our own, whose parents are all sure or likewise.

        Outputs of version 3 transactions do not count: only version 3 transactions could spend them (BIP 431).
        """
        pending = [coin.txid]
        seen: set[Txid] = set()
        while pending:
            entry = self._entries[pending.pop()]
            if entry.block is not None or entry.tx.txid in seen:
                continue
            seen.add(entry.tx.txid)
            if entry.tx.version == V3:
                return False
            for prevout in entry.tx.prevouts:
                parent = self._coins.get(prevout)
                if parent is None:
                    return False
                pending.append(parent.txid)
        return True

    def is_mature(self, coin: Coin, tip: BlockHeight) -> bool:
        """Whether the next block may hold a spend of this confirmed coin."""
        if coin.height is None:
            return False
        return not coin.coinbase or tip + 1 - coin.height >= COINBASE_MATURITY

    def entry(self, txid: Txid) -> Entry | None:
        """A known transaction."""
        return self._entries.get(txid)

    def unconfirmed(self) -> Iterator[Entry]:
        """Transactions that are in no block, oldest first."""
        waiting = [entry for entry in self._entries.values() if entry.block is None]
        return iter(sorted(waiting, key=lambda entry: entry.first_seen))

    def drop_missing(self, present: Container[Txid]) -> bool:
        """Forget unconfirmed transactions of others that the mempool does not hold any more.

        Our own stay: they are published again until they confirm or a rival does.
        """
        gone = [
            each.tx.txid for each in self.unconfirmed() if each.tx.txid not in present and not self.is_ours(each.tx)
        ]
        for txid in gone:
            self.drop(txid)
        return bool(gone)

    def is_ours(self, tx: Tx) -> bool:
        """Whether every input spends a coin of ours: only this wallet can have made it."""
        return all(prevout in self._coins for prevout in tx.prevouts)

    def taken(self) -> tuple[tuple[WalletTransaction, ...], tuple[Txid, ...]]:
        """What must be stored and deleted since the last call."""
        changed = tuple(self._entries[txid].record() for txid in self._changed)
        dropped = tuple(self._dropped)
        self._changed.clear()
        self._dropped.clear()
        return changed, dropped
