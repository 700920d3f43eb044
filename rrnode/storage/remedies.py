"""What a watcher keeps for others: sealed remedies by hint and client, within quotas, found again by hint (DESIGN 7).

On SQLite in a file of its own beside the node's: what strangers send can neither fill that one nor hold up its commits, and
a full disk here only means that nothing new is taken. Any thread may call; calls take turns.
"""

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, tuple_, update

from protocols.ids import PeerId
from protocols.units import BlockDelta, BlockHeight
from protocols.watch.remedy import HINT_SIZE
from rrnode.storage import schema
from rrnode.storage.database import Database
from rrnode.storage.hints import HintFilter
from rrnode.storage.owned import open_owned
from rrnode.storage.statements import Statements

_PAGE = 20_000  # hints read, or remedies dropped, in one go
_PIECE = 100  # remedies read whole in one go, at most 21 kB each
NO_HINT = bytes(HINT_SIZE)
KNOWN_AFTER = BlockDelta(2016)  # a client is no newcomer any more
KEPT_FOR_KNOWN = (
    4  # newcomers may not use the last one part in so many of a network's and of all room: keys cost nothing, years do
)
_DISK_PAGE = 4096
_INLINE = 960  # bytes; SQLite puts a sealed remedy that is larger on pages of its own


class NoRoom(Enum):
    """Why remedies are not taken."""

    CLIENT = "this client's bytes are used up"
    NETWORK = "the room for clients of this network is used up"
    NEWCOMER = "what room is left is for clients that have been here for longer"
    ALL = "the watcher's own room is used up"
    DISK = "the watcher's disk is nearly full"


def on_disk(sealed: int) -> int:
    """What a sealed remedy of so many bytes takes on disk, hint and indexes included: measured on SQLite, rounded up."""
    if sealed < _INLINE:
        return (HINT_SIZE + sealed) * 3 // 2 + 10
    return -(-(HINT_SIZE + sealed) // (_DISK_PAGE - 4)) * _DISK_PAGE + 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRemedy:
    """One that is kept. `digest`: SHA-256 of the sealed bytes."""

    hint: bytes
    digest: bytes
    until: BlockHeight


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """What strangers may take, bytes as they are on disk (`on_disk`).

    Attributes:
        total: all clients together.
        client: one.
        network: the clients of one network together.
        free: what must stay free on the disk: the node itself writes there, and stops when it cannot.
    """

    total: int
    client: int
    network: int
    free: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A client of ours. `since`: height at which its first remedy came; it is forgotten with its last."""

    number: int
    used: int
    since: BlockHeight
    network: str


class RemedyStore:
    """The remedies of one watcher. Opened by `open`; ask `find` only after `fill_filter`, or it asks the disk each time.

    Args:
        free: how much is free on the disk now, bytes.
    """

    def __init__(self, database: Database, quotas: Quotas, *, free: Callable[[], int]) -> None:
        self.quotas, self._free = quotas, free
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
        cls, where: Path | str, *, node_id: PeerId, network: str, quotas: Quotas, directory: Path | None = None
    ) -> "RemedyStore":
        """Open the database, making it first if need be. Raises StorageFailed.

        Args:
            directory: on the disk whose free space counts; None: it is somebody else's, and no look is taken.
        """
        database = open_owned(where, node_id=node_id, network=network, writes_again=True)

        def free() -> int:
            try:
                return quotas.free if directory is None else shutil.disk_usage(directory).free
            except OSError:
                return 0  # a disk that does not even say how full it is takes nothing

        return cls(database, quotas, free=free)

    @property
    def database(self) -> Database:
        """For what else a watcher keeps in the same file (`rrnode.storage.cases`)."""
        return self._database

    def close(self) -> None:
        """Close the database. Idempotent."""
        self._database.close()

    # --- for clients --------------------------------------------------------------------------------------------------

    def known(self, client: PeerId) -> Known | None:
        """What is known of one client; None when it has nothing here."""
        with self._database.reading() as connection:
            return _client(connection, client)

    def used_by(self, client: PeerId) -> int:
        """Bytes that one client has here."""
        known = self.known(client)
        return 0 if known is None else known.used

    def put(
        self, client: PeerId, until: BlockHeight, remedies: Mapping[bytes, bytes], *, tip: BlockHeight, network: str
    ) -> int | NoRoom:
        """Keep all of these (sealed bytes by hint), each in the place of an older one of the same client and hint, or none.

        Args:
            network: that the client comes from; it counts for the one that it came from first.

        Returns:
            What the client has here now, in bytes.

        Raises:
            StorageFailed: nothing was kept; what was there is there.
        """
        with self._turn:
            with self._database.writing() as connection:
                known = _client(connection, client)
                if known is None:
                    known = Known(number=self._next_client, used=0, since=tip, network=network)
                replaced = sum(size for _, size in _sizes(connection, known.number, remedies))
                more = sum(on_disk(len(sealed)) for sealed in remedies.values()) - replaced
                if more > 0 and (refusal := self._no_room(connection, known, more, tip)):
                    return refusal
                self._may_have(remedies)
                self._next_client = max(self._next_client, known.number + 1)
                self._write(connection, known, client, more, until, remedies)
            self.used_bytes += more
        return known.used + more

    def _no_room(self, connection: Connection, known: Known, more: int, tip: BlockHeight) -> NoRoom | None:
        quotas = self.quotas
        if self._free() < quotas.free:
            return NoRoom.DISK
        if known.used + more > quotas.client:
            return NoRoom.CLIENT
        is_new = tip < known.since + KNOWN_AFTER
        for used, room, refusal in (
            (_used_in(connection, known.network), quotas.network, NoRoom.NETWORK),
            (self.used_bytes, quotas.total, NoRoom.ALL),
        ):
            if used + more > room:
                return refusal
            if is_new and used + more > room - room // KEPT_FOR_KNOWN:
                return NoRoom.NEWCOMER
        return None

    def _may_have(self, hints: Iterable[bytes]) -> None:
        """Before they are on disk: a transaction that is looked up right after must not be missed."""
        for each in (self._filter, self._filling):
            if each is not None:
                for hint in hints:
                    each.add(hint)

    def _write(
        self,
        connection: Connection,
        known: Known,
        client: PeerId,
        more: int,
        until: BlockHeight,
        remedies: Mapping[bytes, bytes],
    ) -> None:
        row = {
            "number": known.number,
            "peer": client,
            "used_bytes": known.used + more,
            "since": known.since,
            "network": known.network,
        }
        self._upserts["watch_clients"].run(connection, [row])
        network = {"network": known.network, "used_bytes": _used_in(connection, known.network) + more}
        self._upserts["watch_networks"].run(connection, [network])
        self._upserts["remedies"].run(
            connection,
            [
                {"hint": hint, "client": known.number, "until": until, "sealed": sealed}
                for hint, sealed in remedies.items()
            ],
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
            number = _number(connection, client)
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
            number = _number(connection, client)
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
                known = _client(connection, client)
                if known is None:
                    return 0
                freed = sum(size for _, size in _sizes(connection, known.number, hints))
                for piece in _pieces(hints):
                    connection.execute(delete(table).where(table.c.client == known.number, table.c.hint.in_(piece)))
                _give_back(connection, known, freed)
            self.used_bytes -= freed
        return known.used - freed

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


def _client(connection: Connection, peer: PeerId) -> Known | None:
    table = schema.watch_clients
    row = connection.execute(select(table).where(table.c.peer == peer)).first()
    return None if row is None else _known(row)


def _known(row: Any) -> Known:
    return Known(number=row.number, used=row.used_bytes, since=BlockHeight(row.since), network=row.network)


def _number(connection: Connection, peer: PeerId) -> int:
    """Of a client; 0 for one that has nothing here."""
    known = _client(connection, peer)
    return 0 if known is None else known.number


def _used_in(connection: Connection, network: str) -> int:
    table = schema.watch_networks
    used = connection.execute(select(table.c.used_bytes).where(table.c.network == network)).scalar()
    return 0 if used is None else int(used)


def _give_back(connection: Connection, known: Known, freed: int) -> None:
    """A client that has nothing left is forgotten, a network likewise: strangers with ever new keys leave nothing behind."""
    clients, networks = schema.watch_clients, schema.watch_networks
    for table, this, used in (
        (clients, clients.c.number == known.number, known.used),
        (networks, networks.c.network == known.network, _used_in(connection, known.network)),
    ):
        left = used - freed
        connection.execute(update(table).where(this).values(used_bytes=left) if left else delete(table).where(this))


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
        freed[row.client] = freed.get(row.client, 0) + on_disk(row.size)
    if rows:
        connection.execute(
            delete(table).where(table.c.hint == bindparam("gone"), table.c.client == bindparam("whose")),
            [{"gone": row.hint, "whose": row.client} for row in rows],
        )
    for number, less in freed.items():
        row = connection.execute(select(clients).where(clients.c.number == number)).one()
        _give_back(connection, _known(row), less)
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
        found += [(row.hint, on_disk(row.size)) for row in rows]
    return found


def _pieces(hints: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(hints), _PIECE):
        yield hints[start : start + _PIECE]
