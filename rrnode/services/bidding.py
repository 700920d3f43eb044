"""Claims of breaches, as things stand now: published, raised, and bid for against rivals (DESIGN 7).

The chain is asked each time; remembered is only what keeps bids apart: once a block for each output, since a war within a
block would feed nobody but miners.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog
import trio

from protocols.errors import DecodeError
from protocols.ids import Txid
from protocols.onchain.scripts import dust_threshold
from protocols.units import BlockHeight, FeeRate, Sat, fee_for
from protocols.watch.bounty import BountyClaim, NoClaim, assemble, assemble_child
from protocols.watch.hunt import MOST_OUTPUTS, Case
from protocols.watch.pairs import Pair
from rrnode.chain.base import ChainBackend, Verdict
from rrnode.chain.fees import FeePolicy
from rrnode.chain.outgoing import split
from rrnode.chain.parse import Tx, outpoint, parse_transaction
from rrnode.chain.verify import check_transaction
from rrnode.control.text import txid_text

log = structlog.get_logger(__name__)

ASK_WITHIN = 2  # blocks: others hunt the same
MOST_REMEMBERED = 10_000  # bids; a forgotten one may be repeated a block early
MOST_TRIES = 16  # bids on one thing in one look, each at twice the fee: from the relay floor to 10 million sat

_PAYS_TOO_LITTLE = ("fee", "replace")  # in what Bitcoin Core says of it: "insufficient fee", "mempool min fee not met"

Claim = tuple[Txid, Sat]  # published last, and its fee
Note = Callable[[Txid, Txid], Awaitable[None]]  # of a case: this claim is about to leave


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """A transaction in the mempool that spends outputs of a breach; ours, too.

    Attributes:
        carried: fee of it and of what spends its outputs, all of which goes with it.
    """

    fee: Sat
    vbytes: int
    carried: Sat
    ours: bool


class Bidder:
    """Publishes claims. Every method may raise ChainUnavailable.

    Args:
        note: told of each claim before it leaves: by that alone it is known to be ours later.
    """

    def __init__(self, backend: ChainBackend, policy: FeePolicy, note: Note) -> None:
        self._backend, self._policy, self._note = backend, policy, note
        self._began: dict[Txid, BlockHeight] = {}  # when a case was first bid for
        self._raised: dict[tuple[Txid, int], BlockHeight] = {}  # when something that stood was last replaced

    async def pursue(self, case: Case, spenders: Mapping[bytes, Txid], tip: BlockHeight) -> Claim | None:
        """Do what is to be done for a case now; gives the claim if one left.

        Args:
            spenders: who spends which output in the mempool.
        """
        pairs = case.open_pairs
        if not pairs or (case.height is None and await self._backend.mempool_transaction(case.txid) is None):
            return None
        rate = await self._rate(case, pairs, tip)
        standing = await self._standing(case, spenders)
        if case.height is None:
            # BIP 431: one child at most, whichever output it spends; ours must drive it out.
            return await self._bid(case, pairs, rate, tuple(standing.values()), tip)
        left: Claim | None = None
        by: dict[Txid | None, list[Pair]] = {}
        for pair in pairs:
            by.setdefault(spenders.get(outpoint(case.txid, pair.index)), []).append(pair)
        for spender, group in by.items():
            if spender is not None and spender not in standing:
                continue  # gone this moment; the next look sees it
            replaced = () if spender is None else (standing[spender],)
            left = await self._bid(case, group, rate, replaced, tip) or left
        return left

    async def _rate(self, case: Case, pairs: Sequence[Pair], tip: BlockHeight) -> FeeRate:
        """The estimate, and more with every block that did not take the claim, as far as half of the bounties reach."""
        while len(self._began) > MOST_REMEMBERED:
            del self._began[next(iter(self._began))]
        waited = tip - self._began.setdefault(case.txid, tip)
        estimate = max(await self._backend.feerate(ASK_WITHIN), self._policy.floor)
        hurried = self._policy.feerate(estimate, self._policy.hurry - waited)
        claims = assemble(pairs, case.script, self._policy.floor)
        if isinstance(claims, NoClaim):
            return estimate
        bounties, vbytes = sum(pair.bounty for pair in pairs), sum(claim.vbytes for claim in claims)
        return max(estimate, min(hurried, FeeRate(bounties * 1000 // (2 * vbytes))))

    async def _standing(self, case: Case, spenders: Mapping[bytes, Txid]) -> dict[Txid, _Standing]:
        there = {spenders[place] for place in case.places if place in spenders}
        found, outputs = {}, list[bytes]()
        for txid, raw in (await self._backend.mempool_transactions(list(there))).items():
            tx = _parsed(raw)
            fee = None if tx is None else await self._fee(case, tx)
            if tx is None or fee is None:
                continue
            found[txid] = _Standing(fee=fee, vbytes=tx.vsize, carried=fee, ours=txid in case.claims)
            outputs += (outpoint(txid, index) for index in range(min(len(tx.outputs), MOST_OUTPUTS)))
        await self._add_children(case, found, outputs)
        return found

    async def _add_children(self, case: Case, found: dict[Txid, _Standing], outputs: list[bytes]) -> None:
        """What spends these outputs of what was found is driven out with it, so its fees must be outbid too (BIP 125,
        rule 3). A claim, being version 3, has one child at most (BIP 431); more are left to `_bid`, which asks and sees."""
        children = await self._backend.mempool_spenders(outputs) if outputs else {}
        parents = {child: Txid(place[:32]) for place, child in children.items() if child not in found}
        for txid, raw in (await self._backend.mempool_transactions(list(parents))).items():
            tx = _parsed(raw)
            fee = None if tx is None else await self._fee(case, tx)
            if fee is not None:
                parent = found[parents[txid]]
                found[parents[txid]] = replace(parent, carried=Sat(parent.carried + fee))

    async def _fee(self, case: Case, tx: Tx) -> Sat | None:
        """Of a transaction in the mempool; None when something that it spends is not there any more."""
        total = -sum(each.value for each in tx.outputs)
        for place in tx.prevouts:
            value = await self._value(case, place)
            if value is None:
                return None
            total += value
        return Sat(total)

    async def _value(self, case: Case, place: bytes) -> Sat | None:
        """Of an output of the breach, the chain or the mempool: a cheat may well spend from what is in no block yet."""
        txid, index = split(place)
        if txid != case.txid and (state := await self._backend.confirmed_output(txid, index)) is not None:
            return state.value
        raw = case.breach if txid == case.txid else await self._backend.mempool_transaction(txid)
        parent = None if raw is None else _parsed(raw)
        return parent.outputs[index].value if parent is not None and index < len(parent.outputs) else None

    async def _bid(
        self, case: Case, pairs: Sequence[Pair], rate: FeeRate, replaced: Sequence[_Standing], tip: BlockHeight
    ) -> Claim | None:
        """Claim these pairs, which nobody spends, or those that do (`replaced`) can be driven out."""
        key = case.txid, min(pair.index for pair in pairs)
        if replaced and self._raised.get(key) == tip:
            return None
        claims = self._assembled(case, pairs, rate, Sat(0))
        if replaced and claims:
            old_fee, old_vbytes = Sat(sum(each.carried for each in replaced)), sum(each.vbytes for each in replaced)
            fee, vbytes = Sat(sum(each.fee for each in claims)), sum(each.vbytes for each in claims)
            if all(each.ours for each in replaced):
                if not self._policy.worth_replacing(old_fee, old_vbytes, fee, vbytes):
                    return None
            else:
                # Each of what comes must pay more for its bytes than what goes, and more in sum (BIP 125, rules 3 and 4).
                least = max(
                    old_fee + fee_for(vbytes, self._policy.floor),
                    max(each.fee * vbytes // each.vbytes for each in replaced) + 1,
                )
                if fee < least:
                    claims = self._assembled(case, pairs, rate, Sat(least))
        left = await self._offer(case, pairs, rate, claims)
        if left is not None and replaced:
            while len(self._raised) > MOST_REMEMBERED:
                del self._raised[next(iter(self._raised))]
            self._raised[key] = tip
        return left

    async def _offer(
        self, case: Case, pairs: Sequence[Pair], rate: FeeRate, claims: tuple[BountyClaim, ...]
    ) -> Claim | None:
        """Publish these. Where none is taken because it pays too little, the mempool knows of more than we do (a minimum of
        its own, descendants that we did not see): twice as much, as far as the bounties reach."""
        for _ in range(MOST_TRIES):
            left: Claim | None = None
            too_low = False
            for claim in claims:
                refused = await self._publish(case, claim)
                if refused is None:
                    left = _txid(claim.raw), claim.fee
                too_low = too_low or (refused is not None and any(word in refused for word in _PAYS_TOO_LITTLE))
            if left is not None or not too_low:
                return left
            least = min(min(2 * each.fee, each.fee + each.reward - dust_threshold(case.script)) for each in claims)
            if least <= max(each.fee for each in claims):
                return None
            claims = self._assembled(case, pairs, rate, Sat(least))
        return None

    def _assembled(self, case: Case, pairs: Sequence[Pair], rate: FeeRate, least: Sat) -> tuple[BountyClaim, ...]:
        """Claims at this feerate, or at the highest below it that leaves something."""
        while True:
            made: tuple[BountyClaim, ...] | BountyClaim | NoClaim
            if case.height is None:
                made = assemble_child(case.breach, pairs, case.script, rate, least_fee=least)
            else:
                made = assemble(pairs, case.script, rate, least_fee=least)
            if isinstance(made, BountyClaim):
                return (made,)
            if not isinstance(made, NoClaim):
                return made
            if rate <= self._policy.floor:
                return ()
            rate = max(FeeRate(rate // 2), self._policy.floor)

    async def _publish(self, case: Case, claim: BountyClaim) -> str | None:
        """Why it did not leave, None when it did. What libbitcoinkernel refuses does not leave."""
        txid = _txid(claim.raw)
        where = {"breach": txid_text(case.txid), "claim": txid_text(txid)}
        problem = await trio.to_thread.run_sync(check_transaction, claim.raw, claim.spent)
        if problem is not None:
            log.error("claim.invalid", reason=problem, **where)
            return problem
        await self._note(case.txid, txid)
        result = await self._backend.publish((claim.raw,))
        if result.verdict is Verdict.REFUSED:
            log.info("claim.refused", reason=result.reason, fee_sat=claim.fee, **where)
            return result.reason
        log.warning("claim.published", fee_sat=claim.fee, reward_sat=claim.reward, **where)
        return None


def _parsed(raw: bytes) -> Tx | None:
    try:
        return parse_transaction(raw)
    except DecodeError:
        return None


def _txid(raw: bytes) -> Txid:
    return parse_transaction(raw).txid
