"""The broadcaster over every kind of backend: a commitment of no fee, its child with a real signature, a raise, and HTLC
transactions that leave as one."""

from protocols.channel.events import PublishWithChild, PublishWithInputs, Purpose
from protocols.ids import ChannelId
from rrnode.chain.broadcaster import Broadcaster
from rrnode.chain.parse import outpoint, parse_block

CHANNEL = ChannelId(b"\x05" * 32)


async def test_a_close_goes_through_on_every_backend(rig, kit):
    wallet = kit.KeyWallet()
    await kit.with_coins(rig.chain, wallet, 200_000, 100_000)
    (source,) = await kit.funded(rig.chain, 1)
    commitment = kit.commitment(source, mark=50_000)
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
    tip = await rig.chain.tip()
    htlcs = []
    for index in (0, 2):
        value = commitment.outputs[index].value
        htlcs.append(kit.build([kit.coin(commitment, index)], [(value, kit.OPEN)], version=3, sequence=0))
        broadcaster.take(
            PublishWithInputs(
                channel_id=CHANNEL,
                transaction=htlcs[-1].raw,
                purpose=Purpose.HTLC_SUCCESS,
                spent_value=value,
                deadline=tip.height + 20,
            )
        )
    await broadcaster.carry_out()
    (block,) = await rig.chain.mine(1, kit.LOCKED)
    (mined,) = parse_block(await rig.chain.block(block)).transactions[1:]
    assert mined.prevouts[:2] == tuple(htlc.prevouts[0] for htlc in htlcs)
    assert mined.outputs[:2] == tuple(htlc.outputs[0] for htlc in htlcs)
