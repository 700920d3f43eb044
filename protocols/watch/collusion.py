"""Who would have to act together to rob us of a channel: the smallest sets of parties, and how much each could take.

The neighbour is in each of them: only it holds our signatures. Beyond that one honest guard is enough (DESIGN 7, 8).
Publishing an old state fails if one watcher that holds the remedy is honest, or if we are there and see it: by our own
chain, or because one honest helper tells. Against letting the payments in flight run out unclaimed no watcher helps, only
that we are there and see it. Those who belong together are one party (DESIGN 2).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from protocols.ids import PeerId
from protocols.units import Msat

Party = frozenset[PeerId]


class When(Enum):
    """Where we are meanwhile."""

    AWAY = "this node is away"
    UP = "this node is up"


class Means(Enum):
    """How it is done. The value completes "could take it by"."""

    OLD_STATE = "publishing an old state of the channel"
    IN_FLIGHT = "letting the payments in flight run out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A channel, and who stands between its neighbour and our money.

    Attributes:
        ours: what is ours and in no HTLC.
        in_flight: in HTLCs, either way: what we offered may come back, what we are offered may be claimed.
        old_states: how many states the neighbour has revoked, and could publish all the same.
        holders: watchers that hold the remedies of them all.
        helpers: who would tell us of what happens on the chain now; None: we read it ourselves.
    """

    neighbour: PeerId
    ours: Msat
    in_flight: Msat
    old_states: int
    holders: frozenset[PeerId] = frozenset()
    helpers: frozenset[PeerId] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Collusion:
    """A set of parties that suffices, none of whom could be missing.

    Attributes:
        parties: each a group of peers who seem to belong together; of a group only those who matter here.
        at_stake: the most that they could take. An old state may have been less in their favour.
    """

    when: When
    means: Means
    parties: frozenset[Party]
    at_stake: Msat


def smallest(guarded: Guarded, groups: Iterable[frozenset[PeerId]] = ()) -> tuple[Collusion, ...]:
    """The sets that suffice, fewest parties first; none that another one makes needless: no more parties, and no less to
    take.

    Args:
        groups: of peers who belong together; whoever is in none is alone. No peer is in two.
    """
    group_of = {peer: group for group in groups for peer in group}
    found = []
    for when, means, peers, at_stake in _ways(guarded):
        whole = frozenset(group_of.get(peer, frozenset((peer,))) for peer in peers)
        parties = frozenset(group & peers for group in whole)
        found.append((Collusion(when=when, means=means, parties=parties, at_stake=at_stake), whole))
    found.sort(key=lambda each: (len(each[1]), -each[0].at_stake, each[0].when.name))
    kept: list[tuple[Collusion, frozenset[Party]]] = []
    for each, whole in found:  # whoever makes it needless stands before it
        needless = any(
            other.when is each.when and theirs <= whole and other.at_stake >= each.at_stake for other, theirs in kept
        )
        if each.at_stake and not needless:
            kept.append((each, whole))
    return tuple(each for each, _ in kept)


def _ways(guarded: Guarded) -> Iterator[tuple[When, Means, frozenset[PeerId], Msat]]:
    """Each way, and everybody whom it takes."""
    everything = Msat(guarded.ours + guarded.in_flight) if guarded.old_states else Msat(0)
    alone = frozenset((guarded.neighbour,))
    yield When.AWAY, Means.OLD_STATE, alone | guarded.holders, everything
    yield When.AWAY, Means.IN_FLIGHT, alone, guarded.in_flight
    if guarded.helpers is not None:
        yield When.UP, Means.OLD_STATE, alone | guarded.holders | guarded.helpers, everything
        yield When.UP, Means.IN_FLIGHT, alone | guarded.helpers, guarded.in_flight
