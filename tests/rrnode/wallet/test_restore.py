"""From the words alone: a new wallet finds the coins again, wherever on the seed they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocols.ids import ChannelId
from protocols.units import BlockHeight, FeeRate, Sat
from rrnode.chain.base import BlockRef
from rrnode.chain.follower import Batch, FollowedBlock
from rrnode.errors import ChainUnavailable, StorageFailed
from rrnode.keys import KeyTree
from rrnode.storage import Store, WalletState
from rrnode.wallet import Wallet, catch_up, rescan

RATE = FeeRate(2000)
STRANGER = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"


async def test_a_restore_finds_receiving_and_change_coins(
    rich: Wallet, world: Any, keys: KeyTree, tmp_path: Path
) -> None:
    await world.publish(rich.send(STRANGER, Sat(1_100_000), RATE).transaction)
    await world.mine()
    await world.feed(rich)
    fresh_store = Store.open(tmp_path / "again.sqlite", node_id=keys.node_id(), network="regtest")
    fresh = Wallet.open(keys, fresh_store)
    await rescan(fresh, world.chain, BlockHeight(0))
    assert fresh.balance() == rich.balance()
    assert fresh.cursor() == rich.cursor()
    assert fresh.reserve_key_index() >= 3  # nothing that was used is given out again
    assert (await world.chain.tip()).height == fresh.cursor()[0]
    await world.publish(fresh.send(STRANGER, None, RATE).transaction)
    fresh_store.close()
    again = Store.open(tmp_path / "again.sqlite", node_id=keys.node_id(), network="regtest")
    assert Wallet.open(keys, again).balance().confirmed == 0
    again.close()


async def test_a_restore_looks_across_holes_and_out_of_order_addresses(world: Any, keys: KeyTree) -> None:
    wallet = Wallet(keys, WalletState())
    for index, value in ((950, 10_000), (3, 20_000), (1_600, 40_000)):
        await world.give((wallet.script_at(index), value))
    plain = Wallet(keys, WalletState())
    plain.begin_at((0, bytes(await world.chain.genesis())))
    await catch_up(plain, world.chain)
    assert plain.balance().confirmed == 20_000  # 100 unused in a row end an ordinary look
    await rescan(wallet, world.chain, BlockHeight(1))
    assert wallet.balance().confirmed == 70_000


async def test_addresses_that_come_in_sight_within_a_block_are_found_in_that_block(world: Any, keys: KeyTree) -> None:
    wallet = Wallet(keys, WalletState())
    scripts = [wallet.script_at(index) for index in (290, 195, 99)]
    for script in scripts:  # the farthest first in the block
        await world.give((script, 10_000), confirm=False)
    await world.mine()
    wallet.begin_at((0, bytes(await world.chain.genesis())))
    await catch_up(wallet, world.chain)
    assert wallet.balance().confirmed == 30_000


async def test_another_seed_finds_nothing(rich: Wallet, world: Any, other_keys: KeyTree) -> None:
    stranger = Wallet(other_keys, WalletState())
    await rescan(stranger, world.chain, BlockHeight(0))
    assert stranger.balance().confirmed == 0
    assert rich.balance().confirmed == 1_700_000


async def test_a_new_wallet_begins_at_the_tip(wallet: Wallet, world: Any) -> None:
    await catch_up(wallet, world.chain)
    tip = await world.chain.tip()
    assert wallet.cursor() == (tip.height, tip.hash)


async def test_a_wallet_that_was_away_catches_up_across_a_reorganisation(
    rich: Wallet, world: Any, reopened: Callable[[], Wallet]
) -> None:
    script = rich.script_at(rich.reserve_key_index())
    await world.give((script, 30_000), confirm=False)
    block = await world.mine(2)
    await world.feed(rich)
    assert rich.balance().confirmed == 1_730_000
    await world.chain.invalidate(block)
    again = reopened()
    await catch_up(again, world.chain)
    assert (again.balance().confirmed, again.balance().pending) == (1_700_000, 30_000)
    await world.mine()
    await catch_up(again, world.chain)
    assert again.balance().confirmed == 1_730_000


def _batch(tip: BlockRef, *connected: FollowedBlock, fork: BlockRef | None = None, **rest: Any) -> Batch:
    fields: dict[str, Any] = {"arrived": (), "mempool": frozenset(), "facts": (), **rest}
    return Batch(tip=tip, fork=fork, connected=connected, **fields)


async def test_the_followers_batches_feed_it(wallet: Wallet, world: Any, reopened: Callable[[], Wallet]) -> None:
    start = await world.chain.tip()
    assert not wallet.take(_batch(start))
    script = wallet.script_at(wallet.reserve_key_index())
    tx = await world.give((script, 70_000), confirm=False)
    assert wallet.take(_batch(start, arrived=(tx,), mempool=frozenset({tx.txid})))
    assert wallet.balance().pending == 70_000
    await world.mine()
    tip = await world.chain.tip()
    block = FollowedBlock(ref=tip, transactions=await world.block(tip.hash))
    assert wallet.take(_batch(tip, block))
    assert wallet.take(_batch(tip, block))  # told again after a restart: nothing changes
    assert reopened().balance().confirmed == 70_000
    assert wallet.take(_batch(start, fork=start, mempool=frozenset({tx.txid})))
    assert reopened().balance().pending == 70_000
    assert reopened().cursor() == (start.height, start.hash)
    assert wallet.take(_batch(start, mempool=frozenset()))  # the payer replaced it
    assert reopened().balance().pending == 0
    assert not wallet.take(_batch(start, mempool=None))


async def test_what_cannot_be_written_is_not_given_out(rich: Wallet, store: Store, keys: KeyTree) -> None:
    before = rich.balance()
    store.close()
    for refused in (
        rich.reserve_key_index,
        lambda: rich.build_funding(ChannelId(b"c" * 32), b"\x00\x20" + b"f" * 32, Sat(10_000), RATE),
        lambda: rich.send(STRANGER, Sat(10_000), RATE),
        rich.address,
    ):
        with pytest.raises(StorageFailed):
            refused()
    with pytest.raises(StorageFailed):
        await rich.reserve_coins(b"close", Sat(1_000))
    assert rich.balance().set_aside == before.set_aside == 0


async def test_a_seed_that_may_have_been_used_is_looked_for_from_the_first_block(
    rich: Wallet, world: Any, keys: KeyTree, tmp_path: Path
) -> None:
    """A restored seed, or a database that was lost: `rrnode start` finds the coins without being told."""
    lost = Store.open(tmp_path / "lost.sqlite", node_id=keys.node_id(), network="regtest")
    again = Wallet.open(keys, lost, fresh=False)
    await catch_up(again, world.chain)
    assert again.balance() == rich.balance()
    assert Wallet.open(keys, lost).balance() == rich.balance()
    lost.close()


async def test_an_interrupted_restore_goes_on_where_it_was(world: Any, keys: KeyTree, tmp_path: Path) -> None:
    wallet = Wallet(keys, WalletState())
    await world.give((wallet.script_at(700), 10_000))
    await world.mine(150)
    store = Store.open(tmp_path / "half.sqlite", node_id=keys.node_id(), network="regtest")
    half = Wallet.open(keys, store, fresh=False)
    half.begin_at((BlockHeight(20), (await world.chain.block_at(20)).hash))
    half.flush()
    again = Wallet.open(keys, store, fresh=False)
    await catch_up(again, world.chain)
    assert again.balance().confirmed == 10_000
    store.close()


# --- a chain that is seen from a checkpoint on -----------------------------------------------------------------------


def _begin_at(chain: Any, lowest: BlockHeight) -> None:
    """From now on it is as a client sees it, whose headers begin there."""
    block_at = chain.block_at

    async def seen(height: BlockHeight) -> BlockRef | None:
        if height < lowest:
            raise ChainUnavailable("below the checkpoint")
        return await block_at(height)  # type: ignore[no-any-return]

    chain.lowest, chain.block_at = lowest, seen


async def test_a_seed_that_may_have_been_used_is_looked_for_from_the_checkpoint(
    rich: Wallet, world: Any, keys: KeyTree
) -> None:
    _begin_at(world.chain, BlockHeight(2))
    again = Wallet(keys, WalletState(), fresh=False)
    await catch_up(again, world.chain)
    assert again.balance().confirmed == rich.balance().confirmed == 1_700_000


async def test_a_reorganisation_soon_after_the_checkpoint_is_caught_up_with(
    rich: Wallet, world: Any, reopened: Callable[[], Wallet]
) -> None:
    block = await world.mine(2)
    await world.feed(rich)
    await world.chain.invalidate(block)
    await world.mine(3)
    _begin_at(world.chain, BlockHeight(1))
    again = reopened()
    await catch_up(again, world.chain)
    tip = await world.chain.tip()
    assert again.cursor() == (tip.height, tip.hash)
    assert again.balance().confirmed == 1_700_000
