"""What only the embedded regtest does: keeping its chain through crashes, mining by timer, and deep reorganisations."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import trio

from protocols.errors import MisuseError
from rrnode.chain import index as index_module
from rrnode.chain.base import Verdict
from rrnode.chain.kernel import ANYONE_CAN_SPEND, KernelChain
from rrnode.errors import ChainUnavailable, StorageFailed

CRASH = """
import os, signal, sys, trio
from pathlib import Path
from rrnode.chain.kernel import KernelChain, ANYONE_CAN_SPEND

async def main():
    chain = KernelChain(Path(sys.argv[1]))
    async with chain.running():
        hashes = await chain.mine(7, ANYONE_CAN_SPEND)
        print(hashes[-1].hex(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""


async def test_a_killed_process_loses_no_block(tmp_path):
    done = subprocess.run(  # noqa: ASYNC221  # nothing else runs here
        [sys.executable, "-c", CRASH, str(tmp_path / "regtest")], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    chain = KernelChain(tmp_path / "regtest")
    async with chain.running():
        tip = await chain.tip()
        assert (tip.height, tip.hash.hex()) == (7, done.stdout.strip())
        await chain.mine(1, ANYONE_CAN_SPEND)


async def test_damaged_kernel_files_are_made_anew_from_the_blocks(tmp_path):
    chain = KernelChain(tmp_path / "regtest")
    async with chain.running():
        await chain.mine(5, ANYONE_CAN_SPEND)
        tip = await chain.tip()
    for name in ("chainstate", "blocks/index"):
        for file in (tmp_path / "regtest" / "kernel" / name).iterdir():
            if file.name.startswith(("MANIFEST", "CURRENT")):
                file.write_bytes(b"rubbish")
    async with chain.running():
        assert await chain.tip() == tip
    shutil.rmtree(tmp_path / "regtest" / "kernel")
    async with chain.running():
        assert await chain.tip() == tip


async def test_a_store_that_is_no_store_is_said_so(tmp_path):
    (tmp_path / "chain.sqlite").write_bytes(b"rubbish" * 1000)
    with pytest.raises(ChainUnavailable, match="cannot be used as the regtest's store"):
        async with KernelChain(tmp_path).running():
            pass


async def test_a_second_user_of_the_directory_is_refused_and_disturbs_nothing(tmp_path):
    chain = KernelChain(tmp_path)
    async with chain.running():
        with pytest.raises(ChainUnavailable, match="in use by another process"):
            async with KernelChain(tmp_path).running():
                pass
        await chain.mine(1, ANYONE_CAN_SPEND)
        with pytest.raises(MisuseError):
            async with chain.running():
                pass
    async with KernelChain(tmp_path).running():
        pass


async def test_a_directory_that_cannot_be_made_is_said_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ChainUnavailable, match="cannot be used"):
        async with KernelChain(tmp_path / "file" / "regtest").running():
            pass


async def test_an_error_in_the_body_comes_out_as_it_was(tmp_path):
    with pytest.raises(KeyError):
        async with KernelChain(tmp_path, mine_every=10).running():
            raise KeyError("mine")


async def test_blocks_come_by_themselves_when_asked_for(tmp_path, autojump_clock):
    chain = KernelChain(tmp_path, mine_every=10, mine_to=ANYONE_CAN_SPEND)
    async with chain.running():
        await trio.sleep(35)
        assert (await chain.tip()).height == 3


async def test_block_times_rise_and_stay_near_the_clock(tmp_path):
    now = int(time.time())
    chain = KernelChain(tmp_path, clock=lambda: now)
    async with chain.running():
        await chain.mine(3, ANYONE_CAN_SPEND)
        assert now <= (await chain.tip()).time <= now + 3
        await chain.mine(40, ANYONE_CAN_SPEND)
        assert chain.index.median_time(43) <= (await chain.tip()).time <= now + 20


async def test_a_clock_that_is_wrong_is_said_and_harms_nothing(tmp_path):
    now = time.time()
    chain = KernelChain(tmp_path, clock=lambda: now)
    async with chain.running():
        await chain.mine(2, ANYONE_CAN_SPEND)
        now += 10_000
        with pytest.raises(ChainUnavailable, match="check this machine's clock"):
            await chain.mine(1, ANYONE_CAN_SPEND)
        assert chain._store.block_count() == 2
        now -= 10_000
        await chain.mine(1, ANYONE_CAN_SPEND)
    async with chain.running():
        assert (await chain.tip()).height == 3


async def test_a_full_disk_stops_mining_and_loses_nothing(kernel_chain, kit):
    await kernel_chain.mine(2, kit.OPEN)

    def full(block_hash, raw):
        raise StorageFailed("a block could not be written: database or disk is full")

    kernel_chain._store.add_block = full
    with pytest.raises(ChainUnavailable, match="disk is full"):
        await kernel_chain.mine(1, kit.OPEN)
    assert (await kernel_chain.tip()).height == 2
    del kernel_chain._store.add_block
    await kernel_chain.mine(1, kit.OPEN)
    assert (await kernel_chain.tip()).height == 3


async def test_reorganisations_deeper_than_undo_data_read_the_chain_again(kernel_chain, kit, monkeypatch):
    monkeypatch.setattr(index_module, "UNDO_KEPT", 3)
    (source,) = await kit.funded(kernel_chain, 1)
    tx = kit.pay([source], 1000)
    await kernel_chain.publish((tx.raw,))
    (block,) = await kernel_chain.mine(1, kit.LOCKED)
    await kernel_chain.mine(6, kit.LOCKED)
    await kernel_chain.invalidate(block)
    assert await kernel_chain.mempool() == (tx.txid,)
    assert (await kernel_chain.unspent(source[0][:32], 0)) is None
    assert kernel_chain.index.unspent[source[0]].value == source[1]
    await kernel_chain.mine(1, kit.LOCKED)
    assert (await kernel_chain.unspent(tx.txid, 0)).value == tx.outputs[0].value


async def test_unspent_outputs_are_the_same_after_undoing_and_after_reading_again(kernel_chain, kit, tmp_path):
    source, other = await kit.funded(kernel_chain, 2)
    first = kit.pay([source], 1000)
    second = kit.pay([kit.coin(first), other], 1000)  # made and spent within one block
    await kernel_chain.publish((first.raw,))
    await kernel_chain.publish((second.raw,))
    before = dict(kernel_chain.index.unspent)
    await kernel_chain.mine(1, kit.LOCKED)
    assert kernel_chain.index.disconnect()
    assert kernel_chain.index.unspent == before
    kernel_chain._follow_kernel()
    await kernel_chain.mine(1, kit.LOCKED)
    now = dict(kernel_chain.index.unspent)
    kernel_chain.index.start_again(kernel_chain._genesis)
    kernel_chain._follow_kernel()
    assert kernel_chain.index.unspent == now


async def test_a_reorganisation_drops_what_is_no_longer_possible(kernel_chain, kit):
    (source,) = await kit.funded(kernel_chain, 1)
    young = kit.coin_of_block(await kernel_chain.block((await kernel_chain.block_at(2)).hash))
    first = kit.pay([source], 1000)
    await kernel_chain.publish((first.raw,))
    (block,) = await kernel_chain.mine(1, kit.LOCKED)
    delayed = kit.pay([kit.coin(first)], 1000, sequence=1)
    assert (await kernel_chain.publish((delayed.raw,))).verdict is Verdict.ACCEPTED
    await kernel_chain.invalidate(block)
    # Its parent is unconfirmed again, so its relative lock has not passed.
    assert await kernel_chain.mempool() == (first.txid,)
    assert young[1] == 5_000_000_000


async def test_the_first_block_stays(kernel_chain, kit):
    with pytest.raises(MisuseError):
        await kernel_chain.invalidate((await kernel_chain.tip()).hash)
    await kernel_chain.invalidate(b"\x07" * 32)
    assert (await kernel_chain.tip()).height == 0


async def test_a_block_takes_rivals_of_its_transactions_out_of_the_mempool(kernel_chain, kit):
    source, other = await kit.funded(kernel_chain, 2)
    first, kept = kit.pay([source], 1000), kit.pay([other], 1000)
    for tx in (first, kit.pay([kit.coin(first)], 1000), kept):
        await kernel_chain.publish((tx.raw,))
    kernel_chain.mempool_now.block_connected([kit.pay([source], 2000)])
    assert await kernel_chain.mempool() == (kept.txid,)


async def test_a_commitment_whose_child_is_gone_is_not_mined(kernel_chain, kit):
    source, fees, *_ = await kit.funded(kernel_chain, 3)
    parent = kit.commitment(source, anchor=240)
    child = kit.pay([kit.coin(parent, 1), fees], 2000, version=3)
    await kernel_chain.publish((parent.raw, child.raw))
    await kernel_chain.publish((kit.pay([fees], 50_000).raw,))
    assert parent.txid in await kernel_chain.mempool()
    assert child.txid not in await kernel_chain.mempool()
    await kernel_chain.mine(1, kit.LOCKED)
    assert await kernel_chain.mempool() == (parent.txid,)


async def test_a_block_takes_the_best_paying_first_and_never_more_than_fits(kernel_chain, kit, monkeypatch):
    monkeypatch.setattr("rrnode.chain.mempool.MAX_BLOCK_WEIGHT", 900)
    coins = await kit.funded(kernel_chain, 3)
    poor, rich, middling = (kit.pay([coin], fee) for coin, fee in zip(coins, (500, 5000, 2000), strict=True))
    for tx in (poor, rich, middling):
        await kernel_chain.publish((tx.raw,))
    await kernel_chain.mine(1, kit.LOCKED)
    assert await kernel_chain.mempool() == (poor.txid,)


async def test_long_families_are_refused(kernel_chain, kit):
    (source,) = await kit.funded(kernel_chain, 1)
    coin = source
    for _ in range(25):
        tx = kit.pay([coin], 1000)
        assert (await kernel_chain.publish((tx.raw,))).verdict is Verdict.ACCEPTED
        coin = kit.coin(tx)
    result = await kernel_chain.publish((kit.pay([coin], 1000).raw,))
    assert (result.verdict, result.reason) == (Verdict.REFUSED, "too-long-mempool-chain")


async def test_a_feerate_below_the_floor_is_a_mistake(tmp_path):
    with pytest.raises(MisuseError):
        KernelChain(tmp_path, feerate=999)
    chain = KernelChain(tmp_path, feerate=5000)
    async with chain.running():
        assert await chain.feerate(2) == 5000
    assert oct(os.stat(tmp_path / "lock").st_mode)[-3:] == "600"
