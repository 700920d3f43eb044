"""The node's coins on the chain: addresses, balances, sends, channel funding, coins for fees (DESIGN 3, 6).

The wallet is fed with blocks and mempool by whoever follows the chain and keeps its own account book (`ledger`); BDK
selects coins and signs (`building`). Everything is guarded by one lock, since BDK's objects are not made for threads: any
thread may call, and calls that touch the disk are best made from a worker thread.

What must survive a crash (indexes given out, coins set aside) is on disk before the call returns. What the chain would
tell again (transactions, the cursor) is written by `flush`.
"""

import threading
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

import trio

from protocols.errors import MisuseError
from protocols.ids import ChannelId, Txid, channel_id_of
from protocols.onchain.weights import close_reserve
from protocols.units import BlockHeight, FeeRate, Sat, UnixTime
from rrnode.chain.base import Interests
from rrnode.chain.fees import FeeCoin
from rrnode.chain.follower import DEEPEST, Batch
from rrnode.chain.parse import Tx
from rrnode.keys import KeyTree
from rrnode.storage import Cursor, SetAside, Store, WalletChanges, WalletState
from rrnode.wallet.building import Builder
from rrnode.wallet.fee_coins import reserve_coins, signed
from rrnode.wallet.holdings import FEES, FUNDING, Holdings, channels_of
from rrnode.wallet.ledger import BlockPlace, Ledger
from rrnode.wallet.purse import SMALLEST_FEE_COIN, Balance, Purse
from rrnode.wallet.scripts import LOOK_AHEAD, Place, Scripts
from rrnode.wallet.spending import Spending

SETTLED_DEPTH = 100  # blocks after which a spent coin's reservation is cleaned away


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A transaction of ours, signed, noted as spent, not yet published."""

    transaction: bytes
    txid: Txid
    amount: Sat
    fee: Sat


class Wallet:
    """The wallet of one seed. Implements `rrnode.chain.fees.FeeWallet`.

    Args:
        keys: the node's keys.
        state: as it was stored.
        write: puts a change on disk or raises StorageFailed; None keeps nothing (the guard's wallet).
        now: unix time, for noting when transactions were first seen.
        look_ahead: unused addresses in a row that a restore looks across.
        fresh: the seed was made just now: a wallet that was never fed begins at the tip, not with the first block.
    """

    def __init__(
        self,
        keys: KeyTree,
        state: WalletState,
        write: Callable[[WalletChanges], None] | None = None,
        *,
        now: Callable[[], float] = time.time,
        look_ahead: int = LOOK_AHEAD,
        fresh: bool = True,
    ) -> None:
        self.fresh = fresh
        self._keys, self._now = keys, now
        self._write = write or (lambda changes: None)
        self._builder = Builder(keys)
        self._scripts = Scripts(
            keys, next_receiving=state.next_receiving, next_change=state.next_change, look_ahead=look_ahead
        )
        self._ledger = Ledger(self._scripts, state.transactions)
        self._held = Holdings(state.set_aside, state.change_for, self._write)
        self._purse = Purse(self._ledger, self._held, self._tip)
        self._spending = Spending(self._builder, self._scripts, self._purse)
        self._free_indexes = set(state.free_indexes)
        self._address = state.address
        self._cursor = state.cursor
        self._lock = threading.RLock()

    @classmethod
    def open(
        cls,
        keys: KeyTree,
        store: Store,
        *,
        now: Callable[[], float] = time.time,
        look_ahead: int = LOOK_AHEAD,
        fresh: bool = True,
    ) -> "Wallet":
        """The wallet kept in a store. Raises StorageFailed."""
        return cls(keys, store.load_wallet(), store.write_wallet, now=now, look_ahead=look_ahead, fresh=fresh)

    # --- following the chain ------------------------------------------------------------------------------------------

    def interests(self) -> Interests:
        """What a chain must be looked through for: coins, also those whose spend a reorganisation may undo; addresses given
        out, and `look_ahead` more of each kind; what is unconfirmed."""
        with self._lock:
            buried = BlockHeight((self._cursor[0] if self._cursor else 0) - DEEPEST)
            return Interests(
                outpoints=frozenset(self._ledger.not_spent_before(buried)),
                txids=frozenset(entry.tx.txid for entry in self._ledger.unconfirmed()),
                scripts=frozenset(self._scripts),
            )

    def cursor(self) -> Cursor | None:
        """The last block taken in; None before the first."""
        return self._cursor

    def take(self, batch: Batch) -> bool:
        """News from the follower; on disk when this returns. To be called before the channels commit the batch's tip,
        or a crash in between leaves the wallet behind the cursor.

        Returns:
            Whether any of it concerns us.

        Raises:
            StorageFailed: not on disk.
        """
        with self._lock:
            concerned = False
            if batch.fork is not None:
                concerned |= self.undo_blocks(BlockHeight(batch.fork.height + 1), batch.fork.hash)
            for block in batch.connected:
                ref = block.ref
                concerned |= self.take_block(BlockPlace(ref.height, ref.hash, UnixTime(ref.time)), block.transactions)
            concerned |= self.take_mempool(batch.arrived)
            if batch.mempool is not None:
                concerned |= self.mempool_is(batch.mempool)
            self.begin_at((batch.tip.height, batch.tip.hash))
            if concerned or batch.fork is not None or batch.connected:
                self.flush()
            return concerned

    def _tip(self) -> BlockHeight:
        return BlockHeight(self._cursor[0] if self._cursor else 0)

    def begin_at(self, cursor: tuple[BlockHeight, bytes]) -> None:
        """A wallet that was never fed begins here: it was made now, so no older block can concern it."""
        with self._lock:
            if self._cursor is None:
                self._cursor = cursor

    def look_further(self, look_ahead: int) -> None:
        """Look across more unused addresses in a row from now on: for a restore."""
        with self._lock:
            self._scripts.look_further(look_ahead)

    def take_block(self, block: BlockPlace, transactions: Iterable[Tx]) -> bool:
        """The next block of the best chain, with all its transactions (or all that concern our `interests`).

        Returns:
            Whether it concerns us. What it changed is on disk after `flush`.
        """
        with self._lock:
            concerned = self._ledger.take_block(block, transactions)
            self._cursor = (block.height, block.hash)
            return concerned

    def undo_blocks(self, from_height: BlockHeight, parent: bytes) -> bool:
        """A reorganisation: blocks from this height on are gone, `parent` is the block below. Gives whether it concerns us."""
        with self._lock:
            self._cursor = (BlockHeight(from_height - 1), parent)
            return self._ledger.undo_blocks(from_height)

    def take_mempool(self, transactions: Iterable[Tx]) -> bool:
        """Unconfirmed transactions that appeared; gives whether one concerns us."""
        with self._lock:
            return self._ledger.take_unconfirmed(transactions, UnixTime(int(self._now())))

    def mempool_is(self, present: Container[Txid]) -> bool:
        """The whole mempool: what others sent us and is in it no more is forgotten. Gives whether anything was."""
        with self._lock:
            return self._ledger.drop_missing(present)

    def flush(self) -> None:
        """Put what the chain told on disk, in one transaction. Raises StorageFailed."""
        with self._lock:
            changed, dropped = self._ledger.taken()
            done = self._done_coins()
            self._write(
                WalletChanges(
                    transactions=changed,
                    dropped=dropped,
                    released_coins=tuple((coin.txid, coin.index) for coin in done),
                    next_receiving=self._scripts.next(change=False),
                    next_change=self._scripts.next(change=True),
                    cursor=self._cursor,
                )
            )
            self._held.forget(done)

    def _done_coins(self) -> list[SetAside]:
        """Coins set aside whose spend is buried for good."""
        tip = self._cursor[0] if self._cursor else 0
        done = []
        for point, held in self._held.items():
            height = self._ledger.spent_height(point)
            if height is not None and tip - height >= SETTLED_DEPTH:
                done.append(held)
        return done

    # --- addresses ----------------------------------------------------------------------------------------------------

    def address(self) -> str:
        """The address to show to people: the same until it is paid, so that a restore need not look far."""
        with self._lock:
            if self._address is None or self._scripts.is_used(Place(False, self._address)):
                index = self._scripts.give_out(change=False)
                self._write(WalletChanges(next_receiving=self._scripts.next(change=False), address=index))
                self._address = index
            return self._builder.address_of(self.script_at(self._address))

    def script_of(self, address: str) -> bytes:
        """The output script of anybody's address on our network. Raises UserError."""
        return self._builder.script_of(address)

    def script_at(self, key_index: int) -> bytes:
        """The P2WPKH script of a receiving address; of a channel's key index: where its coins come home."""
        return self._scripts.script(Place(False, key_index))

    def reserve_key_index(self) -> int:
        """A key index for a new channel, never used before; on disk when this returns. Raises StorageFailed."""
        with self._lock:
            if self._free_indexes:
                index = min(self._free_indexes)
                left = tuple(sorted(self._free_indexes - {index}))
                self._write(WalletChanges(free_indexes=left))
                self._free_indexes.discard(index)
                return index
            index = self._scripts.give_out(change=False)
            self._write(WalletChanges(next_receiving=self._scripts.next(change=False)))
            return index

    def give_back_key_index(self, key_index: int) -> None:
        """Nobody has seen the keys of this index (the channel was refused at once): the next channel may have it.

        Else a peer could burn indexes by asking for channels, and a restore from the words would stop short.
        """
        with self._lock:
            if key_index >= self._scripts.next(change=False) or self._scripts.is_used(Place(False, key_index)):
                return
            free = self._free_indexes | {key_index}
            self._write(WalletChanges(free_indexes=tuple(sorted(free))))
            self._free_indexes = free

    # --- balances -----------------------------------------------------------------------------------------------------

    def keep_reserve(self, reserve: Sat, coins: int = 0) -> None:
        """Keep at least so much back from `send` and `build_funding`: what closing every channel could cost.

        Args:
            coins: how many separate coins it should be in: unconfirmed change cannot pay for a close (BIP 431), so two
                channels that close in the same block need two. Change is split towards that.
        """
        self._purse.reserve, self._purse.fee_coins = reserve, coins

    def balance(self) -> Balance:
        """What there is, and what of it can be spent."""
        with self._lock:
            return self._purse.balance()

    def confirmed_for_fees(self) -> Sat:
        """Confirmed coins that can pay for closing channels: all but those promised to a funding.

        Coins set aside for a close under way count: the channel that they close still counts as one to be paid for.
        """
        with self._lock:
            return Sat(sum(self._purse.for_fees()))

    def coins_for_fees(self, feerate: FeeRate) -> int:
        """How many of these are large enough to pay for a transaction by themselves: for a commitment and its child."""
        least = max(SMALLEST_FEE_COIN, close_reserve(0, feerate))
        with self._lock:
            return sum(value >= least for value in self._purse.for_fees())

    # --- spending -----------------------------------------------------------------------------------------------------

    def send(self, address: str, amount: Sat | None, feerate: FeeRate, *, from_reserve: bool = False) -> Sent:
        """Build and sign a payment; its coins count as spent from now on.

        Args:
            amount: None sends everything that can be spent.
            from_reserve: also spend what is kept for closing channels.

        Raises:
            UserError: no such address, too little, or the reserve would be touched; one plain sentence.
            StorageFailed: nothing is spent.
        """
        with self._lock:
            target = self._builder.script_of(address)
            keep = Sat(0) if from_reserve else self._purse.reserve
            if amount is None:
                built = self._spending.build([], target, feerate, keep=keep)
            else:
                built = self._spending.build([(target, amount)], None, feerate, keep=keep)
            sent = amount or Sat(next((each.value for each in built.tx.outputs if each.script == target), 0))
            self._ledger.take_unconfirmed([built.tx], UnixTime(int(self._now())))
            self.flush()
            return Sent(transaction=built.tx.raw, txid=built.tx.txid, amount=sent, fee=built.fee)

    def unpublished(self) -> tuple[bytes, ...]:
        """Our own sends that are in no block, oldest first: to be published again at each new block."""
        with self._lock:
            return tuple(each.tx.raw for each in self._ledger.unconfirmed() if self._ledger.is_ours(each.tx))

    def forget(self, txid: Txid) -> None:
        """A send that the network refused will never confirm: its coins are free again. Raises StorageFailed."""
        with self._lock:
            entry = self._ledger.entry(txid)
            if entry is None:
                return
            if entry.block is not None:
                raise MisuseError(f"transaction {txid[::-1].hex()} is in a block and cannot be forgotten")
            self._ledger.drop(txid)
            self.flush()

    def build_funding(self, channel_id: ChannelId, script: bytes, amount: Sat, feerate: FeeRate) -> tuple[bytes, int]:
        """Build and sign a channel's funding transaction. Its coins are set aside, on disk, when this returns.

        Args:
            channel_id: the temporary one; `release` takes this or the permanent one.

        Returns:
            The transaction and the index of the funding output.

        Raises:
            UserError: too little can be spent; a sentence for the user.
            StorageFailed: nothing is set aside.
        """
        with self._lock:
            self.release(channel_id)  # an earlier try, whose transaction the caller never got
            built = self._spending.build([(script, amount)], None, feerate, keep=self._purse.reserve)
            places = [
                place for place, out in enumerate(built.tx.outputs) if (out.script, out.value) == (script, amount)
            ]
            if len(places) != 1:
                raise MisuseError(f"{len(places)} outputs of a funding transaction look like the funding, 1 wanted")
            holder = FUNDING + channel_id + channel_id_of(built.tx.txid, places[0])
            self._held.promise(holder, built.spent, next_change=self._scripts.next(change=True))
            return built.tx.raw, places[0]

    def release(self, channel_id: ChannelId) -> None:
        """The funding of this channel will never be published: its coins are free again. Idempotent."""
        with self._lock:
            for holder in self._held.holders():
                if holder.startswith(FUNDING) and channel_id in channels_of(holder):
                    self._held.release(holder)

    def release_but(self, channels: Container[ChannelId]) -> None:
        """Free the coins of every funding whose channel is none of these: the node went down between forgetting it and
        saying so. To be called before channels are opened. Raises StorageFailed."""
        with self._lock:
            for holder in self._held.holders():
                if holder.startswith(FUNDING) and not any(each in channels for each in channels_of(holder)):
                    self._held.release(holder)

    # --- coins for fees (rrnode.chain.fees.FeeWallet) -----------------------------------------------------------------

    async def reserve_coins(self, purpose: bytes, at_least: Sat) -> tuple[FeeCoin, ...]:
        """See `FeeWallet`. Kept on disk: after a restart the same purpose has the same coins."""
        return await trio.to_thread.run_sync(self._reserve_coins, FEES + purpose, at_least)

    async def release_coins(self, purpose: bytes) -> None:
        """See `FeeWallet`."""
        await trio.to_thread.run_sync(self._release_coins, FEES + purpose)

    async def fee_purposes(self) -> tuple[bytes, ...]:
        """See `FeeWallet`. In a thread, as everything that needs the lock: who holds it may be waiting for the disk."""
        return await trio.to_thread.run_sync(self._fee_purposes)

    async def change_script(self, purpose: bytes) -> bytes:
        """See `FeeWallet`."""
        return await trio.to_thread.run_sync(self._change_script, FEES + purpose)

    async def sign(self, transaction: bytes, coins: tuple[FeeCoin, ...], spent: tuple[tuple[Sat, bytes], ...]) -> bytes:
        """See `FeeWallet`. Raises MisuseError when a coin is not ours, not an input, or the result is not valid."""
        return signed(self._keys, self._scripts, transaction, coins, spent)

    def _reserve_coins(self, holder: bytes, at_least: Sat) -> tuple[FeeCoin, ...]:
        with self._lock:
            return reserve_coins(self._purse, holder, at_least)

    def _fee_purposes(self) -> tuple[bytes, ...]:
        with self._lock:
            return tuple(sorted(each.removeprefix(FEES) for each in self._held.holders() if each.startswith(FEES)))

    def _release_coins(self, holder: bytes) -> None:
        with self._lock:
            if holder in self._held.holders():
                self._held.release(holder)

    def _change_script(self, holder: bytes) -> bytes:
        with self._lock:
            index = self._held.change_for(holder)
            if index is None:
                index = self._scripts.give_out(change=True)
                self._held.promise_change(holder, index, next_change=self._scripts.next(change=True))
            return self._scripts.script(Place(True, index))
