"""The guard's own process: watches the node, and stands in for it on the chain while it is down, halted or hung (DESIGN 9).

While the node runs, the guard only looks now and then whether it still does. When it does not, the guard loads the newest
committed state, follows the chain with the node's own rules (`shadow`) and publishes what they order. Never a revoked state:

- The node commits before it sends a revocation, so what is on disk is never behind what a peer could punish.
- Before the guard publishes a commitment that the disk does not show as closed, it takes the data directory's lock (so no
  node runs), checks that the state is still the one it loaded, and notes the channel in `guard-closed`. A node that starts
  later closes that channel before it speaks to any peer, so the state cannot be revoked afterwards either.
- A node that has halted keeps the lock but never commits again, and says so in its heartbeat; that is as good.
- A node that holds the lock but does not move any more (its heartbeat stands still) while a deadline passes is ended by
  force: nothing else would make it safe to act in its place, and not to act loses money.
"""

import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import structlog
import trio

from rrnode import datadir
from rrnode.errors import ChainUnavailable, StorageFailed, UserError, leaves
from rrnode.guard.files import Heartbeat, add_closed, only_guard, read_heartbeat

if TYPE_CHECKING:
    from rrnode.chain.base import ChainBackend
    from rrnode.config import Settings
    from rrnode.guard.shadow import Publication, Shadow
    from rrnode.keys import KeyTree
    from rrnode.storage import Store
    from rrnode.wallet import Wallet

log = structlog.get_logger(__name__)

LOOK_EVERY = 2.0  # seconds between two looks at the node
STALE_AFTER = 300.0  # seconds without a heartbeat after which a node counts as hung; a busy disk may hold it up
RETRY_AFTER = 10.0  # seconds until a chain or disk that failed is tried again
REGTEST_PATIENCE = 60.0  # seconds without chain and node after which a guard on regtest ends: its network was a game


class Sender(Protocol):
    """Takes publications and sees to it that they confirm; `rrnode.chain.broadcaster.Broadcaster`."""

    def take(self, order: "Publication") -> None: ...
    async def run(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a guard works with once it must act; tests bring their own.

    Attributes:
        backend: makes the chain backend; it is opened only while the guard stands in.
        sender: makes what publishes, for a wallet.
        clock: seconds since 1970.
    """

    keys: "KeyTree"
    backend: Callable[[], "ChainBackend"]
    sender: Callable[["ChainBackend", "Wallet"], Sender]
    clock: Callable[[], float] = time.time


class Guard:
    """Watches over the deadlines of one data directory. Use `run`.

    Args:
        settings: of the node.
        parts: made when they are needed: while all is well a guard is half as large without them.
    """

    def __init__(self, settings: "Settings", parts: Callable[[], Parts]) -> None:
        self._settings, self._data_dir = settings, settings.data_dir
        self._make_parts = parts
        self._made: Parts | None = None
        self._beat: Heartbeat | None = None
        self._beat_seen = 0.0
        self.standing_in = False

    @property
    def _parts(self) -> Parts:
        if self._made is None:
            self._made = self._make_parts()
        return self._made

    async def run(self) -> None:
        """Serve until nothing is at stake any more and no node runs, or the data directory is gone.

        Raises:
            UserError: another guard watches over this directory.
        """
        with only_guard(self._data_dir):
            self._beat_seen = trio.current_time()
            while self._data_dir.exists():
                if self._node_runs():
                    await self._mind_the_hung()
                    await trio.sleep(LOOK_EVERY)
                elif not await self._stand_in():
                    return

    # --- is there a node? ---------------------------------------------------------------------------------------------

    def _node_runs(self) -> bool:
        """Whether a node holds the directory and may still commit."""
        return datadir.is_locked(self._data_dir) and not self._has_halted()

    def _has_halted(self) -> bool:
        beat = read_heartbeat(self._data_dir)
        return beat is not None and bool(beat.halted) and beat.pid == datadir.holder(self._data_dir)

    async def _mind_the_hung(self) -> None:
        """End a node that does not move any more while a deadline passes."""
        beat = read_heartbeat(self._data_dir)
        if beat != self._beat:
            self._beat, self._beat_seen = beat, trio.current_time()
        if beat is None or beat.pid != datadir.holder(self._data_dir):
            return  # just starting, or a program that holds the lock without being a node
        if trio.current_time() - self._beat_seen < STALE_AFTER:
            return
        self._beat_seen = trio.current_time()  # look again after as long
        try:
            height = await trio.to_thread.run_sync(self._first_deadline)
            if height is None:
                return
            backend = self._parts.backend()
            async with backend.running():
                tip = await backend.tip()
        except (ChainUnavailable, StorageFailed) as error:
            log.error("guard.cannot_judge_hung_node", pid=beat.pid, reason=str(error))
            return
        if tip.height >= height and read_heartbeat(self._data_dir) == beat:
            log.critical("guard.ends_hung_node", pid=beat.pid, deadline=height, tip=tip.height)
            with suppress(ProcessLookupError):
                os.kill(beat.pid, signal.SIGKILL)

    def _first_deadline(self) -> int | None:
        from protocols.channel.engine import deadline

        config = self._settings.channel_config()
        store = self._open_store()
        try:
            channels: Sequence[Any] = store.load().snapshot.channels
        finally:
            store.close()
        heights = [height for channel in channels if (height := deadline(channel, config)) is not None]
        return min(heights, default=None)

    # --- standing in --------------------------------------------------------------------------------------------------

    async def _stand_in(self) -> bool:
        """Do the node's part on the chain until it is back; False when there is nothing (more) to do for ever."""
        self.standing_in = True
        without_chain = trio.current_time()
        try:
            while not self._node_runs() and self._data_dir.exists():
                try:
                    if not await self._session():
                        return False
                    without_chain = trio.current_time()
                except StorageFailed as error:
                    log.error("guard.storage", reason=str(error))
                    await trio.sleep(RETRY_AFTER)
                except ChainUnavailable as error:
                    log.error("guard.chain", reason=str(error))
                    if (
                        self._settings.network.name == "regtest"
                        and trio.current_time() - without_chain > REGTEST_PATIENCE
                    ):
                        return False
                    await trio.sleep(RETRY_AFTER)
            return True
        finally:
            self.standing_in = False

    async def _session(self) -> bool:
        """One life of a shadow: until the node is back or the state on disk is another one. False: nothing at stake."""
        from rrnode.guard.shadow import Shadow

        store = await trio.to_thread.run_sync(self._open_store)
        try:
            mark = store.mark()
            backend = self._parts.backend()
            async with backend.running():
                shadow = Shadow(
                    keys=self._parts.keys,
                    asset=self._settings.network.genesis,
                    loaded=store.load(),
                    wallet=store.load_wallet(),
                    config=self._settings.engine_config(),
                    backend=backend,
                    revoked_state=store.revoked_state,
                    clock=self._parts.clock,
                )
                if store.mark() != mark:
                    return True  # a node was faster; look again
                if not shadow.has_something_at_stake():
                    return False
                log.warning("guard.stands_in", data_dir=str(self._data_dir))
                return await self._watch_over(shadow, store, mark, backend)
        finally:
            store.close()

    async def _watch_over(self, shadow: "Shadow", store: "Store", mark: object, backend: "ChainBackend") -> bool:
        sender = self._parts.sender(backend, shadow.wallet)
        outcome = True

        async def follow(scope: trio.CancelScope) -> None:
            nonlocal outcome
            orders = await shadow.start()
            while True:
                if orders and not await trio.to_thread.run_sync(self._may_publish, shadow, store, mark):
                    scope.cancel()
                    return
                for order in orders:
                    sender.take(order)
                if not shadow.has_something_at_stake():
                    outcome = False
                    scope.cancel()
                    return
                orders = await shadow.next()
                if await trio.to_thread.run_sync(store.mark) != mark:
                    scope.cancel()  # the shadow stands on an old state: its deadlines are old, too
                    return

        async def until_node_is_back(scope: trio.CancelScope) -> None:
            while not self._node_runs() and self._data_dir.exists():
                await trio.sleep(LOOK_EVERY)
                if await trio.to_thread.run_sync(store.mark) != mark:
                    break
            scope.cancel()

        await _together(follow, sender.run, until_node_is_back)
        return outcome

    def _may_publish(self, shadow: "Shadow", store: "Store", mark: object) -> bool:
        """Whether what the shadow orders may leave: no node can continue from the state it stands on."""
        try:
            with datadir.locked(self._data_dir):
                return self._note(shadow, store, mark)
        except UserError:
            halted = read_heartbeat(self._data_dir)
            if halted is None or not self._has_halted():
                return False
            if not self._note(shadow, store, mark):
                return False
            # A node that starts writes its heartbeat first and reads our note then: if it has not, it will see the note.
            return read_heartbeat(self._data_dir) == halted

    def _note(self, shadow: "Shadow", store: "Store", mark: object) -> bool:
        if store.mark() != mark:
            return False
        add_closed(self._data_dir, shadow.to_be_noted())
        return True

    def _open_store(self) -> "Store":
        from rrnode.storage import Store

        settings = self._settings
        return Store.open_read_only(
            settings.storage_url, node_id=self._parts.keys.node_id(), network=settings.node.network
        )


async def _together(
    follow: Callable[[trio.CancelScope], Awaitable[None]],
    send: Callable[[], Awaitable[None]],
    until: Callable[[trio.CancelScope], Awaitable[None]],
) -> None:
    """Run all three; the first failure or cancellation ends them. A lone failure is raised as itself."""
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, nursery.cancel_scope)
            nursery.start_soon(send)
            nursery.start_soon(until, nursery.cancel_scope)
    except* (ChainUnavailable, StorageFailed) as group:
        failure = next(leaves(group))
    if failure is not None:
        raise failure


async def run(settings: "Settings") -> None:
    """Watch over one data directory: what `rrnode guard` does.

    Raises:
        UserError: another guard is there already, there is no seed when it is needed, or the chain lives inside the
            node and dies with it.
    """
    if settings.chain.kind == "kernel":
        raise UserError("the embedded chain lives in the node and ends with it: there is nothing to watch over")

    def parts() -> Parts:
        from rrnode.chain.broadcaster import Broadcaster
        from rrnode.chain.configured import backend_of
        from rrnode.keys import KeyTree, SeedFile

        keys = KeyTree(SeedFile(settings.data_dir).read(), settings.network)
        return Parts(keys=keys, backend=lambda: backend_of(settings), sender=Broadcaster)

    guard = Guard(settings, parts)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            await guard.run()
            nursery.cancel_scope.cancel()


__all__ = ["Guard", "Parts", "Sender", "run"]
