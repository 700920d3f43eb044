"""What a watcher keeps for others: sealed remedies by hint and client, within quotas, found again by hint (DESIGN 7).

On SQLite in a file of its own beside the node's: what strangers send can neither fill that one nor hold up its commits, and
a full disk here only means that nothing new is taken. Any thread may call; calls take turns.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from sqlalchemy import Connection, bindparam, delete, func, select, tuple_, update

from protocols.ids import PeerId
from protocols.units import BlockHeight
from protocols.watch.remedy import HINT_SIZE
from rrnode.storage import schema
from rrnode.storage.database import Database
from rrnode.storage.hints import HintFilter
from rrnode.storage.owned import open_owned
from rrnode.storage.statements import Statements

_PAGE = 20_000  # hints read, or remedies dropped, in one go
_PIECE = 100  # remedies read whole in one go, at most 21 kB each
NO_HINT = bytes(HINT_SIZE)


class NoRoom(Enum):
    """Why remedies are not taken."""

    CLIENT = "this client's bytes are used up"
    ALL = "the watcher's own room is used up"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRemedy:
    """One that is kept. `digest`: SHA-256 of the sealed bytes."""

    hint: bytes
    digest: bytes
    until: BlockHeight


class RemedyStore:
    """The remedies of one watcher. Opened by `open`; ask `find` only after `fill_filter`, or it asks the disk each time.

    Args:
        most_bytes: of all clients together, hints included.
        most_per_client: likewise of one.
    """

    def __init__(self, database: Database, *, most_bytes: int, most_per_client: int) -> None:
        self.most_bytes, self.most_per_client = most_bytes, most_per_client
        self._database = database
        self._upserts = Statements(database.dialect).upserts
        clients = schema.watch_clients.c
        with database.reading() as connection:
            self._next_client = 1 + (connection.execute(select(func.max(clients.number))).scalar() or 0)
            self.used_bytes = int(
                connection.execute(select(func.coalesce(func.sum(clients.used_bytes), 0))).scalar_one()
            )
        self._filter: HintFilter | None = None
        self._filling: HintFilter | None = None
        self._turn = threading.Lock()  # for what is counted in memory beside the database

    @classmethod
    def open(
        cls, where: Path | str, *, node_id: PeerId, network: str, most_bytes: int, most_per_client: int
    ) -> "RemedyStore":
        """Open the database, making it first if need be. Raises StorageFailed."""
        database = open_owned(where, node_id=node_id, network=network, writes_again=True)
        return cls(database, most_bytes=most_bytes, most_per_client=most_per_client)

    @property
    def database(self) -> Database:
        """For what else a watcher keeps in the same file (`rrnode.storage.cases`)."""
        return self._database

    def close(self) -> None:
        """Close the database. Idempotent."""
        self._database.close()

    # --- for clients --------------------------------------------------------------------------------------------------

    def used_by(self, client: PeerId) -> int:
        """Bytes that one client has here."""
        with self._database.reading() as connection:
            return _client(connection, client)[1]

    def put(self, client: PeerId, until: BlockHeight, remedies: Mapping[bytes, bytes]) -> int | NoRoom:
        """Keep all of these (sealed bytes by hint), each in the place of an older one of the same client and hint, or none.

        Returns:
            What the client has here now, in bytes.

        Raises:
            StorageFailed: nothing was kept; what was there is there.
        """
        with self._turn:
            with self._database.writing() as connection:
                number, before = _client(connection, client)
                replaced = sum(size for _, size in _sizes(connection, number, remedies))
                more = sum(HINT_SIZE + len(sealed) for sealed in remedies.values()) - replaced
                if before + more > self.most_per_client:
                    return NoRoom.CLIENT
                if self.used_bytes + more > self.most_bytes:
                    return NoRoom.ALL
                self._may_have(remedies)
                if number == 0:
                    number, self._next_client = self._next_client, self._next_client + 1
                self._write(connection, number, client, before + more, until, remedies)
            self.used_bytes += more
        return before + more

    def _may_have(self, hints: Iterable[bytes]) -> None:
        """Before they are on disk: a transaction that is looked up right after must not be missed."""
        for each in (self._filter, self._filling):
            if each is not None:
                for hint in hints:
                    each.add(hint)

    def _write(
        self,
        connection: Connection,
        number: int,
        client: PeerId,
        used: int,
        until: BlockHeight,
        remedies: Mapping[bytes, bytes],
    ) -> None:
        self._upserts["watch_clients"].run(connection, [{"number": number, "peer": client, "used_bytes": used}])
        self._upserts["remedies"].run(
            connection,
            [{"hint": hint, "client": number, "until": until, "sealed": sealed} for hint, sealed in remedies.items()],
        )

    def renew(self, client: PeerId, until: BlockHeight, hints: Sequence[bytes]) -> list[bytes] | None:
        """Keep these at least until a height; None, and nothing done, when one of them is not held.

        Returns:
            Their digests, in the order of the hints.

        Raises:
            StorageFailed: as before.
        """
        table = schema.remedies
        with self._database.writing() as connection:
            number, _ = _client(connection, client)
            digests: dict[bytes, bytes] = {}
            for piece in _pieces(hints):
                mine = (table.c.client == number) & table.c.hint.in_(piece)
                for row in connection.execute(select(table.c.hint, table.c.sealed).where(mine)):
                    digests[row.hint] = hashlib.sha256(row.sealed).digest()
            if any(hint not in digests for hint in hints):
                return None
            for piece in _pieces(hints):
                mine = (table.c.client == number) & table.c.hint.in_(piece)
                connection.execute(update(table).where(mine, table.c.until < until).values(until=until))
        return [digests[hint] for hint in hints]

    def held(self, client: PeerId, after: bytes, limit: int) -> tuple[list[HeldRemedy], bool]:
        """The client's remedies behind a hint, in their order, so many at most; and whether there are more."""
        table = schema.remedies
        with self._database.reading() as connection:
            number, _ = _client(connection, client)
            rows = connection.execute(
                select(table.c.hint, table.c.until, table.c.sealed)
                .where(table.c.client == number, table.c.hint > after)
                .order_by(table.c.hint)
                .limit(limit + 1)
            )
            found = [
                HeldRemedy(hint=row.hint, digest=hashlib.sha256(row.sealed).digest(), until=BlockHeight(row.until))
                for row in rows
            ]
        return found[:limit], len(found) > limit

    def withdraw(self, client: PeerId, hints: Sequence[bytes]) -> int:
        """Drop these; those that are not held are no error. Gives what the client has here now. Raises StorageFailed."""
        table = schema.remedies
        with self._turn:
            with self._database.writing() as connection:
                number, used = _client(connection, client)
                freed = sum(size for _, size in _sizes(connection, number, hints))
                for piece in _pieces(hints):
                    connection.execute(delete(table).where(table.c.client == number, table.c.hint.in_(piece)))
                _set_used(connection, number, used - freed)
            self.used_bytes -= freed
        return used - freed

    # --- for the watcher ----------------------------------------------------------------------------------------------

    def drop_past(self, tip: BlockHeight) -> int:
        """Drop what was to be kept until a height that is past; gives how many. Raises StorageFailed."""
        dropped, more = 0, True
        while more:
            with self._turn:
                with self._database.writing() as connection:
                    gone, freed = _drop_some(connection, tip)
                self.used_bytes -= freed
            dropped, more = dropped + gone, gone == _PAGE
        return dropped

    def fill_filter(self) -> None:
        """Read all hints into a fresh filter: at the start, and when the old one has too many that are gone."""
        table = schema.remedies.c
        with self._database.reading() as connection:
            count = connection.execute(select(func.count()).select_from(schema.remedies)).scalar_one()
        fresh = self._filling = HintFilter(count)
        number, hint = 0, b""
        while True:
            # One page at a time: clients wait for no more than that. What they bring meanwhile goes into both filters.
            with self._database.reading() as connection:
                rows = connection.execute(
                    select(table.client, table.hint)
                    .where(tuple_(table.client, table.hint) > (number, hint))  # of the index; an OR reads a client anew
                    .order_by(table.client, table.hint)
                    .limit(_PAGE)
                ).all()
            for row in rows:
                fresh.add(row.hint)
            if len(rows) < _PAGE:
                break
            number, hint = rows[-1].client, rows[-1].hint
        self._filter, self._filling = fresh, None

    @property
    def wants_filter(self) -> bool:
        """Whether `fill_filter` is worth its time."""
        return self._filter is None or self._filter.is_full

    def may_have(self, hint: bytes) -> bool:
        """Whether it is worth asking the disk."""
        return self._filter is None or hint in self._filter

    def find(self, hint: bytes) -> Iterator[bytes]:
        """All that clients filed under this hint, those of the oldest clients first; a few at a time, since anybody may
        file rubbish there. Raises StorageFailed."""
        number = 0
        while page := self.find_some(hint, number):
            yield from (sealed for _, sealed in page)
            number = page[-1][0]

    def find_some(self, hint: bytes, after: int) -> list[tuple[int, bytes]]:
        """(client's number, sealed) of the first of them behind a client, as many as are read in one go; none at the end. Raises StorageFailed."""
        table = schema.remedies.c
        if not self.may_have(hint):
            return []
        with self._database.reading() as connection:
            rows = connection.execute(
                select(table.client, table.sealed)
                .where(table.hint == hint, table.client > after)
                .order_by(table.client)
                .limit(_PIECE)
            ).all()
        return [(row.client, row.sealed) for row in rows]


def _client(connection: Connection, peer: PeerId) -> tuple[int, int]:
    """(number, bytes used) of a client; zeros for one that has nothing here."""
    table = schema.watch_clients
    row = connection.execute(select(table).where(table.c.peer == peer)).first()
    return (0, 0) if row is None else (int(row.number), int(row.used_bytes))


def _set_used(connection: Connection, number: int, used: int) -> None:
    """A client that has nothing left is forgotten: strangers with ever new keys leave nothing behind."""
    table = schema.watch_clients
    this = table.c.number == number
    connection.execute(update(table).where(this).values(used_bytes=used) if used else delete(table).where(this))


def _drop_some(connection: Connection, tip: BlockHeight) -> tuple[int, int]:
    """(how many were dropped, bytes that they counted for)."""
    table, clients = schema.remedies, schema.watch_clients
    rows = connection.execute(
        select(table.c.hint, table.c.client, func.length(table.c.sealed).label("size"))
        .where(table.c.until < tip)
        .limit(_PAGE)
    ).all()
    freed: dict[int, int] = {}
    for row in rows:
        freed[row.client] = freed.get(row.client, 0) + HINT_SIZE + row.size
    if rows:
        connection.execute(
            delete(table).where(table.c.hint == bindparam("gone"), table.c.client == bindparam("whose")),
            [{"gone": row.hint, "whose": row.client} for row in rows],
        )
    for number, less in freed.items():
        used = connection.execute(select(clients.c.used_bytes).where(clients.c.number == number)).scalar_one()
        _set_used(connection, number, used - less)
    return len(rows), sum(freed.values())


def _sizes(connection: Connection, client: int, hints: Iterable[bytes]) -> list[tuple[bytes, int]]:
    """(hint, bytes that it counts for) of those of these that a client has."""
    table, found = schema.remedies, list[tuple[bytes, int]]()
    for piece in _pieces(list(hints)):
        rows = connection.execute(
            select(table.c.hint, func.length(table.c.sealed).label("size")).where(
                table.c.client == client, table.c.hint.in_(piece)
            )
        )
        found += [(row.hint, HINT_SIZE + row.size) for row in rows]
    return found


def _pieces(hints: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(hints), _PIECE):
        yield hints[start : start + _PIECE]
