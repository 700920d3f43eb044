"""Commitment transactions of the type `zero_fee_commitments`: built, signed, verified, made whole.

Source: BOLT 3 with pull request 1228: version 3, no fee, one pay-to-anchor output that takes what is trimmed, up to 240 sat.
*Broadcaster* is the side whose commitment it is (it holds the other's signature and may publish it); *countersignatory*
is the other. All amounts of one commitment add up to the capacity, to the millisatoshi.
"""

import hashlib
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from protocols.errors import MisuseError
from protocols.ids import PaymentHash, Txid
from protocols.onchain import ec, scripts, tx
from protocols.onchain.keys import BasePoints, derive_pubkey, derive_revocation_pubkey
from protocols.units import MSAT_PER_SAT, BlockDelta, BlockHeight, Msat, Sat

VERSION = 3  # BIP 431: a zero-fee parent is relayed with one child that pays for both
MAX_ANCHOR = Sat(240)


@dataclass(frozen=True, slots=True, kw_only=True)
class HtlcSpec:
    """An HTLC as one commitment has it.

    Attributes:
        id: the number its offerer gave it (BOLT 2); with `offered` it names the HTLC on this commitment.
        offered: by the broadcaster of this commitment.
    """

    id: int
    offered: bool
    amount: Msat
    payment_hash: PaymentHash
    expiry: BlockHeight


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentSpec:
    """What is in one commitment. `to_broadcaster + to_countersignatory + HTLCs == capacity`, in millisatoshi."""

    number: int
    to_broadcaster: Msat
    to_countersignatory: Msat
    htlcs: tuple[HtlcSpec, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentParams:
    """What is the same in all commitments of one broadcaster of a channel.

    Attributes:
        opener_is_broadcaster: the broadcaster sent `open_channel` (enters the obscured commitment number).
        to_self_delay: blocks that the broadcaster must wait for its own coins.
        dust_limit: the broadcaster's.
    """

    funding_txid: Txid
    funding_index: int
    capacity: Sat
    broadcaster: BasePoints
    countersignatory: BasePoints
    opener_is_broadcaster: bool
    to_self_delay: BlockDelta
    dust_limit: Sat


class OutputKind(Enum):
    ANCHOR = "anchor"
    TO_BROADCASTER = "to_local"
    TO_COUNTERSIGNATORY = "to_remote"
    HTLC = "HTLC"


@dataclass(frozen=True, slots=True)
class CommitmentOutput:
    """One output. `witness_script` is empty for the anchor and `to_remote`; `htlc` is set for HTLCs only."""

    kind: OutputKind
    value: Sat
    script: bytes
    witness_script: bytes = b""
    htlc: HtlcSpec | None = None


@dataclass(frozen=True, slots=True)
class BuiltCommitment:
    """A commitment transaction without signatures.

    Attributes:
        point: the broadcaster's per-commitment point.
        outputs: in the order of the transaction (BIP 69, ties by expiry).
        base: serialized without witness.
        digest: what both funding keys sign.
        htlc_output_script: script of the output of each of its HTLC transactions (empty when it has no HTLC output).
    """

    params: CommitmentParams
    spec: CommitmentSpec
    point: bytes
    outputs: tuple[CommitmentOutput, ...]
    base: bytes
    digest: bytes
    htlc_output_script: bytes
    htlc_output_witness_script: bytes

    @property
    def txid(self) -> Txid:
        return Txid(scripts.sha256d(self.base))

    @property
    def anchor_index(self) -> int:
        """Which output is the anchor; there always is one."""
        return next(place for place, each in enumerate(self.outputs) if each.kind is OutputKind.ANCHOR)

    @property
    def htlc_outputs(self) -> tuple[tuple[int, HtlcSpec], ...]:
        """(output index, HTLC), in the order of the outputs: the order of the HTLC signatures."""
        return tuple((place, each.htlc) for place, each in enumerate(self.outputs) if each.htlc is not None)

    @property
    def weight(self) -> int:
        """Weight with the longest signatures: what must stay below BIP 431's limit and what a child pays for."""
        return 4 * len(self.base) + FUNDING_WITNESS_WEIGHT


FUNDING_WITNESS_WEIGHT = 224  # marker, flag, stack of 4: empty, two signatures of 73 at most, script of 71


def is_trimmed(amount: Msat, dust_limit: Sat) -> bool:
    """Whether an HTLC of this amount has no output on a commitment of a broadcaster with this dust limit."""
    return amount // MSAT_PER_SAT < dust_limit


@lru_cache(maxsize=1024)
def _obscuring(opener_payment: bytes, accepter_payment: bytes) -> int:
    return int.from_bytes(hashlib.sha256(opener_payment + accepter_payment).digest()[-6:], "big")


def _obscuring_of(params: CommitmentParams) -> int:
    sides = (params.broadcaster.payment, params.countersignatory.payment)
    return _obscuring(*(sides if params.opener_is_broadcaster else sides[::-1]))


def obscured_fields(params: CommitmentParams, number: int) -> tuple[int, int]:
    """(nSequence, nLockTime) that carry a commitment's number."""
    obscured = number ^ _obscuring_of(params)
    return 0x80000000 | obscured >> 24, 0x20000000 | obscured & 0xFFFFFF


def commitment_number(params: CommitmentParams, sequence: int, locktime: int) -> int | None:
    """The number that these fields of a spend of the funding output carry; None: it has not a commitment's form."""
    if sequence >> 24 != 0x80 or locktime >> 24 != 0x20:
        return None
    return ((sequence & 0xFFFFFF) << 24 | locktime & 0xFFFFFF) ^ _obscuring_of(params)


def published_number(params: CommitmentParams, spend: tx.Tx) -> int | None:
    """The number of the commitment, either side's, that a transaction is; None: it spends not the funding output, or has not
    a commitment's form."""
    for each in spend.inputs:
        if (each.txid, each.index) == (params.funding_txid, params.funding_index):
            return commitment_number(params, each.sequence, spend.locktime)
    return None


def build(params: CommitmentParams, spec: CommitmentSpec, point: bytes) -> BuiltCommitment:
    """The commitment transaction of this state.

    Args:
        point: the broadcaster's per-commitment point for `spec.number`, 33 bytes.

    Raises:
        MisuseError: the amounts do not add up to the capacity.
        DecodeError: the point is not on the curve.
    """
    total = spec.to_broadcaster + spec.to_countersignatory + sum([htlc.amount for htlc in spec.htlcs])
    if total != params.capacity * MSAT_PER_SAT or spec.to_broadcaster < 0 or spec.to_countersignatory < 0:
        raise MisuseError(f"a commitment of {total} msat on a capacity of {params.capacity} sat")
    dust = params.dust_limit
    outputs: list[CommitmentOutput] = []
    own, theirs = Sat(spec.to_broadcaster // MSAT_PER_SAT), Sat(spec.to_countersignatory // MSAT_PER_SAT)
    kept = [htlc for htlc in spec.htlcs if not is_trimmed(htlc.amount, dust)]
    delayed_script = delayed_output = revocation = b""
    if kept or own >= dust:
        revocation = derive_revocation_pubkey(params.countersignatory.revocation, point)
        delayed_script = scripts.to_local_script(
            revocation, params.to_self_delay, derive_pubkey(params.broadcaster.delayed_payment, point)
        )
        delayed_output = scripts.p2wsh(delayed_script)
    if own >= dust:
        outputs.append(CommitmentOutput(OutputKind.TO_BROADCASTER, own, delayed_output, delayed_script))
    if theirs >= dust:
        outputs.append(
            CommitmentOutput(OutputKind.TO_COUNTERSIGNATORY, theirs, scripts.p2wpkh(params.countersignatory.payment))
        )
    if kept:
        outputs += _htlc_outputs(params, kept, point, revocation)
    left = params.capacity - sum([each.value for each in outputs])
    outputs.append(CommitmentOutput(OutputKind.ANCHOR, Sat(min(MAX_ANCHOR, left)), scripts.ANCHOR_SCRIPT))
    outputs.sort(key=_order)
    sequence, locktime = obscured_fields(params, spec.number)
    packed = [tx.output(each.value, each.script) for each in outputs]
    spent = tx.outpoint(params.funding_txid, params.funding_index)
    funding = scripts.funding_script(params.broadcaster.funding_pubkey, params.countersignatory.funding_pubkey)
    return BuiltCommitment(
        params,
        spec,
        point,
        tuple(outputs),
        tx.single_input_base(VERSION, spent, sequence, packed, locktime),
        tx.single_input_digest(VERSION, spent, sequence, b"".join(packed), locktime, funding, params.capacity),
        delayed_output if kept else b"",
        delayed_script if kept else b"",
    )


def _htlc_outputs(
    params: CommitmentParams, htlcs: list[HtlcSpec], point: bytes, revocation_pubkey: bytes
) -> list[CommitmentOutput]:
    own_key = derive_pubkey(params.broadcaster.htlc, point)
    their_key = derive_pubkey(params.countersignatory.htlc, point)
    revocation_hash = scripts.hash160(revocation_pubkey)
    outputs = []
    for htlc in htlcs:
        if htlc.offered:
            script = scripts.offered_htlc_script(revocation_hash, their_key, own_key, htlc.payment_hash)
        else:
            script = scripts.received_htlc_script(revocation_hash, their_key, own_key, htlc.payment_hash, htlc.expiry)
        value = Sat(htlc.amount // MSAT_PER_SAT)
        outputs.append(CommitmentOutput(OutputKind.HTLC, value, scripts.p2wsh(script), script, htlc))
    return outputs


def _order(each: CommitmentOutput) -> tuple[int, bytes, int, int]:
    htlc = each.htlc
    return each.value, each.script, htlc.expiry if htlc else 0, htlc.id if htlc else 0


def sign(built: BuiltCommitment, funding_secret: bytes) -> bytes:
    """Either side's compact signature of the commitment, 64 bytes."""
    return ec.sign(funding_secret, built.digest)


def verify(built: BuiltCommitment, signature: bytes) -> bool:
    """Whether this is the countersignatory's signature, low-S."""
    return ec.verify(built.params.countersignatory.funding_pubkey, built.digest, signature)


def finalize(built: BuiltCommitment, broadcaster_signature: bytes, countersignatory_signature: bytes) -> bytes:
    """The commitment transaction with its witness, ready to publish (with a child that pays for it)."""
    params = built.params
    stack = funding_witness(
        params.broadcaster.funding_pubkey,
        broadcaster_signature,
        params.countersignatory.funding_pubkey,
        countersignatory_signature,
    )
    return tx.with_witnesses(built.base, [stack])


def funding_witness(
    first_key: bytes, first_signature: bytes, second_key: bytes, second_signature: bytes
) -> tuple[bytes, ...]:
    """Witness that spends the funding output; signatures compact, SIGHASH_ALL."""
    in_order = sorted(((first_key, first_signature), (second_key, second_signature)))
    signatures = [ec.to_der(signature) + bytes([tx.SIGHASH_ALL]) for _, signature in in_order]
    return b"", *signatures, scripts.funding_script(first_key, second_key)
