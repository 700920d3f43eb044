"""The payments that we take, event by event, over channels that behave; whole lists of effects."""

from dataclasses import replace

import pytest

from protocols.channel.events import Flush, SendMessage, StoreChannel
from protocols.channel.state import Stage
from protocols.errors import MisuseError
from protocols.payment.config import EngineConfig
from protocols.payment.events import (
    ChainReserveChanged,
    Kind,
    OffersFound,
    Promise,
    PromiseChanged,
    PromisePhase,
    RequestRefused,
    StorePromise,
)
from protocols.units import Amount, BlockDelta, Msat, UnixTime
from protocols.wire.channel import FailureCode, UpdateFailHtlc, UpdateFulfillHtlc


def waiting(kit, **fields):
    defaults = {
        "payment_hash": kit.hash(1),
        "preimage": kit.preimage(1),
        "kind": kit.Desk().promise().kind,
        "amount": kit.coin(1_000_000),
        "phase": PromisePhase.WAITING,
        "created": kit.NOW,
        "expiry": kit.NOW + 60,
        "lock_blocks": BlockDelta(27),
    }
    return Promise(**(defaults | fields))


def claimed(kit, amount=1_000_000):
    return waiting(kit, phase=PromisePhase.CLAIMED, received=Msat(amount), claimed_by=kit.ref("up"))


def settling(kit, htlc_id=0):
    message = UpdateFulfillHtlc(kit.channel_id("up"), htlc_id, kit.preimage(1))
    return SendMessage(peer=kit.peer("up"), message=message)


def failing(kit, code, name="up", htlc_id=0):
    return SendMessage(peer=kit.peer(name), message=UpdateFailHtlc(kit.channel_id(name), htlc_id, code))


def test_a_promise_is_stored(kit, desk):
    assert desk.do(desk.promise()) == [StorePromise(promise=waiting(kit)), PromiseChanged(promise=waiting(kit))]
    assert desk.engine.promise(kit.hash(1)) == waiting(kit)
    assert desk.engine.promises() == (waiting(kit),)


def test_a_promised_htlc_is_claimed_once_with_the_claim_stored_first(kit, desk):
    desk.do(desk.promise())
    assert desk.htlc_in("up", 1, 1_000_001) == [
        _received(desk),
        StorePromise(promise=claimed(kit, 1_000_001)),
        desk.stored("up"),
        settling(kit),
        PromiseChanged(promise=claimed(kit, 1_000_001)),
    ]
    assert desk.htlc_in("near", 1, 1_000_000)[-1] == failing(kit, FailureCode.ALREADY_PAID, "near")
    assert desk.htlc_in("up", 1, 1_000_000, id=1)[-1] == failing(kit, FailureCode.ALREADY_PAID, htlc_id=1)


def _received(desk):
    """The channel as it was when the HTLC had just come: stored once before the claim."""
    channel = desk.channel("up")
    (htlc,) = channel.htlcs
    fresh = replace(htlc, stage=Stage.COMMITTED, preimage=None)
    return StoreChannel(channel=replace(channel, htlcs=(fresh,)))


def test_a_claimed_hash_is_refused_after_a_restart_even_when_its_promise_is_no_longer_loaded(kit, desk):
    desk.do(desk.promise())
    desk.htlc_in("up", 1, 1_000_000)
    for again in (desk.restarted(), desk.restarted(promises=())):
        assert again.htlc_in("near", 1, 1_000_000)[-1] == failing(kit, FailureCode.ALREADY_PAID, "near")


def test_the_claimed_htlc_told_again_is_settled_again(kit, desk):
    desk.do(desk.promise())
    desk.htlc_in("up", 1, 1_000_000)
    lost = kit.Desk(_received(desk).channel, promises=desk.engine.promises())
    assert lost.resumed[:2] == [lost.stored("up"), settling(kit)]
    assert lost.engine.promises() == (claimed(kit),)


@pytest.mark.parametrize(
    ("amount", "expiry", "later", "code"),
    [
        (999_999, 100, 0, FailureCode.AMOUNT_TOO_LOW),
        (1_000_000, 23, 0, FailureCode.EXPIRY_TOO_SOON),
        (1_000_000, 100, 91, FailureCode.OFFER_EXPIRED),
    ],
)
def test_an_htlc_that_does_not_keep_the_promise_is_failed(kit, desk, amount, expiry, later, code):
    desk.do(desk.promise())
    desk.now = UnixTime(kit.NOW + later)
    assert desk.htlc_in("up", 1, amount, expiry=kit.TIP + expiry)[-1] == failing(kit, code)
    assert desk.engine.promises() == (waiting(kit),)


def test_the_last_block_and_the_last_second_are_good_enough(kit, desk):
    desk.do(desk.promise())
    desk.now = UnixTime(kit.NOW + 90)  # 60 seconds and the grace of 30
    desk.htlc_in("up", 1, 1_000_000, expiry=kit.TIP + 24)
    assert desk.engine.promises() == (claimed(kit),)


def test_an_htlc_in_another_coin_does_not_keep_the_promise(kit):
    desk = kit.Desk(kit.channel("up", asset=kit.GOLD))
    desk.do(desk.promise())
    assert desk.htlc_in("up", 1, 10**8)[-1] == failing(kit, FailureCode.UNKNOWN_HASH)


def test_nothing_is_claimed_that_the_chain_reserve_does_not_cover(kit, desk):
    desk.do(desk.promise())
    desk.do(ChainReserveChanged(confirmed_sat=0, coins=100))
    assert desk.htlc_in("up", 1, 1_000_000)[-1] == failing(kit, FailureCode.NODE_BUSY)
    assert desk.engine.promises() == (waiting(kit),)


def test_promises_expire_and_end_there(kit, desk):
    desk.do(desk.promise())
    desk.do(Flush())
    desk.now = UnixTime(kit.NOW + 91)
    expired = waiting(kit, phase=PromisePhase.EXPIRED)
    assert desk.do(Flush()) == [StorePromise(promise=expired), PromiseChanged(promise=expired)]
    assert desk.do(Flush()) == []
    assert desk.htlc_in("up", 1, 1_000_000)[-1] == failing(kit, FailureCode.OFFER_EXPIRED)


def test_what_strangers_announce_and_never_pay_pushes_nothing_out_of_the_history(kit):
    desk = kit.Desk(kit.channel("up"), config=EngineConfig(history=2))
    desk.do(desk.promise(1))
    desk.htlc_in("up", 1, 1_000_000)
    for number in range(2, 7):
        desk.do(desk.promise(number, kind=Kind.PUSH))
    desk.do(Flush())
    desk.now = UnixTime(kit.NOW + 91)
    ended = [each for each in desk.do(Flush()) if isinstance(each, StorePromise)]
    assert [each.promise.came_to_nothing for each in ended] == [True] * 5
    paid, *unpaid = desk.engine.promises()
    assert (paid.payment_hash, paid.phase) == (kit.hash(1), PromisePhase.CLAIMED)
    assert {each.payment_hash for each in unpaid} == {each.promise.payment_hash for each in ended[-2:]}


def test_a_promise_is_refused_with_a_sentence(kit, desk):
    def reason(**fields):
        (effect,) = desk.do(desk.promise(**fields))
        assert isinstance(effect, RequestRefused)
        return effect.reason

    desk.do(desk.promise(1))
    assert reason(number=1) == "There is a request with this hash already."
    assert reason(number=2, amount=0) == "A request needs an amount above 0 and an expiry to come."
    assert reason(number=2, expiry=kit.NOW) == "A request needs an amount above 0 and an expiry to come."
    desk.htlc_in("up", 3, 1_000_000)
    assert reason(number=3) == "A payment with this hash is passing through this node."
    desk.do(OffersFound(reference=b"carry" + kit.channel_id("up") + bytes(8), offers=()))
    assert len(desk.do(desk.promise(number=3))) == 2


def test_promises_are_bounded_by_those_that_wait(kit):
    desk = kit.Desk(kit.channel("up"), config=EngineConfig(max_promises=1, history=0))
    desk.do(desk.promise(1))
    (refused,) = desk.do(desk.promise(2))
    assert refused.reason == "1 requests are waiting already; wait until some are paid or have expired."
    desk.htlc_in("up", 1, 1_000_000)
    assert len(desk.do(desk.promise(2))) == 2
    assert [each.payment_hash for each in desk.engine.promises()] == [kit.hash(2)]


def test_a_promise_with_a_preimage_of_another_hash_is_our_own_bug(kit, desk):
    with pytest.raises(MisuseError, match="not of its hash"):
        desk.do(desk.promise(1, preimage=kit.preimage(2)))


def test_what_can_be_received_is_what_the_roomiest_channel_takes(kit, desk):
    assert desk.engine.most_receivable(kit.COIN) == 499_000_000
    assert desk.engine.most_receivable(kit.GOLD) == 0
    assert Amount(desk.engine.most_receivable(kit.COIN), kit.COIN) > kit.coin(1)
