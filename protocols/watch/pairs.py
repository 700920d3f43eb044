"""The pairs (input, output) of a remedy: signed by the possible victim, checked by the hunter.

Source: DESIGN 7, BIP 143. Whoever sees a revoked commitment published can spend its outputs with these signatures
(SINGLE | ANYONECANPAY: input i is tied to output i, which pays the victim all but the bounty) and add an output for itself.
Version, locktime and sequence are fixed by each signature, so all pairs of a claim must agree in them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocols.channel.records import Kept, RevokedOutput
from protocols.errors import MisuseError
from protocols.ids import Txid
from protocols.onchain import commitment, ec, scripts, tx
from protocols.onchain.commitment import VERSION, CommitmentParams
from protocols.onchain.keys import ChannelKeys, derive_pubkey, derive_revocation_privkey, derive_revocation_pubkey
from protocols.onchain.tx import TxOutput
from protocols.units import BlockHeight, Sat
from protocols.watch.policy import Plan, Priced
from protocols.watch.remedy import BalancePair, HtlcPair, Remedy

SEQUENCE = 0xFFFFFFFD
LOCKTIME = 0
_NOTHING: Mapping[int, Sat] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An input and the output that its signature ties to it, ready for any claim in which both have the same place."""

    txid: Txid
    index: int
    spent: TxOutput
    paid: TxOutput
    witness: tuple[bytes, ...]

    @property
    def bounty(self) -> Sat:
        """What it leaves for fees and the hunter."""
        return Sat(self.spent.value - self.paid.value)


# --- the victim's side ------------------------------------------------------------------------------------------------


def build(
    plan: Plan, *, number: int, txid: Txid, params: CommitmentParams, keys: ChannelKeys, secret: bytes
) -> Remedy | None:
    """Sign for every output that the plan prices; None when that is none.

    The commitment is put together once more from all of this and must have the txid, and the key must be its revocation
    key: a remedy that fits nothing would only be noticed when it is too late.

    Args:
        number, txid: of the revoked commitment.
        params: of the neighbour's commitments.
        keys: ours.
        secret: the per-commitment secret that they revealed.

    Raises:
        MisuseError: these do not belong together.
    """
    point = ec.point_of(secret)
    revocation = derive_revocation_pubkey(params.countersignatory.revocation, point)
    delayed = derive_pubkey(params.broadcaster.delayed_payment, point)
    htlc_keys = derive_pubkey(params.broadcaster.htlc, point), derive_pubkey(params.countersignatory.htlc, point)
    signing = _Signing(
        txid=txid,
        to_local=scripts.to_local_script(revocation, params.to_self_delay, delayed),
        revocation=revocation,
        htlc_keys=htlc_keys,
        secret=derive_revocation_privkey(keys.revocation_secret, secret),
        payout=scripts.hash160(keys.payment_basepoint),
    )
    if _txid_of(plan.outputs, number, params, signing) != txid or ec.point_of(signing.secret) != revocation:
        raise MisuseError(f"what is known of revoked commitment {number} does not give its txid and revocation key")
    balance: BalancePair | None = None
    htlcs: list[HtlcPair] = []
    for priced in plan.priced:
        output = priced.output
        if output.kind is Kept.TO_THEM:
            balance = BalancePair(
                index=output.index,
                bounty=priced.bounty,
                signature=signing.sign(priced),
                delayed_pubkey=delayed,
                to_self_delay=params.to_self_delay,
            )
        else:
            htlcs.append(
                HtlcPair(
                    index=output.index,
                    bounty=priced.bounty,
                    signature=signing.sign(priced),
                    lock=_lock(output),
                    expiry=BlockHeight(0) if output.kind is Kept.OFFERED_BY_THEM else output.expiry,
                )
            )
    if balance is None and not htlcs:
        return None
    return Remedy(
        payout=signing.payout,
        revocation_pubkey=revocation,
        balance=balance,
        htlc_keys=htlc_keys if htlcs else (),
        htlcs=tuple(sorted(htlcs, key=lambda each: each.index)),
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class _Signing:
    """What all pairs of one commitment share."""

    txid: Txid
    to_local: bytes
    revocation: bytes
    htlc_keys: tuple[bytes, bytes]
    secret: bytes
    payout: bytes

    def witness_script(self, output: RevokedOutput) -> bytes:
        if output.kind is Kept.TO_THEM:
            return self.to_local
        expiry = None if output.kind is Kept.OFFERED_BY_THEM else output.expiry
        return _htlc_script(self.revocation, self.htlc_keys, _lock(output), expiry)

    def sign(self, priced: Priced) -> bytes:
        output = priced.output
        paid = Sat(output.value - priced.bounty)
        if not 0 < priced.bounty < output.value or paid < scripts.dust_threshold(_p2wpkh(self.payout)):
            raise MisuseError(f"a bounty of {priced.bounty} sat on an output of {output.value} sat")
        script = self.witness_script(output)
        return ec.sign(self.secret, _digest(self.txid, output.index, script, output.value, paid, self.payout))


def _lock(output: RevokedOutput) -> bytes:
    if output.payment_hash is None:
        raise MisuseError("the record of an HTLC without its hash")
    return scripts.ripemd160(output.payment_hash)


def _txid_of(outputs: tuple[RevokedOutput, ...], number: int, params: CommitmentParams, signing: _Signing) -> Txid:
    """The id of the commitment that has these outputs, and its anchor in the place that they leave free."""
    anchor = Sat(min(commitment.MAX_ANCHOR, params.capacity - sum(each.value for each in outputs)))
    packed = {
        each.index: tx.output(
            each.value,
            scripts.p2wpkh(params.countersignatory.payment)
            if each.kind is Kept.TO_US
            else scripts.p2wsh(signing.witness_script(each)),
        )
        for each in outputs
    }
    free = [index for index in range(len(outputs) + 1) if index not in packed]
    if len(free) != 1 or anchor < 0:
        raise MisuseError(
            "the record of a commitment that cannot be: its outputs do not count up, or exceed the capacity"
        )
    packed[free[0]] = tx.output(anchor, scripts.ANCHOR_SCRIPT)
    sequence, locktime = commitment.obscured_fields(params, number)
    spent = tx.outpoint(params.funding_txid, params.funding_index)
    in_order = [packed[index] for index in range(len(packed))]
    return Txid(scripts.sha256d(tx.single_input_base(VERSION, spent, sequence, in_order, locktime)))


# --- the hunter's side ------------------------------------------------------------------------------------------------


def check(remedy: Remedy, breach: tx.Tx, *, above: Mapping[int, Sat] = _NOTHING) -> tuple[Pair, ...]:
    """The pairs of a remedy that this transaction's outputs can be spent with; those that do not hold are left out.

    A pair holds when output and script belong together, the signature is the revocation key's, and what the victim is paid
    is neither dust nor more than the output. Costs one signature check (35 us) per output that is really there.

    Args:
        above: bounties that are to be had already: a pair that offers no more for its output is left out unchecked.
    """
    if not ec.is_point(remedy.revocation_pubkey):
        return ()
    txid, key = breach.txid(), remedy.revocation_pubkey
    candidates: list[tuple[BalancePair | HtlcPair, bytes, bytes]] = []
    if remedy.balance is not None:
        balance = remedy.balance
        script = scripts.to_local_script(key, balance.to_self_delay, balance.delayed_pubkey)
        candidates.append((balance, b"\x01", script))
    for each in remedy.htlcs:
        script = _htlc_script(key, remedy.htlc_keys, each.lock, each.expiry or None)
        candidates.append((each, key, script))
    return tuple(_held(candidates, txid, breach, remedy, above))


def _held(
    candidates: list[tuple[BalancePair | HtlcPair, bytes, bytes]],
    txid: Txid,
    breach: tx.Tx,
    remedy: Remedy,
    above: Mapping[int, Sat],
) -> Iterable[Pair]:
    seen = set()
    payout = _p2wpkh(remedy.payout)
    for each, branch, script in candidates:
        if each.index in seen or each.index >= len(breach.outputs) or each.bounty <= above.get(each.index, 0):
            continue
        spent = breach.outputs[each.index]
        paid = Sat(spent.value - each.bounty)
        if spent.script != scripts.p2wsh(script) or paid < scripts.dust_threshold(payout):
            continue
        digest = _digest(txid, each.index, script, spent.value, paid, remedy.payout)
        if not ec.verify(remedy.revocation_pubkey, digest, each.signature):
            continue
        seen.add(each.index)
        signature = ec.to_der(each.signature) + bytes([tx.SIGHASH_SINGLE_ANYONECANPAY])
        yield Pair(
            txid=txid,
            index=each.index,
            spent=spent,
            paid=TxOutput(paid, payout),
            witness=(signature, branch, script),
        )


# --- both sides -------------------------------------------------------------------------------------------------------


def _htlc_script(revocation: bytes, keys: tuple[bytes, ...], lock: bytes, expiry: BlockHeight | None) -> bytes:
    own, their = keys
    return scripts.htlc_script(scripts.hash160(revocation), their, own, lock, expiry)


def _digest(txid: Txid, index: int, script: bytes, value: Sat, paid: Sat, payout: bytes) -> bytes:
    """What the revocation key signs: this input with this output, in any transaction of this form."""
    return tx.single_pair_digest(
        VERSION, tx.outpoint(txid, index), SEQUENCE, tx.output(paid, _p2wpkh(payout)), LOCKTIME, script, value
    )


def _p2wpkh(program: bytes) -> bytes:
    return b"\x00\x14" + program
