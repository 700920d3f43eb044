"""A node that comes back after many blocks takes on nothing before it knows how high the chain is."""

from typing import Any

import pytest
import trio
from scenario_kit import BURN, World

from protocols.payment.events import ChainReserveChanged
from rrnode.chain.base import WholeChain
from rrnode.dispatcher import Dispatcher
from rrnode.services import following


async def test_nothing_is_taken_on_before_the_chain_is_read_up_to_its_end(
    net: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour that waited for this could lock an HTLC which has expired already, and take back what we paid on for it."""
    alice, bob = await net.add("A"), await net.add("B")
    await net.mine(101)
    await net.channel(alice, bob)
    await bob.crash()
    await net.chain.mine(60, BURN)  # more than the follower brings at once
    height = (await net.chain.tip()).height
    told: list[int] = []
    first = trio.Event()
    read, step = WholeChain.transactions, Dispatcher._step

    async def slowly(*arguments: Any) -> Any:
        await trio.sleep(0.01)  # as real blocks take their time: the neighbour is linked again meanwhile
        return await read(*arguments)

    def note(self: Dispatcher, event: Any, effects: list[Any]) -> None:
        theirs = self is alice.node.dispatcher
        if isinstance(event, ChainReserveChanged) and event.confirmed_sat is not None and not theirs:
            told.append(self._facts().tip)
            first.set()
        step(self, event, effects)

    monkeypatch.setattr(WholeChain, "transactions", slowly)
    monkeypatch.setattr(Dispatcher, "_step", note)
    await bob.start()
    await bob.until("the chain's end", lambda: bob.node.following.height == height)
    await bob.until("the channel to be usable", lambda: bob.usable(alice))
    await alice.until("the channel to be usable", lambda: alice.usable(bob))
    with trio.fail_after(10):
        await first.wait()
    assert told == [height]


async def test_nothing_is_taken_on_while_the_chain_stands_still(net: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain's node was off together with ours and is still syncing, or somebody cut it off from the network."""
    alice, bob = await net.add("A"), await net.add("B")
    await net.mine(101)
    await net.channel(alice, bob)
    monkeypatch.setattr(following, "UNTIMED", frozenset())
    monkeypatch.setattr(following, "TROUBLE_EVERY", 0.01)
    heard, handle = trio.Event(), bob.node.dispatcher._handle

    def note(event: Any, facts: Any) -> Any:
        effects = handle(event, facts)
        if isinstance(event, ChainReserveChanged) and event.confirmed_sat is None:
            heard.set()
        return effects

    bob.node.dispatcher._handle = note
    tip = bob.node.follower.tip
    object.__setattr__(bob.node.parts, "clock", lambda: tip.time + 3 * 3600 - 1)
    assert bob.node.following.problem == ""
    object.__setattr__(bob.node.parts, "clock", lambda: tip.time + 3 * 3600)
    assert bob.node.following.problem.startswith("no block came for 3 hours")
    with trio.fail_after(10):
        await heard.wait()
    assert bob.node.money.most_receivable(bob.node.asset) == 0
