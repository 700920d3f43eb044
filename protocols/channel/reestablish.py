"""The link is lost, and stands again: what is forgotten, what is said first, what is sent once more.

Source: BOLT 2, "Message Retransmission". Both sides go back to what their signatures cover; channel_reestablish says
which commitment_signed and revoke_and_ack each expects next, and so which of the other's last messages were lost.

One thing goes beyond BOLT 2: a funder that sent funding_created and has no funding_signed does not forget. It says
channel_reestablish with next_commitment_number 0 (it has no signature at all); a fundee that signed repeats funding_signed,
one that never got funding_created answers that it knows no such channel, and then the funder forgets.
"""

from dataclasses import replace

from protocols.channel import updates
from protocols.channel.commitments import at_stage
from protocols.channel.events import Alarm, ChannelChanged, ChannelEffect, SendMessage
from protocols.channel.force import unsigned_gone, violation
from protocols.channel.opening import abandon, ready_message, signed_message
from protocols.channel.state import UPDATING, Channel, LastSent, Phase, Stage
from protocols.channel.step import Env, Step, keep, store
from protocols.errors import MisuseError
from protocols.onchain import ec
from protocols.wire.channel import ChannelMessage, ChannelReestablish, Error, Shutdown

NO_SECRET = bytes(32)


def link_down(channel: Channel, env: Env) -> Step:
    """The stream is gone. Before funding_signed the channel ends; later the unsigned updates of both sides go."""
    return _rolled_back(channel, connected=False)


def opening_lost(channel: Channel, env: Env) -> Step:
    """Before funding_signed nothing is at stake: both sides forget (BOLT 2)."""
    return abandon(channel, "the link to the neighbour was lost", tell=None)


def link_up(channel: Channel, env: Env) -> Step:
    """The stream stands, perhaps after a restart: channel_reestablish is our first word on this channel."""
    step = _rolled_back(channel, connected=True)
    if step.channel is None:
        raise MisuseError("a channel that is re-established is gone")
    message = SendMessage(peer=channel.peer, message=greeting(step.channel, env))
    return Step(step.channel, (*step.effects, message))


def link_up_unsigned(channel: Channel, env: Env) -> Step:
    """The funder asks for the funding_signed that was lost."""
    greeted = ChannelReestablish(
        channel.channel_id, 0, 0, NO_SECRET, env.keys(channel.key_index).per_commitment_point(0)
    )
    changed = replace(channel, connected=True, reestablished=True)
    return keep(changed, SendMessage(peer=channel.peer, message=greeted))


def link_up_failed(channel: Channel, env: Env) -> Step:
    """A failed channel has one thing to say (BOLT 1): why. After a loss of data: please close."""
    changed = replace(channel, connected=True, reestablished=False)
    if not channel.failure:
        return keep(changed)
    return keep(changed, SendMessage(peer=channel.peer, message=Error(channel.channel_id, channel.failure[:256])))


def link_down_failed(channel: Channel, env: Env) -> Step:
    """Nothing to forget."""
    return keep(replace(channel, connected=False, reestablished=False))


def _rolled_back(channel: Channel, *, connected: bool) -> Step:
    """Without the unsigned updates. On disk only if what it says of our own has changed."""
    changed, effects = unsigned_gone(channel)
    stored = changed is not channel
    was_there = channel.connected and channel.reestablished
    changed = replace(changed, connected=connected, reestablished=False, proposal=None)
    if was_there:
        effects.append(ChannelChanged(channel_id=channel.channel_id))
    return store(changed, *effects) if stored else keep(changed, *effects)


def greeting(channel: Channel, env: Env) -> ChannelReestablish:
    """Our channel_reestablish."""
    if channel.their_commitment is None:
        raise MisuseError("channel_reestablish before the funding is signed")
    revoked = channel.their_commitment.number  # as many as they revoked: 0 to number - 1
    return ChannelReestablish(
        channel.channel_id,
        channel.our_number + 1,
        revoked,
        (channel.their_secrets.get(revoked - 1) or NO_SECRET) if revoked else NO_SECRET,
        env.keys(channel.key_index).per_commitment_point(channel.our_number),
    )


def received(channel: Channel, message: ChannelReestablish, env: Env) -> Step:
    """Their channel_reestablish: compare, and send again what they have not got, in the order of before."""
    if channel.their_commitment is None:
        raise MisuseError("channel_reestablish before the funding is signed")
    if not channel.connected or channel.reestablished:
        return keep(channel)
    secret_fault = _fault_in_secret(channel, message, env)
    if message.next_revocation_number > channel.our_number and not secret_fault:
        return _data_lost(channel)
    unsigned = _is_unsigned(channel, message)
    fault = secret_fault or ("" if unsigned else _fault_in_numbers(channel, message))
    if fault:
        return violation(channel, env, fault)
    step = _resumed(channel, message, env)
    if not unsigned:
        return step
    return Step(step.channel, (SendMessage(peer=channel.peer, message=signed_message(channel, env)), *step.effects))


def _is_unsigned(channel: Channel, message: ChannelReestablish) -> bool:
    """Whether a funder asks for funding_signed, at a time when it can still be without."""
    fresh = channel.phase is Phase.CONFIRMING and not channel.we_fund and not channel.ready_received
    return fresh and (message.next_commitment_number, message.next_revocation_number) == (0, 0)


def _fault_in_secret(channel: Channel, message: ChannelReestablish, env: Env) -> str:
    """Whether the last of our secrets that they claim to have is one."""
    number = message.next_revocation_number
    if not ec.is_point(message.my_current_per_commitment_point):
        return "a public key that is not on the curve"
    if number == 0:
        return "" if message.your_last_per_commitment_secret == NO_SECRET else "a secret that we never revealed"
    if number > 2**48:
        return f"a revocation number of {number}"
    expected = env.keys(channel.key_index).per_commitment_secret(number - 1)
    if message.your_last_per_commitment_secret != expected:
        return f"a secret that is not of our commitment {number - 1}"
    return ""


def _fault_in_numbers(channel: Channel, message: ChannelReestablish) -> str:
    """Numbers that no loss of one message can explain: one of us has lost data, and not provably we."""
    current = channel.their_commitment.number if channel.their_commitment else 0
    newest = channel.their_unrevoked.number if channel.their_unrevoked else current
    commitment, revocation = message.next_commitment_number, message.next_revocation_number
    if not current + 1 <= commitment <= newest + 1:
        return f"it expects commitment {commitment}, {newest + 1} is next"
    if not channel.our_number - 1 <= revocation <= channel.our_number:
        return f"it expects revocation {revocation}, {channel.our_number} is next"
    return ""


def _data_lost(channel: Channel) -> Step:
    """They know a secret that we do not remember revealing: our state is old, and publishing it would be punished.
    Only they can close, and are asked to; our balance there pays to our wallet's own key."""
    text = "our record of this channel is older than the neighbour's: it must close it, we must not"
    changed = replace(
        channel, phase=Phase.LOST, failure="lost data: please publish your commitment", reestablished=True
    )
    return store(
        changed,
        SendMessage(peer=channel.peer, message=Error(channel.channel_id, changed.failure)),
        Alarm(channel_id=channel.channel_id, text=text),
        ChannelChanged(channel_id=channel.channel_id),
    )


def _resumed(channel: Channel, message: ChannelReestablish, env: Env) -> Step:
    again: list[ChannelMessage] = []
    if channel.ready_sent and message.next_commitment_number <= 1 and channel.our_number == 0:
        again.append(ready_message(channel, env))
    commit: tuple[ChannelMessage, ...] = ()
    if channel.their_unrevoked is not None and message.next_commitment_number == channel.their_unrevoked.number:
        commit = updates.unacknowledged(channel, env)
    revoke: tuple[ChannelMessage, ...] = ()
    if message.next_revocation_number == channel.our_number - 1:
        revoke = (updates.revocation_message(channel, env),)
    # In the order of before: a signature made after a revocation covers what that revocation moved on.
    again += (*commit, *revoke) if channel.last_sent is LastSent.REVOKE_AND_ACK else (*revoke, *commit)
    changed = replace(channel, reestablished=True)
    if changed.phase in UPDATING:
        changed, decided = _decided_anew(changed)
        again += decided
    if changed.our_shutdown is not None:
        again.append(Shutdown(channel.channel_id, changed.our_shutdown))
    effects: list[ChannelEffect] = [SendMessage(peer=channel.peer, message=each) for each in again]
    effects.append(ChannelChanged(channel_id=channel.channel_id))
    return keep(changed, *effects) if changed.htlcs == channel.htlcs else store(changed, *effects)


def _decided_anew(channel: Channel) -> tuple[Channel, list[ChannelMessage]]:
    """What we settled or failed, unsigned when the link was lost, or while it was: sent (again)."""
    messages: list[ChannelMessage] = []
    htlcs = list(channel.htlcs)
    for place, each in enumerate(htlcs):
        if each.ours or each.stage != Stage.COMMITTED or (each.preimage is None and each.failure is None):
            continue
        htlcs[place] = at_stage(each, Stage.REMOVE_SENT)
        messages.append(updates.removal_message(channel, each))
    return (replace(channel, htlcs=tuple(htlcs)) if messages else channel), messages
