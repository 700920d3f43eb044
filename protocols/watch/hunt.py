"""A hunter's case: one breach, what is known of it, and what blocks did to its outputs.

Source: DESIGN 7. Only chain facts are in it; what to do follows from them anew, so a reorganisation is nothing special.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

from protocols.errors import DecodeError
from protocols.ids import Txid
from protocols.onchain import tx
from protocols.units import BlockHeight, Sat, UnixTime
from protocols.watch import pairs, remedy
from protocols.watch.pairs import Pair

PATIENCE = (
    4032  # blocks after which a case is given up of which nobody takes the last output, or whose breach stays away
)


class Outcome(Enum):
    """How a case stands. The value is for people."""

    HUNTING = "hunting"
    WON = "won"
    SHARED = "won in part"
    LOST = "lost"
    GONE = "the breach is gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An output with a bounty that a block has spent.

    Attributes:
        ours: by a claim of ours.
        reward: what that claim pays us, for all its outputs together; 0 when it is not ours.
    """

    index: int
    spender: Txid
    height: BlockHeight
    ours: bool
    reward: Sat


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A breach.

    Attributes:
        breach: the whole revoked commitment.
        remedies: opened ones whose pairs hold, as bytes: they may be withdrawn or dropped meanwhile.
        script: where our reward goes; a transaction that pays it is ours.
        opened_at: height when it was opened.
        height: of the breach; None while no block holds it.
        taken: outputs that blocks have spent.
        claim, claim_fee: what we published last; empty before.
        closed: everything is buried, or given up.
    """

    txid: Txid
    breach: bytes
    remedies: tuple[bytes, ...]
    script: bytes
    first_seen: UnixTime
    opened_at: BlockHeight
    height: BlockHeight | None = None
    taken: tuple[Taken, ...] = ()
    claim: Txid | None = None
    claim_fee: Sat = Sat(0)
    closed: bool = False

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """One per output that has one, the larger bounty where there are several."""
        return _pairs(self.breach, self.remedies)

    @property
    def open_pairs(self) -> tuple[Pair, ...]:
        """Those that no block has taken."""
        gone = {each.index for each in self.taken}
        return tuple(pair for pair in self.pairs if pair.index not in gone)

    @property
    def places(self) -> tuple[bytes, ...]:
        """Every output of the breach, 36 bytes each."""
        return tuple(tx.outpoint(self.txid, index) for index in range(len(tx.parse(self.breach).outputs)))

    @property
    def reward(self) -> Sat:
        """What blocks have paid us."""
        return Sat(sum({each.spender: each.reward for each in self.taken}.values()))

    @property
    def lost(self) -> int:
        """How many outputs somebody else has taken: a rival, the victim or the cheat."""
        return sum(not each.ours for each in self.taken)

    @property
    def outcome(self) -> Outcome:
        """How it stands."""
        if not self.closed:
            return Outcome.HUNTING
        if not self.taken:
            return Outcome.GONE
        if not self.lost:
            return Outcome.WON
        return Outcome.SHARED if self.lost < len(self.taken) else Outcome.LOST


@lru_cache(maxsize=64)
def _pairs(breach: bytes, remedies: tuple[bytes, ...]) -> tuple[Pair, ...]:
    best: dict[int, Pair] = {}
    parsed = tx.parse(breach)
    for plain in remedies:
        for pair in pairs.check(remedy.decode(plain), parsed):
            if pair.index not in best or best[pair.index].bounty < pair.bounty:
                best[pair.index] = pair
    return tuple(best[index] for index in sorted(best))


def useful(breach: bytes, sealed: Iterable[bytes]) -> tuple[bytes, ...]:
    """Of what is filed under a transaction's hint, those that open and offer more for one of its outputs than those before.

    Anybody may file anything there: rubbish costs its opening, and what is kept is at most one remedy per output and raise.
    """
    best: dict[int, Sat] = {}
    kept = []
    parsed = tx.parse(breach)
    for each in sealed:
        try:
            found = remedy.unseal(each, parsed.txid())
        except DecodeError:
            continue
        held = [pair for pair in pairs.check(found, parsed) if pair.bounty > best.get(pair.index, Sat(0))]
        if held:
            kept.append(remedy.encode(found))
            best |= {pair.index: pair.bounty for pair in held}
    return tuple(kept)


def confirmed(case: Case, height: BlockHeight) -> Case:
    """A block holds the breach."""
    return replace(case, height=height)


def spent(case: Case, by: Txid, prevouts: Iterable[bytes], reward: Sat, height: BlockHeight) -> Case:
    """A block spends outputs of the breach.

    Args:
        prevouts: what that transaction spends, 36 bytes each.
        reward: what it pays to the case's script.
    """
    wanted = {tx.outpoint(case.txid, pair.index): pair.index for pair in case.pairs}
    taken = tuple(
        Taken(index=wanted[place], spender=by, height=height, ours=reward > 0, reward=reward)
        for place in prevouts
        if place in wanted
    )
    known = {each.index for each in taken}
    return replace(case, taken=(*(each for each in case.taken if each.index not in known), *taken))


def undone(case: Case, fork: BlockHeight) -> Case:
    """Blocks above this height are gone."""
    return replace(
        case,
        height=None if case.height is not None and case.height > fork else case.height,
        taken=tuple(each for each in case.taken if each.height <= fork),
    )


def settled(case: Case, tip: BlockHeight, depth: int) -> Case:
    """Closed, when everything is buried under `depth` blocks, or has been waited for in vain."""
    last = max((each.height for each in case.taken), default=tip)
    buried = not case.open_pairs and tip - last + 1 >= depth
    return replace(case, closed=True) if buried or tip - case.opened_at > PATIENCE else case
