"""Several nodes' views of one payment as one story: what one sent and another got is one happening, and causes come first.

Clocks of nodes differ, and a database knows seconds only, so time alone does not order: each node's own order is kept, and
what was sent stands before what followed from it (Lamport, 1978).
"""

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from protocols.routing.views import Drop
from tools.trace.gather import Seen
from tools.trace.past import Step

# How a step of one node is an arrow: its family, and whether the node is where it begins.
_ARROWS = {
    "quote": ("offer", True),
    "offer": ("offer", False),
    "subscribed": ("subscribe", False),
    "lock_out": ("lock", True),
    "lock_in": ("lock", False),
    "settle_out": ("settle", True),
    "settle_in": ("settle", False),
    "fail_out": ("fail", True),
    "fail_in": ("fail", False),
}
_SHORT_ID = 6  # last characters of a peer id


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One thing that happened, at one node or between two.

    Attributes:
        kind: "offer", "subscribe", "lock", "settle" or "fail" between two; else a kind of `Step`, or "again", at one.
        node: where, or from whom.
        to: to whom; "" at one node.
        other: a neighbour that it is about; "" else.
        kept, text: what the receiver of an offer did with it, and why; None when it was not asked.
    """

    at_ms: int
    exact: bool
    kind: str
    node: str
    to: str = ""
    other: str = ""
    amount: int | None = None
    blocks: int | None = None
    kept: bool | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Everything about one payment.

    Attributes:
        nodes: those that were asked.
        columns: names of all that appear, from the payer to the payee as far as it is known.
        happenings: causes first.
    """

    payment_hash: str
    nodes: tuple[Seen, ...]
    columns: tuple[str, ...]
    happenings: tuple[Happening, ...]


def story_of(payment_hash: str, nodes: Sequence[Seen]) -> Story:
    """Put the views of these nodes together."""
    names = {each.peer_id: each.name for each in nodes if each.peer_id}
    merged = _Merge({each.name for each in nodes if each.runs})
    for seen in nodes:
        merged.node([_happening(seen.name, step, names) for step in seen.steps])
    happenings = merged.in_order()
    return Story(
        payment_hash=payment_hash,
        nodes=tuple(nodes),
        columns=_columns(nodes, happenings),
        happenings=happenings,
    )


def name_of(peer_id: str, names: dict[str, str]) -> str:
    """A node that was asked by its name, others by the end of their id."""
    return names.get(peer_id) or (f"…{peer_id[-_SHORT_ID:]}" if peer_id else "")


def _happening(node: str, step: Step, names: dict[str, str]) -> tuple[Happening, bool]:
    """A step as a happening, and whether this node is where an arrow begins."""
    peer = name_of(step.peer, names)
    told = Happening(
        at_ms=step.at_ms,
        exact=step.exact,
        kind=step.kind,
        node=node,
        other=peer,
        amount=step.amount,
        blocks=step.blocks,
        kept=step.kept,
        text=step.text,
    )
    family, begins = _ARROWS.get(step.kind, ("", False))
    if not family or not peer or step.text == Drop.EVICTED.value:
        return told, False
    frm, to = (node, peer) if begins else (peer, node)
    return replace(told, kind=family, node=frm, to=to, other=""), begins


_Key = tuple[str, str, str, int | None, bool]  # kind, from, to, amount, whether it is where the arrow begins


class _Merge:
    """Joins the two ends of arrows, then orders.

    Args:
        running: names of nodes that told what they sent.
    """

    def __init__(self, running: set[str]) -> None:
        self._running = running
        self._all: list[Happening] = []
        self._chains: list[list[int]] = []  # numbers of each node's own happenings, in its order
        self._open: dict[_Key, list[int]] = {}  # arrows of which one end was told, by which end that was

    def node(self, steps: Iterable[tuple[Happening, bool]]) -> None:
        """Take in one node's view."""
        chain = []
        for told, begins in steps:
            key = (told.kind, told.node, told.to, told.amount if told.kind in ("offer", "lock") else None)
            waiting = self._open.get((*key, not begins)) if told.to else None
            if waiting:
                number = waiting.pop(0)
                self._all[number] = _both_ends(told, self._all[number], begins)
            else:
                number = len(self._all)
                self._all.append(told)
                if told.to:
                    self._open.setdefault((*key, begins), []).append(number)
            chain.append(number)
        self._chains.append(chain)

    def in_order(self) -> tuple[Happening, ...]:
        """Causes first, else by time (Kahn's algorithm over the nodes' own orders)."""
        self._name_repeats()
        after: dict[int, list[int]] = {}
        waits = [0] * len(self._all)
        for chain in self._chains:
            for one, next_one in itertools.pairwise(chain):
                after.setdefault(one, []).append(next_one)
                waits[next_one] += 1
        left = set(range(len(self._all)))
        ready = [(self._all[number].at_ms, number) for number in left if not waits[number]]
        heapq.heapify(ready)
        order: list[Happening] = []
        while left:
            if not ready:  # ends were joined that do not belong together: time decides
                ready = [min((self._all[number].at_ms, number) for number in left)]
            _, number = heapq.heappop(ready)
            if number not in left:
                continue
            left.discard(number)
            order.append(self._all[number])
            for following in after.get(number, ()):
                waits[following] -= 1
                if not waits[following]:
                    heapq.heappush(ready, (self._all[following].at_ms, following))
        return tuple(order)

    def _name_repeats(self) -> None:
        """An offer that was judged, while the node that made it told of no other like it, was set aside and looked at again."""
        for (kind, frm, _, _, begins), numbers in self._open.items():
            if kind == "offer" and not begins and frm in self._running:
                for number in numbers:
                    told = self._all[number]
                    self._all[number] = replace(told, kind="again", node=told.to, to="", other=told.node)


def _both_ends(one: Happening, other: Happening, one_begins: bool) -> Happening:
    """The time is the sender's, unless only the receiver's is exact; what became of it, the receiver says."""
    sent, got = (one, other) if one_begins else (other, one)
    time = got if got.exact and not sent.exact else sent
    return replace(
        sent,
        at_ms=time.at_ms,
        exact=time.exact,
        blocks=sent.blocks if sent.blocks is not None else got.blocks,
        kept=got.kept,
        text=got.text or sent.text,
    )


def _columns(nodes: Sequence[Seen], happenings: Sequence[Happening]) -> tuple[str, ...]:
    """From the payer along the locks to the payee; the others where they make arrows longest least."""
    payers = [each.name for each in nodes if each.payment is not None or _did(each, "want")]
    payees = [each.name for each in nodes if each.promise is not None or _did(each, "ask")]
    locks = [each for each in happenings if each.kind == "lock"]
    way = dict.fromkeys((*payers, *(name for each in locks for name in (each.node, each.to))))
    order = [name for name in way if name not in payees] + payees
    arrows = [(each.node, each.to) for each in happenings if each.to]
    first, last = len(payers[:1]), len(payees[:1])
    for name in dict.fromkeys(name for each in happenings for name in (each.node, each.to) if name):
        if name not in order:
            options = [
                [*order[:place], name, *order[place:]] for place in range(min(first, len(order)), len(order) - last + 1)
            ]
            order = min(options, key=lambda option: _length(option, arrows))
    appear = {name for each in happenings for name in (each.node, each.to)}
    return tuple(name for name in dict.fromkeys(order) if name in appear)


def _length(order: list[str], arrows: Sequence[tuple[str, str]]) -> int:
    place = {name: number for number, name in enumerate(order)}
    return sum(abs(place[one] - place[other]) for one, other in arrows if one in place and other in place)


def _did(seen: Seen, kind: str) -> bool:
    return any(step.kind == kind for step in seen.steps)
