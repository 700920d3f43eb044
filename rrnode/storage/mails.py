"""What a mailbox keeps: sealed initializations for payees that are away, within quotas, and what became of them (R14).

On SQLite in a file of its own beside the node's, as with a watcher's: strangers' mail can neither fill that one nor hold up
its commits, and a full disk here only means that nothing new is kept. Any thread may call; calls take turns.

Nobody knows a sender, only the network that it came from. So room is shared by networks: each has a cap, and where all
room is used up, one that holds less takes the place of the newest of the one that holds most.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from sqlalchemy import Connection, delete, func, insert, select, update

from protocols.ids import PeerId
from protocols.units import UnixTime
from protocols.wire.init import DeliveryCode
from rrnode.storage import schema
from rrnode.storage.database import Database
from rrnode.storage.owned import open_owned

_PAGE = 1_000  # mails dropped in one transaction
_BOX, _MAIL = schema.mailboxes, schema.mails
_WAITS = _MAIL.c.sealed.is_not(None)
PUSHED_OUT = "the mailbox was full, and others had sent less; try again later"


class NoRoom(Enum):
    """Why a mail is not kept."""

    NETWORK = "too many from your network wait for this payee, or at this server"
    MAILBOX = "the payee's mailbox is full"
    SERVER = "all room of this server's mailboxes is used up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """It is kept, at the latest until then."""

    until: UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """It waits no longer: `code` 0 for taken by the payee, else one of `DeliveryCode`."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptMail:
    """One that waits."""

    number: int
    stored: UnixTime
    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a mailbox; the counts are of what the payee will never see."""

    mails: tuple[KeptMail, ...] = ()
    more: bool = False
    turned_away: int = 0
    expired: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MailLimits:
    """Attributes:
    seconds: that a mail is kept.
    per_payee: mails that wait for one.
    total: for all together; each takes some 800 bytes on disk.
    """

    seconds: int = 7 * 86_400
    per_payee: int = 100
    total: int = 100_000

    @property
    def network_per_payee(self) -> int:
        """Mails of one network that wait for one payee: so that it takes four to fill a mailbox."""
        return max(1, self.per_payee // 4)

    @property
    def network_total(self) -> int:
        """Likewise for all payees together: so that it takes twenty to fill a server."""
        return max(1, self.total // 20)


class MailStore:
    """The mailboxes of one server. Opened by `open`."""

    def __init__(self, database: Database, limits: MailLimits) -> None:
        self.limits = limits
        self._database = database
        self._turn = threading.Lock()  # for what is counted in memory beside the database
        with database.reading() as connection:
            self._next_mail = 1 + (connection.execute(select(func.max(_MAIL.c.number))).scalar() or 0)
            self._next_box = 1 + (connection.execute(select(func.max(_BOX.c.number))).scalar() or 0)
            waiting = select(_MAIL.c.network, func.count().label("many")).where(_WAITS).group_by(_MAIL.c.network)
            self._networks = Counter({row.network: int(row.many) for row in connection.execute(waiting)})

    @classmethod
    def open(cls, where: Path | str, *, node_id: PeerId, network: str, limits: MailLimits) -> "MailStore":
        """Open the database, making it first if need be. Raises StorageFailed."""
        return cls(open_owned(where, node_id=node_id, network=network, writes_again=True), limits)

    def close(self) -> None:
        """Close the database. Idempotent."""
        self._database.close()

    @property
    def waiting(self) -> int:
        """How many wait, for all payees together."""
        return self._networks.total()

    # --- for senders --------------------------------------------------------------------------------------------------

    def put(self, payee: PeerId, sealed: bytes, network: str, now: UnixTime) -> Waiting | Ended | NoRoom:
        """Keep it, unless it was kept before, or say why not.

        Args:
            network: from which it came, as a text that others of the same network share.

        Raises:
            StorageFailed: it is not kept.
        """
        digest = hashlib.sha256(sealed).digest()
        with self._turn:
            gone: str | None = None
            with self._database.writing() as connection:
                box = self._box(connection, payee)
                if (known := self._known(connection, box, digest)) is not None:
                    return known
                room = self._room(connection, box, network)
                if isinstance(room, NoRoom):
                    _count(connection, box, turned_away=1)
                    return room
                if room:
                    gone = _push_out(connection, room, self.limits.per_payee)
                row = {"number": self._next_mail, "mailbox": box, "digest": digest, "network": network, "stored": now}
                connection.execute(insert(_MAIL).values(**row, sealed=sealed, code=None, reason=""))
            self._next_mail += 1
            self._networks[network] += 1
            if gone is not None:
                self._end(gone)
        return Waiting(until=UnixTime(now + self.limits.seconds))

    def status(self, payee: PeerId, digest: bytes) -> Waiting | Ended | None:
        """What became of one; None: nothing of the kind is known."""
        with self._database.reading() as connection:
            return self._known(connection, _find_box(connection, payee), digest)

    def _box(self, connection: Connection, payee: PeerId) -> int:
        """The number of the payee's mailbox, which is made if need be."""
        if number := _find_box(connection, payee):
            return number
        number, self._next_box = self._next_box, self._next_box + 1
        connection.execute(insert(_BOX).values(number=number, payee=payee, turned_away=0, expired=0))
        return number

    def _known(self, connection: Connection, box: int, digest: bytes) -> Waiting | Ended | None:
        found = connection.execute(
            select(_MAIL.c.stored, _MAIL.c.code, _MAIL.c.reason).where(_MAIL.c.mailbox == box, _MAIL.c.digest == digest)
        ).first()
        if found is None:
            return None
        if found.code is None:
            return Waiting(until=UnixTime(found.stored + self.limits.seconds))
        return Ended(code=found.code, reason=found.reason)

    def _room(self, connection: Connection, box: int, network: str) -> NoRoom | int:
        """0: there is room; a number: of the mail that must go first; or there is none."""
        limits = self.limits
        inside = Counter[str]()
        newest: dict[str, int] = {}
        rows = connection.execute(
            select(_MAIL.c.number, _MAIL.c.network).where(_MAIL.c.mailbox == box, _WAITS).order_by(_MAIL.c.number)
        )
        for row in rows:
            inside[row.network] += 1
            newest[row.network] = row.number
        if inside[network] >= limits.network_per_payee or self._networks[network] >= limits.network_total:
            return NoRoom.NETWORK
        if inside.total() >= limits.per_payee:
            fullest = _fullest(inside, network)
            return NoRoom.MAILBOX if fullest is None else newest[fullest]
        if self.waiting < limits.total:
            return 0
        fullest = _fullest(self._networks, network)
        if fullest is None:
            return NoRoom.SERVER
        last = select(func.max(_MAIL.c.number)).where(_MAIL.c.network == fullest, _WAITS)
        return int(connection.execute(last).scalar_one())

    def _end(self, network: str, count: int = 1) -> None:
        """So many of a network wait no longer."""
        self._networks[network] -= count
        if self._networks[network] <= 0:
            del self._networks[network]

    # --- for payees ---------------------------------------------------------------------------------------------------

    def fetch(self, payee: PeerId, after: int, limit: int) -> Page:
        """What waits behind a number, oldest first, so many at most. Raises StorageFailed."""
        with self._database.reading() as connection:
            box = connection.execute(select(_BOX).where(_BOX.c.payee == payee)).first()
            if box is None:
                return Page()
            rows = connection.execute(
                select(_MAIL.c.number, _MAIL.c.stored, _MAIL.c.sealed)
                .where(_MAIL.c.mailbox == box.number, _WAITS, _MAIL.c.number > after)
                .order_by(_MAIL.c.number)
                .limit(limit + 1)
            )
            found = [KeptMail(number=row.number, stored=UnixTime(row.stored), sealed=row.sealed) for row in rows]
        return Page(
            mails=tuple(found[:limit]), more=len(found) > limit, turned_away=box.turned_away, expired=box.expired
        )

    def acknowledge(self, payee: PeerId, answers: Sequence[tuple[int, Ended]], turned_away: int, expired: int) -> None:
        """These wait no longer, by their numbers; and so many of each count were noted. Raises StorageFailed."""
        with self._turn:
            ended = Counter[str]()
            with self._database.writing() as connection:
                box = _find_box(connection, payee)
                for number, answer in answers:
                    this = (_MAIL.c.number == number) & (_MAIL.c.mailbox == box) & _WAITS
                    network = connection.execute(select(_MAIL.c.network).where(this)).scalar()
                    if network is not None:
                        ended[network] += 1
                        _set_end(connection, number, answer)
                _count(connection, box, turned_away=-turned_away, expired=-expired)
                _forget_ended(connection, box, self.limits.per_payee)
            for network, count in ended.items():
                self._end(network, count)

    # --- for the server -----------------------------------------------------------------------------------------------

    def drop_past(self, now: UnixTime) -> int:
        """Drop what was kept for its time; gives how many of them had waited in vain. Raises StorageFailed."""
        dropped, more = 0, True
        while more:
            with self._turn:
                ended = Counter[str]()
                with self._database.writing() as connection:
                    old = _MAIL.c.stored <= now - self.limits.seconds
                    rows = connection.execute(
                        select(_MAIL.c.number, _MAIL.c.mailbox, _MAIL.c.network, _MAIL.c.code).where(old).limit(_PAGE)
                    ).all()
                    in_vain = [row for row in rows if row.code is None]
                    ended.update(row.network for row in in_vain)
                    for box, count in Counter(row.mailbox for row in in_vain).items():
                        _count(connection, box, expired=count)
                    connection.execute(delete(_MAIL).where(_MAIL.c.number.in_([row.number for row in rows])))
                    # A mailbox in which nothing is and was missed is forgotten: it is made again when need be.
                    rests = select(_MAIL.c.number).where(_MAIL.c.mailbox == _BOX.c.number).exists()
                    connection.execute(delete(_BOX).where(_BOX.c.turned_away == 0, _BOX.c.expired == 0, ~rests))
                for network, count in ended.items():
                    self._end(network, count)
            dropped, more = dropped + len(in_vain), len(rows) == _PAGE
        return dropped


def _fullest(counts: Counter[str], newcomer: str) -> str | None:
    """The network that must give way to one more of `newcomer`: the one that holds most, and at least two more."""
    network, most = max(counts.items(), key=lambda each: each[1])
    return network if most >= counts[newcomer] + 2 else None


def _find_box(connection: Connection, payee: PeerId) -> int:
    """The number of a payee's mailbox; 0 for one that has none."""
    return int(connection.execute(select(_BOX.c.number).where(_BOX.c.payee == payee)).scalar() or 0)


def _count(connection: Connection, box: int, *, turned_away: int = 0, expired: int = 0) -> None:
    """Add to the counts of a mailbox; neither gets below 0 nor above what the wire can say."""
    this = _BOX.c.number == box
    found = connection.execute(select(_BOX.c.turned_away, _BOX.c.expired).where(this)).first()
    if found is not None and (turned_away or expired):
        bounded = [
            min(0xFFFF_FFFF, max(0, each)) for each in (found.turned_away + turned_away, found.expired + expired)
        ]
        connection.execute(update(_BOX).where(this).values(turned_away=bounded[0], expired=bounded[1]))


def _set_end(connection: Connection, number: int, end: Ended) -> None:
    values = {"sealed": None, "code": end.code, "reason": end.reason}
    connection.execute(update(_MAIL).where(_MAIL.c.number == number).values(**values))


def _forget_ended(connection: Connection, box: int, keep: int) -> None:
    """Of what waits no longer, remember the newest only."""
    mine = (_MAIL.c.mailbox == box) & ~_WAITS
    last = connection.execute(
        select(_MAIL.c.number).where(mine).order_by(_MAIL.c.number.desc()).offset(keep).limit(1)
    ).scalar()
    if last is not None:
        connection.execute(delete(_MAIL).where(mine, _MAIL.c.number <= last))


def _push_out(connection: Connection, number: int, remembered: int) -> str:
    """One must make room for another; gives the network that it came from."""
    row = connection.execute(select(_MAIL.c.mailbox, _MAIL.c.network).where(_MAIL.c.number == number)).one()
    _set_end(connection, number, Ended(code=DeliveryCode.FULL, reason=PUSHED_OUT))
    _count(connection, row.mailbox, turned_away=1)
    _forget_ended(connection, row.mailbox, remembered)
    return str(row.network)
