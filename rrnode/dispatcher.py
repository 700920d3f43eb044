"""Commit, then perform: the one place where the money engine's orders reach the disk and then the world (DESIGN 3, 6).

Events queue in a bounded inbox. What is there when the engine is free is handled as one batch: each event in turn, the
engine's questions answered on the spot, then one `Flush`, then **one** database transaction for everything that changed,
and only after it succeeded the effects, in the order in which they were given. So one fsync serves every channel that
was ready. When the commit fails nothing of the batch leaves, the node takes on nothing new, and no channel is closed.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from protocols.channel.events import Flush, ForgetChannel, StoreChannel, StoreRevoked
from protocols.facts import Facts
from protocols.payment.events import DropForward, FindOffers, OffersFound, StoreForward, StorePayment, StorePromise
from rrnode.errors import StorageFailed

log = structlog.get_logger(__name__)

STORES = (StoreChannel, StoreRevoked, ForgetChannel, StorePayment, StorePromise, StoreForward, DropForward)
INBOX = 1024  # events; senders wait when it is full, which is the back-pressure on streams
MAX_BATCH = 256  # events in one transaction; bounds how long the first of them waits for the last


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """One line of the journal: an event with the facts it was handled under."""

    event: Any
    facts: Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one transaction holds."""

    stores: tuple[Any, ...]
    journal: tuple[Handled, ...]
    cursor: tuple[int, bytes] | None  # chain position that this batch brings the state up to: height, block hash


@dataclass(slots=True)
class _Posted:
    event: Any
    done: trio.Event | None = None
    cursor: tuple[int, bytes] | None = None
    effects: list[Any] | None = None
    before: Callable[[], None] | None = None
    finished: bool = False  # committed and performed


@dataclass(frozen=True, slots=True)
class _Call:
    """Stands among the effects where something of the runtime must happen in their order."""

    function: Callable[[], None]


class Halted(Exception):
    """The node takes on nothing new: a commit failed or the engine met a bug. Ends the dispatcher's task."""


class Dispatcher:
    """Owns the money engine. Everybody else reaches it through `post` and `ask`.

    Args:
        handle: the engine: `(event, facts) -> effects`.
        commit: writes one batch in one transaction; blocking, called in a worker thread; raises StorageFailed.
        perform: does one effect; must not wait for peers or the chain (it hands over to queues and tasks).
        answer: answers the engine's questions to the routing table, at once.
        facts: draws the facts for one event.
    """

    def __init__(
        self,
        *,
        handle: Callable[[Any, Facts], Sequence[Any]],
        commit: Callable[[Batch], None],
        perform: Callable[[Any], None],
        answer: Callable[[FindOffers], OffersFound],
        facts: Callable[[], Facts],
    ) -> None:
        self._handle, self._commit, self._perform = handle, commit, perform
        self._answer, self._facts = answer, facts
        self._send, self._receive = trio.open_memory_channel[_Posted](INBOX)
        self._unjournaled: list[Handled] = []
        self.halted: str | None = None
        self.batches = 0

    async def post(
        self, event: Any, *, cursor: tuple[int, bytes] | None = None, before: Callable[[], None] | None = None
    ) -> None:
        """Hand over an event; waits while the inbox is full.

        Args:
            cursor: the chain position that the state has reached with this event.
            before: called once the batch is committed, after the effects of earlier events and before those of this.

        Raises:
            Halted: the node has stopped.
        """
        await self._enter(_Posted(event, cursor=cursor, before=before))

    async def ask(self, event: Any) -> list[Any]:
        """Hand over an event and wait until what followed from it is committed and performed.

        Returns:
            The effects that the engine gave for this event, stores left out.

        Raises:
            Halted: the node has stopped.
        """
        posted = _Posted(event, done=trio.Event(), effects=[])
        await self._enter(posted)
        assert posted.done is not None
        assert posted.effects is not None
        await posted.done.wait()
        if not posted.finished:
            raise Halted(self.halted or "the node has stopped")
        return posted.effects

    async def _enter(self, posted: _Posted) -> None:
        if self.halted:
            raise Halted(self.halted)
        try:
            await self._send.send(posted)
        except trio.BrokenResourceError:
            raise Halted(self.halted or "the node has stopped") from None

    async def run(self, resume: Callable[[Facts], Sequence[Any]] | None = None) -> None:
        """Serve until cancelled. `resume` gives the orders that what was loaded from disk still owes.

        Raises:
            Halted: nothing more is taken on; the reason is in `halted` and logged.
        """
        try:
            if resume is not None:
                facts = self._facts()
                effects: list[Any] = []
                self._unfold(resume(facts), effects)
                await self._finish([], effects, None)
            while True:
                await self._batch(await self._receive.receive())
        except StorageFailed as error:
            self._halt(f"what was decided could not be written to disk: {error}")
        except (trio.Cancelled, Halted):
            raise
        except Exception as error:
            log.exception("the engine met a bug; no channel is closed for it", error=repr(error))
            self._halt(f"internal error: {error!r}")
        finally:
            self._dismiss()

    def _halt(self, reason: str) -> None:
        self.halted = reason
        log.critical("node halted: nothing new is taken on and no channel is closed", reason=reason)
        raise Halted(reason)

    def _dismiss(self) -> None:
        """Nobody serves any more, whether halted or cancelled: whoever waits is told."""
        left = list(self._waiting)
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                left.append(self._receive.receive_nowait())
        self._receive.close()
        for posted in left:
            if posted.done is not None:
                posted.done.set()

    _waiting: Sequence[_Posted] = ()

    async def _batch(self, first: _Posted) -> None:
        batch = [first]
        while len(batch) < MAX_BATCH:
            try:
                batch.append(self._receive.receive_nowait())
            except trio.WouldBlock:
                break
        self._waiting = batch
        effects: list[Any] = []
        cursor: tuple[int, bytes] | None = None
        for posted in batch:
            given: list[Any] = []
            self._step(posted.event, given)
            if posted.before is not None:
                effects.append(_Call(posted.before))
            effects += given
            if posted.effects is not None:
                posted.effects += [effect for effect in given if not isinstance(effect, STORES)]
            cursor = posted.cursor or cursor
        self._step(Flush(), effects)
        await self._finish(batch, effects, cursor)
        self._waiting = ()

    def _step(self, event: Any, effects: list[Any]) -> None:
        facts = self._facts()
        self._unjournaled.append(Handled(event=event, facts=facts))
        self._unfold(self._handle(event, facts), effects)

    def _unfold(self, given: Sequence[Any], effects: list[Any]) -> None:
        """Append the effects, answering questions in the place where they were asked."""
        queue = deque(given)
        while queue:
            effect = queue.popleft()
            if not isinstance(effect, FindOffers):
                effects.append(effect)
                continue
            found = self._answer(effect)
            facts = self._facts()
            self._unjournaled.append(Handled(event=found, facts=facts))
            queue.extendleft(reversed(self._handle(found, facts)))

    async def _finish(self, batch: Sequence[_Posted], effects: list[Any], cursor: tuple[int, bytes] | None) -> None:
        stores = tuple(effect for effect in effects if isinstance(effect, STORES))
        if stores or cursor is not None or len(self._unjournaled) >= MAX_BATCH:
            # An event that changed nothing on disk waits in memory for the next transaction: losing it loses nothing.
            journal = tuple(self._unjournaled)
            written = Batch(stores=stores, journal=journal, cursor=cursor)
            with trio.CancelScope(shield=True):  # a commit under way is waited for, or nobody knows what it did
                await trio.to_thread.run_sync(self._commit, written)
            self._unjournaled.clear()
        self.batches += 1
        for effect in effects:
            if isinstance(effect, _Call):
                effect.function()
            elif not isinstance(effect, STORES):
                self._perform(effect)
        for posted in batch:
            posted.finished = True
            if posted.done is not None:
                posted.done.set()
