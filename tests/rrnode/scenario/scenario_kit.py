"""Whole nodes in one process: real engines, stores, wallets and services over the memory host and one embedded chain."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from bootstrap.networks import REGTEST
from protocols.channel.state import Phase, balances
from protocols.ids import PaymentHash
from protocols.payment.events import Payment, PayPhase
from protocols.units import BlockDelta
from rrnode.chain.kernel import KernelChain
from rrnode.config.settings import ChannelSettings, FeeSettings, LockSettings, RoleSettings, Settings, WaitSettings
from rrnode.control import models as m
from rrnode.host.base import Host, HostConfig
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.keys import KeyTree, new_words
from rrnode.node import Node, Parts
from rrnode.owner import Owner
from rrnode.storage import Store
from rrnode.wallet import Wallet

PATIENCE = 15.0  # seconds until a test that waits in vain fails; nothing takes longer than a few
BURN = bytes.fromhex("0014") + bytes(20)
QUICK = HostConfig(heartbeat_every=1, lost_after=5, dial_timeout=5, hello_timeout=5)


class SharedChain(KernelChain):
    """One chain for all nodes of a test: opened by the test, not by each node."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with super().running():
            yield


class Actor:
    """One node: its directory and words outlive its process, which `start` and `kill` begin and end."""

    def __init__(self, world: "World", name: str, *, routes: bool, **settings: Any) -> None:
        self.world, self.name = world, name
        data_dir = world.directory / name
        data_dir.mkdir(mode=0o700)
        self.settings = Settings(
            data_dir=data_dir,
            roles=RoleSettings(route=routes),
            locks=LockSettings(lock_delta=BlockDelta(6), final_lock=BlockDelta(9)),
            channels=ChannelSettings(
                to_self_delay=BlockDelta(6), funding_depth=1, buried_depth=3, settle_margin=BlockDelta(4)
            ),
            wait=WaitSettings(quiet_ms=50, maximum_ms=4000),
            **settings,
        )
        self.keys = KeyTree(new_words(), REGTEST)
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()
        self.node: Node
        self.owner: Owner

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.node.host.addresses()[0]

    async def start(self) -> "Actor":
        """Bring it up from what is on its disk."""
        await self.world.nursery.start(self._live)
        return self

    async def _live(self, task_status: Any) -> None:
        self._ended = trio.Event()
        store = Store.open(self.settings.data_dir / "db.sqlite", node_id=self.keys.node_id(), network="regtest")
        try:
            host = MemoryHost(
                self.keys.identity_secret(),
                network=self.world.network,
                genesis=REGTEST.genesis,
                switches=self.settings.switches,
                listen=(f"/memory/{1 + len(self.world.actors)}",) if self.settings.roles.route else (),
                config=QUICK,
            )
            self.node = Node(
                Parts(
                    settings=self.settings,
                    keys=self.keys,
                    store=store,
                    wallet=Wallet.open(self.keys, store),
                    host=host,
                    backend=self.world.chain,
                    throw_away=self.world.throw_away,
                    clock=time.time,
                )
            )
            self.owner = Owner(self.node)
            with trio.CancelScope() as self._scope:
                await self.node.run(task_status=task_status)
        finally:
            store.close()
            self._ended.set()

    async def stop(self) -> None:
        """An orderly end."""
        self.node.stopping.set()
        await self._ended.wait()

    async def crash(self) -> None:
        """An end without a word: whatever is not on disk is lost."""
        assert self._scope is not None
        self._scope.cancel()
        await self._ended.wait()

    async def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for a change of this node after which the condition holds."""
        with trio.move_on_after(PATIENCE):
            while not condition():
                await self.node.changed()
            return
        raise AssertionError(f"{self.name} waited in vain for {what}")

    def channel_with(self, other: "Actor") -> Any:
        """The newest channel with another node that is not closed."""
        found = [each for each in self.node.money.channels() if each.peer == other.keys.node_id()]
        return found[-1] if found else None

    def holds(self, other: "Actor") -> int:
        """What this node holds in its channel with another, millisatoshi."""
        return balances(self.channel_with(other)).ours

    def usable(self, other: "Actor") -> bool:
        """Whether it can pay over its channel with another."""
        channel = self.channel_with(other)
        return channel is not None and channel.phase is Phase.OPEN and channel.deep and channel.reestablished

    async def pay(self, target: str, amount_msat: int | None = None, **order: Any) -> Payment:
        """Pay and wait for the end."""
        payment_hash = await self.owner.pay(m.PayOrder(target=target, amount_msat=amount_msat, **order))
        return await self.ended(payment_hash)

    async def ended(self, payment_hash: PaymentHash) -> Payment:
        """A payment's end."""

        def over() -> bool:
            payment = self.node.money.payment(payment_hash)
            return payment is not None and payment.phase in (PayPhase.PAID, PayPhase.FAILED)

        async with self.node.bus.subscribe() as events:
            with trio.fail_after(PATIENCE):
                while not over():
                    await events.receive()
        payment = self.node.money.payment(payment_hash)
        assert payment is not None
        return payment


class World:
    """A memory network, a chain and the nodes on them."""

    def __init__(self, directory: Path, nursery: trio.Nursery, chain: SharedChain) -> None:
        self.directory, self.nursery, self.chain = directory, nursery, chain
        self.network = MemoryNetwork()
        self.actors: dict[str, Actor] = {}

    @asynccontextmanager
    async def throw_away(self) -> AsyncIterator[Host]:
        host = MemoryHost(KeyTree(new_words(), REGTEST).identity_secret(), network=self.network, genesis=REGTEST.genesis)
        async with host.running():
            yield host

    async def add(self, name: str, *, routes: bool = True, coins: int = 2, **settings: Any) -> Actor:
        """A node that runs and has some coins."""
        actor = Actor(self, name, routes=routes, **settings)
        await actor.start()
        self.actors[name] = actor
        if coins:
            await actor.owner.mine(coins, None)
        return actor

    async def mine(self, blocks: int) -> None:
        """Make blocks and wait until everybody has taken them in."""
        await self.chain.mine(blocks, BURN)
        tip = await self.chain.tip()
        for actor in self.actors.values():
            if not actor._ended.is_set():
                with trio.fail_after(PATIENCE):
                    await actor.node.caught_up(tip.height)

    async def channel(self, funder: Actor, other: Actor, capacity_sat: int = 1_000_000, push_msat: int = 0) -> None:
        """Link two nodes if need be, and open a channel between them."""
        if other.keys.node_id() not in funder.node.host.connected():
            await funder.owner.connect(other.address)
        await funder.owner.channel_open(other.keys.node_id().hex(), capacity_sat, push_msat)
        await self.mine(3)
        for here, there in ((funder, other), (other, funder)):
            await here.until("the channel to open", lambda here=here, there=there: here.usable(there))

    def total(self) -> int:
        """All that all nodes hold in all their channels, millisatoshi."""
        return sum(
            balances(channel).ours for actor in self.actors.values() for channel in actor.node.money.channels()
        )

    async def settled(self) -> None:
        """Wait until no HTLC is left anywhere."""
        for actor in self.actors.values():
            await actor.until(
                "HTLCs to end", lambda actor=actor: not any(each.htlcs for each in actor.node.money.channels())
            )


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    """A world to put nodes in; everything ends with it."""
    chain = SharedChain(directory / "chain")
    async with chain.opened(), trio.open_nursery() as nursery:
        made = World(directory, nursery, chain)
        await chain.mine(1, BURN)
        try:
            yield made
        finally:
            nursery.cancel_scope.cancel()


@contextmanager
def recorded(actor: Actor) -> Iterator[list[Any]]:
    """Every effect that the node's dispatcher performs meanwhile."""
    seen: list[Any] = []
    perform = actor.node.dispatcher._perform

    def note(effect: Any) -> None:
        seen.append(effect)
        perform(effect)

    actor.node.dispatcher._perform = note  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        actor.node.dispatcher._perform = perform  # type: ignore[method-assign]


__all__ = ["Actor", "FeeSettings", "World", "recorded", "world"]
