"""From nothing to a channel that is open: open_channel, accept_channel, funding, confirmations, channel_ready.

Source: BOLT 2, "Channel Establishment"; DESIGN 6. Before funding_created nothing is at stake, so a lost link ends it.
"""

from dataclasses import replace
from typing import Any

from protocols.channel.commitments import build_ours, build_theirs, signed
from protocols.channel.events import (
    Alarm,
    BuildFunding,
    ChannelChanged,
    ChannelConfig,
    ChannelEffect,
    ForgetChannel,
    FundingBuilt,
    FundingFailed,
    OpenRequested,
    Outpoint,
    Publish,
    Purpose,
    ReleaseFunding,
    SendMessage,
    StoreChannel,
    TxConfirmed,
    TxUnconfirmed,
    WatchOutpoint,
    WatchTx,
)
from protocols.channel.force import MAX_TEXT, fail, violation
from protocols.channel.state import Channel, Phase, Terms
from protocols.channel.step import Env, Step, keep, store
from protocols.errors import MisuseError
from protocols.ids import ChannelId, PeerId, Txid, channel_id_of
from protocols.onchain import commitment, ec
from protocols.onchain.funding import COINBASE_MATURITY, funding_output_script, is_block_reward, pays_funding
from protocols.onchain.keys import BasePoints, ChannelKeys, payout_script
from protocols.onchain.scripts import is_shutdown_script
from protocols.onchain.tx import txid_of
from protocols.units import PPM, BlockDelta, Msat, Sat, to_msat
from protocols.wire.channel import (
    MAX_HTLCS,
    AcceptChannel,
    ChannelReady,
    Error,
    FundingCreated,
    FundingSigned,
    OpenChannel,
)

LEAST_DUST_LIMIT = Sat(354)  # below it an output is not relayed, whatever its script (BOLT 3, "Dust Limits")
ALWAYS_ALLOWED_DUST_LIMIT = Sat(1000)  # twice what any node asks for; larger ones as far as dust is tolerated
MOST_RESERVE = 5  # a fifth of the capacity
MOST_MINIMUM = 20  # an HTLC minimum of a twentieth of the capacity
LEAST_IN_FLIGHT = 20  # a twentieth of the capacity
MOST_DEPTH = 2016  # blocks that the peer may want to wait


def our_terms(config: ChannelConfig, capacity: Sat, keys: ChannelKeys) -> Terms:
    """What we announce for a channel of this capacity."""
    return Terms(
        dust_limit=config.dust_limit,
        max_in_flight=Msat(to_msat(capacity) * config.max_in_flight_ppm // PPM),
        reserve=Sat(max(-(-capacity * config.reserve_ppm // PPM), config.dust_limit)),
        htlc_minimum=config.htlc_minimum,
        to_self_delay=config.to_self_delay,
        max_accepted_htlcs=min(config.max_accepted_htlcs, MAX_HTLCS),
        shutdown_script=payout_script(keys.payment_basepoint),
    )


def _announcement(terms: Terms, keys: ChannelKeys) -> dict[str, Any]:
    """The fields that open_channel and accept_channel share, as we fill them; the other way round is `_announced`."""
    points = keys.points
    return {
        "dust_limit_sat": terms.dust_limit,
        "max_htlc_value_in_flight_msat": terms.max_in_flight,
        "channel_reserve_sat": terms.reserve,
        "htlc_minimum_msat": terms.htlc_minimum,
        "to_self_delay": terms.to_self_delay,
        "max_accepted_htlcs": terms.max_accepted_htlcs,
        "funding_pubkey": points.funding_pubkey,
        "revocation_basepoint": points.revocation,
        "payment_basepoint": points.payment,
        "delayed_payment_basepoint": points.delayed_payment,
        "htlc_basepoint": points.htlc,
        "first_per_commitment_point": keys.per_commitment_point(0),
        "shutdown_script": terms.shutdown_script,
    }


def _announced(message: OpenChannel | AcceptChannel) -> tuple[Terms, BasePoints]:
    terms = Terms(
        dust_limit=Sat(message.dust_limit_sat),
        max_in_flight=Msat(message.max_htlc_value_in_flight_msat),
        reserve=Sat(message.channel_reserve_sat),
        htlc_minimum=Msat(message.htlc_minimum_msat),
        to_self_delay=BlockDelta(message.to_self_delay),
        max_accepted_htlcs=message.max_accepted_htlcs,
        shutdown_script=message.shutdown_script,
    )
    points = BasePoints(
        funding_pubkey=message.funding_pubkey,
        revocation=message.revocation_basepoint,
        payment=message.payment_basepoint,
        delayed_payment=message.delayed_payment_basepoint,
        htlc=message.htlc_basepoint,
    )
    return terms, points


def fault_in(
    message: OpenChannel | AcceptChannel, ours: Terms, own: BasePoints, config: ChannelConfig, capacity: Sat, push: Msat
) -> str:
    """Why the peer's terms cannot be taken (BOLT 2: "MUST fail the channel if"), "" when they can."""
    terms, points = _announced(message)
    keys = (
        points.funding_pubkey,
        points.revocation,
        points.payment,
        points.delayed_payment,
        points.htlc,
        message.first_per_commitment_point,
    )
    funder, fundee = to_msat(capacity) - push, push
    of_funder, of_fundee = (
        (ours.reserve, terms.reserve) if isinstance(message, OpenChannel) else (terms.reserve, ours.reserve)
    )
    # On its own commitments the peer trims our balance, too, while that is below its dust limit: that much can be lost.
    most_dust = max(ALWAYS_ALLOWED_DUST_LIMIT, config.max_dust_exposure // 1000)
    checks = (
        (all(ec.is_point(key) for key in keys), "a public key that is not on the curve"),
        (points.funding_pubkey != own.funding_pubkey, "our own funding key"),
        (terms.dust_limit >= LEAST_DUST_LIMIT, f"a dust limit of {terms.dust_limit} sat, at least {LEAST_DUST_LIMIT} wanted"),
        (terms.dust_limit <= terms.reserve, f"a dust limit of {terms.dust_limit} sat above its own reserve of {terms.reserve}"),
        (terms.dust_limit <= ours.reserve, f"a dust limit of {terms.dust_limit} sat above the reserve of {ours.reserve} sat that we ask"),
        (terms.dust_limit <= most_dust, f"a dust limit of {terms.dust_limit} sat, at most {most_dust} allowed"),
        (terms.reserve >= ours.dust_limit, f"a reserve of {terms.reserve} sat below our dust limit of {ours.dust_limit}"),
        (terms.reserve * MOST_RESERVE <= capacity, f"a reserve of {terms.reserve} sat, at most 1/{MOST_RESERVE} of the capacity allowed"),
        (terms.to_self_delay <= config.maximum_to_self_delay, f"a to_self_delay of {terms.to_self_delay} blocks, at most {config.maximum_to_self_delay} allowed"),
        (terms.to_self_delay >= 1, "a to_self_delay of 0 blocks"),
        (1 <= terms.max_accepted_htlcs <= MAX_HTLCS, f"max_accepted_htlcs {terms.max_accepted_htlcs}, 1 to {MAX_HTLCS} wanted"),
        (terms.htlc_minimum * MOST_MINIMUM <= to_msat(capacity), f"an HTLC minimum of {terms.htlc_minimum} msat, at most 1/{MOST_MINIMUM} of the capacity allowed"),
        (terms.max_in_flight * LEAST_IN_FLIGHT >= to_msat(capacity), f"at most {terms.max_in_flight} msat in flight, at least 1/{LEAST_IN_FLIGHT} of the capacity wanted"),
        (is_shutdown_script(terms.shutdown_script), "a shutdown script of no allowed form"),
        (funder > to_msat(of_funder) or fundee > to_msat(of_fundee), "neither side would have more than its reserve"),
    )  # fmt: skip
    return next((text for holds, text in checks if not holds), "")


# --- the funder ------------------------------------------------------------------------------------------------------


def request(event: OpenRequested, env: Env) -> Step:
    """Our user wants a channel: open_channel goes out, or an Alarm says why not."""
    keys, config = env.keys(event.key_index), env.config
    reason = ""
    if not config.minimum_capacity <= event.capacity <= config.maximum_capacity:
        reason = f"a capacity of {event.capacity} sat, {config.minimum_capacity} to {config.maximum_capacity} allowed"
    elif not 0 <= event.push <= to_msat(event.capacity):
        reason = f"a push of {event.push} msat from a capacity of {event.capacity} sat"
    elif not env.accepts_chain:
        reason = "the chain cannot be reached"
    if reason:
        return keep(None, Alarm(channel_id=event.temporary_id, text=f"no channel was opened: {reason}"))
    terms = our_terms(config, event.capacity, keys)
    channel = Channel(
        channel_id=event.temporary_id,
        peer=event.peer,
        asset=env.asset,
        key_index=event.key_index,
        phase=Phase.OPENING,
        we_fund=True,
        capacity=event.capacity,
        push=event.push,
        opened_tip=env.facts.tip,
        our_terms=terms,
        our_points=keys.points,
        our_balance=Msat(to_msat(event.capacity) - event.push),
        their_balance=event.push,
        minimum_depth=config.funding_depth,
        connected=True,
        reestablished=True,
    )
    message = OpenChannel(
        chain=env.asset,
        temporary_channel_id=event.temporary_id,
        funding_sat=event.capacity,
        push_msat=event.push,
        **_announcement(terms, keys),
    )
    return store(channel, SendMessage(peer=event.peer, message=message), ChannelChanged(channel_id=channel.channel_id))


def accept_received(channel: Channel, message: AcceptChannel, env: Env) -> Step:
    """They accept: the wallet shall build the funding, or their terms are refused."""
    fault = fault_in(message, channel.our_terms, channel.our_points, env.config, channel.capacity, channel.push)
    if not fault and message.minimum_depth > MOST_DEPTH:
        fault = f"a minimum depth of {message.minimum_depth} blocks, at most {MOST_DEPTH} allowed"
    if fault:
        return abandon(channel, f"the neighbour answered with {fault}", tell=fault)
    terms, points = _announced(message)
    changed = replace(
        channel,
        phase=Phase.FUNDING,
        their_terms=terms,
        their_points=points,
        their_point=message.first_per_commitment_point,
    )
    script = funding_output_script(channel.our_points, points)
    return store(
        changed,
        BuildFunding(channel_id=channel.channel_id, script=script, amount=channel.capacity),
        ChannelChanged(channel_id=channel.channel_id),
    )


def funding_built(channel: Channel, event: FundingBuilt, env: Env) -> Step:
    """The wallet's transaction is there: their first commitment is signed. Nothing is published before theirs came back."""
    if not pays_funding(event.transaction, event.output_index, funding_script(channel), channel.capacity):
        raise MisuseError("the wallet's transaction does not pay the funding output")
    old_id = channel.channel_id
    txid = txid_of(event.transaction)
    channel = replace(
        channel,
        channel_id=channel_id_of(txid, event.output_index),
        phase=Phase.SIGNING,
        funding=Outpoint(txid=txid, index=event.output_index),
        funding_transaction=event.transaction,
    )
    keys = env.keys(channel.key_index)
    built = build_theirs(channel, 0, channel.their_point)
    channel = replace(channel, their_commitment=signed(built))
    message = FundingCreated(
        temporary_channel_id=old_id,
        funding_txid=txid,
        funding_output_index=event.output_index,
        signature=commitment.sign(built, keys.funding_secret),
    )
    return Step(
        channel,
        (
            StoreChannel(channel=channel, replaces=old_id),
            SendMessage(peer=channel.peer, message=message),
            ChannelChanged(channel_id=channel.channel_id),
        ),
    )


def funding_failed(channel: Channel, event: FundingFailed, env: Env) -> Step:
    """The wallet cannot: the peer is told, and nothing remains."""
    return abandon(channel, event.reason, tell="the channel is not funded after all")


def signed_received(channel: Channel, message: FundingSigned, env: Env) -> Step:
    """Their signature of our first commitment: with it on disk, our coins have a way back, and the funding goes out."""
    built = build_ours(channel, env.keys(channel.key_index), 0)
    if not commitment.verify(built, message.signature):
        return abandon(channel, "the neighbour signed our first commitment wrongly", tell="invalid signature")
    channel = replace(channel, phase=Phase.CONFIRMING, their_signature=message.signature)
    return store(channel, publish_funding(channel), *watches(channel), ChannelChanged(channel_id=channel.channel_id))


def publish_funding(channel: Channel) -> Publish:
    """The funding transaction that we built."""
    return Publish(channel_id=channel.channel_id, transaction=channel.funding_transaction, purpose=Purpose.FUNDING)


# --- the fundee ------------------------------------------------------------------------------------------------------


def open_received(peer: PeerId, message: OpenChannel, key_index: int | None, env: Env) -> Step:
    """They want a channel with us: accept_channel goes out, or an Error says why not. Nothing is stored yet."""
    if key_index is None:
        raise MisuseError("open_channel without a key index")
    config, keys = env.config, env.keys(key_index)
    capacity, push = Sat(message.funding_sat), Msat(message.push_msat)
    terms = our_terms(config, capacity, keys)
    fault = ""
    if message.chain != env.asset:
        fault = f"the chain {message.chain[::-1].hex()}, unknown here"
    elif not env.accepts_chain:
        fault = "no channel now: the chain cannot be reached"
    elif not config.minimum_capacity <= capacity <= config.maximum_capacity:
        fault = f"a capacity of {capacity} sat, {config.minimum_capacity} to {config.maximum_capacity} allowed"
    elif push > to_msat(capacity):
        fault = f"a push of {push} msat from a capacity of {capacity} sat"
    fault = fault or fault_in(message, terms, keys.points, config, capacity, push)
    if fault:
        return keep(None, SendMessage(peer=peer, message=Error(message.temporary_channel_id, fault[:MAX_TEXT])))
    their_terms, points = _announced(message)
    channel = Channel(
        channel_id=ChannelId(message.temporary_channel_id),
        peer=peer,
        asset=env.asset,
        key_index=key_index,
        phase=Phase.ACCEPTED,
        we_fund=False,
        capacity=capacity,
        push=push,
        opened_tip=env.facts.tip,
        our_terms=terms,
        our_points=keys.points,
        their_terms=their_terms,
        their_points=points,
        their_point=message.first_per_commitment_point,
        our_balance=push,
        their_balance=Msat(to_msat(capacity) - push),
        minimum_depth=config.funding_depth,
        connected=True,
        reestablished=True,
    )
    answer = AcceptChannel(
        temporary_channel_id=message.temporary_channel_id,
        minimum_depth=config.funding_depth,
        **_announcement(terms, keys),
    )
    return keep(channel, SendMessage(peer=peer, message=answer))


def created_received(channel: Channel, message: FundingCreated, env: Env) -> Step:
    """The funding outpoint, and their signature of our first commitment: we sign theirs, and watch for the funding."""
    keys = env.keys(channel.key_index)
    old_id = channel.channel_id
    txid = Txid(message.funding_txid)
    channel = replace(
        channel,
        channel_id=channel_id_of(txid, message.funding_output_index),
        funding=Outpoint(txid=txid, index=message.funding_output_index),
        their_signature=message.signature,
    )
    if not commitment.verify(build_ours(channel, keys, 0), message.signature):
        return abandon(replace(channel, channel_id=old_id), "a wrong signature", tell="invalid signature")
    built = build_theirs(channel, 0, channel.their_point)
    channel = replace(channel, phase=Phase.CONFIRMING, their_commitment=signed(built))
    answer = signed_message(channel, env)
    return Step(
        channel,
        (
            StoreChannel(channel=channel, replaces=old_id),
            SendMessage(peer=channel.peer, message=answer),
            *watches(channel),
            ChannelChanged(channel_id=channel.channel_id),
        ),
    )


def signed_message(channel: Channel, env: Env) -> FundingSigned:
    """Our funding_signed; the same whenever it is repeated."""
    built = build_theirs(channel, 0, channel.their_point)
    signature = commitment.sign(built, env.keys(channel.key_index).funding_secret)
    return FundingSigned(channel_id=channel.channel_id, signature=signature)


# --- both ------------------------------------------------------------------------------------------------------------


def abandon(channel: Channel, reason: str, *, tell: str | None) -> Step:
    """End a channel that was never funded; `tell` is what the peer hears, None: nothing."""
    effects: list[ChannelEffect] = [ForgetChannel(channel_id=channel.channel_id)]
    if tell is not None:
        effects.append(SendMessage(peer=channel.peer, message=Error(channel.channel_id, tell[:MAX_TEXT])))
    if channel.we_fund:
        effects.append(ReleaseFunding(channel_id=channel.channel_id))
        effects.append(Alarm(channel_id=channel.channel_id, text=f"the channel was not opened: {reason}"))
    effects.append(ChannelChanged(channel_id=channel.channel_id))
    return Step(None, tuple(effects))


def funding_script(channel: Channel) -> bytes:
    """Output script of the channel's funding. MisuseError while their keys are unknown."""
    if channel.their_points is None:
        raise MisuseError("a funding script before the peer's keys are known")
    return funding_output_script(channel.our_points, channel.their_points)


def watches(channel: Channel) -> tuple[ChannelEffect, ...]:
    """What must be told of the funding; empty while there is none."""
    if channel.funding is None:
        return ()
    script, since = funding_script(channel), channel.opened_tip
    return (
        WatchTx(txid=channel.funding.txid, script=script, from_height=since),
        WatchOutpoint(outpoint=channel.funding, script=script, from_height=since),
    )


def confirmed(channel: Channel, event: TxConfirmed, env: Env) -> Step:
    """The funding transaction is in the chain. One that the peer built is looked at: it must pay what was agreed."""
    if channel.funding is None or event.txid != channel.funding.txid:
        return keep(channel)
    if not channel.we_fund and not pays_funding(
        event.transaction, channel.funding.index, funding_script(channel), channel.capacity
    ):
        if not event.transaction:
            return keep(channel)
        return _not_funded(channel)
    if channel.funding_height == event.height:
        return keep(channel)
    changed = replace(channel, funding_height=event.height)
    if not channel.we_fund and is_block_reward(event.transaction):
        # Before it is mature we could not claim on the chain what the funder owes us (BOLT 2, `channel_ready`).
        changed = replace(changed, minimum_depth=max(channel.minimum_depth, COINBASE_MATURITY))
    return deepen(changed, channel, env)


def _not_funded(channel: Channel) -> Step:
    """The outpoint they named does not hold the channel: whatever was pushed does not exist, and no key of ours is bound."""
    text = "the neighbour's funding transaction does not pay the channel"
    return Step(
        None,
        (
            ForgetChannel(channel_id=channel.channel_id),
            SendMessage(peer=channel.peer, message=Error(channel.channel_id, text)),
            Alarm(channel_id=channel.channel_id, text=text),
            ChannelChanged(channel_id=channel.channel_id),
        ),
    )


def unconfirmed(channel: Channel, event: TxUnconfirmed, env: Env) -> Step:
    """A reorganisation took the funding out of the chain: no new HTLCs until it is deep again."""
    if channel.funding is None or event.txid != channel.funding.txid or channel.funding_height is None:
        return keep(channel)
    return deepen(replace(channel, funding_height=None), channel, env)


def deepen(channel: Channel, before: Channel, env: Env) -> Step:
    """Follow the funding's depth: channel_ready when it is deep enough, and the flag `deep` either way.

    Args:
        channel: with the newest `funding_height`.
        before: as it is on disk; nothing is stored when it is the same.
    """
    height = channel.funding_height
    deep = height is not None and env.facts.tip - height + 1 >= channel.minimum_depth
    if deep == channel.deep:
        return keep(channel) if channel is before else store(channel)
    channel = replace(channel, deep=deep)
    if channel.phase is Phase.CONFIRMING and deep and not channel.ready_sent:
        channel = replace(channel, ready_sent=True)
        message = ready_message(channel, env)
        channel = _perhaps_open(channel)
        effects: list[ChannelEffect] = []
        if channel.connected and channel.reestablished:
            effects.append(SendMessage(peer=channel.peer, message=message))
        return store(channel, *effects, ChannelChanged(channel_id=channel.channel_id))
    return store(channel, ChannelChanged(channel_id=channel.channel_id))


def ready_message(channel: Channel, env: Env) -> ChannelReady:
    """Our channel_ready; the same whenever it is repeated before the first update."""
    return ChannelReady(channel.channel_id, env.keys(channel.key_index).per_commitment_point(1))


def ready_received(channel: Channel, message: ChannelReady, env: Env) -> Step:
    """They consider the funding deep. Said again after a reconnect it changes nothing."""
    if channel.ready_received:
        return keep(channel)
    if not ec.is_point(message.second_per_commitment_point):
        return violation(channel, env, "a public key that is not on the curve")
    channel = _perhaps_open(replace(channel, ready_received=True, their_next_point=message.second_per_commitment_point))
    return store(channel, ChannelChanged(channel_id=channel.channel_id))


def _perhaps_open(channel: Channel) -> Channel:
    if channel.phase is Phase.CONFIRMING and channel.ready_sent and channel.ready_received:
        return replace(channel, phase=Phase.OPEN)
    return channel


def tip_changed(channel: Channel, env: Env) -> Step:
    """While the funding confirms: publish it again (ours), count its depth, and lose patience in the end."""
    step = deepen(channel, channel, env)
    if step.channel is None or channel.funding_height is not None:
        return step
    # A fundee waits no longer because the funder talks of closing already.
    waits = (Phase.CONFIRMING,) if channel.we_fund else (Phase.CONFIRMING, Phase.SHUTTING, Phase.CLOSING)
    overdue = env.facts.tip - channel.opened_tip > env.config.funding_patience
    if channel.phase in waits and not channel.ready_sent and overdue:
        return _patience_lost(channel, env)
    if channel.we_fund:
        return Step(step.channel, (*step.effects, publish_funding(channel)))
    return step


def _patience_lost(channel: Channel, env: Env) -> Step:
    """The fundee forgets (BOLT 2, after 2,016 blocks). The funder's transaction could still confirm, so the way back is
    kept ready, while the wallet may spend its inputs elsewhere."""
    if not channel.we_fund:
        return abandon(channel, "", tell="the funding transaction was never confirmed")
    step = fail(
        channel,
        env,
        "the funding transaction was never confirmed",
        tell="the funding transaction was never confirmed",
        alarm=True,
    )
    return Step(step.channel, (*step.effects, ReleaseFunding(channel_id=channel.channel_id)))
