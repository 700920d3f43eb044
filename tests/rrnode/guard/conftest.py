"""Two nodes without runtime: real engines, stores, wallets, followers and broadcasters on one embedded chain, and a wire
between them that can be cut. Enough to bring a channel to a deadline and then let one side die.
"""

import hashlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from bootstrap.networks import REGTEST
from protocols.channel.events import (
    BuildFunding,
    Flush,
    ForgetChannel,
    FundingBuilt,
    LinkDown,
    LinkUp,
    MessageReceived,
    OpenRequested,
    Publish,
    PublishWithChild,
    PublishWithInputs,
    SendMessage,
    StoreChannel,
    StoreRevoked,
    WatchOutpoint,
    WatchTx,
)
from protocols.channel.state import Channel
from protocols.facts import Facts
from protocols.ids import ChannelId, PaymentHash, Preimage
from protocols.payment.engine import Engine
from protocols.payment.events import (
    ChainReserveChanged,
    DropForward,
    FindOffers,
    Kind,
    LockRequested,
    OffersFound,
    PayRequested,
    PromiseMade,
    StoreForward,
    StorePayment,
    StorePromise,
)
from protocols.routing.events import KeptOffer
from protocols.units import Amount, BlockDelta, FeeRate, Msat, Sat, UnixTime
from protocols.wire.channel import OpenChannel, UpdateFulfillHtlc
from rrnode.chain.broadcaster import Broadcaster
from rrnode.chain.follower import Follower
from rrnode.chain.kernel import KernelChain
from rrnode.config.settings import ChainSettings, ChannelSettings, LockSettings, Settings
from rrnode.guard import Guard, Parts
from rrnode.keys import KeyTree, new_words
from rrnode.storage import Store
from rrnode.wallet import Wallet, catch_up

BURN = b"\x00\x14" + bytes(20)
STORES = (StoreChannel, StoreRevoked, ForgetChannel, StorePayment, StorePromise, StoreForward, DropForward)
RATE = FeeRate(2000)


class SharedChain(KernelChain):
    """One chain for everybody: opened by the test, not by each user."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with super().running():
            yield


@dataclass(frozen=True)
class Line:
    event: Any
    facts: Facts


class Side:
    """One node: what is on its disk outlives `die`."""

    def __init__(self, chain: SharedChain, data_dir: Path) -> None:
        data_dir.mkdir(mode=0o700)
        self.settings = Settings(
            data_dir=data_dir,
            chain=ChainSettings(kind="bitcoind"),
            locks=LockSettings(lock_delta=BlockDelta(6), final_lock=BlockDelta(9)),
            channels=ChannelSettings(
                to_self_delay=BlockDelta(6),
                funding_depth=1,
                buried_depth=3,
                settle_margin=BlockDelta(4),
                timeout_grace=BlockDelta(2),
            ),
        )
        self.keys, self.chain = KeyTree(new_words(), REGTEST), chain
        self.us = self.keys.node_id()
        self.other: Side
        self.offers: tuple[KeptOffer, ...] = ()
        self.breaks_at: type | None = None  # the first message of this type is lost, and all after it
        self.broken = False
        self.wire: deque[tuple[Side, Any]]  # messages on their way, of both sides, in order
        self.alive = False

    def open_store(self) -> Store:
        return Store.open(self.settings.storage_url, node_id=self.us, network="regtest")

    async def begin(self) -> None:
        """Start from what is on disk."""
        self.store = self.open_store()
        self.wallet = Wallet.open(self.keys, self.store)
        loaded = self.store.load()
        self.engine = Engine(
            us=self.us,
            asset=REGTEST.genesis,
            keys=self.keys.key_ring(),
            snapshot=loaded.snapshot,
            config=self.settings.engine_config(),
        )
        self.follower = Follower(self.chain, cursor=loaded.cursor)
        self.broadcaster = Broadcaster(self.chain, self.wallet)
        self.alive = True
        await self.follower.start()
        await catch_up(self.wallet, self.chain)
        await self._settle(self.engine.resume(self.facts()), [], None)
        await self.post(
            ChainReserveChanged(confirmed_sat=self.wallet.confirmed_for_fees(), coins=self.wallet.coins_for_fees(RATE))
        )

    def die(self) -> None:
        """End without a word."""
        self.alive = False
        self.store.close()

    def facts(self) -> Facts:
        return Facts(now=UnixTime(int(time.time())), tip=self.follower.height, feerate=RATE, entropy=os.urandom(32))

    async def post(self, *events: Any, cursor: Any = None) -> None:
        """Handle events as one batch, commit, perform."""
        effects: list[Any] = []
        lines = []
        for event in (*events, Flush()):
            facts = self.facts()
            lines.append(Line(event, facts))
            self._unfold(self.engine.handle(event, facts), effects)
        await self._settle(effects, lines, cursor)

    def _unfold(self, given: Sequence[Any], effects: list[Any]) -> None:
        queue = deque(given)
        while queue:
            effect = queue.popleft()
            if isinstance(effect, FindOffers):
                found = OffersFound(reference=effect.reference, offers=self.offers)
                queue.extendleft(reversed(self.engine.handle(found, self.facts())))
            else:
                effects.append(effect)

    async def _settle(self, todo: Sequence[Any], lines: list[Line], cursor: Any) -> None:
        self.store.commit([each for each in todo if isinstance(each, STORES)], lines, cursor)
        for effect in todo:
            match effect:
                case SendMessage(message=message):
                    self.broken |= self.breaks_at is not None and isinstance(message, self.breaks_at)
                    if not self.broken:
                        self.wire.append((self.other, message))
                case BuildFunding():
                    raw, index = self.wallet.build_funding(effect.channel_id, effect.script, effect.amount, RATE)
                    await self.post(FundingBuilt(channel_id=effect.channel_id, transaction=raw, output_index=index))
                case Publish() | PublishWithChild() | PublishWithInputs():
                    self.broadcaster.take(effect)
                    await self.broadcaster.carry_out()
                case WatchTx():
                    self.follower.watch_tx(effect)
                case WatchOutpoint():
                    self.follower.watch_outpoint(effect)

    async def follow(self) -> None:
        """Take in the chain up to its tip, and the mempool."""
        with trio.fail_after(5):
            while (tip := await self.chain.tip()).hash != self.follower.tip.hash:
                batch = await self.follower.next()
                self.wallet.take(batch)
                self.wallet.flush()
                await self.post(
                    ChainReserveChanged(
                        confirmed_sat=self.wallet.confirmed_for_fees(), coins=self.wallet.coins_for_fees(RATE)
                    ),
                    *batch.facts,
                    cursor=(batch.tip.height, batch.tip.hash),
                )
        assert tip.height == self.follower.height

    def channel(self) -> Channel:
        """Its one channel."""
        (found,) = self.engine.channels()
        return found

    def on_disk(self) -> Channel:
        """The channel as a new process would find it."""
        store = self.open_store()
        (found,) = store.load().snapshot.channels
        store.close()
        return found  # type: ignore[return-value]


class Pair:
    """Two sides with a channel of a million satoshi, half of it each."""

    def __init__(self, chain: SharedChain, directory: Path) -> None:
        self.chain = chain
        self.a, self.b = Side(chain, directory / "a"), Side(chain, directory / "b")
        self.a.other, self.b.other = self.b, self.a
        self.a.wire = self.b.wire = self.wire = deque()

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.a, self.b

    async def talk(self) -> None:
        """Let messages run until there are none."""
        while self.wire:
            side, message = self.wire.popleft()
            if side.alive:
                index = side.wallet.reserve_key_index() if isinstance(message, OpenChannel) else None
                await side.post(MessageReceived(peer=side.other.us, message=message, key_index=index))

    async def mine(self, blocks: int = 1) -> None:
        """Blocks with what is in the mempool; every living side takes in each one."""
        for _ in range(blocks):
            await self.chain.mine(1, BURN)
            for side in self.sides:
                if side.alive:
                    await side.follow()
            await self.talk()

    async def height(self) -> int:
        return (await self.chain.tip()).height

    async def open(self) -> None:
        for side in self.sides:
            await side.begin()
            for _ in range(3):
                await self.chain.mine(1, side.wallet.script_at(side.wallet.reserve_key_index()))
        await self.chain.mine(100, BURN)
        for side in self.sides:
            await side.follow()
        await self.join()
        await self.a.post(
            OpenRequested(
                temporary_id=ChannelId(os.urandom(32)),
                peer=self.b.us,
                key_index=self.a.wallet.reserve_key_index(),
                capacity=Sat(1_000_000),
                push=Msat(500_000_000),
            )
        )
        await self.talk()
        await self.mine(2)
        for side in self.sides:
            assert side.channel().deep
            assert side.channel().reestablished

    async def lock(self, amount: int, *, answered: bool, blocks: int = 12) -> PaymentHash:
        """A locks an HTLC to B, for a payment that B promised. Not answered: B's settlement is lost on its way."""
        preimage = Preimage(os.urandom(32))
        payment_hash = PaymentHash(hashlib.sha256(preimage).digest())
        value = Amount(Msat(amount), REGTEST.genesis)
        expiry = UnixTime(int(time.time()) + 3600)
        await self.b.post(
            PromiseMade(
                payment_hash=payment_hash,
                preimage=preimage,
                kind=Kind.REQUEST,
                amount=value,
                expiry=expiry,
                lock_blocks=BlockDelta(blocks),
            )
        )
        self.a.offers = (
            KeptOffer(neighbour=self.b.us, amount=value, lock_blocks=BlockDelta(blocks), expiry=expiry, quote=value),
        )
        if not answered:
            self.b.breaks_at = UpdateFulfillHtlc
        await self.a.post(
            PayRequested(
                payment_hash=payment_hash,
                kind=Kind.REQUEST,
                payee=self.b.us,
                amount=value,
                ceiling=replace(value, msat=Msat(2 * amount)),
                preimage=None,
                expiry=expiry,
            ),
            LockRequested(payment_hash=payment_hash),
        )
        await self.talk()
        return payment_hash

    async def cut(self) -> None:
        """The link is gone for both."""
        for side in self.sides:
            if side.alive:
                side.broken = True
                await side.post(LinkDown(peer=side.other.us))

    async def join(self) -> None:
        """The link stands again."""
        for side in self.sides:
            side.broken, side.breaks_at = False, None
        for side in self.sides:
            await side.post(LinkUp(peer=side.other.us))
        await self.talk()

    def guard_of(self, side: Side) -> Guard:
        """The guard over one side's data directory, on the same chain."""
        return Guard(side.settings, lambda: Parts(keys=side.keys, backend=lambda: self.chain, sender=Broadcaster))


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    chain = SharedChain(tmp_path / "chain", feerate=RATE)
    async with chain.opened():
        made = Pair(chain, tmp_path)
        await made.open()
        yield made
        for side in made.sides:
            if side.alive:
                side.die()


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Wait until an asynchronous condition holds; fails after five seconds."""

    async def wait(condition: Callable[[], Any]) -> None:
        with trio.fail_after(5):
            while not await condition():  # noqa: ASYNC110
                await trio.sleep(0.01)  # what the guard does in its threads has no event to wait for

    return wait
