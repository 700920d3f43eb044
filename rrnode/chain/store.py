"""What the embedded regtest keeps of its own on disk: every block it made and the mempool, in one SQLite file.

libbitcoinkernel writes its index seldom and would forget the newest blocks when the process is killed; they are given to
it again from here.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rrnode.errors import StorageFailed

_SCHEMA = """
CREATE TABLE IF NOT EXISTS block (number INTEGER PRIMARY KEY, hash BLOB UNIQUE NOT NULL, raw BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS mempool (number INTEGER PRIMARY KEY, txid BLOB UNIQUE NOT NULL, raw BLOB NOT NULL);
"""


class ChainStore:
    """Blocks in the order in which they were made, and the mempool's transactions, parents first."""

    def __init__(self, path: Path) -> None:
        """Open or begin the file.

        Raises:
            StorageFailed: it cannot be opened or is no such file.
        """
        try:
            # Opened in a worker thread, used from Trio's; never by two at once.
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            self._kept = {row[0] for row in self._db.execute("SELECT txid FROM mempool")}
        except sqlite3.Error as error:
            raise StorageFailed(f"{path} cannot be used as the regtest's store: {error}") from error

    def close(self) -> None:
        self._db.close()

    def add_block(self, block_hash: bytes, raw: bytes) -> None:
        """Keep a block; once. Raises StorageFailed."""
        try:
            self._db.execute("INSERT OR IGNORE INTO block (hash, raw) VALUES (?, ?)", (block_hash, raw))
        except sqlite3.Error as error:
            raise StorageFailed(f"a block could not be written: {error}") from error

    def drop_block(self, block_hash: bytes) -> None:
        """Keep this block no longer: it was refused. What cannot be deleted is refused again at the next start."""
        with suppress(sqlite3.Error):
            self._db.execute("DELETE FROM block WHERE hash = ?", (block_hash,))

    def blocks(self) -> Iterator[tuple[bytes, bytes]]:
        """Hash and bytes of every block, parents first."""
        yield from self._db.execute("SELECT hash, raw FROM block ORDER BY number")

    def block_count(self) -> int:
        """How many blocks are kept, side branches included."""
        return int(self._db.execute("SELECT count(*) FROM block").fetchone()[0])

    def mempool(self) -> list[bytes]:
        """The transactions kept last, parents first."""
        return [row[0] for row in self._db.execute("SELECT raw FROM mempool ORDER BY number")]

    def save_mempool(self, transactions: dict[bytes, bytes]) -> None:
        """Keep these (txid to bytes) and no others. Raises StorageFailed."""
        gone, new = self._kept - transactions.keys(), [t for t in transactions if t not in self._kept]
        if not gone and not new:
            return
        try:
            self._db.execute("BEGIN")
            self._db.executemany("DELETE FROM mempool WHERE txid = ?", [(txid,) for txid in gone])
            self._db.executemany(
                "INSERT INTO mempool (txid, raw) VALUES (?, ?)", [(txid, transactions[txid]) for txid in new]
            )
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise StorageFailed(f"the mempool could not be written: {error}") from error
        self._kept = set(transactions)
