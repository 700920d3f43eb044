"""Whole nodes: revoked states of a client reach its watchers, whatever breaks; who holds what is told."""

from collections import deque
from dataclasses import replace
from typing import Any

import pytest
import trio
from scenario_kit import CALM, Actor, World, eventually
from trio.testing import MockClock, wait_all_tasks_blocked

from protocols.channel.events import StoreRevoked
from protocols.channel.state import Phase
from protocols.payment.events import PayPhase
from protocols.units import BlockDelta
from protocols.watch.remedy import hint_of, unseal
from rrnode.config.settings import WatchSettings
from rrnode.host.peer_text import to_text
from rrnode.services import handing

CAPACITY, PUSHED, PAID = 1_000_000, 300_000, 50_000  # satoshi


def watched_by(actor: Actor, *watchers: Actor, **more: Any) -> None:
    """From its next start on."""
    watch = WatchSettings(watchers=tuple(each.address for each in watchers), **more)
    actor.settings = replace(actor.settings, watch=watch)


async def pay_some(net: World, payer: Actor, payee: Actor, times: int = 2) -> None:
    for _ in range(times):
        payment = await payer.pay((await payee.owner.contact()).contact, 1000 * PAID)
        assert payment.phase is PayPhase.PAID, payment.reason
        await net.settled()


async def covered(client: Actor, *watchers: Actor) -> None:
    """Wait until these hold every revoked state of the client's first channel."""

    def all_held() -> bool:
        channel = client.node.money.channels()[0]
        extents = [
            client.node.covering.extent(client.node.covering.watchers[each.keys.node_id()], channel.channel_id)
            for each in watchers
        ]
        return all(each.states == channel.their_secrets.count for each in extents)

    await eventually("the watchers to hold everything", all_held)


@pytest.fixture
async def pair(net: World) -> tuple[Actor, Actor]:
    net.hosts = CALM
    a, b = await net.add("A"), await net.add("B")
    await net.mine(101)
    await net.channel(a, b, CAPACITY, push_msat=1000 * PUSHED)
    return a, b


async def test_every_revoked_state_reaches_a_watcher_that_can_read_it_once_it_is_published(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    w = await net.add("W", routes=False, watches=True, coins=0)
    await pay_some(net, a, b)
    await a.stop()
    watched_by(a, w)
    await a.start()
    await covered(a, w)  # a new watcher is given all old states
    await a.until("the channel", lambda: a.usable(b))
    await pay_some(net, a, b)
    await covered(a, w)
    channel = a.channel_with(b)
    store = w.node.parts.remedies
    assert store is not None
    for state in a.node.store.revoked_states(channel.channel_id):
        (sealed,) = store.find(hint_of(state.txid))
        remedy = unseal(sealed, state.txid)
        assert remedy.balance is not None
    told = (await a.owner.cover()).channels[0]
    assert (told.states_revoked, told.holders_of_newest, told.stake_sat, told.note) == (
        channel.their_secrets.count,
        1,
        20_000,
        "",
    )


async def test_restart_of_either_side_hands_nothing_over_twice_and_loses_nothing(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    w = await net.add("W", routes=False, watches=True, coins=0)
    await a.stop()
    watched_by(a, w)
    await a.start()
    await a.until("the channel", lambda: a.usable(b))
    await pay_some(net, a, b)
    await covered(a, w)
    store = w.node.parts.remedies
    assert store is not None
    before = [*store.find(hint_of(a.node.store.revoked_states(a.channel_with(b).channel_id)[0].txid))]
    await w.crash()
    await pay_some(net, a, b)
    await a.crash()
    await w.start()
    await a.start()
    await covered(a, w)
    store = w.node.parts.remedies
    assert store is not None
    assert [*store.find(hint_of(a.node.store.revoked_states(a.channel_with(b).channel_id)[0].txid))] == before


async def test_state_that_the_engine_knows_before_the_disk_is_not_skipped(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    w = await net.add("W", routes=False, watches=True, coins=0)
    await a.stop()
    watched_by(a, w)
    await a.start()
    await a.until("the channel", lambda: a.usable(b))
    commit = a.node.store.commit

    async def look() -> None:
        a.node.covering.wake()
        await wait_all_tasks_blocked(0.1)

    def late(effects: Any, *more: Any, **named: Any) -> None:
        if any(isinstance(each, StoreRevoked) for each in effects):
            trio.from_thread.run(look)
        commit(effects, *more, **named)

    a.node.store.commit = late  # type: ignore[method-assign]
    await pay_some(net, a, b)
    await covered(a, w)


async def test_watcher_that_lost_everything_is_given_everything_again(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    w = await net.add("W", routes=False, watches=True, coins=0)
    await a.stop()
    watched_by(a, w)
    await a.start()
    await a.until("the channel", lambda: a.usable(b))
    await pay_some(net, a, b)
    await covered(a, w)
    await w.stop()
    for file in w.settings.data_dir.glob("watch.sqlite*"):
        file.unlink()
    await w.start()
    store = w.node.parts.remedies
    assert store is not None
    count = a.channel_with(b).their_secrets.count
    await eventually("everything again", lambda: store.used_bytes >= 200 * count)
    (alarm,) = a.node.alarms
    assert f"has lost {count} remedies that it gave receipts for" in alarm


async def test_remedies_are_renewed_before_the_watcher_drops_them(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    w = await briefly_covered(net, a, b)
    store, count = w.node.parts.remedies, a.channel_with(b).their_secrets.count
    assert store is not None
    (watcher,) = a.node.covering.watchers.values()

    def kept_for_ten_more() -> bool:
        until = a.node.covering.extent(watcher, a.channel_with(b).channel_id).until
        return until is not None and until >= a.node.following.height + 10

    for _ in range(6):
        await net.mine(7)
        await eventually("renewal", kept_for_ten_more)
    assert store.used_bytes >= 200 * count


async def briefly_covered(net: World, a: Actor, b: Actor) -> Actor:
    """A watcher that holds all of `a`'s channel, and was asked for twenty blocks only."""
    w = await net.add("W", routes=False, watches=True, coins=0)
    await a.stop()
    watched_by(a, w, ask_blocks=BlockDelta(20))
    await a.start()
    await a.until("the channel", lambda: a.usable(b))
    await pay_some(net, a, b)
    await covered(a, w)
    return w


async def test_watcher_that_is_away_for_longer_than_it_promised_holds_nothing_any_more(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    w = await briefly_covered(net, a, b)
    await w.stop()
    await net.mine(21)
    told = (await a.owner.cover()).channels[0]
    assert (told.holders_of_newest, told.held[0].states, told.note) == (
        0,
        0,
        "no watcher holds the newest revoked state",
    )


async def test_watcher_that_is_the_neighbour_is_not_used_unless_its_owner_says_so(
    leaping_clock: MockClock, net: World
) -> None:
    net.hosts = CALM
    a, b = await net.add("A"), await net.add("B", watches=True)
    await net.mine(101)
    await net.channel(a, b, CAPACITY, push_msat=1000 * PUSHED)
    await pay_some(net, a, b)
    await a.stop()
    watched_by(a, b)
    await a.start()
    await a.until("the channel", lambda: a.usable(b))
    store = b.node.parts.remedies
    assert store is not None
    cover = await a.owner.cover()
    assert "is the same node as the channel neighbour" in cover.watchers[0].problem
    assert cover.channels[0].note == "no watcher holds the newest revoked state"
    assert store.used_bytes == 0
    await a.stop()
    watched_by(a, b, allow_related=True)
    await a.start()
    await covered(a, b)
    assert store.used_bytes > 0


async def test_quota_is_told_and_what_fits_is_held(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    w = await net.add("W", routes=False, watches=True, coins=0, watch=WatchSettings(client_bytes=1100))
    await pay_some(net, a, b)
    await a.stop()
    watched_by(a, w)
    await a.start()
    (watcher,) = a.node.covering.watchers.values()
    await eventually("the refusal", lambda: watcher.problem == "it refuses: this client's bytes are used up")
    told = (await a.owner.cover()).channels[0]
    note = "no watcher holds all of its older revoked states, which the neighbour could publish, too"
    assert (told.note, told.holders_of_newest, told.held[0].states) == (note, 1, 2)  # the newest is first to be held
    assert a.node.alarms == deque()


async def test_a_newest_state_that_is_refused_raises_one_alarm(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    w = await net.add("W", routes=False, watches=True, coins=0, watch=WatchSettings(client_bytes=500))
    await a.stop()
    watched_by(a, w)
    await a.start()
    await a.until("the channel", lambda: a.usable(b))
    await pay_some(net, a, b, 4)
    (watcher,) = a.node.covering.watchers.values()
    await eventually("the refusal", lambda: watcher.refused_at is not None)
    await net.mine(2)
    channel_id = a.channel_with(b).channel_id
    await eventually("another try", lambda: watcher.problem == "it refuses: this client's bytes are used up")
    assert list(a.node.alarms) == [
        f"the watcher {to_text(w.keys.node_id())} refuses the newest revoked state of channel {channel_id.hex()[:16]}: "
        "this client's bytes are used up; see: rrnode cover"
    ]


async def lose(w: Actor, a: Actor, b: Actor, number: int) -> None:
    """One remedy, as a disk does."""
    store = w.node.parts.remedies
    assert store is not None
    state = a.node.store.revoked_states(a.channel_with(b).channel_id)[number]
    store.withdraw(a.keys.node_id(), [hint_of(state.txid)])
    assert [*store.find(hint_of(state.txid))] == []


@pytest.mark.parametrize("reconnects", [True, False])
async def test_what_a_watcher_lost_is_noticed_told_and_handed_over_again(
    leaping_clock: MockClock,
    net: World,
    pair: tuple[Actor, Actor],
    monkeypatch: pytest.MonkeyPatch,
    reconnects: bool,
) -> None:
    a, b = pair
    w = await net.add("W", routes=False, watches=True, coins=0)
    await a.stop()
    watched_by(a, w)
    await a.start()
    await a.until("the channel", lambda: a.usable(b))
    await pay_some(net, a, b)
    await covered(a, w)
    monkeypatch.setattr(handing, "COMPARE_EVERY", 3)
    await lose(w, a, b, 1)
    if reconnects:
        await w.crash()
        await w.start()
    else:
        await net.mine(3)
    state = a.node.store.revoked_states(a.channel_with(b).channel_id)[1]
    await eventually("it again", lambda: bool([*w.node.parts.remedies.find(hint_of(state.txid))]))
    await covered(a, w)
    assert list(a.node.alarms) == [
        f"the watcher {to_text(w.keys.node_id())} has lost 1 remedies that it gave receipts for; they are handed over "
        "again, but do not rely on it"
    ]


async def test_what_a_watcher_was_not_asked_to_keep_longer_is_no_loss(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    w = await briefly_covered(net, a, b)
    await a.stop()
    await net.mine(30)
    store = w.node.parts.remedies
    assert store is not None
    await eventually("the end of what was promised", lambda: store.used_bytes == 0)
    await a.start()
    await eventually("everything again", lambda: store.used_bytes > 0)
    await covered(a, w)
    assert list(a.node.alarms) == []


async def test_what_a_watcher_holds_is_renewed_although_it_refuses_what_is_new(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    w = await net.add("W", routes=False, watches=True, coins=0, watch=WatchSettings(client_bytes=500))
    await a.stop()
    watched_by(a, w, ask_blocks=BlockDelta(20))
    await a.start()
    await a.until("the channel", lambda: a.usable(b))
    (watcher,) = a.node.covering.watchers.values()
    await pay_some(net, a, b)
    await eventually("the refusal", lambda: watcher.problem == "it refuses: this client's bytes are used up")

    def kept_for_ten_more() -> bool:
        until = a.node.covering.extent(watcher, a.channel_with(b).channel_id).until
        return until is not None and until >= a.node.following.height + 10

    for _ in range(4):
        await net.mine(7)
        await eventually("renewal", kept_for_ten_more)
    assert "bytes are used up" in watcher.problem


async def test_closed_channels_are_withdrawn(leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]) -> None:
    a, b = pair
    w = await net.add("W", routes=False, watches=True, coins=0)
    await a.stop()
    watched_by(a, w)
    await a.start()
    await a.until("the channel", lambda: a.usable(b))
    await pay_some(net, a, b)
    await covered(a, w)
    store = w.node.parts.remedies
    assert store is not None
    assert store.used_bytes > 0
    await a.owner.channel_close(a.channel_with(b).channel_id, False)
    channel_id = a.channel_with(b).channel_id
    for _ in range(10):  # the closing transaction may not be out before the first of them
        await net.mine(1)
        if a.node.money.channel(channel_id).phase is Phase.CLOSED:
            break
    await eventually("withdrawal", lambda: store.used_bytes == 0)
    assert (await a.owner.cover()).channels == ()


async def test_watcher_that_signs_something_else_counts_for_nothing(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    w = await net.add("W", routes=False, watches=True, coins=0)
    assert w.node.tower is not None
    w.node.tower.server._secret = b"\x07" * 32
    await pay_some(net, a, b)
    await a.stop()
    watched_by(a, w)
    await a.start()
    (watcher,) = a.node.covering.watchers.values()
    await eventually("the lie", lambda: "signature is not the watcher's" in watcher.problem)
    assert a.node.covering.extent(watcher, a.channel_with(b).channel_id).states == 0
