"""The crawl: from a few addresses to everyone whom their lists lead to, and to its end whatever they answer.

What a liar can do is bounded: nodes, seconds, seconds for each node, how many are heard of, in all and from one network, and
how many identities tellers in one network have us seek at one place. Those networks take turns, so that whoever invents a
thousand nodes does not push out what others tell of. A teller's network is where it answered: where it says to be is free.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from bootstrap.join import group_of
from bootstrap.known import dialable
from bootstrap.networks import Network
from protocols.errors import PeerProtocolError
from protocols.ids import PeerId
from protocols.node_record import NodeRecord, Refusal, ToldChannel
from rrnode.errors import LinkClosed, Unreachable
from rrnode.host.base import Host
from rrnode.host.peer_text import join_address, split_address
from rrnode.services.asking import Meeting, asking, meet
from rrnode.services.limits import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Attributes:
    nodes: that are dialled.
    heard: that are noted, dialled or not; from tellers in one network a quarter.
    seconds: for all.
    each: seconds for one node, whatever it answers.
    at_once: dialled at a time.
    at_one_place: identities that are sought at one address for the word of one network; an honest node has one.
    """

    nodes: int = 500
    heard: int = 5_000
    seconds: float = 120.0
    each: float = 20.0
    at_once: int = 8
    at_one_place: int = 4


@dataclass(slots=True)
class Seen:
    """One node.

    Attributes:
        addresses: where it was dialled or might have been, with `/p2p`.
        dialled: whether it was tried.
        met: when it answered.
        record: its newest, from itself or passed on; None without any.
        knows: whom it told of.
        problem: why it did not answer, or not all that it was asked.
    """

    peer: PeerId
    addresses: tuple[str, ...] = ()
    dialled: bool = False
    met: Meeting | None = None
    record: NodeRecord | None = None
    knows: set[PeerId] = field(default_factory=set)
    problem: str = ""

    @property
    def channels(self) -> tuple[ToldChannel, ...]:
        """Those that it tells of."""
        return self.met.about.channels if self.met is not None and self.met.about is not None else ()


class _Queue:
    """Whom to dial next: one teller's network after the other, within each who was heard of first."""

    def __init__(self) -> None:
        self._groups: dict[str, deque[Seen]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def put(self, seen: Seen, network: str) -> None:
        self._groups.setdefault(network, deque()).append(seen)

    def take(self) -> Seen:
        network = next(iter(self._groups))
        waiting = self._groups.pop(network)
        seen = waiting.popleft()
        if waiting:
            self._groups[network] = waiting
        return seen


class Crawl:
    """One crawl; `run` carries it out, and whatever was found stands here at any time.

    Attributes:
        nodes: everyone heard of, by key.
        refused: records that counted for nothing.
        dropped: records beyond the limits.
        ended: why it ended before all were dialled; "" when it did not.
    """

    def __init__(
        self, host: Host, network: Network, *, limits: Limits | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._host, self._network, self._clock = host, network, clock
        self._limits = limits or Limits()
        self.nodes: dict[PeerId, Seen] = {}
        self.refused: Counter[Refusal] = Counter()
        self.dropped = 0
        self.ended = ""
        self._queue = _Queue()
        self._places: Counter[tuple[str, str]] = Counter()  # by address and teller's network
        self._told: Counter[str] = Counter()  # nodes first heard of from a network
        self._dialled = 0
        self._changed = trio.Event()

    @property
    def waiting(self) -> int:
        """Nodes that could still be dialled."""
        return len(self._queue)

    async def run(self, roots: Sequence[str]) -> None:
        """Crawl from these addresses. Raises DecodeError when one of them is none."""
        for address in roots:
            where, peer = split_address(address)
            self._hear_of(peer, (where,))
        busy = 0

        async def visit(seen: Seen) -> None:
            nonlocal busy
            try:
                with trio.move_on_after(self._limits.each) as patience:
                    await self._visit(seen)
                if patience.cancelled_caught:
                    seen.problem = f"not all was answered within {self._limits.each:g} s"
                with trio.move_on_after(self._limits.each):
                    await self._host.disconnect(seen.peer, "seen enough")
            finally:
                busy -= 1
                self._changed.set()

        with trio.move_on_after(self._limits.seconds) as time_left:
            async with trio.open_nursery() as nursery:
                while (self._queue or busy) and not self.ended:
                    self._changed = trio.Event()
                    while self._queue and busy < self._limits.at_once:
                        if self._dialled >= self._limits.nodes:
                            self.ended = f"{self._limits.nodes} nodes were dialled"
                            break
                        busy += 1
                        self._dialled += 1
                        nursery.start_soon(visit, self._queue.take())
                    if busy:
                        await self._changed.wait()
        if time_left.cancelled_caught:
            self.ended = f"{self._limits.seconds:g} s were over"

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _visit(self, seen: Seen) -> None:
        seen.dialled = True
        for address in seen.addresses:
            try:
                met = await meet(self._host, address, network=self._network.genesis, clock=self._clock, channels=True)
            except Unreachable as error:
                seen.problem = printable(str(error))
                continue
            seen.met, seen.problem = met, met.problem
            if met.about is not None:
                seen.record = met.about.record
                await self._ask_for_others(seen)
            return

    async def _ask_for_others(self, seen: Seen) -> None:
        try:
            async with asking(self._host, seen.peer, network=self._network.genesis, clock=self._clock) as asker:
                heard = await asker.others()
        except (LinkClosed, PeerProtocolError) as error:
            seen.problem = printable(str(error))
            return
        self.refused += heard.refused
        anywhere = self._network.name == "regtest"
        for record, _ in heard.records:
            if self._hear_of(record.node, dialable(record.addresses, anywhere=anywhere), record, seen):
                seen.knows.add(record.node)

    def _hear_of(
        self, peer: PeerId, places: Sequence[str], record: NodeRecord | None = None, teller: Seen | None = None
    ) -> bool:
        """Note a node, and dial it later if it is new; whether it is noted."""
        seen = self.nodes.get(peer)
        if seen is not None:
            if record is not None and seen.record is not None and seen.record.made < record.made:
                seen.record = record
                if not seen.dialled and places:
                    seen.addresses = tuple(join_address(each, peer) for each in places)
            seen.record = seen.record or record
            return True
        network = group_of(teller.met.link.address) if teller is not None and teller.met is not None else ""
        most = self._limits.heard if teller is None else self._limits.heard // 4
        if peer == self._host.peer_id or len(self.nodes) >= self._limits.heard or self._told[network] >= most:
            self.dropped += 1
            return False
        self._told[network] += 1
        self._note(peer, places, record, network)
        return True

    def _note(self, peer: PeerId, places: Sequence[str], record: NodeRecord | None, network: str) -> None:
        sought = [each for each in places if self._places[each, network] < self._limits.at_one_place]
        self._places.update((each, network) for each in sought)
        seen = Seen(peer=peer, addresses=tuple(join_address(each, peer) for each in sought), record=record)
        self.nodes[peer] = seen
        if sought:
            self._queue.put(seen, network)
        else:
            seen.problem = "it gives no address that could be dialled"
