"""HTLC transactions under pressure: a peer that fights, fees that rise, and a wallet of few or small coins, over an embedded
regtest; what must leave leaves, in time, with the coins that there are."""

VALUE = 100_000  # satoshi of each HTLC, unless a test says otherwise


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


async def test_small_coins_that_cannot_reach_are_not_all_set_aside(kernel_chain, kit, close_kit):
    wallet = kit.KeyWallet()
    await kit.with_coins(kernel_chain, wallet, *[1_000] * 25)
    close = close_kit.Close(kernel_chain, kit, wallet)
    await close.confirm(VALUE)
    close.chain._feerate = 50_000
    assert await close.order(close.htlc(0, 100)) == ["publish.coins_missing"]
    assert len(wallet.free) > 10


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
