"""What to publish now, given what the chain shows. Nothing here is remembered: each block it is worked out and signed anew.

Source: BOLT 5, DESIGN 6 ("Deadline transactions escalate with the blocks that are left, whatever an estimate says").
"""

from protocols.channel.events import ChannelEffect, Publish, PublishWithChild, PublishWithInputs, Purpose
from protocols.facts import Facts
from protocols.onchain import commitment, sweep
from protocols.onchain.htlc import htlc_transaction
from protocols.onchain.keys import payout_script
from protocols.onchain.sweep import Claim
from protocols.units import BlockHeight, FeeRate
from protocols.watch.classify import our_commitment
from protocols.watch.stakes import (
    Role,
    Stake,
    View,
    delay_of,
    delayed_claim,
    direct_claim,
    penalty_claim,
    second_stage_claim,
)
from protocols.watch.state import Close, Context, OutputFate, SpendKind

RELAY_FLOOR = FeeRate(1_000)
UNHURRIED = 144  # blocks within which a commitment that holds no HTLC should confirm
_DOUBLINGS = 6  # a claim pays up to 64 times the estimate in the last block before its deadline


def fate_of(close: Close, txid: bytes, index: int) -> OutputFate | None:
    """How this output was spent, as told last."""
    return next((each for each in close.fates if each.txid == txid and each.index == index), None)


def is_buried(height: BlockHeight | None, context: Context, facts: Facts) -> bool:
    """Whether a block at this height is deep enough for what is in it to be final."""
    return height is not None and facts.tip - height + 1 >= context.buried_depth


def is_abandoned(claim: Claim, context: Context) -> bool:
    """Whether sweeping this output would cost more than it holds even at the relay floor."""
    return sweep.highest_feerate(claim, payout_script(context.keys.payment_basepoint)) < RELAY_FLOOR


def for_funding(close: Close, view: View | None, context: Context, facts: Facts) -> list[ChannelEffect]:
    """The commitment itself, while it is not confirmed: ours if we decided so, or the one of theirs that is in the mempool if we need it."""
    if view is None or view.kind is SpendKind.OURS:
        wanted = close.forced_at is not None or view is not None
        if close.height is not None or not wanted or not context.may_publish:
            return []
        built = our_commitment(context)
        signature = commitment.sign(built, context.keys.funding_secret)
        transaction = commitment.finalize(built, signature, context.their_signature)
    elif view.kind is SpendKind.THEIRS and close.height is None and view.built is not None:
        if close.forced_at is None and not view.stakes:
            return []  # nothing of ours is locked in it: let them pay for their own close
        built, transaction = view.built, close.transaction
    else:
        return []
    return [
        PublishWithChild(
            channel_id=context.channel_id,
            transaction=transaction,
            anchor_index=built.anchor_index,
            deadline=_commitment_deadline(close, context, facts),
        )
    ]


def _commitment_deadline(close: Close, context: Context, facts: Facts) -> BlockHeight:
    start = facts.tip if close.forced_at is None else close.forced_at
    heights = [start + UNHURRIED]
    for htlc in context.htlcs:
        if htlc.ours and htlc.preimage is None:
            heights.append(htlc.expiry)
        elif not htlc.ours and htlc.preimage is not None:  # its success transaction must still get in after this one
            heights.append(htlc.expiry - context.settle_margin // 2)
    return BlockHeight(max(min(heights), facts.tip + 1))


def for_stake(close: Close, view: View, stake: Stake, context: Context, facts: Facts) -> list[ChannelEffect]:
    """What claims this output of the confirmed commitment, and then the output of its HTLC transaction."""
    if close.height is None or close.height > facts.tip:
        # BIP 431: an unconfirmed commitment has room for one child only, which pays for it. A height above the tip is
        # that of a branch which is being left.
        return []
    fate = fate_of(close, view.txid, stake.index)
    if fate is not None and fate.height is not None:
        return _for_second_stage(close, view, stake, fate, context, facts)
    match stake.role:
        case Role.WATCHED:
            return []
        case Role.DELAYED:
            return _swept_after_delay(delayed_claim(view, context, stake), close.height, context, facts)
        case Role.PENALTY:
            deadline = BlockHeight(close.height + delay_of(view, context))
            return _swept(penalty_claim(view, stake), Purpose.SWEEP, deadline, context, facts)
        case Role.OFFERED | Role.RECEIVED:
            return _for_htlc(view, stake, fate, context, facts)


def _for_htlc(view: View, stake: Stake, fate: OutputFate | None, context: Context, facts: Facts) -> list[ChannelEffect]:
    htlc = stake.htlc
    assert htlc is not None
    assert view.built is not None
    if htlc.ours:
        if facts.tip < htlc.expiry or (fate is not None and fate.preimage is not None):
            return []  # not timed out; or they claim it and have shown the preimage, which is all that it is worth
        purpose, deadline = Purpose.HTLC_TIMEOUT, BlockHeight(htlc.expiry + context.settle_margin)
    elif htlc.preimage is None:
        return []
    else:
        purpose, deadline = Purpose.HTLC_SUCCESS, htlc.expiry
    if view.kind is SpendKind.THEIRS:
        claim = direct_claim(view, context, stake)
        if not htlc.ours or not is_abandoned(claim, context):
            return _swept(claim, purpose, deadline, context, facts)
        # Worth less than its fee, but as long as it stands they can claim it, and what we owe for it upstream waits (R10).
        pair = sweep.build_pair(claim, payout_script(context.keys.payment_basepoint))
        return [] if pair is None else [_with_inputs(pair, purpose, stake, deadline, context, facts)]
    transaction = htlc_transaction(
        view.built,
        stake.index,
        their_signature=context.their_htlc_signatures[stake.place],
        htlc_basepoint_secret=context.keys.htlc_secret,
        preimage=None if htlc.ours else htlc.preimage,
    )
    return [_with_inputs(transaction, purpose, stake, deadline, context, facts)]


def _with_inputs(
    transaction: bytes, purpose: Purpose, stake: Stake, deadline: BlockHeight, context: Context, facts: Facts
) -> PublishWithInputs:
    return PublishWithInputs(
        channel_id=context.channel_id,
        transaction=transaction,
        purpose=purpose,
        spent_value=stake.value,
        deadline=BlockHeight(max(deadline, facts.tip + 1)),
    )


def _for_second_stage(
    close: Close, view: View, stake: Stake, fate: OutputFate, context: Context, facts: Facts
) -> list[ChannelEffect]:
    if not fate.second_stage or fate.height is None:
        return []
    later = fate_of(close, fate.spender, fate.position)
    if later is not None and later.height is not None:
        return []
    claim = second_stage_claim(view, context, fate.spender, fate.position, stake.value)
    if view.kind is SpendKind.OURS:
        return _swept_after_delay(claim, fate.height, context, facts)
    deadline = BlockHeight(fate.height + delay_of(view, context))
    return _swept(claim, Purpose.SWEEP, deadline, context, facts)


def _swept_after_delay(claim: Claim, height: BlockHeight, context: Context, facts: Facts) -> list[ChannelEffect]:
    if facts.tip + 1 < height + claim.sequence:  # BIP 68: what is in block h may be spent in block h + delay
        return []
    return _swept(claim, Purpose.SWEEP, None, context, facts)


def _swept(
    claim: Claim, purpose: Purpose, deadline: BlockHeight | None, context: Context, facts: Facts
) -> list[ChannelEffect]:
    target = payout_script(context.keys.payment_basepoint)
    most = sweep.highest_feerate(claim, target)
    if most < RELAY_FLOOR:
        return []
    rate = facts.feerate if deadline is None else escalated(facts.feerate, deadline, context.settle_margin, facts.tip)
    if deadline is None:  # in no hurry: half of it may go to fees, not all
        most = max(RELAY_FLOOR, FeeRate(most // 2))
    transaction = sweep.build(claim, target, min(max(rate, RELAY_FLOOR), most))
    assert transaction is not None
    return [Publish(channel_id=context.channel_id, transaction=transaction, purpose=purpose)]


def escalated(feerate: FeeRate, deadline: BlockHeight, window: int, tip: BlockHeight) -> FeeRate:
    """The feerate of a claim that should confirm before `deadline`: the estimate, doubled again and again over the last
    `window` blocks, up to 64 times."""
    passed = min(window, max(0, window - (deadline - tip)))
    return FeeRate(feerate << (_DOUBLINGS * passed // max(1, window)))
