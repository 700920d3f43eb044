"""The broadcaster over every kind of backend: a commitment of no fee, its child with a real signature, and a raise."""

from protocols.channel.events import PublishWithChild, PublishWithInputs, Purpose
from protocols.ids import ChannelId
from rrnode.chain.broadcaster import Broadcaster
from rrnode.chain.parse import outpoint, parse_block

CHANNEL = ChannelId(b"\x05" * 32)


async def test_a_close_goes_through_on_every_backend(rig, kit):
    wallet = kit.KeyWallet()
    await kit.with_coins(rig.chain, wallet, 200_000, 100_000)
    (source,) = await kit.funded(rig.chain, 1)
    commitment = kit.commitment(source)
    broadcaster = Broadcaster(rig.chain, wallet)
    anchor = outpoint(commitment.txid, 1)
    children = []
    for blocks_left in (144, 6):
        deadline = (await rig.chain.tip()).height + blocks_left
        broadcaster.take(
            PublishWithChild(channel_id=CHANNEL, transaction=commitment.raw, anchor_index=1, deadline=deadline)
        )
        await broadcaster.carry_out()
        children.append((await rig.chain.mempool_spenders([anchor]))[anchor])
        assert set(await rig.chain.mempool()) == {commitment.txid, children[-1]}
    assert children[0] != children[1]
    await rig.chain.mine(1, kit.LOCKED)
    value = commitment.outputs[0].value
    htlc = kit.build([kit.coin(commitment)], [(value, kit.OPEN)], version=3, sequence=0)
    tip = await rig.chain.tip()
    broadcaster.take(
        PublishWithInputs(
            channel_id=CHANNEL,
            transaction=htlc.raw,
            purpose=Purpose.HTLC_SUCCESS,
            spent_value=value,
            deadline=tip.height + 20,
        )
    )
    await broadcaster.carry_out()
    (block,) = await rig.chain.mine(1, kit.LOCKED)
    (mined,) = parse_block(await rig.chain.block(block)).transactions[1:]
    assert (mined.prevouts[0], mined.outputs[0]) == (htlc.prevouts[0], htlc.outputs[0])
