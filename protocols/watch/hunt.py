"""A hunter's case: one breach, what is known of it, and what blocks did to its outputs.

Source: DESIGN 7. Chain facts are in it and what we published; what to do follows from them anew, so a reorganisation is
nothing special.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from protocols.errors import DecodeError
from protocols.ids import Txid
from protocols.onchain import tx
from protocols.units import BlockHeight, Sat, UnixTime
from protocols.watch import pairs as signed
from protocols.watch import remedy
from protocols.watch.pairs import Pair

PATIENCE = (
    4032  # blocks after which a case is given up of which nobody takes the last output, or whose breach stays away
)
MOST_CLAIMS = 1000  # txids kept of one case; what was published before those was replaced long ago by what pays more
MOST_OUTPUTS = remedy.MAX_HTLCS + 3  # of a commitment: both balances and the anchor; nothing larger is hunted


class Outcome(Enum):
    """How a case stands. The value is for people."""

    HUNTING = "hunting"
    WON = "won"
    SHARED = "won in part"
    LOST = "lost"
    GONE = "the breach is gone"
    LEFT = "left for want of room"


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
        pairs: that hold, one per output: remedies may be withdrawn or dropped meanwhile, and checking one takes milliseconds.
        script: where our reward goes. Rivals know it from our first claim on, so that it is paid proves nothing.
        opened_at: height when it was opened, or when a reorganisation took the breach back.
        height: of the breach; None while no block holds it.
        taken: outputs that blocks have spent.
        claims: what we published or were about to, the last ones: what is ours.
        claim, claim_fee: what we published last; empty before.
        closed: everything is buried, or given up.
        left: closed because others, which pay more, need the room.
    """

    txid: Txid
    breach: bytes
    pairs: tuple[Pair, ...]
    script: bytes
    first_seen: UnixTime
    opened_at: BlockHeight
    height: BlockHeight | None = None
    taken: tuple[Taken, ...] = ()
    claims: tuple[Txid, ...] = ()
    claim: Txid | None = None
    claim_fee: Sat = Sat(0)
    closed: bool = False
    left: bool = False

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
        if self.left:
            return Outcome.LEFT
        if not self.taken:
            return Outcome.GONE
        if not self.lost:
            return Outcome.WON
        return Outcome.SHARED if self.lost < len(self.taken) else Outcome.LOST


def offers(breach: tx.Tx, sealed: bytes, best: Mapping[int, Pair]) -> dict[int, Pair]:
    """The pairs of a sealed remedy that hold and offer more for their output than the best so far; {} for rubbish.

    Anybody may file anything: rubbish costs its opening, and a signature is checked only where it would bring something.
    """
    try:
        found = remedy.unseal(sealed, breach.txid())
    except DecodeError:
        return {}
    known = {index: pair.bounty for index, pair in best.items()}
    return {pair.index: pair for pair in signed.check(found, breach, above=known)}


def improved(case: Case, pairs: Iterable[Pair]) -> Case:
    """With these as well, where they offer more."""
    best = {pair.index: pair for pair in case.pairs}
    for pair in pairs:
        if pair.index not in best or best[pair.index].bounty < pair.bounty:
            best[pair.index] = pair
    return replace(case, pairs=tuple(best[index] for index in sorted(best)))


def claimed(case: Case, claim: Txid) -> Case:
    """A claim is about to be published; whether it is taken is not known yet, and after a crash may never be."""
    return case if claim in case.claims else replace(case, claims=(*case.claims, claim)[-MOST_CLAIMS:])


def reopened(case: Case, tip: BlockHeight) -> Case:
    """A closed one whose breach is seen again. What blocks did to it is told anew from the breach on."""
    return replace(case, closed=False, left=False, height=None, taken=(), opened_at=tip)


def confirmed(case: Case, height: BlockHeight) -> Case:
    """A block holds the breach."""
    return replace(case, height=height)


def spent(case: Case, by: Txid, prevouts: Iterable[bytes], reward: Sat, height: BlockHeight) -> Case:
    """A block spends outputs of the breach.

    Args:
        prevouts: what that transaction spends, 36 bytes each.
        reward: what it pays to the case's script; of no matter when it is not ours, for anybody may pay that.
    """
    wanted = {tx.outpoint(case.txid, pair.index): pair.index for pair in case.pairs}
    ours = by in case.claims
    taken = tuple(
        Taken(index=wanted[place], spender=by, height=height, ours=ours, reward=reward if ours else Sat(0))
        for place in prevouts
        if place in wanted
    )
    known = {each.index for each in taken}
    return replace(case, taken=(*(each for each in case.taken if each.index not in known), *taken))


def undone(case: Case, fork: BlockHeight) -> Case:
    """Blocks above this height are gone."""
    kept = replace(case, taken=tuple(each for each in case.taken if each.height <= fork))
    if case.height is None or case.height <= fork:
        return kept
    return replace(kept, height=None, opened_at=max(case.opened_at, fork))


def settled(case: Case, tip: BlockHeight, depth: int) -> Case:
    """Closed, when everything is buried under `depth` blocks, or has been waited for in vain: since the breach was confirmed,
    for one that lay in mempools long before can be claimed for as long as any other."""
    last = max((each.height for each in case.taken), default=tip)
    buried = not case.open_pairs and tip - last + 1 >= depth
    since = case.opened_at if case.height is None else case.height
    return replace(case, closed=True) if buried or tip - since > PATIENCE else case
