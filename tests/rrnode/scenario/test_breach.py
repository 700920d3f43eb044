"""Whole nodes, one of which publishes a revoked state: the other, which is there, takes everything in it."""

from typing import Any

import pytest
from scenario_kit import CALM, Actor, World
from trio.testing import MockClock

from protocols.channel.events import PublishWithChild
from protocols.channel.force import ForceClose, force_close_transactions
from protocols.channel.state import Phase, balances
from protocols.onchain import tx
from protocols.payment.events import PayPhase
from protocols.units import BlockHeight
from protocols.wire.channel import UpdateFulfillHtlc

CAPACITY, PUSHED, PAID = 1_000_000, 300_000, 200_000  # satoshi


@pytest.fixture
async def pair(net: World) -> tuple[Actor, Actor]:
    net.hosts = CALM
    a, b = await net.add("A"), await net.add("B")
    await net.mine(101)
    await net.channel(a, b, CAPACITY, push_msat=1000 * PUSHED)
    return a, b


def remembering(b: Actor, a: Actor) -> list[ForceClose]:
    """B keeps, of every payment that it takes, the state in which that was still under way."""
    kept: list[ForceClose] = []
    send = b.node.channels.send

    def noting(peer: Any, message: Any) -> None:
        if isinstance(message, UpdateFulfillHtlc):
            channel = b.channel_with(a)
            found = force_close_transactions(channel, b.keys.channel_keys(channel.key_index))
            assert found is not None
            kept.append(found)
        send(peer, message)

    b.node.channels.send = noting  # type: ignore[method-assign]
    return kept


async def test_all_of_a_revoked_state_is_taken_although_its_htlc_is_long_gone(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    kept = remembering(b, a)
    for _ in range(2):
        payment = await a.pay((await b.owner.contact()).contact, 1000 * PAID // 2)
        assert payment.phase is PayPhase.PAID, payment.reason
        await net.settled()
    assert balances(a.channel_with(b)).ours == 1000 * (CAPACITY - PUSHED - PAID)
    old, _ = kept
    coins = a.coins().confirmed
    channel_id = a.channel_with(b).channel_id
    deadline = BlockHeight(b.node.following.height + 1)
    b.node.broadcaster.take(
        PublishWithChild(
            channel_id=channel_id, transaction=old.transaction, anchor_index=old.anchor_index, deadline=deadline
        )
    )
    await b.node.broadcaster.carry_out()
    outputs = [each.value for each in tx.parse(old.transaction).outputs]
    assert sorted(outputs) == [0, PAID // 2, PUSHED, CAPACITY - PUSHED - PAID // 2]
    for _ in range(20):
        await net.mine(1)
        if a.node.money.channel(channel_id).phase is Phase.CLOSED:
            break
    assert a.node.money.channel(channel_id).phase is Phase.CLOSED
    gained = a.coins().confirmed - coins
    assert CAPACITY - 30_000 < gained < CAPACITY
