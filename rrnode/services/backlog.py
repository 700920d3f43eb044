"""What a hunter could not settle when it saw it, looked at again: transactions that the disk did not answer for or that have
many remedies, cases for which there was no room, and blocks that an earlier life of the node did not finish (DESIGN 7).
"""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

import structlog
import trio

from protocols.errors import DecodeError
from protocols.ids import Txid
from protocols.units import BlockHeight, FeeRate, Sat
from protocols.watch.hunt import PATIENCE
from rrnode.chain.base import NO_INTERESTS, ChainBackend, Interests
from rrnode.chain.parse import Tx, parse_transaction
from rrnode.control.text import txid_text
from rrnode.errors import ChainUnavailable, StorageFailed
from rrnode.services.lookups import SECONDS_AT_ONCE, Lookup, begun, go_on
from rrnode.storage.remedies import RemedyStore

log = structlog.get_logger(__name__)

MOST_WAITING = 1000  # look-ups, each with a transaction of at most 400 kB; for more their blocks are read again
MOST_LEFT = 10_000  # cases without room, 200 bytes each; beyond it the lowest rank is forgotten
_FIRST_RETRY, _LAST_RETRY = 0.5, 30.0  # seconds

Rank = tuple[bool, Sat]  # of a case; the lowest gives way


def rank_of(height: BlockHeight | None, worth: Sat) -> Rank:
    """How soon a case gives way to others. What no block holds goes first, whatever it pays: one coin, spent again and again
    in mempools, makes as many rich breaches as one likes, and no hunter is ever paid for them."""
    return height is not None, worth


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """A case for which there was no room.

    Attributes:
        worth, at_most: what it pays, and at the lowest feerate.
        since: height when it was left.
    """

    height: BlockHeight | None
    worth: Sat
    at_most: Sat
    since: BlockHeight

    @property
    def rank(self) -> Rank:
        return rank_of(self.height, self.worth)


class Backlog:
    """What waits for another look.

    Args:
        found: told of a look-up that brought pairs; may raise ChainUnavailable or StorageFailed, and is told again.
        has_room: whether a case of this rank would find room now.
        alarm: brings a sentence to our owner.
    """

    def __init__(
        self,
        backend: ChainBackend,
        remedies: RemedyStore,
        *,
        found: Callable[[Lookup], Awaitable[None]],
        has_room: Callable[[Rank], bool],
        alarm: Callable[[str], None],
    ) -> None:
        self._backend, self._remedies = backend, remedies
        self._found, self._has_room, self._alarm = found, has_room, alarm
        self._waiting: dict[Txid, Lookup] = {}
        self._left: dict[Txid, _Left] = {}
        self._unread: tuple[BlockHeight, BlockHeight] | None = None  # first and last block to be read again
        self._reading: list[Lookup] = []  # of the block that is being read
        self._unreadable = False
        self._judged_at = FeeRate(0)  # the highest feerate since what was left was judged
        self._wake = trio.Event()

    # --- told ---------------------------------------------------------------------------------------------------------

    @property
    def lowest(self) -> BlockHeight | None:
        """The lowest block that holds something which waits for another look; None: no block does."""
        heights = [each.height for each in (*self._waiting.values(), *self._reading)]
        heights += [each.height for each in self._left.values()]
        heights.append(self._unread[0] if self._unread is not None else None)
        return min((height for height in heights if height is not None), default=None)

    def add(self, lookup: Lookup, tip: BlockHeight) -> None:
        """This look-up is not finished. When there are too many, one from the mempool gives way: it comes again with its
        block. A block is read again."""
        if lookup.problem:
            self._tell_unreadable(lookup)
        if len(self._waiting) >= MOST_WAITING and lookup.height is not None:
            unconfirmed = (txid for txid, each in self._waiting.items() if each.height is None)
            self._waiting.pop(next(unconfirmed, lookup.txid), None)
        if len(self._waiting) < MOST_WAITING or lookup.txid in self._waiting:
            self._waiting[lookup.txid] = lookup
        elif lookup.height is not None:
            self.read_again(lookup.height, tip)

    def leave(self, txid: Txid, height: BlockHeight | None, worth: Sat, at_most: Sat, tip: BlockHeight) -> None:
        """There is no room for this case now.

        Args:
            worth, at_most: what it pays now, and at the lowest feerate.
        """
        self._left[txid] = _Left(height=height, worth=worth, at_most=at_most, since=tip)
        if len(self._left) > MOST_LEFT:
            poorest = min(self._left, key=lambda each: self._left[each].rank)
            del self._left[poorest]
            log.error("a breach is forgotten: others pay more or are confirmed", txid=txid_text(poorest))

    def feerate_changed(self, now: FeeRate) -> None:
        """When fees fall by a good part, what was left may be worth more; what exactly, another look tells."""
        if now * 5 > self._judged_at * 4:
            self._judged_at = max(self._judged_at, now)
            return
        self._judged_at = now
        self._left = {txid: replace(each, worth=each.at_most) for txid, each in self._left.items()}
        self._wake.set()

    def read_again(self, first: BlockHeight, last: BlockHeight) -> None:
        """Blocks whose transactions are to be looked up (again)."""
        if first <= last:
            old = self._unread or (first, last)
            self._unread = min(first, old[0]), max(last, old[1])

    def undone(self, fork: BlockHeight) -> None:
        """Blocks above this height are gone; what comes in their place is told."""
        for lookup in (*self._waiting.values(), *self._reading):
            if lookup.height is not None and lookup.height > fork:
                lookup.height = None
        self._left = {
            txid: each if each.height is None or each.height <= fork else replace(each, height=None)
            for txid, each in self._left.items()
        }
        if self._unread is not None:
            first, last = self._unread
            self._unread = (first, min(last, fork)) if first <= fork else None

    def took(self, tip: BlockHeight) -> None:
        """There is news, up to this block. What is too old for anybody to claim is forgotten."""
        self._waiting = {
            txid: each for txid, each in self._waiting.items() if each.height is None or tip - each.height <= PATIENCE
        }
        self._left = {txid: each for txid, each in self._left.items() if tip - each.since <= PATIENCE}
        self._wake.set()

    # --- acting -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look again until cancelled: at once while that brings something, else with back-off."""
        retry = _FIRST_RETRY
        while True:
            self._wake = trio.Event()
            try:
                moved = await self.look_further()
            except ChainUnavailable as error:
                log.warning("what was missed waits for the chain", reason=str(error))
                moved = False
            if moved:
                retry = _FIRST_RETRY
                continue
            with trio.move_on_after(retry if self._waiting or self._unread else math.inf):
                await self._wake.wait()
            retry = min(2 * retry, _LAST_RETRY)

    async def look_further(self) -> bool:
        """Once: every look-up some way on, one block, and what there is room for. Gives whether it is worth going on.

        Raises:
            ChainUnavailable: nothing is lost, and nothing moved. What the chain does not give, a pruned block perhaps, holds
                up nothing else.
        """
        moved, away = False, None
        steps: list[Callable[[], Awaitable[bool]]] = [partial(self._go_on, each) for each in self._waiting.values()]
        for step in (*steps, self._read_block, self._take_up):
            try:
                moved = await step() or moved
            except ChainUnavailable as error:
                away = error
        if not any(each.problem for each in self._waiting.values()):
            self._unreadable = False
        if away is not None and not moved:
            raise away
        return moved

    async def _go_on(self, lookup: Lookup) -> bool:
        if not lookup.done:
            await trio.to_thread.run_sync(go_on, lookup, self._remedies)
        if lookup.problem:
            self._tell_unreadable(lookup)
        try:
            if lookup.pairs != lookup.told:
                told = dict(lookup.pairs)
                await self._found(lookup)
                lookup.told = told
        except StorageFailed as error:
            log.error("a breach waits for the disk", txid=txid_text(lookup.txid), reason=str(error))
            return False
        if lookup.is_settled and self._waiting.get(lookup.txid) is lookup:
            del self._waiting[lookup.txid]
        return not lookup.problem

    async def _read_block(self) -> bool:
        """The next of the blocks to be read again. All of its transactions count: whoever hunts has a whole chain."""
        if self._unread is None or len(self._waiting) >= MOST_WAITING:
            return False
        height, _ = self._unread
        ref = await self._backend.block_at(height)
        transactions = () if ref is None else await self._backend.transactions(ref, NO_INTERESTS)
        seen = [(tx, height) for tx in transactions]
        lookups = await trio.to_thread.run_sync(begun, seen, self._remedies, SECONDS_AT_ONCE)
        if self._unread is None or self._unread[0] != height:
            return True  # a reorganisation, or there is more to be read: begin anew
        self._reading = lookups
        try:
            for lookup in lookups:
                while not lookup.is_settled and await self._go_on(lookup):
                    pass
                if not lookup.is_settled:
                    if len(self._waiting) >= MOST_WAITING:
                        return False  # this block again, when the disk has answered for others
                    self._waiting[lookup.txid] = lookup
        finally:
            self._reading = []
        if self._unread is not None and self._unread[0] == height:
            self._unread = (BlockHeight(height + 1), self._unread[1]) if height < self._unread[1] else None
        return True

    async def _take_up(self) -> bool:
        """The highest rank of those that were left, if there is room for it now."""
        highest = max(self._left, key=lambda each: self._left[each].rank, default=None)
        if highest is None or not self._has_room(self._left[highest].rank) or len(self._waiting) >= MOST_WAITING:
            return False
        left = self._left[highest]
        tx = await self._fetched(highest, left.height)
        if self._left.get(highest) is not left:
            return True
        del self._left[highest]
        if tx is not None:
            self._waiting[highest] = Lookup(tx, left.height)
        return True

    async def _fetched(self, txid: Txid, height: BlockHeight | None) -> Tx | None:
        """The transaction, if it is still where it was seen."""
        if height is None:
            raw = await self._backend.mempool_transaction(txid)
            try:
                return None if raw is None else parse_transaction(raw)
            except DecodeError:
                return None
        ref = await self._backend.block_at(height)
        block = () if ref is None else await self._backend.transactions(ref, Interests(txids=frozenset((txid,))))
        return next((tx for tx in block if tx.txid == txid), None)

    def _tell_unreadable(self, lookup: Lookup) -> None:
        log.error("remedies cannot be read", txid=txid_text(lookup.txid), reason=lookup.problem)
        if not self._unreadable:
            self._unreadable = True
            self._alarm(
                f"the watcher's disk does not give what is kept for others: {lookup.problem}; it is asked again, and a "
                "breach may be missed meanwhile"
            )
