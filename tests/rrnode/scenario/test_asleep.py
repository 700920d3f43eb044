"""A payee that is asleep when the payer sends: its mailbox keeps the payment, it wakes and is paid, and both are told. Whole
nodes over the memory host; A and E are clients of B and D."""

import time
from dataclasses import replace
from typing import Any

import pytest
import trio
from scenario_kit import CALM, Actor, World, eventually
from trio.testing import MockClock

from protocols.ids import PaymentHash
from protocols.payment.events import Payment, PayPhase, PromiseChanged, PromisePhase
from protocols.wire.init import DeliveryCode
from rrnode.control import models as m
from rrnode.errors import UserError

AMOUNT = 1_000_000


class Four:
    """A - B - D - E; D keeps mail for E."""

    def __init__(self, net: World, a: Actor, b: Actor, d: Actor, e: Actor, contact: str) -> None:
        self.net, self.a, self.b, self.d, self.e, self.contact = net, a, b, d, e, contact

    async def start(self, target: str | None = None, **order: Any) -> PaymentHash:
        """A begins to pay E, and waits for it to wake."""
        amount = AMOUNT if target is None else None
        order = {"target": target or self.contact, "amount_msat": amount, **order}
        payment_hash = await self.a.owner.pay(m.PayOrder(**order))
        await eventually("the payment to be left in the mailbox", lambda: self.kept() == 1)
        await eventually("A to know", lambda: "wake up" in self.a.node.paying.delivery(payment_hash))
        return payment_hash

    def kept(self) -> int | None:
        mailbox = self.d.node.initializations.mailbox
        return None if mailbox is None else mailbox.waiting

    async def wake(self) -> None:
        """E starts, and finds D."""
        await self.e.start()
        await self.e.node.host.dial(self.d.address)

    async def end(self, payment_hash: PaymentHash) -> Payment:
        """A's payment, once it has ended."""
        async with self.a.node.bus.subscribe(after=0) as events:
            with trio.fail_after(10_000):
                async for event in events:
                    if isinstance(event, m.Settled | m.PaymentFailed) and event.payment_hash == payment_hash.hex():
                        break
        payment = self.a.node.money.payment(payment_hash)
        assert payment is not None
        return payment


@pytest.fixture
async def four(net: World) -> Four:
    net.hosts = CALM
    a, e = await net.add("A", routes=False), await net.add("E", routes=False, coins=1)
    b, d = await net.add("B"), await net.add("D", keeps_mail=True)
    await net.mine(101)
    await e.owner.connect(d.address)
    for funder, other in ((a, b), (b, d), (d, e)):
        await net.channel(funder, other)
    await eventually("E to be attached", lambda: len(e.node.initializations.standing) == 1)
    contact = (await e.owner.contact()).contact
    return Four(net, a, b, d, e, contact)


async def test_a_payee_that_was_asleep_wakes_and_is_paid(leaping_clock: MockClock, four: Four) -> None:
    await four.e.stop()
    payment_hash = await four.start()
    await trio.sleep(60)
    assert four.a.node.money.payment(payment_hash).phase is PayPhase.COLLECTING
    await four.wake()
    payment = await four.end(payment_hash)
    assert (payment.phase, len(payment.attempts)) == (PayPhase.PAID, 1)
    assert four.e.holds(four.d) == AMOUNT
    (promise,) = four.e.node.money.promises()
    assert (promise.payment_hash, promise.phase, promise.received) == (payment_hash, PromisePhase.CLAIMED, AMOUNT)
    again = await four.a.pay(four.contact, AMOUNT)
    assert again.phase is PayPhase.PAID
    await eventually("the mailbox to be empty", lambda: four.kept() == 0)
    told = await four.e.owner.mail()
    assert [(each.taken, each.left, each.problem) for each in told.mailboxes] == [(1, 0, "")]
    assert told.missed == ()
    assert (await four.d.owner.mail()).kept_here == 0


async def test_a_request_is_paid_likewise_also_when_everybody_restarted_in_between(
    leaping_clock: MockClock, four: Four
) -> None:
    asked = await four.e.owner.request(AMOUNT, "tea", 3000)
    await four.e.stop()
    payment_hash = await four.start(asked.request)
    await four.d.crash()
    await four.d.start()
    assert four.kept() == 1
    await four.b.node.host.dial(four.d.address)
    await four.wake()
    payment = await four.end(payment_hash)
    assert payment.phase is PayPhase.PAID
    assert payment.preimage is not None


async def test_a_payee_that_dies_before_it_acknowledged_is_paid_when_it_wakes_again(
    leaping_clock: MockClock, four: Four
) -> None:
    await four.e.stop()
    payment_hash = await four.start()
    await four.e.start()

    async def die(*_: Any) -> tuple[int, str]:
        four.e.drop_dead()
        await trio.sleep_forever()
        raise AssertionError

    four.e.node.collector._take = die
    await four.e.node.host.dial(four.d.address)
    await four.e.gone()
    assert four.kept() == 1
    await four.wake()
    assert (await four.end(payment_hash)).phase is PayPhase.PAID


async def test_a_payee_that_wakes_too_late_is_told_what_it_missed_and_the_payer_that_nobody_came(
    leaping_clock: MockClock, four: Four
) -> None:
    await four.e.stop()
    payment_hash = await four.start(memo="rent", asleep_s=600)
    payment = await four.end(payment_hash)
    assert payment.phase is PayPhase.FAILED
    assert payment.reason == "The payee was not heard of in time. Nothing was paid; try again when it is there."
    four.e.clock = lambda: time.time() + 700  # unix time does not leap with trio's
    await four.wake()
    await eventually("the mail to be fetched", lambda: four.kept() == 0)
    (missed,) = (await four.e.owner.mail()).missed
    assert missed.reason == "the payment has expired"
    assert (missed.amount_msat, missed.memo, missed.payment_hash) == (AMOUNT, "rent", payment_hash.hex())
    assert four.e.node.money.promises() == ()


async def test_a_payee_that_wakes_to_a_payer_that_is_gone_is_told_that_nobody_paid(
    leaping_clock: MockClock, four: Four
) -> None:
    await four.e.stop()
    await four.start(memo="rent", asleep_s=120)
    await four.a.stop()
    await four.wake()
    await eventually("the mail to be fetched", lambda: four.kept() == 0)
    (promise,) = four.e.node.money.promises()
    four.e.node.receiving.promise_changed(PromiseChanged(promise=replace(promise, phase=PromisePhase.EXPIRED)))
    (missed,) = (await four.e.owner.mail()).missed
    assert missed.reason == "the network was asked for offers, but the payer locked nothing before it expired"
    assert (missed.amount_msat, missed.memo) == (AMOUNT, "rent")


async def test_a_payer_that_will_not_wait_is_told_at_once(leaping_clock: MockClock, four: Four) -> None:
    await four.e.stop()
    payment = await four.a.pay(four.contact, AMOUNT, asleep_s=0)
    assert payment.phase is PayPhase.FAILED
    assert "not connected to this server" in payment.reason
    assert four.kept() == 0


async def test_a_payer_may_give_up_while_it_waits(leaping_clock: MockClock, four: Four) -> None:
    await four.e.stop()
    payment_hash = await four.start()
    await four.a.owner.give_up(payment_hash)
    payment = await four.end(payment_hash)
    assert (payment.phase, payment.reason) == (PayPhase.FAILED, "It was given up by its owner. Nothing was paid.")
    await eventually("its driver to end", lambda: four.a.node.paying._runs == {})
    with pytest.raises(UserError, match="failed"):
        await four.a.owner.give_up(payment_hash)
    assert four.a.node.subscribed._wanted == {}


async def test_a_payee_that_refuses_when_it_wakes_is_believed(leaping_clock: MockClock, four: Four) -> None:
    asked = await four.e.owner.request(AMOUNT, "tea", 3000)
    await four.e.stop()
    payment_hash = await four.start(asked.request)
    await four.e.start()

    async def refuse(*_: Any) -> tuple[int, str]:
        return DeliveryCode.REFUSED, "this payment has been made already"

    four.e.node.collector._take = refuse
    await four.e.node.host.dial(four.d.address)
    payment = await four.end(payment_hash)
    assert payment.phase is PayPhase.FAILED
    assert "the payee woke and refused it: this payment has been made already" in payment.reason


async def test_a_payment_is_handed_over_by_hand(leaping_clock: MockClock, four: Four) -> None:
    handed = await four.a.owner.pay_by_hand(m.PayOrder(target=four.contact, amount_msat=AMOUNT, memo="by hand"))
    payment_hash = PaymentHash(bytes.fromhex(handed.payment_hash))
    with pytest.raises(UserError, match="for another node"):
        await four.b.owner.receive(handed.text)
    await trio.sleep(60)
    got = await four.e.owner.receive(handed.text.upper())
    assert (got.payment_hash, got.amount_msat, got.memo) == (handed.payment_hash, AMOUNT, "by hand")
    payment = await four.end(payment_hash)
    assert payment.phase is PayPhase.PAID
    assert four.e.holds(four.d) == AMOUNT
    with pytest.raises(UserError, match="made already"):
        await four.e.owner.receive(handed.text)
