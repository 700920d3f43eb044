"""Whose initialization the payee acts on, within which budget, and what it then asks of the network."""

from dataclasses import replace

import pytest

from protocols.errors import MisuseError
from protocols.payment.config import EngineConfig
from protocols.payment.events import Kind, Promise, PromiseMade, PromisePhase
from protocols.payment.initialization import Initialization
from protocols.payment.payee import (
    Budget,
    BudgetPolicy,
    Judgement,
    Verdict,
    flood_of,
    hash_of,
    judge,
    lock_blocks,
    promise_of,
)
from protocols.routing.events import FloodRequested
from protocols.units import Amount, BlockDelta, Msat, UnixTime
from protocols.wire.init import DeliveryCode

FLOOD = Verdict(judgement=Judgement.FLOOD)


def nonce(number):
    return number.to_bytes(16, "big")


@pytest.fixture
def push(kit):
    return Initialization(
        nonce=nonce(1),
        kind=Kind.PUSH,
        secret=kit.preimage(1),
        amount=kit.coin(5000),
        ceiling=kit.coin(6000),
        expiry=UnixTime(kit.NOW + 60),
        memo="thanks",
    )


@pytest.fixture
def promise(kit):
    return Promise(
        payment_hash=kit.hash(1),
        preimage=kit.preimage(1),
        kind=Kind.REQUEST,
        amount=kit.coin(5000),
        phase=PromisePhase.WAITING,
        created=kit.NOW,
        expiry=UnixTime(kit.NOW + 600),
        lock_blocks=BlockDelta(29),
    )


def test_a_nonce_is_acted_on_once(kit):
    budget = Budget()
    assert budget.admit(nonce(1), b"a", kit.NOW) == FLOOD
    assert budget.admit(nonce(1), b"b", kit.NOW + 10_000) == Verdict(judgement=Judgement.REPEATED)


def test_what_was_not_acted_on_after_all_is_no_repeat(kit):
    budget = Budget()
    budget.admit(nonce(1), b"a", kit.NOW)
    budget.forget(nonce(1))
    budget.forget(nonce(2))
    assert budget.admit(nonce(1), b"a", kit.NOW) == FLOOD


def test_a_sender_has_a_budget_that_comes_back(kit):
    budget = Budget(BudgetPolicy(per_sender=2, window=60))
    assert [budget.admit(nonce(i), b"a", kit.NOW).judgement for i in range(3)] == [
        Judgement.FLOOD,
        Judgement.FLOOD,
        Judgement.REFUSED,
    ]
    assert budget.admit(nonce(9), b"a", kit.NOW) == Verdict(
        judgement=Judgement.REFUSED,
        reason="this sender has sent too many initializations; wait a minute",
        code=DeliveryCode.TOO_MANY,
    )
    assert budget.admit(nonce(3), b"b", kit.NOW) == FLOOD
    assert budget.admit(nonce(9), b"a", kit.NOW + 59).judgement is Judgement.REFUSED
    assert budget.admit(nonce(9), b"a", kit.NOW + 60) == FLOOD  # a refused nonce was not used up


def test_all_senders_together_have_a_budget(kit):
    budget = Budget(BudgetPolicy(total=3, window=60))
    verdicts = [budget.admit(nonce(i), b"%d" % i, kit.NOW) for i in range(4)]
    assert verdicts[:3] == [FLOOD] * 3
    assert verdicts[3].reason == "the payee is asked for too many payments at once; wait a minute"
    assert budget.admit(nonce(5), b"5", kit.NOW + 60) == FLOOD


def test_what_a_budget_remembers_is_bounded(kit):
    budget = Budget(BudgetPolicy(total=10**6, nonces=5, senders=3))
    for number in range(100):
        budget.admit(nonce(number), b"%d" % number, kit.NOW)
    assert (len(budget._nonces), len(budget._spent)) == (5, 3)


def refusal(reason, code=DeliveryCode.REFUSED):
    return Verdict(judgement=Judgement.REFUSED, code=code, reason=reason)


def test_a_push_that_could_be_paid_is_flooded_for(kit, push):
    assert judge(push, None, asset=kit.COIN, most=5000, now=kit.NOW) == FLOOD


def test_a_push_that_cannot_be_paid_is_refused_with_a_sentence(kit, push, promise):
    def verdict(init=push, held=None, most=5000):
        return judge(init, held, asset=kit.COIN, most=most, now=kit.NOW)

    assert verdict(replace(push, expiry=kit.NOW)) == refusal("the payment has expired")
    assert verdict(replace(push, expiry=kit.NOW + 15 * 86_400)) == FLOOD
    too_late = replace(push, expiry=kit.NOW + 15 * 86_400 + 1)
    assert verdict(too_late) == refusal("the payment would wait longer than 15 days")
    assert verdict(replace(push, amount=Amount(Msat(5000), kit.GOLD))) == refusal("the payee takes another coin")
    assert verdict(most=4999) == refusal("no channel of the payee can take 5 sat now", DeliveryCode.TOO_LARGE)
    other = refusal("the payee waits for another payment with this secret")
    assert verdict(held=promise) == other
    pushed = replace(promise, kind=Kind.PUSH)
    assert verdict(held=pushed) == FLOOD
    assert verdict(replace(push, amount=kit.coin(5001)), pushed) == other
    assert verdict(held=replace(pushed, phase=PromisePhase.CLAIMED)) == refusal("this payment has been made already")
    assert verdict(held=replace(pushed, phase=PromisePhase.EXPIRED)) == refusal("the request has expired")
    assert verdict(held=replace(pushed, expiry=kit.NOW)) == refusal("the request has expired")


def test_a_request_is_paid_by_its_hash_and_its_exact_amount(kit, push, promise):
    init = replace(push, kind=Kind.REQUEST, secret=kit.hash(1))
    assert hash_of(init) == hash_of(push) == kit.hash(1)

    def verdict(init=init, held=promise):
        return judge(init, held, asset=kit.COIN, most=10**6, now=kit.NOW)

    assert verdict() == FLOOD
    assert verdict(held=None) == refusal("the payee knows no such request")
    assert verdict(held=replace(promise, kind=Kind.PUSH)) == refusal("the payee knows no such request")
    assert verdict(replace(init, amount=kit.coin(4999))) == refusal("the amount is not the request's")
    assert verdict(held=replace(promise, phase=PromisePhase.CLAIMED)) == refusal("this payment has been made already")


def test_a_push_becomes_a_promise_with_its_secret(kit, push):
    config = EngineConfig()
    made = promise_of(push, config=config, entropy=kit.ENTROPY, now=kit.NOW)
    assert made == PromiseMade(
        payment_hash=kit.hash(1),
        preimage=kit.preimage(1),
        kind=Kind.PUSH,
        amount=kit.coin(5000),
        expiry=UnixTime(kit.NOW + 60),
        lock_blocks=lock_blocks(config, kit.ENTROPY),
        memo="thanks",
    )
    assert 24 + 3 <= made.lock_blocks <= 24 + 8
    with pytest.raises(MisuseError):
        promise_of(replace(push, kind=Kind.REQUEST), config=config, entropy=kit.ENTROPY, now=kit.NOW)


def test_what_lay_in_a_mailbox_is_promised_for_an_hour_at_most(kit, push):
    patient = replace(push, expiry=UnixTime(kit.NOW + 86_400))
    made = promise_of(patient, config=EngineConfig(), entropy=kit.ENTROPY, now=kit.NOW)
    assert made.expiry == kit.NOW + 3600


def test_the_flood_starts_with_a_random_hop_budget_and_ends_with_the_earlier_expiry(kit, promise):
    def flood(entropy, expiry=kit.NOW + 60):
        return flood_of(promise, kit.coin(6000), UnixTime(expiry), entropy=entropy, now=kit.NOW)

    assert flood(kit.ENTROPY) == FloodRequested(
        payment_hash=kit.hash(1),
        amount=kit.coin(5000),
        lock_blocks=BlockDelta(29),
        hops=flood(kit.ENTROPY).hops,
        ceiling=kit.coin(6000),
        expiry=UnixTime(kit.NOW + 60),
        now=kit.NOW,
    )
    assert {flood(kit.preimage(number)).hops for number in range(100)} == {8, 9, 10, 11, 12}
    assert flood(kit.ENTROPY, kit.NOW + 10_000).expiry == kit.NOW + 600
