"""One process of the crowd bench: `python -m tools.bench.crowd_worker serve|clients ours|raw '<json>'`.

`serve` is a routing server as `rrnode.node` makes it, less channels: host, routing engine, subscriptions; one neighbour's
offers come by order. `clients` are many clients, each a host of its own with its own key and one exact hash. `raw` does the
same with bare py-libp2p, whose limits are raised. Orders and answers are lines of JSON; times are `time.monotonic()`,
which all processes of a machine share.
"""

import gc
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
import trio

from protocols.ids import PaymentHash, PeerId
from protocols.routing.config import BudgetConfig, RoutingConfig
from protocols.routing.engine import Engine
from protocols.routing.events import BundleReceived, Liquidity, LiquidityChanged, NeighbourUp, RoutingEvent, Subscribed
from protocols.units import MAX_MSAT, AssetId, UnixTime
from protocols.wire.routing import RoutingMessage
from protocols.wire.subscribe import CODEC, PROTOCOL, Offers, Query, Subscribe
from rrnode.errors import LinkClosed, Unreachable
from rrnode.host.base import FrameStream, HostConfig
from rrnode.host.libp2p import LibP2PHost
from rrnode.services.feed import FeedFollower
from rrnode.services.routing import RoutingService
from rrnode.services.subscriptions import SubscriptionServer
from tools.bench.table import resident_bytes

GENESIS = bytes(32)
COIN = AssetId(GENESIS)
SOURCE = PeerId(b"\x03" + b"s" * 32)  # the neighbour whose offers come by order; no link stands behind it
MOST = 20_000
ATTEMPTS = 3  # to get in, of each client: in a crowd of thousands some meet a deadline
RAW_PROTOCOL = "/bench/crowd/1"
RAW_SIZE = 250  # bytes of one push: about what an encrypted frame with one offer takes
UNBRAKED = BudgetConfig(floor=10**9, most=10**9, requests=10**6)


def hash_of(number: int) -> PaymentHash:
    """The one hash of a client."""
    return PaymentHash(hashlib.sha256(b"crowd%d" % number).digest())


def secret_of(number: int) -> bytes:
    """The key of a client."""
    return hashlib.sha256(b"key%d" % number).digest()


EDGE = secret_of(-2)  # under which a second shard follows the first


def unix_now() -> UnixTime:
    """Unix time, whole seconds."""
    return UnixTime(int(time.time()))


class OurServer:
    """The product's parts. With `follow` it is a second shard: its offers are the first one's feed."""

    def __init__(self, order: dict[str, Any]) -> None:
        follow, followers = order.get("follow", ""), order.get("followers", [])
        wide: dict[str, Any] = {"max_connections": MOST, "max_per_address": MOST, "listen_backlog": 4096}
        config = HostConfig(share_port=bool(order.get("share")), **wide)
        # A second address, for shards: behind the shared one they might meet themselves.
        listen = (order["listen"], "/ip4/127.0.0.1/tcp/0")
        self.host = LibP2PHost(secret_of(-1), genesis=GENESIS, switches=1, listen=listen, config=config)
        self.engine = Engine(RoutingConfig(budget=UNBRAKED, max_improvements=10**6, feeds=True), self.host.peer_id)
        self.routing = RoutingService(
            host=self.host,
            engine=self.engine,
            epoch=os.urandom(16),
            routes=True,
            now=unix_now,
            is_neighbour=lambda peer: False,
            subscriptions=lambda effect: self.subscriptions.perform(effect),
            offer_arrived=lambda arrived: None,
        )
        self.subscriptions = SubscriptionServer(
            host=self.host,
            tell=self._tell,
            answer=self.engine.answer,
            now=unix_now,
            most=MOST,
            followers=frozenset(PeerId(bytes.fromhex(each)) for each in followers),
        )
        self._known: set[PeerId] = set()
        self._may(SOURCE)
        self.routing.tell(NeighbourUp(neighbour=SOURCE, routes=True, now=unix_now()))
        self._follow = follow
        # A shard dials the first one under a key of its own: the one that both share is for clients.
        self._edge = LibP2PHost(EDGE, genesis=GENESIS) if follow else None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve."""
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            await stack.enter_async_context(self.host.running())
            if self._edge is not None:
                await stack.enter_async_context(self._edge.running())
                first = await self._edge.dial(self._follow)
                nursery.start_soon(FeedFollower(host=self._edge, server=first, take=self._take).run)
            yield
            nursery.cancel_scope.cancel()

    def _take(self, offers: tuple[RoutingMessage, ...]) -> None:
        self.routing.tell(BundleReceived(neighbour=SOURCE, offers=offers, now=unix_now()))

    def _may(self, peer: PeerId) -> None:
        all_of_it = (Liquidity(asset=COIN, ours=MAX_MSAT, theirs=MAX_MSAT),)
        self.routing.tell(LiquidityChanged(neighbour=peer, liquidity=all_of_it, now=unix_now()))

    def _tell(self, event: RoutingEvent) -> None:
        if isinstance(event, Subscribed) and event.subscriber not in self._known:
            self._known.add(event.subscriber)
            self._may(event.subscriber)  # as if it had a channel with plenty
        self.routing.tell(event)

    async def push(self, number: int, amount: int) -> None:
        """An offer arrives that one client asked for."""
        expiry = unix_now() + 900
        self._take((RoutingMessage(hash_of(number), COIN, amount, 10, 5, MAX_MSAT, COIN, expiry),))

    def addresses(self) -> list[str]:
        return list(self.host.addresses())

    def clients(self) -> int:
        return len(self.subscriptions)


class OurClients:
    """Clients with our host, each with one exact hash at the server."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._numbers = range(order["first"], order["first"] + order["count"])
        self._hosts = {number: LibP2PHost(secret_of(number), genesis=GENESIS) for number in self._numbers}
        self.received: dict[int, float] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold the hosts; nobody is linked yet."""
        async with AsyncExitStack() as stack, trio.open_nursery() as self._nursery:
            for host in self._hosts.values():
                await stack.enter_async_context(host.running())
            yield
            self._nursery.cancel_scope.cancel()

    async def join(self, number: int, address: str) -> None:
        """Raises Unreachable, LinkClosed."""
        host = self._hosts[number]
        server = await host.dial(address)
        stream = await host.open_stream(server, PROTOCOL)
        await stream.send(CODEC.encode(Subscribe(1, (hash_of(number),), (), 86_400)))
        await stream.receive()  # Accepted
        self._nursery.start_soon(self._listen, number, stream)

    async def _listen(self, number: int, stream: FrameStream) -> None:
        try:
            while True:
                if isinstance(CODEC.decode(await stream.receive()), Offers):
                    self.received[number] = time.monotonic()
        except LinkClosed:
            return

    async def flood(self, address: str, seconds: float) -> int:
        """One client more, which asks as fast as its link takes it; how often it asked."""
        host = LibP2PHost(secret_of(-3), genesis=GENESIS)
        asked = 0
        async with host.running(), trio.open_nursery() as nursery:
            stream = await host.open_stream(await host.dial(address), PROTOCOL)
            nursery.start_soon(self._drain, stream)
            hashes = tuple(hash_of(-number) for number in range(1, 200))
            with trio.move_on_after(seconds):
                while True:
                    await stream.send(CODEC.encode(Query(asked, hashes)))
                    asked += 1
            nursery.cancel_scope.cancel()
        return asked

    @staticmethod
    async def _drain(stream: FrameStream) -> None:
        try:
            while True:
                await stream.receive()
        except LinkClosed:
            return


class RawServer:
    """Bare py-libp2p: a stream per client, and a write to the one that an order names."""

    def __init__(self, order: dict[str, Any]) -> None:
        from libp2p.custom_types import TProtocol

        self._listen = order["listen"]
        self.host: Any = _raw_host(secret_of(-1), MOST)
        self._streams: dict[int, Any] = {}
        self.host.set_stream_handler(TProtocol(RAW_PROTOCOL), self._serve)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        from multiaddr import Multiaddr

        async with self.host.run([Multiaddr(self._listen)]):
            yield

    async def _serve(self, stream: Any) -> None:
        number = -1
        try:
            number = int.from_bytes(await stream.read(8), "big")
            self._streams[number] = stream
            await stream.write(bytes(8))
            while await stream.read(64):
                pass
        except Exception:  # noqa: BLE001 - any would end the whole host
            pass
        finally:
            if self._streams.get(number) is stream:
                del self._streams[number]

    async def push(self, number: int, amount: int) -> None:
        await self._streams[number].write(amount.to_bytes(8, "big") + bytes(RAW_SIZE - 8))

    def addresses(self) -> list[str]:
        return [str(self.host.get_addrs()[0])]

    def clients(self) -> int:
        return len(self._streams)


class RawClients:
    """As many bare hosts."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._hosts: dict[int, Any] = {
            number: _raw_host(secret_of(number), 100)
            for number in range(order["first"], order["first"] + order["count"])
        }
        self.received: dict[int, float] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack, trio.open_nursery() as self._nursery:
            for host in self._hosts.values():
                await stack.enter_async_context(host.run([]))
            yield
            self._nursery.cancel_scope.cancel()

    async def join(self, number: int, address: str) -> None:
        from libp2p.custom_types import TProtocol
        from libp2p.peer.peerinfo import info_from_p2p_addr
        from multiaddr import Multiaddr

        info = info_from_p2p_addr(Multiaddr(address))
        host = self._hosts[number]
        await host.get_network().dial_addr(info.addrs[0], info.peer_id)
        stream = await host.new_stream(info.peer_id, [TProtocol(RAW_PROTOCOL)])
        await stream.write(number.to_bytes(8, "big"))
        await stream.read(8)
        self._nursery.start_soon(self._listen, number, stream)

    async def _listen(self, number: int, stream: Any) -> None:
        try:
            while await stream.read(RAW_SIZE):
                self.received[number] = time.monotonic()
        except Exception:  # noqa: BLE001 - its end has many names
            return


def _raw_host(secret: bytes, most: int) -> Any:
    from libp2p import new_host
    from libp2p.crypto.secp256k1 import create_new_key_pair
    from libp2p.network.auto_connector import AutoConnector
    from libp2p.network.config import ConnectionConfig
    from libp2p.peer.peerstore import PeerStore

    async def nobody(_self: Any) -> None:
        return

    AutoConnector.maybe_connect = nobody  # or it dials whatever peers advertise
    host: Any = new_host(
        key_pair=create_new_key_pair(secret),
        peerstore_opt=PeerStore(max_records=10**6, max_peers=10**6),
        connection_config=ConnectionConfig(
            max_connections=most, min_connections=0, low_watermark=0, high_watermark=most, inbound_upgrade_timeout=60.0
        ),
    )
    host.get_network().set_resource_manager(None)
    return host


# --- orders -----------------------------------------------------------------------------------------------------------


async def _serving(server: "OurServer | RawServer", order: dict[str, Any]) -> Any:
    match order["do"]:
        case "hello":
            return server.addresses()
        case "stats":
            gc.collect()
            return {"rss": resident_bytes(), "cpu": time.process_time(), "clients": server.clients()}
        case "idle":
            before, began = time.process_time(), time.monotonic()
            await trio.sleep(order["seconds"])
            return (time.process_time() - before) / (time.monotonic() - began)
        case "push":
            sent = {}
            for number in order["numbers"]:
                sent[number] = time.monotonic()
                await server.push(number, order["amount"])
                await trio.sleep(order["pause"])
            return sent
    raise ValueError(order["do"])


async def _being_clients(clients: "OurClients | RawClients", order: dict[str, Any]) -> Any:
    match order["do"]:
        case "join":
            began, failed = time.monotonic(), []
            limit = trio.CapacityLimiter(order["at_once"])

            async def join(number: int) -> None:
                async with limit:
                    for attempt in range(1, ATTEMPTS + 1):
                        try:
                            with trio.fail_after(60):
                                await clients.join(number, order["address"])
                                return
                        except (Unreachable, LinkClosed, trio.TooSlowError, OSError) as error:
                            reason = str(error)
                        except Exception as error:  # noqa: BLE001 - bare libp2p has many
                            reason = repr(error)
                        if attempt == ATTEMPTS:
                            failed.append(reason)

            async with trio.open_nursery() as nursery:
                for number in clients._hosts:
                    nursery.start_soon(join, number)
            return {"failed": len(failed), "why": failed[:3], "seconds": time.monotonic() - began}
        case "received":
            return {number: clients.received.pop(number) for number in list(clients.received)}
        case "flood":
            assert isinstance(clients, OurClients)
            return await clients.flood(order["address"], order["seconds"])
    raise ValueError(order["do"])


async def main(role: str, kind: str, text: str) -> None:
    """Take orders until standard input ends."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    made: Any = {
        ("serve", "ours"): OurServer,
        ("serve", "raw"): RawServer,
        ("clients", "ours"): OurClients,
        ("clients", "raw"): RawClients,
    }[role, kind](json.loads(text))
    take: Any = _serving if role == "serve" else _being_clients
    async with made.running():
        async for order in _orders():
            try:
                answer = {"answer": await take(made, order)}
            except Exception as error:  # noqa: BLE001 - the bench is told
                answer = {"error": repr(error)}
            print(json.dumps(answer), flush=True)
        os._exit(0)  # thousands of polite goodbyes measure nothing


async def _orders() -> AsyncIterator[dict[str, Any]]:
    rest = b""
    stream = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    while data := await stream.receive_some():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
