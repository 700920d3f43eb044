"""The follower over an embedded regtest: what it tells, in which order, across reorganisations, restarts and outages.

Whole batches' facts are compared. `drain` takes batches until the follower has nothing more to say
(the clock jumps when everything waits).
"""

import pytest
import trio

from protocols.channel.events import (
    Outpoint,
    OutputSpent,
    SpendGone,
    TipChanged,
    TxConfirmed,
    TxUnconfirmed,
    WatchOutpoint,
    WatchTx,
)
from rrnode.chain import follower as follower_module
from rrnode.chain.base import NO_INTERESTS
from rrnode.chain.follower import Follower, read_blocks
from rrnode.errors import ChainUnavailable


async def drain(follower):
    """Every batch there is now."""
    batches = []
    while True:
        with trio.move_on_after(1) as patience:
            batches.append(await follower.next())
        if patience.cancelled_caught:
            return batches


def told(batches):
    return [fact for batch in batches for fact in batch.facts]


def watch_tx(tx, height=0):
    return WatchTx(txid=tx.txid, script=tx.outputs[0].script, from_height=height)


def watch_output(tx, index=0, height=0):
    return WatchOutpoint(outpoint=point(tx, index), script=tx.outputs[index].script, from_height=height)


def point(tx, index=0):
    return Outpoint(txid=tx.txid, index=index)


@pytest.fixture
async def follower(kernel_chain, kit):
    made = Follower(kernel_chain)
    await made.start()
    await drain(made)
    return made


async def test_a_transaction_is_told_when_it_confirms_and_its_spend_from_the_mempool_on(
    kernel_chain, kit, follower, autojump_clock
):
    (source,) = await kit.funded(kernel_chain, 1)
    first = kit.pay([source], 1000)
    second = kit.pay([kit.coin(first)], 1000)
    await drain(follower)
    follower.watch_tx(watch_tx(first, 101))
    follower.watch_outpoint(watch_output(first, 0, 101))
    await kernel_chain.publish((first.raw,))
    (batch,) = await drain(follower)
    assert (batch.facts, batch.arrived, batch.mempool) == ((), (first,), {first.txid})
    await kernel_chain.mine(1, kit.LOCKED)
    (batch,) = await drain(follower)
    assert batch.facts == (TxConfirmed(txid=first.txid, height=102, transaction=first.raw), TipChanged())
    assert (batch.tip, batch.fork, batch.mempool) == (await kernel_chain.tip(), None, frozenset())
    assert [tx.txid for tx in batch.connected[0].transactions[1:]] == [first.txid]
    await kernel_chain.publish((second.raw,))
    (batch,) = await drain(follower)
    assert batch.facts == (OutputSpent(outpoint=point(first), transaction=second.raw, height=None),)
    await kernel_chain.mine(1, kit.LOCKED)
    (batch,) = await drain(follower)
    assert batch.facts == (OutputSpent(outpoint=point(first), transaction=second.raw, height=103), TipChanged())


async def test_a_reorganisation_is_told_from_the_top_down_and_then_anew(kernel_chain, kit, follower, autojump_clock):
    (source,) = await kit.funded(kernel_chain, 1)
    first = kit.pay([source], 1000)
    second = kit.pay([kit.coin(first)], 1000)
    await drain(follower)
    follower.watch_tx(watch_tx(first, 101))
    follower.watch_outpoint(watch_output(first, 0, 101))
    await kernel_chain.publish((first.raw,))
    (block,) = await kernel_chain.mine(1, kit.LOCKED)
    await kernel_chain.publish((second.raw,))
    await kernel_chain.mine(1, kit.LOCKED)
    await drain(follower)
    await kernel_chain.invalidate(block)
    fork = await kernel_chain.block_at(101)
    (batch,) = await drain(follower)
    assert batch.fork == fork
    assert [followed.ref.height for followed in batch.connected] == [102, 103, 104]
    assert batch.facts == (
        TxUnconfirmed(txid=first.txid),
        SpendGone(outpoint=point(first)),
        OutputSpent(outpoint=point(first), transaction=second.raw, height=None),
        TipChanged(),
    )
    await kernel_chain.mine(1, kit.LOCKED)
    (batch,) = await drain(follower)
    assert batch.fork is None
    assert batch.facts == (
        TxConfirmed(txid=first.txid, height=105, transaction=first.raw),
        OutputSpent(outpoint=point(first), transaction=second.raw, height=105),
        TipChanged(),
    )


async def test_a_replaced_spend_is_told_and_one_that_vanishes_too(kernel_chain, kit, follower, autojump_clock):
    source, other = await kit.funded(kernel_chain, 2)
    first = kit.pay([source], 1000)
    await kernel_chain.publish((first.raw,))
    await kernel_chain.mine(1, kit.LOCKED)
    await drain(follower)
    follower.watch_outpoint(watch_output(first))
    one, two = kit.pay([kit.coin(first), other], 1000), kit.pay([kit.coin(first)], 4000)
    await kernel_chain.publish((one.raw,))
    assert told(await drain(follower)) == [OutputSpent(outpoint=point(first), transaction=one.raw, height=None)]
    await kernel_chain.publish((two.raw,))
    assert told(await drain(follower)) == [OutputSpent(outpoint=point(first), transaction=two.raw, height=None)]
    rival = kit.pay([kit.coin(first)], 9000)
    follower.watch_outpoint(watch_output(rival))
    await kernel_chain.publish((rival.raw,))
    child = kit.pay([kit.coin(rival)], 1000)
    await kernel_chain.publish((child.raw,))
    await drain(follower)
    best = kit.pay([kit.coin(first)], 30000)
    await kernel_chain.publish((best.raw,))
    assert told(await drain(follower)) == [
        OutputSpent(outpoint=point(first), transaction=best.raw, height=None),
        SpendGone(outpoint=point(rival)),
    ]


async def test_a_new_watch_is_told_what_happened_before_it(kernel_chain, kit, follower, autojump_clock):
    source, other = await kit.funded(kernel_chain, 2)
    first = kit.pay([source], 1000)
    second = kit.pay([kit.coin(first)], 1000)
    third = kit.pay([other], 1000)
    for tx in (first, second):
        await kernel_chain.publish((tx.raw,))
        await kernel_chain.mine(1, kit.LOCKED)
    await kernel_chain.publish((third.raw,))
    await drain(follower)
    follower.watch_tx(watch_tx(first))
    follower.watch_tx(watch_tx(second))
    follower.watch_tx(watch_tx(third))
    follower.watch_outpoint(watch_output(first))
    follower.watch_outpoint(watch_output(second))
    follower.watch_outpoint(WatchOutpoint(outpoint=Outpoint(txid=other[0][:32], index=0), script=b"", from_height=0))
    batches = await drain(follower)
    assert sorted(told(batches), key=repr) == sorted(
        [
            TxConfirmed(txid=first.txid, height=103, transaction=first.raw),
            TxConfirmed(txid=second.txid, height=104, transaction=second.raw),
            OutputSpent(outpoint=point(first), transaction=second.raw, height=104),
            OutputSpent(outpoint=Outpoint(txid=other[0][:32], index=0), transaction=third.raw, height=None),
        ],
        key=repr,
    )
    assert TipChanged() not in told(batches)


async def test_a_watch_that_begins_above_the_past_is_not_told_of_it(kernel_chain, kit, follower, autojump_clock):
    (source,) = await kit.funded(kernel_chain, 1)
    first = kit.pay([source], 1000)
    second = kit.pay([kit.coin(first)], 1000)
    for tx in (first, second):
        await kernel_chain.publish((tx.raw,))
        await kernel_chain.mine(1, kit.LOCKED)
    await drain(follower)
    follower.watch_outpoint(watch_output(first, 0, 104))
    assert told(await drain(follower)) == []


async def test_the_same_watch_twice_is_told_once(kernel_chain, kit, follower, autojump_clock):
    (source,) = await kit.funded(kernel_chain, 1)
    first = kit.pay([source], 1000)
    await kernel_chain.publish((first.raw,))
    await kernel_chain.mine(1, kit.LOCKED)
    await drain(follower)
    for _ in range(2):
        follower.watch_tx(watch_tx(first))
    assert told(await drain(follower)) == [TxConfirmed(txid=first.txid, height=102, transaction=first.raw)]
    follower.watch_tx(watch_tx(first))
    assert told(await drain(follower)) == []


async def test_a_follower_that_was_away_is_told_from_its_cursor_on(kernel_chain, kit, autojump_clock):
    (source,) = await kit.funded(kernel_chain, 1)
    cursor = await kernel_chain.tip()
    first = kit.pay([source], 1000)
    await kernel_chain.publish((first.raw,))
    await kernel_chain.mine(40, kit.LOCKED)
    late = Follower(kernel_chain, cursor=(cursor.height, cursor.hash))
    assert late.height == cursor.height
    await late.start()
    late.watch_tx(watch_tx(first, 101))
    batches = await drain(late)
    assert told(batches) == [
        TxConfirmed(txid=first.txid, height=102, transaction=first.raw),
        TipChanged(),
        TipChanged(),
        TipChanged(),
    ]
    assert [len(batch.connected) for batch in batches[:3]] == [16, 16, 8]
    assert [batch.mempool for batch in batches[:3]] == [None, None, frozenset()]
    assert late.tip == await kernel_chain.tip()


async def test_a_branch_that_was_lost_while_away_is_told_as_undone(kernel_chain, kit, monkeypatch, autojump_clock):
    monkeypatch.setattr(follower_module, "RESCAN_BLOCKS", 10)  # all is read again before the first word all the same
    source, other = await kit.funded(kernel_chain, 2)
    first, third = kit.pay([source], 1000), kit.pay([other], 1000)
    second = kit.pay([kit.coin(first)], 1000)
    await kernel_chain.publish((third.raw,))
    await kernel_chain.mine(1, kit.LOCKED)
    fork = await kernel_chain.tip()
    await kernel_chain.publish((first.raw,))
    (block,) = await kernel_chain.mine(1, kit.LOCKED)
    await kernel_chain.publish((second.raw,))
    await kernel_chain.mine(1, kit.LOCKED)
    cursor = await kernel_chain.tip()
    await kernel_chain.invalidate(block)
    late = Follower(kernel_chain, cursor=(cursor.height, cursor.hash))
    await late.start()
    for order in (watch_tx(first), watch_tx(third)):
        late.watch_tx(order)
    late.watch_outpoint(watch_output(first))
    spent = Outpoint(txid=other[0][:32], index=0)
    late.watch_outpoint(WatchOutpoint(outpoint=spent, script=b"", from_height=0))
    batch, *_ = await drain(late)
    assert batch.fork == fork
    assert batch.facts == (
        TxUnconfirmed(txid=first.txid),
        SpendGone(outpoint=point(first)),
        TxConfirmed(txid=third.txid, height=fork.height, transaction=third.raw),
        OutputSpent(outpoint=spent, transaction=third.raw, height=fork.height),
        OutputSpent(outpoint=point(first), transaction=second.raw, height=None),
        TipChanged(),
    )


async def test_a_chain_that_began_anew_is_followed_from_its_beginning(kernel_chain, kit, autojump_clock):
    await kernel_chain.mine(3, kit.LOCKED)
    lost = Follower(kernel_chain, cursor=(50, b"\x09" * 32))
    await lost.start()
    lost.watch_tx(WatchTx(txid=b"\x08" * 32, script=b"", from_height=0))
    batch, *_ = await drain(lost)
    assert batch.fork.height == 0
    assert batch.facts == (TxUnconfirmed(txid=b"\x08" * 32), TipChanged())
    assert batch.tip == await kernel_chain.tip()


async def test_long_rescans_do_not_hold_up_the_tip(kernel_chain, kit, follower, monkeypatch, autojump_clock):
    monkeypatch.setattr(follower_module, "RESCAN_BLOCKS", 10)
    (source,) = await kit.funded(kernel_chain, 1)
    first = kit.pay([source], 1000)
    second = kit.pay([kit.coin(first)], 1000)
    for tx in (first, second):
        await kernel_chain.publish((tx.raw,))
        await kernel_chain.mine(1, kit.LOCKED)
    await drain(follower)
    follower.watch_outpoint(watch_output(first, 0, 1))
    await kernel_chain.mine(1, kit.LOCKED)
    batches = await drain(follower)
    spent = OutputSpent(outpoint=point(first), transaction=second.raw, height=103)
    assert told(batches) == [TipChanged(), spent]


async def test_old_facts_end_their_watch_and_memory_stays_bounded(kernel_chain, kit, follower, autojump_clock):
    (source,) = await kit.funded(kernel_chain, 1)
    first = kit.pay([source], 1000)
    await drain(follower)
    follower.watch_tx(watch_tx(first, 101))
    await kernel_chain.publish((first.raw,))
    await kernel_chain.mine(follower_module.DEEPEST + 20, kit.LOCKED)
    await drain(follower)
    assert follower._watches._txs == {}
    assert len(follower._refs) == follower_module.DEEPEST + 1


def once(method, action):
    """The method, with something happening just before its first answer."""
    done = []

    async def wrapped(*arguments):
        if not done:
            done.append(True)
            await action()
        return await method(*arguments)

    return wrapped


async def test_a_block_that_comes_while_the_mempool_is_read_is_no_vanished_spend(
    kernel_chain, kit, follower, autojump_clock
):
    (source,) = await kit.funded(kernel_chain, 1)
    first = kit.pay([source], 1000)
    second = kit.pay([kit.coin(first)], 1000)
    await kernel_chain.publish((first.raw,))
    await kernel_chain.mine(1, kit.LOCKED)
    await drain(follower)
    follower.watch_outpoint(watch_output(first, 0, 102))
    await kernel_chain.publish((second.raw,))
    assert told(await drain(follower)) == [OutputSpent(outpoint=point(first), transaction=second.raw, height=None)]
    await kernel_chain.publish((kit.pay([kit.coin(second)], 1000).raw,))

    async def mine():
        await kernel_chain.mine(1, kit.LOCKED)

    kernel_chain.mempool = once(kernel_chain.mempool, mine)
    assert told(await drain(follower)) == [
        OutputSpent(outpoint=point(first), transaction=second.raw, height=103),
        TipChanged(),
    ]


async def test_a_block_that_goes_while_it_is_read_is_not_told(kernel_chain, kit, follower, autojump_clock):
    (source,) = await kit.funded(kernel_chain, 1)
    first = kit.pay([source], 1000)
    await drain(follower)
    follower.watch_tx(watch_tx(first, 101))
    await kernel_chain.publish((first.raw,))
    (block,) = await kernel_chain.mine(1, kit.LOCKED)

    async def undo():
        await kernel_chain.invalidate(block)

    kernel_chain.mempool = once(kernel_chain.mempool, undo)
    batches = await drain(follower)
    assert told(batches) == [TipChanged()]
    assert [batch.fork for batch in batches] == [None] * len(batches)
    assert follower.tip == await kernel_chain.tip()


async def test_a_watch_that_comes_while_the_chain_is_looked_at_is_not_forgotten(
    kernel_chain, kit, follower, autojump_clock
):
    (source,) = await kit.funded(kernel_chain, 1)
    first = kit.pay([source], 1000)
    await kernel_chain.publish((first.raw,))
    await kernel_chain.mine(1, kit.LOCKED)
    await drain(follower)

    async def watch():
        follower.watch_tx(watch_tx(first))

    kernel_chain.mempool = once(kernel_chain.mempool, watch)
    await kernel_chain.mine(1, kit.LOCKED)
    assert told(await drain(follower)) == [
        TipChanged(),
        TxConfirmed(txid=first.txid, height=102, transaction=first.raw),
    ]


async def test_an_outage_is_waited_out_and_nothing_is_missed(kernel_chain, kit, follower, autojump_clock):
    class Flaky(type(kernel_chain)):
        away = False

        def _check_open(self):
            if Flaky.away:
                raise ChainUnavailable("gone fishing; check that it runs")
            super()._check_open()

    kernel_chain.__class__ = Flaky
    (source,) = await kit.funded(kernel_chain, 1)
    first = kit.pay([source], 1000)
    follower.watch_tx(watch_tx(first, 0))
    while follower.height < 101:
        await follower.next()
    await kernel_chain.publish((first.raw,))
    await kernel_chain.mine(1, kit.LOCKED)
    Flaky.away = True
    with trio.move_on_after(100):
        await follower.next()
    assert follower.trouble == "gone fishing; check that it runs"
    Flaky.away = False
    with trio.fail_after(60):
        batch = await follower.next()
    assert batch.facts == (TxConfirmed(txid=first.txid, height=102, transaction=first.raw), TipChanged())
    assert follower.trouble is None


async def test_blocks_can_be_read_by_whoever_is_behind(kernel_chain, kit, autojump_clock):
    await kernel_chain.mine(5, kit.LOCKED)
    tip = await kernel_chain.tip()
    assert [block.ref.height async for block in read_blocks(kernel_chain, 2, tip, lambda: NO_INTERESTS)] == [2, 3, 4, 5]
    await kernel_chain.invalidate(tip.hash)
    with pytest.raises(ChainUnavailable, match="reorganised"):
        assert [block async for block in read_blocks(kernel_chain, 2, tip, lambda: NO_INTERESTS)]
