"""One connection to the database, its transactions, and what its errors mean for a person.

SQLite: write-ahead log, every commit synced to the disk before it counts (DESIGN 6, 10). PostgreSQL by URL; its own
`synchronous_commit` must be on, which is its default.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from rrnode.errors import StorageFailed

BUSY_MS = 5_000  # another writer should not exist (the data directory is locked); a backup tool may hold us up shortly
_PRAGMAS = ("synchronous=FULL", "foreign_keys=ON", "fullfsync=ON", "checkpoint_fullfsync=ON", "cell_size_check=ON")

_SQLITE_SENTENCES = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space, then start the node again",
    sqlite3.SQLITE_BUSY: "another program holds the database: stop it, then start the node again",
    sqlite3.SQLITE_LOCKED: "another program holds the database: stop it, then start the node again",
    sqlite3.SQLITE_READONLY: "the database cannot be written to: check the permissions of the data directory",
    sqlite3.SQLITE_IOERR: "the disk reports an error: check it before you start the node again",
    sqlite3.SQLITE_CORRUPT: "the database is damaged: put it aside as it is; never start with an older copy",
    sqlite3.SQLITE_NOTADB: "this file is no database, or it is damaged",
    sqlite3.SQLITE_CANTOPEN: "the database cannot be opened: check that the data directory exists and is yours",
}


class Database:
    """A single connection used by one caller at a time; any thread may call. After a failed write it refuses to write.

    Args:
        where: a file, or an SQLAlchemy URL (`postgresql+psycopg://...`).
        read_only: nothing is ever written; the file must exist.
        writes_again: a failed write is tried again whenever somebody writes: for users whose memory is never ahead of
            the disk.
    """

    def __init__(self, where: Path | str, *, read_only: bool = False, writes_again: bool = False) -> None:
        self.name, self._engine = _engine(where, read_only)
        self._writes_again = writes_again
        self.read_only = read_only
        self.dialect = self._engine.dialect
        self._lock = threading.Lock()
        self._poisoned: str | None = None
        try:
            self._connection = self._engine.connect()
        except (SQLAlchemyError, OSError) as error:
            self._engine.dispose()
            raise self.failed(error) from error

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database. Raises StorageFailed."""
        with self._lock:
            try:
                with self._connection.begin():
                    yield self._connection
            except SQLAlchemyError as error:
                raise self.failed(error) from error

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that happens whole or not at all.

        Whatever goes wrong inside, nothing of it is kept and no further write is taken until the database is opened
        anew: after a failed commit, what is in memory is ahead of what is on disk.

        Raises:
            StorageFailed: the machine refused; the message says what to do.
        """
        with self._lock:
            if self._poisoned is not None:
                raise StorageFailed(f"an earlier write failed, nothing is written until a restart: {self._poisoned}")
            try:
                with self._connection.begin():
                    yield self._connection
            except (SQLAlchemyError, OSError, MemoryError) as error:
                failure = self.failed(error)
                self._poison(str(failure))
                raise failure from error
            except BaseException as error:
                self._poison(repr(error))
                raise

    def _poison(self, why: str) -> None:
        if not self._writes_again:
            self._poisoned = why

    @property
    def poisoned(self) -> str | None:
        """Why nothing is written any more; None while all is well."""
        return self._poisoned

    def failed(self, error: BaseException) -> StorageFailed:
        """The sentence for a person."""
        cause = getattr(error, "orig", None) or error
        code = getattr(cause, "sqlite_errorcode", None)
        sentence = _SQLITE_SENTENCES.get(code & 0xFF) if isinstance(code, int) else None
        return StorageFailed(f"{self.name}: {sentence} ({cause})" if sentence else f"{self.name}: {cause}")

    def close(self) -> None:
        """Give the connection back. Idempotent."""
        with self._lock:
            self._poisoned = self._poisoned or "it was closed"
            self._connection.close()
            self._engine.dispose()


def _engine(where: Path | str, read_only: bool) -> tuple[str, Engine]:
    if isinstance(where, str) and "://" in where:
        url = make_url(where)
        if url.get_backend_name() != "sqlite":
            try:
                engine = create_engine(url, pool_size=1, max_overflow=0, hide_parameters=True)
            except ImportError as error:
                raise StorageFailed(f"no driver for {url.drivername}: install `rrnode[postgres]` ({error})") from None
            _settle_postgresql(engine, read_only)
            return url.render_as_string(hide_password=True), engine
        where = url.database or ""
    path = Path(where).absolute()
    _prepare_file(path, read_only)
    quoted = str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quoted}?mode={'ro' if read_only else 'rw'}",
            uri=True,
            isolation_level=None,  # we begin and commit ourselves
            check_same_thread=False,  # used under a lock
            cached_statements=256,
        )
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        if not read_only:
            connection.execute("PRAGMA journal_mode=WAL")
        return connection

    # What is stored holds secrets: SQLAlchemy's own log and its exceptions show statements, never values.
    engine = create_engine("sqlite+pysqlite://", creator=connect, poolclass=StaticPool, hide_parameters=True)

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # A writer takes its lock at once: upgrading a read lock later could fail in the middle.
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return str(path), engine


def _settle_postgresql(engine: Engine, read_only: bool) -> None:
    @event.listens_for(engine, "connect")
    def _settle(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION synchronous_commit = on")  # whatever the server's default is
            cursor.execute(f"SET SESSION default_transaction_read_only = {'on' if read_only else 'off'}")
        connection.commit()


def _prepare_file(path: Path, read_only: bool) -> None:
    """Make the file for its owner only, before SQLite would make it for everybody."""
    try:
        os.close(os.open(path, os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        advice = "check that the data directory exists, is yours and is not full"
        raise StorageFailed(f"{path}: the database cannot be opened ({error.strerror}): {advice}") from None
