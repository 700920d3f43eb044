"""Migrations: they make exactly the tables the code expects, and carry a database of the first schema to the newest."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from protocols.ids import PeerId
from protocols.payment.events import DropForward, StoreForward, StorePayment, StorePromise
from protocols.units import BlockHeight, Msat
from rrnode.storage import Store, migrate, schema
from rrnode.storage.database import Database
from rrnode.storage.remedies import Known, Quotas, RemedyStore, on_disk

Opened = Callable[..., Store]
FIRST = Path(__file__).with_name("first_schema.json")


def test_migrations_make_the_tables_the_code_expects(opened: Opened, path: Path) -> None:
    opened().close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_the_newest_revision_is_the_one_the_code_names() -> None:
    scripts = ScriptDirectory(str(Path(migrate.__file__).parent / "migrations"))
    assert scripts.get_heads() == [schema.HEAD]
    assert scripts.get_bases() == ["0001"]


def test_a_second_start_has_nothing_to_do(path: Path) -> None:
    database = Database(path)
    with database.writing() as connection:
        assert migrate.upgrade(connection)
    with database.writing() as connection:
        assert not migrate.upgrade(connection)
    database.close()


def test_a_migration_that_fails_leaves_the_database_as_it_was(path: Path) -> None:
    database = Database(path)

    def fail_half_way() -> None:
        with database.writing() as connection:
            migrate.upgrade(connection)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    database.close()
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_a_database_of_the_first_schema_is_read_by_this_version(path: Path, kit: Any) -> None:
    """`first_schema.json` holds rows as the first version wrote them: their bytes must be readable for ever."""
    database = Database(path)
    with database.writing() as connection:
        migrate.upgrade(connection, "0001")
    database.close()
    with sqlite3.connect(path) as raw:
        for table, rows in json.loads(FIRST.read_text()).items():
            for row in rows:
                values = {
                    name: bytes.fromhex(cell[1:]) if str(cell).startswith("x") else cell for name, cell in row.items()
                }
                names = ", ".join(f'"{name}"' for name in values)
                marks = ", ".join("?" for _ in values)
                raw.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(values.values()))
    store = Store.open(path, node_id=kit.node, network="regtest")
    loaded = store.load()
    assert loaded.snapshot.payments == (kit.payment(1),)
    assert loaded.snapshot.promises == (kit.promise(2),)
    assert loaded.snapshot.forwards == (kit.forward(3),)
    assert loaded.cursor == (12, b"c" * 32)
    assert [entry.forward for entry in store.forward_history()] == [kit.forward(4)]
    store.commit([DropForward(incoming=kit.ref(3), earned=Msat(1))])
    store.close()
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [(schema.HEAD,)]


def test_what_a_watcher_kept_is_counted_anew_and_its_clients_stay_known(path: Path, kit: Any) -> None:
    database = Database(path)
    with database.writing() as connection:
        migrate.upgrade(connection, "0002")
        for number in (1, 2):
            peer, used = bytes([2, number]) + bytes(31), 2 * 200
            connection.exec_driver_sql("INSERT INTO watch_clients VALUES (?, ?, ?)", (number, peer, used))
            for hint, size in ((b"a" * 16, 184), (b"b" * 16, 3227)):
                row = hint, number, 900, bytes(size)
                connection.exec_driver_sql("INSERT INTO remedies VALUES (?, ?, ?, ?)", row)
    database.close()
    quotas = Quotas(total=10**6, client=10**6, network=10**6)
    store = RemedyStore.open(path, node_id=kit.node, network="regtest", quotas=quotas)
    each = on_disk(184) + on_disk(3227)
    assert store.used_bytes == 2 * each
    client = PeerId(bytes([2, 1]) + bytes(31))
    assert store.known(client) == Known(number=1, used=each, since=BlockHeight(0), network="")
    hints = [b"a" * 16, b"b" * 16]
    assert [store.withdraw(PeerId(bytes([2, number]) + bytes(31)), hints) for number in (1, 2)] == [0, 0]
    assert store.used_bytes == 0
    with store.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT * FROM watch_networks").all() == []
    store.close()


def test_every_table_can_be_made_on_postgresql_too() -> None:
    for table in schema.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=postgresql.dialect()))


def write_first_schema(path: Path, kit: Any) -> None:
    """How `first_schema.json` was made; run by hand, once per schema that is ever released."""
    store = Store.open(path, node_id=kit.node, network="regtest")
    store.commit(
        [
            StorePayment(payment=kit.payment(1)),
            StorePromise(promise=kit.promise(2)),
            StoreForward(forward=kit.forward(3)),
            StoreForward(forward=kit.forward(4)),
        ],
        cursor=(12, b"c" * 32),
    )
    store.commit([DropForward(incoming=kit.ref(4), earned=Msat(3))])
    store.close()
    rows: dict[str, list[dict[str, object]]] = {}
    with sqlite3.connect(path) as raw:
        raw.row_factory = sqlite3.Row
        for table in ("meta", "payments", "promises", "forwards", "forward_history", "cursors"):
            rows[table] = [
                {
                    key: "x" + row[key].hex() if isinstance(row[key], bytes) else row[key]
                    for key in row.keys()  # noqa: SIM118
                }
                for row in raw.execute(f"SELECT * FROM {table}")
            ]
    FIRST.write_text(json.dumps(rows, indent=1) + "\n")
