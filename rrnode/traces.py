"""What this node saw of each payment, for its owner's questions afterwards: soft state, bounded, lost at a restart.

The journal on disk tells what happened to money; offers and quotes are nowhere else (DESIGN 10: routing writes no disk).
Payments in which money moved here are kept apart from those that were only asked about: a flood of strangers' hashes
pushes out none of them.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from protocols.ids import ChannelId, PaymentHash, PeerId
from protocols.payment.events import FindOffers, OffersFound, Payment, PayPhase, Promise, PromisePhase
from protocols.payment.payer import failure_words, in_words
from protocols.routing.events import (
    FloodRequested,
    OffersWanted,
    PushOffers,
    RoutingEffect,
    RoutingEvent,
    SendOffers,
    Subscribed,
)
from protocols.routing.views import Judged
from protocols.wire.channel import FailureCode, UpdateAddHtlc, UpdateFailHtlc, UpdateFulfillHtlc
from protocols.wire.routing import RoutingMessage
from rrnode.control.models import NoteKind

MOST_OFFERS = 64  # in, and as many out, of one payment: 8 improvements (ROUTING-NUMBERS) with each of eight neighbours
MOST_NOTES = 64  # others of one payment: five tries with all that belongs to them
STANDING_SHOWN = 4  # offers that stood when one was to be locked


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that happened to a payment here.

    Attributes:
        at: unix time, seconds.
        peer: the other end, if there is one.
        amount: millisatoshi.
        blocks: that an offer needs; of an HTLC the height at which it ends.
        kept: of an offer, whether it went into the table.
        text: a reason, in words.
    """

    at: float
    kind: NoteKind
    peer: PeerId | None = None
    amount: int | None = None
    blocks: int | None = None
    kept: bool | None = None
    text: str = ""


class _Trace:
    """What is kept of one payment, each with its time: offers and quotes as they came, for they come by the thousand and
    few are ever looked at. `htlcs` are those that the table of HTLCs knows by this trace."""

    __slots__ = ("htlcs", "left_out", "notes", "offers", "quotes")

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.offers: list[tuple[float, Judged]] = []
        self.quotes: list[tuple[float, PeerId, RoutingMessage]] = []
        self.left_out = 0
        self.htlcs: list[tuple[ChannelId, int, bool]] = []

    def all(self) -> tuple[Note, ...]:
        """Everything as notes, oldest first."""
        offers = [
            Note(
                at,
                "offer",
                each.neighbour,
                each.amount,
                each.lock_blocks,
                each.kept,
                each.drop.value if each.drop else "",
            )
            for at, each in self.offers
        ]
        quotes = [Note(at, "quote", peer, each.amount_msat, each.lock_blocks) for at, peer, each in self.quotes]
        return tuple(sorted([*self.notes, *offers, *quotes], key=lambda note: note.at))


class Traces:
    """Notes by payment hash.

    Args:
        clock: unix time, seconds.
        most: payments kept with money, and as many without; 0 keeps nothing.
    """

    def __init__(self, clock: Callable[[], float], most: int) -> None:
        self.most = most
        self._clock = clock
        self._asked: dict[PaymentHash, _Trace] = {}  # nothing of ours moved for them; oldest first
        self._moved: dict[PaymentHash, _Trace] = {}
        self._htlcs: dict[tuple[ChannelId, int, bool], PaymentHash] = {}  # number, whether we offered it

    def of(self, payment_hash: PaymentHash) -> tuple[tuple[Note, ...], int]:
        """What was noted, oldest first, and how much more there was."""
        trace = self._moved.get(payment_hash) or self._asked.get(payment_hash)
        return (trace.all(), trace.left_out) if trace is not None else ((), 0)

    # --- what happens -------------------------------------------------------------------------------------------------

    def routing(self, event: RoutingEvent, effects: Sequence[RoutingEffect], judged: Sequence[Judged]) -> None:
        """The routing engine took an event, with these effects."""
        if not self.most:
            return
        at = self._clock()
        match event:
            case FloodRequested():
                text = f"at most {in_words(event.ceiling.msat)}, {event.hops} hops"
                note = Note(at, "ask", None, event.amount.msat, event.lock_blocks, None, text)
                self._note(event.payment_hash, note, moved=False)
            case OffersWanted():
                self._note(event.payment_hash, Note(at, "want"), moved=False)
            case Subscribed():
                for payment_hash in event.hashes:
                    self._note(payment_hash, Note(at, "subscribed", event.subscriber), moved=False)
        for each in judged:
            trace = self._trace(each.payment_hash)
            if len(trace.offers) < MOST_OFFERS:
                trace.offers.append((at, each))
            else:
                trace.left_out += 1
        for effect in effects:
            if isinstance(effect, SendOffers):
                peer = effect.neighbour
            elif isinstance(effect, PushOffers):
                peer = effect.subscriber
            else:
                continue
            for offer in effect.offers:
                trace = self._trace(PaymentHash(offer.payment_hash))
                if len(trace.quotes) < MOST_OFFERS:
                    trace.quotes.append((at, peer, offer))
                else:
                    trace.left_out += 1

    def offers_found(self, question: FindOffers, found: OffersFound) -> None:
        """The money engine asked what stands for an HTLC that is to be locked."""
        at = self._clock()
        if not found.offers:
            self._note(question.payment_hash, Note(at, "stands", text="no offer stands"))
        for offer in found.offers[:STANDING_SHOWN]:
            note = Note(at, "stands", offer.neighbour, offer.amount.msat, offer.lock_blocks)
            self._note(question.payment_hash, note)

    def message(self, peer: PeerId, message: Any, *, ours: bool) -> None:
        """A channel message came from a peer, or is on its way to it (`ours`)."""
        match message:
            case UpdateAddHtlc():
                payment_hash, channel_id = PaymentHash(message.payment_hash), ChannelId(message.channel_id)
                kind: NoteKind = "lock_out" if ours else "lock_in"
                note = Note(self._clock(), kind, peer, message.amount_msat, message.cltv_expiry)
                # Whoever merely says that it locks something pushes out nothing: what follows tells whether it did.
                trace = self._note(payment_hash, note, moved=ours)
                if trace is not None and len(trace.htlcs) < MOST_NOTES:
                    key = (channel_id, message.id, ours)
                    self._htlcs[key] = payment_hash
                    trace.htlcs.append(key)
            case UpdateFulfillHtlc():
                payment_hash = PaymentHash(hashlib.sha256(message.preimage).digest())
                self._note(payment_hash, Note(self._clock(), "settle_out" if ours else "settle_in", peer))
            case UpdateFailHtlc():
                found = self._htlcs.get((ChannelId(message.channel_id), message.id, not ours))
                if found is not None:
                    known = message.code in set(FailureCode)
                    text = failure_words(FailureCode(message.code) if known else FailureCode.INTERNAL)
                    self._note(found, Note(self._clock(), "fail_out" if ours else "fail_in", peer, text=text))

    def payment(self, payment: Payment) -> None:
        """A payment that we make has changed."""
        if payment.phase is PayPhase.PAID:
            sent = payment.attempts[-1].amount if payment.attempts else None
            self._note(payment.payment_hash, Note(self._clock(), "paid", payment.payee, sent))
        elif payment.phase is PayPhase.FAILED:
            self._note(payment.payment_hash, Note(self._clock(), "failed", text=payment.reason))

    def promise(self, promise: Promise) -> None:
        """A payment that we take has changed."""
        if promise.phase is PromisePhase.CLAIMED:
            self._note(promise.payment_hash, Note(self._clock(), "claimed", amount=promise.received))
        elif promise.phase is PromisePhase.EXPIRED:
            self._note(promise.payment_hash, Note(self._clock(), "expired"))

    def forwarded(self, payment_hash: PaymentHash, earned: int) -> None:
        """A payment that passed through us has ended; `earned` is 0 when it failed."""
        self._note(payment_hash, Note(self._clock(), "forwarded", amount=earned))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _trace(self, payment_hash: PaymentHash) -> _Trace:
        """Of a payment that is only asked about, as far as we know."""
        return (
            self._moved.get(payment_hash)
            or self._asked.get(payment_hash)
            or self._keep(self._asked, payment_hash, _Trace())
        )

    def _note(self, payment_hash: PaymentHash, note: Note, *, moved: bool = True) -> _Trace | None:
        """Note something; `moved`: it is about money."""
        if not self.most:
            return None
        trace = self._trace(payment_hash)
        if moved and self._asked.pop(payment_hash, None) is not None:
            self._keep(self._moved, payment_hash, trace)
        if len(trace.notes) < MOST_NOTES:
            trace.notes.append(note)
        else:
            trace.left_out += 1
        return trace

    def _keep(self, where: dict[PaymentHash, _Trace], payment_hash: PaymentHash, trace: _Trace) -> _Trace:
        if len(where) >= self.most:
            gone = where.pop(next(iter(where)))
            for key in gone.htlcs:
                self._htlcs.pop(key, None)
        where[payment_hash] = trace
        return trace
