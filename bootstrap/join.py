"""A plan for joining a network: whom to try next, when it is enough, how long to wait. Pure: times and chance are given.

The order is drawn once from the caller's entropy, so that not everybody knocks at the first name of a list; unrelated
relays come before related ones (DESIGN 2: the same operator, IPv4 /16 or IPv6 /32), so that nobody who runs many of them
surrounds a newcomer. Whoever did not answer is tried again later and later.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import zip_longest

from bootstrap.addresses import block_of, first_part, number_of
from bootstrap.relays import Relay

MOST_KNOWN = 512  # relays in a plan: the shipped ones, the user's, and all of a table
ENOUGH_SILENT = 8  # relays that do not answer before a person is told: whatever is wrong, it is not theirs
HOPELESS = 3  # failures in a row after which an unrelated relay no longer holds back related ones


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPolicy:
    """Attributes:
    enough: links to unrelated relays with which a node is part of the network. Three: one that lies and one that
        fails leave one.
    at_once: dials under way at a time; more would only be refused together.
    first_wait, longest_wait: milliseconds before a relay is tried again, doubling from one to the other, each wait
        shortened by up to half by chance, so that nodes that lost the same relay do not come back together.
    """

    enough: int = 3
    at_once: int = 2
    first_wait: int = 2_000
    longest_wait: int = 900_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A relay in the plan.

    Attributes:
        failures: dials in a row that came to nothing.
        again_at: not to be tried before, in the caller's milliseconds.
        listed: it stood in the list that ships or that the user wrote, not only in what others told.
        at: while it is linked, the address at which it is: of the others there is only its word.
    """

    relay: Relay
    failures: int = 0
    again_at: int = 0
    listed: bool = False
    dialling: bool = False
    linked: bool = False
    at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPlan:
    """The relays in the order in which to try them, and what became of it so far.

    Attributes:
        kept: so many at the front were there from the beginning, and are never forgotten for others.
    """

    known: tuple[Known, ...]
    kept: int
    policy: JoinPolicy
    entropy: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """Try these now; each is then reported with `succeeded` or `failed`."""

    relays: tuple[Relay, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing to do before `until` (milliseconds), or, when it is None, before a dial ends or a link is lost."""

    until: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """There are links to enough relays, unrelated ones as far as there are any; ask again when one is lost."""

    links: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NobodyKnown:
    """The list is empty: a person must name somebody."""


Step = Dial | Wait | Joined | NobodyKnown


def plan(*kinds: Iterable[Relay], entropy: bytes, policy: JoinPolicy | None = None) -> JoinPlan:
    """A fresh plan in an order drawn from `entropy` (32 random bytes).

    Args:
        kinds: relays by where they are known from, such as the shipped list and what others told; the first are the listed
            ones. They take turns, so that neither who writes a list nor who fills a table decides alone. Who stands in
            several counts for the first.
    """
    empty = JoinPlan(known=(), kept=0, policy=policy or JoinPolicy(), entropy=entropy)
    seen: set[str] = set()
    orders = []
    for kind in kinds:
        fresh = {relay.identity: relay for relay in kind if relay.identity not in seen}
        seen |= set(fresh)
        orders.append(_shuffled(empty, fresh.values()))
    turns = [relay for turn in zip_longest(*orders) for relay in turn if relay is not None]
    known = tuple(Known(relay=relay, listed=relay in orders[0]) for relay in turns)
    return replace(empty, known=known, kept=len(turns))


def heard_of(state: JoinPlan, relays: Iterable[Relay]) -> JoinPlan:
    """Further relays, behind those that are known already; of a known one nothing changes.

    When there is no room, those that failed often, and were only heard of too, are forgotten.
    """
    there = {each.relay.identity for each in state.known}
    added = _shuffled(state, {each.identity: each for each in relays if each.identity not in there}.values())
    known = list(state.known)
    for hopeless in [each for each in known[state.kept :] if each.failures >= HOPELESS and not each.dialling]:
        if len(known) + len(added) > MOST_KNOWN:
            known.remove(hopeless)
    room = max(0, MOST_KNOWN - len(known))
    return replace(state, known=(*known, *(Known(relay=relay) for relay in added[:room])))


def silent(state: JoinPlan) -> int:
    """How many relays were tried in vain, when that is enough to say that none answers; else 0."""
    tried = sum(each.failures > 0 for each in state.known)
    answering = any(each.linked for each in state.known)
    return 0 if answering or tried < min(len(state.known), ENOUGH_SILENT) else tried


def next_step(state: JoinPlan, now: int) -> tuple[JoinPlan, Step]:
    """What to do now, and the plan in which it is being done.

    Related relays are tried only when every unrelated one is linked or has failed `HOPELESS` times in a row. When there are
    enough links, but none to a listed relay, one is sought as well: else who cuts links now and then would move us, step by
    step, to relays of which others told.
    """
    if not state.known:
        return state, NobodyKnown()
    linked = [each for each in state.known if each.linked]
    independent = _independent(linked)
    idle = [each for each in state.known if not each.linked and not each.dialling]
    dialling = [each for each in state.known if each.dialling]
    hopeful = _unrelated(idle, (*linked, *dialling))
    spread = independent >= state.policy.enough
    best_possible = len(linked) >= state.policy.enough and not hopeful and not dialling
    if spread or best_possible or (not idle and not dialling):
        candidates, room = _anchors(state), 1
        if not candidates:
            return state, Joined(links=len(linked))
    else:
        candidates = hopeful or ([] if dialling else idle)
        wanted = state.policy.enough - (independent if hopeful else len(linked))
        room = min(state.policy.at_once, wanted) - len(dialling)
    chosen = _choose(candidates, room, now, apart=bool(hopeful))
    if chosen:
        known = tuple(replace(each, dialling=True) if each.relay in chosen else each for each in state.known)
        return replace(state, known=known), Dial(relays=chosen)
    later = [each.again_at for each in candidates if each.again_at > now]
    return state, Wait(until=min(later) if later and room > 0 else None)


def succeeded(state: JoinPlan, relay: Relay, at: str = "") -> JoinPlan:
    """A link to this relay stands.

    Args:
        at: where it answered, or came from; the one address that shows whom it is related to. "": all that it is dialled at.
    """
    return _with(state, relay, lambda each: replace(each, dialling=False, linked=True, failures=0, again_at=0, at=at))


def failed(state: JoinPlan, relay: Relay, now: int) -> JoinPlan:
    """A dial came to nothing: this relay's turn comes again, later each time in a row."""
    return _with(state, relay, lambda each: replace(_put_off(state, each, now), failures=each.failures + 1))


def lost(state: JoinPlan, relay: Relay, now: int) -> JoinPlan:
    """A link that stood is gone: this relay's turn comes again soon; it is no failure yet."""
    return _with(state, relay, lambda each: _put_off(state, each, now))


def group_of(address: str) -> str:
    """What unrelated addresses must not share: the /16 of an IPv4 address, the /32 of an IPv6 one, the domain of a name."""
    kind, host = first_part(address)
    number = number_of(host)
    if number is not None:
        return block_of(number)
    domain = ".".join(host.lower().rstrip(".").split(".")[-2:])  # names below it cost its owner nothing
    return f"dns:{domain}" if kind in ("dns", "dns4", "dns6") else f"{kind}:{host.lower()}"


# --- inside -----------------------------------------------------------------------------------------------------------


def _drawn(entropy: bytes, identity: str, turn: int) -> int:
    digest = hashlib.sha256(entropy + turn.to_bytes(4, "big") + identity.encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _put_off(state: JoinPlan, known: Known, now: int) -> Known:
    policy = state.policy
    wait = min(policy.longest_wait, policy.first_wait << min(known.failures, 30))
    wait -= _drawn(state.entropy, known.relay.identity, known.failures + 1) % (wait // 2 + 1)
    return replace(known, dialling=False, linked=False, at="", again_at=now + wait)


def _shuffled(state: JoinPlan, relays: Iterable[Relay]) -> list[Relay]:
    return sorted(relays, key=lambda relay: _drawn(state.entropy, relay.identity, 0))


def _with(state: JoinPlan, relay: Relay, change: Callable[[Known], Known]) -> JoinPlan:
    return replace(
        state, known=tuple(change(each) if each.relay.identity == relay.identity else each for each in state.known)
    )


def _marks(known: Known) -> set[str]:
    """What makes two relays related."""
    operator = {f"operator:{known.relay.operator.casefold()}"} if known.relay.operator else set()
    return operator | {f"group:{group_of(address)}" for address in ((known.at,) if known.at else known.relay.addresses)}


def _independent(linked: Iterable[Known]) -> int:
    """How many of these are unrelated to each other, taken in order."""
    seen: set[str] = set()
    count = 0
    for each in linked:
        if not _marks(each) & seen:
            count += 1
        seen |= _marks(each)
    return count


def _unrelated(idle: list[Known], others: Iterable[Known]) -> list[Known]:
    """Those that are related to none of the others and have not failed too often."""
    taken: set[str] = set()
    for each in others:
        taken |= _marks(each)
    return [each for each in idle if not _marks(each) & taken and each.failures < HOPELESS]


def _anchors(state: JoinPlan) -> list[Known]:
    """The listed relays of which one should be linked as well, however often they failed; none when one is, or is being
    dialled."""
    listed = [each for each in state.known if each.listed]
    if any(each.linked or each.dialling for each in listed):
        return []
    return listed


def _choose(candidates: list[Known], room: int, now: int, *, apart: bool) -> tuple[Relay, ...]:
    """The first whose turn has come, at most `room`; `apart`: unrelated to each other."""
    taken: set[str] = set()
    chosen: list[Relay] = []
    for each in candidates:
        marks = _marks(each)
        if len(chosen) < room and each.again_at <= now and not (apart and marks & taken):
            chosen.append(each.relay)
            taken |= marks
    return tuple(chosen)
