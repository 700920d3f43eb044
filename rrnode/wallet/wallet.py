"""The node's coins on the chain: addresses, balances, sends, channel funding, coins for fees (DESIGN 3, 6).

The wallet is fed with blocks and mempool by whoever follows the chain and keeps its own account book (`ledger`); BDK
selects coins and signs (`building`). Everything is guarded by one lock, since BDK's objects are not made for threads: any
thread may call, and calls that touch the disk are best made from a worker thread.

What must survive a crash (indexes given out, coins set aside) is on disk before the call returns. What the chain would
tell again (transactions, the cursor) is written by `flush`.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import trio
from coincurve import PrivateKey

from protocols.errors import MisuseError
from protocols.ids import ChannelId, Txid
from protocols.onchain import tx as onchain
from protocols.onchain.scripts import p2wpkh_code
from protocols.units import MAX_SAT, BlockHeight, FeeRate, Sat, UnixTime
from rrnode.chain.fees import FeeCoin
from rrnode.chain.parse import Tx, outpoint, parse_transaction
from rrnode.chain.verify import check_transaction
from rrnode.errors import UserError
from rrnode.keys import KeyTree
from rrnode.storage import Cursor, SetAside, Store, WalletChanges, WalletState
from rrnode.wallet.building import Builder, Built
from rrnode.wallet.ledger import BlockPlace, Coin, Entry, Ledger
from rrnode.wallet.scripts import LOOK_AHEAD, Place, Scripts

DUST = Sat(546)
SETTLED_DEPTH = 100  # blocks after which a spent coin's reservation is cleaned away


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Coins, satoshi.

    Attributes:
        confirmed: in the best chain, unspent and mature; the next two are part of it.
        set_aside: promised to channel openings and fees under way.
        reserve: kept to pay for closing channels, as far as it is there.
        pending: seen but not confirmed, our own change included.
        immature: block rewards that cannot be spent yet.
        spendable: what `send` could spend now, fee included.
    """

    confirmed: Sat
    set_aside: Sat
    reserve: Sat
    pending: Sat
    immature: Sat
    spendable: Sat


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
    """

    def __init__(
        self,
        keys: KeyTree,
        state: WalletState,
        write: Callable[[WalletChanges], None] | None,
        *,
        now: Callable[[], UnixTime],
        look_ahead: int = LOOK_AHEAD,
    ) -> None:
        raise NotImplementedError

    @classmethod
    def open(
        cls, keys: KeyTree, store: Store, *, now: Callable[[], UnixTime], look_ahead: int = LOOK_AHEAD
    ) -> "Wallet":
        """The wallet kept in a store."""
        raise NotImplementedError

    # following the chain
    def watch_scripts(self) -> frozenset[bytes]: ...
    def cursor(self) -> Cursor | None: ...
    def take_block(self, block: BlockPlace, transactions: Iterable[Tx]) -> bool: ...
    def undo_blocks(self, from_height: BlockHeight, new_tip: Cursor) -> bool: ...
    def take_mempool(self, transactions: Iterable[Tx]) -> bool: ...
    def mempool_is(self, present: frozenset[Txid]) -> bool: ...
    def flush(self) -> None: ...

    # addresses
    def address(self) -> str: ...
    def script_at(self, key_index: int) -> bytes: ...
    def reserve_key_index(self) -> int: ...
    def give_back_key_index(self, key_index: int) -> None: ...

    # spending
    def keep_reserve(self, reserve: Sat) -> None: ...
    def balance(self) -> Balance: ...
    def confirmed_for_fees(self) -> Sat: ...
    def send(self, address: str, amount: Sat | None, feerate: FeeRate, *, from_reserve: bool = False) -> Sent: ...
    def forget(self, txid: Txid) -> None: ...
    def unpublished(self) -> tuple[bytes, ...]: ...
    def build_funding(
        self, channel_id: ChannelId, script: bytes, amount: Sat, feerate: FeeRate
    ) -> tuple[bytes, int]: ...
    def release(self, channel_id: ChannelId) -> None: ...
