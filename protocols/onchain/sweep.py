"""Self-paying sweeps: one input of a close, one output to our wallet, the fee taken from the value.

Source: BOLT 3 and 5 (which witness claims which output), BIP 68 and 65 (sequence and locktime that a claim needs).
"""

from dataclasses import dataclass

from protocols.ids import Txid
from protocols.onchain import ec, scripts, tx, weights
from protocols.units import FeeRate, Sat, fee_for

VERSION = 2  # relative locks need it; only confirmed outputs are swept, so BIP 431 asks nothing
REPLACEABLE = 0xFFFFFFFD


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """How we may spend one confirmed output alone.

    Attributes:
        secret: the key that the witness's one signature is of, 32 bytes.
        tail: the witness items between that signature and the witness script.
        sequence: BIP 68 delay, or `REPLACEABLE`.
        locktime: absolute height before which the sweep cannot confirm, 0 for none.
    """

    txid: Txid
    index: int
    value: Sat
    witness_script: bytes
    secret: bytes
    tail: tuple[bytes, ...]
    sequence: int = REPLACEABLE
    locktime: int = 0

    @property
    def vbytes(self) -> int:
        """Size of its sweep."""
        items = (bytes(72), *self.tail, self.witness_script)
        return weights.sweep_vbytes(1 + sum(len(tx.varint(len(item))) + len(item) for item in items))


def build(claim: Claim, target_script: bytes, feerate: FeeRate) -> bytes | None:
    """The signed sweep; None: at this feerate nothing that is relayed would be left of the value."""
    value = Sat(claim.value - fee_for(claim.vbytes, feerate))
    if value < scripts.dust_threshold(target_script):
        return None
    spent, paid = tx.outpoint(claim.txid, claim.index), tx.output(value, target_script)
    digest = tx.single_input_digest(
        VERSION, spent, claim.sequence, paid, claim.locktime, claim.witness_script, claim.value
    )
    signature = ec.to_der(ec.sign(claim.secret, digest)) + bytes([tx.SIGHASH_ALL])
    base = tx.single_input_base(VERSION, spent, claim.sequence, [paid], claim.locktime)
    return tx.with_witnesses(base, [(signature, *claim.tail, claim.witness_script)])


def build_pair(claim: Claim, target_script: bytes) -> bytes | None:
    """The claim with no fee, signed SINGLE | ANYONECANPAY so that inputs which pay can be added: for an output that is not
    worth its own fee but must be resolved. None: it would not be relayed even so."""
    if claim.value < scripts.dust_threshold(target_script):
        return None
    spent, paid = tx.outpoint(claim.txid, claim.index), tx.output(claim.value, target_script)
    digest = tx.single_pair_digest(
        VERSION, spent, claim.sequence, paid, claim.locktime, claim.witness_script, claim.value
    )
    signature = ec.to_der(ec.sign(claim.secret, digest)) + bytes([tx.SIGHASH_SINGLE_ANYONECANPAY])
    base = tx.single_input_base(VERSION, spent, claim.sequence, [paid], claim.locktime)
    return tx.with_witnesses(base, [(signature, *claim.tail, claim.witness_script)])


def highest_feerate(claim: Claim, target_script: bytes) -> FeeRate:
    """The most that a sweep of this output can pay and still be relayed, satoshi per 1000 virtual bytes; 0 when nothing."""
    room = claim.value - scripts.dust_threshold(target_script)
    return FeeRate(max(0, room * 1000 // claim.vbytes))
