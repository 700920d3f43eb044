"""The mailbox of a server and those who use it, over memory hosts: payers that leave and inquire, payees that fetch and
acknowledge, servers and strangers that do what they like. The disk is real; in a worker thread, so time leaps only after a
moment."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from services_kit import GENESIS, START, Net, ended, now
from trio.testing import MockClock

from protocols.ids import PeerId
from protocols.wire.init import (
    CODEC,
    MAX_MAILS,
    PROTOCOL,
    SEALED_SIZE,
    Acknowledge,
    Acknowledged,
    Answered,
    Attach,
    Attached,
    Deliver,
    Delivered,
    DeliveryCode,
    Failed,
    Fetch,
    Inquire,
    Kept,
    Mail,
    Mails,
    Store,
)
from rrnode.errors import StorageFailed, Unreachable
from rrnode.host.base import FrameStream, Host, HostConfig
from rrnode.host.memory import MemoryHost
from rrnode.services import collecting
from rrnode.services.collecting import Collector
from rrnode.services.delivery import Deliveries, KeptAt, PayeeRefuses, Way
from rrnode.services.initialization import InitializationService
from rrnode.services.mailbox import Mailbox
from rrnode.storage.mails import MailLimits, MailStore

KEPT_FOR = 1000
CALM = HostConfig(heartbeat_every=1000, lost_after=3000)


@pytest.fixture
def leaping_clock() -> MockClock:
    return MockClock(autojump_threshold=0.02)


def sealed(number: int) -> bytes:
    return number.to_bytes(SEALED_SIZE, "big")


def digest(number: int) -> bytes:
    return hashlib.sha256(sealed(number)).digest()


class Node:
    """A host with the service; `mailbox` when it is a server, and what it took when it is a payee."""

    def __init__(self, net: Net, host: MemoryHost, store: MailStore | None = None) -> None:
        self.net, self.host = net, host
        self.servers: set[PeerId] = set()
        self.clients: set[PeerId] = set()
        self.taken: list[int] = []
        self.answer: tuple[int, str] = (0, "")
        self.missed: list[tuple[int, int]] = []
        self.collector = Collector(
            take=self.take_mail,
            keeps=lambda peer: True,
            missed=lambda peer, turned_away, expired: self.missed.append((turned_away, expired)),
            now=now,
        )
        self.service = InitializationService(
            host=host,
            take=self.take,
            attaches_to=self.servers.__contains__,
            hands_to=self.clients.__contains__,
            collector=self.collector,
            mailbox=Mailbox(store, now) if store is not None else None,
        )
        self.payers = 0
        self.deliveries = Deliveries(self.throw_away)

    async def take(self, what: bytes, sender: bytes) -> tuple[int, str]:
        if self.answer[0] == 0:
            self.taken.append(int.from_bytes(what, "big"))
        return self.answer

    async def take_mail(self, server: PeerId, mail: Mail, last: bool) -> tuple[int, str]:
        return await self.take(mail.sealed, b"")

    def throw_away(self) -> AbstractAsyncContextManager[Host]:
        self.payers += 1
        return self.identity(1000 + self.payers)

    @asynccontextmanager
    async def identity(self, number: int) -> Any:
        host = MemoryHost(number.to_bytes(32, "big"), network=self.net.network, genesis=GENESIS)
        async with host.running():
            yield host

    @property
    def address(self) -> str:
        return self.host.addresses()[0]


class Scene:
    """A server with a mailbox, a payee that is away, and a payer that is linked with nobody."""

    def __init__(self, net: Net, server: Node, payee: Node, payer: Node, store: MailStore) -> None:
        self.net, self.server, self.payee, self.payer, self.store = net, server, payee, payer, store
        self.name = payee.host.peer_id

    async def leave(self, number: int) -> Way | tuple[KeptAt, ...]:
        return await self.payer.deliveries.store(self.name, (self.server.address,), sealed(number))

    async def wake(self) -> None:
        self.net.spawn(self.payee.service)
        await self.net.link(self.payee.host, self.server.host)

    async def attached(self) -> FrameStream:
        """The payee's stream, in the test's own hands."""
        await self.net.link(self.payee.host, self.server.host)
        stream = await self.payee.host.open_stream(self.server.host.peer_id, PROTOCOL)
        assert await ask(stream, Attach()) == Attached()
        return stream


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MailStore]:
    opened = MailStore.open(
        tmp_path / "mail.sqlite", node_id=PeerId(b"\x02" * 33), network="regtest",
        limits=MailLimits(seconds=KEPT_FOR, per_payee=200),
    )  # fmt: skip
    yield opened
    opened.close()


@pytest.fixture
async def scene(net: Net, store: MailStore) -> Scene:
    server, payee, payer = [
        Node(net, await net.host(number, config=CALM), store if number == 0 else None) for number in range(3)
    ]
    server.clients.add(payee.host.peer_id)
    payee.servers.add(server.host.peer_id)
    net.spawn(server.service)
    return Scene(net, server, payee, payer, store)


async def ask(stream: FrameStream, message: Any) -> Any:
    await stream.send(CODEC.encode(message))
    with trio.fail_after(60):
        return CODEC.decode(await stream.receive())


async def until(condition: Any, within: float = 100.0) -> None:
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110 - on a clock that leaps a wait costs little
            await trio.sleep(0.1)


async def test_what_was_left_is_fetched_once_and_its_payer_is_told(leaping_clock: MockClock, scene: Scene) -> None:
    with pytest.raises(Unreachable, match="not connected to this server"):
        await scene.payer.deliveries.deliver(scene.name, (scene.server.address,), sealed(1))
    for _ in range(2):
        (kept,) = await scene.leave(1)
        assert kept.address == scene.server.address
        assert START + KEPT_FOR <= kept.until <= now() + KEPT_FOR
    assert await scene.payer.deliveries.inquire(scene.name, kept.address, sealed(1)) == Kept(kept.until)
    await scene.wake()
    await until(lambda: scene.store.waiting == 0)
    assert scene.payee.taken == [1]
    assert await scene.payer.deliveries.inquire(scene.name, kept.address, sealed(1)) == Delivered()
    unknown = Failed(DeliveryCode.NOT_KEPT, "nothing of the kind is kept here")
    assert await scene.payer.deliveries.inquire(scene.name, kept.address, sealed(2)) == unknown
    assert await scene.payer.deliveries.inquire(PeerId(b"\x02" * 33), kept.address, sealed(1)) == unknown
    assert scene.payee.missed == []


async def test_what_the_payee_answered_is_told_to_the_payer(leaping_clock: MockClock, scene: Scene) -> None:
    await scene.leave(1)
    scene.payee.answer = (DeliveryCode.REFUSED, "no such \x1brequest")
    await scene.wake()
    await until(lambda: scene.store.waiting == 0)
    told = await scene.payer.deliveries.inquire(scene.name, scene.server.address, sealed(1))
    assert told == Failed(DeliveryCode.REFUSED, "no such ·request")


async def test_what_cannot_be_taken_yet_is_left_and_tried_again_soon(leaping_clock: MockClock, scene: Scene) -> None:
    for number in (1, 2):
        await scene.leave(number)
    scene.payee.answer = (DeliveryCode.TOO_MANY, "no channel is up")
    await scene.wake()
    await until(lambda: scene.payee.collector.emptied != {})
    assert scene.store.waiting == 2
    assert scene.payee.collector.emptied[scene.server.host.peer_id].left == 2
    scene.payee.answer = (0, "")
    began = trio.current_time()
    await until(lambda: scene.store.waiting == 0)
    assert trio.current_time() - began < 3
    assert scene.payee.taken == [1, 2]


async def test_what_is_too_large_for_every_channel_is_left_for_a_while_and_then_no_longer_in_the_way(
    leaping_clock: MockClock, scene: Scene
) -> None:
    for number in (1, 2):
        scene.store.put(scene.name, sealed(number), "", now())
    scene.payee.answer = (DeliveryCode.TOO_LARGE, "no channel of the payee can take 21,000,000 sat now")
    await scene.wake()
    await until(lambda: scene.payee.collector.emptied != {})
    await trio.sleep(collecting.TOO_LARGE_FOR / 2)
    assert scene.store.waiting == 2
    await trio.sleep(collecting.TOO_LARGE_FOR / 2 + collecting.FETCH_EVERY)
    await until(lambda: scene.store.waiting == 0)
    told = await scene.payer.deliveries.inquire(scene.name, scene.server.address, sealed(1))
    assert told == Failed(*scene.payee.answer)


async def test_a_mailbox_of_many_pages_is_emptied_in_order(leaping_clock: MockClock, scene: Scene) -> None:
    count = 2 * MAX_MAILS + 5
    for number in range(count):
        scene.store.put(scene.name, sealed(number), str(number), now())
    await scene.wake()
    await until(lambda: scene.store.waiting == 0)
    assert scene.payee.taken == list(range(count))
    assert scene.payee.collector.emptied[scene.server.host.peer_id].taken == count


async def test_a_payee_is_told_what_found_no_room_and_what_it_never_fetched(
    leaping_clock: MockClock, scene: Scene
) -> None:
    for number in range(60):  # of one network, which has room for 50
        scene.store.put(scene.name, sealed(number), "10.0.0.0/16", now())
    with trio.fail_after(4 * 3600):
        while scene.store.waiting:  # noqa: ASYNC110 - it is cleared once an hour
            await trio.sleep(600)
    await scene.wake()
    await until(lambda: scene.payee.missed == [(10, 50)])
    emptied = scene.payee.collector.emptied[scene.server.host.peer_id]
    assert (emptied.turned_away, emptied.expired, emptied.taken) == (10, 50, 0)
    await trio.sleep(2 * collecting.FETCH_EVERY)
    assert scene.payee.missed == [(10, 50)], "once"


async def test_one_network_cannot_stuff_a_mailbox_and_is_told(leaping_clock: MockClock, scene: Scene) -> None:
    for number in range(50):
        scene.store.put(scene.name, sealed(number), "", now())  # as memory hosts, all of one network
    with pytest.raises(Unreachable, match="too many from your network"):
        await scene.leave(100)
    scene.store.put(scene.name, sealed(101), "10.1.0.0/16", now())
    assert scene.store.waiting == 51


async def test_a_payee_that_is_there_gets_it_at_once(leaping_clock: MockClock, scene: Scene) -> None:
    await scene.wake()
    await until(lambda: scene.payee.service.standing != set())
    assert await scene.leave(1) is Way.PASSED_DOWN
    assert (scene.payee.taken, scene.store.waiting) == ([1], 0)
    scene.payee.answer = (DeliveryCode.REFUSED, "paid already")
    with pytest.raises(PayeeRefuses, match="paid already"):
        await scene.leave(2)
    assert scene.store.waiting == 0


async def test_nobody_else_has_a_mailbox_here_or_reads_one(leaping_clock: MockClock, scene: Scene) -> None:
    await scene.leave(1)
    with pytest.raises(Unreachable, match="no mailbox for that payee"):
        await scene.payer.deliveries.store(PeerId(b"\x02" * 33), (scene.server.address,), sealed(1))
    stranger = await scene.net.host(5)
    await scene.net.link(stranger, scene.server.host)
    for message in (Fetch(0), Acknowledge((Answered(1, 0, ""),), 0, 0)):
        stream = await stranger.open_stream(scene.server.host.peer_id, PROTOCOL)
        await stream.send(CODEC.encode(message))
        await ended(stream)
    other = Node(scene.net, await scene.net.host(6))
    scene.server.clients.add(other.host.peer_id)
    await scene.net.link(other.host, scene.server.host)
    stream = await other.host.open_stream(scene.server.host.peer_id, PROTOCOL)
    assert await ask(stream, Attach()) == Attached()
    assert await ask(stream, Fetch(0)) == Mails((), False, 0, 0)
    assert await ask(stream, Acknowledge((Answered(1, 4, "mine"),), 9, 9)) == Acknowledged()
    assert scene.store.waiting == 1


async def test_a_server_without_a_mailbox_says_so(leaping_clock: MockClock, net: Net) -> None:
    server, payee = Node(net, await net.host(0)), Node(net, await net.host(1))
    server.clients.add(payee.host.peer_id)
    with pytest.raises(Unreachable, match="this server has no mailbox for that payee"):
        await payee.deliveries.store(payee.host.peer_id, (server.address,), sealed(1))
    await net.link(payee.host, server.host)
    stream = await payee.host.open_stream(server.host.peer_id, PROTOCOL)
    assert await ask(stream, Attach()) == Attached()
    assert await ask(stream, Fetch(0)) == Failed(DeliveryCode.NO_MAILBOX, "this server has no mailbox for that payee")
    curious = await net.host(5)
    await net.link(curious, server.host)
    stream = await curious.open_stream(server.host.peer_id, PROTOCOL)
    answer = await ask(stream, Inquire(payee.host.peer_id, digest(1)))
    assert answer.code == DeliveryCode.NO_MAILBOX


async def test_a_disk_that_fails_is_told_and_the_node_goes_on(
    leaping_clock: MockClock, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.leave(1)

    def broken(*_: Any) -> Any:
        raise StorageFailed("the disk is full")

    with monkeypatch.context() as patch:
        for name in ("put", "fetch", "acknowledge", "status"):
            patch.setattr(scene.store, name, broken)
        with pytest.raises(Unreachable, match="cannot write or read at the moment"):
            await scene.leave(2)
        await scene.wake()
        await until(lambda: scene.payee.collector.emptied != {})
        (emptied,) = scene.payee.collector.emptied.values()
        assert emptied.problem == "this mailbox cannot write or read at the moment"
    await until(lambda: scene.store.waiting == 0)
    assert scene.payee.taken == [1]
    assert scene.server.host.counters.handler_errors == 0


async def test_a_client_that_asks_too_fast_is_told_and_served_again_later(
    leaping_clock: MockClock, scene: Scene
) -> None:
    stream = await scene.attached()
    answers = [await ask(stream, Fetch(0)) for _ in range(130)]
    told = {each.code for each in answers if isinstance(each, Failed)}
    assert told == {DeliveryCode.TOO_MANY}
    await trio.sleep(30)
    assert isinstance(await ask(stream, Fetch(0)), Mails)


@pytest.mark.parametrize(
    "pages",
    [
        [Mails((Mail(5, 0, sealed(1)), Mail(5, 0, sealed(2))), False, 0, 0)],
        [Mails((Mail(5, 0, sealed(1)), Mail(4, 0, sealed(2))), False, 0, 0)],
        [Acknowledged()],
        [Mails((Mail(5, 0, sealed(1)),), False, 0, 0), Mails((), False, 0, 0)],
    ],
)
async def test_a_server_that_breaks_the_order_loses_its_stream(
    leaping_clock: MockClock, net: Net, pages: list[Any]
) -> None:
    payee, server = Node(net, await net.host(2)), await net.host(1)
    over = trio.Event()

    async def serve(stream: FrameStream) -> None:
        assert CODEC.decode(await stream.receive()) == Attach()
        await stream.send(CODEC.encode(Attached()))
        for page in pages:
            await stream.receive()
            await stream.send(CODEC.encode(page))
        await ended(stream)
        over.set()

    server.handle(PROTOCOL, serve)
    payee.servers.add(server.peer_id)
    net.spawn(payee.service)
    await net.link(payee.host, server)
    with trio.fail_after(60):
        await over.wait()
    assert payee.service.attachments.broken >= 1
    assert payee.host.counters.handler_errors == 0


async def test_a_server_with_endless_mail_is_left_alone_after_a_thousand(leaping_clock: MockClock, net: Net) -> None:
    payee, server = Node(net, await net.host(2)), await net.host(1)
    asked = 0

    async def serve(stream: FrameStream) -> None:
        nonlocal asked
        assert CODEC.decode(await stream.receive()) == Attach()
        await stream.send(CODEC.encode(Attached()))
        while True:
            match CODEC.decode(await stream.receive()):
                case Fetch(after=after):
                    asked += 1
                    mails = tuple(Mail(after + 1 + place, 0, sealed(after + place)) for place in range(MAX_MAILS))
                    await stream.send(CODEC.encode(Mails(mails, True, 0, 0)))
                case _:
                    await stream.send(CODEC.encode(Acknowledged()))

    server.handle(PROTOCOL, serve)
    payee.servers.add(server.peer_id)
    net.spawn(payee.service)
    await net.link(payee.host, server)
    await trio.sleep(collecting.FETCH_EVERY - 60)
    assert asked == collecting.MOST_PAGES


class Liar:
    """A server that answers each payer the same."""

    def __init__(self, host: MemoryHost, answer: Any) -> None:
        self.host, self.answer = host, answer
        self.asked: list[type] = []
        host.handle(PROTOCOL, self.serve)

    async def serve(self, stream: FrameStream) -> None:
        self.asked.append(type(CODEC.decode(await stream.receive())))
        await stream.send(CODEC.encode(self.answer))
        await ended(stream)


async def test_one_server_that_says_no_for_the_payee_does_not_keep_a_payment_from_it(
    leaping_clock: MockClock, scene: Scene
) -> None:
    liar = Liar(await scene.net.host(5), Failed(DeliveryCode.REFUSED, "the payee hates you"))
    servers = (liar.host.addresses()[0], scene.server.address)
    with pytest.raises(Unreachable, match="not connected") as caught:
        await scene.payer.deliveries.deliver(scene.name, servers, sealed(1))
    assert not isinstance(caught.value, PayeeRefuses)
    kept = await scene.payer.deliveries.store(scene.name, servers, sealed(1))
    assert [each.address for each in kept] == [scene.server.address]
    with pytest.raises(PayeeRefuses, match="hates you"):
        await scene.payer.deliveries.deliver(scene.name, servers[:1], sealed(1))


async def test_the_payee_itself_comes_first_and_has_the_last_word(leaping_clock: MockClock, scene: Scene) -> None:
    liar = Liar(await scene.net.host(5), Delivered())
    servers = (liar.host.addresses()[0], scene.payee.address)
    for _ in range(8):
        assert await scene.payer.deliveries.deliver(scene.name, servers, sealed(1)) is Way.DIRECT
    scene.payee.answer = (DeliveryCode.REFUSED, "paid already")
    with pytest.raises(PayeeRefuses, match=r"^paid already$"):
        await scene.payer.deliveries.deliver(scene.name, servers, sealed(1))
    assert liar.asked == []


async def test_what_is_no_answer_to_the_question_is_nonsense(leaping_clock: MockClock, scene: Scene) -> None:
    liar = Liar(await scene.net.host(5), Kept(START + 9))
    with pytest.raises(Unreachable, match="Kept as the answer to Deliver"):
        await scene.payer.deliveries.deliver(scene.name, liar.host.addresses(), sealed(1))
    liar.answer = Attached()
    with pytest.raises(Unreachable, match="Attached as the answer to Inquire"):
        await scene.payer.deliveries.inquire(scene.name, liar.host.addresses()[0], sealed(1))
    assert liar.asked == [Deliver, Inquire]


async def test_no_more_than_three_mailboxes_keep_the_same(leaping_clock: MockClock, scene: Scene) -> None:
    liars = [Liar(await scene.net.host(number), Kept(START + 9)) for number in range(5, 11)]
    addresses = [liar.host.addresses()[0] for liar in liars]
    assert len(await scene.payer.deliveries.store(scene.name, addresses, sealed(1))) == 3
    assert [kind for liar in liars for kind in liar.asked] == [Store] * 3
