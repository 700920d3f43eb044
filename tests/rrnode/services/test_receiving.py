"""Being paid, on whole nodes: what a payee answers to initializations that it cannot act on, or that it has acted on before."""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parents[1] / "scenario"))

from scenario_kit import Actor, world

from protocols.payment.events import Kind, PromisePhase
from protocols.payment.initialization import Initialization, seal
from protocols.payment.payee import hash_of
from protocols.units import MAX_MSAT, Amount, Msat, UnixTime
from protocols.wire.init import DeliveryCode, Mail
from rrnode.control import models as m
from rrnode.errors import StorageFailed


class Two:
    """A payer and a payee with a channel, and initializations for the payee."""

    def __init__(self, payer: Actor, payee: Actor) -> None:
        self.payer, self.payee = payer, payee
        self.receiving = payee.node.receiving

    def push(self, amount: int = 5000) -> Initialization:
        return Initialization(
            nonce=os.urandom(16),
            kind=Kind.PUSH,
            secret=os.urandom(32),
            amount=Amount(Msat(amount), self.payee.node.asset),
            ceiling=Amount(Msat(amount), self.payee.node.asset),
            expiry=UnixTime(self.payee.node.now() + 600),
        )

    def sealed(self, init: Initialization) -> bytes:
        return seal(init, self.payee.node.us, os.urandom(32))

    async def fetched(self, init: Initialization, *, last: bool = False) -> tuple[int, str]:
        mail = Mail(1, self.payee.node.now(), self.sealed(init))
        return await self.receiving.take_mail(self.payer.node.us, mail, last)


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    async with world(tmp_path) as net:
        payer, payee = await net.add("A"), await net.add("B")
        await net.mine(101)
        await net.channel(payer, payee)
        with trio.fail_after(60):
            yield Two(payer, payee)


async def test_what_could_not_be_stored_is_not_taken_when_it_comes_again_either(two: Two) -> None:
    init, ask = two.push(), two.receiving._ask

    async def halted(event: object) -> list[object]:
        raise StorageFailed("the node has halted and takes on nothing new: disk full")

    two.receiving._ask = halted  # type: ignore[assignment]
    told = [await two.fetched(init) for _ in range(3)]
    assert told == [(DeliveryCode.TOO_MANY, "the payee's node takes on nothing new at the moment")] * 3
    two.receiving._ask = ask  # type: ignore[assignment]
    assert await two.fetched(init) == (0, "")
    (promise,) = two.payee.node.money.promises()
    assert (promise.payment_hash, promise.phase) == (hash_of(init), PromisePhase.WAITING)


async def test_what_no_channel_can_take_has_an_answer_of_its_own(two: Two) -> None:
    code, reason = await two.receiving.take(two.sealed(two.push(MAX_MSAT)), b"")
    assert (code, "no channel of the payee can take" in reason) == (DeliveryCode.TOO_LARGE, True)
    assert (await two.fetched(two.push(MAX_MSAT)))[0] == DeliveryCode.TOO_LARGE
    assert two.payee.node.money.promises() == ()
    assert list(two.receiving.missed) == [], "it is not over: a channel may be coming up"
    await two.fetched(two.push(MAX_MSAT), last=True)
    (missed,) = two.receiving.missed
    assert (missed.amount_msat, "no channel of the payee can take" in missed.reason) == (MAX_MSAT, True)


async def test_a_copy_that_is_fetched_after_the_payment_came_is_not_told_as_missed(two: Two) -> None:
    asked = await two.payee.owner.request(5000, "tea", 600)
    paid = await two.payer.pay(asked.request)
    copy = Initialization(
        nonce=os.urandom(16),
        kind=Kind.REQUEST,
        secret=paid.payment_hash,
        amount=paid.amount,
        ceiling=paid.ceiling,
        expiry=paid.expiry,
    )
    assert await two.fetched(copy) == (DeliveryCode.REFUSED, "this payment has been made already")
    assert list(two.receiving.missed) == []
    async with two.payee.node.bus.subscribe(after=0) as events:
        event = await anext(events)
        while not isinstance(event, m.Received):
            assert not isinstance(event, m.Missed)
            event = await anext(events)
