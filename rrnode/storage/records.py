"""What goes into and comes out of the database besides the engines' own state (DESIGN 3)."""

from dataclasses import dataclass
from typing import Any, Protocol

from protocols.facts import Facts
from protocols.ids import PeerId, Txid
from protocols.payment.events import Forward, Snapshot
from protocols.units import BlockHeight, Msat, UnixTime

Cursor = tuple[
    BlockHeight, bytes
]  # height and hash (serialization order) of the last block that the state has taken in


class JournalEntry(Protocol):
    """An event and the facts it was handled under; the dispatcher's `Handled` is one."""

    @property
    def event(self) -> Any: ...
    @property
    def facts(self) -> Facts: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalRow:
    """A line of the journal as it was kept. `seq` grows by one; the oldest lines are pruned."""

    seq: int
    event: Any
    facts: Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a node starts from: the engine's state and the chain position it belongs to (None: never followed)."""

    snapshot: Snapshot
    cursor: Cursor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedState:
    """One state that the peer revoked; `record` is what a remedy needs, as the channel engine wrote it."""

    number: int
    txid: Txid
    record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedForward:
    """A line of history: an HTLC that passed through, and what it earned."""

    at: UnixTime
    forward: Forward
    earned: Msat


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAddress:
    """Where a peer can be dialled.

    Attributes:
        address: multiaddr ending in `/p2p/<id>`.
        wanted: our user named it, so the dialer keeps the link up.
        last_ok: when a dial last succeeded, 0 for never.
    """

    peer: PeerId
    address: str
    wanted: bool
    last_ok: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletTransaction:
    """A transaction that pays the wallet or spends from it.

    Attributes:
        raw: as serialized, witness included.
        height: of the block that holds it, None while unconfirmed.
        block_hash: of that block, serialization order; empty while unconfirmed.
        block_time: header time of that block; 0 while unconfirmed.
        first_seen: when this node first saw it.
    """

    txid: Txid
    raw: bytes
    height: BlockHeight | None
    block_hash: bytes
    block_time: UnixTime
    first_seen: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A coin promised to something: not to be spent by anything else until it is released.

    Attributes:
        holder: what for: a channel's funding, or fees of one transaction (`rrnode.wallet` makes these names).
        place: among the coins of the same holder, from 0.
    """

    txid: Txid
    index: int
    holder: bytes
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletState:
    """Everything the wallet keeps.

    Attributes:
        next_receiving: first receiving index never given out.
        next_change: first change index never used.
        address: receiving index of the address shown to people until it is paid; None before the first.
        free_indexes: receiving indexes given out as key index and given back before anybody saw them.
        change_for: change index promised to each holder.
        cursor: the last block the wallet has taken in.
    """

    transactions: tuple[WalletTransaction, ...] = ()
    set_aside: tuple[SetAside, ...] = ()
    next_receiving: int = 0
    next_change: int = 0
    address: int | None = None
    free_indexes: tuple[int, ...] = ()
    change_for: tuple[tuple[bytes, int], ...] = ()
    cursor: Cursor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletChanges:
    """One change of the wallet, written in one transaction. None and empty mean unchanged."""

    transactions: tuple[WalletTransaction, ...] = ()
    dropped: tuple[Txid, ...] = ()
    set_aside: tuple[SetAside, ...] = ()
    released: tuple[bytes, ...] = ()  # holders; their coins and their change index
    released_coins: tuple[tuple[Txid, int], ...] = ()
    next_receiving: int | None = None
    next_change: int | None = None
    address: int | None = None
    free_indexes: tuple[int, ...] | None = None
    change_for: tuple[tuple[bytes, int], ...] = ()
    cursor: Cursor | None = None
