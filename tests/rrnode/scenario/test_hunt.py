"""Whole nodes: the victim is down, the cheat publishes a revoked state, strangers stop it and are paid."""

from dataclasses import replace
from typing import Any

import pytest
from scenario_kit import CALM, Actor, World, eventually
from test_breach import remembering
from trio.testing import MockClock

from protocols.channel.commitments import params_of
from protocols.channel.events import PublishWithChild
from protocols.channel.force import ForceClose
from protocols.ids import PeerId, Txid
from protocols.onchain import scripts, sweep, tx
from protocols.onchain.commitment import published_number
from protocols.onchain.keys import derive_privkey, derive_pubkey, derive_revocation_pubkey
from protocols.payment.events import PayPhase
from protocols.units import BlockHeight, FeeRate
from protocols.watch.remedy import hint_of
from rrnode.config.settings import WatchSettings
from rrnode.control.text import txid_text
from rrnode.errors import UserError

CAPACITY, PUSHED, PAID = 1_000_000, 300_000, 100_000  # satoshi


class Cheat:
    """Alice has a channel with Bob, and watchers; she goes down, and Bob has kept old states in which he had more."""

    def __init__(self, net: World, alice: Actor, bob: Actor, kept: list[ForceClose]) -> None:
        self.net, self.alice, self.bob, self.kept = net, alice, bob, kept
        self.channel = bob.channel_with(alice)
        self.old = kept[0]

    @property
    def txid(self) -> Txid:
        """Of the state that he publishes."""
        return tx.parse(self.old.transaction).txid()

    async def publish(self, *, hurried: bool = False) -> None:
        """Into the mempools, with a child that pays for it; `hurried`: more than any bounty is worth."""
        bob = self.bob.node
        order = PublishWithChild(
            channel_id=self.channel.channel_id,
            transaction=self.old.transaction,
            anchor_index=self.old.anchor_index,
            deadline=BlockHeight(bob.following.height + (1 if hurried else 144)),
        )
        bob.broadcaster.take(order)
        await bob.broadcaster.carry_out()
        await eventually("the breach", lambda: self.txid in self.net.chain.mempool_now.entries)

    async def confirm(self) -> None:
        """Publish, and wait for the block that holds it: before that no hunter can outbid it."""
        await self.publish(hurried=True)
        await self.net.mine(1)

    def sweep(self) -> bytes:
        """How he takes his balance once the delay is over."""
        params, breach = params_of(self.channel, ours=True), tx.parse(self.old.transaction)
        keys = self.bob.keys.channel_keys(self.channel.key_index)
        number = published_number(params, breach)
        assert number is not None
        point, base = keys.per_commitment_point(number), params.broadcaster.delayed_payment
        revocation = derive_revocation_pubkey(params.countersignatory.revocation, point)
        script = scripts.to_local_script(revocation, params.to_self_delay, derive_pubkey(base, point))
        index = [each.script for each in breach.outputs].index(scripts.p2wsh(script))
        claim = sweep.Claim(
            txid=self.txid,
            index=index,
            value=breach.outputs[index].value,
            witness_script=script,
            secret=derive_privkey(keys.delayed_payment_secret, base, point),
            tail=(b"",),
            sequence=params.to_self_delay,
        )
        made = sweep.build(claim, b"\x00\x14" + bytes(20), FeeRate(1_000))
        assert made is not None
        return made

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


async def prepared(net: World, *hunters: Actor, names: str = "AB", states: int = 1) -> Cheat:
    """A cheat who has kept so many states."""
    net.hosts = CALM
    alice, bob = [await net.add(name) for name in names]
    await net.mine(101)
    await net.channel(alice, bob, CAPACITY, push_msat=1000 * PUSHED)
    await alice.stop()
    watching(alice, *hunters)
    await alice.start()
    await alice.until("the channel", lambda: alice.usable(bob))
    kept = remembering(bob, alice)
    for payer, payee in [(alice, bob)] * states + [(bob, alice)]:
        amount = PAID if payer is alice else states * PAID
        payment = await payer.pay((await payee.owner.contact()).contact, 1000 * amount)
        assert payment.phase is PayPhase.PAID, payment.reason
        await net.settled()
    await covered(alice, *hunters)
    await alice.crash()
    return Cheat(net, alice, bob, kept)


async def hunter(net: World, name: str) -> Actor:
    return await net.add(name, routes=False, watches=True, coins=0)


async def its_case(actor: Actor, cheat: Cheat) -> Any:
    """The hunter's case, once there is one."""
    store = store_of(actor)
    await eventually("a case", lambda: store.find(cheat.txid) is not None)
    return store.find(cheat.txid)


def store_of(actor: Actor) -> Any:
    assert actor.node.tower is not None
    return actor.node.tower.hunter.store


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


async def published(actor: Actor, cheat: Cheat) -> None:
    """Wait until the hunter's claim has left."""
    await its_case(actor, cheat)
    store = store_of(actor)
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
    store = store_of(h)
    case = store.find(cheat.txid)
    assert case is not None
    assert case.taken
    tip = await net.chain.tip()
    await net.chain.invalidate(tip.hash)
    await eventually("the case without its block", lambda: not store.find(cheat.txid).taken)
    await cheat.bury(5)
    assert (await h.owner.bounty(cheat.txid)).outcome == "won"


async def test_claim_that_a_reorganisation_takes_back_is_made_again(leaping_clock: MockClock, net: World) -> None:
    h = await hunter(net, "H")
    cheat = await prepared(net, h)
    await cheat.confirm()
    await published(h, cheat)
    await net.mine(1)
    store = store_of(h)
    assert [each.ours for each in store.find(cheat.txid).taken] == [True, True]
    tip = await net.chain.tip()
    await net.undo(tip.hash)
    await eventually("the case without its claim", lambda: not store.find(cheat.txid).taken)
    assert (await h.owner.bounty(cheat.txid)).breach_height == tip.height - 1
    await eventually("the claim anew", lambda: bool(net.chain.mempool_now.entries))
    reorganised = (await net.chain.tip()).height
    await cheat.bury()
    told = await h.owner.bounty(cheat.txid)
    assert (told.outcome, told.lost) == ("won", 0)
    assert [each.height for each in told.outputs] == [reorganised + 1] * 2
    assert h.coins().confirmed == told.reward_sat > 0


async def test_another_state_of_the_channel_that_a_reorganisation_brings_is_hunted_instead(
    leaping_clock: MockClock, net: World
) -> None:
    h = await hunter(net, "H")
    cheat = await prepared(net, h, states=2)
    await cheat.confirm()
    await published(h, cheat)
    await net.mine(1)
    first = cheat.txid
    assert (await h.owner.bounty(first)).reward_sat > 0
    ref = await net.chain.block_at(BlockHeight((await net.chain.tip()).height - 1))
    assert ref is not None
    await net.undo(ref.hash)
    cheat.old = cheat.kept[1]
    assert cheat.txid != first
    await cheat.confirm()
    await published(h, cheat)
    await cheat.bury()
    gone, won = await h.owner.bounty(first), await h.owner.bounty(cheat.txid)
    assert (gone.outcome, gone.breach_height, gone.reward_sat, gone.lost) == ("hunting", None, 0, 0)
    assert [each.spender for each in gone.outputs] == ["", ""]
    assert (won.outcome, [each.ours for each in won.outputs]) == ("won", [True] * len(won.outputs))
    assert h.coins().confirmed == won.reward_sat > 0


async def test_breaches_of_several_channels_in_one_block_are_all_claimed(leaping_clock: MockClock, net: World) -> None:
    h = await hunter(net, "H")
    cheats = [await prepared(net, h, names=names) for names in ("AB", "CD", "EF")]
    for cheat in cheats:
        await cheat.publish(hurried=True)
    await net.mine(1)
    for cheat in cheats:
        await published(h, cheat)
    await cheats[0].bury()
    told = [await h.owner.bounty(cheat.txid) for cheat in cheats]
    assert [each.outcome for each in told] == ["won"] * 3
    assert len({each.breach_height for each in told}) == 1
    assert h.coins().confirmed == sum(each.reward_sat for each in told)
    assert len({case.script for case in (store_of(h).find(cheat.txid) for cheat in cheats)}) == 3


async def test_rubbish_under_the_hint_does_not_hide_the_remedy(leaping_clock: MockClock, net: World) -> None:
    """Bytes that are no remedy, one for another state of the channel, and the same one again from others."""
    h = await hunter(net, "H")
    remedies = h.node.parts.remedies
    assert remedies is not None
    cheat = await prepared(net, h, states=2)
    hint, other = hint_of(cheat.txid), hint_of(tx.parse(cheat.kept[1].transaction).txid())
    (mine,), (foreign,) = remedies.find(hint), remedies.find(other)
    assert mine != foreign
    for number, sealed in enumerate((bytes(437), b"\x01" * 437, foreign, mine, mine)):
        sender = PeerId(b"\x02" + bytes([number]) * 32)
        remedies.put(sender, BlockHeight(10_000), {hint: sealed}, tip=BlockHeight(0), network="")
    await cheat.publish()
    await its_case(h, cheat)
    await cheat.bury()
    told = await h.owner.bounty(cheat.txid)
    assert (told.outcome, [each.ours for each in told.outputs]) == ("won", [True, True])


async def test_node_that_watches_for_nobody_says_so(leaping_clock: MockClock, net: World) -> None:
    a = await net.add("A", coins=0)
    with pytest.raises(UserError, match="watches for nobody"):
        await a.owner.bounties()
