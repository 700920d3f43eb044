"""What blocks hold that concerns us, by the word of several helpers: proofs joined, silence noticed, latecomers heard.

A helper that could not answer in time for a block is asked again when it is back: one honest helper is enough even when it
was away while liars answered. Of the newest blocks all helpers are asked, of older ones those that too few answered for.
"""

from collections.abc import Awaitable, Callable, Iterator, Set
from dataclasses import dataclass

import structlog
import trio

from protocols.ids import PeerId
from protocols.light.agreement import agree
from protocols.light.answered import Answered
from protocols.light.headers import Header, HeaderChain
from protocols.units import BlockHeight
from protocols.wire.chain import GetMatches, Matches, RefusalCode, Refused
from rrnode.chain.base import NO_INTERESTS, Interests
from rrnode.chain.evidence import BadProof, shown, whole
from rrnode.chain.parse import Tx
from rrnode.services.helpers import Helper

BEHIND_WAIT = 3.0  # seconds that a helper gets to hear of a block that another one has
BLOCKS_KEPT = 144  # that every latecomer is asked about: as far back as the follower can begin anew
MOST_LATE = 1000  # blocks of which is kept what was told late: proven, and of our own concern

Found = dict[int, Tx]  # by place in the block
AskAll = Callable[[Callable[[Helper], Awaitable[Found | None]]], Awaitable[dict[Helper, Found]]]

log = structlog.get_logger("rrnode.chain")


@dataclass(slots=True)
class _Asked:
    """A block that was asked about.

    Attributes:
        heard: who answered.
        found: what its reader was told, by place in the block.
    """

    height: BlockHeight
    heard: set[PeerId]
    found: frozenset[int]


class RemoteBlocks:
    """Reads blocks through helpers.

    Args:
        headers: the best chain.
        least: k.
        ask_all: asks those helpers that are ready; raises ChainUnavailable when none answers.
        reread: called when more is proven of a block than an earlier reader of it was told.
    """

    def __init__(
        self,
        headers: HeaderChain,
        *,
        least: int,
        ask_all: AskAll,
        reread: Callable[[BlockHeight], None],
    ) -> None:
        self._headers, self._least, self._ask_all = headers, least, ask_all
        self._reread = reread
        self._interests = NO_INTERESTS
        self._asked: dict[bytes, _Asked] = {}  # the highest ones
        self._older = Answered()  # of the best chain, below those
        self._late: dict[bytes, Found] = {}  # what was proven by who came late

    async def read(self, header: Header, height: BlockHeight, interests: Interests) -> tuple[Tx, ...]:
        """What of a block of the best chain concerns the interests, in its order. Raises ChainUnavailable."""
        self._interests = interests
        answers = await self._ask_all(lambda helper: self._matches(helper, header, height, interests))
        before, late = self._asked.get(header.hash), self._late.get(header.hash, {})
        proven = dict(late)
        for told in answers.values():
            proven |= told
        places = _concerning(proven, interests)
        counted = {helper.peer: places.intersection(told) for helper, told in answers.items() if helper.counts}
        agreed = agree(counted, self._least, [places])
        for helper in answers:
            if missing := agreed.missing.get(helper.peer):
                helper.lied(f"it kept silent about {shown(proven[n].txid for n in missing)} in block {height}")
        heard = {helper.peer for helper in answers}
        # Whoever reads now may look for other things than who read before; the newcomer's word is for both.
        if before is not None and heard - before.heard and places - before.found - late.keys():
            self._reread(height)
        self._asked[header.hash] = _Asked(height, heard, places)
        while len(self._asked) > BLOCKS_KEPT:
            lowest = min(self._asked, key=lambda each: self._asked[each].height)
            asked = self._asked.pop(lowest)
            if self._headers.find(asked.height, lowest) is not None:
                self._older.put(asked.height, asked.heard)
        return tuple(proven[place] for place in sorted(places))

    def has_heard(self, peer: PeerId, block_hash: bytes) -> bool:
        """Whether a helper has answered for a block that was read just now."""
        return block_hash not in self._asked or peer in self._asked[block_hash].heard

    def doubtful(self, relied_on: Set[PeerId]) -> BlockHeight | None:
        """The lowest block of the best chain that fewer than k of these answered for, if any."""
        older = next(self._older.lacking(relied_on, self._least), None)
        if older is not None:
            return older
        return min(
            (asked.height for asked, _ in self._standing() if len(asked.heard & relied_on) < self._least), default=None
        )

    def _standing(self) -> Iterator[tuple[_Asked, Header]]:
        """Those that are still in the best chain."""
        for block_hash, asked in tuple(self._asked.items()):
            header = self._headers.find(asked.height, block_hash)
            if header is not None:
                yield asked, header

    async def ask_late(self, helper: Helper, relied_on: Set[PeerId]) -> None:
        """Ask a helper about the blocks that it did not answer for, one after the other.

        Args:
            relied_on: of older blocks only those are asked that fewer than k of these answered for.

        Raises:
            BadProof: see `whole`.
        """
        for asked, header in self._standing():
            if helper.peer not in asked.heard:
                if not await self._ask_late_of(helper, header, asked.height, asked.found):
                    return
                asked.heard.add(helper.peer)
        for height in self._older.lacking(relied_on, self._least):
            heard, there = self._older.at(height), self._headers.at(height)
            if helper.peer not in heard and there is not None:
                if not await self._ask_late_of(helper, there, height, frozenset()):
                    return
                self._older.put(height, heard | {helper.peer})

    async def _ask_late_of(self, helper: Helper, header: Header, height: BlockHeight, found: Set[int]) -> bool:
        """Whether it answered. What is beyond `found` is kept, and the block is read anew."""
        told = await self._matches(helper, header, height, self._interests)
        if told is None:
            return False
        if new := _concerning(told, self._interests) - found:
            log.warning("chain.told_late", height=height, transactions=len(new))
            late = self._late.pop(header.hash, {})
            self._late[header.hash] = late | {place: told[place] for place in new}
            while len(self._late) > MOST_LATE:
                del self._late[next(iter(self._late))]
            self._reread(height)  # at once: its stream may end before the next block
        return True

    async def _matches(self, helper: Helper, header: Header, height: BlockHeight, interests: Interests) -> Found | None:
        deadline = trio.current_time() + BEHIND_WAIT
        while True:
            synced = helper.synced
            if not await helper.watch(interests):
                return None
            answer = await helper.ask(lambda number: GetMatches(number, header.hash))
            if isinstance(answer, Matches) and answer.block_hash == header.hash:
                found = whole(answer, header, height)
                if len(_concerning(found, helper.watched)) < len(answer.transactions):
                    raise BadProof(f"it sent transactions of block {height} that it was not asked for")
                return found
            if not isinstance(answer, Refused) or answer.code != RefusalCode.UNKNOWN_BLOCK:
                return None
            with trio.move_on_at(deadline) as patience:
                await synced.wait()
            if patience.cancelled_caught:
                return None


def _concerning(found: Found, interests: Interests) -> frozenset[int]:
    places = sorted(found)
    return frozenset(places[number] for number in interests.within([found[place] for place in places]))
