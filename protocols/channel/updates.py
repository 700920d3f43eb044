"""Normal operation: HTLCs added, settled and failed; commitments signed and revoked.

Source: BOLT 2, "Normal Operation"; DESIGN 5 (R10, R11) and 6. Updates go out as they come; what gathered is signed at
`Flush`, where no revocation is outstanding, so that several updates share one commitment_signed.
"""

import hashlib
from dataclasses import replace

from protocols.channel import commitments
from protocols.channel.commitments import at_stage, build_ours, build_theirs, dust_exposure
from protocols.channel.events import (
    ChannelChanged,
    ChannelEffect,
    FailHtlc,
    HtlcFailed,
    HtlcFulfilled,
    HtlcOffered,
    HtlcRefused,
    OfferHtlc,
    Refusal,
    SendMessage,
    SettleHtlc,
    StoreRevoked,
)
from protocols.channel.force import violation
from protocols.channel.state import (
    Channel,
    Htlc,
    LastSent,
    Phase,
    Stage,
    available,
    evolve,
    is_usable,
    pending,
    received,
)
from protocols.channel.step import Env, Step, keep, store
from protocols.errors import MisuseError
from protocols.ids import PaymentHash, Preimage
from protocols.onchain import commitment, ec, htlc
from protocols.onchain.ec import ORDER
from protocols.units import BlockHeight, Msat, to_msat
from protocols.wire.channel import (
    ChannelMessage,
    CommitmentSigned,
    FailureCode,
    RevokeAndAck,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFulfillHtlc,
)

LOCKTIME_THRESHOLD = 500_000_000  # from here on nLockTime means seconds (BOLT 2: an expiry must be below)


# --- our own orders --------------------------------------------------------------------------------------------------


def offer(channel: Channel, event: OfferHtlc, env: Env) -> Step:
    """Add an HTLC that we offer, or say why it cannot be."""
    reason = refusal(channel, event, env)
    if reason is not None:
        return refuse(channel, event, reason)
    added = Htlc(
        id=channel.our_next_id,
        ours=True,
        amount=event.amount,
        payment_hash=event.payment_hash,
        expiry=event.expiry,
    )
    changed = evolve(channel, htlcs=(*channel.htlcs, added), our_next_id=added.id + 1)
    return store(
        changed,
        SendMessage(peer=channel.peer, message=_add_message(channel, added)),
        HtlcOffered(channel_id=channel.channel_id, reference=event.reference, htlc_id=added.id),
    )


def refuse(channel: Channel, event: OfferHtlc, reason: Refusal) -> Step:
    """Nothing has changed."""
    return keep(channel, HtlcRefused(channel_id=channel.channel_id, reference=event.reference, reason=reason))


def refusal(channel: Channel, event: OfferHtlc, env: Env) -> Refusal | None:
    """Why this HTLC cannot be offered now, None when it can."""
    terms, tip, config = channel.their_terms, env.facts.tip, env.config
    if channel.phase is not Phase.OPEN or terms is None or not channel.deep or not env.accepts_chain:
        return Refusal.NOT_OPEN
    if not is_usable(channel):
        return Refusal.PEER_AWAY
    if any(each.payment_hash == event.payment_hash for each in channel.htlcs):
        return Refusal.DUPLICATE_HASH
    if event.expiry <= tip + config.settle_margin:
        return Refusal.EXPIRES_TOO_SOON
    if event.expiry > tip + config.max_expiry:
        return Refusal.EXPIRES_TOO_FAR
    if event.amount < max(terms.htlc_minimum, 1):
        return Refusal.TOO_SMALL
    count, in_flight = pending(channel, ours=True)
    if count >= terms.max_accepted_htlcs:
        return Refusal.TOO_MANY_HTLCS
    if in_flight + event.amount > terms.max_in_flight:
        return Refusal.TOO_MUCH_IN_FLIGHT
    if available(channel, ours=True) - event.amount < to_msat(terms.reserve):
        return Refusal.BELOW_RESERVE
    if _too_much_dust(channel, event.amount, env):
        return Refusal.DUST_EXPOSURE
    return None


def _too_much_dust(channel: Channel, amount: Msat, env: Env, *, held: bool = False) -> bool:
    """Whether an HTLC of this amount is trimmed on either commitment, and trimmed HTLCs there exceed what we tolerate with
    it; `held`: the channel has it already. Whose commitment does not matter: each side may publish its own."""
    more = 0 if held else amount
    for terms, ours in ((channel.our_terms, True), (channel.their_terms, False)):
        if terms is not None and commitment.is_trimmed(amount, terms.dust_limit):
            exposure = dust_exposure(channel, terms.dust_limit, ours=ours)
            if exposure + more > env.config.max_dust_exposure:
                return True
    return False


def settle(channel: Channel, event: SettleHtlc, env: Env) -> Step:
    """Claim an HTLC of theirs with its preimage; sent now, or when the channel is re-established."""
    place, each = _theirs(channel, event.htlc_id)
    if each is None or each.preimage is not None or each.stage != Stage.COMMITTED:
        return keep(channel)
    if hashlib.sha256(event.preimage).digest() != each.payment_hash:
        raise MisuseError("a preimage that is not of this HTLC's hash")
    return _decided(channel, place, replace(each, preimage=event.preimage, failure=None))


def fail(channel: Channel, event: FailHtlc, env: Env) -> Step:
    """Give up an HTLC of theirs; never one whose preimage we released."""
    place, each = _theirs(channel, event.htlc_id)
    if each is None or each.preimage is not None or each.failure is not None or each.stage != Stage.COMMITTED:
        return keep(channel)
    return _decided(channel, place, replace(each, failure=event.code))


def with_preimage(channel: Channel, event: SettleHtlc) -> Channel:
    """The channel with the preimage of an HTLC of theirs, for a claim on the chain; the same object if that is no news."""
    place, each = _theirs(channel, event.htlc_id)
    if each is None or each.preimage is not None:
        return channel
    if hashlib.sha256(event.preimage).digest() != each.payment_hash:
        raise MisuseError("a preimage that is not of this HTLC's hash")
    return _with(channel, place, replace(each, preimage=event.preimage))


def given_up(channel: Channel, event: FailHtlc, env: Env) -> Step:
    """On a channel that is being closed by force nobody is told; but nothing waits for a preimage any more."""
    place, each = _theirs(channel, event.htlc_id)
    if each is None or each.preimage is not None or each.failure is not None or each.stage != Stage.COMMITTED:
        return keep(channel)
    return store(_with(channel, place, replace(each, failure=event.code)))


def _theirs(channel: Channel, htlc_id: int) -> tuple[int, Htlc | None]:
    for place, each in enumerate(channel.htlcs):
        if each.id == htlc_id and not each.ours:
            return place, each
    return -1, None


def _decided(channel: Channel, place: int, each: Htlc) -> Step:
    if not (channel.connected and channel.reestablished):
        return store(_with(channel, place, each))
    changed = _with(channel, place, at_stage(each, Stage.REMOVE_SENT))
    return store(changed, SendMessage(peer=channel.peer, message=removal_message(channel, each)))


def _with(channel: Channel, place: int, each: Htlc) -> Channel:
    return evolve(channel, htlcs=(*channel.htlcs[:place], each, *channel.htlcs[place + 1 :]))


def _add_message(channel: Channel, each: Htlc) -> UpdateAddHtlc:
    return UpdateAddHtlc(channel.channel_id, each.id, each.amount, each.payment_hash, each.expiry)


def removal_message(channel: Channel, each: Htlc) -> ChannelMessage:
    """The update that removes an HTLC of theirs which we have settled or failed."""
    if each.failure is not None:
        return UpdateFailHtlc(channel.channel_id, each.id, each.failure)
    if each.preimage is None:
        raise MisuseError("an HTLC is removed that is neither settled nor failed")
    return UpdateFulfillHtlc(channel.channel_id, each.id, each.preimage)


def sign(channel: Channel, env: Env) -> Step:
    """commitment_signed over everything that gathered, unless a revocation is outstanding or there is nothing.

    The caller made sure that the channel is in a phase with updates and re-established.
    """
    if channel.their_unrevoked is not None or not commitments.has_unsigned(channel):
        return keep(channel)
    if channel.their_commitment is None or channel.their_next_point is None:
        raise MisuseError("an update before the channel is open")
    changed = evolve(channel, htlcs=commitments.after_signature(channel.htlcs, by_us=True))
    built = build_theirs(changed, channel.their_commitment.number + 1, channel.their_next_point)
    changed = evolve(changed, their_unrevoked=commitments.signed(built), last_sent=LastSent.COMMITMENT_SIGNED)
    message = signature_message(channel, built, env)
    return store(changed, SendMessage(peer=channel.peer, message=message))


def signature_message(channel: Channel, built: commitment.BuiltCommitment, env: Env) -> CommitmentSigned:
    """Our signatures of a commitment of theirs; the same whenever they are made (RFC 6979)."""
    keys = env.keys(channel.key_index)
    return CommitmentSigned(
        channel.channel_id, commitment.sign(built, keys.funding_secret), htlc.sign_htlcs(built, keys.htlc_secret)
    )


def unacknowledged(channel: Channel, env: Env) -> tuple[ChannelMessage, ...]:
    """The updates under our last commitment_signed, and it: what is sent again when it was lost. Removals go first: they
    make room for what was added."""
    if channel.their_unrevoked is None or channel.their_next_point is None:
        raise MisuseError("no commitment_signed is unacknowledged")
    removals = [
        removal_message(channel, each) for each in channel.htlcs if not each.ours and each.stage == Stage.REMOVE_SIGNED
    ]
    additions = [_add_message(channel, each) for each in channel.htlcs if each.ours and each.stage == Stage.ADD_SIGNED]
    built = build_theirs(channel, channel.their_unrevoked.number, channel.their_next_point)
    return (*removals, *additions, signature_message(channel, built, env))


def revocation_message(channel: Channel, env: Env) -> RevokeAndAck:
    """Our last revoke_and_ack: the secret of the commitment before our current one, and the point of the one after it."""
    keys, number = env.keys(channel.key_index), channel.our_number
    return RevokeAndAck(
        channel.channel_id, keys.per_commitment_secret(number - 1), keys.per_commitment_point(number + 1)
    )


# --- the peer's messages ---------------------------------------------------------------------------------------------


def add_received(channel: Channel, message: UpdateAddHtlc, env: Env) -> Step:
    """They offer an HTLC. Nothing is told upward before it is irrevocable."""
    fault = _fault_in_add(channel, message)
    if fault:
        return violation(channel, env, fault)
    added = Htlc(
        id=message.id,
        ours=False,
        amount=Msat(message.amount_msat),
        payment_hash=PaymentHash(message.payment_hash),
        expiry=BlockHeight(message.cltv_expiry),
    )
    return keep(evolve(channel, htlcs=(*channel.htlcs, added), their_next_id=added.id + 1))


def _fault_in_add(channel: Channel, message: UpdateAddHtlc) -> str:
    terms, amount = channel.our_terms, message.amount_msat
    if not (channel.ready_sent and channel.ready_received):
        return "update_add_htlc before channel_ready"
    if channel.their_shutdown is not None:
        return "update_add_htlc after its shutdown"
    if message.id != channel.their_next_id:
        return f"HTLC id {message.id}, {channel.their_next_id} wanted"
    if amount == 0 or amount < terms.htlc_minimum:
        return f"an HTLC of {amount} msat, at least {max(1, terms.htlc_minimum)} wanted"
    if message.cltv_expiry >= LOCKTIME_THRESHOLD:
        return f"an HTLC expiry of {message.cltv_expiry}, a height wanted"
    count, in_flight = pending(channel, ours=False)
    if count >= terms.max_accepted_htlcs:
        return f"more than {terms.max_accepted_htlcs} HTLCs"
    if in_flight + amount > terms.max_in_flight:
        return f"{in_flight + amount} msat in flight, at most {terms.max_in_flight} allowed"
    left = available(channel, ours=False) - amount
    if left < to_msat(terms.reserve):
        return f"an HTLC that leaves it {left} msat, its reserve is {to_msat(terms.reserve)}"
    return ""


def fulfill_received(channel: Channel, message: UpdateFulfillHtlc, env: Env) -> Step:
    """They show the preimage of an HTLC of ours: told upward at once, whatever happens to the channel."""
    place, each = _removable(channel, message.id)
    if each is None:
        return violation(channel, env, f"update_fulfill_htlc for HTLC {message.id}, which it cannot settle")
    if hashlib.sha256(message.preimage).digest() != each.payment_hash:
        return violation(channel, env, f"a wrong preimage for HTLC {message.id}")
    told_before = each.preimage is not None
    settled = replace(each, stage=Stage.REMOVE_SENT, preimage=Preimage(message.preimage), failure=None)
    changed = _with(channel, place, settled)
    if told_before:
        return keep(changed)
    return store(
        changed,
        HtlcFulfilled(
            channel_id=channel.channel_id,
            htlc_id=each.id,
            payment_hash=each.payment_hash,
            preimage=Preimage(message.preimage),
        ),
    )


def fail_received(channel: Channel, message: UpdateFailHtlc, env: Env) -> Step:
    """They give up an HTLC of ours. Nothing is told upward before it is irrevocable (R10)."""
    place, each = _removable(channel, message.id)
    if each is None:
        return violation(channel, env, f"update_fail_htlc for HTLC {message.id}, which it cannot fail")
    return keep(_with(channel, place, replace(each, stage=Stage.REMOVE_SENT, failure=_code(message.code))))


def _removable(channel: Channel, htlc_id: int) -> tuple[int, Htlc | None]:
    """The HTLC of ours that they may remove now: irrevocably committed, and not being removed (BOLT 2)."""
    for place, each in enumerate(channel.htlcs):
        if each.id == htlc_id and each.ours and each.stage == Stage.COMMITTED:
            return place, each
    return -1, None


def _code(raw: int) -> FailureCode:
    try:
        return FailureCode(raw)
    except ValueError:
        return FailureCode.INTERNAL


def signature_received(channel: Channel, message: CommitmentSigned, env: Env) -> Step:
    """They sign our next commitment: checked, and the one before is revoked at once."""
    htlcs = commitments.after_signature(channel.htlcs, by_us=False)
    if htlcs is channel.htlcs:
        return violation(channel, env, "commitment_signed without an update")
    keys, number = env.keys(channel.key_index), channel.our_number + 1
    changed = evolve(channel, htlcs=htlcs)
    built = build_ours(changed, keys, number)
    if not commitment.verify(built, message.signature):
        return violation(channel, env, "invalid signature of our commitment")
    if not htlc.verify_htlcs(built, message.htlc_signatures):
        return violation(channel, env, "invalid signatures of our HTLC transactions")
    changed = evolve(
        changed,
        htlcs=commitments.after_revocation(htlcs, by_us=True),
        our_number=number,
        their_signature=message.signature,
        their_htlc_signatures=message.htlc_signatures,
        last_sent=LastSent.REVOKE_AND_ACK,
    )
    changed = _cleared(changed)
    answer = SendMessage(peer=channel.peer, message=revocation_message(changed, env))
    return store(changed, answer, *_if_balances(channel, changed))


def revocation_received(channel: Channel, message: RevokeAndAck, env: Env) -> Step:
    """They revoke their old commitment: our last signature is acknowledged, and what it covered is one step further."""
    old, new = channel.their_commitment, channel.their_unrevoked
    if old is None or new is None or channel.their_next_point is None:
        return violation(channel, env, "revoke_and_ack without a commitment_signed")
    secret = message.per_commitment_secret
    if not 0 < int.from_bytes(secret, "big") < ORDER or ec.point_of(secret) != channel.their_point:
        return violation(channel, env, "a per-commitment secret that is not of its point")
    if not ec.is_point(message.next_per_commitment_point):
        return violation(channel, env, "a public key that is not on the curve")
    secrets = channel.their_secrets.insert(old.number, secret)
    if secrets is None:
        return violation(channel, env, "a per-commitment secret that does not continue the earlier ones")
    changed = evolve(
        channel,
        htlcs=commitments.after_revocation(channel.htlcs, by_us=False),
        their_commitment=new,
        their_unrevoked=None,
        their_point=channel.their_next_point,
        their_next_point=message.next_per_commitment_point,
        their_secrets=secrets,
    )
    told = _told(channel, changed)
    changed = _cleared(changed)
    changed, refused, received_now = _taken(channel, changed, env)
    return store(
        changed,
        StoreRevoked(channel_id=channel.channel_id, number=old.number, txid=old.txid, record=old.record),
        *refused,
        *told,
        *received_now,
        *_if_balances(channel, changed),
    )


def _told(before: Channel, after: Channel) -> list[ChannelEffect]:
    """HtlcFailed for HTLCs of ours that are now irrevocably removed, unless their preimage was shown (R10)."""
    return [
        HtlcFailed(channel_id=before.channel_id, htlc_id=each.id, payment_hash=each.payment_hash, code=each.failure)
        for each in after.htlcs
        if each.stage == Stage.REMOVED and each.ours and each.failure is not None and each.preimage is None
    ]


def _taken(before: Channel, after: Channel, env: Env) -> tuple[Channel, list[ChannelEffect], list[ChannelEffect]]:
    """What became of the HTLCs of theirs that are now irrevocably committed: refused here, or told upward.

    Gives the channel, the refusals to send, and what is told.
    """
    earlier = {each.id for each in before.htlcs if not each.ours and each.stage >= Stage.COMMITTED}
    refusals: list[ChannelEffect] = []
    told: list[ChannelEffect] = []
    htlcs = list(after.htlcs)
    for place, each in enumerate(htlcs):
        if each.ours or each.stage != Stage.COMMITTED or each.id in earlier:
            continue
        code = _unacceptable(after, each, env)
        if code is None:
            told.append(received(after, each))
            continue
        htlcs[place] = replace(each, stage=Stage.REMOVE_SENT, failure=code)
        refusals.append(SendMessage(peer=after.peer, message=removal_message(after, htlcs[place])))
    if refusals:
        after = evolve(after, htlcs=tuple(htlcs))
    return after, refusals, told


def _unacceptable(channel: Channel, each: Htlc, env: Env) -> FailureCode | None:
    """Lawful, but no: an HTLC of coins that a reorganisation took out of the chain, that we could not claim in time, that
    locks for too long, or that is dust beyond measure."""
    if not channel.deep:
        return FailureCode.NODE_BUSY
    if each.expiry <= env.facts.tip + env.config.settle_margin:
        return FailureCode.EXPIRY_TOO_SOON
    if each.expiry > env.facts.tip + env.config.max_expiry:
        return FailureCode.EXPIRY_TOO_FAR
    if _too_much_dust(channel, each.amount, env, held=True):
        return FailureCode.NODE_BUSY
    return None


def _cleared(channel: Channel) -> Channel:
    """Without the HTLCs that are irrevocably removed; the balances follow."""
    htlcs, gain = commitments.without_removed(channel)
    if len(htlcs) == len(channel.htlcs):
        return channel
    return evolve(
        channel,
        htlcs=htlcs,
        our_balance=Msat(channel.our_balance + gain),
        their_balance=Msat(channel.their_balance - gain),
    )


def _if_balances(before: Channel, after: Channel) -> tuple[ChannelEffect, ...]:
    """ChannelChanged, when what can be sent or received is no longer what it was."""
    if before.our_balance == after.our_balance and len(before.htlcs) == len(after.htlcs):
        return ()
    return (ChannelChanged(channel_id=after.channel_id),)
