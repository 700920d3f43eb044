"""Whole nodes and what the chain does to them: a reorganisation under an open channel, closes by force with HTLCs in flight
both ways, a chain that goes away. Coins are counted at the end."""

import pytest
import trio
from scenario_kit import CALM, Actor, World, eventually, on_sending
from trio.testing import MockClock

from protocols.channel.state import Phase, balances
from protocols.ids import PaymentHash
from protocols.payment.events import PayPhase, PromisePhase
from protocols.wire.channel import UpdateFulfillHtlc
from rrnode.control import models as m
from rrnode.errors import UserError

CAPACITY = 1_000_000  # satoshi
MOST_FEES = 60_000  # satoshi per channel that ends on the chain with HTLCs


@pytest.fixture
async def pair(net: World) -> tuple[Actor, Actor]:
    """Two nodes that route, and a channel in which both hold something."""
    net.hosts = CALM
    a, b = await net.add("A"), await net.add("B")
    await net.mine(101)
    await net.channel(a, b, push_msat=300_000_000)
    return a, b


async def pays(payer: Actor, payee: Actor, amount: int = 1_000_000) -> None:
    """A payment works."""
    payment = await payer.pay((await payee.owner.contact()).contact, amount)
    assert payment.phase is PayPhase.PAID, payment.reason


# --- reorganisations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [3, 6])
async def test_a_channel_rests_while_a_reorganisation_unburies_its_funding(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor], depth: int
) -> None:
    a, b = pair
    height = a.channel_with(b).funding_height
    while (tip := await net.chain.tip()).height < height + depth - 1:
        await net.mine(1)
    assert tip.height == height + depth - 1
    await pays(a, b)
    await net.settled()
    before = a.holds(b), b.holds(a)
    block = await net.chain.block_at(height)
    assert block is not None
    await net.chain.invalidate(block.hash)
    for here, there in ((a, b), (b, a)):
        await here.until("the funding to be gone", lambda here=here, there=there: not here.channel_with(there).deep)
        assert here.channel_with(there).phase is Phase.OPEN
        assert not here.usable(there)
    with pytest.raises(UserError):
        await a.pay((await b.owner.contact()).contact, 1_000_000)
    (info,) = await a.owner.channels()
    assert info.note == "the funding transaction lost confirmations in a reorganisation"
    await net.mine(1)
    for here, there in ((a, b), (b, a)):
        await here.until("the channel to be back", lambda here=here, there=there: here.usable(there))
    assert (a.holds(b), b.holds(a)) == before
    await pays(a, b)
    await pays(b, a)


# --- force closes with HTLCs in flight --------------------------------------------------------------------------------


@pytest.fixture
async def line(net: World) -> dict[str, Actor]:
    """X---A---B---C, everybody routes, both ends of each channel hold something."""
    net.hosts = CALM
    actors = {name: await net.add(name, coins=3) for name in "XABC"}
    await net.mine(101)
    for one, other in ("XA", "AB", "BC"):
        await net.channel(actors[one], actors[other], CAPACITY, push_msat=400_000_000)
    return actors


async def held_payment(payer: Actor, payee: Actor, last: Actor, amount: int) -> PaymentHash:
    """A payment that is locked all the way: the payee has decided to take it and dies before it can say so."""
    contact = (await payee.owner.contact()).contact
    on_sending(payee, UpdateFulfillHtlc, payee.drop_dead, to=last)
    payment_hash = await payer.owner.pay(m.PayOrder(target=contact, amount_msat=amount))
    await payee.gone()
    await last.until("the HTLC", lambda: bool(last.channel_with(payee).htlcs))
    return payment_hash


def worth(net: World) -> int:
    """Satoshi of everybody: wallets, and channels that are not over, each counted once."""
    total, seen = 0, set()
    for actor in net.actors.values():
        coins = actor.coins()
        total += coins.confirmed + coins.pending + coins.immature
        for channel in actor.node.money.channels():
            if channel.phase is not Phase.CLOSED and channel.channel_id not in seen:
                seen.add(channel.channel_id)
                total += channel.capacity
    return total


async def mine_until(net: World, what: str, condition: object, blocks: int = 80) -> None:
    """One block after the other, with a moment after each for what it sets off."""
    assert callable(condition)
    for _ in range(blocks):
        with trio.move_on_after(0.5):
            while not condition():  # noqa: ASYNC110 (several nodes and wallets)
                await trio.sleep(0.05)
            return
        await net.mine(1)
    raise AssertionError(f"{blocks} blocks did not bring {what}")


@pytest.mark.parametrize("closer", ["A", "B"])
async def test_htlcs_both_ways_end_on_the_chain_by_success_and_by_timeout(
    leaping_clock: MockClock, net: World, line: dict[str, Actor], closer: str
) -> None:
    """A pays C over B, and B pays X over A; both payees fall silent with the money locked. A or B closes A-B by force. C
    comes back and claims, so B claims from A on the chain; X stays away, so B and A take their money back by timeout."""
    x, a, b, c = (line[name] for name in "XABC")
    before, coins = worth(net), {name: net.actors[name].coins() for name in "AB"}
    to_c = await held_payment(a, c, b, 50_000_000)
    to_x = await held_payment(b, x, a, 60_000_000)
    assert [each.ours for each in sorted(a.channel_with(b).htlcs, key=lambda each: each.amount)] == [True, False]
    sent = a.node.money.payment(to_c).attempts[-1].amount
    channel_id = a.channel_with(b).channel_id
    await line[closer].owner.channel_close(channel_id, True)
    other = b if closer == "A" else a
    await mine_until(net, "the commitment", lambda: other.node.money.channel(channel_id).phase is Phase.FORCED)
    await c.start()
    await mine_until(net, "A's receipt", lambda: a.node.money.payment(to_c).phase is PayPhase.PAID)
    assert c.node.money.promise(to_c).phase is PromisePhase.CLAIMED
    assert c.node.money.promise(to_c).received == 50_000_000

    def over() -> bool:
        return all(actor.node.money.channel(channel_id).phase is Phase.CLOSED for actor in (a, b))

    await mine_until(net, "the end of A-B", over)
    failed = await b.ended(to_x)
    assert failed.phase is PayPhase.FAILED, "X never showed the preimage"
    assert [each.failure for each in failed.attempts] != [None]

    def x_gone() -> bool:  # A's HTLC to X ran into its deadline, so that channel ended on the chain, too
        return all(each.phase is Phase.CLOSED for each in a.node.money.channels() if each.peer == x.keys.node_id())

    await mine_until(net, "the end of X-A", x_gone)
    await mine_until(
        net, "all coins", lambda: not any(each.coins().pending or each.coins().set_aside for each in (a, b))
    )
    # A had 600,000 of A-B and lost what it sent; of X-A it has its 400,000 back.
    gained = {name: net.actors[name].coins().confirmed - coins[name].confirmed for name in "AB"}
    assert 600_000 + 400_000 - sent // 1000 - MOST_FEES <= gained["A"] <= 600_000 + 400_000 - sent // 1000
    assert 400_000 + sent // 1000 - MOST_FEES <= gained["B"] <= 400_000 + sent // 1000 + 1
    assert balances(b.channel_with(c)).theirs == 450_000_000
    await x.start()  # it finds its channel closed, and its coins
    await x.until("the chain", lambda: x.node.following.height == a.node.following.height)
    await mine_until(net, "X's end", lambda: all(each.phase is Phase.CLOSED for each in x.node.money.channels()))
    await mine_until(net, "X's coins", lambda: not x.coins().pending)
    assert before - 3 * MOST_FEES <= worth(net) <= before
    await pays(b, c)


# --- the chain goes away ----------------------------------------------------------------------------------------------


async def test_a_chain_that_went_away_stops_what_is_new_and_is_followed_again(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    contact = (await b.owner.contact()).contact
    net.chain.take_away()
    for each in pair:
        told = lambda each=each: any("chain" in text for text in each.node.alarms)  # noqa: E731
        await eventually("the loss to be told", told)
        await eventually("nothing to be taken", lambda each=each: not each.node.money.most_receivable(a.node.asset))
    status = await a.owner.status()
    assert not status.chain.ready
    assert "taken away" in status.chain.problem
    with pytest.raises(UserError, match="chain does not answer"):
        await a.pay(contact, 1_000_000)
    with pytest.raises(UserError, match="the chain cannot be reached"):
        await a.owner.channel_open(b.keys.node_id().hex(), 100_000, 0)
    assert a.channel_with(b).phase is Phase.OPEN, "a lost chain closes nothing"
    net.chain.bring_back()
    for each in pair:
        await eventually("the chain", lambda each=each: each.node.money.most_receivable(a.node.asset) > 0)
    assert (await a.owner.status()).chain.ready
    await pays(a, b)
    await net.mine(2)


async def test_a_payment_under_way_ends_although_the_chain_is_away(
    leaping_clock: MockClock, net: World, pair: tuple[Actor, Actor]
) -> None:
    a, b = pair
    contact = (await b.owner.contact()).contact
    on_sending(b, UpdateFulfillHtlc, lambda: (net.chain.take_away(), b.drop_dead()))
    payment_hash = await a.owner.pay(m.PayOrder(target=contact, amount_msat=2_000_000))
    await b.gone()
    net.chain.bring_back()  # b needs a chain to start
    await b.start()
    net.chain.take_away()
    assert (await a.ended(payment_hash)).phase is PayPhase.PAID
    net.chain.bring_back()
    await net.settled()
    assert (a.holds(b), b.holds(a)) == (698_000_000, 302_000_000)
