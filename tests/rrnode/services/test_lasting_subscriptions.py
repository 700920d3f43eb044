"""Subscriptions that last: prefixes that the client chooses, several servers at once, filters that outlive a day, limits
that are told. The kit is that of `test_subscriptions.py`."""

import trio
from services_kit import START, Net, hash_, liquidity, now, offer, until
from test_subscriptions import Client, Clock, Scene, Server, both, carried, hear, scene

from protocols.ids import PaymentHash
from protocols.routing.config import RoutingConfig
from protocols.routing.engine import Engine
from protocols.routing.events import NeighbourUp, OfferArrived, OffersWanted, TimerFired
from protocols.routing.views import PrefixView
from protocols.units import UnixTime
from protocols.wire.routing import RoutingMessage
from protocols.wire.subscribe import Prefix, RefusalCode, Stop
from rrnode.host.memory import MemoryHost
from rrnode.services.subscriptions import SubscriptionClient, prefix_of

assert scene is not None  # a fixture

OURS, TWIN, ALIKE, OTHER = (PaymentHash(bytes.fromhex(begin) + bytes(30)) for begin in ("abcd", "abcd", "abc1", "ab00"))
TWIN = PaymentHash(TWIN[:31] + b"\x01")


def of(payment_hash: PaymentHash, amount: int = 800) -> RoutingMessage:
    plain = offer(1, amount)
    return RoutingMessage(
        payment_hash, plain.asset, plain.amount_msat, plain.lock_blocks, plain.hops_left, plain.ceiling_msat,
        plain.ceiling_asset, plain.expiry,
    )  # fmt: skip


async def with_prefixes(net: Net, bits: int) -> tuple[Server, Client]:
    server, client = Server(await net.host(1)), Client(await net.host(0))
    client.client = SubscriptionClient(
        host=client.host, tell=client.told.append, is_server=lambda peer: True, now=now, prefix_bits=bits
    )
    server.client(client.host.peer_id)
    net.spawn(client.client)
    await net.link(client.host, server.host)
    return server, client


def asked(server: Server) -> tuple[tuple[PaymentHash, ...], tuple[PrefixView, ...]]:
    """What the server knows of what its only subscriber looks for."""
    views = server.engine.subscribers()
    return (views[0].hashes, views[0].prefixes) if views else ((), ())


def test_a_prefix_is_the_first_bits_of_a_hash_and_zeros() -> None:
    full = PaymentHash(b"\xff" * 32)
    assert prefix_of(full, 8) == Prefix(8, b"\xff")
    assert prefix_of(full, 11) == Prefix(11, b"\xff\xe0")
    assert prefix_of(full, 64) == Prefix(64, b"\xff" * 8)


async def test_a_client_that_asks_by_prefix_shows_no_hash_and_takes_only_its_own(
    net: Net, autojump_clock: Clock
) -> None:
    server, client = await with_prefixes(net, 12)
    client.client.want(OURS, UnixTime(START + 600))
    await until(lambda: asked(server) == ((), (PrefixView(bits=12, value=b"\xab\xc0"),)))
    server.offered(of(OURS), of(ALIKE), of(OTHER))
    await until(lambda: client.offers() != [])
    await trio.sleep(2)
    assert client.offers() == [carried(of(OURS))]
    net.network.cut(client.host.peer_id, server.host.peer_id)
    await until(lambda: client.client.servers() == 0)
    await net.link(client.host, server.host)
    await until(lambda: asked(server) == ((), (PrefixView(bits=12, value=b"\xab\xc0"),)))


async def test_a_prefix_ends_with_the_last_hash_that_begins_with_it(net: Net, autojump_clock: Clock) -> None:
    server, client = await with_prefixes(net, 16)
    for each in (OURS, TWIN, OTHER):
        client.client.want(each, UnixTime(START + 600))
    both_known = (PrefixView(bits=16, value=b"\xab\xcd"), PrefixView(bits=16, value=b"\xab\x00"))
    await until(lambda: asked(server) == ((), both_known))
    client.client.forget(OURS)
    await trio.sleep(2)
    assert asked(server) == ((), both_known)
    server.offered(of(OURS), of(TWIN))
    await until(lambda: client.offers() == [carried(of(TWIN))])
    client.client.forget(TWIN)
    await until(lambda: asked(server) == ((), both_known[1:]))


async def test_a_prefix_lasts_as_long_as_any_hash_that_begins_with_it(net: Net, autojump_clock: Clock) -> None:
    server, client = await with_prefixes(net, 12)
    client.client.want(OURS, UnixTime(START + 3600))
    await until(lambda: asked(server)[1] != ())
    client.client.want(TWIN, UnixTime(START + 60))
    await trio.sleep(600)
    server.tell(TimerFired(now=now()))
    assert asked(server) == ((), (PrefixView(bits=12, value=b"\xab\xc0"),))


async def test_many_prefixes_are_asked_for_in_messages_that_fit(net: Net, autojump_clock: Clock) -> None:
    server, client = await with_prefixes(net, 16)
    for number in range(100):
        client.client.want(PaymentHash(number.to_bytes(2, "big") + bytes(30)), UnixTime(START + 600))
    await trio.sleep(1)
    net.network.cut(client.host.peer_id, server.host.peer_id)
    await until(lambda: asked(server) == ((), ()))
    await net.link(client.host, server.host)
    await until(lambda: len(asked(server)[1]) == 100)
    assert client.client.refusals == {}


async def test_a_filter_outlives_the_day_that_a_server_keeps_it(net: Net, autojump_clock: Clock) -> None:
    server, client = await both(net)
    client.client.want(hash_(1), UnixTime(START + 3 * 86_400))
    await trio.sleep(2.5 * 86_400)
    late = offer(1, 800, expiry=START + 4 * 86_400)
    server.tell(liquidity(client.host.peer_id, ours=0))
    server.tell(TimerFired(now=now()))  # what is over ends
    server.offered(late)
    await until(lambda: [each.amount_msat for each in client.offers()] == [810])


async def test_offers_of_several_servers_are_counted_once_each_however_often_they_are_pushed(
    net: Net, autojump_clock: Clock
) -> None:
    servers = [Server(await net.host(number)) for number in (1, 2)]
    host: MemoryHost = await net.host(0)
    engine = Engine(RoutingConfig(), host.peer_id)
    arrived: list[OfferArrived] = []

    def tell(event: object) -> None:
        arrived.extend(each for each in engine.handle(event) if isinstance(each, OfferArrived))  # type: ignore[arg-type]

    client = SubscriptionClient(host=host, tell=tell, is_server=lambda peer: True, now=now)
    net.spawn(client)
    for server in servers:
        server.client(host.peer_id)
        tell(liquidity(server.host.peer_id))
        tell(NeighbourUp(neighbour=server.host.peer_id, routes=True, now=now()))
        await net.link(host, server.host)
        server.offered(offer(1, 800))
    tell(OffersWanted(payment_hash=hash_(1), expiry=UnixTime(START + 600), now=now()))
    client.want(hash_(1), UnixTime(START + 600))
    await until(lambda: len(arrived) == 2)
    for server in servers:
        net.network.cut(host.peer_id, server.host.peer_id)
        await until(lambda: client.servers() == 1)
        await net.link(host, server.host)
        await until(lambda: client.servers() == 2)
    await trio.sleep(5)
    assert {each.neighbour for each in arrived} == {server.host.peer_id for server in servers}
    assert len(arrived) == 2


async def test_too_many_streams_are_told(scene: Scene, autojump_clock: Clock) -> None:
    told = []
    for _ in range(40):
        stream = await scene.stream()
        told.append(await hear(stream, 0.1))
    assert Stop(RefusalCode.TOO_FAST, "too many streams; wait some seconds") in told
