"""Claims on an embedded regtest: what its mempool (version 3, ephemeral dust, replacement as in Bitcoin Core) takes and refuses."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from protocols.onchain import tx
from protocols.onchain.coins import FeeCoin
from protocols.onchain.funding import funding_output_script
from protocols.units import FeeRate, Sat
from protocols.watch.bounty import BountyClaim, assemble, assemble_child
from rrnode.chain.base import Verdict
from rrnode.chain.kernel import KernelChain

HTLCS = ((True, 400_000, 500), (False, 500_000, 700_000))
RATE = FeeRate(4_000)


@pytest.fixture
async def chain(tmp_path: Any) -> AsyncIterator[KernelChain]:
    made = KernelChain(tmp_path / "regtest")
    async with made.running():
        yield made


async def funded_breach(chain: KernelChain, kit: Any, breaches: Any, coin: Any, number: int = 6) -> Any:
    """A channel whose funding is in a block, and a revoked state of it."""
    script = funding_output_script(breaches.ALICE.points, breaches.BOB.points)
    made = kit.build([coin], [(10_000_000, script), (coin[1] - 10_001_000, kit.OPEN)])
    assert (await chain.publish((made.raw,))).verdict is Verdict.ACCEPTED
    await chain.mine(1, kit.LOCKED)
    return breaches.Breach(htlcs=HTLCS, funding=(made.txid, 0), number=number)


def cheats_child(kit: Any, breach: Any, coin: Any, fee: int) -> bytes:
    anchor = breach.built.anchor_index
    output = breach.parsed.outputs[anchor]
    place = (tx.outpoint(breach.txid, anchor), output.value, output.script)
    return kit.pay([place, coin], fee, version=3).raw  # type: ignore[no-any-return]


async def test_unconfirmed_breach_is_taken_over_from_the_cheats_child_and_from_a_rival(
    chain: KernelChain, chain_kit: Any, breaches: Any
) -> None:
    *coins, last = await chain_kit.funded(chain, 3)
    breach = await funded_breach(chain, chain_kit, breaches, last)
    assert (
        await chain.publish((breach.raw, cheats_child(chain_kit, breach, coins[0], 500)))
    ).verdict is Verdict.ACCEPTED

    cheap = assemble_child(breach.raw, breach.pairs(), breaches.HUNTER, FeeRate(1_000))
    claim = assemble_child(breach.raw, breach.pairs(), breaches.HUNTER, RATE)
    rival = assemble_child(breach.raw, breach.pairs(), b"\x00\x14" + bytes(20), FeeRate(6_000))
    assert isinstance(cheap, BountyClaim)
    assert isinstance(claim, BountyClaim)
    assert isinstance(rival, BountyClaim)
    assert (await chain.publish((cheap.raw,))).verdict is Verdict.REFUSED  # does not outbid the cheat's child
    assert (await chain.publish((without_anchor(claim),))).verdict is Verdict.REFUSED
    assert (await chain.publish((claim.raw,))).verdict is Verdict.ACCEPTED
    assert (await chain.publish((rival.raw,))).verdict is Verdict.ACCEPTED
    assert (await chain.publish((claim.raw,))).verdict is Verdict.REFUSED
    assert await mined(chain, chain_kit) == [breach.txid, tx.txid_of(rival.raw)]


async def test_breach_that_this_node_has_not_seen_goes_out_together_with_its_claim(
    chain: KernelChain, chain_kit: Any, breaches: Any
) -> None:
    (last,) = await chain_kit.funded(chain, 1)
    breach = await funded_breach(chain, chain_kit, breaches, last)
    claim = assemble_child(breach.raw, breach.pairs(), breaches.HUNTER, RATE)
    assert isinstance(claim, BountyClaim)
    assert (await chain.publish((breach.raw, without_anchor(claim)))).verdict is Verdict.REFUSED
    assert (await chain.publish((breach.raw, claim.raw))).verdict is Verdict.ACCEPTED
    assert await mined(chain, chain_kit) == [breach.txid, tx.txid_of(claim.raw)]


async def test_hunter_pays_with_a_coin_where_the_bounty_does_not_reach(
    chain: KernelChain, chain_kit: Any, breaches: Any
) -> None:
    (last,) = await chain_kit.funded(chain, 1)
    breach = await funded_breach(chain, chain_kit, breaches, last)
    source = chain_kit.build([coin_of(breach, last, chain_kit)], [(90_000, breaches.COIN_SCRIPT)])
    assert (await chain.publish((source.raw,))).verdict is Verdict.ACCEPTED
    await chain.mine(1, chain_kit.LOCKED)
    coin = FeeCoin(txid=source.txid, index=0, value=Sat(90_000), script=breaches.COIN_SCRIPT)
    pair = min(breach.pairs(), key=lambda each: each.bounty)
    rate = FeeRate(20_000)
    claim = assemble_child(breach.raw, [pair], breaches.HUNTER, rate, coins=(coin,), least_reward=Sat(-90_000))
    assert isinstance(claim, BountyClaim)
    assert claim.coins == (coin,)
    signed = breaches.signed(claim)
    assert (await chain.publish((breach.raw, signed))).verdict is Verdict.ACCEPTED
    assert await mined(chain, chain_kit) == [breach.txid, tx.txid_of(signed)]


async def test_several_confirmed_breaches_are_claimed_in_one_transaction_that_a_rival_may_outbid(
    chain: KernelChain, chain_kit: Any, breaches: Any
) -> None:
    coins = await chain_kit.funded(chain, 4)
    found = [await funded_breach(chain, chain_kit, breaches, coins.pop(), number) for number in (3, 4)]
    for breach in found:
        child = cheats_child(chain_kit, breach, coins.pop(), 2_000)
        assert (await chain.publish((breach.raw, child))).verdict is Verdict.ACCEPTED
    await chain.mine(1, chain_kit.LOCKED)
    pairs = [pair for breach in found for pair in breach.pairs()]
    (claim,) = assemble(pairs, breaches.HUNTER, RATE)
    (rival,) = assemble(pairs, b"\x00\x14" + bytes(20), RATE, least_fee=Sat(claim.fee + claim.vbytes))
    assert len(claim.pairs) == 6
    assert (await chain.publish((claim.raw,))).verdict is Verdict.ACCEPTED
    assert (await chain.publish((rival.raw,))).verdict is Verdict.ACCEPTED
    assert await mined(chain, chain_kit) == [tx.txid_of(rival.raw)]


def without_anchor(claim: BountyClaim) -> bytes:
    """The claim with its anchor left unspent; what it was worth is missing from the fee."""
    parsed = tx.parse(claim.raw)
    return replace(parsed, inputs=parsed.inputs[: len(claim.pairs)]).serialize()


def coin_of(breach: Any, funding_coin: Any, kit: Any) -> Any:
    """The change of the transaction that funded the channel."""
    return (tx.outpoint(breach.funding[0], 1), funding_coin[1] - 10_001_000, kit.OPEN)


async def mined(chain: KernelChain, kit: Any) -> list[bytes]:
    """What the next block holds."""
    (block_hash,) = await chain.mine(1, kit.LOCKED)
    return [each.txid for each in kit.parse_block(await chain.block(block_hash)).transactions[1:]]
