"""Engine words to API models: amounts to the millisatoshi, and secrets only once they are receipts."""

from dataclasses import replace

from bootstrap.networks import REGTEST, SIGNET
from protocols.ids import ChannelId, PaymentHash, PeerId, Preimage
from protocols.payment.events import Attempt, Kind, Payment, PayPhase, Promise, PromisePhase
from protocols.routing.events import OfferArrived
from protocols.routing.views import RouteOffer
from protocols.units import Amount, BlockDelta, BlockHeight, Msat, UnixTime
from protocols.wire.channel import FailureCode
from protocols.wire.routing import RoutingMessage
from rrnode.control import models as m
from rrnode.control.convert import (
    fee_ppm,
    offer_info,
    offer_seen,
    payment_info,
    promise_info,
)
from rrnode.control.text import peer_text

BOB, DORA = PeerId(b"\x02" * 33), PeerId(b"\x03" * 33)
HASH, SECRET = PaymentHash(b"\xaa" * 32), Preimage(b"\x55" * 32)
PAYMENT = Payment(
    payment_hash=HASH,
    kind=Kind.PUSH,
    payee=DORA,
    amount=Amount(Msat(100_000), REGTEST.genesis),
    ceiling=Amount(Msat(120_000), REGTEST.genesis),
    preimage=SECRET,
    phase=PayPhase.COLLECTING,
    created=UnixTime(1000),
    expiry=UnixTime(1060),
    memo="tea",
)
ATTEMPT = Attempt(
    channel_id=ChannelId(b"\xcc" * 32), htlc_id=3, neighbour=BOB, amount=Msat(100_321), expiry=BlockHeight(140)
)


def test_a_payment_under_way_keeps_its_secret() -> None:
    info = payment_info(PAYMENT)
    assert (info.phase, info.preimage, info.sent_msat, info.fee_msat) == ("collecting", "", None, None)
    assert info.payee == peer_text(DORA)
    assert SECRET.hex() not in info.model_dump_json()
    locked = payment_info(replace(PAYMENT, phase=PayPhase.LOCKED, attempts=(ATTEMPT,)))
    assert (locked.preimage, locked.sent_msat) == ("", None)


def test_a_paid_payment_shows_the_last_attempt_as_what_was_sent() -> None:
    failed = replace(ATTEMPT, amount=Msat(100_100), failure=FailureCode.DOWNSTREAM_FAILED)
    info = payment_info(replace(PAYMENT, phase=PayPhase.PAID, attempts=(failed, ATTEMPT), ended=UnixTime(1002)))
    assert (info.sent_msat, info.fee_msat, info.preimage) == (100_321, 321, SECRET.hex())
    assert [(each.fee_msat, each.failure) for each in info.attempts] == [
        (100, "a channel further on could not carry it"),
        (321, ""),
    ]


def test_a_promise_never_shows_its_preimage() -> None:
    for phase, word in ((PromisePhase.WAITING, "waiting"), (PromisePhase.CLAIMED, "claimed")):
        promise = Promise(
            payment_hash=HASH,
            preimage=SECRET,
            kind=Kind.REQUEST,
            amount=Amount(Msat(5), REGTEST.genesis),
            phase=phase,
            created=UnixTime(1),
            expiry=UnixTime(2),
            lock_blocks=BlockDelta(9),
        )
        info = promise_info(promise)
        assert (info.phase, info.kind, info.amount_msat) == (word, "request", 5)
        assert SECRET.hex() not in info.model_dump_json()


def arrived(amount: int, *, asset: bytes = REGTEST.genesis) -> OfferArrived:
    return OfferArrived(
        neighbour=BOB,
        offer=RoutingMessage(
            payment_hash=HASH,
            asset=asset,
            amount_msat=amount,
            lock_blocks=12,
            hops_left=3,
            ceiling_msat=120_000,
            ceiling_asset=REGTEST.genesis,
            expiry=1060,
        ),
        now=UnixTime(1000),
    )


def test_an_offer_shows_its_fee_in_parts_rounded_up() -> None:
    seen = offer_seen(arrived(100_001), PAYMENT, cheapest=True, after_ms=31)
    assert seen == m.OfferSeen(
        payment_hash=HASH.hex(),
        neighbour=peer_text(BOB),
        amount_msat=100_001,
        fee_msat=1,
        fee_ppm=10,
        lock_blocks=12,
        cheapest=True,
        after_ms=31,
    )
    assert [fee_ppm(*pair) for pair in ((0, 5), (1, 3), (5, 0), (3, 3))] == [0, 333_334, 0, 1_000_000]


def test_an_offer_in_another_coin_shows_no_fee() -> None:
    seen = offer_seen(arrived(7, asset=SIGNET.genesis), PAYMENT, cheapest=False, after_ms=1)
    assert (seen.amount_msat, seen.fee_msat, seen.fee_ppm) == (7, None, None)


def test_a_kept_offer_shows_what_to_lock_and_to_whom() -> None:
    amount = Amount(Msat(9), REGTEST.genesis)
    kept = RouteOffer(
        neighbour=BOB,
        amount=amount,
        lock_blocks=BlockDelta(4),
        hops_left=5,
        ceiling=amount,
        expiry=UnixTime(8),
        improvements=1,
        usable=True,
    )
    assert offer_info(kept) == m.OfferInfo(neighbour=peer_text(BOB), amount_msat=9, lock_blocks=4, expires_unix=8)
