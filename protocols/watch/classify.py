"""Say what a spend of the funding output is.

Source: BOLT 5 (the three ways a channel ends), BOLT 3 (the commitment number hidden in nSequence and nLockTime).
"""

from functools import lru_cache

from protocols.errors import DecodeError, MisuseError
from protocols.onchain import commitment, scripts, tx
from protocols.onchain.commitment import BuiltCommitment
from protocols.onchain.ec import point_of
from protocols.onchain.keys import derive_pubkey, derive_revocation_pubkey
from protocols.watch.state import Context, SpendKind

built_of = lru_cache(maxsize=32)(commitment.build)  # a close is advanced by many events, always of the same commitments


def our_commitment(context: Context) -> BuiltCommitment:
    """Our current commitment, unsigned."""
    point = context.keys.per_commitment_point(context.ours.number)
    return built_of(context.our_params, context.ours, point)


def their_commitments(context: Context) -> list[BuiltCommitment]:
    """Theirs that are not revoked, unsigned; the current one first."""
    return [built_of(context.their_params, each.spec, each.point) for each in context.theirs]


def classify(transaction: bytes, context: Context) -> SpendKind:
    """What this spend of the funding output is. It is in a block or a mempool, so its signatures are valid."""
    try:
        parsed = tx.parse(transaction)
    except DecodeError:
        return SpendKind.UNKNOWN
    txid = parsed.txid()
    if any(txid == each.txid for each in their_commitments(context)):
        return SpendKind.THEIRS
    if txid == our_commitment(context).txid:
        return SpendKind.OURS
    number = commitment.published_number(context.their_params, parsed)
    paid = {each.script for each in parsed.outputs}
    if number is None:
        return SpendKind.MUTUAL if paid and paid <= set(context.closing_scripts) else SpendKind.UNKNOWN
    if number < context.their_secrets.count:
        return SpendKind.UNKNOWN if _is_our_own(number, context, paid) else SpendKind.REVOKED
    if context.theirs and number > max(each.spec.number for each in context.theirs):
        return SpendKind.FUTURE
    return SpendKind.UNKNOWN


def _is_our_own(number: int, context: Context, paid: set[bytes]) -> bool:
    """Whether it pays us under the delay of our own commitment: an old state that we, or a thief of our disk, published."""
    params, point = context.our_params, context.keys.per_commitment_point(number)
    script = scripts.to_local_script(
        derive_revocation_pubkey(params.countersignatory.revocation, point),
        params.to_self_delay,
        derive_pubkey(params.broadcaster.delayed_payment, point),
    )
    return scripts.p2wsh(script) in paid


def revoked_point(transaction: bytes, context: Context) -> tuple[bytes, bytes]:
    """(per-commitment secret, point) of what was classified as a commitment that they revoked."""
    number = commitment.published_number(context.their_params, tx.parse(transaction))
    secret = None if number is None else context.their_secrets.get(number)
    if secret is None:
        raise MisuseError("not a commitment whose secret was revealed")
    return secret, point_of(secret)
