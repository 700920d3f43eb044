"""What a database tells of a payment as steps, also when the journal does not reach back to all of it."""

from typing import Any

from protocols.channel.events import MessageReceived
from protocols.facts import Facts
from protocols.ids import ChannelId, PaymentHash, PeerId, Preimage
from protocols.payment.carrying import CARRY
from protocols.payment.events import (
    Attempt,
    Forward,
    HtlcRef,
    Kind,
    OffersFound,
    Payment,
    PayPhase,
    Promise,
    PromiseMade,
    PromisePhase,
)
from protocols.routing.events import KeptOffer
from protocols.units import Amount, AssetId, BlockDelta, BlockHeight, FeeRate, Msat, UnixTime
from protocols.wire.channel import FailureCode, UpdateAddHtlc, UpdateFailHtlc, UpdateFulfillHtlc
from rrnode.control.text import peer_text
from rrnode.storage import EndedForward, JournalRow
from rrnode.storage.history import PaymentHistory
from tools.trace.past import steps_of

A, B, C = (PeerId(bytes([2]) + bytes([n]) * 32) for n in (1, 2, 3))
COIN = AssetId(b"\xc0" * 32)
HASH, PREIMAGE = PaymentHash(b"\x09" * 32), Preimage(b"\x08" * 32)
IN, OUT, AGAIN = (ChannelId(bytes([n]) * 32) for n in (1, 2, 3))


def history(*events: Any, **parts: Any) -> PaymentHistory:
    """Each event a second after the one before."""
    lines = tuple(
        JournalRow(
            seq=number,
            event=event,
            facts=Facts(now=UnixTime(100 + number), tip=BlockHeight(5), feerate=FeeRate(1000), entropy=bytes(32)),
        )
        for number, event in enumerate(events)
    )
    return PaymentHistory(**{"payment": None, "promise": None, "forwards": (), "ended": (), "lines": lines} | parts)


def told(found: PaymentHistory) -> list[tuple[Any, ...]]:
    names = {"": "", peer_text(A): "A", peer_text(B): "B", peer_text(C): "C"}
    steps = steps_of(found)
    assert not any(step.exact for step in steps)
    return [(step.at_ms // 1000, step.kind, names[step.peer], step.amount, step.text) for step in steps]


def kept(neighbour: PeerId, amount: int) -> KeptOffer:
    price = Amount(Msat(amount), COIN)
    return KeptOffer(neighbour=neighbour, amount=price, lock_blocks=BlockDelta(9), expiry=UnixTime(200), quote=price)


def payment(*attempts: Attempt, **changes: Any) -> Payment:
    fields: dict[str, Any] = {
        "payment_hash": HASH,
        "kind": Kind.PUSH,
        "payee": C,
        "amount": Amount(Msat(900), COIN),
        "ceiling": Amount(Msat(1200), COIN),
        "preimage": PREIMAGE,
        "phase": PayPhase.PAID,
        "created": UnixTime(99),
        "expiry": UnixTime(220),
        "attempts": attempts,
        "ended": UnixTime(110),
    }
    return Payment(**fields | changes)


FIRST = Attempt(
    channel_id=OUT,
    htlc_id=1,
    neighbour=A,
    amount=Msat(1000),
    expiry=BlockHeight(40),
    failure=FailureCode.DOWNSTREAM_FAILED,
)
SECOND = Attempt(channel_id=AGAIN, htlc_id=1, neighbour=B, amount=Msat(1100), expiry=BlockHeight(41))
STORED = Forward(
    incoming=HtlcRef(channel_id=IN, htlc_id=7),
    payment_hash=HASH,
    incoming_amount=Msat(1000),
    incoming_expiry=BlockHeight(40),
    upstream=A,
    outgoing=HtlcRef(channel_id=OUT, htlc_id=2),
    outgoing_amount=Msat(990),
    downstream=C,
    tried=(B,),
    preimage=PREIMAGE,
)


def test_a_payers_tries_stand_where_their_offers_were_found() -> None:
    found = history(
        OffersFound(reference=b"pay" + HASH, offers=(kept(A, 1000), kept(B, 1100))),
        MessageReceived(peer=A, message=UpdateFailHtlc(OUT, 1, 6)),
        OffersFound(reference=b"pay" + HASH + b"again", offers=(kept(B, 1100),)),
        MessageReceived(peer=B, message=UpdateFulfillHtlc(AGAIN, 1, PREIMAGE)),
        payment=payment(FIRST, SECOND),
    )
    assert told(found) == [
        (100, "stands", "A", 1000, ""),
        (100, "stands", "B", 1100, ""),
        (100, "lock_out", "A", 1000, ""),
        (101, "fail_in", "A", None, "a channel further on could not carry it"),
        (102, "stands", "B", 1100, ""),
        (102, "lock_out", "B", 1100, ""),
        (103, "settle_in", "B", None, ""),
        (110, "paid", "C", 1100, ""),
    ]


def test_what_the_journal_has_lost_is_told_from_the_payment_itself() -> None:
    failed = payment(FIRST, phase=PayPhase.FAILED, reason="No other offer stands.")
    assert told(history(payment=failed)) == [
        (99, "lock_out", "A", 1000, ""),
        (99, "fail_in", "A", None, "a channel further on could not carry it"),
        (110, "failed", "", None, "No other offer stands."),
    ]


def test_a_forwarder_is_told_from_the_lock_to_the_fee() -> None:
    reference = CARRY + IN + (7).to_bytes(8, "big")
    added = MessageReceived(peer=A, message=UpdateAddHtlc(IN, 7, 1000, HASH, 40))
    found = history(
        added,
        OffersFound(reference=reference, offers=(kept(B, 980), kept(C, 990))),
        added,  # repeated after a reconnect
        OffersFound(reference=reference, offers=(kept(C, 990),)),
        MessageReceived(peer=C, message=UpdateFulfillHtlc(OUT, 2, PREIMAGE)),
        ended=(EndedForward(at=UnixTime(108), forward=STORED, earned=Msat(10)),),
    )
    assert told(found) == [
        (100, "lock_in", "A", 1000, ""),
        (101, "stands", "B", 980, ""),
        (101, "stands", "C", 990, ""),
        (101, "lock_out", "B", 980, ""),
        (103, "fail_in", "B", None, ""),
        (103, "stands", "C", 990, ""),
        (103, "lock_out", "C", 990, ""),
        (104, "settle_in", "C", None, ""),
        (104, "settle_out", "A", None, ""),
        (108, "forwarded", "", 10, ""),
    ]


def test_a_forward_that_came_back_is_given_back() -> None:
    gone = EndedForward(
        at=UnixTime(108),
        forward=Forward(
            incoming=STORED.incoming,
            payment_hash=HASH,
            incoming_amount=Msat(1000),
            incoming_expiry=BlockHeight(40),
            upstream=A,
            tried=(B,),
        ),
        earned=Msat(0),
    )
    assert told(history(ended=(gone,))) == [
        (108, "lock_out", "B", None, ""),
        (108, "fail_out", "A", None, ""),
        (108, "forwarded", "", 0, ""),
    ]


def promise(phase: PromisePhase) -> Promise:
    return Promise(
        payment_hash=HASH,
        preimage=PREIMAGE,
        kind=Kind.PUSH,
        amount=Amount(Msat(900), COIN),
        phase=phase,
        created=UnixTime(99),
        expiry=UnixTime(150),
        lock_blocks=BlockDelta(12),
        received=Msat(901),
        claimed_by=HtlcRef(channel_id=IN, htlc_id=7),
    )


def test_a_payee_claims_when_its_lock_has_come() -> None:
    made = PromiseMade(
        payment_hash=HASH,
        preimage=PREIMAGE,
        kind=Kind.PUSH,
        amount=Amount(Msat(900), COIN),
        expiry=UnixTime(150),
        lock_blocks=BlockDelta(12),
    )
    added = MessageReceived(peer=B, message=UpdateAddHtlc(IN, 7, 901, HASH, 40))
    assert told(history(made, added, promise=promise(PromisePhase.CLAIMED))) == [
        (100, "promised", "", 900, ""),
        (101, "lock_in", "B", 901, ""),
        (101, "settle_out", "B", None, ""),
        (101, "claimed", "", 901, ""),
    ]
    assert told(history(promise=promise(PromisePhase.EXPIRED))) == [(150, "expired", "", None, "")]
    assert told(history(promise=promise(PromisePhase.WAITING))) == []
