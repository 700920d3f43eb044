"""The node's database."""

from rrnode.storage.records import (
    Cursor,
    EndedForward,
    JournalRow,
    KnownAddress,
    Loaded,
    RevokedState,
    SetAside,
    WalletChanges,
    WalletState,
    WalletTransaction,
)
from rrnode.storage.store import Store

__all__ = [
    "Cursor",
    "EndedForward",
    "JournalRow",
    "KnownAddress",
    "Loaded",
    "RevokedState",
    "SetAside",
    "Store",
    "WalletChanges",
    "WalletState",
    "WalletTransaction",
]
