"""`/rr/init/1` through a relay, over loopback libp2p: a payee that listens nowhere, its server, and a payer's throw-away host."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from services_kit import GENESIS, now

from protocols.ids import PaymentHash, PeerId
from protocols.payment import request
from protocols.units import MAX_MSAT, Amount, AssetId, Msat, UnixTime
from protocols.wire.init import SEALED_SIZE, DeliveryCode, Mail
from rrnode.errors import LinkClosed
from rrnode.host.base import Host
from rrnode.host.libp2p import LibP2PHost
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.host.peer_text import join_address, peer_of, split_address, through, to_text
from rrnode.services import initialization
from rrnode.services.collecting import Collector
from rrnode.services.delivery import Deliveries, PayeeRefuses, Way, _in_order
from rrnode.services.initialization import InitializationService

SEALED = bytes(range(256)) * (SEALED_SIZE // 256)


class Node:
    """A host with the service, and what it took."""

    def __init__(self, number: int, *listen: str) -> None:
        self.host = LibP2PHost(number.to_bytes(32, "big"), genesis=GENESIS, listen=listen)
        self.servers: set[PeerId] = set()
        self.clients: set[PeerId] = set()
        self.taken: list[bytes] = []
        self.answer = (0, "")
        self.service = InitializationService(
            host=self.host,
            take=self.take,
            attaches_to=self.servers.__contains__,
            hands_to=self.clients.__contains__,
            collector=Collector(
                take=self.take_nothing, keeps=lambda peer: False, missed=lambda peer, full, late: None, now=now
            ),
        )

    async def take(self, what: bytes, sender: bytes) -> tuple[int, str]:
        await trio.lowlevel.checkpoint()
        self.taken.append(what)
        return self.answer

    async def take_nothing(self, server: PeerId, mail: Mail) -> tuple[int, str]:
        raise AssertionError("there is no mailbox")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with self.host.running():
            task_status.started()
            await self.service.run()


class Scene:
    """A payee attached to its server, which relays to its clients."""

    def __init__(self, server: Node, payee: Node) -> None:
        self.server, self.payee = server, payee
        (self.address,) = server.host.addresses()
        where, peer = split_address(self.address)
        self.where = where
        self.relayed = join_address(through(where, peer), payee.host.peer_id)

    async def deliver(self, *addresses: str) -> Way:
        return await Deliveries(throw_away).deliver(self.payee.host.peer_id, addresses, SEALED)


@asynccontextmanager
async def throw_away() -> AsyncIterator[Host]:
    host = LibP2PHost(os.urandom(32), genesis=GENESIS)
    async with host.running():
        yield host


async def eventually(node: Node, relays: set[PeerId]) -> None:
    with trio.fail_after(10):
        while node.service.relays != relays:
            await trio.lowlevel.checkpoint()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    server, payee = Node(1, "/ip4/127.0.0.1/tcp/0"), Node(2)
    server.clients.add(payee.host.peer_id)
    server.host.relay_for(server.clients.__contains__)
    payee.servers.add(server.host.peer_id)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        await nursery.start(payee.run)
        await payee.host.dial(server.host.addresses()[0])
        await eventually(payee, {server.host.peer_id})
        yield Scene(server, payee)
        nursery.cancel_scope.cancel()


async def test_it_comes_to_the_payee_itself_through_a_relay(scene: Scene) -> None:
    assert await scene.deliver(scene.relayed) is Way.RELAYED
    assert scene.payee.taken == [SEALED]
    assert scene.server.taken == []


async def test_a_relay_is_asked_only_when_the_server_does_not_pass_it_down(scene: Scene) -> None:
    assert await scene.deliver(scene.relayed, scene.address) is Way.PASSED_DOWN
    scene.server.service._payees.clear()  # as a server does that will not pass it down
    assert await scene.deliver(scene.relayed, scene.address) is Way.RELAYED
    assert len(scene.payee.taken) == 2


async def test_what_the_payee_says_through_a_relay_is_its_own_word(scene: Scene) -> None:
    scene.payee.answer = (DeliveryCode.REFUSED, "this payment has been made already")
    with pytest.raises(PayeeRefuses, match="has been made already"):
        await scene.deliver(scene.relayed)


async def test_a_contact_names_servers_first_and_one_relayed_address_last(scene: Scene) -> None:
    service = scene.payee.service
    assert service.reachable_at(lambda server: (scene.where, "/dns4/other/tcp/1")) == (
        scene.address,
        join_address("/dns4/other/tcp/1", scene.server.host.peer_id),
        scene.relayed,
    )
    longest = (
        f"/dns4/{'a' * 170}/tcp/1"  # with which no request would have room for its memo, or the address for itself
    )
    assert len(service.reachable_at(lambda server: (longest,))) == 1
    assert len(service.reachable_at(lambda server: (scene.where,) * 8)) == 8
    service.relays.clear()
    assert service.reachable_at(lambda server: (scene.where,)) == (scene.address,)


async def test_the_reservation_goes_with_the_link_and_comes_back_with_it(scene: Scene) -> None:
    await scene.payee.host.disconnect(scene.server.host.peer_id, "bye")
    await eventually(scene.payee, set())
    await scene.payee.host.dial(scene.address)
    await eventually(scene.payee, {scene.server.host.peer_id})
    assert await scene.deliver(scene.relayed) is Way.RELAYED


def test_a_request_has_room_for_the_longest_contact_with_a_relayed_address() -> None:
    payee = peer_of(b"\x01" * 32)
    lengths = (80,) * 7 + (initialization.MOST_CHARACTERS - 7 * 80,)
    servers = tuple("/dns4/".ljust(length - 58, "a") + f"/p2p/{to_text(payee)}" for length in lengths)
    assert (len(servers), sum(map(len, servers))) == (request.MAX_SERVERS, initialization.MOST_CHARACTERS)
    made = request.Request(
        contact=request.Contact(payee=payee, servers=servers),
        payment_hash=PaymentHash(bytes(32)),
        amount=Amount(asset=AssetId(GENESIS), msat=Msat(MAX_MSAT)),
        expiry=UnixTime(1 << 31),
        memo="m" * request.MAX_MEMO,
    )
    assert request.encode_request(made, prefix="rrregtest", secret=b"\x01" * 32)


def test_own_addresses_come_first_and_relayed_ones_last() -> None:
    payee, relay = LibP2PHost(b"\x01" * 32, genesis=GENESIS).peer_id, LibP2PHost(b"\x02" * 32, genesis=GENESIS).peer_id
    own, server = join_address("/ip4/192.0.2.1/tcp/1", payee), join_address("/ip4/192.0.2.2/tcp/1", relay)
    relayed = join_address(through("/ip4/192.0.2.2/tcp/1", relay), payee)
    assert _in_order(payee, [relayed, server, own]) == [own, server, relayed]


class Relays(MemoryHost):
    """A host whose relays give what the test says, one after the other."""

    def __init__(self, *answers: float | None) -> None:
        super().__init__(b"\x01" * 32, network=MemoryNetwork(), genesis=GENESIS)
        self.answers, self.asked = list(answers), list[float]()

    async def reserve(self, peer: PeerId) -> float:
        await trio.lowlevel.checkpoint()
        self.asked.append(trio.current_time())
        held = self.answers.pop(0)
        if held is None:
            raise LinkClosed("no relay")
        return held


async def test_a_reservation_is_renewed_in_time_and_no_relay_is_pestered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    host = Relays(1000.0, 0.001, None, 1000.0)
    node = Node(3)
    node.service._host = host
    with trio.move_on_after(600 + 30 + initialization.RESERVE_AGAIN + 10):
        await node.service._stay_reachable(PeerId(b"\x02" * 33))
    first, second, third = (later - earlier for earlier, later in zip(host.asked, host.asked[1:], strict=False))
    assert 400 <= first <= 600
    assert (second, third) == pytest.approx((initialization.LEAST_HELD, initialization.RESERVE_AGAIN))
    assert node.service.relays == set()
