"""How many of our watchers hold what a neighbour revoked, told to the money engine, where channels wait for it (DESIGN 7).

A watcher counts by its receipts alone, which are on our disk: so a restart needs no watcher to be there, and one that is away
is missed with the next state that is revoked. What it no longer holds the client notices (`rrnode.services.covering`).
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog
import trio

from protocols.channel.events import Flush
from protocols.channel.state import UPDATING, Channel
from protocols.ids import ChannelId, PeerId
from protocols.payment.events import RemediesHeld
from protocols.units import BlockHeight
from rrnode.errors import StorageFailed
from rrnode.storage.cover import CoverStore

log = structlog.get_logger(__name__)

TICK = 5.0  # seconds between two looks of the engine at what it lets wait, while something does


class Quorum:
    """Only where `needed` is not 0.

    Args:
        needed: watchers that must hold a state before its channel takes on anything new.
        watchers: the numbers, in the store, of those that may be used now and count against this neighbour.
        channels: all of ours, as they are now.
        height: of the chain; what is held until an earlier one is held no more.
        post: gives an event to the money engine.
    """

    def __init__(
        self,
        *,
        needed: int,
        store: CoverStore,
        watchers: Callable[[PeerId], Sequence[int]],
        channels: Callable[[], Sequence[Channel]],
        height: Callable[[], BlockHeight],
        post: Callable[[RemediesHeld | Flush], Awaitable[None]],
    ) -> None:
        self.needed = needed
        self._store, self._watchers, self._channels = store, watchers, channels
        self._height, self._post = height, post
        self._told: dict[ChannelId, int] = {}
        self._wake = trio.Event()

    def wake(self) -> None:
        """Something was revoked, handed over or lost, or there is another block. Never waits."""
        self._wake.set()

    def waits(self, channel: Channel) -> bool:
        """Whether it takes on nothing new since too few watchers hold its newest revoked state, as far as was told."""
        if not self.needed or channel.phase not in UPDATING:
            return False
        return self._told.get(channel.channel_id, 0) < channel.their_secrets.count

    async def run(self) -> None:
        """Tell what changes, until cancelled."""
        while self.needed:
            self._wake = trio.Event()
            channels = [each for each in self._channels() if each.phase in UPDATING and each.their_secrets.count]
            try:
                each_with = [(each, self._watchers(each.peer)) for each in channels]
                held = await trio.to_thread.run_sync(self._look, each_with, self._height())
            except StorageFailed as error:
                held = {}  # what was told stands; at the next look again
                log.warning("what watchers hold cannot be read", reason=str(error))
            for channel_id, states in held.items():
                if states != self._told.get(channel_id):
                    self._told[channel_id] = states
                    await self._post(RemediesHeld(channel_id=channel_id, states=states))
            with trio.move_on_after(TICK if any(map(self.waits, channels)) else float("inf")) as scope:
                await self._wake.wait()
            if scope.cancelled_caught:
                await self._post(Flush())

    def _look(self, channels: Iterable[tuple[Channel, Sequence[int]]], tip: BlockHeight) -> dict[ChannelId, int]:
        """By channel, how many of its states `needed` of its watchers hold. Blocking."""
        found = dict[ChannelId, int]()
        for channel, watchers in channels:
            told = self._told.get(channel.channel_id) or None  # 0: too few may be used, whatever they hold
            held = [self._store.held_up_to(each, channel.channel_id, told, tip) for each in watchers]
            found[channel.channel_id] = sorted(held, reverse=True)[self.needed - 1] if len(held) >= self.needed else 0
        return found
