"""Resolve every output of a close: what to publish, what to watch, and when an HTLC has ended.

Source: BOLT 5, DESIGN 6 and R10. Pure functions over `Close` (chain facts) and `Context` (the channel, see there).

How the channel engine uses it:
- to close by force, or on a spend of the funding output: `channel.close` becomes `Close()` where it was None;
- `force(close, context, facts)` publishes our commitment;
- every `OutputSpent` and `SpendGone` (also those of the funding output), `TipChanged` and `SettleHtlc` of a channel whose
  close is not None goes to `advance`. For `SettleHtlc` the context has the preimage already (`LiveHtlc.preimage`);
- `resume(close, context, facts)` after a start;
- `Close.resolved`: the channel is closed, for good.
"""

from dataclasses import replace
from hashlib import sha256

from protocols.channel.events import (
    Alarm,
    ChannelEffect,
    HtlcFailed,
    HtlcFulfilled,
    Outpoint,
    OutputSpent,
    SettleHtlc,
    SpendGone,
    TipChanged,
    WatchOutpoint,
)
from protocols.errors import DecodeError
from protocols.facts import Facts
from protocols.ids import Preimage
from protocols.onchain import tx
from protocols.units import BlockHeight
from protocols.watch.classify import classify
from protocols.watch.orders import fate_of, for_funding, for_stake, is_abandoned, is_buried
from protocols.watch.stakes import (
    Role,
    Stake,
    View,
    delayed_claim,
    direct_claim,
    penalty_claim,
    second_stage_claim,
    view_of,
)
from protocols.watch.state import Close, Context, LiveHtlc, OutputFate, SpendKind
from protocols.wire.channel import FailureCode

FORGOTTEN = 2016  # blocks after which we stop waiting for a preimage, or for the neighbour to take an HTLC back
CloseEvent = OutputSpent | SpendGone | TipChanged | SettleHtlc
_ALARMS = {
    SpendKind.REVOKED: "the neighbour published an old, revoked state of the channel; its outputs are being claimed",
    SpendKind.FUTURE: "the neighbour closed with a state that is newer than our records; our balance comes, payments on the way may be lost",
    SpendKind.UNKNOWN: "the channel's coins were spent by a transaction that we cannot explain: a key may have leaked",
}


def force(close: Close, context: Context, facts: Facts) -> tuple[Close, list[ChannelEffect]]:
    """Decide to publish our commitment, and order it unless another spend of the funding output is seen. Idempotent."""
    if close.forced_at is None:
        close = replace(close, forced_at=facts.tip)
    return close, for_funding(close, view_of(close, context), context, facts)


def advance(close: Close, event: CloseEvent, context: Context, facts: Facts) -> tuple[Close, list[ChannelEffect]]:
    """The close after an event, and what is to be done: `Publish...`, `WatchOutpoint`, `HtlcFulfilled`, `HtlcFailed`, `Alarm`.

    Events that concern none of its outputs change nothing. Publications are ordered at each `TipChanged` until they are
    confirmed, and again when they vanish; sweeps are signed anew each time, at the feerate of the day.
    """
    if close.resolved and isinstance(event, TipChanged | SettleHtlc):
        return close, []
    close = replace(close, resolved=False)  # a reorganisation deeper than we wait for may undo even this
    effects: list[ChannelEffect] = []
    match event:
        case OutputSpent() if _is_funding(event.outpoint, context):
            close, effects = _funding_spent(close, event, context, facts)
        case OutputSpent():
            close, effects = _output_spent(close, event, context, facts)
        case SpendGone() if _is_funding(event.outpoint, context):
            close = replace(close, kind=None, transaction=b"", height=None, record=b"", fates=())
            effects = _orders(close, context, facts)
        case SpendGone():
            close = _without(close, event.outpoint)
            effects = _orders(close, context, facts)
        case SettleHtlc():
            effects = _orders_for_received(close, event.htlc_id, context, facts)
        case TipChanged():
            effects = _orders(close, context, facts)
    close, told = _tell(close, context, facts)
    return close, [*told, *effects]


def resume(close: Close, context: Context, facts: Facts) -> list[ChannelEffect]:
    """After a start: the watches of this close again, and the publications due."""
    if close.resolved:
        return []
    view = view_of(close, context)
    watches: list[ChannelEffect] = []
    if view is not None:
        watches = _watches(close, view, context, facts)
        for stake in view.stakes:
            fate = fate_of(close, view.txid, stake.index)
            if fate is not None and fate.second_stage:
                watches.append(_second_stage_watch(view, fate, context, facts))
    return [*watches, *_orders(close, context, facts)]


# --- facts ----------------------------------------------------------------------------------------------------------


def _is_funding(outpoint: Outpoint, context: Context) -> bool:
    return (outpoint.txid, outpoint.index) == (context.our_params.funding_txid, context.our_params.funding_index)


def _funding_spent(
    close: Close, event: OutputSpent, context: Context, facts: Facts
) -> tuple[Close, list[ChannelEffect]]:
    same = event.transaction == close.transaction
    record = event.record or (close.record if same else b"")
    more = not same or record != close.record
    kind = close.kind if same and close.kind is not None else classify(event.transaction, context)
    fates = close.fates if same else ()
    close = replace(close, kind=kind, transaction=event.transaction, height=event.height, record=record, fates=fates)
    effects: list[ChannelEffect] = []
    if not same and kind in _ALARMS:
        effects.append(Alarm(channel_id=context.channel_id, text=_ALARMS[kind]))
    if more:
        view = view_of(close, context)
        assert view is not None
        effects += _watches(close, view, context, facts)
    return close, [*effects, *_orders(close, context, facts)]


def _output_spent(
    close: Close, event: OutputSpent, context: Context, facts: Facts
) -> tuple[Close, list[ChannelEffect]]:
    view = view_of(close, context)
    if view is None:
        return close, []
    txid, index = event.outpoint.txid, event.outpoint.index
    first = next(
        (each for each in close.fates if each.second_stage and (each.spender, each.position) == (txid, index)), None
    )
    stake = view.stake_at(first.index if first is not None else index)
    if stake is None or (first is None and txid != view.txid):
        return close, []
    fate = _fate(event, view, stake, context, second=first is not None)
    if fate is None:
        return close, []
    before = fate_of(close, txid, index)
    if before == fate:
        return close, []
    if before is None or before.spender != fate.spender:
        close = _without(close, event.outpoint)
    kept = tuple(each for each in close.fates if (each.txid, each.index) != (txid, index))
    close = replace(close, fates=(*kept, fate))
    effects: list[ChannelEffect] = []
    if fate.second_stage and (before is None or before.spender != fate.spender):
        effects.append(_second_stage_watch(view, fate, context, facts))
    if _is_missed(stake, fate) and first is None:
        text = f"HTLC {stake.htlc.id if stake.htlc else 0} of the neighbour was taken back by it although we had its preimage"
        effects.append(Alarm(channel_id=context.channel_id, text=text))
    return close, [*effects, *for_stake(close, view, stake, context, facts)]


def _fate(event: OutputSpent, view: View, stake: Stake, context: Context, *, second: bool) -> OutputFate | None:
    try:
        spender = tx.parse(event.transaction)
    except DecodeError:
        return None
    outpoint = (event.outpoint.txid, event.outpoint.index)
    position = next((place for place, each in enumerate(spender.inputs) if (each.txid, each.index) == outpoint), None)
    if position is None:
        return None
    paired = spender.outputs[position].script if position < len(spender.outputs) else b""
    return OutputFate(
        txid=event.outpoint.txid,
        index=event.outpoint.index,
        spender=tx.txid_of(event.transaction),
        position=position,
        height=event.height,
        preimage=None if second else _shown_preimage(spender.inputs[position].witness, stake, context),
        second_stage=not second and bool(paired) and paired == view.delayed_script != stake.script,
    )


def _shown_preimage(witness: tuple[bytes, ...], stake: Stake, context: Context) -> Preimage | None:
    wanted = {stake.htlc.payment_hash} if stake.htlc is not None else set()
    if stake.role is Role.WATCHED:
        wanted = {each.payment_hash for each in context.htlcs if each.ours}
    for item in witness:
        if len(item) == 32 and sha256(item).digest() in wanted:
            return Preimage(item)
    return None


def _is_missed(stake: Stake, fate: OutputFate) -> bool:
    htlc = stake.htlc
    if stake.role is not Role.RECEIVED or htlc is None or htlc.preimage is None:
        return False
    return fate.height is not None and fate.preimage is None


def _without(close: Close, outpoint: Outpoint) -> Close:
    """Forget the spend of this output, and what was spent of its spender."""
    gone = fate_of(close, outpoint.txid, outpoint.index)
    if gone is None:
        return close
    kept = tuple(
        each for each in close.fates if each != gone and (each.txid, each.index) != (gone.spender, gone.position)
    )
    return replace(close, fates=kept)


# --- what follows from them -----------------------------------------------------------------------------------------


def _orders(close: Close, context: Context, facts: Facts) -> list[ChannelEffect]:
    view = view_of(close, context)
    effects = for_funding(close, view, context, facts)
    for stake in view.stakes if view is not None else ():
        assert view is not None
        effects += for_stake(close, view, stake, context, facts)
    return effects


def _orders_for_received(close: Close, htlc_id: int, context: Context, facts: Facts) -> list[ChannelEffect]:
    view = view_of(close, context)
    effects: list[ChannelEffect] = []
    for stake in view.stakes if view is not None else ():
        assert view is not None
        if stake.role is Role.RECEIVED and stake.htlc is not None and stake.htlc.id == htlc_id:
            effects += for_stake(close, view, stake, context, facts)
    return effects


def _watches(close: Close, view: View, context: Context, facts: Facts) -> list[ChannelEffect]:
    height = facts.tip if close.height is None else close.height
    return [
        WatchOutpoint(
            outpoint=Outpoint(txid=view.txid, index=stake.index),
            script=stake.script,
            from_height=_earlier(height, context),
        )
        for stake in view.stakes
    ]


def _second_stage_watch(view: View, fate: OutputFate, context: Context, facts: Facts) -> WatchOutpoint:
    height = facts.tip if fate.height is None else fate.height
    return WatchOutpoint(
        outpoint=Outpoint(txid=fate.spender, index=fate.position),
        script=view.delayed_script,
        from_height=_earlier(height, context),
    )


def _earlier(height: BlockHeight, context: Context) -> BlockHeight:
    """A reorganisation may confirm the same transaction in an earlier block than before."""
    return BlockHeight(max(0, height - context.buried_depth))


def _tell(close: Close, context: Context, facts: Facts) -> tuple[Close, list[ChannelEffect]]:
    """HTLCs of ours that have ended: by a preimage, at once; without one, when that is buried (R10). And whether all is done."""
    view = view_of(close, context)
    if view is None:
        return close, []
    effects: list[ChannelEffect] = []
    for htlc in context.htlcs:
        if not htlc.ours or htlc.preimage is not None or htlc.id in close.fulfilled:
            continue
        preimage = _preimage_on_chain(close, htlc)
        if preimage is not None:
            if htlc.id in close.failed:
                text = (
                    f"HTLC {htlc.id} was claimed after its failure was buried: a reorganisation deeper than we wait for"
                )
                effects.append(Alarm(channel_id=context.channel_id, text=text))
            effects.append(
                HtlcFulfilled(
                    channel_id=context.channel_id,
                    htlc_id=htlc.id,
                    payment_hash=htlc.payment_hash,
                    preimage=preimage,
                )
            )
            close = replace(close, fulfilled=(*close.fulfilled, htlc.id))
        elif htlc.id not in close.failed:
            code = _failure(close, view, htlc, context, facts)
            if code is not None:
                effects.append(
                    HtlcFailed(
                        channel_id=context.channel_id, htlc_id=htlc.id, payment_hash=htlc.payment_hash, code=code
                    )
                )
                close = replace(close, failed=(*close.failed, htlc.id))
    if _is_resolved(close, view, context, facts):
        close = replace(close, resolved=True)
    return close, effects


def _preimage_on_chain(close: Close, htlc: LiveHtlc) -> Preimage | None:
    for fate in close.fates:
        if fate.preimage is not None and sha256(fate.preimage).digest() == htlc.payment_hash:
            return fate.preimage
    return None


def _failure(close: Close, view: View, htlc: LiveHtlc, context: Context, facts: Facts) -> FailureCode | None:
    """Why an HTLC of ours can no longer be claimed by them, None while it can."""
    if view.kind in (SpendKind.FUTURE, SpendKind.UNKNOWN) or not is_buried(close.height, context, facts):
        return None
    stakes = [each for each in view.stakes if each.htlc is not None and each.htlc.ours and each.htlc.id == htlc.id]
    if not stakes:
        return FailureCode.CHANNEL_CLOSING  # trimmed, or on another commitment only
    for stake in stakes:
        fate = fate_of(close, view.txid, stake.index)
        if fate is None or not is_buried(fate.height, context, facts):
            return None
    return FailureCode.TIMED_OUT


def _is_resolved(close: Close, view: View, context: Context, facts: Facts) -> bool:
    if not is_buried(close.height, context, facts):
        return False
    ended = {*close.fulfilled, *close.failed}
    if any(each.ours and each.preimage is None and each.id not in ended for each in context.htlcs):
        return False
    return all(_is_stake_done(close, view, stake, context, facts) for stake in view.stakes)


def _is_stake_done(close: Close, view: View, stake: Stake, context: Context, facts: Facts) -> bool:
    fate = fate_of(close, view.txid, stake.index)
    if fate is None:
        return _is_given_up(view, stake, context, facts)
    if not is_buried(fate.height, context, facts):
        return False
    if not fate.second_stage:
        return True
    later = fate_of(close, fate.spender, fate.position)
    if later is None:
        return is_abandoned(second_stage_claim(view, context, fate.spender, fate.position, stake.value), context)
    return is_buried(later.height, context, facts)


def _is_given_up(view: View, stake: Stake, context: Context, facts: Facts) -> bool:
    """Whether an output that is not spent needs nothing more from us."""
    match stake.role:
        case Role.WATCHED:
            return True
        case Role.DELAYED:
            return is_abandoned(delayed_claim(view, context, stake), context)
        case Role.PENALTY:
            return is_abandoned(penalty_claim(view, stake), context)
        case Role.OFFERED:
            return False
        case Role.RECEIVED:
            assert stake.htlc is not None
            if stake.htlc.preimage is None:
                return stake.htlc.given_up or facts.tip >= stake.htlc.expiry + FORGOTTEN
            return view.kind is SpendKind.THEIRS and is_abandoned(direct_claim(view, context, stake), context)
