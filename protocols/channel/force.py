"""Leaving by the chain: when it must be, what to publish, and what the resolution of a close needs to know.

Source: BOLT 2 and BOLT 5 ("Failing a Channel"), DESIGN 6 and 9. What follows a spend of the funding output is
`protocols.watch.resolve`'s; here are its call sites.
"""

from dataclasses import dataclass, replace

from protocols.channel.commitments import build_ours, params_of, spec_of
from protocols.channel.events import (
    Alarm,
    ChannelChanged,
    ChannelConfig,
    ChannelEffect,
    HtlcFailed,
    PublishWithInputs,
    Purpose,
    SendMessage,
)
from protocols.channel.state import BEFORE_FUNDING, Channel, Htlc, Phase, Stage
from protocols.channel.step import Env, Step, keep, store
from protocols.errors import MisuseError
from protocols.onchain import commitment, htlc
from protocols.onchain.keys import ChannelKeys
from protocols.units import BlockHeight
from protocols.watch import resolve
from protocols.watch.resolve import CloseEvent
from protocols.watch.state import Close, Context, LiveHtlc, SpendKind, TheirCommitment
from protocols.wire.channel import Error, FailureCode

MAX_TEXT = 256  # of the wire's Text
UNHURRIED = 144  # blocks within which a commitment without HTLCs should confirm


def deadline(channel: Channel, config: ChannelConfig) -> BlockHeight | None:
    """The height at which the chain must be used, None while nothing is at stake.

    An HTLC of ours that the peer may still claim: `timeout_grace` after its expiry. One of theirs whose preimage we
    released: `settle_margin` before its expiry, for after it the peer may take it back.
    """
    if channel.phase in BEFORE_FUNDING or channel.phase in (Phase.LOST, Phase.CLOSED):
        return None
    heights = [height for each in channel.htlcs if (height := _deadline_of(each, config)) is not None]
    return min(heights, default=None)


def _deadline_of(each: Htlc, config: ChannelConfig) -> BlockHeight | None:
    if each.ours:
        # Once they have shown the preimage the money is theirs whatever happens: waiting costs us nothing.
        if each.stage == Stage.ADD_SENT or each.preimage is not None:
            return None
        return BlockHeight(each.expiry + config.timeout_grace)
    if each.preimage is None or each.stage > Stage.REMOVE_REVOKED:
        return None
    return BlockHeight(each.expiry - config.settle_margin)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForceClose:
    """Our commitment, whole, and the HTLC transactions that may follow it (a timeout not before its locktime)."""

    transaction: bytes
    anchor_index: int
    htlcs: tuple[PublishWithInputs, ...]


def force_close_transactions(channel: Channel, keys: ChannelKeys) -> ForceClose | None:
    """Our current commitment with both signatures, and its HTLC transactions: success where we have the preimage, timeout
    for what we offered. None when there is none that may be published (not funded, or our record is known to be old)."""
    if channel.phase in (Phase.LOST, Phase.CLOSED) or not channel.their_signature:
        return None
    built = build_ours(channel, keys, channel.our_number)
    transaction = commitment.finalize(built, commitment.sign(built, keys.funding_secret), channel.their_signature)
    preimages = {each.id: each.preimage for each in channel.htlcs if not each.ours}
    second = []
    for (index, spec), signature in zip(built.htlc_outputs, channel.their_htlc_signatures, strict=True):
        preimage = None if spec.offered else preimages[spec.id]
        if not spec.offered and preimage is None:
            continue
        second.append(
            PublishWithInputs(
                channel_id=channel.channel_id,
                transaction=htlc.htlc_transaction(
                    built,
                    index,
                    their_signature=signature,
                    htlc_basepoint_secret=keys.htlc_secret,
                    preimage=preimage,
                ),
                purpose=Purpose.HTLC_TIMEOUT if spec.offered else Purpose.HTLC_SUCCESS,
                spent_value=built.outputs[index].value,
                deadline=BlockHeight(spec.expiry + (UNHURRIED if spec.offered else 0)),
            )
        )
    return ForceClose(transaction=transaction, anchor_index=built.anchor_index, htlcs=tuple(second))


def violation(channel: Channel, env: Env, text: str) -> Step:
    """The peer broke a rule of BOLT 2: error sent, channel failed, our commitment published; a person is told."""
    return fail(channel, env, f"the neighbour broke a rule: {text}", tell=text, alarm=True)


def fail(channel: Channel, env: Env, reason: str, *, tell: str | None, alarm: bool) -> Step:
    """Fail a funded channel: tell the peer, close by force. Nothing when that is under way already.

    Args:
        reason: for us and for people.
        tell: the text of the Error that the peer gets, None: it gets none.
        alarm: whether a person should look at it.
    """
    if channel.phase in BEFORE_FUNDING:
        raise MisuseError("a channel without funding cannot be closed by force")
    effects: list[ChannelEffect] = []
    if tell is not None and channel.connected:
        effects.append(SendMessage(peer=channel.peer, message=Error(channel.channel_id, tell[:MAX_TEXT])))
    if channel.phase in (Phase.LOST, Phase.FORCED, Phase.CLOSED):
        return keep(channel, *effects)
    channel, gone = unsigned_gone(replace(channel, phase=Phase.FORCED, failure=reason, proposal=None))
    close, orders = resolve.force(channel.close or Close(), context(channel, env), env.facts)
    effects += gone
    if alarm:
        effects.append(Alarm(channel_id=channel.channel_id, text=reason))
    effects.append(ChannelChanged(channel_id=channel.channel_id))
    return store(replace(channel, close=close), *orders, *effects)


def unsigned_gone(channel: Channel) -> tuple[Channel, list[ChannelEffect]]:
    """Without the updates that no signature covers: theirs are forgotten (BOLT 2), ours are off.

    An HTLC of ours that we never signed is on no commitment and never can be: it has failed, at once and for good
    (R10), and its id is used again. What we settled or failed is sent anew when the channel is re-established.
    """
    kept, effects = [], list[ChannelEffect]()
    our_next, their_next = channel.our_next_id, channel.their_next_id
    for each in channel.htlcs:
        if each.stage == Stage.ADD_SENT:
            if each.ours:
                our_next = min(our_next, each.id)
                effects.append(
                    HtlcFailed(
                        channel_id=channel.channel_id,
                        htlc_id=each.id,
                        payment_hash=each.payment_hash,
                        code=FailureCode.NODE_BUSY,
                    )
                )
            else:
                their_next = min(their_next, each.id)
            continue
        if each.stage == Stage.REMOVE_SENT:
            failure = None if each.ours else each.failure
            each = replace(each, stage=Stage.COMMITTED, failure=failure)
        kept.append(each)
    if tuple(kept) == channel.htlcs:
        return channel, effects
    return replace(channel, htlcs=tuple(kept), our_next_id=our_next, their_next_id=their_next), effects


def context(channel: Channel, env: Env) -> Context:
    """What resolving needs to know of this channel now."""
    theirs = []
    if channel.their_commitment is not None:
        current = spec_of(
            channel, channel.their_commitment.number, ours=False, older=channel.their_unrevoked is not None
        )
        theirs.append(TheirCommitment(spec=current, point=channel.their_point))
    if channel.their_unrevoked is not None and channel.their_next_point is not None:
        newest = spec_of(channel, channel.their_unrevoked.number, ours=False)
        theirs.append(TheirCommitment(spec=newest, point=channel.their_next_point))
    scripts = (channel.our_shutdown, channel.their_shutdown)
    return Context(
        channel_id=channel.channel_id,
        keys=env.keys(channel.key_index),
        our_params=params_of(channel, ours=True),
        their_params=params_of(channel, ours=False),
        ours=spec_of(channel, channel.our_number, ours=True),
        their_signature=channel.their_signature,
        their_htlc_signatures=channel.their_htlc_signatures,
        theirs=tuple(theirs),
        their_secrets=channel.their_secrets,
        htlcs=tuple(
            LiveHtlc(
                id=each.id,
                ours=each.ours,
                amount=each.amount,
                payment_hash=each.payment_hash,
                expiry=each.expiry,
                preimage=each.preimage,
                given_up=not each.ours and each.failure is not None and each.preimage is None,
            )
            for each in channel.htlcs
            if each.stage != Stage.ADD_SENT
        ),
        closing_scripts=tuple(script for script in scripts if script is not None),
        may_publish=channel.phase is not Phase.LOST,
        buried_depth=env.config.buried_depth,
        settle_margin=env.config.settle_margin,
    )


def advance(channel: Channel, event: CloseEvent, env: Env) -> Step:
    """Hand an event to the resolution of this channel's end, and follow what became of it."""
    before = channel.close or Close()
    close, effects = resolve.advance(before, event, context(channel, env), env.facts)
    if close.kind is None and close.forced_at is None and channel.phase is Phase.FORCED:
        # The peer's commitment vanished (reorganisation, replaced): the channel has failed, so ours goes out.
        close, orders = resolve.force(close, context(channel, env), env.facts)
        effects = [*effects, *orders]
    phase = _phase_of(channel, close)
    if close == channel.close and phase is channel.phase:
        return keep(channel, *effects)
    changed = replace(channel, close=close, phase=phase)
    if phase is not channel.phase:
        effects = [*effects, ChannelChanged(channel_id=channel.channel_id)]
    return store(changed, *effects)


def _phase_of(channel: Channel, close: Close) -> Phase:
    if close.resolved:
        return Phase.CLOSED
    if close.kind is SpendKind.MUTUAL:
        return Phase.CLOSING
    if channel.phase is Phase.LOST or (close.kind is None and close.forced_at is None):
        return channel.phase
    return Phase.FORCED
