"""A close on a real chain: everything that is ordered is taken by the mempool the moment it is ordered, mined, and pays.

An embedded regtest (libbitcoinkernel with the relay rules of version 3); fees and children are added by the test as the
wallet would add them.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from protocols.channel.events import Outpoint, OutputSpent, Publish, PublishWithChild, PublishWithInputs, WatchOutpoint
from protocols.onchain import tx
from protocols.onchain.keys import payout_script
from protocols.units import BlockHeight
from rrnode.chain.base import Verdict
from rrnode.chain.kernel import KernelChain


@pytest.fixture
async def chain(tmp_path: Any) -> AsyncIterator[KernelChain]:
    made = KernelChain(tmp_path / "regtest")
    async with made.running():
        yield made


class Play:
    """Performs what Alice orders, and tells her of every block."""

    def __init__(self, chain: KernelChain, kit: Any, scene: Any, coins: list[Any]) -> None:
        self.chain, self.kit, self.scene, self.coins = chain, kit, scene, coins
        self.watched: dict[tuple[bytes, int], Outpoint] = {}
        self.performed = 0
        self.done: set[bytes] = set()
        self.fees = 0

    async def perform(self) -> None:
        effects, self.performed = self.scene.effects[self.performed :], len(self.scene.effects)
        for effect in effects:
            match effect:
                case WatchOutpoint():
                    self.watched[(effect.outpoint.txid, effect.outpoint.index)] = effect.outpoint
                case PublishWithChild() if tx.txid_of(effect.transaction) not in self.done:
                    await self.with_child(effect.transaction, effect.anchor_index)
                case Publish() | PublishWithInputs():
                    spent = tx.parse(effect.transaction).inputs[0]
                    if (place := spent.txid + bytes([spent.index])) not in self.done:
                        self.done.add(place)
                        raw = effect.transaction
                        await self.accepted((self.with_coin(raw) if isinstance(effect, PublishWithInputs) else raw,))

    async def with_child(self, raw: bytes, anchor_index: int) -> None:
        self.done.add(tx.txid_of(raw))
        anchor = tx.parse(raw).outputs[anchor_index]
        place = (tx.outpoint(tx.txid_of(raw), anchor_index), anchor.value, anchor.script)
        await self.accepted((raw, self.kit.pay([place, self.coins.pop()], 5_000, version=3).raw))

    def with_coin(self, raw: bytes) -> bytes:
        """An open coin after the signed pair, and its change."""
        parsed, (place, value, script) = tx.parse(raw), self.coins.pop()
        witness = (self.kit.OPEN_SCRIPT,)
        index = int.from_bytes(place[32:], "little")
        return replace(
            parsed,
            inputs=(*parsed.inputs, tx.TxInput(place[:32], index, 0xFFFFFFFD, witness)),
            outputs=(*parsed.outputs, tx.TxOutput(value - 1_000, script)),
        ).serialize()

    async def accepted(self, raws: tuple[bytes, ...]) -> None:
        result = await self.chain.publish(raws)
        assert result.verdict is Verdict.ACCEPTED, result.reason

    async def block(self) -> None:
        block_hash = (await self.chain.mine(1, self.kit.LOCKED))[0]
        height = (await self.chain.tip()).height
        self.scene.tip = height
        funding = self.scene.funding
        places = {(funding.txid, funding.index): funding, **self.watched}
        for transaction in self.kit.parse_block(await self.chain.block(block_hash)).transactions[1:]:
            parsed = tx.parse(transaction.raw)
            for index, each in enumerate(parsed.outputs):
                self.scene.coins[(parsed.txid(), index)] = (each.value, each.script)
            self.scene.heights[parsed.txid()] = height
            for each in parsed.inputs:
                outpoint = places.get((each.txid, each.index))
                if outpoint is not None:
                    if outpoint == funding:
                        self.scene.tell_close(transaction.raw, height)
                    else:
                        self.scene.tell_spent(outpoint, transaction.raw, height)
                    places |= {
                        (effect.outpoint.txid, effect.outpoint.index): effect.outpoint
                        for effect in self.scene.effects
                        if isinstance(effect, WatchOutpoint)
                    }
        await self.perform()
        self.scene.tell_tip(height)
        await self.perform()


@pytest.mark.parametrize("which", ["ours", "theirs", "revoked"])
async def test_close_is_resolved_by_what_is_ordered_at_the_moment_it_is_ordered(
    scene: Any, htlc: Any, funding_script: bytes, chain_kit: Any, chain: KernelChain, which: str
) -> None:
    coins = await chain_kit.funded(chain, 6)
    place, value, script = coins.pop()
    made = chain_kit.build([(place, value, script)], [(10_000_000, funding_script), (value - 10_001_000, script)])
    assert (await chain.publish((made.raw,))).verdict is Verdict.ACCEPTED
    await chain.mine(1, chain_kit.LOCKED)
    height = (await chain.tip()).height
    htlcs = (
        htlc(0, True, sat=50_000, expiry=height + 5),
        htlc(0, False, sat=60_000, expiry=height + 30, known=True),
        htlc(1, True, sat=300),
    )
    s = scene(htlcs=htlcs, revoked=htlcs, tip=height, funding=Outpoint(txid=made.txid, index=0))
    play = Play(chain, chain_kit, s, coins)
    if which == "ours":
        s.tell_force()
        await play.perform()
    else:
        built = s.theirs if which == "theirs" else s.old
        await play.with_child(s.whole(built), built.anchor_index)
    blocks = 0
    while not s.close.resolved:
        await play.block()
        blocks += 1
        assert blocks < 40
    assert sorted(s.close.failed) == [0, 1]
    payout = payout_script(s.context.keys.payment_basepoint)
    paid = [tx.parse(each.transaction).outputs[0] for each in s.effects if isinstance(each, Publish)]
    assert {each.script for each in paid} == {payout}
    assert blocks <= {"ours": 24, "theirs": 13, "revoked": 9}[which]


async def test_nothing_is_ordered_a_block_too_late(
    scene: Any, htlc: Any, funding_script: bytes, chain_kit: Any, chain: KernelChain
) -> None:
    """One block earlier, the same claims are not final: the mempool refuses them."""
    coins = await chain_kit.funded(chain, 4)
    place, value, script = coins.pop()
    made = chain_kit.build([(place, value, script)], [(10_000_000, funding_script), (value - 10_001_000, script)])
    assert (await chain.publish((made.raw,))).verdict is Verdict.ACCEPTED
    await chain.mine(1, chain_kit.LOCKED)
    height = (await chain.tip()).height
    s = scene(htlcs=(htlc(0, True, expiry=height + 5),), tip=height, funding=Outpoint(txid=made.txid, index=0))
    play = Play(chain, chain_kit, s, coins)
    await play.with_child(s.whole(s.theirs), s.theirs.anchor_index)
    for _ in range(4):
        await play.block()
    assert s.tip == height + 4
    early = s.close
    s.tip += 1
    s.tell(OutputSpent(outpoint=s.funding, transaction=early.transaction, height=BlockHeight(height + 1)))
    s.tell_tip(s.tip)
    claim = next(each.transaction for each in s.effects if isinstance(each, Publish))
    assert (await chain.publish((claim,))).verdict is Verdict.REFUSED
    await chain.mine(1, chain_kit.LOCKED)
    assert (await chain.publish((claim,))).verdict is Verdict.ACCEPTED
