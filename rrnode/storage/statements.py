"""The SQL of the hot path, built once per store."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Dialect, Table, bindparam, delete, insert, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert

from protocols.units import BlockHeight
from rrnode.storage import codec, schema
from rrnode.storage.batch import Batch
from rrnode.storage.records import Cursor, JournalEntry


def _upsert(table: Table, is_sqlite: bool) -> Insert:
    """Insert, or replace every column of the row that has the same primary key."""
    keys = [column.name for column in table.primary_key]
    statement = sqlite.insert(table) if is_sqlite else postgresql.insert(table)
    changed = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    if not changed:
        return statement.on_conflict_do_nothing(index_elements=keys)
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)


class _Prepared:
    """A statement compiled once; what is left per call is the driver's own work (half of a commit's CPU time else)."""

    def __init__(self, statement: Insert, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self._sql = str(compiled)
        self._names: tuple[str, ...] | None = tuple(compiled.positiontup) if compiled.positiontup else None

    def run(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        """Execute it for each row (column names to values)."""
        if not rows:
            return
        names = self._names
        given: Any = rows if names is None else [tuple(row[name] for name in names) for row in rows]
        connection.exec_driver_sql(self._sql, given)


class Statements:
    """Writes batches.

    Args:
        dialect: decides how the database says "insert or update".
    """

    def __init__(self, dialect: Dialect) -> None:
        is_sqlite = dialect.name == "sqlite"
        self.upserts = {
            table.name: _Prepared(_upsert(table, is_sqlite), dialect) for table in schema.metadata.sorted_tables
        }
        self._add_revoked = _Prepared(insert(schema.revoked_states), dialect)
        self._add_journal = _Prepared(insert(schema.journal), dialect)
        forwards, history = schema.forwards, schema.forward_history
        this = (forwards.c.channel_id == bindparam("channel")) & (forwards.c.htlc_id == bindparam("htlc"))
        self._keep_history = insert(history).from_select(
            ["number", "at", "earned_msat", "state"],
            select(
                bindparam("new_number", type_=history.c.number.type),
                bindparam("new_at", type_=history.c.at.type),
                bindparam("new_earned", type_=history.c.earned_msat.type),
                forwards.c.state,
            ).where(this),
        )
        self._drop_forward = delete(forwards).where(this)
        self._drop_promise = delete(schema.promises).where(schema.promises.c.payment_hash == bindparam("unpaid"))
        self._drop_channel = delete(schema.channels).where(schema.channels.c.row == bindparam("gone"))

    def write(self, connection: Connection, batch: Batch, *, next_history: int, at: int) -> int:
        """Write a batch; gives how many numbers of the forward history it used."""
        channels = [(row, channel) for row, channel in batch.channels.items() if channel is not None]
        self._put(connection, "channels", [_channel_row(row, channel) for row, channel in channels])
        self._add_revoked.run(
            connection,
            [
                {"channel_row": row, "number": revoked.number, "txid": revoked.txid, "record": revoked.record}
                for row, revoked in batch.revoked
            ],
        )
        gone = [{"gone": row} for row, channel in batch.channels.items() if channel is None]
        if gone:
            connection.execute(self._drop_channel, gone)
        promises = {key: promise for key, promise in batch.promises.items() if promise is not None}
        for name, things in (("payments", batch.payments), ("promises", promises)):
            self._put(
                connection,
                name,
                [
                    {
                        "payment_hash": key,
                        "phase": thing.phase.name,
                        "created": thing.created,
                        "state": codec.encode(thing),
                    }
                    for key, thing in things.items()
                ],
            )
        if unpaid := [{"unpaid": key} for key, promise in batch.promises.items() if promise is None]:
            connection.execute(self._drop_promise, unpaid)
        self._put(
            connection,
            "forwards",
            [
                {"channel_id": ref.channel_id, "htlc_id": ref.htlc_id, "state": codec.encode(forward)}
                for ref, forward in batch.forwards.items()
            ],
        )
        if batch.dropped:
            keys = [{"channel": drop.incoming.channel_id, "htlc": drop.incoming.htlc_id} for drop in batch.dropped]
            connection.execute(
                self._keep_history,
                [
                    {**key, "new_number": next_history + place, "new_at": at, "new_earned": drop.earned}
                    for place, (key, drop) in enumerate(zip(keys, batch.dropped, strict=True))
                ],
            )
            connection.execute(self._drop_forward, keys)
        return len(batch.dropped)

    def write_journal(self, connection: Connection, first: int, engine: str, journal: Sequence[JournalEntry]) -> None:
        """Append journal lines, numbered from `first`."""
        self._add_journal.run(
            connection,
            [
                {
                    "seq": seq,
                    "at": line.facts.now,
                    "engine": engine,
                    "event_type": type(line.event).__name__,
                    "event": codec.encode(line.event),
                    "facts": codec.encode(line.facts),
                }
                for seq, line in enumerate(journal, first)
            ],
        )

    def set_cursor(self, connection: Connection, name: str, cursor: tuple[int, bytes]) -> None:
        """Note the last block taken in."""
        height, block_hash = cursor
        self._put(connection, "cursors", [{"name": name, "height": height, "block_hash": block_hash}])

    def _put(self, connection: Connection, table: str, rows: list[dict[str, Any]]) -> None:
        self.upserts[table].run(connection, rows)


def read_cursor(connection: Connection, name: str) -> Cursor | None:
    """The last block taken in, None before the first."""
    found = connection.execute(select(schema.cursors).where(schema.cursors.c.name == literal(name))).first()
    return None if found is None else (BlockHeight(found.height), found.block_hash)


def _channel_row(row: int, channel: Any) -> dict[str, Any]:
    return {
        "row": row,
        "channel_id": channel.channel_id,
        "peer": channel.peer,
        "phase": channel.phase.name,
        "first_expiry": min((htlc.expiry for htlc in channel.htlcs), default=None),
        "state": codec.encode(channel),
    }
