"""What a database says of one payment, for people who look afterwards: read only, also beside the node that writes it.

A process of its own reads it, so that nobody's commit waits: finding a hash takes a walk over the whole journal.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from protocols.channel.events import MessageReceived
from protocols.ids import ChannelId, PaymentHash, PeerId
from protocols.payment.carrying import CARRY
from protocols.payment.events import Forward, HtlcRef, OffersFound, Payment, Promise
from protocols.units import Msat, UnixTime
from protocols.wire.channel import UpdateAddHtlc, UpdateFailHtlc, UpdateFulfillHtlc
from rrnode.errors import StorageFailed
from rrnode.storage import codec, schema
from rrnode.storage.database import Database
from rrnode.storage.owned import open_to_read
from rrnode.storage.records import EndedForward, JournalRow

_PAGE = 2000  # rows read at once
MOST_LINES = 10_000  # of the journal, about one payment


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentHistory:
    """Everything that is on disk about one payment hash.

    Attributes:
        forwards: that are under way.
        ended: forwards that have ended, oldest first.
        lines: of the journal, oldest first, as far back as it reaches.
    """

    payment: Payment | None
    promise: Promise | None
    forwards: tuple[Forward, ...]
    ended: tuple[EndedForward, ...]
    lines: tuple[JournalRow, ...]


class History:
    """One node's database, to be read.

    Attributes:
        node_id: whose it is.
        network: name of its network.
    """

    def __init__(self, database: Database, known: dict[str, str]) -> None:
        if "node_id" not in known:
            database.close()
            raise StorageFailed(f"{database.name} belongs to no node yet: start the node once")
        self._database = database
        self.node_id = PeerId(bytes.fromhex(known["node_id"]))
        self.network = known["network"]

    @classmethod
    def open(cls, where: Path | str) -> "History":
        """Open a file or an SQLAlchemy URL. Raises StorageFailed: not there, or of another schema."""
        return cls(*open_to_read(where))

    def close(self) -> None:
        """Idempotent."""
        self._database.close()

    def of(self, payment_hash: PaymentHash) -> PaymentHistory:
        """Everything about one payment. Raises StorageFailed."""
        payment = self._one(schema.payments, Payment, payment_hash)
        promise = self._one(schema.promises, Promise, payment_hash)
        forwards = tuple(
            codec.decode(Forward, row.state, "a forward")
            for row in self._naming(schema.forwards, "state", payment_hash)
        )
        ended = tuple(
            EndedForward(
                at=UnixTime(row.at),
                forward=codec.decode(Forward, row.state, f"forward history {row.number}"),
                earned=Msat(row.earned_msat),
            )
            for row in self._naming(schema.forward_history, "state", payment_hash)
        )
        offered = {
            HtlcRef(channel_id=each.channel_id, htlc_id=each.htlc_id)
            for each in (payment.attempts if payment is not None else ())
            if each.htlc_id is not None
        } | {each.outgoing for each in (*forwards, *(each.forward for each in ended)) if each.outgoing is not None}
        return PaymentHistory(
            payment=payment,
            promise=promise,
            forwards=forwards,
            ended=ended,
            lines=tuple(self._lines(payment_hash, offered)),
        )

    def _one(self, table: Any, kind: type[Any], payment_hash: PaymentHash) -> Any:
        with self._database.reading() as connection:
            row = connection.execute(select(table.c.state).where(table.c.payment_hash == payment_hash)).first()
        return None if row is None else codec.decode(kind, row.state, f"{kind.__name__} {payment_hash.hex()}")

    def _rows(self, table: Any) -> Iterator[Any]:
        """Every row in the order of its key, page by page, so that no reader holds up the log's clean-up for long."""
        keys = list(table.primary_key.columns)
        last: tuple[Any, ...] | None = None
        while True:
            query = select(table).order_by(*keys).limit(_PAGE)
            if last is not None:
                query = query.where(_after(keys, last))
            with self._database.reading() as connection:
                found = connection.execute(query).all()
            yield from found
            if len(found) < _PAGE:
                return
            last = tuple(getattr(found[-1], key.name) for key in keys)

    def _naming(self, table: Any, column: str, payment_hash: PaymentHash) -> Iterator[Any]:
        """Rows with this hash in them: MessagePack holds it as it is."""
        return (row for row in self._rows(table) if bytes(payment_hash) in getattr(row, column))

    def _lines(self, payment_hash: PaymentHash, offered: set[HtlcRef]) -> Iterator[JournalRow]:
        """Events that name the hash, and those about its HTLCs, of which `offered` are ours."""
        references: set[bytes] = set()  # of our questions for offers to carry it on
        left = MOST_LINES
        for row in self._rows(schema.journal):
            named = bytes(payment_hash) in row.event
            if not (
                named
                or (row.event_type == MessageReceived.__name__ and any(ref.channel_id in row.event for ref in offered))
                or (row.event_type == OffersFound.__name__ and any(each in row.event for each in references))
            ):
                continue
            where = f"journal line {row.seq}"
            event = codec.decode_event(row.event_type, row.event, where)
            if isinstance(event, MessageReceived):
                message = event.message
                if isinstance(message, UpdateAddHtlc) and message.payment_hash == payment_hash:
                    references.add(CARRY + message.channel_id + message.id.to_bytes(8, "big"))
                elif not _ends(message, offered):
                    continue
            yield JournalRow(seq=row.seq, event=event, facts=codec.decode_facts(row.facts, where))
            left -= 1
            if not left:
                return


def _ends(message: Any, offered: set[HtlcRef]) -> bool:
    """Whether a peer's message settles or fails one of these HTLCs of ours."""
    if not isinstance(message, UpdateFulfillHtlc | UpdateFailHtlc):
        return False
    return HtlcRef(channel_id=ChannelId(message.channel_id), htlc_id=message.id) in offered


def _after(keys: list[Any], last: tuple[Any, ...]) -> Any:
    """Rows whose key is greater."""
    first, rest = keys[0], keys[1:]
    if not rest:
        return first > last[0]
    return (first > last[0]) | ((first == last[0]) & _after(rest, last[1:]))
