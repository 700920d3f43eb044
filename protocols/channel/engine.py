"""One channel, one event: the channel after, and what is to be done, in order.

Source: BOLT 2, DESIGN 6. The engine is a pure function over frozen state; no clock, no randomness. Which events mean
something in which phase stands in one table, `LEGAL`; what stands not there is answered by `_misplaced`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from protocols.channel import closing, opening, reestablish, updates
from protocols.channel.events import (
    ChannelEvent,
    CloseRequested,
    FailHtlc,
    Flush,
    FundingBuilt,
    FundingFailed,
    HtlcRefused,
    LinkDown,
    LinkUp,
    MessageReceived,
    OfferHtlc,
    OpenRequested,
    OutputSpent,
    Refusal,
    ReleaseFunding,
    SendMessage,
    SettleHtlc,
    SpendGone,
    TipChanged,
    TxConfirmed,
    TxUnconfirmed,
)
from protocols.channel.force import (
    ForceClose,
    advance,
    context,
    deadline,
    fail,
    force_close_transactions,
    unsigned_gone,
    violation,
)
from protocols.channel.state import BEFORE_FUNDING, UPDATING, Channel, Phase, undecided
from protocols.channel.step import Env, KeyRing, Step, keep, store, then
from protocols.ids import ChannelId
from protocols.watch import resolve
from protocols.wire.channel import (
    AcceptChannel,
    ChannelMessage,
    ChannelReady,
    ChannelReestablish,
    ClosingComplete,
    ClosingSig,
    CommitmentSigned,
    Error,
    FundingCreated,
    FundingSigned,
    OpenChannel,
    RevokeAndAck,
    Shutdown,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFulfillHtlc,
    Warn,
)

__all__ = [
    "LEGAL",
    "Env",
    "ForceClose",
    "KeyRing",
    "Step",
    "deadline",
    "force_close_transactions",
    "handle",
    "loaded",
    "resume",
]

Handler = Callable[[Channel, Any, Env], Step]


def handle(channel: Channel | None, event: ChannelEvent, env: Env) -> Step:
    """What an event does to a channel.

    The caller finds the channel: by `channel_id` where event or message has one (open_channel, accept_channel and
    funding_created name the temporary id), every channel of the peer for `LinkUp` and `LinkDown`, every channel for
    `Flush` and `TipChanged`, the channel of the funding for `TxConfirmed`, `TxUnconfirmed`; `OutputSpent` and `SpendGone`
    go to the channel that ordered the watch (a channel ignores what is not its own). With None, `OpenRequested` and a
    received `OpenChannel` begin a channel (`Step.channel` is then new); messages for unknown channels are answered as
    BOLT 2 says.

    After a `StoreChannel(replaces=...)` the channel has another id.
    """
    if channel is None:
        return _without_channel(event, env)
    if isinstance(event, MessageReceived):
        return _message(channel, event, env)
    handler = LEGAL[channel.phase].get(type(event))
    return handler(channel, event, env) if handler is not None else _misplaced(channel, event)


def loaded(channel: Channel) -> Channel:
    """A channel as it comes from the disk: nothing volatile in it is trusted."""
    return replace(channel, connected=False, reestablished=False, proposal=None)


def resume(channel: Channel, env: Env) -> Step:
    """After loading: watches, publications that are due, and `HtlcReceived` for what is undecided.

    A channel whose opening was interrupted before funding_created went out ends here. HTLCs of ours that no signature
    covers have failed. The channel returned is `loaded`.
    """
    channel = loaded(channel)
    if channel.phase in (Phase.CLOSED, Phase.SIGNING):
        return keep(channel)
    if channel.phase in BEFORE_FUNDING:
        return opening.abandon(channel, "the node was restarted before the funding was signed", tell=None)
    rolled, effects = unsigned_gone(channel)
    stored = rolled is not channel
    effects = [*opening.watches(rolled), *effects]
    if rolled.close is not None:
        effects += resolve.resume(rolled.close, context(rolled, env), env.facts)
    if rolled.phase is Phase.CLOSING:
        effects += closing.publications(rolled)
    if rolled.we_fund and rolled.funding_height is None and rolled.phase is not Phase.FORCED:
        effects.append(opening.publish_funding(rolled))
    if rolled.phase in UPDATING:
        effects += undecided(rolled)
    return store(rolled, *effects) if stored else keep(rolled, *effects)


# --- without a channel -----------------------------------------------------------------------------------------------


def _without_channel(event: ChannelEvent, env: Env) -> Step:
    match event:
        case OpenRequested():
            return opening.request(event, env)
        case MessageReceived(message=OpenChannel() as message):
            return opening.open_received(event.peer, message, event.key_index, env)
        case MessageReceived(message=Error() | Warn()):
            return keep(None)
        case MessageReceived():
            answer = Error(_id_in(event.message), "unknown channel")
            return keep(None, SendMessage(peer=event.peer, message=answer))
        case OfferHtlc():
            refused = HtlcRefused(
                channel_id=event.channel_id, reference=event.reference, reason=Refusal.UNKNOWN_CHANNEL
            )
            return keep(None, refused)
        case FundingBuilt():
            return keep(None, ReleaseFunding(channel_id=event.channel_id))
        case _:
            return keep(None)


def _id_in(message: ChannelMessage) -> ChannelId:
    if isinstance(message, OpenChannel | AcceptChannel | FundingCreated):
        return ChannelId(message.temporary_channel_id)
    return ChannelId(message.channel_id)


# --- the peer's messages ---------------------------------------------------------------------------------------------


def _message(channel: Channel, event: MessageReceived, env: Env) -> Step:
    """A message for this channel, legal or not. Only the channel's own peer is heard."""
    message = event.message
    if event.peer != channel.peer:
        return keep(channel, SendMessage(peer=event.peer, message=Error(_id_in(message), "unknown channel")))
    if isinstance(message, OpenChannel):
        return _opened_again(channel, event, message, env)
    if not (channel.connected and channel.reestablished) and type(message) not in _BEFORE_REESTABLISH:
        # What was under way when the link was lost belongs to another life of the stream.
        return keep(channel)
    handler = LEGAL[channel.phase].get(type(message))
    return handler(channel, message, env) if handler is not None else _misplaced_message(channel, message, env)


_BEFORE_REESTABLISH = (ChannelReestablish, Error, Warn)


def _opened_again(channel: Channel, event: MessageReceived, message: OpenChannel, env: Env) -> Step:
    """A second open_channel under one temporary id: the first is discarded while nothing came of it (BOLT 2)."""
    if channel.phase is Phase.ACCEPTED:
        return opening.open_received(event.peer, message, event.key_index, env)
    text = "that temporary channel id is in use"
    return keep(channel, SendMessage(peer=channel.peer, message=Error(channel.channel_id, text)))


def _misplaced_message(channel: Channel, message: ChannelMessage, env: Env) -> Step:
    name = type(message).__name__
    if channel.phase in BEFORE_FUNDING:
        text = f"{name} out of order"
        return opening.abandon(channel, f"the neighbour sent {text}", tell=text)
    if channel.phase in _SILENT or isinstance(message, _HARMLESS):
        return keep(channel)
    return violation(channel, env, f"{name} while the channel is {channel.phase.value}")


_SILENT = frozenset({Phase.FORCED, Phase.LOST, Phase.CLOSED})  # BOLT 1: after an error other messages are ignored
_HARMLESS = (  # late or repeated
    FundingSigned,
    ChannelReady,
    Shutdown,
    ClosingComplete,
    ClosingSig,
    ChannelReestablish,
    Warn,
)


def _error_received(channel: Channel, message: Error, env: Env) -> Step:
    """They failed the channel: so do we (BOLT 1), with our last signed commitment."""
    return fail(channel, env, f"the neighbour failed the channel: {message.text}", tell=None, alarm=True)


def _error_while_opening(channel: Channel, message: Error, env: Env) -> Step:
    return opening.abandon(channel, message.text, tell=None)


def _error_while_confirming(channel: Channel, message: Error, env: Env) -> Step:
    """The funder may have forgotten a channel whose funding_signed it never got: a fundee without a stake forgets, too."""
    if not channel.we_fund and channel.our_balance == 0 and channel.funding_height is None:
        return opening.abandon(channel, message.text, tell=None)
    return _error_received(channel, message, env)


def _error_while_closing(channel: Channel, message: Error, env: Env) -> Step:
    """With a closing transaction in hand there is no reason to use the commitment."""
    return keep(channel) if channel.closing_transactions else _error_received(channel, message, env)


def _reestablish_of_failed(channel: Channel, message: ChannelReestablish, env: Env) -> Step:
    """Said again, since they ask: this channel has failed."""
    text = channel.failure or "this channel is closed"
    return keep(channel, SendMessage(peer=channel.peer, message=Error(channel.channel_id, text[:256])))


def _nothing(channel: Channel, event: Any, env: Env) -> Step:
    return keep(channel)


# --- our own side ----------------------------------------------------------------------------------------------------


def _misplaced(channel: Channel, event: ChannelEvent) -> Step:
    """An event that means nothing in this phase: an order is refused, the rest changes nothing."""
    if isinstance(event, OfferHtlc):
        return updates.refuse(channel, event, Refusal.NOT_OPEN)
    if isinstance(event, FundingBuilt):
        return keep(channel, ReleaseFunding(channel_id=event.channel_id))
    return keep(channel)


def _close_while_opening(channel: Channel, event: CloseRequested, env: Env) -> Step:
    return opening.abandon(channel, "given up at our own request", tell="given up")


def _link_down_while_opening(channel: Channel, event: LinkDown, env: Env) -> Step:
    return reestablish.opening_lost(channel, env)


def _link_up_while_opening(channel: Channel, event: LinkUp, env: Env) -> Step:
    """A newer stream replaced the older one, or we were restarted: either way the opening's messages are lost."""
    return reestablish.opening_lost(channel, env)


def _link_down(channel: Channel, event: LinkDown, env: Env) -> Step:
    return reestablish.link_down(channel, env)


def _link_up(channel: Channel, event: LinkUp, env: Env) -> Step:
    return reestablish.link_up(channel, env)


def _link_up_unsigned(channel: Channel, event: LinkUp, env: Env) -> Step:
    return reestablish.link_up_unsigned(channel, env)


def _link_down_failed(channel: Channel, event: LinkDown, env: Env) -> Step:
    return reestablish.link_down_failed(channel, env)


def _link_up_failed(channel: Channel, event: LinkUp, env: Env) -> Step:
    return reestablish.link_up_failed(channel, env)


def _flush(channel: Channel, event: Flush, env: Env) -> Step:
    """Sign what gathered; then go on with a close."""
    if not (channel.connected and channel.reestablished):
        return keep(channel)
    return closing.continued(updates.sign(channel, env), env)


def _tip_while_opening(channel: Channel, event: TipChanged, env: Env) -> Step:
    """Patience with a peer or wallet that never answers."""
    if env.facts.tip - channel.opened_tip > env.config.funding_patience:
        return opening.abandon(channel, "it took too long", tell="it took too long")
    return keep(channel)


def _tip_confirming(channel: Channel, event: TipChanged, env: Env) -> Step:
    return opening.tip_changed(channel, env)


def _tip_updating(channel: Channel, event: TipChanged, env: Env) -> Step:
    """The funding's depth, then deadlines: an HTLC that must be resolved on the chain now closes the channel by force."""
    step = opening.tip_changed(channel, env)
    if step.channel is None:
        return step
    height = deadline(step.channel, env.config)
    if height is None or env.facts.tip < height:
        return step
    failed = fail(
        step.channel,
        env,
        f"an HTLC had to be resolved on the chain by height {height}",
        tell="an HTLC ran into its deadline",
        alarm=True,
    )
    return then(step, failed)


def _tip_closing(channel: Channel, event: TipChanged, env: Env) -> Step:
    step = advance(channel, event, env) if channel.close is not None else opening.tip_changed(channel, env)
    if step.channel is None or step.channel.phase is not Phase.CLOSING:
        return step
    return Step(step.channel, (*step.effects, *closing.publications(step.channel)))


def _tip_failed(channel: Channel, event: TipChanged, env: Env) -> Step:
    """The end on the chain goes on; unless the funder never funded, for then nothing will ever be there."""
    waited = env.facts.tip - channel.opened_tip
    never_funded = channel.funding_height is None and not channel.ready_sent and waited > env.config.funding_patience
    if never_funded and not channel.we_fund and (channel.close is None or channel.close.kind is None):
        return opening.abandon(channel, "", tell=None)
    return _resolution(channel, event, env)


def _spent(channel: Channel, event: OutputSpent, env: Env) -> Step:
    """A spend of the funding output begins the channel's end on the chain; what follows is told of its outputs."""
    if channel.close is None and event.outpoint != channel.funding:
        return keep(channel)
    if channel.phase not in UPDATING:
        return advance(channel, event, env)
    changed, effects = unsigned_gone(channel)
    return then(Step(changed, tuple(effects)), advance(changed, event, env))


def _resolution(channel: Channel, event: TipChanged | SpendGone | SettleHtlc, env: Env) -> Step:
    """The end on the chain goes on, if it began."""
    return keep(channel) if channel.close is None else advance(channel, event, env)


def _settle_on_chain(channel: Channel, event: SettleHtlc, env: Env) -> Step:
    """The preimage goes to disk with the channel, and to the resolution, which claims with it."""
    known = updates.with_preimage(channel, event)
    if known is channel:
        return keep(channel)
    return store(known) if known.close is None else then(store(known), advance(known, event, env))


# --- what may happen when --------------------------------------------------------------------------------------------


def _going_on(handler: Handler) -> Handler:
    """The handler, and then whatever a close under way can do next: the peer may be a step ahead within one batch."""

    def handle_and_continue(channel: Channel, event: Any, env: Env) -> Step:
        return closing.continued(handler(channel, event, env), env)

    return handle_and_continue


_OPENING: dict[type, Handler] = {
    Error: _error_while_opening,
    Warn: _nothing,
    LinkDown: _link_down_while_opening,
    LinkUp: _link_up_while_opening,
    CloseRequested: _close_while_opening,
    TipChanged: _tip_while_opening,
    FundingFailed: opening.funding_failed,
}
_FUNDED: dict[type, Handler] = {
    ChannelReestablish: reestablish.received,
    Shutdown: _going_on(closing.shutdown_received),
    Error: _error_received,
    Warn: _nothing,
    LinkDown: _link_down,
    LinkUp: _link_up,
    CloseRequested: closing.requested,
    TxConfirmed: opening.confirmed,
    TxUnconfirmed: opening.unconfirmed,
    OutputSpent: _spent,
    SpendGone: _resolution,
}
_UPDATES: dict[type, Handler] = {
    UpdateAddHtlc: updates.add_received,
    UpdateFulfillHtlc: updates.fulfill_received,
    UpdateFailHtlc: updates.fail_received,
    CommitmentSigned: _going_on(updates.signature_received),
    RevokeAndAck: _going_on(updates.revocation_received),
    SettleHtlc: updates.settle,
    FailHtlc: updates.fail,
    Flush: _flush,
    TipChanged: _tip_updating,
}
_FAILED: dict[type, Handler] = {
    ChannelReestablish: _reestablish_of_failed,
    Error: _nothing,
    Warn: _nothing,
    LinkDown: _link_down_failed,
    LinkUp: _link_up_failed,
    CloseRequested: closing.requested,
    SettleHtlc: _settle_on_chain,
    FailHtlc: updates.given_up,
    TxConfirmed: opening.confirmed,
    TxUnconfirmed: opening.unconfirmed,
    OutputSpent: _spent,
    SpendGone: _resolution,
    TipChanged: _tip_failed,
}

LEGAL: Mapping[Phase, Mapping[type, Handler]] = MappingProxyType(
    {
        Phase.OPENING: {**_OPENING, AcceptChannel: opening.accept_received},
        Phase.FUNDING: {**_OPENING, FundingBuilt: opening.funding_built},
        Phase.SIGNING: {
            **_OPENING,
            FundingSigned: opening.signed_received,
            ChannelReestablish: _nothing,
            LinkDown: _link_down_failed,
            LinkUp: _link_up_unsigned,
        },
        Phase.ACCEPTED: {**_OPENING, FundingCreated: opening.created_received},
        Phase.CONFIRMING: {
            **_FUNDED,
            ChannelReady: opening.ready_received,
            Error: _error_while_confirming,
            TipChanged: _tip_confirming,
        },
        Phase.OPEN: {**_FUNDED, **_UPDATES, OfferHtlc: updates.offer},
        Phase.SHUTTING: {**_FUNDED, **_UPDATES, ChannelReady: opening.ready_received},
        Phase.CLOSING: {
            **_FUNDED,
            ClosingComplete: closing.complete_received,
            ClosingSig: closing.sig_received,
            Error: _error_while_closing,
            TipChanged: _tip_closing,
        },
        Phase.FORCED: _FAILED,
        Phase.LOST: _FAILED,
        Phase.CLOSED: {
            ChannelReestablish: _reestablish_of_failed,
            LinkDown: _link_down_failed,
            LinkUp: _link_up_failed,
        },
    }
)
