"""What a node remembers of payments: every kind of note, and that strangers push out nothing in which money moved."""

import dataclasses
import hashlib
from typing import Any

from protocols.ids import PaymentHash, PeerId
from protocols.payment.events import FindOffers, OffersFound
from protocols.routing.events import FloodRequested, KeptOffer, OffersWanted, PushOffers, SendOffers, Subscribed
from protocols.routing.views import Drop, Judged
from protocols.units import Amount, AssetId, BlockDelta, Msat, UnixTime
from protocols.wire.channel import RevokeAndAck, UpdateAddHtlc, UpdateFailHtlc, UpdateFulfillHtlc
from protocols.wire.routing import RoutingMessage
from rrnode.traces import MOST_NOTES, MOST_OFFERS, STANDING_SHOWN, Traces

BOB, CAROL = PeerId(b"\x02" + b"\x22" * 32), PeerId(b"\x03" + b"\x33" * 32)
PREIMAGE = b"\x07" * 32
HASH = PaymentHash(hashlib.sha256(PREIMAGE).digest())
COIN = AssetId(b"\xc0" * 32)
NOW = UnixTime(1_800_000_000)
ONE = b"\x0a" * 32


def hash_(number: int) -> PaymentHash:
    return PaymentHash(number.to_bytes(32, "big"))


def traces(most: int = 10) -> Traces:
    ticks = iter(range(10**6))
    return Traces(lambda: NOW + next(ticks) / 1000, most)


def notes(kept: Traces, payment_hash: PaymentHash = HASH) -> list[tuple[Any, ...]]:
    """Without their times, which only grow."""
    found, _ = kept.of(payment_hash)
    assert [note.at for note in found] == sorted(note.at for note in found)
    return [dataclasses.astuple(note)[1:] for note in found]


def message(payment_hash: PaymentHash, amount: int = 1000) -> RoutingMessage:
    return RoutingMessage(payment_hash, COIN, amount, 10, 5, 10**9, COIN, NOW + 60)


def judged(payment_hash: PaymentHash = HASH, amount: int = 1000, drop: Drop | None = None) -> Judged:
    return Judged(BOB, payment_hash, Msat(amount), 10, drop is None, drop)


def test_offers_quotes_and_who_asked_are_noted() -> None:
    kept = traces()
    flood = FloodRequested(
        payment_hash=HASH,
        amount=Amount(Msat(900), COIN),
        lock_blocks=BlockDelta(12),
        hops=9,
        ceiling=Amount(Msat(1100), COIN),
        expiry=UnixTime(NOW + 60),
        now=NOW,
    )
    kept.routing(flood, [SendOffers(neighbour=CAROL, offers=(message(HASH, 900), message(hash_(2))))], ())
    asked = Subscribed(subscriber=CAROL, request=1, hashes=(HASH,), prefixes=(), until=UnixTime(NOW + 60), now=NOW)
    kept.routing(asked, [PushOffers(subscriber=CAROL, offers=(message(HASH, 901),))], ())
    wanted = OffersWanted(payment_hash=HASH, expiry=UnixTime(NOW + 60), now=NOW)
    kept.routing(wanted, (), (judged(), judged(amount=1200, drop=Drop.TOO_DEAR), judged(hash_(2))))
    assert notes(kept) == [
        ("ask", None, 900, 12, None, "at most 1.1 sat, 9 hops"),
        ("quote", CAROL, 900, 10, None, ""),
        ("subscribed", CAROL, None, None, None, ""),
        ("quote", CAROL, 901, 10, None, ""),
        ("want", None, None, None, None, ""),
        ("offer", BOB, 1000, 10, True, ""),
        ("offer", BOB, 1200, 10, False, Drop.TOO_DEAR.value),
    ]
    assert [note[0] for note in notes(kept, hash_(2))] == ["quote", "offer"]


def test_locks_and_their_ends_are_found_by_the_htlc() -> None:
    kept = traces()
    kept.message(BOB, UpdateAddHtlc(ONE, 7, 1000, HASH, 140), ours=False)
    kept.message(CAROL, UpdateAddHtlc(ONE, 7, 990, HASH, 130), ours=True)
    kept.message(CAROL, UpdateFailHtlc(ONE, 8, 6), ours=False)
    kept.message(CAROL, UpdateFailHtlc(ONE, 7, 250), ours=False)
    kept.message(CAROL, UpdateFulfillHtlc(ONE, 9, PREIMAGE), ours=False)
    kept.message(BOB, UpdateFailHtlc(ONE, 7, 6), ours=True)
    kept.message(BOB, RevokeAndAck(ONE, PREIMAGE, BOB), ours=True)
    assert notes(kept) == [
        ("lock_in", BOB, 1000, 140, None, ""),
        ("lock_out", CAROL, 990, 130, None, ""),
        ("fail_in", CAROL, None, None, None, "a node failed"),
        ("settle_in", CAROL, None, None, None, ""),
        ("fail_out", BOB, None, None, None, "a channel further on could not carry it"),
    ]


def test_what_stood_when_an_htlc_was_to_be_locked_is_noted() -> None:
    kept = traces()
    question = FindOffers(reference=b"pay" + HASH, payment_hash=HASH, upstream=None, asset=COIN)
    offers = tuple(
        KeptOffer(
            neighbour=BOB,
            amount=Amount(Msat(1000 + number), COIN),
            lock_blocks=BlockDelta(12),
            expiry=UnixTime(NOW + 60),
            quote=Amount(Msat(1000), COIN),
        )
        for number in range(STANDING_SHOWN + 1)
    )
    kept.offers_found(question, OffersFound(reference=question.reference, offers=()))
    kept.offers_found(question, OffersFound(reference=question.reference, offers=offers))
    assert notes(kept) == [("stands", None, None, None, None, "no offer stands")] + [
        ("stands", BOB, 1000 + number, 12, None, "") for number in range(STANDING_SHOWN)
    ]


def test_a_payment_has_so_many_notes_and_the_rest_is_counted() -> None:
    kept = traces()
    wanted = OffersWanted(payment_hash=HASH, expiry=UnixTime(NOW + 60), now=NOW)
    kept.routing(wanted, (), [judged()] * (MOST_OFFERS + 4))
    for number in range(MOST_NOTES + 2):
        kept.message(BOB, UpdateAddHtlc(ONE, number, 1000, HASH, 140), ours=False)
    found, left_out = kept.of(HASH)
    assert [sum(note.kind == kind for note in found) for kind in ("want", "offer", "lock_in")] == [
        1,
        MOST_OFFERS,
        MOST_NOTES - 1,
    ]
    assert left_out == 4 + 3


def test_a_flood_of_hashes_pushes_out_only_what_moved_no_money() -> None:
    kept = traces(most=3)
    wanted = OffersWanted(payment_hash=hash_(1), expiry=UnixTime(NOW + 60), now=NOW)
    kept.routing(wanted, (), (judged(HASH),))
    kept.message(BOB, UpdateAddHtlc(ONE, 7, 1000, HASH, 140), ours=False)
    kept.message(CAROL, UpdateAddHtlc(ONE, 8, 990, HASH, 130), ours=True)
    kept.routing(wanted, (), [judged(hash_(number)) for number in range(2, 90)])
    for number in range(90, 100):  # said, and never committed
        kept.message(BOB, UpdateAddHtlc(ONE, number, 1000, hash_(number), 140), ours=False)
    assert [note[0] for note in notes(kept)] == ["offer", "lock_in", "lock_out"]
    assert [number for number in range(100) if notes(kept, hash_(number))] == [97, 98, 99]


def test_payments_with_money_are_bounded_and_their_htlcs_with_them() -> None:
    kept = traces(most=2)
    for number in range(5):
        kept.message(BOB, UpdateAddHtlc(ONE, number, 1000, hash_(number), 140), ours=True)
    for number in range(5):
        kept.message(BOB, UpdateFailHtlc(ONE, number, 6), ours=False)
    assert [[note[0] for note in notes(kept, hash_(number))] for number in range(5)] == [
        [],
        [],
        [],
        ["lock_out", "fail_in"],
        ["lock_out", "fail_in"],
    ]
    assert len(kept._htlcs) == 2


def test_a_node_that_traces_nothing_keeps_nothing() -> None:
    kept = traces(most=0)
    kept.routing(OffersWanted(payment_hash=HASH, expiry=UnixTime(NOW + 60), now=NOW), (), (judged(),))
    kept.message(BOB, UpdateAddHtlc(ONE, 7, 1000, HASH, 140), ours=False)
    kept.forwarded(HASH, 5)
    assert kept.of(HASH) == ((), 0)


def test_an_unknown_payment_is_nothing() -> None:
    assert traces().of(HASH) == ((), 0)
