"""The node's money engine once more, on what is on disk and on the chain, without peers and without a pen (DESIGN 9).

The shadow starts from the newest committed state and takes in what the chain has told since. It never writes to the
database and never speaks to a peer; all it can do is what the chain allows anybody in its place: publish what the stored
state can sign. That the deadlines, the claims and the passing on of preimages are the engine's own is the point: two
versions of these rules would differ one day.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import structlog
import trio

from protocols.channel.events import (
    Alarm,
    Flush,
    Publish,
    PublishWithChild,
    PublishWithInputs,
    Purpose,
    WatchOutpoint,
    WatchTx,
)
from protocols.channel.state import Phase
from protocols.facts import Facts
from protocols.ids import ChannelId
from protocols.payment.config import EngineConfig
from protocols.payment.engine import Engine
from protocols.payment.events import FindOffers, OffersFound
from protocols.units import AssetId, FeeRate, UnixTime
from rrnode.breaches import with_record
from rrnode.chain.base import ChainBackend
from rrnode.chain.follower import Batch, Follower
from rrnode.keys import KeyTree
from rrnode.storage import Loaded, RevokedState, WalletState
from rrnode.wallet import Wallet, catch_up

log = structlog.get_logger(__name__)

Publication = Publish | PublishWithChild | PublishWithInputs

FEE_TARGET = 6  # blocks; the broadcaster hurries by itself when a deadline comes near
_CLOSING_BY_FORCE = frozenset({Phase.FORCED, Phase.CLOSED})


class Shadow:
    """What the node would do about the chain if it ran.

    Args:
        loaded: the state as one transaction found it.
        wallet: the wallet's state, likewise; changes stay in memory.
        config: of the node's own engine.
        revoked_state: reads what is kept of a state that a peer revoked.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        *,
        keys: KeyTree,
        asset: AssetId,
        loaded: Loaded,
        wallet: WalletState,
        config: EngineConfig,
        backend: ChainBackend,
        revoked_state: Callable[[ChannelId, int], RevokedState | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.wallet = Wallet(keys, wallet, now=clock)
        self._on_disk = {channel.channel_id: channel.phase for channel in loaded.snapshot.channels}
        self._engine = Engine(
            us=keys.node_id(), asset=asset, keys=keys.key_ring(), snapshot=loaded.snapshot, config=config
        )
        self._backend, self._clock, self._revoked_state = backend, clock, revoked_state
        self._follower = Follower(backend, cursor=loaded.cursor)
        self._feerate = FeeRate(1000)
        self._orders: list[Publication] = []

    async def start(self) -> tuple[Publication, ...]:
        """Find the place in the chain and set up the watches; gives what is to be published. Raises ChainUnavailable."""
        await self._follower.start()
        await catch_up(self.wallet, self._backend)
        self._feerate = await self._backend.feerate(FEE_TARGET)
        self._unfold(self._engine.resume(self._facts()))
        return self._taken()

    async def next(self) -> tuple[Publication, ...]:
        """Wait for news of the chain; gives what is to be published because of them."""
        batch = await self._follower.next()
        return await self.take(batch)

    async def take(self, batch: Batch) -> tuple[Publication, ...]:
        """Take in news of the chain; gives what is to be published because of them, in order."""
        await trio.to_thread.run_sync(self.wallet.take, batch)
        if batch.connected:
            self._feerate = await self._backend.feerate(FEE_TARGET)
        for fact in batch.facts:
            channels = self._engine.channels()
            fact = await with_record(fact, channels, committed=trio.lowlevel.checkpoint, stored=self._revoked_state)
            self._unfold(self._engine.handle(fact, self._facts()))
        self._unfold(self._engine.handle(Flush(), self._facts()))
        return self._taken()

    def _taken(self) -> tuple[Publication, ...]:
        orders, self._orders = tuple(self._orders), []
        return orders

    def to_be_noted(self) -> frozenset[ChannelId]:
        """Channels that the shadow closes by force while the disk does not say so."""
        return frozenset(
            channel.channel_id
            for channel in self._engine.channels()
            if channel.phase in _CLOSING_BY_FORCE and self._on_disk.get(channel.channel_id) not in _CLOSING_BY_FORCE
        )

    def has_something_at_stake(self) -> bool:
        """Whether there is any channel that the chain still matters to."""
        return any(channel.phase is not Phase.CLOSED for channel in self._engine.channels())

    def _facts(self) -> Facts:
        return Facts(
            now=UnixTime(int(self._clock())),
            tip=self._follower.height,
            feerate=self._feerate,
            entropy=os.urandom(32),
        )

    def _unfold(self, effects: Sequence[Any]) -> None:
        queue = deque(effects)
        while queue:
            match queue.popleft():
                case Publish(purpose=Purpose.FUNDING):
                    pass  # nothing is at stake in a channel that is not there yet
                case (Publish() | PublishWithChild() | PublishWithInputs()) as order:
                    self._orders.append(order)
                case WatchTx() as order:
                    self._follower.watch_tx(order)
                case WatchOutpoint() as order:
                    self._follower.watch_outpoint(order)
                case FindOffers(reference=reference):
                    # Nothing is carried on while the node is away.
                    found = OffersFound(reference=reference, offers=())
                    queue.extendleft(reversed(self._engine.handle(found, self._facts())))
                case Alarm() as alarm:
                    log.error("guard.alarm", channel=alarm.channel_id.hex(), text=alarm.text)
                case _:
                    pass  # for disk, peers and people: the node's business
