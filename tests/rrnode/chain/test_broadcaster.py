"""The broadcaster over an embedded regtest and a wallet that signs for real: what stands in the mempool, and what it pays."""

import pytest
import structlog
import trio

from protocols.channel.events import Publish, PublishWithChild, PublishWithInputs, Purpose
from protocols.ids import ChannelId
from rrnode.chain import broadcaster as module
from rrnode.chain.broadcaster import Broadcaster
from rrnode.chain.fees import FeePolicy
from rrnode.chain.outgoing import RELEASE_AFTER
from rrnode.chain.parse import outpoint, parse_transaction
from rrnode.errors import ChainUnavailable

CHANNEL = ChannelId(b"\x05" * 32)


def whole(tx):
    return Publish(channel_id=CHANNEL, transaction=tx.raw, purpose=Purpose.SWEEP)


def with_child(tx, deadline):
    return PublishWithChild(channel_id=CHANNEL, transaction=tx.raw, anchor_index=1, deadline=deadline)


def with_inputs(tx, deadline, purpose=Purpose.HTLC_SUCCESS):
    return PublishWithInputs(
        channel_id=CHANNEL, transaction=tx.raw, purpose=purpose, spent_value=tx.outputs[0].value, deadline=deadline
    )


class Bench:
    """A chain, a wallet with coins, and a broadcaster that carries out what it is given."""

    def __init__(self, chain, kit, wallet):
        self.chain, self.kit, self.wallet = chain, kit, wallet
        self.broadcaster = Broadcaster(chain, wallet)

    async def order(self, *orders):
        with structlog.testing.capture_logs() as logs:
            for each in orders:
                self.broadcaster.take(each)
            await self.broadcaster.carry_out()
        return [entry["event"] for entry in logs if entry["log_level"] != "debug"]

    async def mempool(self):
        return {tx.txid: tx for tx in [entry.tx for entry in self.chain.mempool_now.entries.values()]}

    async def child_of(self, tx, index=1):
        spender = (await self.chain.mempool_spenders([outpoint(tx.txid, index)])).get(outpoint(tx.txid, index))
        return None if spender is None else parse_transaction(await self.chain.mempool_transaction(spender))

    def fee(self, tx):
        return self.chain.mempool_now.entries[tx.txid].fee

    async def mine(self, blocks=1):
        await self.chain.mine(blocks, self.kit.LOCKED)


@pytest.fixture
async def bench(kernel_chain, kit):
    wallet = kit.KeyWallet()
    await kit.with_coins(kernel_chain, wallet, 200_000, 100_000, 50_000)
    return Bench(kernel_chain, kit, wallet)


@pytest.fixture
async def funding(bench, kit):
    """A confirmed output of a million satoshi, as a channel's funding."""
    (source,) = await kit.funded(bench.chain, 1)
    tx = kit.build([source], [(1_000_000, kit.OPEN), (source[1] - 1_001_000, kit.OPEN)])
    await bench.chain.publish((tx.raw,))
    await bench.mine()
    return kit.coin(tx)


async def test_a_whole_transaction_is_published_once(bench, kit):
    (source,) = await kit.funded(bench.chain, 1)
    tx = kit.pay([source], 1000)
    assert await bench.order(whole(tx)) == []
    assert list(await bench.mempool()) == [tx.txid]
    sequence = bench.chain.mempool_now.sequence
    assert await bench.order(whole(tx), whole(tx)) == []
    assert bench.chain.mempool_now.sequence == sequence
    await bench.mine()
    assert await bench.order(whole(tx)) == []


async def test_what_libbitcoinkernel_refuses_does_not_leave(bench, kit):
    (source,) = await kit.funded(bench.chain, 1)
    to_locked = kit.build([source], [(source[1] - 1000, kit.LOCKED)])
    await bench.order(whole(to_locked))
    asked = []

    async def publish(transactions):
        asked.append(transactions)

    bench.chain.publish = publish
    assert await bench.order(whole(kit.pay([kit.coin(to_locked)], 1000))) == ["publish.invalid"]
    commitment = kit.build([kit.coin(to_locked)], [(1000, kit.OPEN), (0, kit.ANCHOR)], version=3)
    assert await bench.order(with_child(commitment, 10**6)) == ["publish.invalid"]
    assert asked == []


async def test_what_is_not_yet_final_waits_without_a_word(bench, kit, funding):
    height = (await bench.chain.tip()).height
    timeout = kit.build([funding], [(1_000_000, kit.OPEN)], version=3, lock_time=height + 1, sequence=0)
    order = with_inputs(timeout, height + 20, Purpose.HTLC_TIMEOUT)
    assert await bench.order(order) == []
    assert await bench.mempool() == {}
    await bench.mine()
    assert await bench.order(order) == []
    assert len(await bench.mempool()) == 1


async def test_a_commitment_goes_out_with_a_child_that_pays_for_both(bench, kit, funding):
    commitment = kit.commitment(funding, anchor=100)
    assert await bench.order(with_child(commitment, 10_000)) == []
    child = await bench.child_of(commitment)
    assert set(await bench.mempool()) == {commitment.txid, child.txid}
    size = commitment.vsize + child.vsize
    assert size <= bench.fee(child) <= size + 3  # 1 sat/vB, no more than rounding above it
    assert [output.script for output in child.outputs] == [bench.wallet.script]
    sequence = bench.chain.mempool_now.sequence
    assert await bench.order(with_child(commitment, 10_000)) == []
    assert bench.chain.mempool_now.sequence == sequence
    await bench.mine()
    assert await bench.mempool() == {}
    assert await bench.order(with_child(commitment, 10_000)) == []


async def test_the_child_pays_more_as_the_deadline_comes_near(bench, kit, funding):
    commitment = kit.commitment(funding)
    height = (await bench.chain.tip()).height
    rates = []
    for left in (30, 18, 17, 12, 6, 1, 0):
        assert await bench.order(with_child(commitment, height + left)) == []
        child = await bench.child_of(commitment)
        rates.append(bench.fee(child) / (commitment.vsize + child.vsize))
    assert [round(rate, 1) for rate in rates] == [1.0, 1.0, 1.0, 4.0, 16.0, 53.3, 64.0]
    assert len(await bench.mempool()) == 2


async def test_a_child_that_pays_nearly_enough_is_left_alone(bench, kit, funding):
    commitment = kit.commitment(funding)
    bench.chain._feerate = 20_000
    await bench.order(with_child(commitment, 10_000))
    first = await bench.child_of(commitment)
    bench.chain._feerate = 21_500
    await bench.order(with_child(commitment, 10_000))
    assert await bench.child_of(commitment) == first
    bench.chain._feerate = 22_500
    await bench.order(with_child(commitment, 10_000))
    assert bench.fee(await bench.child_of(commitment)) > bench_fee_at(20_000, commitment, first)


def bench_fee_at(rate, parent, child):
    """Rounded up, as the broadcaster pays."""
    return -(-rate * (parent.vsize + child.vsize) // 1000)


async def test_an_htlc_transaction_that_pays_nearly_enough_is_left_alone(bench, kit, funding):
    bare = kit.build([funding], [(1_000_000, kit.OPEN)], version=3, sequence=0)
    bench.chain._feerate = 20_000
    await bench.order(with_inputs(bare, 10_000))
    (first,) = await bench.mempool()
    bench.chain._feerate = 21_500
    await bench.order(with_inputs(bare, 10_000))
    assert list(await bench.mempool()) == [first]


async def test_fees_stop_at_half_of_what_is_at_stake(bench, kit):
    (source,) = await kit.funded(bench.chain, 1)
    tx = kit.build([source], [(12_000, kit.OPEN), (source[1] - 13_000, kit.OPEN)])
    await bench.chain.publish((tx.raw,))
    await bench.mine()
    commitment = kit.commitment(kit.coin(tx))
    assert await bench.order(with_child(commitment, 0)) == []
    assert bench.fee(await bench.child_of(commitment)) == 6_000


async def test_a_rival_commitment_is_outbid_when_time_presses(bench, kit, funding):
    fees, *_ = await kit.funded(bench.chain, 1)
    ours, theirs = kit.commitment(funding, mark=1000), kit.commitment(funding, mark=2000)
    rich = kit.pay([kit.coin(theirs, 1), fees], 5_000, version=3)
    await bench.chain.publish((theirs.raw, rich.raw))
    height = (await bench.chain.tip()).height
    assert await bench.order(with_child(ours, height + 100)) == []
    assert set(await bench.mempool()) == {theirs.txid, rich.txid}
    assert await bench.order(with_child(ours, height + 3)) == []
    assert set(await bench.mempool()) == {ours.txid, (await bench.child_of(ours)).txid}


async def test_a_strangers_child_is_left_alone_until_it_pays_too_little(bench, kit, funding):
    fees, *_ = await kit.funded(bench.chain, 1)
    commitment = kit.commitment(funding)
    stranger = kit.pay([kit.coin(commitment, 1), fees], 3_000, version=3)
    await bench.chain.publish((commitment.raw, stranger.raw))
    height = (await bench.chain.tip()).height
    assert await bench.order(with_child(commitment, height + 100)) == []
    assert (await bench.child_of(commitment)).txid == stranger.txid
    assert await bench.order(with_child(commitment, height + 3)) == []
    assert (await bench.child_of(commitment)).outputs[0].script == bench.wallet.script


async def test_an_htlc_transaction_gets_coins_and_change_and_is_raised(bench, kit, funding):
    bare = kit.build([funding], [(1_000_000, kit.OPEN)], version=3, sequence=0)
    height = (await bench.chain.tip()).height
    assert await bench.order(with_inputs(bare, height + 100)) == []
    (first,) = (await bench.mempool()).values()
    assert first.outputs[0] == bare.outputs[0]
    assert first.witnesses[0] == bare.witnesses[0]
    assert first.vsize <= bench.fee(first) <= first.vsize + 2
    assert await bench.order(with_inputs(bare, height + 50)) == []
    assert list(await bench.mempool()) == [first.txid]
    assert await bench.order(with_inputs(bare, height + 9)) == []
    (second,) = (await bench.mempool()).values()
    assert 8 * second.vsize <= bench.fee(second) <= 8 * second.vsize + 16
    assert second.prevouts == first.prevouts


async def test_nothing_is_added_to_an_htlc_transaction_of_an_unconfirmed_commitment(bench, kit, funding):
    commitment = kit.commitment(funding)
    height = (await bench.chain.tip()).height
    await bench.order(with_child(commitment, height + 100))
    htlc = kit.build([kit.coin(commitment)], [(commitment.outputs[0].value, kit.OPEN)], version=3, sequence=0)
    assert await bench.order(with_inputs(htlc, height + 1)) == []
    assert len(await bench.mempool()) == 2
    await bench.mine()
    assert await bench.order(with_inputs(htlc, height + 1)) == []
    assert len(await bench.mempool()) == 1


async def test_coins_are_free_again_some_blocks_after_the_end(bench, kit, funding):
    commitment = kit.commitment(funding)
    await bench.order(with_child(commitment, 10_000))
    purpose = funding[0]
    assert await bench.wallet.fee_purposes() == (purpose,)
    for _ in range(RELEASE_AFTER):
        await bench.mine()
        await bench.order()
        assert await bench.wallet.fee_purposes() == (purpose,)
    await bench.mine()
    await bench.order()
    assert await bench.wallet.fee_purposes() == ()


async def test_coins_of_a_purpose_that_a_rival_ended_are_given_back_too(bench, kit, funding):
    fees, *_ = await kit.funded(bench.chain, 1)
    ours, theirs = kit.commitment(funding, mark=1000), kit.commitment(funding, mark=2000)
    await bench.order(with_child(ours, 10_000))
    rich = kit.pay([kit.coin(theirs, 1), fees], 50_000, version=3)
    await bench.chain.publish((theirs.raw, rich.raw))
    await bench.mine()
    assert await bench.order(with_child(ours, 10_000)) == []
    await bench.mine(RELEASE_AFTER)
    await bench.order()
    assert bench.wallet.held == {}
    assert len(bench.wallet.free) == 3


async def test_too_few_coins_are_said_and_what_there_is_is_paid(kernel_chain, kit):
    wallet = kit.KeyWallet()
    await kit.with_coins(kernel_chain, wallet, 2_000)
    bench = Bench(kernel_chain, kit, wallet)
    (source,) = await kit.funded(kernel_chain, 1)
    commitment = kit.commitment(source)
    assert await bench.order(with_child(commitment, 0)) == ["publish.coins_missing"]
    assert bench.fee(await bench.child_of(commitment)) == 2_000 - 294
    poor = Bench(kernel_chain, kit, kit.KeyWallet())
    await bench.mine()
    htlc = kit.build([kit.coin(commitment)], [(commitment.outputs[0].value, kit.OPEN)], version=3, sequence=0)
    assert await poor.order(with_inputs(htlc, 0)) == ["publish.coins_missing"]
    assert await bench.mempool() == {}


async def test_a_coin_too_small_alone_is_joined_by_another(kernel_chain, kit):
    wallet = kit.KeyWallet()
    await kit.with_coins(kernel_chain, wallet, 9_000, 9_000, 9_000)
    bench = Bench(kernel_chain, kit, wallet)
    (source,) = await kit.funded(kernel_chain, 1)
    commitment = kit.commitment(source)
    assert await bench.order(with_child(commitment, (await kernel_chain.tip()).height + 1)) == []
    child = await bench.child_of(commitment)
    assert len(child.prevouts) == 3
    assert bench.fee(child) >= 53 * (commitment.vsize + child.vsize)


async def test_one_order_that_fails_does_not_hold_up_the_others(bench, kit, funding):
    broken = kit.build([funding], [(500_000, kit.OPEN), (500_000, kit.OPEN)], version=3)
    commitment = kit.commitment(funding)
    assert await bench.order(with_inputs(broken, 1), with_child(commitment, 10_000)) == ["publish.failed"]
    assert commitment.txid in await bench.mempool()


async def test_orders_wait_while_the_chain_is_away(bench, kit, autojump_clock):
    (source,) = await kit.funded(bench.chain, 1)
    tx = kit.pay([source], 1000)
    away = True
    real = bench.chain.tip

    async def tip():
        if away:
            raise ChainUnavailable("gone")
        return await real()

    bench.chain.tip = tip
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.broadcaster.run)
        bench.broadcaster.take(whole(tx))
        await trio.sleep(100)
        assert await bench.mempool() == {}
        away = False
        await trio.sleep(100)
        assert list(await bench.mempool()) == [tx.txid]
        nursery.cancel_scope.cancel()


async def test_more_orders_than_can_wait_are_refused_aloud(bench, kit, funding, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    one, two = kit.pay([funding], 1000), kit.pay([funding], 2000)
    assert await bench.order(whole(one), whole(two)) == ["publish.too_many_waiting"]
    assert await bench.order(Publish(channel_id=CHANNEL, transaction=b"?", purpose=Purpose.SWEEP)) == [
        "publish.no_transaction"
    ]


async def test_fee_policy_is_the_callers(bench, kit, funding):
    bench.broadcaster = Broadcaster(bench.chain, bench.wallet, policy=FeePolicy(floor=3000))
    commitment = kit.commitment(funding)
    assert await bench.order(with_child(commitment, 10_000)) == []
    child = await bench.child_of(commitment)
    assert bench.fee(child) >= 3 * (commitment.vsize + child.vsize)
