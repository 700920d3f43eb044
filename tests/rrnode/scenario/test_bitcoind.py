"""One story against a real Bitcoin Core: open, pay over two hops, close together, close by force; the coins arrive.

The bitcoind is the test's own: a private regtest on a loopback port, ended by its process id.
"""

import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest
import trio
from scenario_kit import Actor, World

from protocols.channel.state import Phase
from protocols.payment.events import PayPhase
from protocols.units import Sat

pytestmark = pytest.mark.bitcoind

CAPACITY = 1_000_000  # satoshi
MOST_FEES = 20_000  # satoshi, of one channel's life


def chain_kit() -> ModuleType:
    """The rig of the chain tests, which starts and ends a bitcoind."""
    name = "chain_kit"
    if name not in sys.modules:
        spec = util.spec_from_file_location(name, Path(__file__).parent.parent / "chain" / "chain_kit.py")
        assert spec is not None
        assert spec.loader is not None
        module = util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def coins(actor: Actor) -> int:
    held = actor.coins()
    return held.confirmed + held.pending + held.immature


async def mine_until_closed(net: World, one: Actor, other: Actor) -> None:
    """Blocks until a channel is over for both, and a few seconds of real time for what each block sets off."""

    def over() -> bool:
        return one.channel_with(other) is None and other.channel_with(one) is None

    for _ in range(30):
        with trio.move_on_after(0.5):
            while not over():
                await one.node.changed()
        if over():
            return
        await net.mine(1)
    raise AssertionError(f"{one.channel_with(other)}, {other.channel_with(one)}")


async def test_open_pay_and_close_on_a_real_bitcoin_core(
    bitcoind_binary: Path, tmp_path: Path, nursery: trio.Nursery
) -> None:
    rig = chain_kit().CoreRig(tmp_path, nursery, program=bitcoind_binary)
    await rig.start()
    try:
        net = World(tmp_path, nursery, rig.chain, rig.client)
        a, b, c = [await net.add(name) for name in "ABC"]
        await net.mine(101)
        at_first = {actor.name: coins(actor) for actor in (a, b, c)}
        await net.channel(a, b, CAPACITY)
        await net.channel(b, c, CAPACITY)

        payment = await a.pay((await c.owner.contact()).contact, 50_000_123)
        assert payment.phase is PayPhase.PAID, payment.reason
        request = await b.owner.request(20_000_000, "on a real chain", 600)
        assert (await a.pay(request.request)).phase is PayPhase.PAID
        await net.settled()
        sent = payment.attempts[-1].amount
        assert (a.holds(b), b.holds(a)) == (CAPACITY * 1000 - sent - 20_000_000, sent + 20_000_000)
        assert c.holds(b) == 50_000_123
        assert net.total() == 2 * CAPACITY * 1000

        await a.owner.channel_close(a.channel_with(b).channel_id, False)
        await mine_until_closed(net, a, b)
        await c.owner.channel_close(c.channel_with(b).channel_id, True)
        assert c.node.money.channels()[-1].phase is Phase.FORCED
        await mine_until_closed(net, b, c)
        await net.mine(2)
        for actor, gain in ((a, -sent - 20_000_000), (b, sent + 20_000_000 - 50_000_123), (c, 50_000_123)):
            wanted = at_first[actor.name] + Sat(gain // 1000)
            assert wanted - MOST_FEES <= coins(actor) <= wanted + 1, actor.name
            await actor.stop()
    finally:
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await rig.stop()
