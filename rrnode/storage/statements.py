"""The SQL of the hot path, built once per store."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, insert, literal, select
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


class Statements:
    """Writes batches. `is_sqlite` picks the dialect's way of saying "insert or update"."""

    def __init__(self, is_sqlite: bool) -> None:
        self.upserts = {table.name: _upsert(table, is_sqlite) for table in schema.metadata.sorted_tables}
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
        self._drop_channel = delete(schema.channels).where(schema.channels.c.row == bindparam("gone"))

    def write(self, connection: Connection, batch: Batch, *, next_history: int, at: int) -> int:
        """Write a batch; gives how many numbers of the forward history it used."""
        channels = [(row, channel) for row, channel in batch.channels.items() if channel is not None]
        self._put(connection, "channels", [_channel_row(row, channel) for row, channel in channels])
        if batch.revoked:
            connection.execute(
                insert(schema.revoked_states),
                [
                    {"channel_row": row, "number": revoked.number, "txid": revoked.txid, "record": revoked.record}
                    for row, revoked in batch.revoked
                ],
            )
        gone = [{"gone": row} for row, channel in batch.channels.items() if channel is None]
        if gone:
            connection.execute(self._drop_channel, gone)
        for name, things in (("payments", batch.payments), ("promises", batch.promises)):
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
        connection.execute(
            insert(schema.journal),
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
        if rows:
            connection.execute(self.upserts[table], rows)


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
