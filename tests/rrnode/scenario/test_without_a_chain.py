"""A channel client that holds no chain, with three helpers that it knows nothing of but their addresses: it opens, pays, is
paid, closes together and by force, and its coins come back.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import trio
from scenario_kit import Actor, World, eventually
from trio.testing import MockClock

from protocols.channel.state import Phase
from protocols.payment.events import PayPhase
from protocols.units import Sat
from rrnode.config.settings import ChainSettings
from rrnode.control import models as m
from rrnode.control.text import peer_text
from rrnode.errors import UserError

CAPACITY = 1_000_000  # satoshi


def coins(actor: Actor) -> int:
    held = actor.coins()
    return held.confirmed + held.pending + held.immature


async def client_and_neighbour(net: World) -> tuple[Actor, Actor, list[Actor]]:
    """A, which has no chain, with coins; B, which routes; the three helpers."""
    helpers = [await net.add(f"H{number}", routes=False, serves_chain=True, coins=0) for number in range(3)]
    b = await net.add("B")
    addresses = tuple(helper.address for helper in helpers)
    a = await net.add("A", routes=False, coins=0, helpers=addresses)
    await net.mine(101)
    for _ in range(2):
        await b.owner.wallet_send(await a.owner.wallet_address(), Sat(2_000_000), None)
        await net.mine(1)
    await eventually("coins", lambda: a.coins().confirmed == 4_000_000)
    return a, b, helpers


async def test_a_client_without_a_chain_opens_pays_and_closes(net: World, leaping_clock: MockClock) -> None:
    a, b, _ = await client_and_neighbour(net)
    await net.channel(a, b, CAPACITY)
    payment = await a.pay((await b.owner.contact()).contact, 50_000_123)
    assert payment.phase is PayPhase.PAID, payment.reason
    assert (await b.pay((await a.owner.contact()).contact, 20_000_000)).phase is PayPhase.PAID
    await net.settled()
    assert (a.holds(b), b.holds(a)) == (CAPACITY * 1000 - 30_000_123, 30_000_123)
    await a.owner.channel_close(a.channel_with(b).channel_id, False)
    for _ in range(5):
        await net.mine(1)
    await eventually("the channel to end", lambda: a.channel_with(b) is None and b.channel_with(a) is None)
    assert 4_000_000 - 30_001 - 10_000 < coins(a) < 4_000_000 - 30_000
    assert [(each.trouble, each.lies) for each in a.node.backend.helpers()] == [("", 0)] * 3


async def test_its_coins_come_back_after_closes_by_force_of_either_side(net: World, leaping_clock: MockClock) -> None:
    a, b, _ = await client_and_neighbour(net)
    for closer, other in ((a, b), (b, a)):
        await net.channel(a, b, CAPACITY)
        assert (await a.pay((await b.owner.contact()).contact, 50_000_000)).phase is PayPhase.PAID
        await net.settled()
        await closer.owner.channel_close(closer.channel_with(other).channel_id, True)
        for _ in range(14):
            await net.mine(1)
        await eventually("the channel to end", lambda: a.channel_with(b) is None and b.channel_with(a) is None)
    assert 4_000_000 - 100_000 - 40_000 < coins(a) < 4_000_000 - 100_000


async def test_below_the_least_number_of_helpers_it_takes_on_nothing_new_and_says_so(
    net: World, leaping_clock: MockClock
) -> None:
    a, b, helpers = await client_and_neighbour(net)
    await net.channel(a, b, CAPACITY)
    for helper in helpers[:2]:
        await helper.stop()
    await eventually("doubt", lambda: not a.node.chain_ready)
    assert a.node.following.problem.startswith("1 of 3 helpers can be relied on, 2 wanted: ")
    assert (await a.owner.status()).chain.problem == a.node.following.problem
    await eventually("the engine to know", lambda: a.node.following.reserve.confirmed_sat is None)
    with pytest.raises(UserError, match="no payment can be made safely"):
        await a.pay((await b.owner.contact()).contact, 50_000_000)
    found = await a.owner.helpers()
    assert sorted(each.problem[:13] for each in found) == ["", "not connected", "not connected"]
    await helpers[0].start()
    await a.takes_new_things_at(a.node.follower.height)
    assert (await a.pay((await b.owner.contact()).contact, 50_000_000)).phase is PayPhase.PAID


def iter_now(events: "trio.MemoryReceiveChannel[m.Event]") -> Iterator[m.Event]:
    """What is there already."""
    while True:
        try:
            yield events.receive_nowait()
        except trio.WouldBlock:
            return


async def relies_on(client: Actor, helpers: list[Actor], **more: Any) -> None:
    """From its next start on, which is now."""
    await client.stop()
    client._helpers = tuple(each.address for each in helpers)
    client.settings = replace(
        client.settings, chain=ChainSettings(kind="remote", helpers=client._helpers, poll_seconds=0.2, **more)
    )
    await client.start()


async def test_no_channel_with_a_helper_is_opened_or_taken_unless_its_owner_says_so(
    net: World, leaping_clock: MockClock
) -> None:
    a, b, helpers = await client_and_neighbour(net)
    await b.owner.wallet_send(await helpers[0].owner.wallet_address(), Sat(2_000_000), None)
    await net.mine(1)
    await relies_on(a, helpers)
    a_id, helper_id = a.keys.node_id().hex(), helpers[0].keys.node_id().hex()
    with pytest.raises(UserError, match="is the same node as your chain helper") as refused:
        await a.owner.channel_open(helper_id, CAPACITY, 0)
    assert "chain.allow_related = true" in str(refused.value)
    with pytest.raises(UserError, match=r"^this node takes no channel from this peer$"):
        await helpers[0].owner.channel_open(a_id, CAPACITY, 0)
    await relies_on(a, helpers, allow_related=True)
    await net.channel(a, helpers[0], CAPACITY)
    assert [each.related for each in await a.owner.helpers()] == ["", "", ""]


async def test_helper_that_is_a_neighbour_already_counts_for_nothing_and_its_owner_is_told(
    net: World, leaping_clock: MockClock
) -> None:
    a, _, helpers = await client_and_neighbour(net)
    await net.channel(a, helpers[0], CAPACITY)
    await relies_on(a, helpers)
    why = (
        f"it is the same node as the channel neighbour {peer_text(helpers[0].keys.node_id())};"
        " chain.allow_related overrides this"
    )
    assert [each.related for each in await a.owner.helpers()] == [why, "", ""]
    bare, told = "no watcher looks after it while this node is away", (await a.owner.status()).warnings
    assert told[0] == f"helper {peer_text(helpers[0].keys.node_id())} counts for nothing: {why}"
    assert bare in told[1]
    assert (await a.owner.channels())[0].warning.startswith(bare)
    async with a.node.bus.subscribe(after=0) as events:
        alarms = [event.text for event in iter_now(events) if isinstance(event, m.AlarmRaised)]
    assert alarms == list(told)
    await helpers[1].stop()
    await eventually("doubt", lambda: not a.node.chain_ready)
    assert a.node.following.problem.startswith("1 of 3 helpers can be relied on, 2 wanted: ")
    assert why in a.node.following.problem


async def test_helper_that_was_a_neighbour_counts_again_when_the_channel_is_over_on_the_chain(
    net: World, leaping_clock: MockClock
) -> None:
    a, _, helpers = await client_and_neighbour(net)
    await net.channel(a, helpers[0], CAPACITY)
    await relies_on(a, helpers)
    await a.owner.channel_close(a.channel_with(helpers[0]).channel_id, True)
    await net.mine(1)
    assert a.channel_with(helpers[0]).phase is Phase.FORCED
    assert [bool(each.related) for each in await a.owner.helpers()] == [True, False, False]
    for _ in range(14):
        await net.mine(1)
    await eventually("the channel to end", lambda: a.channel_with(helpers[0]) is None)
    assert [bool(each.related) for each in await a.owner.helpers()] == [False, False, False]
