"""Whole nodes: whose collusion could rob a client of its channel, as its owner is told."""

from dataclasses import replace

import pytest
from scenario_kit import CALM, Actor, World, eventually
from trio.testing import MockClock

from protocols.payment.events import PayPhase
from protocols.units import Sat
from rrnode.config.settings import PeerSettings, WatchSettings
from rrnode.control import models as m
from rrnode.control.text import peer_text

CAPACITY, PUSHED, PAID = 1_000_000, 300_000, 50_000  # satoshi


def name(actor: Actor) -> str:
    return peer_text(actor.keys.node_id())


def party(**roles: Actor) -> m.AuditParty:
    """One party of one peer; `helper_watcher=X` has both roles."""
    ((role, actor),) = roles.items()
    return m.AuditParty(peers=(m.AuditPeer.model_validate({"peer_id": name(actor), "roles": tuple(role.split("_"))}),))


async def holds(client: Actor, watcher: Actor, *, lacks: bool = False) -> None:
    """The newest state, and all others, or not all of them."""

    def held() -> bool:
        channel, covering = client.node.money.channels()[0], client.node.covering
        extent = covering.extent(covering.watchers[watcher.keys.node_id()], channel.channel_id)
        return extent.newest == channel.their_secrets.count - 1 and bool(extent.lacks) == lacks

    await eventually("the watcher to hold its states", held)


async def settings_are(actor: Actor, watch: WatchSettings, *operators: str) -> None:
    """From its next start on, which is now."""
    await actor.stop()
    actor.settings = replace(actor.settings, watch=watch, peers=PeerSettings(operators=operators))
    await actor.start()


@pytest.fixture
async def pair(net: World) -> tuple[Actor, Actor]:
    net.hosts = CALM
    a, b = await net.add("A"), await net.add("B")
    await net.mine(101)
    await net.channel(a, b, CAPACITY, push_msat=1000 * PUSHED)
    return a, b


async def test_node_with_a_chain_is_robbed_only_while_it_is_down_by_the_neighbour_with_all_who_watch(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    w = await net.add("W", routes=False, watches=True, coins=0)
    channel_id = a.channel_with(b).channel_id.hex()
    audited = m.ChannelAudit(channel_id=channel_id, peer_id=name(b), to_self_delay_blocks=6, sets=())
    assert await a.owner.audit() == m.Audit(own_chain=True, channels=(audited,))  # nothing was revoked yet
    assert (await a.pay((await b.owner.contact()).contact, 1000 * PAID)).phase is PayPhase.PAID
    await net.settled()
    ours = 1000 * (CAPACITY - PUSHED - PAID)
    alone = m.AuditSet(when="away", means="old state", at_stake_msat=ours, parties=(party(neighbour=b),))
    assert (await a.owner.audit()).channels == (audited.model_copy(update={"sets": (alone,)}),)
    await settings_are(a, WatchSettings(watchers=(w.address,), may_be_away=True))
    await holds(a, w)
    both = alone.model_copy(update={"parties": (party(neighbour=b), party(watcher=w))})
    assert (await a.owner.audit()).channels == (audited.model_copy(update={"sets": (both,)}),)


async def test_watcher_that_lacks_an_older_state_guards_against_nobody_who_publishes_that(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    w = await net.add("W", routes=False, watches=True, coins=0, watch=WatchSettings(client_bytes=1100))
    for _ in range(2):
        assert (await a.pay((await b.owner.contact()).contact, 1000 * PAID)).phase is PayPhase.PAID
        await net.settled()
    await settings_are(a, WatchSettings(watchers=(w.address,), may_be_away=True))
    await holds(a, w, lacks=True)
    (found,) = (await a.owner.audit()).channels[0].sets
    assert (found.when, found.means, found.parties) == ("away", "old state", (party(neighbour=b),))
    (channel,) = (await a.owner.cover()).channels
    assert channel.holders_of_newest == 1
    assert channel.note == "no watcher holds all of its older revoked states, which the neighbour could publish, too"


async def test_watcher_of_the_same_operator_as_the_neighbour_adds_no_party(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    w = await net.add("W", routes=False, watches=True, coins=0)
    operators = (f"{name(b)} Ann", f"{name(w)} ann")
    await settings_are(a, WatchSettings(watchers=(w.address,), may_be_away=True, allow_related=True), *operators)
    await a.until("the channel", lambda: a.usable(b))
    assert (await a.pay((await b.owner.contact()).contact, 1000 * PAID)).phase is PayPhase.PAID
    await net.settled()
    await holds(a, w)
    (channel,) = (await a.owner.audit()).channels
    ((together,),) = (each.parties for each in channel.sets)
    assert [(each.peer_id, each.roles) for each in together.peers] == [
        (name(b), ("neighbour",)),
        (name(w), ("watcher",)),
    ]
    assert together.why == (f"{name(w)} has the same operator (ann) as {name(b)}",)
    assert channel.warning.startswith("no unrelated watcher")
    assert (await a.owner.channels())[0].warning == channel.warning


async def test_client_without_a_chain_can_be_blinded_by_all_its_helpers_one_of_which_watches_too(
    leaping_clock: MockClock, net: World
) -> None:
    net.hosts = CALM
    helpers = [await net.add(f"H{n}", routes=False, serves_chain=True, watches=n == 0, coins=0) for n in range(3)]
    b = await net.add("B")
    watch = WatchSettings(watchers=(helpers[0].address,))
    a = await net.add("A", routes=False, coins=0, helpers=tuple(each.address for each in helpers), watch=watch)
    await net.mine(101)
    await b.owner.wallet_send(await a.owner.wallet_address(), Sat(2_000_000), None)
    await net.mine(1)
    await eventually("coins", lambda: a.coins().confirmed == 2_000_000)
    await net.channel(a, b, CAPACITY, push_msat=1000 * PUSHED)
    assert (await a.pay((await b.owner.contact()).contact, 1000 * PAID)).phase is PayPhase.PAID
    await net.settled()
    await holds(a, helpers[0])
    found = await a.owner.audit()
    ours = 1000 * (CAPACITY - PUSHED - PAID)
    assert not found.own_chain
    away, up = found.channels[0].sets
    assert (away.when, away.at_stake_msat) == ("away", ours)
    assert away.parties == (party(neighbour=b), party(helper_watcher=helpers[0]))
    assert (up.when, up.means, up.at_stake_msat) == ("up", "old state", ours)
    assert up.parties[0] == party(neighbour=b)
    others = [party(helper_watcher=helpers[0]), party(helper=helpers[1]), party(helper=helpers[2])]
    assert sorted(up.parties[1:], key=repr) == sorted(others, key=repr)
