"""What several helpers are worth together: when a negative fact holds, which fee estimate is taken, and each one's record.

A positive fact comes with proof and needs one helper. A negative one ("nothing in this block concerns you", "not spent")
holds when at least k helpers answered by the deadline and none of them proved the contrary: one honest helper among those
that answered is enough. Source: DESIGN 8.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Generic, TypeVar

from protocols.ids import PeerId
from protocols.units import BlockHeight, FeeRate

Fact = TypeVar("Fact", bound=Hashable)

LAG_ALLOWED = 1  # blocks: the newest one travels a while
FAR_APART = 4  # an estimate so many times above or below the one that is taken counts as a disagreement


@dataclass(frozen=True, slots=True)
class Agreed(Generic[Fact]):
    """What is known, and who was silent on a part of it.

    Attributes:
        facts: everything that one of them proved.
        missing: of those that answered, who did not tell what another proved.
        complete: whether it holds that there is no more. What is proven is acted upon in any case.
    """

    facts: frozenset[Fact]
    missing: dict[PeerId, frozenset[Fact]]
    complete: bool


def agree(answers: Mapping[PeerId, frozenset[Fact]], least: int, also: Iterable[frozenset[Fact]] = ()) -> Agreed[Fact]:
    """Join what helpers proved; that there is no more holds only when enough of them answered.

    Args:
        answers: of those that answered by the deadline: what each proved, possibly nothing.
        least: k, how many must have answered.
        also: proven by helpers whose silence counts for nothing, because they were caught lying.
    """
    facts = frozenset[Fact]().union(*answers.values(), *also)
    missing = {peer: facts - told for peer, told in answers.items() if facts - told}
    return Agreed(facts, missing, len(answers) >= least)


def choose_feerate(estimates: Sequence[FeeRate], floor: FeeRate, cap: FeeRate) -> FeeRate:
    """The middle estimate within bounds, of two middle ones the higher: late is worse than dear, and the cap bounds dear.

    With three helpers or more no single one can move it beyond what two others say. With two, one can raise it to the cap.

    Args:
        estimates: at least one.
    """
    return min(max(sorted(estimates)[len(estimates) // 2], floor), cap)


def is_far_apart(estimate: FeeRate, chosen: FeeRate) -> bool:
    """Whether an estimate differs so much from the one that is taken that people should know."""
    return estimate * FAR_APART < chosen or estimate > chosen * FAR_APART


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperStatus:
    """What people see of a helper (`rrnode helpers`).

    Attributes:
        height: of the best block whose header it showed us; None before the first.
        lag: blocks that it is behind the best chain we know; None while nothing is known.
        answers, silences, refusals: requests by how they ended; a silence is a deadline missed.
        disagreements: answers that differ from others' in what cannot be proven.
        lies: answers that are proven wrong. `last_lie` is the last one in words.
        trouble: why its answers do not count now, for people; empty when they do.
        related: why its silence counts for nothing although it never lied, for people: it may be one with the cheat.
    """

    peer: PeerId
    connected: bool
    height: BlockHeight | None
    lag: int | None
    answers: int
    silences: int
    refusals: int
    disagreements: int
    last_disagreement: str
    lies: int
    last_lie: str
    trouble: str
    related: str = ""

    @property
    def looks_out(self) -> bool:
        """Whether an honest helper in this place would tell us now what happens."""
        return self.connected and not self.trouble and not self.lies and (self.lag or 0) <= LAG_ALLOWED


@dataclass(slots=True)
class Standing:
    """The record of one helper; counts only grow."""

    peer: PeerId
    connected: bool = False
    height: BlockHeight | None = None
    answers: int = 0
    silences: int = 0
    refusals: int = 0
    disagreements: int = 0
    last_disagreement: str = ""
    lies: int = 0
    last_lie: str = ""
    trouble: str = field(default="not connected")
    related: str = ""

    def disagreed(self, what: str) -> None:
        """It differs from others where nobody can be proven wrong."""
        self.disagreements += 1
        self.last_disagreement = what

    def lied(self, what: str) -> None:
        """It said what is proven wrong. `what` is a sentence for people."""
        self.lies += 1
        self.last_lie = what

    def status(self, best: BlockHeight) -> HelperStatus:
        """As it is now, against the best chain that we know."""
        lag = None if self.height is None else max(0, best - self.height)
        return HelperStatus(lag=lag, **{each.name: getattr(self, each.name) for each in fields(self)})
