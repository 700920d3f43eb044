"""One whole node for the bench, `python -m tools.bench.node_worker '<json>'`: real engine, store, wallet, host, services.

It reads one JSON order a line and writes one JSON answer a line until its standard input ends. It differs from
`rrnode start` in three things: no control API and no guard beside it, and budgets that do not brake (the work is
measured, not the brake). Times are `time.monotonic()`, which all processes of a machine share.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import trio

from bootstrap.networks import REGTEST
from protocols.channel.state import is_usable
from protocols.ids import PaymentHash, Preimage
from protocols.onchain import ec
from protocols.payment.events import Kind, LockRequested, PayRequested, PromiseMade
from protocols.payment.payee import flood_of, lock_blocks
from protocols.routing.bundles import MAX_QUEUED
from protocols.routing.config import BudgetConfig, RoutingConfig
from protocols.routing.events import FloodRequested, OfferArrived, OffersNoLongerWanted, OffersWanted
from protocols.units import Amount, BlockDelta, Msat, UnixTime
from rrnode.chain.configured import backend_of
from rrnode.config.settings import (
    ChainSettings,
    ChannelSettings,
    FeeSettings,
    HostSettings,
    LockSettings,
    RoleSettings,
    Settings,
)
from rrnode.control import models as m
from rrnode.control.text import peer_text
from rrnode.host.base import Host
from rrnode.keys import KeyTree, new_words
from rrnode.node import Node
from rrnode.owner import Owner
from rrnode.parts import Parts
from rrnode.start import SWITCH_INTERVAL, host_of, throw_away_host
from rrnode.storage import Store
from rrnode.wallet import Wallet
from tools.bench.table import resident_bytes

LIVES = 900  # seconds that what is made here may be used
PATIENCE = 90.0  # seconds for one order


class Unbraked(Settings):
    """Settings with budgets that never brake."""

    def routing_config(self) -> RoutingConfig:
        """As ever, but with room for everything."""
        budget = BudgetConfig(floor=10**9, most=10**9, requests=10**6)
        return replace(super().routing_config(), budget=budget, max_floods=10**6, max_wanted=10**6)


def settings_of(order: dict[str, Any]) -> Settings:
    """The settings of one node: `dir`, `routes`, `chain` (url), `cookie`, `fees` of neighbours."""
    return Unbraked(
        data_dir=Path(order["dir"]),
        roles=RoleSettings(route=order["routes"]),
        host=HostSettings(listen=("/ip4/127.0.0.1/tcp/0",) if order["routes"] else ()),
        chain=ChainSettings(kind="bitcoind", url=order["chain"], cookie_file=order["cookie"], poll_seconds=0.5),
        fees=FeeSettings(neighbours=tuple(order.get("fees", ()))),
        locks=LockSettings(lock_delta=BlockDelta(order.get("delta", 6)), final_lock=BlockDelta(9)),
        channels=ChannelSettings(
            to_self_delay=BlockDelta(6), funding_depth=1, settle_margin=BlockDelta(1), timeout_grace=BlockDelta(1)
        ),
    )


class Worker:
    """The node and what the bench asks of it. Each public coroutine is an order."""

    def __init__(self, node: Node) -> None:
        self.node, self.owner = node, Owner(node)
        self.counts = {"sign": 0, "verify": 0, "commits": 0}
        self.commit_seconds = self.commit_cpu = 0.0
        self.sent_at = 0.0
        self.offers: list[tuple[float, int]] = []
        self._count()

    def _count(self) -> None:
        sign, verify, commit = ec.sign, ec.verify, self.node.store.commit

        def counted_sign(secret: bytes, digest: bytes) -> bytes:
            self.counts["sign"] += 1
            return sign(secret, digest)

        def counted_verify(public_key: bytes, digest: bytes, signature: bytes) -> bool:
            self.counts["verify"] += 1
            return verify(public_key, digest, signature)

        def counted_commit(*arguments: Any, **options: Any) -> None:
            begun, worked = time.perf_counter(), time.thread_time()
            commit(*arguments, **options)
            self.counts["commits"] += 1
            self.commit_cpu += time.thread_time() - worked
            self.commit_seconds += time.perf_counter() - begun

        ec.sign, ec.verify = counted_sign, counted_verify
        self.node.store.commit = counted_commit  # type: ignore[method-assign]

    # --- the network --------------------------------------------------------------------------------------------------

    async def hello(self) -> dict[str, Any]:
        """Who this is, and where."""
        return {
            "peer": peer_text(self.node.us),
            "hex": self.node.us.hex(),
            "addresses": list(self.node.host.addresses()),
        }

    async def mine(self, blocks: int, ours: bool = True) -> int:
        """Make blocks; gives the height."""
        burnt = "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202"
        mined = await self.owner.mine(blocks, None if ours else burnt)
        return mined.height

    async def caught_up(self, height: int) -> None:
        """Wait until this node has taken in the chain."""
        await self.node.caught_up(height)  # type: ignore[arg-type]

    async def connect(self, address: str) -> None:
        """Dial and keep a peer."""
        await self.owner.connect(address)

    async def open(self, peer: str, capacity: int) -> None:
        """Fund a channel."""
        await self.owner.channel_open(peer, capacity, 0)

    async def usable(self, channels: int) -> None:
        """Wait until so many channels can be used."""
        while sum(is_usable(each) for each in self.node.money.channels()) < channels:
            await self.node.changed()

    # --- discovery ----------------------------------------------------------------------------------------------------

    async def contact(self) -> str:
        """Our contact, once we can be reached."""
        while not self.node.reachable_at():  # noqa: ASYNC110 - nobody is told
            await trio.sleep(0.02)
        return self.node.paying.contact_text()

    def arrived(self, offer: OfferArrived) -> None:
        """Note an offer for a payment of ours."""
        self.offers.append((time.monotonic(), offer.offer.amount_msat))

    async def discover(self, target: str, amount: int, quiet_ms: int) -> dict[str, Any]:
        """Pay by the whole way, and give seconds: from order and from initialization to first and to best offer."""
        self.offers.clear()
        async with self.node.bus.subscribe() as events:
            begun = time.monotonic()
            order = m.PayOrder(target=target, amount_msat=amount, quiet_ms=quiet_ms)
            payment_hash = (await self.owner.pay(order)).hex()
            async for event in events:
                if isinstance(event, m.PaymentFailed) and event.payment_hash == payment_hash:
                    raise RuntimeError(event.reason)
                if isinstance(event, m.Settled) and event.payment_hash == payment_hash:
                    break
        cheapest = min(amount for _, amount in self.offers)
        best_at = min(at for at, amount in self.offers if amount == cheapest)
        first_at = self.offers[0][0]
        return {
            "sent": self.sent_at - begun,
            "first": first_at - self.sent_at,
            "best": best_at - self.sent_at,
            "order_to_first": first_at - begun,
            "offers": [offer for _, offer in self.offers],
        }

    # --- payments -----------------------------------------------------------------------------------------------------

    async def promise(self, count: int, amount: int) -> list[str]:
        """Take so many payments: promise them and ask the network for offers."""
        node, hashes = self.node, []
        whole = Amount(Msat(amount), node.asset)
        most = Amount(Msat(amount * 2), node.asset)
        for _ in range(count):
            preimage = Preimage(os.urandom(32))
            payment_hash = PaymentHash(hashlib.sha256(preimage).digest())
            until = UnixTime(node.now() + LIVES)
            made = PromiseMade(
                payment_hash=payment_hash,
                preimage=preimage,
                kind=Kind.REQUEST,
                amount=whole,
                expiry=until,
                lock_blocks=lock_blocks(node.money.config, os.urandom(32)),
                memo="",
            )
            await node.ask(made)
            promise = node.money.promise(payment_hash)
            assert promise is not None
            node.routing.tell(flood_of(promise, most, until, entropy=os.urandom(32), now=node.now()))
            hashes.append(payment_hash.hex())
        return hashes

    async def want(self, payee: str, hashes: list[str], amount: int) -> None:
        """Order payments and wait until each has an offer; nothing is locked yet."""
        node = self.node
        for text in hashes:
            payment_hash, until = PaymentHash(bytes.fromhex(text)), UnixTime(node.now() + LIVES)
            wanted = PayRequested(
                payment_hash=payment_hash,
                kind=Kind.REQUEST,
                payee=bytes.fromhex(payee),  # type: ignore[arg-type]
                amount=Amount(Msat(amount), node.asset),
                ceiling=Amount(Msat(amount * 2), node.asset),
                preimage=None,
                expiry=until,
                memo="",
            )
            await node.ask(wanted)
            node.subscribed.want(payment_hash, until)
            node.routing.tell(OffersWanted(payment_hash=payment_hash, expiry=until, now=node.now()))
        for text in hashes:
            await self.offered(text)

    async def offered(self, text: str) -> float:
        """Wait for an offer for this hash; gives the time."""
        payment_hash = PaymentHash(bytes.fromhex(text))
        while not self.node.routing.engine.offers(payment_hash, None, self.node.asset, self.node.now()):  # noqa: ASYNC110
            await trio.sleep(0.002)
        return time.monotonic()

    async def pay(self, hashes: list[str], in_flight: int) -> float:
        """Lock and wait until each is paid and its HTLC is gone for good, so many at a time; gives seconds."""
        node, todo, ended = self.node, iter(hashes), {text: trio.Event() for text in hashes}
        failed: list[str] = []

        def locked(payment_hash: PaymentHash) -> bool:
            return any(h.payment_hash == payment_hash for channel in node.money.channels() for h in channel.htlcs)

        async def follow(events: trio.MemoryReceiveChannel[m.Event]) -> None:
            async for event in events:
                if isinstance(event, m.PaymentFailed):
                    failed.append(event.reason)
                if isinstance(event, m.Settled | m.PaymentFailed) and event.payment_hash in ended:
                    ended[event.payment_hash].set()

        async def payer() -> None:
            for text in todo:
                payment_hash = PaymentHash(bytes.fromhex(text))
                await node.ask(LockRequested(payment_hash=payment_hash))
                await ended[text].wait()
                while locked(payment_hash):  # a channel has so many slots, and it is in one
                    await node.changed()

        async with node.bus.subscribe() as events, trio.open_nursery() as nursery:
            nursery.start_soon(follow, events)
            begun = time.monotonic()
            async with trio.open_nursery() as payers:
                for _ in range(in_flight):
                    payers.start_soon(payer)
            seconds = time.monotonic() - begun
            nursery.cancel_scope.cancel()
        for text in hashes:  # a subscription holds so many filters, and the next payments need them
            node.subscribed.forget(PaymentHash(bytes.fromhex(text)))
            node.routing.tell(OffersNoLongerWanted(payment_hash=PaymentHash(bytes.fromhex(text)), now=node.now()))
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(hashes)} payments failed, the first: {failed[0]}")
        return seconds

    async def settled(self) -> None:
        """Wait until nothing is in flight in our channels."""
        while any(channel.htlcs for channel in self.node.money.channels()):  # noqa: ASYNC110
            await trio.sleep(0.02)

    async def stats(self) -> dict[str, float]:
        """What was spent so far."""
        return {
            **self.counts,
            "commit_seconds": self.commit_seconds,
            "commit_cpu": self.commit_cpu,
            "batches": self.node.dispatcher.batches,
            "cpu": time.process_time(),
            "rss": resident_bytes(),
        }

    # --- routing messages ---------------------------------------------------------------------------------------------

    async def flood(self, count: int, amount: int) -> dict[str, Any]:
        """Ask the network for offers for so many new hashes at once; gives the last hash and when it began."""
        node = self.node
        whole, most = Amount(Msat(amount), node.asset), Amount(Msat(amount * 2), node.asset)
        until, now = UnixTime(node.now() + LIVES), node.now()
        hashes = [PaymentHash(os.urandom(32)) for _ in range(count)]
        outboxes = [node.routing._outbox(channel.peer) for channel in node.money.channels()]
        begun = time.monotonic()
        for number, payment_hash in enumerate(hashes):
            node.routing.tell(
                FloodRequested(
                    payment_hash=payment_hash,
                    amount=whole,
                    lock_blocks=BlockDelta(12),
                    hops=8,
                    ceiling=most,
                    expiry=until,
                    now=now,
                )
            )
            if number % 64 == 63:
                await trio.lowlevel.checkpoint()
                while any(outbox.queued > MAX_QUEUED // 2 for outbox in outboxes):  # noqa: ASYNC110 - a full one loses the oldest
                    await trio.sleep(0.001)
        if lost := sum(outbox.lost for outbox in outboxes):
            raise RuntimeError(f"{lost} messages were pushed out of the queue")
        return {"last": hashes[-1].hex(), "begun": begun}


@asynccontextmanager
async def _timed_host(worker: list[Worker], settings: Settings) -> AsyncIterator[Host]:
    """A throw-away host that notes when its stream stands, which is when the initialization is sent."""
    async with throw_away_host(settings) as host:
        open_stream = host.open_stream

        async def timed(*arguments: Any, **options: Any) -> Any:
            stream = await open_stream(*arguments, **options)
            worker[0].sent_at = time.monotonic()
            return stream

        host.open_stream = timed  # type: ignore[method-assign]
        yield host


async def _serve(worker: Worker) -> None:
    source = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    buffer = b""
    while data := await source.receive_some():
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            print(json.dumps(await _answer(worker, json.loads(line))), flush=True)


async def _answer(worker: Worker, order: dict[str, Any]) -> dict[str, Any]:
    try:
        with trio.fail_after(PATIENCE):
            return {"answer": await getattr(worker, order.pop("do"))(**order)}
    except Exception as error:  # noqa: BLE001 - told to the bench, which ends everything
        return {"error": repr(error)}


async def main(order: dict[str, Any]) -> None:
    """Run the node until standard input ends."""
    settings = settings_of(order)
    settings.data_dir.mkdir(mode=0o700, exist_ok=True)
    keys = KeyTree(new_words(), REGTEST)
    store = Store.open(settings.storage_url, node_id=keys.node_id(), network="regtest")
    worker: list[Worker] = []
    node = Node(
        Parts(
            settings=settings,
            keys=keys,
            store=store,
            wallet=Wallet.open(keys, store),
            host=host_of(settings, keys),
            backend=backend_of(settings),
            throw_away=lambda: _timed_host(worker, settings),
            clock=time.time,
        )
    )
    worker.append(Worker(node))
    offer_arrived = node.paying.offer_arrived

    def noted(offer: OfferArrived) -> None:
        worker[0].arrived(offer)
        offer_arrived(offer)

    node.paying.offer_arrived = noted  # type: ignore[method-assign, assignment]
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        await _serve(worker[0])
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    sys.setswitchinterval(SWITCH_INTERVAL)
    if profile := os.environ.get("RRNODE_BENCH_PROFILE"):
        import cProfile

        profiler = cProfile.Profile()
        with suppress(KeyboardInterrupt):
            profiler.runcall(trio.run, main, json.loads(sys.argv[1]))
        profiler.dump_stats(f"{profile}.{os.getpid()}")
    else:
        trio.run(main, json.loads(sys.argv[1]))
    os._exit(0)  # libp2p's own may leave a listener behind (B11)
