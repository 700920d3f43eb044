"""Who guards us, our helpers and watchers, set against our channel neighbours (DESIGN 2, "Nobody guards themselves").

Relations are judged by two kinds of evidence. What our owner chose (whom, where, and who they say runs it) decides who is
used at all. What a peer brings about itself (where it connects from, what it declares) only makes a guard count for
nothing: it is still handed remedies and its proofs are still believed, or a neighbour could disarm an honest guard by
coming from the guard's network. Either kind is enough to refuse a new channel.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from operator import or_
from typing import Protocol

from protocols.ids import PeerId
from protocols.node_record import NodeRecord
from rrnode.config.settings import Settings
from rrnode.control.text import peer_text
from rrnode.host.base import Host
from rrnode.host.dialer import Dialer, Source
from rrnode.host.peer_text import split_address
from rrnode.relations import Known, known, relation, tells_who

MOST_NETWORKS = 16  # remembered of one peer: whoever has had more since we started cannot be told by them any more

SHOWN = 5  # neighbours that nobody watches, one line each

Evidence = Callable[[PeerId], Known]


class Peers(Protocol):
    """A set of peers that changes."""

    def __contains__(self, peer: PeerId) -> bool: ...

    def __iter__(self) -> Iterator[PeerId]: ...


def chosen(settings: Settings, dialer: Dialer) -> Evidence:
    """What our owner said of a peer, in the configuration or by dialling it, and what the relay list that ships says."""
    operators = settings.operators
    named: dict[PeerId, set[str]] = {}
    for where, peer in map(split_address, settings.chain.helpers + settings.watch.watchers):
        named.setdefault(peer, set()).add(where)

    def of(peer: PeerId) -> Known:
        dialled = {each.where for each in dialer.addresses_of(peer) if each.source is Source.USER}
        return known(peer, addresses=named.get(peer, set()) | dialled, operators=operators.get(peer, ()))

    return of


def declared(dialer: Dialer) -> Evidence:
    """What is known of a peer from itself or from relays: records, and where one was found when this node joined."""

    def of(peer: PeerId) -> Known:
        return known(peer, addresses=[at.where for at in dialer.addresses_of(peer) if at.source is not Source.USER])

    return of


class Seen:
    """From which networks peers were connected since this node started, whoever dialled."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._networks: dict[PeerId, OrderedDict[str, None]] = {}

    def note(self, peer: PeerId) -> None:
        """Remember where this peer is connected from now. For those who matter only, so that the table is bounded."""
        for network in self.now(peer).networks:
            seen = self._networks.setdefault(peer, OrderedDict())
            seen[network] = None
            seen.move_to_end(network)
            if len(seen) > MOST_NETWORKS:
                seen.popitem(last=False)

    def forget(self, peer: PeerId) -> None:
        """This peer does not matter any more."""
        self._networks.pop(peer, None)

    def of(self, peer: PeerId) -> Known:
        """What was noted of this peer, as evidence."""
        return Known(peer=peer, networks=frozenset(self._networks.get(peer, ())))

    def now(self, peer: PeerId) -> Known:
        """Where it is connected from now."""
        link = self._host.connected().get(peer)
        return known(peer, addresses=(link.address,) if link is not None and tells_who(link.address) else ())


class Guards:
    """Says who of our guards may be used, who counts for nothing, and what our owner must know.

    Args:
        neighbours: those of now.
        host: knows who is connected from where.
        dialer: knows addresses.
        records: what peers said about themselves before; of the others `said` is told.

    Attributes:
        helpers, watchers: as configured; a watcher with its address.
    """

    def __init__(
        self, settings: Settings, neighbours: Peers, host: Host, dialer: Dialer, records: Iterable[NodeRecord] = ()
    ) -> None:
        self._neighbours, self._seen = neighbours, Seen(host)
        self._chosen = chosen(settings, dialer)
        self._said: dict[PeerId, Known] = {}
        self._evidence = (self._chosen, declared(dialer), self._seen.of, self._said_of)
        self._over_helpers, self._over_watchers = settings.chain.allow_related, settings.watch.allow_related
        self._warns = settings.is_client or settings.watch.may_be_away
        self.watchers = tuple((split_address(each)[1], each) for each in settings.watch.watchers)
        remote = settings.chain.kind == "remote"
        self.helpers = tuple(split_address(each)[1] for each in settings.chain.helpers) if remote else ()
        self._all = frozenset((*self.helpers, *(peer for peer, _ in self.watchers)))
        # Guards by neighbour, where there are any, each with the reason: by all evidence, without what peers merely say of
        # themselves, and by what our owner chose.
        self._related: dict[PeerId, dict[PeerId, str]] = {}
        self._shown: dict[PeerId, dict[PeerId, str]] = {}
        self._refused: dict[PeerId, dict[PeerId, str]] = {}
        self._told = frozenset[str]()
        for record in records:
            self._keep(record)
        self._judge(neighbours)

    def of(self, peer: PeerId) -> Known:
        """All that is known of a peer."""
        return reduce(or_, (evidence(peer) for evidence in self._evidence))

    def _not_claimed(self, peer: PeerId) -> Known:
        return self._chosen(peer) | self._seen.of(peer)

    # --- news ---------------------------------------------------------------------------------------------------------

    def said(self, record: NodeRecord) -> bool:
        """A peer has said something about itself (`/rr/info/1`); whether it is of ours."""
        return self._keep(record) and self.met(record.node)

    def _keep(self, record: NodeRecord) -> bool:
        """For those who matter only, so that the table is bounded."""
        peer = record.node
        if ours := peer in self._all or peer in self._neighbours:
            self._said[peer] = known(peer, addresses=record.addresses, operators=(record.operator,))
        return ours

    def _said_of(self, peer: PeerId) -> Known:
        return self._said.get(peer) or Known(peer=peer)

    def met(self, peer: PeerId) -> bool:
        """A peer was connected, or has become a neighbour; whether it is of ours."""
        is_guard = peer in self._all
        if not is_guard and peer not in self._neighbours:
            return False
        self._seen.note(peer)
        self._judge(self._neighbours if is_guard else (peer,))
        return True

    def lost(self, neighbour: PeerId) -> None:
        """All channels with this peer are over."""
        for table in (self._related, self._shown, self._refused):
            table.pop(neighbour, None)
        if neighbour not in self._all:
            self._seen.forget(neighbour)
            self._said.pop(neighbour, None)

    def _judge(self, neighbours: Iterable[PeerId]) -> None:
        for table, of in ((self._related, self.of), (self._shown, self._not_claimed), (self._refused, self._chosen)):
            guards = [of(guard) for guard in self._all]
            for neighbour in neighbours:
                theirs = of(neighbour)
                table.pop(neighbour, None)
                if found := {guard.peer: why for guard in guards if (why := relation(guard, theirs))}:
                    table[neighbour] = found

    # --- what follows from it -----------------------------------------------------------------------------------------

    def refuses(self, watcher: PeerId) -> str:
        """Why a watcher must not be used; "" when it may."""
        for neighbour, guards in () if self._over_watchers else self._refused.items():
            if why := guards.get(watcher):
                return f"it {why} as the channel neighbour {peer_text(neighbour)}; watch.allow_related overrides this"
        return ""

    def related_watcher(self, watcher: PeerId, neighbour: PeerId) -> str:
        """Why a watcher counts for nothing on channels with this neighbour; "" when it counts."""
        return "" if self._over_watchers else self._related.get(neighbour, {}).get(watcher, "")

    def related_helpers(self) -> dict[PeerId, str]:
        """The helpers whose silence counts for nothing, each with a sentence why.

        What a neighbour merely says of itself does not count here: by claiming the networks of all helpers it could stop
        every payment of ours. Our owner is told (`warnings`), and no further channel is opened with it.
        """
        return self._helpers_in(
            self._shown, "it {why} as the channel neighbour {neighbour}; chain.allow_related overrides this"
        )

    def _helpers_in(self, table: dict[PeerId, dict[PeerId, str]], sentence: str) -> dict[PeerId, str]:
        found: dict[PeerId, str] = {}
        for neighbour, guards in () if self._over_helpers else table.items():
            for helper in guards.keys() & set(self.helpers):
                found.setdefault(helper, sentence.format(why=guards[helper], neighbour=peer_text(neighbour)))
        return found

    def refuses_neighbour(self, peer: PeerId) -> str:
        """Why there must be no new channel with this peer, a sentence; "" when there may."""
        theirs = self.of(peer) | self._seen.now(peer)
        for kind, section, over, guards in (
            ("chain helper", "chain", self._over_helpers, self.helpers),
            ("watcher", "watch", self._over_watchers, tuple(watcher for watcher, _ in self.watchers)),
        ):
            for guard in () if over else guards:
                if why := relation(theirs, self.of(guard)):
                    return (
                        f"{peer_text(peer)} {why} as your {kind} {peer_text(guard)}, which would have to guard you against"
                        f" it; take another {kind} first, or set {section}.allow_related = true"
                    )
        return ""

    # --- what our owner must know -------------------------------------------------------------------------------------

    def unwatched(self, neighbour: PeerId) -> str:
        """Why channels with this neighbour are in danger whenever this node is away, a sentence; "" when they are not, or
        its owner means to stay."""
        related = self._related.get(neighbour, {})
        if not self._warns or any(each not in related and not self.refuses(each) for each, _ in self.watchers):
            return ""
        which = "no unrelated watcher" if self.watchers else "no watcher"
        return f"{which} looks after it while this node is away; name some in watch.watchers"

    def warnings(self) -> tuple[str, ...]:
        """What is wrong now, in sentences."""
        disarmed = self.related_helpers()
        claimed = self._helpers_in(
            self._related, "it {why} as the channel neighbour {neighbour}, by what they say of themselves"
        )
        found = [f"helper {peer_text(each)} counts for nothing: {why}" for each, why in disarmed.items()]
        found += [
            f"helper {peer_text(each)} may belong to who could rob you; take another: {why}"
            for each, why in claimed.items()
            if each not in disarmed
        ]
        found += [
            f"watcher {peer_text(watcher)} is not used: {why}"
            for watcher, _ in self.watchers
            if (why := self.refuses(watcher))
        ]
        if self._warns:
            bare = sorted(neighbour for neighbour in self._neighbours if self.unwatched(neighbour))
            found += [f"the channel with {peer_text(each)}: {self.unwatched(each)}" for each in bare[:SHOWN]]
            if len(bare) > SHOWN:
                found.append(f"likewise those with {len(bare) - SHOWN} others")
        return tuple(found)

    def news(self) -> tuple[str, ...]:
        """Those warnings that were not given yet; one that went away and comes back is given again."""
        before, now = self._told, self.warnings()
        self._told = frozenset(now)
        return tuple(each for each in now if each not in before)
