"""What this node saw of each payment, for its owner's questions afterwards: soft state, bounded, lost at a restart.

The journal on disk tells what happened to money; offers and quotes are nowhere else (DESIGN 10: routing writes no disk).
Payments in which money moved here are kept apart from those that were only asked about: a flood of strangers' hashes
pushes out none of them.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from protocols.ids import ChannelId, PaymentHash, PeerId
from protocols.payment.events import FindOffers, OffersFound, Payment, PayPhase, Promise, PromisePhase
from protocols.payment.payer import failure_words
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
from rrnode.control.models import NoteKind

MOST_OFFER_NOTES = 64  # of one payment: 8 improvements (ROUTING-NUMBERS) from each of eight neighbours
MOST_MONEY_NOTES = 64  # of one payment: five tries with all that belongs to them
STANDING_SHOWN = 4  # offers that stood when one was to be locked

OFFERS: frozenset[NoteKind] = frozenset({"want", "ask", "subscribed", "offer", "quote"})  # kinds that move no money


class Note(NamedTuple):  # one per offer: a frozen dataclass costs several times as much to make
    """One thing that happened to a payment here.

    Attributes:
        at_ms: unix milliseconds.
        peer: the other end, if there is one.
        amount: millisatoshi.
        blocks: that an offer needs; of an HTLC the height at which it ends.
        kept: of an offer, whether it went into the table.
        text: a reason, in words.
    """

    at_ms: int
    kind: NoteKind
    peer: PeerId | None = None
    amount: int | None = None
    blocks: int | None = None
    kept: bool | None = None
    text: str = ""


class _Trace:
    """Notes of one payment. `htlcs` are those that the table of HTLCs knows by this trace."""

    __slots__ = ("htlcs", "left_out", "money", "notes", "offers")

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.offers = 0
        self.money = 0
        self.left_out = 0
        self.htlcs: list[tuple[ChannelId, int, bool]] = []


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
        return (tuple(trace.notes), trace.left_out) if trace is not None else ((), 0)

    # --- what happens -------------------------------------------------------------------------------------------------

    def routing(self, event: RoutingEvent, effects: Sequence[RoutingEffect], judged: Sequence[Judged]) -> None:
        """The routing engine took an event, with these effects."""
        if not self.most:
            return
        at_ms = self._now()
        match event:
            case FloodRequested():
                text = f"at most {event.ceiling.msat} msat, {event.hops} hops"
                note = Note(at_ms, "ask", None, event.amount.msat, event.lock_blocks, None, text)
                self._note(event.payment_hash, note)
            case OffersWanted():
                self._note(event.payment_hash, Note(at_ms, "want"))
            case Subscribed():
                for payment_hash in event.hashes:
                    self._note(payment_hash, Note(at_ms, "subscribed", event.subscriber))
        for neighbour, payment_hash, amount, blocks, kept, drop in judged:
            text = "" if drop is None else drop.value
            self._note(payment_hash, Note(at_ms, "offer", neighbour, amount, blocks, kept, text))
        for effect in effects:
            if isinstance(effect, SendOffers):
                peer = effect.neighbour
            elif isinstance(effect, PushOffers):
                peer = effect.subscriber
            else:
                continue
            for offer in effect.offers:
                note = Note(at_ms, "quote", peer, offer.amount_msat, offer.lock_blocks)
                self._note(PaymentHash(offer.payment_hash), note)

    def offers_found(self, question: FindOffers, found: OffersFound) -> None:
        """The money engine asked what stands for an HTLC that is to be locked."""
        at_ms = self._now()
        if not found.offers:
            self._note(question.payment_hash, Note(at_ms, "stands", text="no offer stands"))
        for offer in found.offers[:STANDING_SHOWN]:
            note = Note(at_ms, "stands", offer.neighbour, offer.amount.msat, offer.lock_blocks)
            self._note(question.payment_hash, note)

    def message(self, peer: PeerId, message: Any, *, ours: bool) -> None:
        """A channel message came from a peer, or is on its way to it (`ours`)."""
        match message:
            case UpdateAddHtlc():
                payment_hash, channel_id = PaymentHash(message.payment_hash), ChannelId(message.channel_id)
                trace = self._note(
                    payment_hash,
                    Note(
                        self._now(), "lock_out" if ours else "lock_in", peer, message.amount_msat, message.cltv_expiry
                    ),
                )
                if trace is not None and len(trace.htlcs) < MOST_MONEY_NOTES:
                    key = (channel_id, message.id, ours)
                    self._htlcs[key] = payment_hash
                    trace.htlcs.append(key)
            case UpdateFulfillHtlc():
                payment_hash = PaymentHash(hashlib.sha256(message.preimage).digest())
                self._note(payment_hash, Note(self._now(), "settle_out" if ours else "settle_in", peer))
            case UpdateFailHtlc():
                found = self._htlcs.get((ChannelId(message.channel_id), message.id, not ours))
                if found is not None:
                    known = message.code in set(FailureCode)
                    text = failure_words(FailureCode(message.code) if known else FailureCode.INTERNAL)
                    self._note(found, Note(self._now(), "fail_out" if ours else "fail_in", peer, text=text))

    def payment(self, payment: Payment) -> None:
        """A payment that we make has changed."""
        if payment.phase is PayPhase.PAID:
            sent = payment.attempts[-1].amount if payment.attempts else None
            self._note(payment.payment_hash, Note(self._now(), "paid", payment.payee, sent))
        elif payment.phase is PayPhase.FAILED:
            self._note(payment.payment_hash, Note(self._now(), "failed", text=payment.reason))

    def promise(self, promise: Promise) -> None:
        """A payment that we take has changed."""
        if promise.phase is PromisePhase.CLAIMED:
            self._note(promise.payment_hash, Note(self._now(), "claimed", amount=promise.received))
        elif promise.phase is PromisePhase.EXPIRED:
            self._note(promise.payment_hash, Note(self._now(), "expired"))

    def forwarded(self, payment_hash: PaymentHash, earned: int) -> None:
        """A payment that passed through us has ended; `earned` is 0 when it failed."""
        self._note(payment_hash, Note(self._now(), "forwarded", amount=earned))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _now(self) -> int:
        return math.floor(self._clock() * 1000)

    def _note(self, payment_hash: PaymentHash, note: Note) -> _Trace | None:
        if not self.most:
            return None
        money = note.kind not in OFFERS
        trace = self._moved.get(payment_hash)
        if trace is None:
            trace = self._asked.get(payment_hash)
            if money:
                self._asked.pop(payment_hash, None)
                trace = self._keep(self._moved, payment_hash, trace)
            elif trace is None:
                trace = self._keep(self._asked, payment_hash, None)
        if (trace.money if money else trace.offers) >= (MOST_MONEY_NOTES if money else MOST_OFFER_NOTES):
            trace.left_out += 1
            return trace
        trace.money += money
        trace.offers += not money
        trace.notes.append(note)
        return trace

    def _keep(self, where: dict[PaymentHash, _Trace], payment_hash: PaymentHash, trace: _Trace | None) -> _Trace:
        if len(where) >= self.most:
            gone = where.pop(next(iter(where)))
            for key in gone.htlcs:
                self._htlcs.pop(key, None)
        kept = where[payment_hash] = trace or _Trace()
        return kept
