"""Which watcher has which revoked state of ours, and until when. What is missing here is what is still to be handed over.

The revoked states themselves are stored with the channel's state in one transaction; so nothing can be forgotten, whatever
ends the process, and a new watcher lacks them all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, tuple_, update

from protocols.ids import ChannelId, PeerId, Txid
from protocols.units import BlockHeight, Sat
from rrnode.storage import schema
from rrnode.storage.database import Database
from rrnode.storage.records import RevokedState
from rrnode.storage.statements import Statements

WINDOW = 4096  # states looked at in one go, some milliseconds: the channels wait for this database, too
NEVER = BlockHeight(2**31 - 1)  # `until` of a state without a remedy

_HANDED, _REVOKED = schema.handed_over, schema.revoked_states


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """What became of one revoked state with one watcher.

    Attributes:
        digest: of the sealed remedy that it holds; None: there was nothing that a bounty could be offered for.
        until: height until which it keeps it; `NEVER` without one.
        stake: the neighbour's when that was decided; with a larger one a state without a remedy is looked at again.
    """

    number: int
    digest: bytes | None
    until: BlockHeight
    stake: Sat


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A watcher's receipt: `listed` is hint and digest of each remedy, one after the other."""

    until: BlockHeight
    listed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A remedy that a watcher gave a receipt for: it holds it until a height."""

    channel_row: int
    number: int
    txid: Txid
    digest: bytes
    until: BlockHeight


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much of a channel one watcher covers at a height: how many states, the newest of them, and until when the first is
    kept; and how many revoked states it was not given yet, or keeps no longer."""

    states: int
    newest: int | None
    until: BlockHeight | None
    lacks: int


class CoverStore:
    """In the node's database. Any thread may call. Every method may raise StorageFailed.

    Args:
        rows: the small number of each stored channel; the store's own, read only.
    """

    def __init__(self, database: Database, statements: Statements, rows: Mapping[ChannelId, int]) -> None:
        self._database, self._upserts, self._rows = database, statements.upserts, rows

    def watcher(self, peer: PeerId) -> int:
        """The small number that stands for this watcher; made when it is new."""
        table = schema.watchers
        with self._database.writing() as connection:
            number = connection.execute(select(table.c.number).where(table.c.peer == peer)).scalar()
            if number is None:
                number = 1 + (connection.execute(select(func.max(table.c.number))).scalar() or 0)
                connection.execute(insert(table), [{"number": number, "peer": peer}])
        return int(number)

    def revoked(self, channel_id: ChannelId) -> int:
        """How many revoked states of a channel are on disk; they are numbered from 0."""
        with self._database.reading() as connection:
            return self._count(connection, channel_id)

    def to_do(
        self, watcher: int, channel_id: ChannelId, *, stake: Sat, start: int, end: int, limit: int
    ) -> tuple[RevokedState, ...]:
        """Revoked states of numbers below `end`, at most `WINDOW` below it and none below `start`, that this watcher lacks, the
        newest first; also those that got no remedy when less was at stake."""
        here = (_HANDED.c.watcher == watcher) & (_HANDED.c.channel_row == _REVOKED.c.channel_row)
        both = _REVOKED.outerjoin(_HANDED, here & (_HANDED.c.number == _REVOKED.c.number))
        lacking = _HANDED.c.number.is_(None) | (_HANDED.c.digest.is_(None) & (_HANDED.c.stake < stake))
        with self._database.reading() as connection:
            found = connection.execute(
                select(_REVOKED)
                .select_from(both)
                .where(
                    _REVOKED.c.channel_row == self._rows.get(channel_id),
                    _REVOKED.c.number >= max(start, end - WINDOW),
                    _REVOKED.c.number < end,
                    lacking,
                )
                .order_by(_REVOKED.c.number.desc())
                .limit(limit)
            ).all()
        return tuple(RevokedState(number=row.number, txid=Txid(row.txid), record=row.record) for row in found)

    def note(self, watcher: int, channel_id: ChannelId, handed: Sequence[Handed], proof: Proof | None) -> None:
        """These are dealt with; `proof` is for all of them that have a digest."""
        with self._database.writing() as connection:
            self._upserts["handed_over"].run(
                connection,
                [
                    {
                        "watcher": watcher,
                        "channel_row": self._rows[channel_id],
                        "number": each.number,
                        "until": each.until,
                        "digest": each.digest,
                        "stake": each.stake,
                    }
                    for each in handed
                ],
            )
            if proof is not None:
                self._keep(connection, watcher, proof)

    def due(self, watcher: int, before: BlockHeight, limit: int) -> tuple[Due, ...]:
        """What this watcher would drop before a height, the first first."""
        return self._due(watcher, (_HANDED.c.until < before), limit)

    def of_channel(self, watcher: int, channel_id: ChannelId, limit: int) -> tuple[Due, ...]:
        """What this watcher holds for one channel."""
        return self._due(watcher, _HANDED.c.channel_row == self._rows.get(channel_id), limit)

    def handed(self, watcher: int, after: tuple[int, int], limit: int) -> tuple[Due, ...]:
        """What this watcher gave receipts for, behind (row of the channel, number), in that order."""
        place = tuple_(_HANDED.c.channel_row, _HANDED.c.number)
        return self._due(watcher, place > after, limit, _HANDED.c.channel_row, _HANDED.c.number)

    def count(self, watcher: int) -> int:
        """How many remedies this watcher gave receipts for."""
        with self._database.reading() as connection:
            held = (_HANDED.c.watcher == watcher) & _HANDED.c.digest.is_not(None)
            return int(connection.execute(select(func.count()).select_from(_HANDED).where(held)).scalar_one())

    def _due(self, watcher: int, which: ColumnElement[bool], limit: int, *order: ColumnElement[int]) -> tuple[Due, ...]:
        both = _HANDED.join(
            _REVOKED, (_HANDED.c.channel_row == _REVOKED.c.channel_row) & (_HANDED.c.number == _REVOKED.c.number)
        )
        with self._database.reading() as connection:
            found = connection.execute(
                select(_HANDED.c.channel_row, _HANDED.c.number, _HANDED.c.digest, _HANDED.c.until, _REVOKED.c.txid)
                .select_from(both)
                .where(_HANDED.c.watcher == watcher, _HANDED.c.digest.is_not(None), which)
                .order_by(*order or (_HANDED.c.until,))
                .limit(limit)
            ).all()
        return tuple(
            Due(
                channel_row=row.channel_row,
                number=row.number,
                txid=Txid(row.txid),
                digest=row.digest,
                until=BlockHeight(row.until),
            )
            for row in found
        )

    def renewed(self, watcher: int, due: Sequence[Due], proof: Proof) -> None:
        """The watcher keeps these until the height in its receipt."""
        with self._database.writing() as connection:
            for each in due:
                connection.execute(update(_HANDED).where(_is(watcher, each)).values(until=proof.until))
            self._keep(connection, watcher, proof)

    def dropped(self, watcher: int, due: Sequence[Due]) -> None:
        """The watcher does not hold these any more."""
        with self._database.writing() as connection:
            for each in due:
                connection.execute(delete(_HANDED).where(_is(watcher, each)))

    def drop_receipts(self, tip: BlockHeight) -> None:
        """What they promised is past."""
        with self._database.writing() as connection:
            connection.execute(delete(schema.watch_receipts).where(schema.watch_receipts.c.until < tip))

    def extent(self, watcher: int, channel_id: ChannelId, tip: BlockHeight) -> Extent:
        """How much of a channel this watcher covers. What it promised until an earlier height it may have dropped."""
        mine = (_HANDED.c.watcher == watcher) & (_HANDED.c.channel_row == self._rows.get(channel_id))
        kept, held = mine & (_HANDED.c.until >= tip), _HANDED.c.digest.is_not(None)
        with self._database.reading() as connection:
            dealt_with = connection.execute(select(func.count()).select_from(_HANDED).where(kept)).scalar_one()
            states, newest, until = connection.execute(
                select(func.count(), func.max(_HANDED.c.number), func.min(_HANDED.c.until)).where(kept, held)
            ).one()
            lacks = self._count(connection, channel_id) - dealt_with
        return Extent(states=states, newest=newest, until=until, lacks=lacks)

    def held_up_to(self, watcher: int, channel_id: ChannelId, since: int | None, tip: BlockHeight) -> int:
        """How many states of a channel this watcher holds, those from `since` on without a gap, and the newest in any case. One
        that nothing could be signed for is held by whoever was asked to hold it: there is nothing to wait for."""
        here = (_HANDED.c.watcher == watcher) & (_HANDED.c.channel_row == _REVOKED.c.channel_row)
        both = _REVOKED.outerjoin(_HANDED, here & (_HANDED.c.number == _REVOKED.c.number))
        with self._database.reading() as connection:
            count = self._count(connection, channel_id)
            first = count - 1 if since is None else min(since, count - 1)
            missing = connection.execute(
                select(func.min(_REVOKED.c.number))
                .select_from(both)
                .where(
                    _REVOKED.c.channel_row == self._rows.get(channel_id),
                    _REVOKED.c.number >= first,
                    _HANDED.c.number.is_(None) | (_HANDED.c.until < tip),
                )
            ).scalar()
        return count if missing is None else int(missing)

    def _count(self, connection: Connection, channel_id: ChannelId) -> int:
        newest = connection.execute(
            select(func.max(_REVOKED.c.number)).where(_REVOKED.c.channel_row == self._rows.get(channel_id))
        ).scalar()
        return 0 if newest is None else int(newest) + 1

    def _keep(self, connection: Connection, watcher: int, proof: Proof) -> None:
        table = schema.watch_receipts
        number = 1 + (connection.execute(select(func.max(table.c.number))).scalar() or 0)
        connection.execute(
            insert(table),
            [
                {
                    "number": number,
                    "watcher": watcher,
                    "until": proof.until,
                    "listed": proof.listed,
                    "signature": proof.signature,
                }
            ],
        )


def _is(watcher: int, due: Due) -> ColumnElement[bool]:
    return (
        (_HANDED.c.watcher == watcher) & (_HANDED.c.channel_row == due.channel_row) & (_HANDED.c.number == due.number)
    )
