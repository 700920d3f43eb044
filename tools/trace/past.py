"""What a database tells of a payment, as steps: the journal knows events to the second, and what was decided follows from
the payment, promise and forwards as they were stored."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from protocols.channel.events import MessageReceived
from protocols.ids import ChannelId, PeerId
from protocols.payment.carrying import CARRY
from protocols.payment.events import (
    Attempt,
    Forward,
    HtlcRef,
    OffersFound,
    PayPhase,
    PayRequested,
    PromiseMade,
    PromisePhase,
)
from protocols.payment.payer import failure_words, in_words
from protocols.wire.channel import FailureCode, UpdateAddHtlc, UpdateFailHtlc, UpdateFulfillHtlc
from rrnode.control import models as m
from rrnode.control.text import peer_text
from rrnode.storage.history import PaymentHistory


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happened at one node; fields as in `rrnode.control.models.TraceNote`.

    Attributes:
        kind: a `NoteKind`, or "promised".
        exact: the time is; else it is known to the second only.
    """

    at_ms: int
    kind: str
    exact: bool = False
    peer: str = ""
    amount: int | None = None
    blocks: int | None = None
    kept: bool | None = None
    text: str = ""


def of_note(note: m.TraceNote) -> Step:
    """A note of a running node."""
    return Step(
        at_ms=note.at_ms,
        kind=note.kind,
        exact=True,
        peer=note.peer_id,
        amount=note.amount_msat,
        blocks=note.blocks,
        kept=note.kept,
        text=note.text,
    )


@dataclass(slots=True)
class _Try:
    """An HTLC that we locked, as far as it was stored."""

    neighbour: PeerId
    amount: int | None
    expiry: int | None
    failure: FailureCode | None = None
    told: bool = False


class _Reader:
    """Walks over the journal's lines of one payment."""

    def __init__(self, history: PaymentHistory) -> None:
        self.history = history
        self.received: dict[HtlcRef, tuple[int, PeerId]] = {}  # when, from whom
        self._ours = [_of_attempt(each) for each in history.payment.attempts] if history.payment is not None else []
        every = (*history.forwards, *(each.forward for each in history.ended))
        self._carried = {each.incoming: _of_forward(each) for each in every}

    def steps(self) -> Iterator[Step]:
        """In the journal's order."""
        for line in self.history.lines:
            at_ms = line.facts.now * 1000
            match line.event:
                case PayRequested() as order:
                    most = f"at most {in_words(order.ceiling.msat)}"
                    yield Step(at_ms=at_ms, kind="want", amount=order.amount.msat, text=most)
                case PromiseMade() as made:
                    yield Step(at_ms=at_ms, kind="promised", amount=made.amount.msat, blocks=made.lock_blocks)
                case MessageReceived() as came:
                    yield from self._message(at_ms, came)
                case OffersFound() as found:
                    yield from self._found(at_ms, found)

    def _message(self, at_ms: int, came: MessageReceived) -> Iterator[Step]:
        peer = peer_text(came.peer)
        match came.message:
            case UpdateAddHtlc() as added:
                ref = HtlcRef(channel_id=ChannelId(added.channel_id), htlc_id=added.id)
                if ref not in self.received:  # else it was repeated after a reconnect
                    self.received[ref] = (at_ms, came.peer)
                    yield Step(
                        at_ms=at_ms, kind="lock_in", peer=peer, amount=added.amount_msat, blocks=added.cltv_expiry
                    )
            case UpdateFulfillHtlc():
                yield Step(at_ms=at_ms, kind="settle_in", peer=peer)
            case UpdateFailHtlc() as failed:
                known = failed.code in set(FailureCode)
                text = failure_words(FailureCode(failed.code) if known else FailureCode.INTERNAL)
                yield Step(at_ms=at_ms, kind="fail_in", peer=peer, text=text)

    def _found(self, at_ms: int, found: OffersFound) -> Iterator[Step]:
        tries = self._ours
        if found.reference.startswith(CARRY):
            reference = found.reference[len(CARRY) :]
            ref = HtlcRef(channel_id=ChannelId(reference[:-8]), htlc_id=int.from_bytes(reference[-8:], "big"))
            tries = self._carried.get(ref, [])
            for each in [each for each in tries if each.told][-1:]:  # its number is not stored any more (R10)
                yield Step(at_ms=at_ms, kind="fail_in", peer=peer_text(each.neighbour))
        if not found.offers:
            yield Step(at_ms=at_ms, kind="stands", text="no offer stands")
        for offer in found.offers:
            peer = peer_text(offer.neighbour)
            yield Step(at_ms=at_ms, kind="stands", peer=peer, amount=offer.amount.msat, blocks=offer.lock_blocks)
        prices = {offer.neighbour: offer.amount.msat for offer in found.offers}
        left = next((each for each in tries if not each.told), None)
        if left is not None and left.neighbour in prices and left.amount in (None, prices[left.neighbour]):
            left.amount = prices[left.neighbour]
            yield _locked(at_ms, left)

    def untold(self, at_ms: int) -> Iterator[Step]:
        """Locks that the journal does not reach back to, and how those ended that came back."""
        for each in (*self._ours, *(one for tries in self._carried.values() for one in tries)):
            if not each.told:
                yield _locked(at_ms, each)
                if each.failure is not None:
                    text = failure_words(each.failure)
                    yield Step(at_ms=at_ms, kind="fail_in", peer=peer_text(each.neighbour), text=text)


def _of_attempt(attempt: Attempt) -> _Try:
    return _Try(neighbour=attempt.neighbour, amount=attempt.amount, expiry=attempt.expiry, failure=attempt.failure)


def _of_forward(forward: Forward) -> list[_Try]:
    tries = [_Try(neighbour=each, amount=None, expiry=None) for each in forward.tried]
    if forward.outgoing is not None and forward.downstream is not None:
        tries.append(_Try(neighbour=forward.downstream, amount=forward.outgoing_amount, expiry=None))
    return tries


def _locked(at_ms: int, each: _Try) -> Step:
    each.told = True
    return Step(at_ms=at_ms, kind="lock_out", peer=peer_text(each.neighbour), amount=each.amount, blocks=each.expiry)


def steps_of(history: PaymentHistory) -> tuple[Step, ...]:
    """What happened, oldest first."""
    reader = _Reader(history)
    found = list(reader.steps())
    if history.payment is not None:
        found = [*reader.untold(history.payment.created * 1000), *found]
    elif history.ended:
        found = [*reader.untold(history.ended[0].at * 1000), *found]
    return _in_order([*found, *_ends(history, reader, found)])


def _ends(history: PaymentHistory, reader: _Reader, found: Iterable[Step]) -> Iterator[Step]:
    """What was decided, at the time of what led to it."""
    settled = [each.at_ms for each in found if each.kind == "settle_in"]
    promise, payment = history.promise, history.payment
    if promise is not None and promise.phase is PromisePhase.CLAIMED:
        at_ms, peer = promise.created * 1000, ""
        if promise.claimed_by is not None and promise.claimed_by in reader.received:
            at_ms, upstream = reader.received[promise.claimed_by]
            peer = peer_text(upstream)
        yield Step(at_ms=at_ms, kind="settle_out", peer=peer)
        yield Step(at_ms=at_ms, kind="claimed", amount=promise.received)
    elif promise is not None and promise.phase is PromisePhase.EXPIRED:
        yield Step(at_ms=promise.expiry * 1000, kind="expired")
    for ended in history.ended:
        at_ms, upstream = ended.at * 1000, ended.forward.upstream
        paid = ended.forward.preimage is not None
        before = [each for each in settled if each <= at_ms]
        kind = "settle_out" if paid else "fail_out"
        yield Step(at_ms=before[-1] if paid and before else at_ms, kind=kind, peer=peer_text(upstream))
        yield Step(at_ms=at_ms, kind="forwarded", amount=ended.earned)
    if payment is None or payment.ended is None:
        return
    at_ms = payment.ended * 1000
    if payment.phase is PayPhase.PAID:
        sent = payment.attempts[-1].amount if payment.attempts else None
        yield Step(at_ms=at_ms, kind="paid", peer=peer_text(payment.payee), amount=sent)
    elif payment.phase is PayPhase.FAILED:
        yield Step(at_ms=at_ms, kind="failed", text=payment.reason)


def _in_order(steps: list[Step]) -> tuple[Step, ...]:
    """By time; within a second what was found first comes first."""
    return tuple(sorted(steps, key=lambda step: step.at_ms))


def joined(steps: Iterable[Step]) -> tuple[Step, ...]:
    """An offer that is kept but not passed on is one step, not two."""
    found: list[Step] = []
    for step in steps:
        before = found[-1] if found else None
        if (
            before is not None
            and step.kind == before.kind == "offer"
            and step.kept
            and step.text
            and (step.at_ms, step.peer, step.amount) == (before.at_ms, before.peer, before.amount)
        ):
            found[-1] = replace(before, text=step.text)
        else:
            found.append(step)
    return tuple(found)
