"""HTLC transactions under pressure: a peer that fights, fees that rise, and a wallet of few or small coins, over an embedded
regtest; what must leave leaves, in time, with the coins that there are."""

import pytest

from rrnode.chain.claims import REMEMBERED, Claims
from rrnode.chain.fees import FeePolicy
from rrnode.chain.outgoing import Outgoing
from rrnode.chain.parse import parse_transaction

VALUE = 100_000  # satoshi of each HTLC, unless a test says otherwise


def fought_over(close, *indexes, fee=20_000):
    """A stranger's transaction that spends these outputs."""
    return close.kit.pay([close.kit.coin(close.commitment, index) for index in indexes], fee)


async def test_one_that_won_back_its_output_is_raised_with_the_coin_that_it_has(close):
    await close.confirm(VALUE)
    order = close.htlc(0, 20)
    stranger = fought_over(close, 0, fee=100)
    close.chain._feerate = 2_000
    await close.chain.publish((stranger.raw,))
    assert await close.order(order) == []
    assert stranger.txid not in close.chain.mempool_now.entries
    await close.empty_block(11)
    assert await close.order(order) == [], "there is no other coin"
    assert close.rate(0) >= 8


async def test_one_that_left_alone_is_raised_with_its_coin_when_it_is_the_last(close):
    await close.kit.with_coins(close.chain, close.wallet, 300_000)
    await close.confirm(VALUE, VALUE + 1)
    orders = [close.htlc(index, 18, lock_time=close.height) for index in range(2)]
    await close.order(*orders)
    await close.empty_block(9)
    await close.order(*orders)
    assert close.out == [[0], [1]]
    (other,) = [entry.tx for entry in close.entries if close.indexes(entry.tx) == [0]]
    close.chain._make_block(close.chain.index.tip, (other,), 0, close.kit.LOCKED)
    close.wallet.confirmed(other)
    close.wallet.free.clear()
    await close.empty_block(3)
    assert await close.order(orders[1]) == []
    assert close.rate(1) >= 16


async def test_many_lost_fights_take_one_coin(close):
    await close.kit.with_coins(close.chain, close.wallet, *[100_000] * 7)
    await close.confirm(*[VALUE] * 8)
    stranger = fought_over(close, *range(8), fee=90_000)
    await close.chain.publish((stranger.raw,))
    assert await close.order(*(close.htlc(index, 1) for index in range(8))) == []
    assert close.out == [list(range(8))]
    assert sum(len(coins) for coins in close.wallet.held.values()) == 1


async def test_timeouts_whose_preimage_is_in_sight_are_not_fought_for(close):
    await close.kit.with_coins(close.chain, close.wallet, 300_000, 200_000)
    await close.confirm(VALUE, VALUE, VALUE)
    orders = [close.htlc(index, 100, lock_time=close.height) for index in range(3)]
    await close.order(*orders)
    claim = fought_over(close, 1, 2)
    await close.chain.publish((claim.raw,))
    assert await close.order(*orders) == [], "the engine has not seen it yet"
    await close.empty_block()
    assert await close.order(orders[0]) == []
    assert close.out == [[0], [1, 2]]
    assert claim.txid in close.chain.mempool_now.entries
    assert len(await close.wallet.fee_purposes()) == 1, "no coin waits for a fight that nobody wants"


async def test_a_timeout_that_is_ordered_although_a_stranger_spends_it_is_fought_for(close):
    await close.confirm(VALUE)
    order = close.htlc(0, 12, lock_time=close.height)
    stranger = fought_over(close, 0, fee=100)  # with our pair in it: no preimage is shown
    await close.chain.publish((stranger.raw,))
    for _ in range(3):
        assert await close.order(order) == []
        await close.empty_block()
    assert stranger.txid not in close.chain.mempool_now.entries
    assert close.out == [[0]]


async def test_one_in_a_hurry_leaves_a_large_common_transaction_in_time(close):
    await close.kit.with_coins(close.chain, close.wallet, 300_000)
    await close.confirm(*[VALUE] * 40)
    orders = [close.htlc(0, 20), *(close.htlc(index, 100) for index in range(1, 40))]
    await close.order(*orders)
    assert len(close.out) == 1
    await close.empty_block(9)
    assert await close.order(*orders) == []
    assert close.out == [[0], list(range(1, 40))]
    assert close.rate(0) >= 4


async def test_what_stands_sets_no_further_coin_aside(close):
    await close.kit.with_coins(close.chain, close.wallet, 300_000, 200_000)
    await close.confirm(20_000, *[VALUE] * 39)
    orders = [close.htlc(0, 20), *(close.htlc(index, 100) for index in range(1, 40))]
    await close.order(*orders)
    await close.empty_block(3)
    assert await close.order(*orders) == []
    assert len(close.out) == 1
    assert len(await close.wallet.fee_purposes()) == 2, (
        "one for the first, when it leaves; none for what stands already"
    )


async def test_one_in_a_hurry_that_is_not_worth_the_rate_pays_up_to_its_share(close):
    close.chain._feerate = 10_000
    await close.confirm(10_000)
    assert await close.order(close.htlc(0, 2)) == []
    (entry,) = close.entries
    assert entry.fee == 5_000


async def test_what_is_not_worth_its_fee_takes_no_coin_that_others_may_need(close):
    close.chain._feerate = 10_000
    await close.confirm(1_000, VALUE)
    await close.order(close.htlc(0, 19, lock_time=close.height - 1))
    assert await close.order(close.htlc(1, 20, lock_time=close.height)) == []
    assert close.out == [[1]]


async def test_large_coins_pay_where_there_are_many_small_ones(kernel_chain, kit, close_kit):
    wallet = kit.KeyWallet()
    await kit.with_coins(kernel_chain, wallet, *[600] * 14)
    close = close_kit.Close(kernel_chain, kit, wallet)
    await close.confirm(VALUE)
    order = close.htlc(0, 100)
    await wallet.reserve_coins(close.purpose(order), 14 * 600)
    close.chain._feerate = 20_000
    await kit.with_coins(kernel_chain, wallet, 300_000)
    assert await close.order(order) == []
    assert close.rate(0) >= 20


async def test_a_broken_signature_holds_up_only_its_own(close):
    await close.kit.with_coins(close.chain, close.wallet, 300_000)
    await close.confirm(VALUE, VALUE, VALUE)
    orders = [close.htlc(index, 100) for index in range(3)]
    raw = orders[1].transaction.replace(b"\x01\x01\x51", b"\x01\x01\x52")
    broken = close.htlc(1, 100)
    object.__setattr__(broken, "transaction", raw)
    await close.order(orders[0], broken, orders[2])
    assert close.out == [[0, 2]]


@pytest.mark.parametrize("left", [2, 9])
async def test_one_that_is_fought_over_in_a_hurry_goes_before_those_that_can_wait(close, left):
    await close.confirm(VALUE, VALUE)
    await close.chain.publish((fought_over(close, 0, fee=200).raw,))
    assert await close.order(close.htlc(0, left), close.htlc(1, 100)) == ["publish.coins_missing"]
    assert close.out == [[0]]
    assert close.rate(0) >= 8, "ours, where the stranger's was"


async def test_a_block_that_comes_in_between_makes_no_strangers_of_ours(close, monkeypatch):
    await close.kit.with_coins(close.chain, close.wallet, 300_000, 200_000)
    await close.confirm(VALUE, VALUE)
    orders = [close.htlc(0, 100), close.htlc(1, 100)]
    await close.order(*orders)
    ask = close.chain.mempool_spenders

    async def answer_and_mine(places):
        answer = await ask(places)
        monkeypatch.undo()
        await close.mine()
        return answer

    monkeypatch.setattr(close.chain, "mempool_spenders", answer_and_mine)
    assert await close.order(*orders) == []
    assert len(await close.wallet.fee_purposes()) == 1, "nothing is set aside to fight with ourselves"


async def test_small_coins_that_cannot_reach_are_not_all_set_aside(kernel_chain, kit, close_kit):
    wallet = kit.KeyWallet()
    await kit.with_coins(kernel_chain, wallet, *[1_000] * 25)
    close = close_kit.Close(kernel_chain, kit, wallet)
    await close.confirm(VALUE)
    close.chain._feerate = 50_000
    assert await close.order(close.htlc(0, 100)) == ["publish.coins_missing"]
    assert len(wallet.free) > 10


async def test_what_was_not_ordered_for_long_is_forgotten(close):
    await close.confirm(VALUE)
    order = close.htlc(0, 100)
    claims = Claims(Outgoing(close.chain, close.wallet, FeePolicy()))
    claims.take(order, parse_transaction(order.transaction))
    for _ in range(REMEMBERED):
        await claims.publish(b"another group")
        await close.empty_block()
    assert claims.places_of(close.purpose(order)) == (close.place(0),)
    await claims.publish(b"another group")
    assert claims.places_of(close.purpose(order)) == ()
