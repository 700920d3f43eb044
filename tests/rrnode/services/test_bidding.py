"""Bids on an embedded regtest: claims are raised, rivals outbid once a block, and never below what leaves something."""

import importlib.util
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from protocols.ids import Txid
from protocols.onchain import tx
from protocols.onchain.funding import funding_output_script
from protocols.units import BlockHeight, FeeRate, Sat, UnixTime
from protocols.watch import hunt, pairs
from protocols.watch.bounty import BountyClaim, assemble, assemble_child
from protocols.watch.hunt import Case
from protocols.watch.pairs import LOCKTIME, SEQUENCE
from rrnode.chain.base import PublishResult, Verdict
from rrnode.chain.fees import FeePolicy
from rrnode.chain.kernel import KernelChain
from rrnode.chain.parse import outpoint
from rrnode.services.bidding import MOST_TRIES, Bidder

TESTS = Path(__file__).parents[2]
OTHER = b"\x00\x14" + b"\x66" * 20
HTLCS = ((True, 400_000, 500), (False, 500_000, 700_000))


def loaded(name: str, path: Path) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


CHAIN = loaded("chain_kit", TESTS / "rrnode" / "chain" / "chain_kit.py")
BREACH = loaded("breach_kit", TESTS / "protocols" / "watch" / "breach_kit.py")


class Scene:
    """A breach on a chain, and a hunter of it."""

    def __init__(self, chain: KernelChain, breach: Any, child: bytes) -> None:
        self.chain, self.breach, self.child = chain, breach, child
        self.bidder = Bidder(chain, FeePolicy(), self.note)
        made = breach.remedy()
        assert made is not None
        self.case = Case(
            txid=breach.txid,
            breach=breach.raw,
            pairs=pairs.check(made, breach.parsed),
            script=BREACH.HUNTER,
            first_seen=UnixTime(1),
            opened_at=BlockHeight(1),
        )

    async def note(self, txid: Txid, claim: Txid) -> None:
        assert txid == self.case.txid
        self.case = hunt.claimed(self.case, claim)

    async def confirm(self) -> None:
        assert (await self.chain.publish((self.breach.raw, self.child))).verdict is Verdict.ACCEPTED
        await self.chain.mine(1, CHAIN.LOCKED)
        self.case = replace(self.case, height=(await self.chain.tip()).height)

    async def pursue(self, later: int = 0) -> Any:
        """One look; `later`: as if so many blocks had passed."""
        spenders = await self.chain.mempool_spenders(list(self.case.places))
        tip = (await self.chain.tip()).height
        return await self.bidder.pursue(self.case, spenders, BlockHeight(tip + later))

    async def spenders(self) -> set[Txid]:
        return set(
            (await self.chain.mempool_spenders([outpoint(self.case.txid, p.index) for p in self.case.pairs])).values()
        )


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    chain = KernelChain(tmp_path / "regtest")
    async with chain.running():
        coin, last = await CHAIN.funded(chain, 2)
        script = funding_output_script(BREACH.ALICE.points, BREACH.BOB.points)
        made = CHAIN.build([last], [(10_000_000, script), (last[1] - 10_001_000, CHAIN.OPEN)])
        assert (await chain.publish((made.raw,))).verdict is Verdict.ACCEPTED
        await chain.mine(1, CHAIN.LOCKED)
        breach = BREACH.Breach(htlcs=HTLCS, funding=(made.txid, 0))
        anchor = breach.built.anchor_index
        output = breach.parsed.outputs[anchor]
        child = CHAIN.pay([(outpoint(breach.txid, anchor), output.value, output.script), coin], 500, version=3)
        yield Scene(chain, breach, child.raw)


async def test_claim_takes_every_pair_and_stands_until_there_is_a_reason(scene: Scene) -> None:
    await scene.confirm()
    claim, fee = await scene.pursue()
    assert await scene.spenders() == {claim}
    assert fee > 0
    assert await scene.pursue() is None


async def test_claim_that_no_block_takes_pays_more_with_each(scene: Scene) -> None:
    await scene.confirm()
    _, fee = await scene.pursue()
    dearer, raised = await scene.pursue(later=6)
    assert raised >= 2 * fee
    assert await scene.spenders() == {dearer}
    total = sum(pair.bounty for pair in scene.case.pairs)
    for later in range(7, 40):
        found = await scene.pursue(later=later)
        raised = raised if found is None else found[1]
    assert raised <= total // 2 + 1


async def test_rival_is_outbid_once_a_block(scene: Scene) -> None:
    await scene.confirm()
    (rival,) = assemble(scene.case.pairs, OTHER, FeeRate(5_000))
    assert (await scene.chain.publish((rival.raw,))).verdict is Verdict.ACCEPTED
    claim, fee = await scene.pursue()
    assert fee > rival.fee
    assert await scene.spenders() == {claim}
    (dearer,) = assemble(scene.case.pairs, OTHER, FeeRate(5_000), least_fee=Sat(2 * fee))
    assert (await scene.chain.publish((dearer.raw,))).verdict is Verdict.ACCEPTED
    assert await scene.pursue() is None
    again, higher = await scene.pursue(later=1)
    assert higher > 2 * fee
    assert await scene.spenders() == {again}


async def test_rival_who_pays_our_address_is_outbid_like_any_other(scene: Scene) -> None:
    await scene.confirm()
    (rival,) = assemble(scene.case.pairs, scene.case.script, FeeRate(5_000))
    assert (await scene.chain.publish((rival.raw,))).verdict is Verdict.ACCEPTED
    claim, fee = await scene.pursue()
    assert fee > rival.fee
    assert await scene.spenders() == {claim}


async def test_rival_is_outbid_together_with_what_hangs_on_it(scene: Scene) -> None:
    await scene.confirm()
    (rival,) = assemble(scene.case.pairs, CHAIN.OPEN, FeeRate(1_000))
    assert (await scene.chain.publish((rival.raw,))).verdict is Verdict.ACCEPTED
    place = outpoint(CHAIN.parse_transaction(rival.raw).txid, len(scene.case.pairs))
    child = CHAIN.pay([(place, rival.reward, CHAIN.OPEN)], 20_000, version=3)
    assert (await scene.chain.publish((child.raw,))).verdict is Verdict.ACCEPTED
    claim, fee = await scene.pursue()
    assert fee > rival.fee + 20_000
    assert await scene.spenders() == {claim} == set(scene.case.claims)  # the first bid was enough


class Picky:
    """A chain whose mempool asks for more than it says, or refuses for another reason."""

    def __init__(self, chain: KernelChain, least: int, reason: str) -> None:
        self._chain, self._least, self._reason = chain, least, reason
        self.offered: list[int] = []
        self.spent: dict[bytes, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    async def publish(self, transactions: tuple[bytes, ...]) -> PublishResult:
        claim = CHAIN.parse_transaction(transactions[-1])
        fee = sum(self.spent[place] for place in claim.prevouts) - sum(each.value for each in claim.outputs)
        self.offered.append(fee)
        if fee < self._least:
            return PublishResult(verdict=Verdict.REFUSED, reason=self._reason)
        return await self._chain.publish(transactions)


def picky(scene: Scene, least: int, reason: str) -> Picky:
    made = Picky(scene.chain, least, reason)
    made.spent = {outpoint(pair.txid, pair.index): pair.spent.value for pair in scene.case.pairs}
    scene.bidder = Bidder(made, FeePolicy(), scene.note)  # type: ignore[arg-type]
    return made


async def test_claim_that_is_refused_for_its_fee_is_offered_for_more(scene: Scene) -> None:
    await scene.confirm()
    chain = picky(scene, 5_000, "mempool min fee not met, 400 < 5000")
    claim, fee = await scene.pursue()
    assert 5_000 <= fee < 10_000
    assert chain.offered == [fee // 2**tries for tries in reversed(range(len(chain.offered)))]
    assert await scene.spenders() == {claim}


async def test_offers_end_with_the_bounties(scene: Scene) -> None:
    await scene.confirm()
    chain = picky(scene, 10_000_000, "insufficient fee, rejecting replacement")
    assert await scene.pursue() is None
    bounties = sum(pair.bounty for pair in scene.case.pairs)
    assert chain.offered == sorted(set(chain.offered))
    assert chain.offered[-1] == bounties - 294
    assert len(chain.offered) <= MOST_TRIES


async def test_claim_that_is_refused_for_something_else_is_not_offered_again(scene: Scene) -> None:
    await scene.confirm()
    chain = picky(scene, 10_000_000, "bad-txns-inputs-missingorspent")
    assert await scene.pursue() is None
    assert len(chain.offered) == 1


async def test_claim_is_noted_before_it_leaves(scene: Scene) -> None:
    await scene.confirm()
    chain = picky(scene, 10_000_000, "something")
    await scene.pursue()
    assert len(chain.offered) == len(scene.case.claims) == 1


async def test_claim_that_a_rival_has_padded_may_stand_until_a_block_takes_it(scene: Scene) -> None:
    """What `protocols/README.md` says is not covered: it pays too little to be mined soon, and too much to be replaced."""
    await scene.confirm()
    ((place, value, _),) = await CHAIN.funded(scene.chain, 1)
    pairs, bounties = scene.case.pairs, sum(pair.bounty for pair in scene.case.pairs)
    inputs = [tx.TxInput(each.txid, each.index, SEQUENCE, each.witness) for each in pairs]
    inputs.append(tx.TxInput(Txid(place[:32]), place[32], SEQUENCE, (CHAIN.OPEN_SCRIPT,)))
    padding = [tx.TxOutput(Sat(330), CHAIN.OPEN)] * 200
    change = tx.TxOutput(Sat(value - 200 * 330), CHAIN.OPEN)  # so that all the bounties are the fee
    padded = tx.Tx(3, tuple(inputs), (*(each.paid for each in pairs), *padding, change), LOCKTIME)
    assert (await scene.chain.publish((padded.serialize(),))).verdict is Verdict.ACCEPTED
    vbytes = CHAIN.parse_transaction(padded.serialize()).vsize
    assert 9_000 < vbytes <= 10_000
    assert await scene.pursue() is None
    assert await scene.spenders() == {padded.txid()}
    (claim,) = assemble(
        pairs, OTHER, FeeRate(20_000)
    )  # a claim of ordinary size would leave something at twice its feerate
    assert bounties < 20 * vbytes
    assert claim.reward > 0


async def test_rival_that_leaves_nothing_is_left_alone_and_the_rest_is_claimed(scene: Scene) -> None:
    await scene.confirm()
    greedy = max(scene.case.pairs, key=lambda pair: pair.bounty)
    (rival,) = assemble([greedy], OTHER, FeeRate(1_000), least_fee=Sat(greedy.bounty - 400))
    assert (await scene.chain.publish((rival.raw,))).verdict is Verdict.ACCEPTED
    claim, _ = await scene.pursue()
    assert await scene.spenders() == {claim, CHAIN.parse_transaction(rival.raw).txid}


async def test_unconfirmed_breach_is_taken_over_from_the_cheats_child(scene: Scene) -> None:
    assert await scene.pursue() is None  # not in this mempool
    assert (await scene.chain.publish((scene.breach.raw, scene.child))).verdict is Verdict.ACCEPTED
    claim, fee = await scene.pursue()
    assert fee > 500
    assert await scene.spenders() == {claim}
    rival = assemble_child(scene.case.breach, scene.case.pairs, OTHER, FeeRate(1_000), least_fee=Sat(2 * fee))
    assert isinstance(rival, BountyClaim)
    assert (await scene.chain.publish((rival.raw,))).verdict is Verdict.ACCEPTED
    assert await scene.pursue() is None
    again, _ = await scene.pursue(later=1)
    assert await scene.spenders() == {again}
