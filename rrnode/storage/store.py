"""The node's memory: engine state, journal and chain position in one transaction (DESIGN 3, 6).

`commit` is called by the dispatcher, in a worker thread, with everything that a batch of events changed: one fsync serves
every channel that was ready.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import Connection, delete, func, select

from protocols.ids import ChannelId, PaymentHash, PeerId, Txid
from protocols.payment.events import Forward, Payment, PayPhase, Promise, PromisePhase, Snapshot
from protocols.units import Msat, UnixTime
from rrnode.storage import codec, schema, wallet_rows
from rrnode.storage.batch import Batch, StoreEffect
from rrnode.storage.cover import CoverStore
from rrnode.storage.database import Database
from rrnode.storage.owned import check_owner, open_owned, open_to_read
from rrnode.storage.records import (
    Cursor,
    EndedForward,
    JournalEntry,
    JournalRow,
    KnownAddress,
    Loaded,
    RevokedState,
    WalletChanges,
    WalletState,
)
from rrnode.storage.statements import Statements, read_cursor

JOURNAL_ROWS = 200_000  # about 80 MB; enough to replay some minutes at full load, days at a person's pace
_PAGE = 1000  # journal lines read at once
_PRUNE_EVERY = 1024  # journal lines between two prunings


class Store:
    """The database of one node. Any thread may call; calls take turns. Opened by `open` or `open_read_only`."""

    def __init__(self, database: Database, *, journal_rows: int) -> None:
        self._database = database
        self._sql = Statements(database.dialect)
        self._journal_rows = journal_rows
        self._rows: dict[ChannelId, int] = {}
        with database.reading() as connection:
            for row, channel_id in connection.execute(select(schema.channels.c.row, schema.channels.c.channel_id)):
                self._rows[ChannelId(channel_id)] = row
            self._next_row = 1 + (connection.execute(select(func.max(schema.channels.c.row))).scalar() or 0)
            self._next_history = 1 + (
                connection.execute(select(func.max(schema.forward_history.c.number))).scalar() or 0
            )
            self._next_seq = 1 + (connection.execute(select(func.max(schema.journal.c.seq))).scalar() or 0)
        self._pruned_at = 0

    @classmethod
    def open(cls, where: Path | str, *, node_id: PeerId, network: str, journal_rows: int = JOURNAL_ROWS) -> "Store":
        """Open the database, making it or bringing it to the newest schema first.

        Args:
            where: a file, or an SQLAlchemy URL.
            node_id: of the seed in use; a database belongs to one seed for ever.
            network: name of the network; likewise.
            journal_rows: how many journal lines are kept.

        Raises:
            StorageFailed: cannot be opened, is damaged, newer than this program, or of another seed or network.
        """
        database = open_owned(where, node_id=node_id, network=network)
        try:
            return cls(database, journal_rows=journal_rows)
        except BaseException:
            database.close()
            raise

    @classmethod
    def open_read_only(cls, where: Path | str, *, node_id: PeerId, network: str) -> "Store":
        """Look into the database of a node that may be running; every write is refused.

        Raises:
            StorageFailed: not there, of another seed, network or schema.
        """
        database, known = open_to_read(where)
        try:
            check_owner(database.name, known, {"node_id": node_id.hex(), "network": network})
            return cls(database, journal_rows=0)
        except BaseException:
            database.close()
            raise

    @property
    def poisoned(self) -> str | None:
        """Why nothing is written any more; None while all is well."""
        return self._database.poisoned

    def close(self) -> None:
        """Close the database. Idempotent."""
        self._database.close()

    # --- engine state -------------------------------------------------------------------------------------------------

    def load(self) -> Loaded:
        """Everything the money engine starts from, as of one moment.

        Raises:
            StorageFailed: unreadable; names the row that is damaged.
        """
        kind = codec.channel_type()
        with self._database.reading() as connection:
            channels = connection.execute(select(schema.channels).order_by(schema.channels.c.row)).all()
            payments = connection.execute(select(schema.payments).order_by(schema.payments.c.created)).all()
            promises = connection.execute(select(schema.promises).order_by(schema.promises.c.created)).all()
            forwards = connection.execute(select(schema.forwards)).all()
            cursor = read_cursor(connection, "channels")
        paid = [PaymentHash(row.payment_hash) for row in payments if row.phase == PayPhase.PAID.name]
        claimed = [PaymentHash(row.payment_hash) for row in promises if row.phase == PromisePhase.CLAIMED.name]
        snapshot = Snapshot(
            channels=tuple(codec.decode(kind, row.state, f"channel {row.channel_id.hex()}") for row in channels),
            payments=tuple(codec.decode(Payment, row.state, f"payment {row.payment_hash.hex()}") for row in payments),
            promises=tuple(codec.decode(Promise, row.state, f"promise {row.payment_hash.hex()}") for row in promises),
            forwards=tuple(
                codec.decode(Forward, row.state, f"forward {row.channel_id.hex()}/{row.htlc_id}") for row in forwards
            ),
            settled_hashes=frozenset(paid + claimed),
        )
        return Loaded(snapshot=snapshot, cursor=cursor)

    def commit(
        self,
        effects: Sequence[StoreEffect],
        journal: Sequence[JournalEntry] = (),
        cursor: tuple[int, bytes] | None = None,
        *,
        engine: str = "money",
    ) -> None:
        """Write one batch: all of it, synced to the disk when this returns, or nothing.

        Args:
            effects: in the order in which the engine gave them.
            journal: the events that led there, with their facts.
            cursor: height and hash of the block that the state now takes in; None leaves it.
            engine: whose journal it is.

        Raises:
            StorageFailed: nothing was written, and nothing will be until the store is opened anew.
            MisuseError: the effects contradict each other (our bug); likewise.
        """
        with self._database.writing() as connection:
            batch = Batch(rows=self._rows, next_row=self._next_row)
            for effect in effects:
                batch.take(effect)
            at = journal[-1].facts.now if journal else int(time.time())
            self._next_history += self._sql.write(connection, batch, next_history=self._next_history, at=at)
            self._next_row = batch.next_row
            if journal:
                self._sql.write_journal(connection, self._next_seq, engine, journal)
                self._next_seq += len(journal)
                self._prune(connection)
            if cursor is not None:
                self._sql.set_cursor(connection, "channels", cursor)

    def _prune(self, connection: Connection) -> None:
        if self._next_seq - self._pruned_at < _PRUNE_EVERY:
            return
        self._pruned_at = self._next_seq
        connection.execute(delete(schema.journal).where(schema.journal.c.seq < self._next_seq - self._journal_rows))

    def mark(self) -> tuple[int, Cursor | None]:
        """Differs from an earlier mark if anything was committed in between, by any process."""
        with self._database.reading() as connection:
            newest = connection.execute(select(func.max(schema.journal.c.seq))).scalar() or 0
            return int(newest), read_cursor(connection, "channels")

    # --- questions ----------------------------------------------------------------------------------------------------

    def load_journal(self, *, after: int = 0, limit: int | None = None) -> Iterator[JournalRow]:
        """Journal lines with `seq` above `after`, oldest first; for replay and for people.

        Raises:
            StorageFailed: a line is damaged, or was written by a version that had other events.
        """
        table = schema.journal
        while limit is None or limit > 0:
            page = _PAGE if limit is None else min(limit, _PAGE)
            with self._database.reading() as connection:
                found = connection.execute(
                    select(table).where(table.c.seq > after).order_by(table.c.seq).limit(page)
                ).all()
            for row in found:
                where = f"journal line {row.seq}"
                yield JournalRow(
                    seq=row.seq,
                    event=codec.decode_event(row.event_type, row.event, where),
                    facts=codec.decode_facts(row.facts, where),
                )
            if len(found) < page:
                return
            after = found[-1].seq
            limit = None if limit is None else limit - len(found)

    def revoked_states(self, channel_id: ChannelId) -> tuple[RevokedState, ...]:
        """What is kept of the states that the peer revoked, oldest first; none for an unknown channel."""
        table = schema.revoked_states
        row = self._rows.get(channel_id)
        with self._database.reading() as connection:
            found = connection.execute(select(table).where(table.c.channel_row == row).order_by(table.c.number)).all()
        return tuple(RevokedState(number=row.number, txid=Txid(row.txid), record=row.record) for row in found)

    def revoked_state(self, channel_id: ChannelId, number: int) -> RevokedState | None:
        """One of them."""
        table = schema.revoked_states
        with self._database.reading() as connection:
            found = connection.execute(
                select(table).where(table.c.channel_row == self._rows.get(channel_id), table.c.number == number)
            ).first()
        return None if found is None else RevokedState(number=number, txid=Txid(found.txid), record=found.record)

    def forward_history(self, limit: int = 100) -> tuple[EndedForward, ...]:
        """The forwards that ended last, newest first."""
        table = schema.forward_history
        with self._database.reading() as connection:
            found = connection.execute(select(table).order_by(table.c.number.desc()).limit(limit)).all()
        return tuple(
            EndedForward(
                at=UnixTime(row.at),
                forward=codec.decode(Forward, row.state, f"forward history {row.number}"),
                earned=Msat(row.earned_msat),
            )
            for row in found
        )

    def forward_totals(self) -> tuple[int, Msat]:
        """How many forwards ended with a gain, and what all of them earned together."""
        earned = schema.forward_history.c.earned_msat
        with self._database.reading() as connection:
            count, total = connection.execute(
                select(func.count(), func.coalesce(func.sum(earned), 0)).where(earned > 0)
            ).one()
        return int(count), Msat(int(total))

    # --- address book -------------------------------------------------------------------------------------------------

    def addresses(self) -> tuple[KnownAddress, ...]:
        """Every address that our user or a signed record named."""
        with self._database.reading() as connection:
            found = connection.execute(select(schema.addresses)).all()
        return tuple(
            KnownAddress(peer=PeerId(row.peer), address=row.address, wanted=row.wanted, last_ok=UnixTime(row.last_ok))
            for row in found
        )

    def remember_address(self, known: KnownAddress) -> None:
        """Add an address or change what is known of it. Raises StorageFailed."""
        row = {"peer": known.peer, "address": known.address, "wanted": known.wanted, "last_ok": known.last_ok}
        with self._database.writing() as connection:
            self._sql.upserts["addresses"].run(connection, [row])

    def forget_addresses(self, peer: PeerId) -> None:
        """Drop all addresses of a peer. Raises StorageFailed."""
        with self._database.writing() as connection:
            connection.execute(delete(schema.addresses).where(schema.addresses.c.peer == peer))

    def cover(self) -> CoverStore:
        """What our watchers have, in this database."""
        return CoverStore(self._database, self._sql, self._rows)

    # --- wallet -------------------------------------------------------------------------------------------------------

    def load_wallet(self) -> WalletState:
        """Everything the wallet keeps, as of one moment. Raises StorageFailed."""
        with self._database.reading() as connection:
            return wallet_rows.load(connection)

    def write_wallet(self, changes: WalletChanges) -> None:
        """One change of the wallet, synced to the disk when this returns. Raises StorageFailed."""
        with self._database.writing() as connection:
            wallet_rows.write(connection, self._sql, changes)
