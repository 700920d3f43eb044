"""HTLC-success and HTLC-timeout transactions: their second signatures, and the transactions with their witness.

Source: BOLT 3, "HTLC-Timeout and HTLC-Success Transactions", with pull request 1228: version 3, zero fee; the
countersignatory signs SINGLE | ANYONECANPAY so that the broadcaster can add inputs that pay.
"""

from protocols.errors import MisuseError
from protocols.ids import Preimage
from protocols.onchain import ec, tx
from protocols.onchain.commitment import VERSION, BuiltCommitment, CommitmentOutput, HtlcSpec
from protocols.onchain.keys import derive_privkey, derive_pubkey

SEQUENCE = 0


def _digests(built: BuiltCommitment) -> list[bytes]:
    """What the countersignatory signs for each HTLC output, in their order."""
    txid, script = built.txid, built.htlc_output_script
    digests = []
    for index, each in enumerate(built.outputs):
        if each.htlc is not None:
            spent = tx.outpoint(txid, index)
            paid = tx.output(each.value, script)
            locktime = each.htlc.expiry if each.htlc.offered else 0
            digests.append(
                tx.single_pair_digest(VERSION, spent, SEQUENCE, paid, locktime, each.witness_script, each.value)
            )
    return digests


def sign_htlcs(built: BuiltCommitment, htlc_basepoint_secret: bytes) -> tuple[bytes, ...]:
    """The countersignatory's compact signatures for the HTLC transactions, in the order of the outputs.

    Args:
        htlc_basepoint_secret: the countersignatory's (`ChannelKeys.htlc_secret`).
    """
    if not built.htlc_output_script:
        return ()
    secret = derive_privkey(htlc_basepoint_secret, built.params.countersignatory.htlc, built.point)
    return tuple([ec.sign(secret, digest) for digest in _digests(built)])


def verify_htlcs(built: BuiltCommitment, signatures: tuple[bytes, ...]) -> bool:
    """Whether these are the countersignatory's signatures for all HTLC transactions, none too few or too many."""
    if not built.htlc_output_script:
        return not signatures
    digests = _digests(built)
    if len(digests) != len(signatures):
        return False
    key = derive_pubkey(built.params.countersignatory.htlc, built.point)
    return all(ec.verify(key, digest, signature) for digest, signature in zip(digests, signatures, strict=True))


def htlc_transaction(
    built: BuiltCommitment,
    index: int,
    *,
    their_signature: bytes,
    htlc_basepoint_secret: bytes,
    preimage: Preimage | None = None,
    sighash: int = tx.SIGHASH_SINGLE_ANYONECANPAY,
) -> bytes:
    """The HTLC transaction that spends output `index` of the broadcaster's commitment, with its whole witness.

    One input, one output of the same value: whoever publishes it adds inputs for the fee after them.

    Args:
        their_signature: the countersignatory's, compact, as verified by `verify_htlcs`.
        htlc_basepoint_secret: the broadcaster's (`ChannelKeys.htlc_secret`).
        preimage: for an HTLC that the broadcaster received (success); None for one that it offered (timeout).
        sighash: for our own signature. SIGHASH_ALL allows no inputs to be added.

    Raises:
        MisuseError: that output is no HTLC, or a preimage is given for a timeout or missing for a success.
    """
    each, htlc = _htlc_at(built, index)
    if htlc.offered == (preimage is not None):
        raise MisuseError("a preimage belongs to HTLC-success, and only there")
    locktime = htlc.expiry if htlc.offered else 0
    spent, paid = tx.outpoint(built.txid, index), tx.output(each.value, built.htlc_output_script)
    digest_of = tx.single_pair_digest if sighash == tx.SIGHASH_SINGLE_ANYONECANPAY else tx.single_input_digest
    digest = digest_of(VERSION, spent, SEQUENCE, paid, locktime, each.witness_script, each.value)
    secret = derive_privkey(htlc_basepoint_secret, built.params.broadcaster.htlc, built.point)
    stack = (
        b"",
        ec.to_der(their_signature) + bytes([tx.SIGHASH_SINGLE_ANYONECANPAY]),
        ec.to_der(ec.sign(secret, digest)) + bytes([sighash]),
        preimage or b"",
        each.witness_script,
    )
    return tx.with_witnesses(tx.single_input_base(VERSION, spent, SEQUENCE, [paid], locktime), [stack])


def _htlc_at(built: BuiltCommitment, index: int) -> tuple[CommitmentOutput, HtlcSpec]:
    each = built.outputs[index]
    if each.htlc is None:
        raise MisuseError(f"output {index} is {each.kind.value}, an HTLC wanted")
    return each, each.htlc
