"""What the store does when the machine fails: a full disk, a failing disk, a locked, damaged, foreign or newer database.

In each: a clear sentence, nothing half-written, and no further write until the database is opened anew.
"""

import logging
import os
import resource
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocols.channel.events import StoreChannel
from protocols.payment.events import StorePayment
from rrnode.errors import StorageFailed
from rrnode.storage import Store, database

Opened = Callable[..., Store]


def test_a_full_disk_writes_nothing_of_the_batch_and_stops_the_store(opened: Opened, kit: Any, path: Path) -> None:
    store = opened()
    store.commit([StoreChannel(channel=kit.channel(1))])
    with store._database.reading() as connection:  # the nearest thing to a full disk that needs no mount
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")
    batch = [
        StoreChannel(channel=kit.channel(1, number=9)),
        *(StorePayment(payment=kit.payment(n)) for n in range(200)),
    ]
    with pytest.raises(StorageFailed, match=r"the disk is full: free some space, then start the node again"):
        store.commit(batch, cursor=(5, b"x" * 32))
    assert store.poisoned is not None
    with pytest.raises(StorageFailed, match="an earlier write failed, nothing is written until a restart"):
        store.commit([StorePayment(payment=kit.payment(1))])
    loaded = opened().load()
    assert (loaded.snapshot.channels, loaded.snapshot.payments, loaded.cursor) == ((kit.channel(1),), (), None)


def test_a_failing_disk_is_named(opened: Opened, kit: Any) -> None:
    store = opened()
    store.commit([StoreChannel(channel=kit.channel(1))])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writes past the limit then fail with EFBIG
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(StorageFailed, match="the disk reports an error: check it"):
            store.commit([StorePayment(payment=kit.payment(n)) for n in range(500)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert opened().load().snapshot.payments == ()


def test_a_database_that_another_program_holds_is_not_waited_for_for_ever(
    opened: Opened, kit: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 20)
    store = opened()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageFailed, match="another program holds the database"):
        store.commit([StorePayment(payment=kit.payment(1))])
    other.execute("ROLLBACK")
    other.close()
    with pytest.raises(StorageFailed, match="an earlier write failed"):
        store.commit([StorePayment(payment=kit.payment(1))])


def test_the_database_logs_statements_and_never_what_is_stored(
    opened: Opened, kit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="sqlalchemy")
    opened().commit([StorePayment(payment=kit.payment(1))])
    assert "INSERT INTO payments" in caplog.text
    assert "hashhash" not in caplog.text  # the first of its values


def test_a_damaged_row_is_named(opened: Opened, kit: Any, path: Path) -> None:
    opened().commit([StoreChannel(channel=kit.channel(1)), StorePayment(payment=kit.payment(2))])
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE payments SET state = substr(state, 1, length(state) - 3)")
    with pytest.raises(StorageFailed, match=f"payment {kit.hash(2).hex()} is damaged"):
        opened().load()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE channels SET state = ?", (b"\x81\xa4peer\x05",))
    with pytest.raises(StorageFailed, match=f"channel {kit.channel_id(1).hex()} is damaged"):
        opened().load()


def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(kit: Any, path: Path) -> None:
    path.write_bytes(b"my diary, not a database" * 100)
    with pytest.raises(StorageFailed, match="no database, or it is damaged"):
        Store.open(path, node_id=kit.node, network="regtest")
    assert path.read_bytes() == b"my diary, not a database" * 100


def test_somebody_elses_database_is_refused(kit: Any, path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE recipes (cake TEXT)")
    with pytest.raises(StorageFailed, match=r"holds other tables \(recipes\)"):
        Store.open(path, node_id=kit.node, network="regtest")
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT name FROM sqlite_master").fetchall() == [("recipes",)]


def test_a_newer_database_is_refused_and_left_as_it_was(opened: Opened, kit: Any, path: Path) -> None:
    opened().close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StorageFailed, match="was written by a newer version; use that one"):
        Store.open(path, node_id=kit.node, network="regtest")
    with pytest.raises(StorageFailed, match="has schema 9999"):
        Store.open_read_only(path, node_id=kit.node, network="regtest")
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


def test_a_directory_that_is_not_there_is_said(kit: Any, tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="check that the data directory exists"):
        Store.open(tmp_path / "nowhere" / "db", node_id=kit.node, network="regtest")


def test_a_directory_without_write_permission_is_said(kit: Any, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser may write everywhere")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(StorageFailed, match="check that the data directory exists, is yours"):
        Store.open(locked / "db", node_id=kit.node, network="regtest")


def test_a_closed_store_takes_nothing(opened: Opened, kit: Any) -> None:
    store = opened()
    store.close()
    store.close()
    with pytest.raises(StorageFailed, match="it was closed"):
        store.commit([StorePayment(payment=kit.payment(1))])
