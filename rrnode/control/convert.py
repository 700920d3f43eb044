"""From the engines' words to the API's: channels, payments, promises, offers as models (text forms: see `models`)."""

import math

from protocols.channel.events import Refusal
from protocols.channel.state import Channel, Phase, balances, is_usable, receivable, spendable
from protocols.ids import PeerId
from protocols.payment.events import Attempt, Forward, Payment, PayPhase, Promise, PromisePhase
from protocols.payment.payer import failure_words
from protocols.routing.events import OfferArrived
from protocols.routing.views import RouteOffer
from protocols.units import PPM, Sat
from protocols.watch.hunt import Case
from rrnode.chain.parse import parse_transaction
from rrnode.control import models as m
from rrnode.control.text import peer_text, txid_text
from rrnode.services.collecting import Emptied
from rrnode.traces import Note


def fee_ppm(fee_msat: int, amount_msat: int) -> int:
    """A fee as parts per million of the amount it was paid for, rounded up."""
    return -(-fee_msat * PPM // amount_msat) if amount_msat else 0


def attempt_info(attempt: Attempt, amount_msat: int) -> m.AttemptInfo:
    """`amount_msat` is what the payee is to receive; the rest of the attempt is fees."""
    return m.AttemptInfo(
        channel_id=attempt.channel_id.hex(),
        neighbour=peer_text(attempt.neighbour),
        amount_msat=attempt.amount,
        fee_msat=attempt.amount - amount_msat,
        expiry_height=attempt.expiry,
        failure="" if attempt.failure is None else failure_words(attempt.failure),
    )


_PAY_PHASE = {
    PayPhase.COLLECTING: "collecting",
    PayPhase.LOCKED: "locked",
    PayPhase.PAID: "paid",
    PayPhase.FAILED: "failed",
}
_PROMISE_PHASE = {
    PromisePhase.WAITING: "waiting",
    PromisePhase.CLAIMED: "claimed",
    PromisePhase.EXPIRED: "expired",
}


def channel_info(channel: Channel, waits: Refusal | None = None, warning: str = "") -> m.ChannelInfo:
    """A channel as its owner sees it. `waits`: why it waits for its watchers; `warning`: why it is in danger."""
    held = balances(channel)
    usable = is_usable(channel)
    their_reserve = channel.our_terms.reserve
    our_reserve = channel.their_terms.reserve if channel.their_terms else Sat(0)
    return m.ChannelInfo(
        channel_id=channel.channel_id.hex(),
        peer_id=peer_text(channel.peer),
        phase=channel.phase.name.lower(),
        usable=usable,
        funded_by_us=channel.we_fund,
        capacity_sat=channel.capacity,
        ours_msat=held.ours,
        theirs_msat=held.theirs,
        in_flight_out_msat=held.offered,
        in_flight_in_msat=held.received,
        can_send_msat=spendable(channel) if usable else 0,
        can_receive_msat=receivable(channel) if usable else 0,
        our_reserve_sat=our_reserve,
        their_reserve_sat=their_reserve,
        htlcs=len(channel.htlcs),
        funding_txid=txid_text(channel.funding.txid) if channel.funding else "",
        funding_index=channel.funding.index if channel.funding else 0,
        funding_height=channel.funding_height,
        states_revoked=channel.their_commitment.number if channel.their_commitment else 0,
        closing_txid=(
            txid_text(parse_transaction(channel.close.transaction).txid)
            if channel.close is not None and channel.close.transaction
            else ""
        ),
        note=channel_note(channel, waits),
        warning=warning,
    )


def channel_note(channel: Channel, waits: Refusal | None = None) -> str:
    """What a channel waits for, or why it failed."""
    if channel.failure:
        return channel.failure
    if channel.phase is Phase.OPEN and not is_usable(channel):
        if not channel.connected:
            return "the neighbour is not connected"
        if not channel.deep:
            return "the funding transaction lost confirmations in a reorganisation"
        return "re-establishing"
    if waits is not None and channel.phase is Phase.OPEN:
        return f"takes on nothing new: {waits.value}"
    return "" if channel.phase is Phase.OPEN else channel.phase.value


def channel_event(channel: Channel) -> m.ChannelEvent:
    """A channel that has changed."""
    held = balances(channel)
    return m.ChannelEvent(
        channel_id=channel.channel_id.hex(),
        peer_id=peer_text(channel.peer),
        phase=channel.phase.name.lower(),
        usable=is_usable(channel),
        ours_msat=held.ours,
        theirs_msat=held.theirs,
        text=channel.failure or channel.phase.value,
    )


def payment_info(payment: Payment, delivery: str = "") -> m.PaymentInfo:
    """A payment as stored, and how its payee was told. The preimage is shown once it is a receipt: before that it is a secret (push)."""
    paid = payment.phase is PayPhase.PAID
    sent = payment.attempts[-1].amount if paid and payment.attempts else None
    return m.PaymentInfo.model_validate(
        {
            "payment_hash": payment.payment_hash.hex(),
            "kind": payment.kind.value,
            "phase": _PAY_PHASE[payment.phase],
            "payee": peer_text(payment.payee),
            "amount_msat": payment.amount.msat,
            "ceiling_msat": payment.ceiling.msat,
            "sent_msat": sent,
            "fee_msat": None if sent is None else sent - payment.amount.msat,
            "preimage": payment.preimage.hex() if paid and payment.preimage else "",
            "attempts": tuple(attempt_info(attempt, payment.amount.msat) for attempt in payment.attempts),
            "created_unix": payment.created,
            "expires_unix": payment.expiry,
            "ended_unix": payment.ended,
            "memo": payment.memo,
            "reason": payment.reason,
            "delivery": delivery,
        }
    )


def promise_info(promise: Promise) -> m.PromiseInfo:
    """A payment that we take, as stored; its preimage is never shown."""
    return m.PromiseInfo.model_validate(
        {
            "payment_hash": promise.payment_hash.hex(),
            "kind": promise.kind.value,
            "phase": _PROMISE_PHASE[promise.phase],
            "amount_msat": promise.amount.msat,
            "received_msat": promise.received,
            "created_unix": promise.created,
            "expires_unix": promise.expiry,
            "memo": promise.memo,
        }
    )


def forward_step(forward: Forward) -> m.ForwardStep:
    """Where a payment that passes through us stands."""
    away = forward.outgoing is not None and forward.downstream is not None
    return m.ForwardStep(
        payment_hash=forward.payment_hash.hex(),
        upstream=peer_text(forward.upstream),
        to=peer_text(forward.downstream) if away and forward.downstream is not None else "",
        amount_msat=forward.outgoing_amount if away else 0,
        tried=tuple(peer_text(peer) for peer in forward.tried),
    )


def offer_info(offer: RouteOffer) -> m.OfferInfo:
    """An offer in the routing table."""
    return m.OfferInfo(
        neighbour=peer_text(offer.neighbour),
        amount_msat=offer.amount.msat,
        lock_blocks=offer.lock_blocks,
        expires_unix=offer.expiry,
    )


def offer_seen(arrived: OfferArrived, payment: Payment, *, cheapest: bool, after_ms: int) -> m.OfferSeen:
    """Progress of a payment of ours: an offer reached us. One in another asset than the payment's shows no fee."""
    amount = arrived.offer.amount_msat
    fee = amount - payment.amount.msat if arrived.offer.asset == payment.amount.asset else None
    return m.OfferSeen(
        payment_hash=payment.payment_hash.hex(),
        neighbour=peer_text(arrived.neighbour),
        amount_msat=amount,
        fee_msat=fee,
        fee_ppm=None if fee is None else fee_ppm(fee, payment.amount.msat),
        lock_blocks=arrived.offer.lock_blocks,
        cheapest=cheapest,
        after_ms=after_ms,
    )


def trace_note(note: Note) -> m.TraceNote:
    """A note on a payment."""
    return m.TraceNote(
        at_ms=math.floor(note.at * 1000),
        kind=note.kind,
        peer_id="" if note.peer is None else peer_text(note.peer),
        amount_msat=note.amount,
        blocks=note.blocks,
        kept=note.kept,
        text=note.text,
    )


def bounty_info(case: Case) -> m.BountyInfo:
    """A hunt as its owner sees it."""
    taken = {each.index: each for each in case.taken}
    return m.BountyInfo(
        txid=txid_text(case.txid),
        outcome=case.outcome.value,
        first_seen_unix=case.first_seen,
        breach_height=case.height,
        reward_sat=case.reward,
        lost=case.lost,
        claim_txid="" if case.claim is None else txid_text(case.claim),
        claim_fee_sat=case.claim_fee,
        outputs=tuple(
            m.BountyOutput(
                index=pair.index,
                value_sat=pair.spent.value,
                bounty_sat=pair.bounty,
                spender=txid_text(taken[pair.index].spender) if pair.index in taken else "",
                height=taken[pair.index].height if pair.index in taken else None,
                ours=pair.index in taken and taken[pair.index].ours,
            )
            for pair in case.pairs
        ),
    )


def mailbox_info(server: PeerId, left: Emptied | None) -> m.MailboxInfo:
    """Our mailbox at a server, as it was left last."""
    if left is None:
        return m.MailboxInfo(server=peer_text(server))
    return m.MailboxInfo(
        server=peer_text(server),
        at_unix=left.at,
        taken=left.taken,
        left=left.left,
        turned_away=left.turned_away,
        expired=left.expired,
        problem=left.problem,
    )
