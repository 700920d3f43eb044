"""Following the chain for the whole node: the wallet takes it in first, then the channels; the fee rate, and what is to
be kept on the chain for the channels' end, come from here (DESIGN 6, 9)."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from protocols.channel.events import Flush
from protocols.channel.state import Phase
from protocols.ids import ChannelId
from protocols.payment.engine import Engine as MoneyEngine
from protocols.payment.events import ChainReserveChanged
from protocols.units import BlockHeight, FeeRate, Sat, UnixTime
from rrnode.breaches import with_record
from rrnode.chain.base import BlockRef, ChainBackend
from rrnode.chain.follower import Batch, Follower
from rrnode.chain.watches import ChainFact
from rrnode.config.settings import Settings
from rrnode.dispatcher import Dispatcher
from rrnode.errors import ChainUnavailable, UserError
from rrnode.storage import RevokedState
from rrnode.wallet import Wallet, catch_up

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that libp2p brings name it so

FLOOR_FEERATE = FeeRate(1000)  # 1 sat/vB, until the chain has told better
FEE_TARGET = 6  # blocks within which our transactions should confirm
TROUBLE_EVERY = 2.0  # seconds between two looks whether the chain is still there
STANDS_STILL = (
    3.0  # hours without a block after which a chain is not trusted to be the newest; by chance once in 1,000 years
)
UNTIMED = frozenset({"regtest"})  # networks whose blocks come when somebody makes them


class Following:
    """The chain as the node has taken it in.

    Args:
        follower: of `backend`; nobody else waits for its `next`.
        engine: to read from; it is changed only through `dispatcher`.
        stored: what the disk keeps of a revoked state of a channel, by its number; blocking.
        hunt: told each batch before its tip is committed, when this node hunts bounties.
        took_in: called when the node has taken in the chain up to this tip.
        alarm: brings a sentence to our owner.

    Attributes:
        height: up to which the node has taken in the chain; `follower` may be ahead.
        feerate: what a transaction should pay now to confirm within a few blocks.
        reserve: what the engine was told last of the wallet's confirmed coins.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        backend: ChainBackend,
        follower: Follower,
        wallet: Wallet,
        engine: MoneyEngine,
        dispatcher: Dispatcher,
        stored: Callable[[ChannelId, int], RevokedState | None],
        now: Callable[[], UnixTime],
        took_in: Callable[[BlockRef], None],
        alarm: Callable[[str], None],
        hunt: Callable[[Batch], Awaitable[None]] | None = None,
    ) -> None:
        self._hunt = hunt
        self._settings, self._backend, self._follower, self._wallet = settings, backend, follower, wallet
        self._engine, self._dispatcher, self._stored = engine, dispatcher, stored
        self._now, self._tell_tip, self._alarm = now, took_in, alarm
        self.height = BlockHeight(0)
        self.feerate = FLOOR_FEERATE
        self.reserve = ChainReserveChanged(confirmed_sat=None, coins=0)  # what the engine begins with, too

    @property
    def problem(self) -> str:
        """Why the chain cannot be followed now; "" while it can.

        A chain that stands still counts: its node may be syncing or cut off, and what seems to have time left has not.
        """
        if self._follower.trouble or self._follower.behind or self._settings.network.name in UNTIMED:
            return self._follower.trouble or ""
        if (hours := (self._now() - self._follower.tip.time) / 3600) < STANDS_STILL:
            return ""
        return f"no block came for {hours:.0f} hours: {self._backend.name} may be syncing, or cut off from the network"

    @property
    def ready(self) -> bool:
        """Whether the chain is followed, up to its tip, and the engine knows it: it takes on nothing new before."""
        return not self.problem and self.reserve.confirmed_sat is not None

    async def check(self) -> None:
        """Make sure that the backend, which is running, is of our network. Raises UserError, ChainUnavailable."""
        if await self._backend.genesis() != self._settings.network.genesis:
            raise UserError(
                f"the chain at {self._backend.name} is not {self._settings.network.name}",
                "check chain.url and node.network in the configuration",
            )
        self.feerate = await self._backend.feerate(FEE_TARGET)

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Follow until cancelled; reports started when the wallet has caught up."""
        await self._follower.start()
        await catch_up(self._wallet, self._backend)
        known = frozenset(channel.channel_id for channel in self._engine.channels())
        await trio.to_thread.run_sync(self._wallet.release_but, known)
        self.height = self._follower.height
        task_status.started()
        await self._tell_reserve()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_trouble)
            while True:
                await self._take(await self._follower.next())

    async def _take(self, batch: Batch) -> None:
        """Wallet first, then the channels: a crash in between repeats the batch, and the wallet takes it once."""
        concerned = await trio.to_thread.run_sync(self._wallet.take, batch)
        if self._hunt is not None:
            await self._hunt(batch)
        cursor = (batch.tip.height, batch.tip.hash)
        if batch.connected:
            with suppress(ChainUnavailable):
                self.feerate = await self._backend.feerate(FEE_TARGET)
        for fact in batch.facts[:-1]:
            await self._dispatcher.post(await self._with_record(fact))
        if batch.facts:
            took_in = partial(self._took_in, batch.tip)
            await self._dispatcher.post(await self._with_record(batch.facts[-1]), cursor=cursor, before=took_in)
        if batch.connected:
            await self._publish_own_sends()
        if concerned or batch.connected or batch.fork is not None:
            await self._tell_reserve()

    async def _with_record(self, fact: ChainFact) -> ChainFact:
        committed = partial(self._dispatcher.ask, Flush())
        return await with_record(fact, self._engine.channels(), committed=committed, stored=self._stored)

    def _took_in(self, tip: BlockRef) -> None:
        self.height = tip.height
        self._tell_tip(tip)

    async def _publish_own_sends(self) -> None:
        """What our owner sent and no block holds yet is told again: mempools forget."""
        with suppress(ChainUnavailable):
            for transaction in await trio.to_thread.run_sync(self._wallet.unpublished):
                await self._backend.publish((transaction,))

    # --- what is kept on the chain ------------------------------------------------------------------------------------

    async def _tell_reserve(self) -> None:
        """Tell the engine what the wallet could pay fees with (DESIGN 6); None while the chain is away.

        Or while we are behind it: an HTLC that seems to have time left could have expired long ago, and whoever took it
        on, or released its preimage, would lose it.
        """
        reserve = ChainReserveChanged(confirmed_sat=None, coins=0)
        self.keep_reserve()
        if not self.problem and not self._follower.behind:
            reserve = await trio.to_thread.run_sync(self._count_reserve)
        if reserve != self.reserve:
            self.reserve = reserve
            await self._dispatcher.post(reserve)

    def _count_reserve(self) -> ChainReserveChanged:
        wallet = self._wallet
        return ChainReserveChanged(confirmed_sat=wallet.confirmed_for_fees(), coins=wallet.coins_for_fees(self.feerate))

    def keep_reserve(self) -> None:
        """Tell the wallet what to hold back: coins for the end of each channel, and what that would cost now (DESIGN 6).

        To be called right before our own coins are spent: the HTLCs of this moment count.
        """
        count = sum(channel.phase is not Phase.CLOSED for channel in self._engine.channels())
        flat = count * self._settings.channels.chain_reserve_sat
        coins = max(count, self._engine.coins_needed())
        self._wallet.keep_reserve(Sat(max(flat, self._engine.reserve_needed())), coins=coins)

    async def _watch_trouble(self) -> None:
        """A chain that is lost stops forwarding within seconds, and says so (DESIGN 9)."""
        before = ""
        while True:
            await trio.sleep(TROUBLE_EVERY)
            problem = self.problem
            if problem != before:
                before = problem
                if problem:
                    self._alarm(f"the chain cannot be followed, nothing new is taken on: {problem}")
                await self._tell_reserve()
