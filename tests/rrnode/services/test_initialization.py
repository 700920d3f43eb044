"""`/rr/init/1` over memory hosts: payees attached to a server, payers under throw-away identities, and peers that write
what they like."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from services_kit import GENESIS, Net, ended, now, until, within

from protocols.ids import PeerId
from protocols.wire.init import (
    CODEC,
    PROTOCOL,
    SEALED_SIZE,
    Attach,
    Attached,
    Deliver,
    Delivered,
    DeliveryCode,
    Failed,
    Handed,
    Mail,
    Taken,
)
from rrnode.errors import Unreachable
from rrnode.host.base import FrameStream, Host
from rrnode.host.memory import MemoryHost
from rrnode.services.collecting import Collector
from rrnode.services.delivery import Deliveries, Way
from rrnode.services.initialization import MOST_PENDING, InitializationService

Clock = trio.testing.MockClock


def sealed(number: int = 0) -> bytes:
    return number.to_bytes(SEALED_SIZE, "big")


class Node:
    """A host with the service, and what it took."""

    def __init__(self, net: Net, host: MemoryHost) -> None:
        self.net, self.host = net, host
        self.servers: set[PeerId] = set()
        self.clients: set[PeerId] = set()
        self.taken: list[tuple[bytes, bytes]] = []
        self.refusal: tuple[int, str] | None = None
        self.takes_for = 0.0
        self.throw_aways: list[PeerId] = []
        self.service = InitializationService(
            host=host,
            take=self.take,
            attaches_to=self.servers.__contains__,
            hands_to=self.clients.__contains__,
            collector=Collector(
                take=self.take_nothing, keeps=lambda peer: False, missed=lambda peer, full, late: None, now=now
            ),
        )
        self.deliveries = Deliveries(self.throw_away)

    async def take(self, what: bytes, sender: bytes) -> tuple[int, str]:
        await trio.sleep(self.takes_for)
        if self.refusal is not None:
            return self.refusal
        self.taken.append((what, sender))
        return 0, ""

    async def take_nothing(self, server: PeerId, mail: Mail, last: bool) -> tuple[int, str]:
        raise AssertionError("there is no mailbox")

    @asynccontextmanager
    async def throw_away(self) -> AsyncIterator[Host]:
        secret = (1000 + len(self.throw_aways)).to_bytes(32, "big")
        host = MemoryHost(secret, network=self.net.network, genesis=GENESIS)
        self.throw_aways.append(host.peer_id)
        async with host.running():
            yield host

    @property
    def address(self) -> str:
        return self.host.addresses()[0]


class Scene:
    def __init__(self, payer: Node, server: Node, payee: Node) -> None:
        self.payer, self.server, self.payee = payer, server, payee

    async def deliver(self, what: bytes | None = None, *servers: str) -> Way:
        return await self.payer.deliveries.deliver(
            self.payee.host.peer_id, servers or (self.server.address,), sealed() if what is None else what
        )


@pytest.fixture
async def scene(net: Net) -> Scene:
    """A payee attached to its server, and a payer linked with nobody."""
    payer, server, payee = [Node(net, await net.host(number)) for number in range(3)]
    payee.servers.add(server.host.peer_id)
    server.clients.add(payee.host.peer_id)
    net.spawn(*(node.service for node in (payer, server, payee)))
    await net.link(payee.host, server.host)
    await until(lambda: payee.service.standing == {server.host.peer_id})
    return Scene(payer, server, payee)


async def say(stream: FrameStream, *messages: Any) -> None:
    for message in messages:
        await stream.send(CODEC.encode(message))


async def hear(stream: FrameStream, seconds: float = 30.0) -> Any:
    frame = await within(seconds, stream.receive)
    return None if frame is None else CODEC.decode(frame)


async def test_it_reaches_an_attached_payee_through_its_server(scene: Scene, autojump_clock: Clock) -> None:
    assert await scene.deliver(sealed(7)) is Way.PASSED_DOWN
    assert scene.payee.taken == [(sealed(7), sealed(7)[:33])]
    assert scene.server.taken == []


async def test_neither_server_nor_payee_sees_the_payers_own_identity(scene: Scene, autojump_clock: Clock) -> None:
    seen: set[PeerId] = set()
    async with scene.server.host.events() as events:
        await scene.deliver(sealed(1))
        await scene.deliver(sealed(2))
        await trio.sleep(1)
        while True:
            try:
                seen.add(events.receive_nowait().peer)
            except trio.WouldBlock:
                break
    assert seen == set(scene.payer.throw_aways)
    assert len(seen) == 2
    assert scene.payer.host.peer_id not in seen
    assert scene.payer.host.connected() == {}


async def test_it_reaches_a_payee_that_listens_directly(scene: Scene, autojump_clock: Clock) -> None:
    assert await scene.deliver(sealed(7), scene.payee.address) is Way.DIRECT
    ((what, sender),) = scene.payee.taken
    assert what == sealed(7)
    assert sender == scene.payer.throw_aways[0]


async def test_what_the_payee_says_against_it_is_told(scene: Scene, autojump_clock: Clock) -> None:
    scene.payee.refusal = (DeliveryCode.REFUSED, "this payment has been made \x1b[2Jalready")
    with pytest.raises(Unreachable, match=r"^this payment has been made ·\[2Jalready$"):
        await scene.deliver()


async def test_a_payee_that_is_not_there_is_told(scene: Scene, autojump_clock: Clock) -> None:
    unknown = PeerId(b"\x02" * 33)
    with pytest.raises(Unreachable, match="the payee is not connected to this server"):
        await scene.payer.deliveries.deliver(unknown, (scene.server.address,), sealed())


async def test_a_payee_that_does_not_answer_is_told_in_time(scene: Scene, autojump_clock: Clock) -> None:
    scene.payee.takes_for = 1000
    began = trio.current_time()
    with pytest.raises(Unreachable, match="the payee is connected but did not answer"):
        await scene.deliver()
    assert trio.current_time() - began < 10


async def test_a_payee_that_goes_away_meanwhile_is_told_at_once(scene: Scene, autojump_clock: Clock) -> None:
    scene.payee.takes_for = 1000
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            await trio.sleep(1)
            await scene.payee.host.disconnect(scene.server.host.peer_id, "off")

        with pytest.raises(Unreachable, match="did not answer"):
            await scene.deliver()
    assert trio.current_time() - began < 3


async def test_of_several_servers_one_that_works_is_enough_and_dead_ones_cost_little_time(
    scene: Scene, autojump_clock: Clock
) -> None:
    net = scene.payer.net
    silent = await net.host(5)
    silent.handle(PROTOCOL, ended)  # takes it and says nothing
    refused = scene.server.address.replace("/memory/", "/memory/77")
    for _ in range(5):
        began = trio.current_time()
        await scene.deliver(sealed(1), silent.addresses()[0], refused, scene.server.address)
        assert trio.current_time() - began < 5
    with pytest.raises(Unreachable, match="did not answer within 15 s") as caught:
        await scene.deliver(sealed(1), silent.addresses()[0], refused)
    assert "connection refused" in str(caught.value)


async def test_a_contact_without_servers_is_told(scene: Scene, autojump_clock: Clock) -> None:
    with pytest.raises(Unreachable, match="names no server"):
        await scene.payer.deliveries.deliver(scene.payee.host.peer_id, (), sealed())


@pytest.mark.parametrize("answer", [Attached(), Taken(1, 0, ""), b"\xc1nonsense"])
async def test_a_server_that_answers_nonsense_is_told(net: Net, autojump_clock: Clock, answer: Any) -> None:
    payer, server = Node(net, await net.host(0)), await net.host(1)

    async def serve(stream: FrameStream) -> None:
        await stream.receive()
        await stream.send(answer if isinstance(answer, bytes) else CODEC.encode(answer))
        await ended(stream)

    server.handle(PROTOCOL, serve)
    with pytest.raises(Unreachable, match="answered nonsense"):
        await payer.deliveries.deliver(PeerId(b"\x02" * 33), server.addresses(), sealed())


async def test_one_strangers_flood_is_bounded_and_told_and_others_get_through(
    scene: Scene, autojump_clock: Clock
) -> None:
    net = scene.payer.net
    flooder = await net.host(5)
    await net.link(flooder, scene.server.host)
    answers = []
    for number in range(100):
        stream = await flooder.open_stream(scene.server.host.peer_id, PROTOCOL)
        await say(stream, Deliver(scene.payee.host.peer_id, sealed(number)))
        answers.append(await hear(stream))
    assert 20 <= answers.count(Delivered()) <= 30
    told = {each.code for each in answers if isinstance(each, Failed)}
    assert told == {DeliveryCode.TOO_MANY}
    await scene.deliver(sealed(1000))
    assert scene.payee.taken[-1][0] == sealed(1000)


async def test_what_a_payee_has_not_answered_is_bounded_whoever_asks(scene: Scene, autojump_clock: Clock) -> None:
    scene.payee.takes_for = 5
    told: list[str] = []

    async def one(number: int) -> None:
        try:
            await scene.deliver(sealed(number))
        except Unreachable as error:
            told.append(str(error))

    async with trio.open_nursery() as nursery:
        for number in range(3 * MOST_PENDING):
            nursery.start_soon(one, number)
    assert told.count("the payee has too many initializations to answer") == 2 * MOST_PENDING
    there = scene.server.service._payees[scene.payee.host.peer_id]
    assert there.pending == {}


async def test_only_clients_may_attach(scene: Scene, autojump_clock: Clock) -> None:
    net = scene.payer.net
    stranger = await net.host(5)
    await net.link(stranger, scene.server.host)
    stream = await stranger.open_stream(scene.server.host.peer_id, PROTOCOL)
    await say(stream, Attach())
    assert await hear(stream) == Failed(DeliveryCode.BAD_REQUEST, "only clients with a channel may attach")
    await ended(stream)
    assert set(scene.server.service._payees) == {scene.payee.host.peer_id}


async def test_a_client_whose_server_did_not_know_it_yet_attaches_later(net: Net, autojump_clock: Clock) -> None:
    server, payee = Node(net, await net.host(1)), Node(net, await net.host(2))
    payee.servers.add(server.host.peer_id)
    net.spawn(server.service, payee.service)
    await net.link(payee.host, server.host)
    await trio.sleep(2)
    assert payee.service.standing == set()
    server.clients.add(payee.host.peer_id)
    await until(lambda: payee.service.standing == {server.host.peer_id}, within=10)


async def test_a_client_is_attached_again_after_a_cut(scene: Scene, autojump_clock: Clock) -> None:
    net = scene.payer.net
    net.network.cut(scene.payee.host.peer_id, scene.server.host.peer_id)
    await until(lambda: scene.payee.service.standing == set() and scene.server.service._payees == {})
    await net.link(scene.payee.host, scene.server.host)
    await until(lambda: len(scene.payee.service.standing) == 1)
    await scene.deliver(sealed(3))
    assert [what for what, _ in scene.payee.taken] == [sealed(3)]


@pytest.mark.parametrize("answer", [None, Handed(1, sealed()), Delivered()])
async def test_a_server_that_does_not_attach_us_is_tried_again_and_later_each_time(
    net: Net, autojump_clock: Clock, answer: Any
) -> None:
    payee, server = Node(net, await net.host(2)), await net.host(1)
    streams = 0

    async def serve(stream: FrameStream) -> None:
        nonlocal streams
        streams += 1
        if answer is not None:
            await say(stream, answer)
        await ended(stream)

    server.handle(PROTOCOL, serve)
    payee.servers.add(server.peer_id)
    net.spawn(payee.service)
    await net.link(payee.host, server)
    await trio.sleep(100)
    assert 3 <= streams <= 10
    assert payee.service.attachments.broken in (streams, streams - 1)
    assert payee.service.standing == set()
    assert payee.taken == []


@pytest.mark.parametrize("first", [Attached(), Delivered(), Handed(1, sealed()), Taken(1, 0, ""), b"\x00\x01", None])
async def test_a_first_message_that_is_none_ends_the_stream(scene: Scene, autojump_clock: Clock, first: Any) -> None:
    net = scene.payer.net
    stranger = await net.host(5)
    await net.link(stranger, scene.server.host)
    stream = await stranger.open_stream(scene.server.host.peer_id, PROTOCOL)
    began = trio.current_time()
    if first is not None:
        await stream.send(first if isinstance(first, bytes) else CODEC.encode(first))
    await ended(stream)
    assert trio.current_time() - began < 11
    assert scene.server.host.counters.bad_messages == (first is not None)
    assert scene.server.host.counters.handler_errors == 0


async def test_a_payee_that_breaks_a_rule_or_answers_what_nobody_asked_harms_nobody(
    net: Net, autojump_clock: Clock
) -> None:
    server, payee = Node(net, await net.host(1)), await net.host(2)
    server.clients.add(payee.peer_id)
    net.spawn(server.service)
    await net.link(payee, server.host)
    stream = await payee.open_stream(server.host.peer_id, PROTOCOL)
    await say(stream, Attach())
    assert await hear(stream) == Attached()
    await say(stream, *(Taken(number, 0, "") for number in range(100)))
    await trio.sleep(1)
    assert set(server.service._payees) == {payee.peer_id}
    await say(stream, Attach())
    await ended(stream)
    assert server.service._payees == {}
    assert server.host.counters.bad_messages == 1
    assert server.host.counters.handler_errors == 0
