"""A channel client that holds no chain, with three helpers that it knows nothing of but their addresses: it opens, pays, is
paid, closes together and by force, and its coins come back.
"""

import pytest
from scenario_kit import Actor, World, eventually
from trio.testing import MockClock

from protocols.payment.events import PayPhase
from protocols.units import Sat
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
