"""Following the full feed over memory hosts: listed keys only, every bundle once, and on again after a break."""

import pytest
import trio.testing
from services_kit import Net, hash_, liquidity, now, offer, until

from protocols.ids import PeerId
from protocols.routing.config import RoutingConfig
from protocols.routing.engine import Engine
from protocols.routing.events import BundleReceived, FeedOffers, NeighbourUp
from protocols.routing.feed import MOST_KEPT
from protocols.wire.routing import MAX_BUNDLE, RoutingMessage
from protocols.wire.subscribe import CODEC, PROTOCOL, Follow, Following, RefusalCode, Refused, Subscribe
from rrnode.host.memory import MemoryHost
from rrnode.services.feed import FROM_NOW, FeedFollower
from rrnode.services.subscriptions import SubscriptionServer

Clock = trio.testing.MockClock
SOURCE = PeerId(b"\x03" + b"s" * 32)


class Scene:
    """A server whose engine hears offers from one source, and a follower that its owner listed."""

    def __init__(self, net: Net, server: MemoryHost, follower: MemoryHost, first: int) -> None:
        self.net, self.server_host, self.follower_host = net, server, follower
        self.engine = Engine(RoutingConfig(feeds=True), server.peer_id)
        self.server = SubscriptionServer(
            host=server,
            tell=lambda event: None,
            answer=self.engine.answer,
            now=now,
            most=10,
            is_neighbour=lambda peer: False,
            followers=frozenset({follower.peer_id}),
            first_number=first,
        )
        self.engine.handle(liquidity(SOURCE))
        self.engine.handle(NeighbourUp(neighbour=SOURCE, routes=True, now=now()))
        self.taken: list[RoutingMessage] = []

    def offered(self, *offers: RoutingMessage) -> None:
        for effect in self.engine.handle(BundleReceived(neighbour=SOURCE, offers=offers, now=now())):
            if isinstance(effect, FeedOffers):
                self.server.perform(effect)

    def follow(self, from_number: int = 0) -> FeedFollower:
        made = FeedFollower(
            host=self.follower_host, server=self.server_host.peer_id, take=self.taken.extend, from_number=from_number
        )
        self.net.spawn(made)
        return made


@pytest.fixture
async def scene(net: Net) -> Scene:
    made = Scene(net, await net.host(1), await net.host(0), first=1000)
    await net.link(made.follower_host, made.server_host)
    return made


async def test_a_follower_is_told_everything_from_the_oldest_on(scene: Scene, autojump_clock: Clock) -> None:
    scene.offered(offer(1), offer(2))
    follower = scene.follow()
    await until(lambda: len(scene.taken) == 2)
    scene.offered(offer(1, 900))
    await until(lambda: len(scene.taken) == 3)
    assert scene.taken == [offer(1), offer(2), offer(1, 900)]
    assert (follower.next, follower.gaps, follower.problem) == (1002, 0, "")


async def test_one_who_wants_the_news_only_is_told_nothing_old(scene: Scene, autojump_clock: Clock) -> None:
    scene.offered(offer(1))
    follower = scene.follow(FROM_NOW)
    await until(lambda: follower.next == 1001)
    scene.offered(offer(2))
    await until(lambda: bool(scene.taken))
    assert scene.taken == [offer(2)]
    assert follower.gaps == 0


async def test_after_a_break_it_goes_on_where_it_was(scene: Scene, autojump_clock: Clock) -> None:
    scene.offered(offer(1))
    follower = scene.follow()
    await until(lambda: len(scene.taken) == 1)
    await scene.follower_host.disconnect(scene.server_host.peer_id, "a break")
    scene.offered(offer(2))
    scene.offered(offer(3))
    await scene.net.link(scene.follower_host, scene.server_host)
    await until(lambda: len(scene.taken) == 3)
    assert scene.taken == [offer(1), offer(2), offer(3)]
    assert follower.gaps == 0


async def test_what_was_gone_before_it_came_back_shows_as_a_gap(scene: Scene, autojump_clock: Clock) -> None:
    scene.offered(offer(1))
    follower = scene.follow()
    await until(lambda: len(scene.taken) == 1)
    await scene.follower_host.disconnect(scene.server_host.peer_id, "a break")
    for start in range(0, MOST_KEPT + MAX_BUNDLE, MAX_BUNDLE):
        scene.server.perform(FeedOffers(offers=tuple(offer(start + each, 5) for each in range(MAX_BUNDLE))))
    await scene.net.link(scene.follower_host, scene.server_host)
    await until(lambda: len(scene.taken) > MOST_KEPT - MAX_BUNDLE)
    await until(lambda: follower.next == scene.server._feed.next)
    assert follower.gaps == 1
    assert len(scene.taken) - 1 <= MOST_KEPT


async def test_a_key_that_is_not_listed_is_refused_and_its_owner_is_told(net: Net, autojump_clock: Clock) -> None:
    scene = Scene(net, await net.host(1), await net.host(0), first=1)
    stranger = await net.host(2)
    await net.link(stranger, scene.server_host)
    follower = FeedFollower(host=stranger, server=scene.server_host.peer_id, take=scene.taken.extend)
    net.spawn(follower)
    await until(lambda: bool(follower.problem))
    scene.offered(offer(1))
    assert follower.problem == "subscriptions are for channel neighbours"
    assert scene.taken == []


async def test_a_stream_follows_once_and_a_follower_without_a_channel_gets_no_quotes(
    scene: Scene, autojump_clock: Clock
) -> None:
    scene.server._tell = lambda event: [
        scene.server.perform(each) for each in scene.engine.handle(event) if hasattr(each, "request")
    ]
    stream = await scene.follower_host.open_stream(scene.server_host.peer_id, PROTOCOL)
    for message in (Follow(1, 0), Follow(2, 0), Subscribe(3, (hash_(1),), (), 60)):
        await stream.send(CODEC.encode(message))
    answers = [CODEC.decode(await stream.receive()) for _ in range(3)]
    assert answers[0] == Following(1, 1000)
    assert answers[1] == Refused(2, RefusalCode.BAD_REQUEST, "this stream follows already")
    assert isinstance(answers[2], Refused)
    assert answers[2].code == RefusalCode.NO_CHANNEL
