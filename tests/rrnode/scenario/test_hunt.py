"""Whole nodes: the victim is down, the cheat publishes a revoked state, strangers stop it and are paid."""

from dataclasses import replace
from typing import Any

import pytest
from scenario_kit import CALM, Actor, World, eventually
from test_breach import remembering
from trio.testing import MockClock

from protocols.channel.events import PublishWithChild
from protocols.channel.force import ForceClose
from protocols.ids import PeerId
from protocols.onchain import tx
from protocols.payment.events import PayPhase
from protocols.units import BlockHeight
from protocols.watch.remedy import hint_of
from rrnode.config.settings import WatchSettings
from rrnode.control.text import txid_text
from rrnode.errors import UserError

CAPACITY, PUSHED, PAID = 1_000_000, 300_000, 100_000  # satoshi


class Cheat:
    """Alice has a channel with Bob, and watchers; she goes down, and Bob has kept an old state in which he had more."""

    def __init__(self, net: World, alice: Actor, bob: Actor, old: ForceClose, channel_id: Any) -> None:
        self.net, self.alice, self.bob, self.old, self.channel_id = net, alice, bob, old, channel_id
        self.txid = tx.parse(old.transaction).txid()

    async def publish(self, *, hurried: bool = False) -> None:
        """Into the mempools, with a child that pays for it; `hurried`: more than any bounty is worth."""
        bob = self.bob.node
        order = PublishWithChild(
            channel_id=self.channel_id,
            transaction=self.old.transaction,
            anchor_index=self.old.anchor_index,
            deadline=BlockHeight(bob.following.height + (1 if hurried else 144)),
        )
        bob.broadcaster.take(order)
        await bob.broadcaster.carry_out()

    async def bury(self, blocks: int = 4) -> None:
        for _ in range(blocks):
            await self.net.mine(1)


def watching(actor: Actor, *watchers: Actor) -> None:
    actor.settings = replace(actor.settings, watch=WatchSettings(watchers=tuple(each.address for each in watchers)))


async def covered(client: Actor, *watchers: Actor) -> None:
    """Wait until these hold every revoked state of the client's channel."""
    covering, channel = client.node.covering, client.node.money.channels()[0]
    mine = [covering.watchers[each.keys.node_id()] for each in watchers]
    await eventually(
        "the watchers to hold everything",
        lambda: all(
            covering.extent(each, channel.channel_id).newest == client.node.money.channels()[0].their_secrets.count - 1
            for each in mine
        ),
    )


async def prepared(net: World, *hunters: Actor) -> Cheat:
    net.hosts = CALM
    alice, bob = await net.add("A"), await net.add("B")
    await net.mine(101)
    await net.channel(alice, bob, CAPACITY, push_msat=1000 * PUSHED)
    await alice.stop()
    watching(alice, *hunters)
    await alice.start()
    await alice.until("the channel", lambda: alice.usable(bob))
    kept = remembering(bob, alice)
    payment = await alice.pay((await bob.owner.contact()).contact, 1000 * PAID)
    assert payment.phase is PayPhase.PAID, payment.reason
    await net.settled()
    back = await bob.pay((await alice.owner.contact()).contact, 1000 * PAID)
    assert back.phase is PayPhase.PAID, back.reason
    await net.settled()
    await covered(alice, *hunters)
    channel_id = alice.channel_with(bob).channel_id
    await alice.crash()
    return Cheat(net, alice, bob, kept[0], channel_id)


async def hunter(net: World, name: str) -> Actor:
    return await net.add(name, routes=False, watches=True, coins=0)


async def its_case(actor: Actor, cheat: Cheat) -> Any:
    """The hunter's case, once there is one."""
    assert actor.node.tower is not None
    store = actor.node.tower.hunter.store
    await eventually("a case", lambda: store.find(cheat.txid) is not None)
    return store.find(cheat.txid)


async def test_cheat_is_punished_by_a_stranger_who_is_paid_while_the_victim_is_away(
    leaping_clock: MockClock, net: World
) -> None:
    h = await hunter(net, "H")
    cheat = await prepared(net, h)
    await cheat.publish()
    await its_case(h, cheat)
    await cheat.bury()
    told = await h.owner.bounty(cheat.txid)
    assert told.outcome == "won"
    assert [each.ours for each in told.outputs] == [True, True]
    assert 0 < told.reward_sat < 10_000  # half of the reserve
    assert h.coins().confirmed == told.reward_sat
    assert (await h.owner.bounties())[0].txid == txid_text(cheat.txid)
    before = cheat.alice.coins().confirmed
    await cheat.alice.start()
    await net.mine(1)
    gained = cheat.alice.coins().confirmed - before
    assert CAPACITY - 11_000 < gained < CAPACITY  # all of the channel but the bounties


async def test_of_two_hunters_one_wins_and_the_other_records_the_lost_race(
    leaping_clock: MockClock, net: World
) -> None:
    hunters = [await hunter(net, "H"), await hunter(net, "I")]
    cheat = await prepared(net, *hunters)
    await cheat.publish()
    for each in hunters:
        await published(each, cheat)
    await cheat.bury(6)
    told = [await each.owner.bounty(cheat.txid) for each in hunters]
    assert sorted(each.outcome for each in told) == ["lost", "won"]
    assert [output.spender for output in told[0].outputs] == [output.spender for output in told[1].outputs]
    assert sorted(each.lost for each in told) == [0, 2]
    assert sorted(each.reward_sat > 0 for each in told) == [False, True]
    assert [each.coins().confirmed for each in hunters] == [each.reward_sat for each in told]


async def test_hunter_that_was_down_goes_on_where_the_chain_is_now(leaping_clock: MockClock, net: World) -> None:
    h = await hunter(net, "H")
    cheat = await prepared(net, h)
    await h.crash()
    await cheat.publish()
    await net.mine(1)  # the breach is confirmed while nobody looks
    await h.start()
    await its_case(h, cheat)
    await h.crash()
    await h.start()
    assert (await its_case(h, cheat)).height is not None
    await published(h, cheat)
    await cheat.bury()
    assert (await h.owner.bounty(cheat.txid)).outcome == "won"


async def published(actor: Actor, cheat: Cheat) -> None:
    """Wait until the hunter's claim has left."""
    await its_case(actor, cheat)
    store = actor.node.tower.hunter.store  # type: ignore[union-attr]
    await eventually("the claim", lambda: store.find(cheat.txid).claim is not None)


async def test_unconfirmed_breach_is_claimed_in_the_block_that_confirms_it(
    leaping_clock: MockClock, net: World
) -> None:
    h = await hunter(net, "H")
    cheat = await prepared(net, h)
    await cheat.publish()
    await published(h, cheat)
    await net.mine(1)
    told = await h.owner.bounty(cheat.txid)
    assert [each.height for each in told.outputs] == [told.breach_height] * 2
    assert [each.spender for each in told.outputs] == [told.claim_txid] * 2
    assert told.outcome == "hunting"  # until that is buried


async def test_breach_whose_child_pays_too_much_to_be_outbid_is_claimed_once_it_is_confirmed(
    leaping_clock: MockClock, net: World
) -> None:
    h = await hunter(net, "H")
    cheat = await prepared(net, h)
    await cheat.publish(hurried=True)
    assert (await its_case(h, cheat)).claim is None
    await net.mine(1)
    await published(h, cheat)
    await cheat.bury()
    told = await h.owner.bounty(cheat.txid)
    assert told.outcome == "won"
    assert told.breach_height is not None
    assert [each.height for each in told.outputs] == [told.breach_height + 1] * 2


async def test_reorganisation_reopens_what_it_took_back(leaping_clock: MockClock, net: World) -> None:
    h = await hunter(net, "H")
    cheat = await prepared(net, h)
    await cheat.publish()
    await published(h, cheat)
    await net.mine(1)
    assert h.node.tower is not None
    store = h.node.tower.hunter.store
    case = store.find(cheat.txid)
    assert case is not None
    assert case.taken
    tip = await net.chain.tip()
    await net.chain.invalidate(tip.hash)
    await eventually("the case without its block", lambda: not store.find(cheat.txid).taken)  # type: ignore[union-attr]
    await cheat.bury(5)
    assert (await h.owner.bounty(cheat.txid)).outcome == "won"


async def test_rubbish_under_the_hint_does_not_hide_the_remedy(leaping_clock: MockClock, net: World) -> None:
    h = await hunter(net, "H")
    remedies = h.node.parts.remedies
    assert remedies is not None
    cheat = await prepared(net, h)
    hint = hint_of(cheat.txid)
    for number in range(3):
        rubbish = {hint: bytes([number]) * 437}
        remedies.put(
            PeerId(b"\x02" + bytes([number]) * 32), BlockHeight(10_000), rubbish, tip=BlockHeight(0), network=""
        )
    await cheat.publish()
    await its_case(h, cheat)
    await cheat.bury()
    assert (await h.owner.bounty(cheat.txid)).outcome == "won"


async def test_node_that_watches_for_nobody_says_so(leaping_clock: MockClock, net: World) -> None:
    a = await net.add("A", coins=0)
    with pytest.raises(UserError, match="watches for nobody"):
        await a.owner.bounties()
