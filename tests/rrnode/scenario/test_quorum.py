"""Whole nodes: a channel that waits for its watchers, through their deaths and returns, restarts, and what was locked before."""

import time
from dataclasses import replace
from typing import Any

import pytest
import trio
from scenario_kit import CALM, Actor, World, eventually, on_sending
from trio.testing import MockClock

from protocols.channel.state import Phase
from protocols.payment.events import PayPhase
from protocols.units import UnixTime
from protocols.wire.channel import FailureCode, UpdateFulfillHtlc
from rrnode.config.settings import WatchSettings
from rrnode.control import models as m
from rrnode.errors import UserError

CAPACITY, PUSHED, PAID = 1_000_000, 300_000, 50_000  # satoshi
NOT_YET = (
    "An offer came, but it could not be locked: the watchers do not hold the channel's newest revoked state yet. "
    "Nothing was paid. Try again later."
)


async def waits_for(actor: Actor, quorum: int, *watchers: Actor) -> None:
    """Start it anew, with these watchers of its own."""
    await actor.stop()
    watch = WatchSettings(watchers=tuple(each.address for each in watchers), quorum=quorum)
    actor.settings = replace(actor.settings, watch=watch)
    await actor.start()


async def pays(net: World, payer: Actor, payee: Actor) -> None:
    payment = await payer.pay((await payee.owner.contact()).contact, 1000 * PAID)
    assert payment.phase is PayPhase.PAID, payment.reason
    await net.settled()


async def covered(actor: Actor, other: Actor) -> None:
    """Wait until its channel takes on new things."""
    channel_id = actor.channel_with(other).channel_id
    await eventually("enough watchers", lambda: actor.node.money.covering(channel_id) is None)
    await eventually("the channel", lambda: actor.usable(other) and other.usable(actor))


def _order(target: str) -> m.PayOrder:
    return m.PayOrder(target=target, amount_msat=1000 * PAID)


def later(actor: Actor, seconds: int) -> None:
    """For this node alone."""
    actor.node.now = lambda: UnixTime(int(time.time()) + seconds)  # type: ignore[method-assign]


async def note_of(actor: Actor) -> str:
    (channel,) = await actor.owner.channels()
    return channel.note


@pytest.fixture
async def pair(net: World) -> tuple[Actor, Actor, Actor]:
    """A has a channel with B, and waits for its only watcher."""
    net.hosts = CALM
    a, b = await net.add("A"), await net.add("B")
    w = await net.add("W", routes=False, watches=True, coins=0)
    await net.mine(101)
    await net.channel(a, b, CAPACITY, push_msat=1000 * PUSHED)
    await waits_for(a, 1, w)
    await covered(a, b)
    return a, b, w


async def test_payments_go_both_ways_while_the_watcher_is_there(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor, Actor]
) -> None:
    a, b, w = pair
    for _ in range(3):
        await pays(net, a, b)
        await pays(net, b, a)
    store = w.node.parts.remedies
    assert store is not None
    assert store.used_bytes > 0


async def test_a_dead_watcher_stops_what_is_new_and_says_so_and_its_return_lets_it_go_on(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor, Actor]
) -> None:
    a, b, w = pair
    await pays(net, a, b)
    await covered(a, b)
    await w.crash()
    await pays(net, a, b)  # its states so far are held; what this one makes is not
    payment = await a.pay((await b.owner.contact()).contact, 1000 * PAID)
    assert (payment.phase, payment.reason) == (PayPhase.FAILED, NOT_YET)
    assert await note_of(a) == ("takes on nothing new: the watchers do not hold the channel's newest revoked state yet")
    later(a, 61)
    await eventually("patience to end", lambda: any("nothing new is taken on" in each for each in a.node.alarms))
    with pytest.raises(UserError, match=r"fewer watchers than watch\.quorum asks for"):
        await a.pay((await b.owner.contact()).contact, 1000 * PAID)
    told = (await a.owner.cover()).channels[0].note
    assert told.startswith("takes on nothing new before 1 watchers hold its newest revoked state (watch.quorum)")
    await w.start()
    await covered(a, b)
    assert await note_of(a) == ""
    await pays(net, a, b)


async def test_what_comes_in_while_the_watcher_is_dead_is_not_claimed_and_goes_back(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor, Actor]
) -> None:
    a, b, w = pair
    await pays(net, b, a)
    await covered(a, b)
    held = a.holds(b)
    await w.crash()
    target = (await a.owner.contact()).contact
    async with trio.open_nursery() as nursery:
        results: list[Any] = []

        async def attempt() -> None:
            results.append(await b.pay(target, 1000 * PAID))

        nursery.start_soon(attempt)
        await eventually("the HTLC", lambda: any(not each.ours for each in a.channel_with(b).htlcs))
        later(a, 61)
    (payment,) = results
    assert payment.phase is PayPhase.FAILED
    assert payment.attempts[0].failure is FailureCode.NODE_BUSY
    assert a.holds(b) == held
    later(a, 0)
    await w.start()
    await covered(a, b)
    await pays(net, b, a)


async def an_htlc_waits(a: Actor, b: Actor, w: Actor) -> None:
    """The watcher is gone when `b` pays `a`: the HTLC is there, and is not claimed."""
    await w.crash()
    target = (await a.owner.contact()).contact
    await b.owner.pay(_order(target))
    await eventually("the HTLC", lambda: any(not each.ours for each in a.channel_with(b).htlcs))


async def test_what_comes_in_is_claimed_when_the_watcher_returns_in_time(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor, Actor]
) -> None:
    a, b, w = pair
    await pays(net, b, a)
    await covered(a, b)
    await an_htlc_waits(a, b, w)
    held = a.holds(b)
    await w.start()
    await eventually("the claim", lambda: a.holds(b) == held + 1000 * PAID)


async def test_restart_waits_for_no_watcher_that_gave_its_receipt(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor, Actor]
) -> None:
    a, b, w = pair
    await pays(net, a, b)
    await covered(a, b)
    await w.crash()
    await a.crash()
    await a.start()
    await covered(a, b)
    await pays(net, a, b)


async def test_restart_forgets_nothing_that_waits(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor, Actor]
) -> None:
    a, b, w = pair
    await pays(net, b, a)
    await covered(a, b)
    await an_htlc_waits(a, b, w)
    held = a.holds(b)
    await a.crash()
    await a.start()
    await a.until("the channel", lambda: a.usable(b))
    assert (a.holds(b), len(a.channel_with(b).htlcs)) == (held, 1)
    await w.start()
    await eventually("the claim", lambda: a.holds(b) == held + 1000 * PAID)


async def test_what_was_locked_before_ends_and_the_channel_closes_without_a_watcher(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor, Actor]
) -> None:
    a, b, w = pair
    await pays(net, a, b)
    await covered(a, b)

    def cut() -> None:
        w.drop_dead()
        net.network.cut(a.keys.node_id(), b.keys.node_id())

    on_sending(b, UpdateFulfillHtlc, cut)  # locked at both, and then both watcher and link are lost
    payment = await a.pay((await b.owner.contact()).contact, 1000 * PAID)
    assert payment.phase is PayPhase.PAID
    await net.settled()
    channel_id = a.channel_with(b).channel_id
    await a.owner.channel_close(channel_id, False)
    await eventually("the close", lambda: a.node.money.channel(channel_id).phase is Phase.CLOSING)


async def test_two_of_three_are_enough_and_one_is_not(leaping_clock: MockClock, net: World) -> None:
    net.hosts = CALM
    a, b = await net.add("A"), await net.add("B")
    watchers = [await net.add(f"W{number}", routes=False, watches=True, coins=0) for number in range(3)]
    await net.mine(101)
    await net.channel(a, b, CAPACITY, push_msat=1000 * PUSHED)
    await waits_for(a, 2, *watchers)
    await covered(a, b)
    await pays(net, a, b)
    await watchers[0].crash()
    for _ in range(2):
        await pays(net, a, b)
        await covered(a, b)
    await watchers[1].crash()
    await pays(net, a, b)
    payment = await a.pay((await b.owner.contact()).contact, 1000 * PAID)
    assert (payment.phase, payment.reason) == (PayPhase.FAILED, NOT_YET)
    await watchers[0].start()
    await covered(a, b)
    await pays(net, a, b)
