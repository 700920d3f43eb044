"""What a person is told when something cannot be: plain sentences, and nothing lost. Whole nodes over the memory host."""

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from scenario_kit import CALM, Actor, World, eventually, recorded
from trio.testing import MockClock

from bootstrap.networks import NETWORKS, REGTEST
from protocols.channel.state import Phase
from protocols.ids import PaymentHash
from protocols.payment import request
from protocols.payment.events import LockRequested, PayPhase
from protocols.units import Amount, Msat, UnixTime
from rrnode.dispatcher import Batch
from rrnode.errors import StorageFailed, UserError
from rrnode.keys import KeyTree, new_words

Example = dict[str, Actor]


@pytest.fixture
async def pair(net: World) -> tuple[Actor, Actor]:
    net.hosts = CALM
    a, b = await net.add("A"), await net.add("B")
    await net.mine(101)
    await net.channel(a, b, push_msat=300_000_000)
    return a, b


async def refusal(payer: Actor, target: str, amount: int | None = None, **order: Any) -> str:
    """The sentence with which a payment is refused, at once or in the end."""
    try:
        payment = await payer.pay(target, amount, **order)
    except UserError as error:
        return str(error)
    assert payment.phase is PayPhase.FAILED
    return payment.reason


async def test_a_payer_without_a_route_is_told(leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]) -> None:
    a, _ = pair
    island = await net.add("I", coins=0)
    contact = (await island.owner.contact()).contact
    sentence = await refusal(a, contact, 1_000_000)
    assert "no chain of channels" in sentence or "no channel" in sentence, sentence
    assert not net.actors["A"].channel_with(pair[1]).htlcs


async def test_a_payee_that_is_offline_is_told_of(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    contact = (await b.owner.contact()).contact
    await b.stop()
    sentence = await refusal(a, contact, 1_000_000)
    assert "connected" in sentence or "could not be reached" in sentence, sentence
    assert a.holds(b) == 700_000_000


async def test_a_client_that_is_offline_is_told_of(leaping_clock: MockClock, net: World, example: Example) -> None:
    contact = (await example["E"].owner.contact()).contact
    await example["E"].stop()
    sentence = await refusal(example["A"], contact, 1_000_000)
    assert "The payee could not be reached" in sentence, sentence
    assert "not connected to this server" in sentence


async def test_an_amount_above_every_channel_is_told_of(pair: tuple[Actor, Actor]) -> None:
    a, b = pair
    sentence = await refusal(a, (await b.owner.contact()).contact, 999_000_000)
    assert sentence.startswith("The largest payment that a channel of this node can carry now is")


async def test_paying_oneself_is_told_of(pair: tuple[Actor, Actor]) -> None:
    a, _ = pair
    assert "node's own" in await refusal(a, (await a.owner.contact()).contact, 1_000)


async def test_a_request_that_expired_or_is_of_another_network_is_told_of(pair: tuple[Actor, Actor]) -> None:
    a, b = pair
    contact = b.node.paying.contact()

    def asked(expiry: int) -> request.Request:
        return request.Request(
            contact=contact,
            payment_hash=PaymentHash(hashlib.sha256(os.urandom(32)).digest()),
            amount=Amount(Msat(1_000_000), REGTEST.genesis),
            expiry=UnixTime(expiry),
            memo="",
        )

    secret = b.keys.identity_secret()
    late = request.encode_request(asked(a.node.now() - 5), prefix=REGTEST.prefix, secret=secret)
    assert "expired" in await refusal(a, late)
    other = NETWORKS["signet"]
    foreign = request.encode_request(asked(a.node.now() + 600), prefix=other.prefix, secret=secret)
    assert "signet" in await refusal(a, foreign)
    assert not a.node.money.payments()


async def test_a_full_disk_halts_the_node_which_sends_nothing_and_closes_nothing(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    contact = (await b.owner.contact()).contact
    await a.pay(contact, 1_000_000)
    await net.settled()
    before = (a.holds(b), b.holds(a))
    fill_the_disk(a)
    begun = []
    with recorded(a) as effects:
        performed_at_halt: list[int] = []
        halt = a.node.dispatcher._halt
        a.node.dispatcher._halt = lambda reason: (performed_at_halt.append(len(effects)), halt(reason))  # type: ignore
        for _ in range(60):
            answer = await a.attempt(lambda: a.owner.pay(order(contact)))
            if isinstance(answer, bytes):
                begun.append(answer)
                with trio.move_on_after(20):  # a slow disk may take longer: time leaps
                    await a.ended(answer)
            if a.node.halted():
                break
        await eventually("the halt", lambda: bool(a.node.halted()))
        await trio.sleep(5)
        assert performed_at_halt == [len(effects)], "nothing leaves a node that could not store it"
    status = await a.owner.status()
    assert "disk is full" in status.halted
    assert any("halted" in text for text in status.alarms)
    assert a.channel_with(b).phase is Phase.OPEN
    with pytest.raises(StorageFailed, match="halted"):
        await a.owner.pay(order(contact))
    await a.stop()
    await a.start()  # the disk has room again: the limit went with the connection
    for here, there in ((a, b), (b, a)):
        rests = lambda here=here, there=there: here.usable(there) and not here.channel_with(there).htlcs  # noqa: E731
        await eventually("the channel", rests)
    assert b.channel_with(a).phase is Phase.OPEN
    phases = lambda: [a.node.money.payment(each).phase for each in begun]  # noqa: E731
    await eventually("their ends", lambda: set(phases()) <= {PayPhase.PAID, PayPhase.FAILED})
    count = phases().count(PayPhase.PAID)
    assert (a.holds(b), b.holds(a)) == (before[0] - count * 1_000_000, before[1] + count * 1_000_000)
    assert (await a.pay(contact, 1_000_000)).phase is PayPhase.PAID


async def test_a_disk_that_fails_when_a_payment_is_locked_halts_the_node_which_still_says_why(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    before = a.holds(b)
    commit = a.node.dispatcher._commit

    def fails(batch: Batch) -> None:
        if any(isinstance(handled.event, LockRequested) for handled in batch.journal):
            raise StorageFailed("the disk is full")
        commit(batch)

    a.node.dispatcher._commit = fails
    await a.attempt(partial(a.owner.pay, order((await b.owner.contact()).contact)))
    await eventually("the halt", lambda: bool(a.node.halted()))
    await trio.sleep(5)
    assert "disk is full" in (await a.owner.status()).halted
    await a.stop()
    await a.start()
    await eventually("the channel", lambda: a.usable(b))
    assert a.holds(b) == before


def order(contact: str) -> Any:
    from rrnode.control import models as m

    return m.PayOrder(target=contact, amount_msat=1_000_000)


def fill_the_disk(actor: Actor) -> None:
    """SQLite's own limit stands for a disk without room: from here on the file cannot grow."""
    with actor.node.store._database.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


async def test_another_seed_is_refused_by_an_existing_directory(
    net: World, pair: tuple[Actor, Actor], tmp_path: Path
) -> None:
    a, b = pair
    await a.stop()
    right, a.keys = a.keys, KeyTree(new_words(), REGTEST)
    with pytest.raises(StorageFailed, match="put the right seed back"):
        await a._live()
    a.keys = right
    await a.start()
    assert a.channel_with(b).phase is Phase.OPEN
