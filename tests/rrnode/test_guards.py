"""Helpers and watchers against channel neighbours: who is refused, who counts for nothing, what the owner is told.

The host is a table of links with addresses; the dialer and the settings are the real ones.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bootstrap.networks import REGTEST
from protocols.ids import PeerId
from protocols.node_record import NodeRecord
from protocols.units import UnixTime
from rrnode.config.settings import ChainSettings, PeerSettings, RoleSettings, Settings, WatchSettings
from rrnode.control.text import peer_text
from rrnode.guards import MOST_NETWORKS, SHOWN, Guards
from rrnode.host.base import PeerConnected
from rrnode.host.dialer import Dialer, PeerAddress, Source, VolatileBook
from rrnode.host.peer_text import join_address, peer_of
from rrnode.relations import known

HELPER, WATCHER, NEIGHBOUR, OTHER = (peer_of(bytes([number]) * 32) for number in (1, 2, 3, 4))
MANY = [peer_of(bytes([number]) * 32) for number in range(10, 10 + SHOWN + 2)]
AT = {HELPER: "/ip4/10.1.0.1/tcp/1", WATCHER: "/ip4/10.2.0.1/tcp/1"}
NEAR_HELPER, NEAR_WATCHER, FAR = "/ip4/10.1.9.9/tcp/5", "/ip4/10.2.9.9/tcp/5", "/ip4/10.9.9.9/tcp/5"


@dataclass
class Links:
    """Where peers are connected from."""

    at: dict[PeerId, str] = field(default_factory=dict)

    def connected(self) -> dict[PeerId, PeerConnected]:
        return {
            peer: PeerConnected(peer=peer, inbound=True, switches=0, agent="", address=where)
            for peer, where in self.at.items()
        }


@dataclass
class Scene:
    links: Links = field(default_factory=Links)
    neighbours: set[PeerId] = field(default_factory=set)
    book: VolatileBook = field(default_factory=VolatileBook)
    records: list[NodeRecord] = field(default_factory=list)

    def guards(self, *, operators: tuple[str, ...] = (), over: bool = False, **more: Any) -> Guards:
        """One helper and one watcher, unless `watchers` says otherwise."""
        watchers = more.pop("watchers", (WATCHER,))
        settings = Settings(
            data_dir=Path("/nonexistent"),
            peers=PeerSettings(operators=operators),
            chain=ChainSettings(kind="remote", helpers=(join_address(AT[HELPER], HELPER),), allow_related=over),
            watch=WatchSettings(
                watchers=tuple(join_address(AT[each], each) for each in watchers), allow_related=over, **more
            ),
        )
        dialer = Dialer(self.links, self.book, randomness=random.Random(1))  # type: ignore[arg-type]
        return Guards(settings, self.neighbours, self.links, dialer, self.records)  # type: ignore[arg-type]


def record(node: PeerId, **fields: Any) -> NodeRecord:
    return NodeRecord(node=node, network=REGTEST.genesis, made=UnixTime(1_700_000_000), **fields)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_guards_that_nothing_ties_to_a_neighbour_are_used_and_nothing_is_told(scene: Scene) -> None:
    scene.neighbours = {NEIGHBOUR}
    scene.links.at = {NEIGHBOUR: FAR, HELPER: AT[HELPER], WATCHER: AT[WATCHER]}
    guards = scene.guards()
    assert all(guards.met(each) for each in (NEIGHBOUR, HELPER, WATCHER))
    assert (guards.refuses(WATCHER), guards.related_helpers(), guards.refuses_neighbour(OTHER)) == ("", {}, "")
    assert (guards.unwatched(NEIGHBOUR), guards.warnings(), guards.news()) == ("", (), ())


def test_guard_that_is_the_neighbour_counts_for_nothing_and_a_watcher_is_not_used(scene: Scene) -> None:
    scene.neighbours = {HELPER, WATCHER}
    guards = scene.guards()
    helper, watcher = peer_text(HELPER), peer_text(WATCHER)
    assert guards.related_helpers() == {
        HELPER: f"it is the same node as the channel neighbour {helper}; chain.allow_related overrides this"
    }
    why = f"it is the same node as the channel neighbour {watcher}; watch.allow_related overrides this"
    assert guards.refuses(WATCHER) == why
    bare = "no unrelated watcher looks after it while this node is away; name some in watch.watchers"
    assert {guards.unwatched(each) for each in (WATCHER, HELPER)} == {bare}  # it is used for neither
    assert guards.warnings() == (
        f"helper {helper} counts for nothing: {guards.related_helpers()[HELPER]}",
        f"watcher {watcher} is not used: {why}",
        *(f"the channel with {peer_text(each)}: {bare}" for each in sorted((HELPER, WATCHER))),
    )


def test_what_the_owner_says_of_operators_counts_at_once(scene: Scene) -> None:
    scene.neighbours = {NEIGHBOUR}
    names = tuple(f"{peer_text(each)} Ann" for each in (NEIGHBOUR, HELPER, WATCHER))
    guards = scene.guards(operators=names)
    assert "has the same operator (ann) as the channel neighbour" in guards.refuses(WATCHER)
    assert "has the same operator (ann) as the channel neighbour" in guards.related_helpers()[HELPER]


def test_address_that_the_owner_dialled_is_evidence_against_a_watcher(scene: Scene) -> None:
    scene.neighbours = {NEIGHBOUR}
    scene.book = VolatileBook([PeerAddress(peer=NEIGHBOUR, where=NEAR_WATCHER, source=Source.USER)])
    assert "is in the same network (10.2.0.0/16) as the channel neighbour" in scene.guards().refuses(WATCHER)


@pytest.mark.parametrize("how", ["comes from there", "says so in a record", "was a relay there", "says so elsewhere"])
def test_neighbour_cannot_disarm_a_watcher_by_coming_near_it_but_the_watcher_counts_for_nothing(
    scene: Scene, how: str
) -> None:
    scene.neighbours = {NEIGHBOUR}
    match how:
        case "comes from there":
            scene.links.at[NEIGHBOUR] = NEAR_WATCHER
        case "says so in a record":
            scene.book = VolatileBook([PeerAddress(peer=NEIGHBOUR, where=NEAR_WATCHER, source=Source.RECORD)])
        case "was a relay there":
            scene.book = VolatileBook([PeerAddress(peer=NEIGHBOUR, where=NEAR_WATCHER, source=Source.RELAYS)])
        case _:
            scene.records = [record(NEIGHBOUR, addresses=(NEAR_WATCHER,))]
    guards = scene.guards()
    assert guards.met(NEIGHBOUR)
    assert guards.refuses(WATCHER) == ""
    assert guards.related_watcher(WATCHER, NEIGHBOUR) == "is in the same network (10.2.0.0/16)"
    assert guards.related_watcher(WATCHER, OTHER) == ""
    scene.neighbours.add(OTHER)
    assert guards.unwatched(NEIGHBOUR).startswith("no unrelated watcher")
    assert guards.unwatched(OTHER) == ""


def test_what_peers_declare_warns_and_stops_new_channels_but_a_neighbour_disarms_no_helper_by_words(
    scene: Scene,
) -> None:
    scene.neighbours = {NEIGHBOUR}
    guards = scene.guards()
    assert guards.said(record(NEIGHBOUR, operator="Lightning & Sons"))
    assert guards.related_helpers() == {}
    assert guards.said(record(HELPER, operator="lightning  & sons"))
    assert (
        guards.related_helpers() == {}
    )  # or any neighbour could stop our payments by claiming to be our helpers' owner
    (warning,) = guards.warnings()
    assert warning.startswith(
        f"helper {peer_text(HELPER)} may belong to who could rob you; take another: it has the same "
    )
    assert "has the same operator (lightning & sons)" in guards.refuses_neighbour(NEIGHBOUR)
    assert not guards.said(record(OTHER, operator="Lightning & Sons"))
    assert guards.of(OTHER) == known(OTHER)


def test_where_a_neighbour_came_from_is_remembered_until_it_is_no_neighbour(scene: Scene) -> None:
    scene.neighbours = {NEIGHBOUR}
    guards = scene.guards()
    scene.links.at[NEIGHBOUR] = NEAR_HELPER
    assert guards.met(NEIGHBOUR)
    scene.links.at[NEIGHBOUR] = FAR
    assert guards.met(NEIGHBOUR)
    assert "same network (10.1.0.0/16)" in guards.related_helpers()[HELPER]
    scene.neighbours.clear()
    guards.lost(NEIGHBOUR)
    assert guards.related_helpers() == {}
    scene.neighbours.add(NEIGHBOUR)
    assert guards.met(NEIGHBOUR)
    assert guards.related_helpers() == {}


def test_networks_remembered_of_one_peer_are_bounded(scene: Scene) -> None:
    scene.neighbours = {NEIGHBOUR}
    guards = scene.guards()
    for number in range(3 * MOST_NETWORKS):
        scene.links.at[NEIGHBOUR] = f"/ip4/11.{number}.0.1/tcp/1"
        assert guards.met(NEIGHBOUR)
    newest = {f"11.{number}.0.0/16" for number in range(2 * MOST_NETWORKS, 3 * MOST_NETWORKS)}
    assert guards.of(NEIGHBOUR).networks == newest


def test_what_comes_through_this_machine_itself_ties_nobody_to_anybody(scene: Scene) -> None:
    scene.neighbours = {NEIGHBOUR}
    scene.links.at = {NEIGHBOUR: "/ip4/127.0.0.1/tcp/5", HELPER: "/ip4/127.0.0.1/tcp/6", WATCHER: "/ip6/::1/tcp/7"}
    guards = scene.guards()
    assert all(guards.met(each) for each in (NEIGHBOUR, HELPER, WATCHER))
    assert (guards.related_helpers(), guards.warnings()) == ({}, ())


def test_strangers_leave_no_trace(scene: Scene) -> None:
    guards = scene.guards()
    scene.links.at[OTHER] = NEAR_HELPER
    assert not guards.met(OTHER)
    scene.links.at.clear()
    assert guards.of(OTHER).networks == frozenset()


def test_channel_with_whoever_is_near_a_guard_is_refused(scene: Scene) -> None:
    guards = scene.guards()
    scene.links.at[OTHER] = NEAR_HELPER
    assert guards.refuses_neighbour(OTHER) == (
        f"{peer_text(OTHER)} is in the same network (10.1.0.0/16) as your chain helper {peer_text(HELPER)}, which would have"
        " to guard you against it; take another chain helper first, or set chain.allow_related = true"
    )
    scene.links.at[OTHER] = NEAR_WATCHER
    assert "as your watcher" in guards.refuses_neighbour(OTHER)
    assert "watch.allow_related = true" in guards.refuses_neighbour(OTHER)
    assert "is the same node as your watcher" in guards.refuses_neighbour(WATCHER)


def test_override_lets_everything_pass_but_the_owner_is_still_warned_of_being_away(scene: Scene) -> None:
    scene.neighbours = {HELPER, WATCHER}
    guards = scene.guards(over=True)
    assert (guards.refuses(WATCHER), guards.related_helpers()) == ("", {})
    assert (guards.refuses_neighbour(HELPER), guards.related_watcher(WATCHER, WATCHER)) == ("", "")
    assert [each.partition(":")[0] for each in guards.warnings()] == [f"the channel with {peer_text(WATCHER)}"]


def test_only_clients_and_those_who_may_be_away_are_warned_of_having_no_watcher(scene: Scene) -> None:
    scene.neighbours = {NEIGHBOUR}
    bare = "no watcher looks after it while this node is away; name some in watch.watchers"
    assert scene.guards(watchers=()).unwatched(NEIGHBOUR) == bare

    def server(**more: Any) -> str:
        settings = Settings(data_dir=Path("/x"), roles=RoleSettings(route=True), watch=WatchSettings(**more))
        dialer = Dialer(scene.links, scene.book, randomness=random.Random(1))  # type: ignore[arg-type]
        return Guards(settings, scene.neighbours, scene.links, dialer).unwatched(NEIGHBOUR)  # type: ignore[arg-type]

    assert (server(), server(may_be_away=True)) == ("", bare)


def test_many_that_nobody_watches_are_a_few_lines(scene: Scene) -> None:
    scene.neighbours = set(MANY)
    found = scene.guards(watchers=()).warnings()
    assert len(found) == SHOWN + 1
    assert found[-1] == "likewise those with 2 others"


def test_each_warning_is_news_once_until_it_goes_away(scene: Scene) -> None:
    guards = scene.guards(watchers=())
    assert guards.news() == ()
    scene.neighbours.add(NEIGHBOUR)
    assert guards.met(NEIGHBOUR)
    assert guards.news() == guards.warnings() != ()
    assert guards.news() == ()
    scene.neighbours.clear()
    guards.lost(NEIGHBOUR)
    assert guards.news() == ()
    scene.neighbours.add(NEIGHBOUR)
    assert guards.news() != ()
