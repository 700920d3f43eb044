"""A hunter's cases, in the watcher's own file; those that are closed are history (DESIGN 7)."""

from collections.abc import Iterable

from sqlalchemy import delete, func, select

from protocols.ids import Txid
from protocols.units import BlockHeight
from protocols.watch.hunt import Case
from rrnode.storage import codec, schema
from rrnode.storage.database import Database
from rrnode.storage.statements import Statements, read_cursor

MOST_CLOSED = 10_000  # cases kept as history
_CURSOR = "hunting"

_TABLE = schema.bounty_cases


class CaseStore:
    """Any thread may call. Every method may raise StorageFailed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements = Statements(database.dialect)

    def save(self, cases: Iterable[Case], settled_to: BlockHeight) -> None:
        """Keep these as they are now, in one transaction.

        Args:
            settled_to: the block up to which nothing waits to be looked up.
        """
        rows = [
            {
                "txid": case.txid,
                "is_open": not case.closed,
                "first_seen": case.first_seen,
                "state": codec.encode(case),
            }
            for case in cases
        ]
        with self._database.writing() as connection:
            self._statements.upserts["bounty_cases"].run(connection, rows)
            self._statements.set_cursor(connection, _CURSOR, (settled_to, b""))  # looking again needs no hash
            if any(not row["is_open"] for row in rows):
                closed = _TABLE.c.is_open.is_(False)
                count = connection.execute(select(func.count()).where(closed)).scalar_one()
                if count > MOST_CLOSED:
                    oldest = (
                        select(_TABLE.c.txid).where(closed).order_by(_TABLE.c.first_seen).limit(count - MOST_CLOSED)
                    )
                    connection.execute(delete(_TABLE).where(_TABLE.c.txid.in_(oldest)))

    def settled_to(self) -> BlockHeight | None:
        """What `save` was given last."""
        with self._database.reading() as connection:
            cursor = read_cursor(connection, _CURSOR)
        return None if cursor is None else BlockHeight(cursor[0])

    def open_cases(self) -> tuple[Case, ...]:
        """Those that go on."""
        with self._database.reading() as connection:
            rows = connection.execute(select(_TABLE).where(_TABLE.c.is_open.is_(True))).all()
        return tuple(_decoded(row.txid, row.state) for row in rows)

    def newest(self, limit: int) -> tuple[Case, ...]:
        """The cases that were opened last, newest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(_TABLE).order_by(_TABLE.c.first_seen.desc()).limit(limit)).all()
        return tuple(_decoded(row.txid, row.state) for row in rows)

    def find(self, txid: Txid) -> Case | None:
        """One case."""
        with self._database.reading() as connection:
            row = connection.execute(select(_TABLE).where(_TABLE.c.txid == txid)).first()
        return None if row is None else _decoded(row.txid, row.state)


def _decoded(txid: bytes, raw: bytes) -> Case:
    return codec.decode(Case, raw, f"bounty case {txid[::-1].hex()}")
