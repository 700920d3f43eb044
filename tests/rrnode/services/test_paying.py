"""Paying on whole nodes: what becomes of a payment when whoever ordered it hangs up, or when the node halts."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

sys.path.insert(0, str(Path(__file__).parents[1] / "scenario"))

from scenario_kit import World, world

from protocols.payment.events import PayAbandoned, PayPhase, RequestRefused
from rrnode.control import models as m
from rrnode.errors import StorageFailed


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


async def test_a_payment_whose_customer_hangs_up_while_it_is_stored_comes_to_its_end(net: World) -> None:
    payer, payee = await net.add("A"), await net.add("B")
    await net.mine(101)
    await net.channel(payer, payee)
    contact = (await payee.owner.contact()).contact
    order = m.PayOrder(target=contact, amount_msat=5000)
    with trio.fail_after(20), trio.CancelScope() as customer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(payer.owner.pay, order)
            while not payer.node.money.payments():
                await trio.lowlevel.checkpoint()
            customer.cancel()
    (payment,) = payer.node.money.payments()
    assert payment.phase is PayPhase.COLLECTING
    ended = await payer.ended(payment.payment_hash)
    assert ended.phase is PayPhase.PAID
    await trio.testing.wait_all_tasks_blocked()
    assert payer.node.paying._runs == {}


async def test_a_node_that_has_halted_makes_no_payment_and_says_so(net: World) -> None:
    payer, payee = await net.add("A", coins=0), await net.add("B", coins=0)
    contact = (await payee.owner.contact()).contact

    async def halted(event: object) -> list[object]:
        raise StorageFailed("the node has halted and takes on nothing new: disk full")

    payer.node.paying._ask = halted  # type: ignore[assignment]
    with pytest.raises(StorageFailed, match="disk full"):
        await payer.owner.pay(m.PayOrder(target=contact, amount_msat=5000))
    assert payer.node.paying._runs == {}


async def test_a_payment_that_could_not_be_given_up_still_has_a_driver(net: World) -> None:
    payer, payee, other = await net.add("A"), await net.add("B"), await net.add("C", coins=0)
    await net.mine(101)
    await net.channel(payer, payee)
    contact, ask, refused = (await other.owner.contact()).contact, payer.node.paying._ask, []

    async def locked_meanwhile(event: Any) -> list[Any]:
        if isinstance(event, PayAbandoned) and not refused:
            refused.append(RequestRefused(payment_hash=event.payment_hash, reason="it is locked"))
            return refused
        return await ask(event)

    payer.node.paying._ask = locked_meanwhile  # type: ignore[assignment]
    with trio.fail_after(20):
        payment_hash = await payer.owner.pay(m.PayOrder(target=contact, amount_msat=5000, maximum_ms=10, asleep_s=0))
        payment = await payer.ended(payment_hash)
    assert (payment.phase, len(refused)) == (PayPhase.FAILED, 1)
