"""Whole nodes in one process: real engines, stores, wallets and services over the memory host and one embedded chain."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from bootstrap.networks import REGTEST
from protocols.channel.state import Phase, balances
from protocols.ids import PaymentHash, PeerId
from protocols.payment.events import Payment, PayPhase
from protocols.units import BlockDelta, BlockHeight
from rrnode.chain.base import ChainBackend
from rrnode.chain.kernel import RELAY_FLOOR, KernelChain, scripts_hold
from rrnode.chain.mempool import Mempool
from rrnode.chain.remote import RemoteChain
from rrnode.config.settings import ChannelSettings, FeeSettings, LockSettings, RoleSettings, Settings, WaitSettings
from rrnode.control import models as m
from rrnode.dispatcher import Halted
from rrnode.errors import ChainUnavailable, StorageFailed, UserError
from rrnode.host.base import Host, HostConfig
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.keys import KeyTree, new_words
from rrnode.node import Node
from rrnode.owner import Owner
from rrnode.parts import Parts
from rrnode.start import mails_of, recorder_of, remedies_of
from rrnode.storage import Store, WalletChanges
from rrnode.wallet import Balance, Wallet

T = TypeVar("T")
PATIENCE = 30.0  # seconds until a test that waits in vain fails; nothing takes longer than a few
BURN = bytes.fromhex("0014") + bytes(20)
QUICK = HostConfig(heartbeat_every=1, lost_after=5, dial_timeout=5, hello_timeout=5)
CALM = HostConfig(heartbeat_every=100, lost_after=300)  # for leaping time, that it may leap far


class PowerCut(BaseException):
    """The machine stopped here. No `except Exception` may live through it."""


class Fuse:
    """Cuts the power at the n-th commit, right before it or right after it.

    Attributes:
        seen: commits since it was last armed.
        blown: the power is cut: nothing reaches the disk any more.
    """

    def __init__(self, cut: Callable[[], None]) -> None:
        self._cut, self._token = cut, trio.lowlevel.current_trio_token()
        self._left, self._after = 0, False
        self.seen, self.blown = 0, False

    def arm(self, commit: int, *, after: bool) -> None:
        """Cut at this commit from now on, 1 being the next; `after`: what it wrote is on the disk."""
        self._left, self._after, self.seen = commit, after, 0

    def disarm(self) -> None:
        """Let everything pass."""
        self._left = 0

    def around(self, write: Callable[[], T]) -> T:
        """One commit."""
        if self.blown:
            raise PowerCut
        self.seen += 1
        if self.seen != self._left:
            return write()
        self.blown = True
        if self._after:
            write()
        if trio.lowlevel.in_trio_run():
            self._cut()
        else:  # a worker thread, perhaps holding the wallet's lock: waiting for trio's thread could be for ever
            self._token.run_sync_soon(self._cut)
        raise PowerCut


class FusedStore(Store):
    """The real store behind a fuse: what the engine and the wallet commit is counted."""

    fuse: Fuse | None = None

    def commit(self, *batch: Any, **named: Any) -> None:
        self._around(partial(super().commit, *batch, **named))

    def write_wallet(self, changes: WalletChanges) -> None:
        self._around(partial(super().write_wallet, changes))

    def _around(self, write: Callable[[], None]) -> None:
        if self.fuse is None:
            write()
        else:
            self.fuse.around(write)


class SharedChain(KernelChain):
    """One chain for all nodes of a test: opened by the test, not by each node. `take_away` and `bring_back` it."""

    _away = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    def take_away(self) -> None:
        """From now on nobody gets an answer."""
        self._away = True
        self._tell_changed()

    def bring_back(self) -> None:
        """It answers again."""
        self._away = False

    def forget_mempool(self) -> None:
        """All that no block holds is lost, as when every node was restarted."""
        self.mempool_now = Mempool(self.index, scripts_hold, floor=RELAY_FLOOR)
        self._tell_changed()

    def _check_open(self) -> None:
        super()._check_open()
        if self._away:
            raise ChainUnavailable("the chain was taken away")

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with super().running():
            yield


class Actor:
    """One node: its directory and words outlive its process, which `start` and `kill` begin and end.

    `serves_chain` gives it the `chain` switch; with `helpers` (addresses of such nodes) it has no chain of its own.
    """

    def __init__(
        self,
        world: "World",
        name: str,
        *,
        routes: bool,
        serves_chain: bool = False,
        watches: bool = False,
        keeps_mail: bool = False,
        helpers: tuple[str, ...] = (),
        **settings: Any,
    ) -> None:
        self.world, self.name, self._helpers = world, name, helpers
        self._listen = (f"/memory/{1 + len(world.actors)}",) if routes or serves_chain or watches or keeps_mail else ()
        data_dir = world.directory / name
        data_dir.mkdir(mode=0o700)
        self.settings = Settings(
            data_dir=data_dir,
            roles=RoleSettings(route=routes, chain=serves_chain, watch=watches, mailbox=keeps_mail),
            # C's delta fits into the payer's least slack, so that the way through C can always stand in for a shorter one.
            locks=LockSettings(lock_delta=BlockDelta(3 if name == "C" else 6), final_lock=BlockDelta(9)),
            channels=ChannelSettings(
                to_self_delay=BlockDelta(6), funding_depth=1, buried_depth=3, settle_margin=BlockDelta(4)
            ),
            wait=WaitSettings(quiet_ms=50, maximum_ms=4000),
            **settings,
        )
        self.keys = KeyTree(new_words(), REGTEST)
        self.clock: Callable[[], float] = time.time
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._ended.set()
        self.fuse: Fuse
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

    async def _live(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        self._ended = trio.Event()
        store = FusedStore.open(self.settings.data_dir / "db.sqlite", node_id=self.keys.node_id(), network="regtest")
        store.fuse = self.fuse = Fuse(self._lose_power)
        remedies, mails = remedies_of(self.settings, self.keys), mails_of(self.settings, self.keys)
        recorder = recorder_of(self.settings)
        try:
            host = MemoryHost(
                self.keys.identity_secret(),
                network=self.world.network,
                genesis=REGTEST.genesis,
                switches=self.settings.switches,
                listen=self._listen,
                config=self.world.hosts,
            )
            self.node = Node(
                Parts(
                    settings=self.settings,
                    keys=self.keys,
                    store=store,
                    wallet=Wallet.open(self.keys, store),
                    host=host,
                    backend=RemoteChain(host, self._helpers, REGTEST) if self._helpers else self.world.backend(),
                    throw_away=self.world.throw_away,
                    clock=self.clock,
                    remedies=remedies,
                    recorder=recorder,
                    mails=mails,
                )
            )
            self.owner = Owner(self.node)
            with trio.CancelScope() as self._scope:
                await self.node.run(task_status=task_status)
                if self.node.halted():
                    await self.node.stopping.wait()  # its owner is still answered
        except* PowerCut:
            pass
        finally:
            for others in (remedies, mails, recorder):
                if others is not None:
                    others.close()
            store.close()
            self._ended.set()

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return not self._ended.is_set()

    def _lose_power(self) -> None:
        """What a process that is killed takes with it: its links, and whatever it had not written."""
        self._unplug()
        assert self._scope is not None
        self._scope.cancel()

    def _unplug(self) -> None:
        for peer in list(self.node.host.connected()):
            self.world.network.cut(self.keys.node_id(), peer)

    async def gone(self) -> None:
        """Wait until its process has ended."""
        with trio.fail_after(PATIENCE):
            await self._ended.wait()

    async def takes_new_things_at(self, height: BlockHeight) -> None:
        """Wait until it has taken in the chain and its engine knows that it may take on new things (again)."""
        await self.node.caught_up(height)
        while self.node.following.reserve.confirmed_sat in (None, -1):  # noqa: ASYNC110 (not told yet, or behind: nobody is told)
            await trio.sleep(0.01)
        await self.node._probe()

    def coins(self) -> Balance:
        """What its wallet holds on the chain."""
        return self.node.wallet.balance()

    async def stop(self) -> None:
        """An orderly end."""
        self.node.stopping.set()
        await self._ended.wait()

    async def crash(self) -> None:
        """An end without a word: whatever is not on disk is lost."""
        self.drop_dead()
        await self.gone()

    def drop_dead(self) -> None:
        """The same from within one of its own tasks; `gone` waits for the end."""
        self.fuse.blown = True
        self._lose_power()

    async def attempt(self, order: Callable[[], Awaitable[T]]) -> T | str | None:
        """Give an order that may outlive the node: its answer, the sentence with which it was refused, or None."""
        answer: T | str | None = None
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    await self._ended.wait()
                    scope.cancel()

                nursery.start_soon(watch)
                try:
                    answer = await order()
                except UserError as error:
                    answer = str(error)
                except (PowerCut, StorageFailed, Halted):
                    pass
                nursery.cancel_scope.cancel()
        return answer

    async def until(self, what: str, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait for a change of this node after which the condition holds."""
        with trio.move_on_after(patience):
            while not condition():
                await self.node.changed()
            return
        raise AssertionError(f"{self.name} waited in vain for {what}")

    def channel_with(self, other: "Actor") -> Any:
        """The newest channel with another node that is not closed."""
        peer = other.keys.node_id()
        found = [each for each in self.node.money.channels() if each.peer == peer and each.phase is not Phase.CLOSED]
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

    def __init__(
        self,
        directory: Path,
        nursery: trio.Nursery,
        chain: Any,
        backend: Callable[[], ChainBackend] | None = None,
    ) -> None:
        """`chain` is what the test mines with; `backend` gives each node its own way to it, None: the same."""
        self.directory, self.nursery, self.chain = directory, nursery, chain
        self.backend = backend or (lambda: chain)
        self.network = MemoryNetwork()
        self.hosts = QUICK
        self.actors: dict[str, Actor] = {}

    @asynccontextmanager
    async def throw_away(self) -> AsyncIterator[Host]:
        host = MemoryHost(
            KeyTree(new_words(), REGTEST).identity_secret(), network=self.network, genesis=REGTEST.genesis
        )
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
        await self._taken_in()

    async def undo(self, block_hash: bytes) -> None:
        """Take back this block and those above it, and whatever no block holds then; wait until everybody has seen it."""
        await self.chain.invalidate(block_hash)
        self.chain.forget_mempool()
        await self._taken_in()

    async def _taken_in(self) -> None:
        tip = await self.chain.tip()
        for actor in self.actors.values():
            if actor.runs:
                with trio.fail_after(PATIENCE):
                    await actor.attempt(partial(actor.takes_new_things_at, tip.height))

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
        return sum(balances(channel).ours for actor in self.actors.values() for channel in actor.node.money.channels())

    async def settled(self) -> None:
        """Wait until no HTLC is left anywhere."""
        for actor in self.actors.values():
            await actor.until(
                "HTLCs to end", lambda actor=actor: not any(each.htlcs for each in actor.node.money.channels())
            )


async def example_network(
    net: World, fees: Callable[[str, dict[str, Actor]], FeeSettings] | None = None
) -> dict[str, Actor]:
    """The example network: A and E are clients, B, C and D route; five channels of a million satoshi.

    Args:
        fees: those of a node, given its name and the nodes before it.
    """
    actors: dict[str, Actor] = {}
    for name in "ABCDE":
        own = FeeSettings() if fees is None else fees(name, actors)
        actors[name] = await net.add(name, routes=name in "BCD", fees=own)
    await net.mine(101)
    a, b, c, d, e = (actors[name] for name in "ABCDE")
    await e.owner.connect(d.address)
    for funder, other in ((a, b), (b, d), (b, c), (c, d), (d, e)):
        await net.channel(funder, other)
    return actors


async def eventually(what: str, condition: Callable[[], bool], patience: float = 100.0) -> None:
    """Wait for what no node tells about: a wallet's coins, several nodes together. For leaping time."""
    with trio.move_on_after(patience):
        while not condition():  # noqa: ASYNC110 (there is no event for it)
            await trio.sleep(0.05)
        return
    raise AssertionError(f"waited in vain for {what}")


def on_sending(actor: Actor, kind: type, action: Callable[[], None], *, to: Actor | None = None) -> None:
    """Once: when this node is about to send a channel message of this kind, which it has decided and stored, `action` comes
    instead of the sending."""
    channels = actor.node.channels
    send = channels.send

    def intercepted(peer: PeerId, message: Any) -> None:
        if isinstance(message, kind) and (to is None or to.keys.node_id() == peer):
            channels.send = send  # type: ignore[method-assign]
            action()
        else:
            send(peer, message)

    channels.send = intercepted  # type: ignore[method-assign]


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


__all__ = ["CALM", "Actor", "FeeSettings", "World", "eventually", "example_network", "on_sending", "recorded", "world"]
