"""A payer's first word when servers lie or are flooded: over memory hosts, with the kit of `test_mailbox.py`."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio
from services_kit import GENESIS, START, Net, now
from test_mailbox import Liar, Node, Scene, leaping_clock, scene, sealed, store, until
from trio.testing import MockClock

from protocols.ids import PaymentHash, PeerId
from protocols.payment.events import Kind, Payment, PayPhase
from protocols.payment.request import Contact
from protocols.units import Amount, AssetId, Msat, UnixTime
from protocols.wire.init import Delivered, DeliveryCode, Failed, Kept
from rrnode.services import collecting
from rrnode.services.bringing import LAST_INQUIRY, Bringing, Stage, Step
from rrnode.services.delivery import Way
from rrnode.services.mailbox import Mailbox
from rrnode.storage.mails import MailStore

assert (leaping_clock, scene, store) is not None  # fixtures


def payment_to(payee: PeerId) -> Payment:
    amount = Amount(Msat(1000), AssetId(GENESIS))
    return Payment(
        payment_hash=PaymentHash(os.urandom(32)),
        kind=Kind.REQUEST,
        payee=payee,
        amount=amount,
        ceiling=amount,
        preimage=None,
        phase=PayPhase.COLLECTING,
        created=UnixTime(START),
        expiry=UnixTime(now() + 86_400),
    )


async def test_a_server_that_says_passed_down_takes_no_payment_out_of_a_mailbox(
    leaping_clock: MockClock, scene: Scene
) -> None:
    liar = Liar(await scene.net.host(5), Delivered())
    for number in range(6):  # in random order
        servers = (liar.host.addresses()[0], scene.server.address)
        (kept,) = await scene.payer.deliveries.store(scene.name, servers, sealed(number))
        assert kept.address == scene.server.address
    assert await scene.payer.deliveries.store(scene.name, liar.host.addresses(), sealed(9)) is Way.PASSED_DOWN


async def test_a_mailbox_that_says_fetched_does_not_end_the_waiting_while_another_keeps_it(
    leaping_clock: MockClock, scene: Scene
) -> None:
    absent = Failed(DeliveryCode.NOT_HERE, "the payee is not connected to this server")
    servers = [Liar(await scene.net.host(number), absent) for number in (5, 6)]
    contact = Contact(payee=scene.name, servers=tuple(each.host.addresses()[0] for each in servers))
    steps: list[Step] = []
    bringing = Bringing(scene.payer.deliveries, now)

    def tell(step: Step) -> None:
        steps.append(step)

    async with trio.open_nursery() as nursery:

        async def bring() -> None:
            await bringing.bring(payment_to(scene.name), contact, patient=True, tell=tell)

        nursery.start_soon(bring)
        await until(lambda: all(len(each.asked) == 1 for each in servers))
        for each in servers:
            each.answer = Kept(START + 1000)
        await until(lambda: len(steps) == 1)
        servers[0].answer = Delivered()
        await trio.sleep(3600)
        assert [step.stage for step in steps] == [Stage.ASLEEP, Stage.ASLEEP]
        servers[1].answer = Delivered()
        await trio.sleep(LAST_INQUIRY)
        await until(lambda: len(steps) == 3)
    assert steps[2] == Step(stage=Stage.TOLD, words="fetched by the payee from its mailbox")


async def test_a_payee_that_is_flooded_has_its_mail_kept(leaping_clock: MockClock, scene: Scene) -> None:
    await scene.wake()
    await until(lambda: scene.payee.service.standing != set())
    scene.payee.answer = (DeliveryCode.TOO_MANY, "the payee is asked for too many payments at once; wait a minute")
    (kept,) = await scene.leave(1)
    assert (kept.address, scene.store.waiting) == (scene.server.address, 1)
    scene.payee.answer = (0, "")
    await trio.sleep(collecting.FETCH_EVERY)
    await until(lambda: scene.store.waiting == 0)
    assert scene.payee.taken == [1]


# --- floods from one network ------------------------------------------------------------------------------------------


@dataclass
class From:
    """As much of a stream as tells where it comes from."""

    remote_address: str
    peer: PeerId = PeerId(b"\x02" * 33)


def many(count: int) -> list[From]:
    """Senders of one network."""
    return [From(f"/ip4/10.0.{number // 256}.{number % 256}/tcp/1") for number in range(count)]


ELSEWHERE = From("/ip4/10.1.0.1/tcp/1")


async def flooded(service: Callable[[Any, PeerId], Any], payee: PeerId, count: int) -> int:
    """How many a network gets through at once."""
    return sum([isinstance(await service(each, payee), Delivered | Kept) for each in many(count)])


async def test_one_network_uses_up_neither_a_server_nor_a_payee(leaping_clock: MockClock, net: Net) -> None:
    node = Node(net, await net.host(0))

    async def deliver(sender: Any, payee: PeerId) -> Any:
        return await node.service._pass_on(sender, payee, sealed(1))

    payee = node.host.peer_id
    assert await flooded(deliver, payee, 3000) == 30, "of 120 a minute that a payee takes from all together"
    assert await deliver(ELSEWHERE, payee) == Delivered()


async def test_one_network_uses_up_no_mailboxes_for_the_others(leaping_clock: MockClock, store: MailStore) -> None:
    mailbox = Mailbox(store, now)

    async def keep(sender: Any, payee: PeerId) -> Any:
        return await mailbox.keep(payee, os.urandom(512), sender.remote_address, sender.peer)

    assert await flooded(keep, PeerId(b"\x03" * 33), 700) == 50
    assert isinstance(await keep(ELSEWHERE, PeerId(b"\x03" * 33)), Kept)
