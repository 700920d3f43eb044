"""The follower over every kind of backend: the same facts in the same order, with real sockets where there are some."""

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
from rrnode.chain.follower import Follower


async def test_the_follower_works_the_same_on_every_backend(rig, kit):
    source, fees = await kit.funded(rig.chain, 2)
    follower = Follower(rig.chain)
    await follower.start()
    parent = kit.commitment(source)
    child = kit.pay([kit.coin(parent, 1), fees], 2000, version=3)
    anchor = Outpoint(txid=parent.txid, index=1)
    follower.watch_tx(WatchTx(txid=parent.txid, script=kit.OPEN, from_height=0))
    follower.watch_outpoint(WatchOutpoint(outpoint=anchor, script=kit.ANCHOR, from_height=0))
    await rig.chain.publish((parent.raw, child.raw))
    facts = []
    with trio.fail_after(20):
        while not facts:
            facts += (await follower.next()).facts
        assert facts == [OutputSpent(outpoint=anchor, transaction=child.raw, height=None)]
        (block,) = await rig.chain.mine(1, kit.LOCKED)
        height = (await rig.chain.tip()).height
        while follower.tip.hash != block:
            facts += (await follower.next()).facts
        assert facts[1:] == [
            TxConfirmed(txid=parent.txid, height=height, transaction=parent.raw),
            OutputSpent(outpoint=anchor, transaction=child.raw, height=height),
            TipChanged(),
        ]
        await rig.chain.invalidate(block)
        facts.clear()
        while not facts:
            facts += (await follower.next()).facts
        while OutputSpent(outpoint=anchor, transaction=child.raw, height=None) not in facts:
            facts += (await follower.next()).facts
    assert facts[:2] == [TxUnconfirmed(txid=parent.txid), SpendGone(outpoint=anchor)]
