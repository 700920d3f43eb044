"""Closing together: shutdown both ways, HTLCs drain, then each side may propose a closing transaction it pays for.

Source: BOLT 2, "Channel Close" with simple close (shutdown, closing_complete, closing_sig). Both sides may propose; the
proposer pays the fee from its own output, so nobody bargains. After a reconnect shutdown is repeated and it begins anew.
"""

from dataclasses import replace

from protocols.channel.commitments import has_unsigned_updates
from protocols.channel.events import ChannelChanged, CloseRequested, Publish, Purpose, SendMessage
from protocols.channel.force import fail, violation
from protocols.channel.state import Channel, ClosingProposal, Phase
from protocols.channel.step import Env, Step, keep, store, then
from protocols.errors import MisuseError
from protocols.onchain import closing
from protocols.onchain.closing import ClosingTerms, Variant
from protocols.onchain.scripts import is_shutdown_script
from protocols.units import FeeRate, Sat
from protocols.wire.channel import ClosingComplete, ClosingSig, Shutdown, Warn

LEAST_FEERATE = FeeRate(1000)  # below it nothing is relayed
MAX_HELD = 8  # closing transactions kept; each replaces the one before it, and only the newest is published


def requested(channel: Channel, event: CloseRequested, env: Env) -> Step:
    """Our user wants to close: together, or by force."""
    if event.force:
        return fail(channel, env, "closed by force at our own request", tell="closed by force", alarm=False)
    if channel.phase not in (Phase.CONFIRMING, Phase.OPEN):
        return keep(channel)
    changed = replace(channel, phase=Phase.SHUTTING)
    return store(changed, ChannelChanged(channel_id=channel.channel_id))


def shutdown_received(channel: Channel, message: Shutdown, env: Env) -> Step:
    """They want to close, or answer that we do, or repeat it after a reconnect."""
    if channel.their_terms is None or not is_shutdown_script(message.script):
        return violation(channel, env, "a shutdown script of no allowed form")
    if message.script != channel.their_terms.shutdown_script:
        return violation(
            channel, env, "a shutdown script other than the one it committed to when the channel was opened"
        )
    if channel.phase is Phase.CLOSING:
        return propose(keep(channel), env)
    if channel.their_shutdown is not None:
        return keep(channel)
    changed = replace(channel, phase=Phase.SHUTTING, their_shutdown=message.script)
    effects = () if channel.phase is Phase.SHUTTING else (ChannelChanged(channel_id=channel.channel_id),)
    return store(changed, *effects)


def continued(step: Step, env: Env) -> Step:
    """Go on with a close as far as it goes now: our shutdown once our updates are signed; a proposal once both have
    said shutdown and no HTLC is left. Called at every `Flush`."""
    channel = step.channel
    if channel is None or channel.phase is not Phase.SHUTTING or not (channel.connected and channel.reestablished):
        return step
    if channel.our_shutdown is None:
        if has_unsigned_updates(channel):
            return step
        script = channel.our_terms.shutdown_script
        channel = replace(channel, our_shutdown=script)
        message = SendMessage(peer=channel.peer, message=Shutdown(channel.channel_id, script))
        step = then(step, store(channel, message))
    if channel.their_shutdown is None or channel.htlcs:
        return step
    channel = replace(channel, phase=Phase.CLOSING)
    step = then(step, store(channel, ChannelChanged(channel_id=channel.channel_id)))
    return propose(step, env)


def propose(step: Step, env: Env) -> Step:
    """closing_complete, if we can pay a fee that is relayed. Volatile: nothing is bound that the shutdown did not bind."""
    channel = step.channel
    if channel is None:
        raise MisuseError("a proposal to close a channel that is gone")
    wanted = closing.closing_fee(*_scripts(channel), env.facts.feerate)
    least = closing.closing_fee(*_scripts(channel), LEAST_FEERATE)
    balance = channel.our_balance // 1000
    # Nothing hurries, and the chain's estimate may be mad: half of what is ours at most, unless the floor itself is more.
    fee = Sat(min(wanted, max(balance // 2, least), balance))
    terms = _terms(channel, closer_is_us=True, fee=fee, locktime=env.facts.tip)
    variants = closing.variants_to_sign(terms) if fee >= least else ()
    if not variants:
        return step
    keys = env.keys(channel.key_index)
    signatures = {each: closing.sign(closing.build(terms, each), keys.funding_secret) for each in variants}
    message = ClosingComplete(
        channel.channel_id,
        terms.closer_script,
        terms.closee_script,
        fee,
        terms.locktime,
        signatures.get(Variant.CLOSER_ONLY, b""),
        signatures.get(Variant.CLOSEE_ONLY, b""),
        signatures.get(Variant.BOTH, b""),
    )
    changed = replace(channel, proposal=ClosingProposal(fee=fee, locktime=terms.locktime))
    return Step(changed, (*step.effects, SendMessage(peer=channel.peer, message=message)))


def complete_received(channel: Channel, message: ClosingComplete, env: Env) -> Step:
    """Their proposal: checked, signed, published. It costs us nothing, whatever its fee."""
    ours, theirs = _scripts(channel)
    if (message.closer_script, message.closee_script) != (theirs, ours):
        return _warned(channel, "closing_complete with other scripts than the shutdowns'")
    fee = Sat(message.fee_sat)
    terms = _terms(channel, closer_is_us=False, fee=fee, locktime=message.locktime)
    if message.locktime > env.facts.tip + 1:
        return _warned(channel, f"closing_complete with a locktime of {message.locktime}, not final yet")
    offered = _signatures(message)
    variant = closing.variant_to_accept(terms, offered)
    if variant is None:
        return _warned(channel, "closing_complete whose fee or variants break the rules")
    built = closing.build(terms, variant)
    if not closing.verify(built, terms.closer_pubkey, offered[variant]):
        return violation(channel, env, "invalid signature of a closing transaction")
    signature = closing.sign(built, env.keys(channel.key_index).funding_secret)
    changed = _holding(channel, closing.finalize(built, offered[variant], signature))
    answer = ClosingSig(
        channel.channel_id,
        message.closer_script,
        message.closee_script,
        message.fee_sat,
        message.locktime,
        **{each.value: signature if each is variant else b"" for each in Variant},
    )
    return store(changed, SendMessage(peer=channel.peer, message=answer), *publications(changed))


def sig_received(channel: Channel, message: ClosingSig, env: Env) -> Step:
    """Their signature of our proposal: published. An answer to an older proposal is ignored."""
    proposal = channel.proposal
    ours, theirs = _scripts(channel)
    repeated = (message.closer_script, message.closee_script) == (ours, theirs)
    if proposal is None or not repeated or (message.fee_sat, message.locktime) != (proposal.fee, proposal.locktime):
        return keep(channel)
    terms = _terms(channel, closer_is_us=True, fee=proposal.fee, locktime=proposal.locktime)
    answered = _signatures(message)
    if len(answered) != 1 or not answered.keys() <= set(closing.variants_to_sign(terms)):
        return _warned(channel, "closing_sig without exactly one of the signatures that were asked for")
    ((variant, signature),) = answered.items()
    built = closing.build(terms, variant)
    if not closing.verify(built, terms.closee_pubkey, signature):
        return violation(channel, env, "invalid signature of a closing transaction")
    own = closing.sign(built, env.keys(channel.key_index).funding_secret)
    changed = _holding(replace(channel, proposal=None), closing.finalize(built, own, signature))
    return store(changed, *publications(changed))


def publications(channel: Channel) -> tuple[Publish, ...]:
    """The closing transactions that we hold, each side's newest, unless a spend of the funding is confirmed. The network
    decides which of two stands."""
    if channel.close is not None and channel.close.height is not None:
        return ()
    return tuple(
        Publish(channel_id=channel.channel_id, transaction=each, purpose=Purpose.MUTUAL_CLOSE)
        for each in channel.closing_transactions[-1:]
    )


def _holding(channel: Channel, transaction: bytes) -> Channel:
    others = tuple(each for each in channel.closing_transactions if each != transaction)
    return replace(channel, closing_transactions=(*others, transaction)[-MAX_HELD:])


def _scripts(channel: Channel) -> tuple[bytes, bytes]:
    if channel.our_shutdown is None or channel.their_shutdown is None:
        raise MisuseError("a closing transaction before both shutdowns")
    return channel.our_shutdown, channel.their_shutdown


def _terms(channel: Channel, *, closer_is_us: bool, fee: Sat, locktime: int) -> ClosingTerms:
    if channel.funding is None or channel.their_points is None:
        raise MisuseError("a closing transaction before the funding is known")
    ours = (channel.our_points.funding_pubkey, channel.our_balance, _scripts(channel)[0])
    theirs = (channel.their_points.funding_pubkey, channel.their_balance, _scripts(channel)[1])
    closer, closee = (ours, theirs) if closer_is_us else (theirs, ours)
    return ClosingTerms(
        funding_txid=channel.funding.txid,
        funding_index=channel.funding.index,
        capacity=channel.capacity,
        closer_pubkey=closer[0],
        closee_pubkey=closee[0],
        closer_balance=closer[1],
        closee_balance=closee[1],
        closer_script=closer[2],
        closee_script=closee[2],
        fee=fee,
        locktime=locktime,
    )


def _signatures(message: ClosingComplete | ClosingSig) -> dict[Variant, bytes]:
    given = {each: getattr(message, each.value) for each in Variant}
    return {each: signature for each, signature in given.items() if signature}


def _warned(channel: Channel, text: str) -> Step:
    """Nothing is closed for it; a proposal that is lawful may still come."""
    return keep(channel, SendMessage(peer=channel.peer, message=Warn(channel.channel_id, text)))
