"""`/rr/subscribe/1` over memory hosts: a server with a real routing engine, our client, and peers that write what they
like."""

from typing import Any

import pytest
import trio
import trio.testing
from services_kit import START, Net, ended, hash_, liquidity, now, offer, until, within

from protocols.ids import PeerId
from protocols.routing.bundles import MAX_QUEUED
from protocols.routing.config import BudgetConfig, RoutingConfig
from protocols.routing.engine import Engine
from protocols.routing.events import (
    BundleReceived,
    NeighbourDown,
    NeighbourUp,
    PushOffers,
    RoutingEvent,
    Subscribed,
    SubscriptionAccepted,
    SubscriptionRefused,
)
from protocols.routing.pricing import FeePolicy
from protocols.units import BlockDelta, Msat, UnixTime
from protocols.wire.framing import Deframer, frame
from protocols.wire.routing import RoutingMessage
from protocols.wire.subscribe import (
    CODEC,
    MAX_FILTERS,
    PROTOCOL,
    Accepted,
    Answer,
    Follow,
    Offers,
    Query,
    RefusalCode,
    Refused,
    Stop,
    Subscribe,
    Unsubscribe,
)
from rrnode.host.base import FrameStream, HostConfig
from rrnode.host.memory import MemoryHost
from rrnode.services.subscriptions import MOST_ANSWERS, PAUSE, SubscriptionClient, SubscriptionServer

Clock = trio.testing.MockClock
SOURCE = PeerId(b"\x03" + b"s" * 32)  # a neighbour of the server whose offers it passes on; exists in its engine only
FAST = BudgetConfig(floor=10**6, most=10**6, requests=10**6)


class Server:
    """A routing server: its engine, its subscribers, and one source of offers."""

    def __init__(
        self, host: MemoryHost, *, most: int = 100, budget: BudgetConfig = FAST, max_filters: int = 1024
    ) -> None:
        self.host = host
        self.told: list[type] = []
        self.neighbours: set[PeerId] = set()
        config = RoutingConfig(
            fee=FeePolicy(base_msat=Msat(10), ppm=0), delta=BlockDelta(6), budget=budget, max_filters=max_filters,
            max_improvements=10**6,
        )  # fmt: skip
        self.engine = Engine(config, host.peer_id)
        self.server = SubscriptionServer(
            host=host,
            tell=self.tell,
            answer=self.engine.answer,
            now=now,
            most=most,
            is_neighbour=self.neighbours.__contains__,
        )
        self.tell(liquidity(SOURCE))
        self.tell(NeighbourUp(neighbour=SOURCE, routes=True, now=now()))

    def tell(self, event: RoutingEvent) -> None:
        self.told.append(type(event))
        for effect in self.engine.handle(event):
            if isinstance(effect, PushOffers | SubscriptionAccepted | SubscriptionRefused):
                self.server.perform(effect)

    def client(self, peer: PeerId, *, usable: bool = True) -> None:
        self.neighbours.add(peer)
        self.tell(liquidity(peer, ours=0, theirs=10**9 if usable else 0))

    def offered(self, *offers: RoutingMessage) -> None:
        self.tell(BundleReceived(neighbour=SOURCE, offers=offers, now=now()))


class Scene:
    """A server on host 1 and a peer with a channel on host 0."""

    def __init__(self, net: Net, server: Server, peer: MemoryHost) -> None:
        self.net, self.server, self.peer = net, server, peer

    async def stream(self) -> FrameStream:
        return await self.peer.open_stream(self.server.host.peer_id, PROTOCOL)


@pytest.fixture
async def scene(net: Net) -> Scene:
    made = Scene(net, Server(await net.host(1)), await net.host(0))
    made.server.client(made.peer.peer_id)
    await net.link(made.peer, made.server.host)
    return made


async def say(stream: FrameStream, *messages: Any) -> None:
    for message in messages:
        await stream.send(CODEC.encode(message))


async def hear(stream: FrameStream, seconds: float = 2.0) -> Any:
    frame = await within(seconds, stream.receive)
    return None if frame is None else CODEC.decode(frame)


def carried(message: RoutingMessage) -> RoutingMessage:
    """An offer as the server quotes it on."""
    return RoutingMessage(
        message.payment_hash, message.asset, message.amount_msat + 10, message.lock_blocks + 6, message.hops_left - 1,
        message.ceiling_msat, message.ceiling_asset, message.expiry,
    )  # fmt: skip


# --- the server -------------------------------------------------------------------------------------------------------


async def test_a_subscriber_is_told_the_best_so_far_and_then_each_cheaper_one(
    scene: Scene, autojump_clock: Clock
) -> None:
    scene.server.offered(offer(1, 900))
    scene.server.offered(offer(1, 800))
    stream = await scene.stream()
    await say(stream, Subscribe(7, (hash_(1), hash_(2)), (), 60))
    assert await hear(stream) == Accepted(7, 1022)
    assert await hear(stream) == Offers(1, (carried(offer(1, 800)),))
    for amount in (850, 700, 750, 600):
        scene.server.offered(offer(1, amount))
        await trio.sleep(0.1)
    scene.server.offered(offer(2, 5), offer(3, 5))
    heard = [await hear(stream) for _ in range(4)]
    assert heard == [
        Offers(2, (carried(offer(1, 700)),)),
        Offers(3, (carried(offer(1, 600)),)),
        Offers(4, (carried(offer(2, 5)),)),
        None,
    ]
    await say(stream, Unsubscribe(8, (hash_(1),), ()))
    assert await hear(stream) == Accepted(8, 1023)
    scene.server.offered(offer(1, 100))
    assert await hear(stream) is None


async def test_a_stranger_is_told_so_and_takes_nobodys_place(net: Net, autojump_clock: Clock) -> None:
    server = Server(await net.host(1), most=1)
    stranger, client = await net.host(0), await net.host(2)
    server.client(client.peer_id)
    for host in (stranger, client):
        await net.link(host, server.host)
    refused = await stranger.open_stream(server.host.peer_id, PROTOCOL)
    assert await hear(refused) == Stop(RefusalCode.NO_CHANNEL, "subscriptions are for channel neighbours")
    await ended(refused)
    stream = await client.open_stream(server.host.peer_id, PROTOCOL)
    await say(stream, Subscribe(1, (hash_(1),), (), 60))
    assert await hear(stream) == Accepted(1, 1023)
    assert len(server.server) == 1


async def test_one_client_too_many_is_told_so_and_one_that_is_there_may_come_again(
    net: Net, autojump_clock: Clock
) -> None:
    server = Server(await net.host(1), most=1)
    one, two = await net.host(0), await net.host(2)
    for host in (one, two):
        server.client(host.peer_id)
        await net.link(host, server.host)
    await one.open_stream(server.host.peer_id, PROTOCOL)
    await trio.sleep(0.1)
    refused = await two.open_stream(server.host.peer_id, PROTOCOL)
    assert isinstance(await hear(refused), Stop)
    await ended(refused)
    stream = await one.open_stream(server.host.peer_id, PROTOCOL)
    await say(stream, Subscribe(1, (hash_(1),), (), 60))
    assert await hear(stream) == Accepted(1, 1023)


async def test_a_channel_that_is_not_usable_yet_is_refused_by_request(net: Net, autojump_clock: Clock) -> None:
    server, client = Server(await net.host(1)), await net.host(0)
    server.client(client.peer_id, usable=False)
    await net.link(client, server.host)
    stream = await client.open_stream(server.host.peer_id, PROTOCOL)
    await say(stream, Subscribe(1, (hash_(1),), (), 60))
    refused = await hear(stream)
    assert (refused.request, refused.code) == (1, RefusalCode.NO_CHANNEL)


async def test_limits_are_told(net: Net, autojump_clock: Clock) -> None:
    server, client = Server(await net.host(1), max_filters=3, budget=BudgetConfig(requests=1)), await net.host(0)
    server.client(client.peer_id)
    await net.link(client, server.host)
    stream = await client.open_stream(server.host.peer_id, PROTOCOL)
    await say(stream, Subscribe(1, tuple(map(hash_, range(4))), (), 60))
    refused = await hear(stream)
    assert (refused.request, refused.code) == (1, RefusalCode.TOO_MANY_FILTERS)
    await say(stream, Subscribe(2, tuple(map(hash_, range(3))), (), 60), *[Subscribe(3, (), (), 60)] * 100)
    heard = [await hear(stream) for _ in range(101)]
    assert heard[0] == Accepted(2, 0)
    assert {each.code for each in heard[1:] if isinstance(each, Refused)} == {RefusalCode.TOO_FAST}


async def test_a_query_is_answered_once_and_too_many_are_refused(scene: Scene, autojump_clock: Clock) -> None:
    scene.server.offered(offer(1, 800))
    stream = await scene.stream()
    await say(stream, Query(5, (hash_(1), hash_(2))))
    assert await hear(stream) == Answer(5, (carried(offer(1, 800)),))
    began = trio.current_time()
    await say(stream, *[Query(6, (hash_(1),))] * 100)
    answers = [await hear(stream) for _ in range(100)]
    taken = trio.current_time() - began
    refused = [each for each in answers if isinstance(each, Refused)]
    assert {each.code for each in refused} == {RefusalCode.TOO_FAST}
    assert len(answers) - len(refused) <= 20 + 5 * taken
    assert taken >= PAUSE * (len(refused) - 1) > 0  # one who asks too fast is read no faster than that


async def test_the_full_feed_is_refused_and_the_stream_stands(scene: Scene, autojump_clock: Clock) -> None:
    stream = await scene.stream()
    await say(stream, Follow(9, 0), Subscribe(1, (hash_(1),), (), 60))
    refused = await hear(stream)
    assert (refused.request, refused.code) == (9, RefusalCode.NOT_LISTED)
    assert await hear(stream) == Accepted(1, 1023)


async def test_a_subscriber_that_does_not_read_waits_for_the_cheapest_per_hash_only(
    scene: Scene, autojump_clock: Clock
) -> None:
    raw = await scene.net.raw(scene.peer, scene.server.host.peer_id, PROTOCOL)
    for first in range(0, 1024, MAX_FILTERS):
        await raw.write(
            frame(CODEC.encode(Subscribe(1, tuple(map(hash_, range(first, first + MAX_FILTERS))), (), 600)))
        )
    await trio.sleep(0.1)
    for amount in range(10_000, 9_900, -1):
        scene.server.offered(*(offer(number, amount) for number in range(1024)))
        await trio.sleep(0.01)
    waiting = scene.server.server._subscribers[scene.peer.peer_id].offers
    assert 0 < len(waiting) <= 1024 < MAX_QUEUED
    deframer, heard = Deframer(), []
    with trio.move_on_after(5):
        while True:
            heard += [CODEC.decode(each) for each in deframer.feed(await raw.read())]
    offers = [each for message in heard if isinstance(message, Offers) for each in message.offers]
    assert {each.payment_hash: each.amount_msat for each in offers} == {hash_(n): 9_911 for n in range(1024)}
    assert len(offers) < 20 * 1024  # of 100 prices each


async def test_one_that_asks_without_reading_is_read_no_further(net: Net, autojump_clock: Clock) -> None:
    unbraked = HostConfig(peer_frames=10**9)  # it is the answers that stop it here, not the host
    scene = Scene(net, Server(await net.host(1, config=unbraked)), await net.host(0))
    scene.server.client(scene.peer.peer_id)
    await net.link(scene.peer, scene.server.host)
    raw = await scene.net.raw(scene.peer, scene.server.host.peer_id, PROTOCOL)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            if subscriber := scene.server.server._subscribers.get(scene.peer.peer_id):
                most = max(most, len(subscriber.answers))
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        request = frame(CODEC.encode(Subscribe(1, (hash_(1),), (), 600)))
        with trio.move_on_after(10) as gave_up:
            for _ in range(2000):
                await raw.write(request * 100)
        nursery.cancel_scope.cancel()
    assert gave_up.cancelled_caught  # back-pressure reaches the peer
    assert 0 < most <= MOST_ANSWERS


async def test_a_newer_stream_of_a_subscriber_begins_without_the_filters_of_the_older(
    scene: Scene, autojump_clock: Clock
) -> None:
    older = await scene.stream()
    await say(older, Subscribe(1, (hash_(1),), (), 60))
    assert await hear(older) == Accepted(1, 1023)
    newer = await scene.stream()
    await ended(older)
    await say(newer, Subscribe(1, (hash_(2),), (), 60))
    assert await hear(newer) == Accepted(1, 1023)
    scene.server.offered(offer(1), offer(2))
    assert await hear(newer) == Offers(1, (carried(offer(2)),))
    newer.reset()
    await trio.sleep(0.1)
    assert (len(scene.server.server), scene.server.engine.subscribers()) == (0, ())


async def test_a_message_of_the_server_out_of_a_client_ends_the_stream(scene: Scene, autojump_clock: Clock) -> None:
    stream = await scene.stream()
    await say(stream, Accepted(1, 1))
    await ended(stream)
    assert scene.server.host.counters.bad_messages == 1
    assert len(scene.server.server) == 0


async def test_streams_one_after_another_are_refused_before_anything_is_made(
    scene: Scene, autojump_clock: Clock
) -> None:
    for _ in range(100):
        await say(await scene.stream(), Subscribe(1, (hash_(1),), (), 60))
        await trio.sleep(0.03)
    assert 20 <= scene.server.told.count(Subscribed) <= 25
    assert len(scene.server.server) <= 1


# --- the client -------------------------------------------------------------------------------------------------------


class Client:
    """Our side: what it tells its routing engine."""

    def __init__(self, host: MemoryHost) -> None:
        self.host = host
        self.told: list[Any] = []
        self.client = SubscriptionClient(host=host, tell=self.told.append, is_server=lambda peer: True, now=now)

    def offers(self) -> list[RoutingMessage]:
        return [each for event in self.told for each in event.offers]


async def both(net: Net, *, usable: bool = True, **limits: Any) -> tuple[Server, Client]:
    server, client = Server(await net.host(1), **limits), Client(await net.host(0))
    server.client(client.host.peer_id, usable=usable)
    net.spawn(client.client)
    await net.link(client.host, server.host)
    return server, client


async def test_what_is_wanted_is_subscribed_at_once_and_again_after_every_reconnect(
    net: Net, autojump_clock: Clock
) -> None:
    server, client = await both(net)
    await until(lambda: client.client.servers() == 1)
    server.offered(offer(1, 800))
    client.client.want(hash_(1), UnixTime(START + 600))
    await until(lambda: client.offers() == [carried(offer(1, 800))])
    assert client.told[0].neighbour == server.host.peer_id
    for amount in (700, 600):
        net.network.cut(client.host.peer_id, server.host.peer_id)
        await until(lambda: client.client.servers() == 0)
        server.offered(offer(1, amount))  # while nobody is subscribed
        await net.link(client.host, server.host)
        await until(lambda amount=amount: client.offers()[-1] == carried(offer(1, amount)))  # type: ignore[misc]
    client.client.forget(hash_(1))
    await until(lambda: server.engine.subscribers() == ())
    count = len(client.told)
    server.offered(offer(1, 10))
    await trio.sleep(5)
    assert len(client.told) == count


async def test_a_refusal_while_the_channel_is_not_re_established_is_asked_for_again(
    net: Net, autojump_clock: Clock
) -> None:
    server, client = await both(net, usable=False)
    client.client.want(hash_(1), UnixTime(START + 600))
    await trio.sleep(3)
    assert client.client.refusals == {server.host.peer_id: "quotes are priced for channel neighbours only"}
    server.client(client.host.peer_id)
    server.offered(offer(1, 800))
    await until(lambda: client.offers() == [carried(offer(1, 800))], within=10)
    assert client.client.refusals == {}


async def test_a_subscription_outlives_the_routing_stream(net: Net, autojump_clock: Clock) -> None:
    server, client = await both(net)
    server.tell(NeighbourUp(neighbour=client.host.peer_id, routes=False, now=now()))
    client.client.want(hash_(1), UnixTime(START + 600))
    await until(lambda: len(server.engine.subscribers()) == 1)
    server.tell(NeighbourDown(neighbour=client.host.peer_id, now=now()))  # replaced by a newer one
    server.offered(offer(1, 800))
    await until(lambda: client.offers() == [carried(offer(1, 800))])


async def test_any_number_of_hashes_is_asked_for_in_messages_that_fit(net: Net, autojump_clock: Clock) -> None:
    server, client = await both(net)
    for number in range(900):
        client.client.want(hash_(number), UnixTime(START + 600))
    await trio.sleep(1)
    net.network.cut(client.host.peer_id, server.host.peer_id)
    await trio.sleep(1)
    await net.link(client.host, server.host)
    await until(lambda: client.client.servers() == 1)
    await trio.sleep(1)
    (view,) = server.engine.subscribers()
    assert len(view.hashes) == 900


async def test_what_has_expired_is_not_asked_for_again(net: Net, autojump_clock: Clock) -> None:
    server, client = await both(net)
    client.client.want(hash_(1), UnixTime(START + 10))
    client.client.want(hash_(2), UnixTime(START + 600))
    await trio.sleep(20)
    net.network.cut(client.host.peer_id, server.host.peer_id)
    await trio.sleep(1)
    await net.link(client.host, server.host)
    await until(lambda: any(view.hashes == (hash_(2),) for view in server.engine.subscribers()))


@pytest.mark.parametrize(
    "nonsense", [Accepted(77, 1), Refused(77, 1, "no"), Answer(1, ()), Subscribe(1, (), (), 1), Follow(1, 0)]
)
async def test_a_server_that_talks_nonsense_is_left_and_tried_again_later(
    net: Net, autojump_clock: Clock, nonsense: Any
) -> None:
    host, client = await net.host(1), Client(await net.host(0))
    streams = 0

    async def serve(stream: FrameStream) -> None:
        nonlocal streams
        streams += 1
        await say(stream, nonsense)
        await ended(stream)

    host.handle(PROTOCOL, serve)
    net.spawn(client.client)
    client.client.want(hash_(1), UnixTime(START + 600))
    await net.link(client.host, host)
    await trio.sleep(20)
    assert 3 <= streams <= 7
    assert client.client.sessions.broken == streams
    assert client.told == []


async def test_a_server_that_never_answers_is_not_remembered_for_ever(net: Net, autojump_clock: Clock) -> None:
    host, client = await net.host(1, config=HostConfig()), Client(await net.host(0))
    host.handle(PROTOCOL, ended)
    net.spawn(client.client)
    await net.link(client.host, host)
    await until(lambda: client.client.servers() == 1)
    for number in range(2000):
        client.client.want(hash_(number % 7), UnixTime(START + 600))
        client.client.forget(hash_(number % 7))
        await trio.sleep(0.05)
        assert all(len(held.asked) <= 1025 for held in client.client._held.values())
