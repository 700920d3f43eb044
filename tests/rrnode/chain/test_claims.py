"""HTLC transactions that leave together: over an embedded regtest, with real signatures for the coins, what stands in the
mempool after each order, who shares a transaction with whom, which coin pays, and what happens when one is fought over."""

import hashlib

import pytest

from protocols.channel.events import PublishWithChild, PublishWithInputs, Purpose
from protocols.errors import MisuseError
from protocols.ids import PaymentHash, Preimage
from protocols.onchain import commitment, ec
from protocols.onchain.commitment import CommitmentParams, CommitmentSpec, HtlcSpec
from protocols.onchain.funding import funding_output_script
from protocols.onchain.htlc import htlc_transaction, sign_htlcs
from protocols.onchain.keys import ChannelKeys
from protocols.onchain.weights import FEE_INPUT_WEIGHT, HTLC_SUCCESS_WEIGHT, JOINED_HTLCS, MAX_STANDARD_V3_WEIGHT
from protocols.units import BlockDelta, BlockHeight, Msat, Sat
from rrnode.chain import bumping
from rrnode.chain.broadcaster import Broadcaster
from rrnode.chain.outgoing import RELEASE_AFTER
from rrnode.chain.parse import parse_transaction

VALUE = 100_000  # satoshi of each HTLC, unless a test says otherwise


async def test_a_single_coin_carries_all_that_are_due_together(close):
    await close.confirm(*[VALUE] * 40)
    assert await close.order(*(close.htlc(index, 100) for index in range(40))) == []
    assert close.out == [list(range(40))]
    (entry,) = close.entries
    assert [(each.value, each.script) for each in entry.tx.outputs[:40]] == [(VALUE, close.kit.OPEN)] * 40
    assert entry.tx.vsize <= entry.fee <= entry.tx.vsize + 45  # 1 sat/vB
    await close.mine()
    assert [await close.chain.unspent(close.commitment.txid, index) for index in range(40)] == [None] * 40


async def test_a_real_close_with_a_hundred_htlcs_needs_a_coin_for_each_group_only(kernel_chain, kit, close_kit):
    """Scripts, signatures and sizes of BOLT 3: 60 received HTLCs whose preimages we have, 40 of ours that timed out."""
    ours, theirs = (ChannelKeys.from_seed(name * 32, ec.point_of(name * 32)) for name in (b"\x07", b"\x08"))
    (source,) = await kit.funded(kernel_chain, 1)
    capacity = source[1] - 1000
    funding = kit.build([source], [(capacity, funding_output_script(ours.points, theirs.points))])
    await kernel_chain.publish((funding.raw,))
    wallet = kit.KeyWallet()
    await kit.with_coins(kernel_chain, wallet, 900_000, 800_000, 700_000)
    expiry = BlockHeight((await kernel_chain.tip()).height)
    preimages = [Preimage(bytes([number]) * 32) for number in range(100)]
    htlcs = tuple(
        HtlcSpec(
            id=number,
            offered=number >= 60,
            amount=Msat(1_000_000 + number * 1000),
            payment_hash=PaymentHash(hashlib.sha256(preimage).digest()),
            expiry=expiry,
        )
        for number, preimage in enumerate(preimages)
    )
    built = commitment.build(
        CommitmentParams(
            funding_txid=funding.txid,
            funding_index=0,
            capacity=Sat(capacity),
            broadcaster=ours.points,
            countersignatory=theirs.points,
            opener_is_broadcaster=True,
            to_self_delay=BlockDelta(6),
            dust_limit=Sat(354),
        ),
        CommitmentSpec(
            number=3,
            to_broadcaster=Msat(capacity * 1000 - sum(each.amount for each in htlcs)),
            to_countersignatory=Msat(0),
            htlcs=htlcs,
        ),
        ours.per_commitment_point(3),
    )
    signatures = [commitment.sign(built, keys.funding_secret) for keys in (ours, theirs)]
    close = close_kit.Close(kernel_chain, kit, wallet)
    close.commitment = parse_transaction(commitment.finalize(built, *signatures))
    deadline = BlockHeight(expiry + 100)
    whole = PublishWithChild(
        channel_id=close.channel_id,
        transaction=close.commitment.raw,
        anchor_index=built.anchor_index,
        deadline=deadline,
    )
    assert await close.order(whole) == []
    await close.mine()
    wallet.confirmed((await close.mined())[1])
    orders = []
    for (index, spec), signature in zip(built.htlc_outputs, sign_htlcs(built, theirs.htlc_secret), strict=True):
        transaction = htlc_transaction(
            built,
            index,
            their_signature=signature,
            htlc_basepoint_secret=ours.htlc_secret,
            preimage=None if spec.offered else preimages[spec.id],
        )
        orders.append(
            PublishWithInputs(
                channel_id=close.channel_id,
                transaction=transaction,
                purpose=Purpose.HTLC_TIMEOUT if spec.offered else Purpose.HTLC_SUCCESS,
                spent_value=built.outputs[index].value,
                deadline=deadline,
            )
        )
    assert len(orders) == 100
    blocks = 0
    while left := [order for order in orders if await close.stands(order)]:
        assert set(got := await close.order(*left)) <= {"publish.coins_missing"}, got
        assert 1 <= len(close.entries) <= 3
        assert all(entry.tx.vsize <= 10_000 for entry in close.entries)
        await close.mine()
        for transaction in await close.mined():
            wallet.confirmed(transaction)
        blocks += 1
    assert blocks == 2, "four groups, three coins"


async def test_no_transaction_grows_beyond_what_is_relayed(close):
    await close.confirm(*[VALUE] * (JOINED_HTLCS + 2))
    await close.kit.with_coins(close.chain, close.wallet, 300_000)
    assert await close.order(*(close.htlc(index, 100) for index in range(JOINED_HTLCS + 2))) == []
    assert close.out == [list(range(JOINED_HTLCS)), [JOINED_HTLCS, JOINED_HTLCS + 1]]


def test_as_many_real_ones_as_may_leave_together_are_relayed_with_a_dozen_coins(kit):
    source = (bytes(36), VALUE, kit.OPEN)
    one = kit.build([source], [(VALUE, kit.OPEN)], version=3, sequence=0)
    alone, two = one.weight, bumping.joined([one, one]).weight
    each = two - alone + HTLC_SUCCESS_WEIGHT - alone  # what one more of full size adds
    full = HTLC_SUCCESS_WEIGHT + (JOINED_HTLCS - 1) * each
    assert full + bumping.MAX_COINS * FEE_INPUT_WEIGHT + 4 * 31 <= MAX_STANDARD_V3_WEIGHT


async def test_those_of_another_locktime_leave_apart(close):
    await close.confirm(VALUE, VALUE, VALUE, VALUE)
    await close.kit.with_coins(close.chain, close.wallet, 300_000, 200_000)
    height = (await close.chain.tip()).height
    orders = [close.htlc(0, 100), close.htlc(1, 100)]
    orders += [close.htlc(2, 100, lock_time=height), close.htlc(3, 100, lock_time=height - 1)]
    assert await close.order(*orders) == []
    assert close.out == [[0, 1], [2], [3]]
    with pytest.raises(MisuseError, match="nLockTime"):
        bumping.joined([close.kit.build([close.kit.coin(close.commitment, n)], [], lock_time=n) for n in range(2)])


async def test_an_order_alone_does_not_break_up_those_that_left_together(close):
    await close.confirm(VALUE, VALUE, VALUE)
    await close.order(*(close.htlc(index, 100) for index in range(3)))
    sequence = close.chain.mempool_now.sequence
    assert await close.order(close.htlc(1, 100)) == []
    assert close.chain.mempool_now.sequence == sequence
    close.chain._feerate = 20_000
    assert await close.order(close.htlc(1, 100)) == []
    assert close.out == [[0, 1, 2]]
    assert close.rate(1) >= 20


async def test_a_newcomer_waits_for_the_next_block_and_joins_then(close):
    await close.confirm(VALUE, VALUE, VALUE)
    await close.order(close.htlc(0, 100), close.htlc(1, 100))
    assert await close.order(close.htlc(2, 100)) == []
    assert close.out == [[0, 1]], "each time they leave anew costs more"
    await close.empty_block()
    assert await close.order(*(close.htlc(index, 100) for index in range(3))) == []
    assert close.out == [[0, 1, 2]]


async def test_what_is_in_a_hurry_goes_apart_and_takes_the_coin_of_those_that_can_wait(close):
    await close.confirm(VALUE, VALUE, VALUE)
    orders = [close.htlc(0, 19), close.htlc(1, 100), close.htlc(2, 100)]
    await close.order(*orders)
    assert close.out == [[0, 1, 2]]
    await close.empty_block(10)
    assert await close.order(*orders) == ["publish.coins_missing"], "the calm ones have none left"
    assert close.out == [[0]]
    assert close.rate(0) >= 8
    await close.mine()
    (mined,) = await close.mined()
    close.wallet.confirmed(mined)
    assert await close.order(*orders) == []
    assert close.out == [[1, 2]]
    assert close.rate(1) < 1.1


async def test_with_two_coins_those_that_can_wait_leave_too_and_pay_for_no_hurry(close):
    await close.kit.with_coins(close.chain, close.wallet, 300_000)
    await close.confirm(VALUE, VALUE, VALUE)
    assert await close.order(close.htlc(0, 9), close.htlc(1, 100), close.htlc(2, 100)) == []
    assert close.out == [[0], [1, 2]]
    assert close.rate(0) >= 8
    assert close.rate(1) < 1.1


async def test_even_those_that_can_wait_pay_for_their_coins_to_be_back_soon(close, monkeypatch):
    await close.confirm(VALUE, VALUE)
    asked = []
    feerate = close.chain.feerate

    async def noting(within):
        asked.append(within)
        return await feerate(within)

    monkeypatch.setattr(close.chain, "feerate", noting)
    assert await close.order(close.htlc(0, 144), close.htlc(1, 5)) == ["publish.coins_missing"]
    assert close.out == [[1]]
    assert set(asked) == {2, 6}


async def test_what_is_not_worth_its_fee_does_not_ride_at_the_cost_of_the_others(close):
    await close.kit.with_coins(close.chain, close.wallet, 300_000)
    close.chain._feerate = 50_000
    await close.confirm(VALUE, VALUE, 400, 500)
    orders = [close.htlc(index, 100) for index in range(4)]
    assert await close.order(*orders) == []
    assert close.out == [[0, 1]], "the others could not confirm"
    assert close.rate(0) >= 50
    await close.mine()
    (mined,) = await close.mined()
    close.wallet.confirmed(mined)
    close.chain._feerate = 1_000
    assert await close.order(*orders[2:]) == []
    assert close.out == [[2, 3]]
    assert 1 <= close.rate(2) <= 450 / 100


async def test_one_that_a_stranger_spends_does_not_hold_up_the_others(close):
    await close.confirm(VALUE, VALUE, VALUE)
    stranger = close.kit.pay([close.kit.coin(close.commitment, 1)], 20_000)
    await close.chain.publish((stranger.raw,))
    assert await close.order(*(close.htlc(index, 100) for index in range(3))) == ["publish.coins_missing"]
    assert close.out == [[0, 2], [1]]
    assert stranger.txid in close.chain.mempool_now.entries


async def test_those_that_a_stranger_drove_out_leave_again_without_what_it_took(close):
    await close.confirm(VALUE, VALUE, VALUE)
    orders = [close.htlc(index, 100) for index in range(3)]
    await close.order(*orders)
    stranger = close.kit.pay([close.kit.coin(close.commitment, 1)], 20_000)
    assert (await close.chain.publish((stranger.raw,))).verdict.name == "ACCEPTED"
    assert close.out == [[1]]
    await close.order(*orders)
    assert close.out == [[0, 2], [1]]


async def test_timeouts_near_their_deadline_do_not_hang_on_one_that_the_peer_may_claim_unseen(close):
    await close.kit.with_coins(close.chain, close.wallet, 300_000, 200_000)
    await close.confirm(VALUE, VALUE + 1, VALUE + 2, VALUE + 3)
    orders = [close.htlc(index, 18, lock_time=close.height) for index in range(4)]
    await close.order(*orders)
    assert close.out == [[0, 1, 2, 3]]
    await close.empty_block(9)
    assert await close.order(*orders) == []
    assert close.out == [[0, 1], [2], [3]], "the most valuable alone, the others pay for their leaving"


async def test_timeouts_stay_together_where_there_are_no_coins_to_part_them(close):
    await close.confirm(VALUE, VALUE, VALUE)
    orders = [close.htlc(index, 18, lock_time=close.height) for index in range(3)]
    await close.order(*orders)
    await close.empty_block(9)
    assert await close.order(*orders) == []
    assert close.out == [[0, 1, 2]]
    assert close.rate(0) >= 8


async def test_a_broken_order_does_not_hold_up_the_others(close):
    await close.confirm(VALUE, VALUE)
    coin = close.kit.coin(close.commitment, 0)
    broken = close.kit.build([coin], [(50_000, close.kit.OPEN)] * 2, version=3, sequence=0)
    order = PublishWithInputs(
        channel_id=close.channel_id,
        transaction=broken.raw,
        purpose=Purpose.HTLC_SUCCESS,
        spent_value=VALUE,
        deadline=close.height + 100,
    )
    assert await close.order(order, close.htlc(1, 100)) == ["publish.failed"]
    assert close.out == [[1]]


async def test_coins_are_free_again_when_the_last_of_a_group_is_resolved(close):
    await close.confirm(VALUE, VALUE)
    close.chain._feerate = 1_000
    orders = [close.htlc(0, 100), close.htlc(1, 100)]
    await close.order(*orders)
    (purpose,) = await close.wallet.fee_purposes()
    stranger = close.kit.pay([close.kit.coin(close.commitment, 1)], 20_000)
    await close.chain.publish((stranger.raw,))
    await close.mine(RELEASE_AFTER + 1)
    await close.order()
    assert await close.wallet.fee_purposes() == (purpose,), "the other one is still to come"
    await close.order(close.htlc(0, 90))
    await close.mine()
    for _ in range(RELEASE_AFTER):
        await close.order()
        assert await close.wallet.fee_purposes() == (purpose,)
        await close.mine()
    await close.order()
    assert await close.wallet.fee_purposes() == ()


async def test_coins_of_an_earlier_life_are_free_when_nothing_asks_for_them(close):
    await close.confirm(VALUE)
    await close.order(close.htlc(0, 100))
    await close.mine()
    close.broadcaster = Broadcaster(close.chain, close.wallet)
    await close.order()
    assert len(await close.wallet.fee_purposes()) == 1
    await close.mine(RELEASE_AFTER)
    await close.order()
    assert await close.wallet.fee_purposes() == ()
