"""The outputs of a close that concern us, and how we may claim each.

Source: BOLT 5, "Unilateral Close Handling" (both) and "Revoked Transaction Close Handling"; BOLT 3 for the witnesses.
"""

from dataclasses import dataclass
from enum import Enum

from protocols.channel.records import Kept, decode
from protocols.errors import DecodeError
from protocols.ids import PaymentHash, Txid
from protocols.onchain import scripts, tx
from protocols.onchain.commitment import BuiltCommitment, CommitmentOutput, OutputKind
from protocols.onchain.keys import derive_privkey, derive_pubkey, derive_revocation_privkey, derive_revocation_pubkey
from protocols.onchain.sweep import Claim
from protocols.units import BlockDelta, BlockHeight, Sat
from protocols.watch.classify import our_commitment, revoked_point, their_commitments
from protocols.watch.state import Close, Context, LiveHtlc, SpendKind


class Role(Enum):
    """What an output is to us."""

    DELAYED = "our balance, after the delay"
    OFFERED = "an HTLC of ours: theirs by preimage, ours after its expiry"
    RECEIVED = "an HTLC of theirs: ours by preimage, theirs after its expiry"
    PENALTY = "an output of a revoked commitment: ours by the revocation key"
    WATCHED = "an output that we cannot claim, but whose spender may show a preimage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stake:
    """An output of the confirmed commitment that concerns us. `place`: of its HTLC signature, on our own commitment."""

    role: Role
    index: int
    value: Sat
    script: bytes
    witness_script: bytes = b""
    htlc: LiveHtlc | None = None
    place: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A spend of the funding output with all that concerns us in it.

    Attributes:
        built: the commitment, where it is ours or one of theirs that is not revoked.
        delayed_script, delayed_witness_script: of the outputs of HTLC transactions that *we* may claim later: after the
            delay on our own commitment, by the revocation key on a revoked one; empty elsewhere.
    """

    kind: SpendKind
    txid: Txid
    stakes: tuple[Stake, ...] = ()
    built: BuiltCommitment | None = None
    delayed_script: bytes = b""
    delayed_witness_script: bytes = b""
    revocation_secret: bytes = b""
    revocation_pubkey: bytes = b""

    def stake_at(self, index: int) -> Stake | None:
        return next((each for each in self.stakes if each.index == index), None)


def view_of(close: Close, context: Context) -> View | None:
    """What the spend of the funding output holds for us; None while it is not spent."""
    match close.kind:
        case None:
            return None
        case SpendKind.MUTUAL:
            return View(kind=close.kind, txid=tx.txid_of(close.transaction))
        case SpendKind.OURS:
            return _of_built(close.kind, our_commitment(context), context)
        case SpendKind.THEIRS:
            txid = tx.txid_of(close.transaction)
            built = next(each for each in their_commitments(context) if each.txid == txid)
            return _of_built(close.kind, built, context)
        case SpendKind.REVOKED:
            return _of_revoked(close, context)
        case SpendKind.FUTURE | SpendKind.UNKNOWN:
            return _of_strange(close, context)


def _of_built(kind: SpendKind, built: BuiltCommitment, context: Context) -> View:
    ours = kind is SpendKind.OURS
    live = {(each.id, each.ours): each for each in context.htlcs}
    stakes, place = [], 0
    for index, each in enumerate(built.outputs):
        if each.htlc is not None:
            spec, by_us = each.htlc, each.htlc.offered == ours
            htlc = live.get((spec.id, by_us)) or LiveHtlc(
                id=spec.id, ours=by_us, amount=spec.amount, payment_hash=spec.payment_hash, expiry=spec.expiry
            )
            stakes.append(_stake(Role.OFFERED if by_us else Role.RECEIVED, index, each, htlc, place))
            place += 1
        elif each.kind is OutputKind.TO_BROADCASTER and ours:
            stakes.append(_stake(Role.DELAYED, index, each))
    return View(
        kind=kind,
        txid=built.txid,
        stakes=tuple(stakes),
        built=built,
        delayed_script=built.htlc_output_script if ours else b"",
        delayed_witness_script=built.htlc_output_witness_script if ours else b"",
    )


def _stake(role: Role, index: int, each: CommitmentOutput, htlc: LiveHtlc | None = None, place: int = 0) -> Stake:
    return Stake(
        role=role,
        index=index,
        value=each.value,
        script=each.script,
        witness_script=each.witness_script,
        htlc=htlc,
        place=place,
    )


def _of_revoked(close: Close, context: Context) -> View:
    secret, point = revoked_point(close.transaction, context)
    params = context.their_params
    revocation = derive_revocation_pubkey(params.countersignatory.revocation, point)
    delayed = scripts.to_local_script(
        revocation, params.to_self_delay, derive_pubkey(params.broadcaster.delayed_payment, point)
    )
    witness_scripts: dict[bytes, tuple[bytes, LiveHtlc | None]] = {scripts.p2wsh(delayed): (delayed, None)}
    for script, htlc in _possible_htlc_scripts(close, context, revocation, point):
        witness_scripts.setdefault(scripts.p2wsh(script), (script, htlc))
    parsed = tx.parse(close.transaction)
    stakes = []
    for index, each in enumerate(parsed.outputs):
        if each.script in witness_scripts:
            witness_script, live = witness_scripts[each.script]
            stakes.append(
                Stake(
                    role=Role.PENALTY,
                    index=index,
                    value=each.value,
                    script=each.script,
                    witness_script=witness_script,
                    htlc=live,
                )
            )
    return View(
        kind=SpendKind.REVOKED,
        txid=parsed.txid(),
        stakes=tuple(stakes),
        delayed_script=scripts.p2wsh(delayed),
        delayed_witness_script=delayed,
        revocation_secret=derive_revocation_privkey(context.keys.revocation_secret, secret),
        revocation_pubkey=revocation,
    )


def _possible_htlc_scripts(
    close: Close, context: Context, revocation: bytes, point: bytes
) -> list[tuple[bytes, LiveHtlc | None]]:
    """Of the HTLCs that live, and of those that the state's record names: most have left the channel since."""
    params = context.their_params
    revocation_hash = scripts.hash160(revocation)
    our_key = derive_pubkey(params.countersignatory.htlc, point)
    their_key = derive_pubkey(params.broadcaster.htlc, point)
    found: list[tuple[bytes, LiveHtlc | None]] = []
    for offered, payment_hash, expiry, live in (
        *((not each.ours, each.payment_hash, each.expiry, each) for each in context.htlcs),
        *((offered, payment_hash, expiry, None) for offered, payment_hash, expiry in _recorded_htlcs(close)),
    ):
        if offered:
            script = scripts.offered_htlc_script(revocation_hash, our_key, their_key, payment_hash)
        else:
            script = scripts.received_htlc_script(revocation_hash, our_key, their_key, payment_hash, expiry)
        found.append((script, live))
    return found


def _recorded_htlcs(close: Close) -> list[tuple[bool, PaymentHash, BlockHeight]]:
    """(offered by the broadcaster, hash, expiry) of each HTLC in the record of the state that was published."""
    if not close.record:
        return []
    try:
        outputs = decode(close.record)
    except DecodeError:
        return []  # damaged; whoever read it from the disk has said so, and what lives is claimed all the same
    return [
        (each.kind is Kept.OFFERED_BY_THEM, each.payment_hash, each.expiry)
        for each in outputs
        if each.payment_hash is not None
    ]


def _of_strange(close: Close, context: Context) -> View:
    """Nothing here can be claimed by us, but every P2WSH output is watched: a spender may show a preimage that we need."""
    parsed = tx.parse(close.transaction)
    assert close.kind is not None
    return View(
        kind=close.kind,
        txid=parsed.txid(),
        stakes=tuple(
            Stake(role=Role.WATCHED, index=index, value=each.value, script=each.script)
            for index, each in enumerate(parsed.outputs)
            if len(each.script) == 34
            and each.script[:2] == b"\x00\x20"
            and each.script not in context.closing_scripts
            and any(htlc.ours for htlc in context.htlcs)
        ),
    )


# --- claims ---------------------------------------------------------------------------------------------------------


def delayed_claim(view: View, context: Context, stake: Stake) -> Claim:
    """Our own balance on our own commitment."""
    return _own_delayed(view, context, view.txid, stake.index, stake.value, stake.witness_script)


def direct_claim(view: View, context: Context, stake: Stake) -> Claim:
    """An HTLC on their commitment: theirs by its preimage, which must be known, ours after its expiry."""
    assert view.built is not None
    assert stake.htlc is not None
    secret = derive_privkey(context.keys.htlc_secret, context.their_params.countersignatory.htlc, view.built.point)
    offered = stake.role is Role.OFFERED
    assert offered or stake.htlc.preimage is not None
    return Claim(
        txid=view.txid,
        index=stake.index,
        value=stake.value,
        witness_script=stake.witness_script,
        secret=secret,
        tail=(b"" if offered else stake.htlc.preimage or b"",),
        locktime=stake.htlc.expiry if offered else 0,
    )


def penalty_claim(view: View, stake: Stake) -> Claim:
    """An output of a revoked commitment, by the revocation key."""
    delayed = stake.script == view.delayed_script
    return Claim(
        txid=view.txid,
        index=stake.index,
        value=stake.value,
        witness_script=stake.witness_script,
        secret=view.revocation_secret,
        tail=(b"\x01",) if delayed else (view.revocation_pubkey,),
    )


def second_stage_claim(view: View, context: Context, txid: Txid, index: int, value: Sat) -> Claim:
    """The output of an HTLC transaction: ours after the delay, or theirs and revoked."""
    if view.kind is SpendKind.OURS:
        return _own_delayed(view, context, txid, index, value, view.delayed_witness_script)
    return Claim(
        txid=txid,
        index=index,
        value=value,
        witness_script=view.delayed_witness_script,
        secret=view.revocation_secret,
        tail=(b"\x01",),
    )


def _own_delayed(view: View, context: Context, txid: Txid, index: int, value: Sat, witness_script: bytes) -> Claim:
    assert view.built is not None
    points = context.our_params.broadcaster
    return Claim(
        txid=txid,
        index=index,
        value=value,
        witness_script=witness_script,
        secret=derive_privkey(context.keys.delayed_payment_secret, points.delayed_payment, view.built.point),
        tail=(b"",),
        sequence=context.our_params.to_self_delay,
    )


def delay_of(view: View, context: Context) -> BlockDelta:
    """How long our own claims of delayed outputs wait; on a revoked commitment, how long the cheat must wait."""
    return (context.our_params if view.kind is SpendKind.OURS else context.their_params).to_self_delay
