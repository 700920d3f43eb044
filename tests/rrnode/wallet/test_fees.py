"""Coins for fees: the same ones for the same purpose, never one for two, signed so that the chain takes them."""

from collections.abc import Callable
from typing import Any

import pytest

from protocols.errors import MisuseError
from protocols.ids import ChannelId
from protocols.onchain import tx as onchain
from protocols.units import FeeRate, Sat
from rrnode.chain.fees import FeeCoin, FeeWallet
from rrnode.wallet import Wallet

CLOSE, HTLC = b"close of channel 1", b"HTLC 7 of channel 1"
RATE = FeeRate(2000)
FUNDING = b"\x00\x20" + b"f" * 32


def values(coins: tuple[FeeCoin, ...]) -> list[int]:
    return [coin.value for coin in coins]


def test_the_wallet_is_a_fee_wallet(wallet: Wallet) -> None:
    fees: FeeWallet = wallet
    assert fees is wallet


async def test_few_and_large_coins_come_first(rich: Wallet) -> None:
    assert values(await rich.reserve_coins(CLOSE, Sat(700_000))) == [1_000_000]
    assert values(await rich.reserve_coins(HTLC, Sat(700_000))) == [500_000, 200_000]
    assert await rich.reserve_coins(b"a third", Sat(1)) == ()


async def test_the_same_purpose_has_the_same_coins_and_more_when_it_grows(
    rich: Wallet, reopened: Callable[[], Wallet]
) -> None:
    first = await rich.reserve_coins(CLOSE, Sat(1_000_000))
    assert await rich.reserve_coins(CLOSE, Sat(10)) == first
    more = await rich.reserve_coins(CLOSE, Sat(1_200_000))
    assert values(more) == [1_000_000, 500_000]
    assert more[:1] == first
    assert await reopened().reserve_coins(CLOSE, Sat(1)) == more


async def test_what_is_set_aside_is_neither_sent_nor_put_into_a_channel(rich: Wallet) -> None:
    await rich.reserve_coins(CLOSE, Sat(1_000_000))
    assert rich.balance().spendable == 700_000
    raw, _ = rich.build_funding(ChannelId(b"c" * 32), FUNDING, Sat(100_000), RATE)
    left = 1_700_000 - rich.balance().set_aside
    assert sum(values(await rich.reserve_coins(HTLC, Sat(1_700_000)))) == left
    assert len(onchain.parse(raw).inputs) >= 1


async def test_coins_for_a_close_count_as_fee_reserve_and_those_for_a_funding_do_not(rich: Wallet) -> None:
    await rich.reserve_coins(CLOSE, Sat(1_000_000))
    assert rich.confirmed_for_fees() == 1_700_000
    rich.build_funding(ChannelId(b"c" * 32), FUNDING, Sat(400_000), RATE)
    assert rich.confirmed_for_fees() == rich.balance().confirmed - (rich.balance().set_aside - 1_000_000)
    assert rich.confirmed_for_fees() < 1_700_000


async def test_only_coins_that_can_pay_for_a_transaction_count_as_coins(rich: Wallet, world: Any) -> None:
    assert rich.coins_for_fees(FeeRate(1_000)) == 3
    script = rich.script_at(rich.reserve_key_index())
    await world.give((script, 4_999), (script, 5_000))
    await world.feed(rich)
    assert rich.coins_for_fees(FeeRate(1_000)) == 4
    assert rich.confirmed_for_fees() == 1_700_000 + 9_999
    assert rich.coins_for_fees(FeeRate(50_000)) == 3, "at this feerate, 5,000 satoshi pay for nothing"
    assert rich.coins_for_fees(FeeRate(1_000_000)) == 2
    await rich.reserve_coins(CLOSE, Sat(1_000_000))
    assert rich.coins_for_fees(FeeRate(1_000)) == 4
    rich.build_funding(ChannelId(b"c" * 32), FUNDING, Sat(400_000), RATE)
    assert rich.coins_for_fees(FeeRate(1_000)) < 4, "what a funding is to spend can pay for nothing else"


async def test_released_coins_are_free_again(rich: Wallet, reopened: Callable[[], Wallet]) -> None:
    await rich.reserve_coins(CLOSE, Sat(1_200_000))
    change = await rich.change_script(CLOSE)
    await rich.release_coins(CLOSE)
    await rich.release_coins(CLOSE)
    await rich.release_coins(b"never heard of")
    assert rich.balance().spendable == reopened().balance().spendable == 1_700_000
    assert await rich.change_script(CLOSE) != change  # it may have been paid


async def test_a_purpose_keeps_its_change_script(rich: Wallet, reopened: Callable[[], Wallet]) -> None:
    script = await rich.change_script(CLOSE)
    assert await rich.change_script(CLOSE) == script
    assert await reopened().change_script(CLOSE) == script
    assert await rich.change_script(HTLC) != script
    assert script in rich.watch_scripts()


async def test_only_confirmed_coins_pay_fees(wallet: Wallet, world: Any) -> None:
    await world.feed(wallet)
    await world.give((wallet.script_at(wallet.reserve_key_index()), 90_000), confirm=False)
    await world.feed(wallet)
    assert await wallet.reserve_coins(CLOSE, Sat(1_000)) == ()


async def _child(wallet: Wallet, coins: tuple[FeeCoin, ...], fee: int) -> bytes:
    """One version 3 transaction that spends these coins to the purpose's change."""
    script = await wallet.change_script(CLOSE)
    unsigned = onchain.Tx(
        3,
        tuple(onchain.TxInput(coin.txid, coin.index, 0xFFFFFFFD) for coin in coins),
        (onchain.TxOutput(Sat(sum(values(coins)) - fee), script),),
        0,
    )
    return await wallet.sign(unsigned.serialize(), coins, tuple((coin.value, coin.script) for coin in coins))


async def test_coins_stay_with_their_purpose_while_its_own_transaction_waits(rich: Wallet, world: Any) -> None:
    coins = await rich.reserve_coins(CLOSE, Sat(1_200_000))
    await world.publish(await _child(rich, coins, 1_000))
    await world.feed(rich)
    assert await rich.reserve_coins(CLOSE, Sat(1_200_000)) == coins  # to build the dearer replacement with
    await world.publish(await _child(rich, coins, 9_000))
    await world.feed(rich)
    assert rich.balance().pending == 1_500_000 - 9_000


async def test_coins_that_were_spent_for_good_are_replaced(rich: Wallet, world: Any) -> None:
    coins = await rich.reserve_coins(CLOSE, Sat(500_000))
    await world.publish(await _child(rich, coins, 1_000))
    await world.mine()
    await world.feed(rich)
    assert values(await rich.reserve_coins(CLOSE, Sat(500_000))) == [999_000]


async def test_coins_that_a_reorganisation_took_are_replaced(wallet: Wallet, world: Any) -> None:
    await world.feed(wallet)
    safe, shaky = (wallet.script_at(wallet.reserve_key_index()) for _ in range(2))
    await world.give((safe, 50_000))
    await world.give((shaky, 80_000), confirm=False)
    block = await world.mine()
    await world.feed(wallet)
    assert values(await wallet.reserve_coins(CLOSE, Sat(60_000))) == [80_000]
    await world.chain.invalidate(block)
    await world.feed(wallet)
    assert values(await wallet.reserve_coins(CLOSE, Sat(60_000))) == [50_000]


async def test_other_inputs_keep_their_witness(rich: Wallet, world: Any, kit: Any) -> None:
    coins = await rich.reserve_coins(CLOSE, Sat(1))
    stranger = world.purse[0]
    unsigned = kit.build([stranger], [(stranger[1], kit.OPEN)])
    parsed = onchain.parse(unsigned.raw)
    joined = onchain.Tx(
        2,
        (*parsed.inputs, onchain.TxInput(coins[0].txid, coins[0].index, 0xFFFFFFFD)),
        (*parsed.outputs, onchain.TxOutput(Sat(coins[0].value - 5_000), await rich.change_script(CLOSE))),
        0,
    )
    spent = ((Sat(stranger[1]), stranger[2]), (coins[0].value, coins[0].script))
    signed = await rich.sign(joined.serialize(), coins, spent)
    assert onchain.parse(signed).inputs[0].witness == parsed.inputs[0].witness
    await world.publish(signed)


async def test_signing_what_is_not_ours_or_not_valid_is_our_bug(rich: Wallet, kit: Any, world: Any) -> None:
    coins = await rich.reserve_coins(CLOSE, Sat(1))
    stranger = world.purse[0]
    foreign = kit.build([stranger], [(stranger[1], kit.OPEN)])
    with pytest.raises(MisuseError, match="does not spend"):
        await rich.sign(foreign.raw, coins, ((Sat(stranger[1]), stranger[2]),))
    theirs = FeeCoin(txid=foreign.txid, index=0, value=Sat(5), script=kit.OPEN)
    with pytest.raises(MisuseError, match="not ours"):
        await rich.sign(foreign.raw, (theirs,), ((Sat(stranger[1]), stranger[2]),))
    unsigned = onchain.Tx(
        2, (onchain.TxInput(coins[0].txid, coins[0].index, 0),), (onchain.TxOutput(Sat(1_000), kit.OPEN),), 0
    )
    wrong = FeeCoin(txid=coins[0].txid, index=coins[0].index, value=Sat(7_000), script=coins[0].script)
    with pytest.raises(MisuseError, match="invalid"):  # a wrong value would make a worthless signature
        await rich.sign(unsigned.serialize(), (wrong,), ((coins[0].value, coins[0].script),))


async def test_a_small_fee_does_not_take_the_whole_purse(rich: Wallet) -> None:
    assert values(await rich.reserve_coins(CLOSE, Sat(2_000))) == [200_000]
    assert values(await rich.reserve_coins(HTLC, Sat(2_000))) == [500_000]
    assert values(await rich.reserve_coins(CLOSE, Sat(200_001))) == [200_000, 1_000_000]


async def test_purposes_are_known_after_a_restart(rich: Wallet, reopened: Callable[[], Wallet]) -> None:
    assert await rich.fee_purposes() == ()
    await rich.reserve_coins(CLOSE, Sat(2_000))
    await rich.change_script(HTLC)
    rich.build_funding(ChannelId(b"c" * 32), FUNDING, Sat(10_000), RATE)
    assert await reopened().fee_purposes() == tuple(sorted((CLOSE, HTLC)))
    await rich.release_coins(CLOSE)
    assert await rich.fee_purposes() == (HTLC,)


async def test_change_is_split_so_that_every_close_can_be_paid_for(wallet: Wallet, world: Any) -> None:
    await world.feed(wallet)
    await world.give((wallet.script_at(wallet.reserve_key_index()), 1_000_000))
    await world.feed(wallet)
    wallet.keep_reserve(Sat(30_000), coins=3)
    raw, index = wallet.build_funding(ChannelId(b"c" * 32), FUNDING, Sat(500_000), RATE)
    tx = onchain.parse(raw)
    own = [each.value for each in tx.outputs if each.script in wallet.watch_scripts()]
    assert tx.outputs[index].value == 500_000
    assert sorted(own)[:3] == [10_000] * 3
    assert len(own) == 4
    await world.publish(raw)
    await world.mine()
    await world.feed(wallet)
    closes = [await wallet.reserve_coins(b"%d" % n, Sat(1_000)) for n in range(4)]
    assert all(closes)
    for n in range(4):
        await wallet.release_coins(b"%d" % n)
    second, _ = wallet.build_funding(ChannelId(b"d" * 32), FUNDING, Sat(100_000), RATE)
    assert len(onchain.parse(second).outputs) == 2  # there are enough coins


async def test_change_that_is_too_small_is_not_split(wallet: Wallet, world: Any) -> None:
    await world.feed(wallet)
    await world.give((wallet.script_at(wallet.reserve_key_index()), 100_000))
    await world.feed(wallet)
    wallet.keep_reserve(Sat(15_000), coins=3)
    raw, _ = wallet.build_funding(ChannelId(b"c" * 32), FUNDING, Sat(84_000), RATE)
    assert len(onchain.parse(raw).outputs) <= 3
