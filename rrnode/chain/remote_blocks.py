"""What blocks hold that concerns us, by the word of several helpers: proofs joined, silence noticed, latecomers heard.

A helper that could not answer in time for a block is asked again when it is back: one honest helper is enough even when it
was away while liars answered.
"""

from collections.abc import Awaitable, Callable, Iterator, Set
from dataclasses import dataclass, field

import structlog
import trio

from protocols.ids import PeerId
from protocols.light.agreement import agree
from protocols.light.headers import Header, HeaderChain
from protocols.units import BlockHeight
from protocols.wire.chain import GetMatches, Matches, RefusalCode, Refused
from rrnode.chain.base import NO_INTERESTS, Interests
from rrnode.chain.evidence import BadProof, included, shown, signed_for
from rrnode.chain.parse import Output, Tx
from rrnode.services.helpers import Helper

BEHIND_WAIT = 3.0  # seconds that a helper gets to hear of a block that another one has
BLOCKS_KEPT = 144  # that latecomers are asked about: as far back as the follower can begin anew

Found = dict[int, Tx]  # by place in the block
AskAll = Callable[[Callable[[Helper], Awaitable[Found | None]]], Awaitable[dict[Helper, Found]]]

log = structlog.get_logger("rrnode.chain")


@dataclass(slots=True)
class _Asked:
    """A block that was asked about.

    Attributes:
        heard: who answered.
        late: what was proven by who came late.
    """

    height: BlockHeight
    heard: set[PeerId]
    found: frozenset[int]
    late: Found = field(default_factory=dict)


class RemoteBlocks:
    """Reads blocks through helpers.

    Args:
        headers: the best chain.
        least: k.
        ask_all: asks those helpers that are ready; raises ChainUnavailable when none answers.
        output: one that a block made, as far as we saw it proven.
        reread: called when more is proven of a block than an earlier reader of it was told.
    """

    def __init__(
        self,
        headers: HeaderChain,
        *,
        least: int,
        ask_all: AskAll,
        output: Callable[[bytes], Output | None],
        reread: Callable[[BlockHeight], None],
    ) -> None:
        self._headers, self._least, self._ask_all = headers, least, ask_all
        self._output, self._reread = output, reread
        self._interests = NO_INTERESTS
        self._asked: dict[bytes, _Asked] = {}  # the highest ones

    async def read(self, header: Header, height: BlockHeight, interests: Interests) -> tuple[Tx, ...]:
        """What of a block of the best chain concerns the interests, in its order. Raises ChainUnavailable."""
        self._interests = interests
        answers = await self._ask_all(lambda helper: self._matches(helper, header, height, interests))
        before = self._asked.get(header.hash)
        proven = dict(before.late) if before is not None else {}
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
        if before is not None and heard - before.heard and places - before.found - before.late.keys():
            self._reread(height)
        self._asked[header.hash] = _Asked(height, heard, places, before.late if before is not None else {})
        while len(self._asked) > BLOCKS_KEPT:
            del self._asked[min(self._asked, key=lambda each: self._asked[each].height)]
        return tuple(proven[place] for place in sorted(places))

    def doubtful(self, relied_on: Set[PeerId]) -> BlockHeight | None:
        """The lowest block of the best chain that fewer than k of these answered for, if any."""
        return min(
            (asked.height for asked, _ in self._standing() if len(asked.heard & relied_on) < self._least), default=None
        )

    def _standing(self) -> Iterator[tuple[_Asked, Header]]:
        """Those that are still in the best chain."""
        for block_hash, asked in tuple(self._asked.items()):
            header = self._headers.at(asked.height)
            if header is not None and header.hash == block_hash:
                yield asked, header

    async def ask_late(self, helper: Helper) -> None:
        """Ask a helper about the blocks that it did not answer for.

        Raises:
            BadProof: see `included`.
        """
        for asked, header in self._standing():
            if helper.peer in asked.heard:
                continue
            told = await self._matches(helper, header, asked.height, self._interests)
            if told is None:
                break
            asked.heard.add(helper.peer)
            if new := _concerning(told, self._interests) - asked.found:
                log.warning("chain.told_late", height=asked.height, transactions=len(new))
                asked.late |= {place: told[place] for place in new}
                self._reread(asked.height)  # at once: its stream may end before the next block

    async def _matches(self, helper: Helper, header: Header, height: BlockHeight, interests: Interests) -> Found | None:
        deadline = trio.current_time() + BEHIND_WAIT
        while True:
            synced = helper.synced
            if not await helper.watch(interests):
                return None
            answer = await helper.ask(lambda number: GetMatches(number, header.hash))
            if isinstance(answer, Matches) and answer.block_hash == header.hash:
                found = {proven.index: included(proven, header, height) for proven in answer.transactions}
                if len(_concerning(found, helper.watched)) < len(answer.transactions):
                    raise BadProof(f"it sent transactions of block {height} that it was not asked for")
                txs = [found[place] for place in sorted(found)]
                spent = {place: output for tx in txs for place in tx.prevouts if (output := self._output(place))}
                signed_for(txs, spent, height)
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
