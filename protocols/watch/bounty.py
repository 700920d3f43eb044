"""A hunter's claims: remedies' pairs put together with an output of the hunter's own.

Source: DESIGN 7 ("Form of a claim"), BIP 431. Pairs come first, each with its output in the same place, which is all that their
signatures fix; then the anchor and coins for fees; the hunter's output is the last. Whoever replaces a claim by paying more
changes nothing for what the victims are paid, but may change when: inputs and outputs may be added to any claim, so a rival
can pad one to 10,000 virtual bytes whose fee is high in sum and low per byte. What replaces it must pay more in sum (BIP 125,
rule 3); above the bounties no hunter can, and the padded one may wait in mempools until the cheat's delay is over. BIP 431
bounds what the padding must cost the rival and prevents nothing; the victim itself can pay more, with the outputs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from protocols.errors import MisuseError
from protocols.ids import Txid
from protocols.onchain import scripts, tx
from protocols.onchain.coins import FeeCoin
from protocols.onchain.commitment import VERSION
from protocols.onchain.tx import Tx, TxInput, TxOutput
from protocols.onchain.weights import (
    ANCHOR_INPUT_WEIGHT,
    CLAIM_BASE_WEIGHT,
    FEE_INPUT_WEIGHT,
    MAX_STANDARD_V3_CHILD_WEIGHT,
    MAX_STANDARD_V3_WEIGHT,
)
from protocols.units import FeeRate, Sat, fee_for, weight_to_vbytes
from protocols.watch.pairs import LOCKTIME, SEQUENCE, Pair

_NO_FLOOR, _ANY_GAIN = Sat(0), Sat(1)
_ANY_SCRIPT = scripts.p2wsh(b"")  # as large as any that a wallet has


class NoClaim(Enum):
    """Why nothing is claimed. The value is a sentence for people."""

    NO_PAIRS = "no pair that can be claimed is at hand"
    FEE_TOO_HIGH = "after the fee the hunter would have nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class BountyClaim:
    """A claim whose pairs are signed and whose coins are not yet (SIGHASH_ALL, as the wallet does it).

    Attributes:
        raw: with witnesses, those of `coins` empty.
        spent: value and script of every input's output, in their order.
        fee: what it pays; on an unconfirmed breach for both transactions.
        vbytes: what it takes, once signed.
        reward: what the hunter has more than before.
    """

    raw: bytes
    spent: tuple[tuple[Sat, bytes], ...]
    pairs: tuple[Pair, ...]
    coins: tuple[FeeCoin, ...]
    fee: Sat
    vbytes: int
    reward: Sat


def assemble(
    pairs: Iterable[Pair], script: bytes, feerate: FeeRate, *, least_fee: Sat = _NO_FLOOR
) -> tuple[BountyClaim, ...] | NoClaim:
    """Claims of confirmed outputs, of one breach or several, each at most 10,000 virtual bytes (BIP 431).

    Of several pairs for one output the one with the larger bounty is taken. A pair whose bounty does not pay for its own
    room is left for a cheaper day. One output that somebody else spends first makes the whole claim void: assemble it anew
    without that one. Claims apart from each other can only be held up apart.

    Args:
        pairs: of confirmed and unspent outputs (`pairs.check`).
        script: the hunter's.
        least_fee: what each claim pays at least: more than a claim that it shall replace.
    """
    waiting = _worth_it(pairs, feerate)
    if isinstance(waiting, NoClaim):
        return waiting
    claims, room = [], MAX_STANDARD_V3_WEIGHT - _fixed_weight(script)
    while taken := _fitting(waiting, room):
        waiting = waiting[len(taken) :]
        claim = _claim(taken, script, feerate, least_fee=least_fee)
        if claim is not None:
            claims.append(claim)
    return tuple(claims) or NoClaim.FEE_TOO_HIGH


def worth(pairs: Iterable[Pair], feerate: FeeRate) -> Sat:
    """What claims of these pairs, once confirmed, would leave for a hunter; 0 when they do not pay for their own room."""
    claims = assemble(pairs, _ANY_SCRIPT, feerate)
    return Sat(0 if isinstance(claims, NoClaim) else sum(claim.reward for claim in claims))


def assemble_child(
    breach: bytes,
    pairs: Iterable[Pair],
    script: bytes,
    feerate: FeeRate,
    *,
    coins: Sequence[FeeCoin] = (),
    least_fee: Sat = _NO_FLOOR,
    least_reward: Sat = _ANY_GAIN,
) -> BountyClaim | NoClaim:
    """The one claim of outputs of an unconfirmed breach that may be published with it: at most 1,000 virtual bytes, and it
    spends the anchor too (BIP 431; a parent without fee may leave no dust behind). What finds no room follows after
    confirmation.

    Args:
        breach: the whole commitment transaction.
        pairs: of its outputs.
        feerate: of breach and claim together; the breach is taken to pay nothing.
        coins: confirmed ones, used as far as the bounties alone leave no output worth having, the first first.
        least_fee: as for `assemble`: more than the child of the breach that it shall replace.
        least_reward: below it there is no claim; negative for a hunter who pays in advance for what follows.

    Raises:
        DecodeError: the breach is no transaction.
        MisuseError: a pair of another transaction.
    """
    parent = tx.parse(breach)
    txid = parent.txid()
    waiting = _worth_it(pairs, feerate)
    if isinstance(waiting, NoClaim):
        return waiting
    if any(each.txid != txid for each in waiting):
        raise MisuseError("pairs of another transaction in the claim of an unconfirmed breach")
    anchor = next((index for index, each in enumerate(parent.outputs) if each.script == scripts.ANCHOR_SCRIPT), None)
    for count in range(len(coins) + 1):
        fixed = _fixed_weight(script, anchor=anchor is not None, coins=count)
        taken = _fitting(waiting, MAX_STANDARD_V3_CHILD_WEIGHT - fixed)
        if not taken:
            break
        claim = _claim(
            taken,
            script,
            feerate,
            least_fee=least_fee,
            anchor=None if anchor is None else (txid, anchor, parent.outputs[anchor]),
            coins=tuple(coins[:count]),
            parent_vbytes=weight_to_vbytes(tx.weight(breach)),
        )
        if claim is not None:
            return claim if claim.reward >= least_reward else NoClaim.FEE_TOO_HIGH
    return NoClaim.FEE_TOO_HIGH


def _worth_it(pairs: Iterable[Pair], feerate: FeeRate) -> list[Pair] | NoClaim:
    """One pair per output, the largest bounty first, without those that cost more room than they bring."""
    best: dict[tuple[bytes, int], Pair] = {}
    for pair in pairs:
        place = pair.txid, pair.index
        if place not in best or best[place].bounty < pair.bounty:
            best[place] = pair
    if not best:
        return NoClaim.NO_PAIRS
    worth = [each for each in best.values() if each.bounty > fee_for(weight_to_vbytes(_weight(each)), feerate)]
    worth.sort(key=lambda each: (-each.bounty, each.txid, each.index))
    return worth or NoClaim.FEE_TOO_HIGH


def _fitting(pairs: list[Pair], room: int) -> tuple[Pair, ...]:
    """As many of the first as fit into so much weight."""
    taken = []
    for pair in pairs:
        room -= _weight(pair)
        if room < 0:
            break
        taken.append(pair)
    return tuple(taken)


def _weight(pair: Pair) -> int:
    witness = 1 + sum(len(tx.varint(len(item))) + len(item) for item in pair.witness)
    return 4 * 41 + witness + 4 * _output_size(pair.paid.script)


def _output_size(script: bytes) -> int:
    return 8 + len(tx.varint(len(script))) + len(script)


def _fixed_weight(script: bytes, *, anchor: bool = False, coins: int = 0) -> int:
    """Weight of a claim without its pairs."""
    added = ANCHOR_INPUT_WEIGHT * anchor + FEE_INPUT_WEIGHT * coins
    return CLAIM_BASE_WEIGHT + added + 4 * _output_size(script)


def _claim(
    pairs: tuple[Pair, ...],
    script: bytes,
    feerate: FeeRate,
    *,
    least_fee: Sat,
    anchor: tuple[Txid, int, TxOutput] | None = None,
    coins: tuple[FeeCoin, ...] = (),
    parent_vbytes: int = 0,
) -> BountyClaim | None:
    """The claim of these pairs; None when what it leaves for the hunter is dust."""
    weight = _fixed_weight(script, anchor=anchor is not None, coins=len(coins)) + sum(map(_weight, pairs))
    vbytes = weight_to_vbytes(weight)
    fee = max(fee_for(parent_vbytes + vbytes, feerate), least_fee)
    inputs = [(TxInput(each.txid, each.index, SEQUENCE, each.witness), each.spent) for each in pairs]
    if anchor is not None:
        txid, index, output = anchor
        inputs.append((TxInput(txid, index, SEQUENCE), output))
    inputs += [(TxInput(each.txid, each.index, SEQUENCE), TxOutput(each.value, each.script)) for each in coins]
    paid = tuple(each.paid for each in pairs)
    own = sum(each.value for _, each in inputs) - sum(each.value for each in paid) - fee
    if own < scripts.dust_threshold(script):
        return None
    made = Tx(VERSION, tuple(each for each, _ in inputs), (*paid, TxOutput(Sat(own), script)), LOCKTIME)
    return BountyClaim(
        raw=made.serialize(),
        spent=tuple((each.value, each.script) for _, each in inputs),
        pairs=pairs,
        coins=coins,
        fee=Sat(fee),
        vbytes=vbytes,
        reward=Sat(own - sum(each.value for each in coins)),
    )
