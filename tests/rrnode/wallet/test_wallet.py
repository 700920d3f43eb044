"""The wallet against an embedded chain: what it owns, what it spends, what it keeps back, and what survives a restart."""

from collections.abc import Callable
from typing import Any

import pytest

from protocols.ids import ChannelId, channel_id_of
from protocols.onchain.scripts import p2wpkh
from protocols.units import FeeRate, Sat
from rrnode.chain.parse import parse_transaction
from rrnode.errors import UserError
from rrnode.keys import KeyTree
from rrnode.wallet import Balance, Wallet

RATE = FeeRate(2000)
CHANNEL = ChannelId(b"c" * 32)
FUNDING = b"\x00\x20" + b"f" * 32
STRANGER = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
STRANGER_SCRIPT = bytes.fromhex("0014751e76e8199196d454941c45d1b3a323f1433bd6")


def balance(**parts: int) -> Balance:
    names = ("confirmed", "set_aside", "reserve", "pending", "immature", "spendable")
    return Balance(**{name: Sat(parts.get(name, 0)) for name in names})


# --- receiving --------------------------------------------------------------------------------------------------------


async def test_an_empty_wallet_has_nothing(wallet: Wallet, world: Any) -> None:
    await world.feed(wallet)
    assert wallet.balance() == balance()
    assert wallet.confirmed_for_fees() == 0


async def test_the_address_stays_until_it_is_paid(wallet: Wallet, world: Any, keys: KeyTree) -> None:
    await world.feed(wallet)
    first = wallet.address()
    assert wallet.address() == first
    assert first.startswith("bcrt1q")
    await world.give((p2wpkh(keys.wallet_key(0)), 5_000), confirm=False)
    await world.feed(wallet)
    assert wallet.address() != first


async def test_a_coin_is_pending_then_confirmed(wallet: Wallet, world: Any) -> None:
    await world.feed(wallet)
    script = wallet.script_at(wallet.reserve_key_index())
    await world.give((script, 70_000), confirm=False)
    await world.feed(wallet)
    assert wallet.balance() == balance(pending=70_000)
    await world.mine()
    await world.feed(wallet)
    assert wallet.balance() == balance(confirmed=70_000, spendable=70_000)
    assert wallet.confirmed_for_fees() == 70_000


async def test_a_block_reward_counts_when_it_is_mature(wallet: Wallet, world: Any) -> None:
    await world.feed(wallet)
    await world.chain.mine(1, wallet.script_at(0))
    await world.feed(wallet)
    reward = wallet.balance().immature
    assert wallet.balance() == balance(immature=reward)
    await world.mine(98)
    await world.feed(wallet)
    assert wallet.balance() == balance(immature=reward)
    with pytest.raises(UserError, match="1000 sat and the fee are needed, 0 sat can be spent now"):
        wallet.send(STRANGER, Sat(1000), RATE)
    await world.mine(1)
    await world.feed(wallet)
    assert wallet.balance() == balance(confirmed=reward, spendable=reward)
    sent = wallet.send(STRANGER, Sat(1000), RATE)
    await world.publish(sent.transaction)  # the chain agrees that it is mature


async def test_a_restarted_wallet_is_the_same(rich: Wallet, world: Any, reopened: Callable[[], Wallet]) -> None:
    again = reopened()
    assert again.balance() == rich.balance()
    assert again.cursor() == rich.cursor()
    assert again.interests().scripts == rich.interests().scripts
    assert again.reserve_key_index() == 3


# --- key indexes ------------------------------------------------------------------------------------------------------


async def test_key_indexes_are_never_given_twice(wallet: Wallet, reopened: Callable[[], Wallet]) -> None:
    assert [wallet.reserve_key_index() for _ in range(3)] == [0, 1, 2]
    wallet.address()
    again = reopened()
    assert again.reserve_key_index() == 4
    assert again.script_at(4) in again.interests().scripts


async def test_an_index_that_nobody_saw_is_given_again(wallet: Wallet, reopened: Callable[[], Wallet]) -> None:
    for _ in range(5):
        wallet.reserve_key_index()
    wallet.give_back_key_index(3)
    wallet.give_back_key_index(1)
    wallet.give_back_key_index(1)
    again = reopened()
    assert [again.reserve_key_index() for _ in range(3)] == [1, 3, 5]


async def test_an_index_that_was_paid_or_never_given_is_not_taken_back(rich: Wallet) -> None:
    rich.give_back_key_index(0)
    rich.give_back_key_index(77)
    assert rich.reserve_key_index() == 3


# --- sending ----------------------------------------------------------------------------------------------------------


async def test_a_send_arrives_and_the_change_is_ours(rich: Wallet, world: Any) -> None:
    sent = rich.send(STRANGER, Sat(1_200_000), RATE)
    tx = parse_transaction(sent.transaction)
    assert (tx.version, sent.txid, sent.amount) == (2, tx.txid, 1_200_000)
    assert [out.value for out in tx.outputs if out.script == STRANGER_SCRIPT] == [1_200_000]
    assert sent.fee == 1_700_000 - 1_200_000 - rich.balance().pending - rich.balance().confirmed
    assert tx.vsize * 2 <= sent.fee <= tx.vsize * 2 + 10
    await world.publish(sent.transaction)
    await world.mine()
    await world.feed(rich)
    assert rich.balance() == balance(confirmed=500_000 - sent.fee, spendable=500_000 - sent.fee)


async def test_a_second_send_never_spends_the_coins_of_the_first(
    rich: Wallet, world: Any, reopened: Callable[[], Wallet]
) -> None:
    first = rich.send(STRANGER, Sat(100_000), RATE)
    second = reopened().send(STRANGER, Sat(100_000), RATE)  # after a crash right after the first
    assert not set(parse_transaction(first.transaction).prevouts) & set(parse_transaction(second.transaction).prevouts)
    await world.publish(first.transaction)
    await world.publish(second.transaction)


async def test_own_change_can_be_spent_before_it_confirms(rich: Wallet, world: Any) -> None:
    await world.publish(rich.send(STRANGER, Sat(1_690_000), RATE).transaction)
    left = rich.balance()
    assert left == balance(pending=left.pending, spendable=left.pending)
    assert rich.confirmed_for_fees() == 0
    await world.publish(rich.send(STRANGER, Sat(5_000), RATE).transaction)


async def test_strangers_unconfirmed_coins_are_not_built_upon(wallet: Wallet, world: Any) -> None:
    await world.feed(wallet)
    await world.give((wallet.script_at(wallet.reserve_key_index()), 90_000), confirm=False)
    await world.feed(wallet)
    with pytest.raises(UserError, match="10000 sat and the fee are needed, 0 sat can be spent now"):
        wallet.send(STRANGER, Sat(10_000), RATE)


async def test_everything_can_be_sent(rich: Wallet, world: Any) -> None:
    sent = rich.send(STRANGER, None, RATE)
    assert sent.amount == 1_700_000 - sent.fee
    assert [out.script for out in parse_transaction(sent.transaction).outputs] == [STRANGER_SCRIPT]
    await world.publish(sent.transaction)
    await world.feed(rich)
    assert rich.balance() == balance()


async def test_the_reserve_stays_unless_told(rich: Wallet, world: Any) -> None:
    rich.keep_reserve(Sat(300_000))
    assert rich.balance() == balance(confirmed=1_700_000, reserve=300_000, spendable=1_400_000)
    with pytest.raises(
        UserError, match="1400000 sat can be spent now, fee included: 300000 sat are kept to pay for closing"
    ):
        rich.send(STRANGER, Sat(1_400_000), RATE)
    assert rich.balance().confirmed == 1_700_000
    everything = rich.send(STRANGER, None, RATE)
    assert everything.amount == 1_400_000 - everything.fee
    assert rich.balance() == balance(pending=300_000)
    await world.publish(everything.transaction)
    rest = rich.send(STRANGER, None, RATE, from_reserve=True)
    assert rest.amount == 300_000 - rest.fee


async def test_a_reserve_above_what_is_there_leaves_nothing_to_send(rich: Wallet) -> None:
    rich.keep_reserve(Sat(2_000_000))
    assert rich.balance() == balance(confirmed=1_700_000, reserve=1_700_000)
    for amount in (None, Sat(1_000)):
        with pytest.raises(UserError, match="0 sat can be spent now, fee included: 2000000 sat are kept"):
            rich.send(STRANGER, amount, RATE)
    assert rich.unpublished() == ()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "no regtest address"),
        ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "no regtest address"),
        ("tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx", "no regtest address"),
        ("", "no regtest address"),
    ],
)
async def test_an_address_of_nobody_here_is_refused(wallet: Wallet, address: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        wallet.send(address, Sat(1000), RATE)


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (0, "no amount that can be sent"),
        (-5, "no amount that can be sent"),
        (100, "too small|this small"),
        (1_700_000, "1700000 sat and the fee are needed, 1700000 sat can be spent now"),
        (21_000_001 * 10**8, "no amount that can be sent"),
    ],
)
async def test_an_amount_that_cannot_be_sent_is_refused_in_a_sentence(rich: Wallet, amount: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        rich.send(STRANGER, Sat(amount), RATE)
    assert rich.balance() == balance(confirmed=1_700_000, spendable=1_700_000)


async def test_own_sends_are_published_again_until_they_confirm(
    rich: Wallet, world: Any, reopened: Callable[[], Wallet]
) -> None:
    sent = rich.send(STRANGER, Sat(50_000), RATE)
    await world.feed(rich)  # not in the mempool: never published
    again = reopened()
    assert again.unpublished() == (sent.transaction,)
    await world.publish(sent.transaction)
    await world.mine()
    await world.feed(again)
    assert again.unpublished() == ()


async def test_a_send_that_was_refused_is_forgotten_and_its_coins_are_free(rich: Wallet, world: Any) -> None:
    sent = rich.send(STRANGER, Sat(50_000), RATE)
    rich.forget(sent.txid)
    rich.forget(sent.txid)
    assert rich.balance() == balance(confirmed=1_700_000, spendable=1_700_000)
    assert rich.unpublished() == ()


# --- channel funding --------------------------------------------------------------------------------------------------


async def test_a_funding_pays_the_script_and_sets_its_coins_aside(
    rich: Wallet, world: Any, reopened: Callable[[], Wallet]
) -> None:
    raw, index = rich.build_funding(CHANNEL, FUNDING, Sat(600_000), RATE)
    tx = parse_transaction(raw)
    assert tx.version == 2
    assert (tx.outputs[index].script, tx.outputs[index].value) == (FUNDING, 600_000)
    spent = 1_700_000 - rich.balance().spendable
    assert rich.balance() == balance(confirmed=1_700_000, set_aside=spent, spendable=1_700_000 - spent)
    again = reopened()
    assert again.balance() == rich.balance()
    second, _ = again.build_funding(ChannelId(b"d" * 32), FUNDING, Sat(100_000), RATE)
    assert not set(tx.prevouts) & set(parse_transaction(second).prevouts)
    await world.publish(raw)
    await world.publish(second)


@pytest.mark.parametrize("permanent", [False, True])
async def test_a_released_funding_frees_its_coins(
    rich: Wallet, permanent: bool, reopened: Callable[[], Wallet]
) -> None:
    raw, index = rich.build_funding(CHANNEL, FUNDING, Sat(600_000), RATE)
    rich.release(ChannelId(b"x" * 32))
    assert rich.balance().set_aside > 0
    rich.release(channel_id_of(parse_transaction(raw).txid, index) if permanent else CHANNEL)
    assert rich.balance() == reopened().balance() == balance(confirmed=1_700_000, spendable=1_700_000)


async def test_fundings_of_channels_that_are_gone_free_their_coins_at_the_next_start(
    rich: Wallet, reopened: Callable[[], Wallet]
) -> None:
    raw, index = rich.build_funding(CHANNEL, FUNDING, Sat(600_000), RATE)
    permanent = channel_id_of(parse_transaction(raw).txid, index)
    await rich.reserve_coins(b"a close under way", Sat(1))
    held = rich.balance()
    for known in (CHANNEL, permanent):
        again = reopened()
        again.release_but({known})
        assert again.balance() == held
    again.release_but(set())
    assert 0 < again.balance().set_aside < held.set_aside
    assert await again.fee_purposes() == (b"a close under way",)


async def test_a_funding_leaves_the_reserve(rich: Wallet) -> None:
    rich.keep_reserve(Sat(1_000_000))
    with pytest.raises(UserError, match="700000 sat can be spent now, fee included"):
        rich.build_funding(CHANNEL, FUNDING, Sat(700_000), RATE)
    assert rich.balance().set_aside == 0
    rich.build_funding(CHANNEL, FUNDING, Sat(690_000), RATE)


async def test_too_little_for_a_funding_is_a_sentence_and_sets_nothing_aside(rich: Wallet) -> None:
    with pytest.raises(UserError, match="1700000 sat and the fee are needed, 1700000 sat can be spent now"):
        rich.build_funding(CHANNEL, FUNDING, Sat(1_700_000), RATE)
    assert rich.balance() == balance(confirmed=1_700_000, spendable=1_700_000)


async def test_a_second_try_for_a_channel_replaces_the_first(rich: Wallet) -> None:
    rich.build_funding(CHANNEL, FUNDING, Sat(600_000), RATE)
    rich.build_funding(CHANNEL, FUNDING, Sat(1_500_000), RATE)
    rich.release(CHANNEL)
    assert rich.balance().set_aside == 0


async def test_a_published_funding_turns_into_change(rich: Wallet, world: Any) -> None:
    raw, _ = rich.build_funding(CHANNEL, FUNDING, Sat(1_500_000), RATE)
    await world.publish(raw)
    await world.feed(rich)
    change = 200_000 - (1_700_000 - 1_500_000 - rich.balance().pending)
    assert rich.balance() == balance(pending=change, spendable=change)
    await world.mine(101)
    await world.feed(rich)
    assert rich.balance() == balance(confirmed=change, spendable=change)


# --- reorganisations --------------------------------------------------------------------------------------------------


async def test_a_coin_in_a_block_that_vanished_is_pending_again(wallet: Wallet, world: Any) -> None:
    await world.feed(wallet)
    script = wallet.script_at(wallet.reserve_key_index())
    await world.give((script, 70_000), confirm=False)
    block = await world.mine(3)
    await world.feed(wallet)
    assert wallet.balance() == balance(confirmed=70_000, spendable=70_000)
    await world.chain.invalidate(block)
    await world.feed(wallet)
    assert wallet.balance() == balance(pending=70_000)
    await world.mine(2)
    await world.feed(wallet)
    assert wallet.balance() == balance(confirmed=70_000, spendable=70_000)


async def test_a_coin_whose_transaction_lost_to_a_rival_is_gone(wallet: Wallet, world: Any, kit: Any) -> None:
    await world.feed(wallet)
    script = wallet.script_at(wallet.reserve_key_index())
    coin = world.purse[0]
    await world.give((script, 70_000), confirm=False)
    block = await world.mine()
    await world.feed(wallet)
    assert wallet.balance().confirmed == 70_000
    await world.chain.invalidate(block)
    await world.publish(kit.pay([coin], 500_000).raw)  # the payer takes it back with a higher fee
    await world.mine(2)
    await world.feed(wallet)
    assert wallet.balance() == balance()


async def test_our_send_survives_a_reorganisation(rich: Wallet, world: Any) -> None:
    sent = rich.send(STRANGER, Sat(1_650_000), RATE)
    await world.publish(sent.transaction)
    block = await world.mine()
    await world.feed(rich)
    left = rich.balance().confirmed
    await world.chain.invalidate(block)
    await world.feed(rich)
    assert rich.balance() == balance(pending=left, spendable=left)
    assert rich.unpublished() == (sent.transaction,)
