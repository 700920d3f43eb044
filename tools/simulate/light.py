"""Channels without keys, signatures and transactions: real `Channel` states, moved in one step where BOLT 2 takes five messages.

What is modelled: an HTLC is irrevocable when its update comes, so whoever delivers the update waits as long as the whole
dance of updates, signatures and revocations would take (`one_way_trips`). Nobody is ever away, and nothing is closed. The
money engine above takes this for `protocols.channel.engine`; everything it decides is real.
"""

from protocols.channel.events import (
    ChannelEffect,
    ChannelEvent,
    FailHtlc,
    HtlcFailed,
    HtlcFulfilled,
    HtlcOffered,
    HtlcRefused,
    MessageReceived,
    OfferHtlc,
    Refusal,
    SendMessage,
    SettleHtlc,
    StoreChannel,
)
from protocols.channel.state import Channel, Htlc, Phase, Stage, Terms, evolve, received, spendable, undecided
from protocols.channel.step import Env, Step
from protocols.ids import ChannelId, PaymentHash, PeerId, Preimage
from protocols.onchain.keys import BasePoints
from protocols.units import AssetId, BlockDelta, BlockHeight, Msat, Sat, to_msat
from protocols.wire.channel import (
    CODEC,
    ChannelMessage,
    CommitmentSigned,
    FailureCode,
    RevokeAndAck,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFulfillHtlc,
)

TIP = BlockHeight(1000)  # no block is found while payments are made
_NO_KEY = bytes(33)
_NO_KEYS = BasePoints(
    funding_pubkey=_NO_KEY, revocation=_NO_KEY, payment=_NO_KEY, delayed_payment=_NO_KEY, htlc=_NO_KEY
)


def opened(
    channel_id: ChannelId, peer: PeerId, asset: AssetId, capacity: Sat, ours: Msat, our_most: Msat, their_most: Msat
) -> Channel:
    """One side's view of an open channel. Balances are what can be spent: the reserve is taken to lie beside them.

    Args:
        ours: our balance.
        our_most, their_most: the most that each side has in flight; 0: it offers nothing.
    """
    return Channel(
        channel_id=channel_id,
        peer=peer,
        asset=asset,
        key_index=0,
        phase=Phase.OPEN,
        we_fund=True,
        capacity=capacity,
        push=Msat(0),
        opened_tip=TIP,
        our_terms=_terms(their_most),
        our_points=_NO_KEYS,
        their_terms=_terms(our_most),
        their_points=_NO_KEYS,
        our_balance=ours,
        their_balance=Msat(to_msat(capacity) - ours),
        funding_height=TIP,
        deep=True,
        ready_sent=True,
        ready_received=True,
        connected=True,
        reestablished=True,
    )


def _terms(most: Msat) -> Terms:
    """What one side grants the other (BOLT 2)."""
    return Terms(
        dust_limit=Sat(354),
        max_in_flight=most,
        reserve=Sat(0),
        htlc_minimum=Msat(1),
        to_self_delay=BlockDelta(144),
        max_accepted_htlcs=114,
        shutdown_script=b"",
    )


# --- the rules (`protocols.payment.book.ChannelRules`) ----------------------------------------------------------------


def loaded(channel: Channel) -> Channel:
    """Nothing is doubted after loading."""
    return channel


def resume(channel: Channel, env: Env) -> Step:
    """What was not decided is told again."""
    return Step(channel, undecided(channel))


def handle(channel: Channel | None, event: ChannelEvent, env: Env) -> Step:
    """One event on one channel."""
    if channel is None:
        return Step(None)
    match event:
        case OfferHtlc():
            return _offer(channel, event)
        case SettleHtlc(htlc_id=number, preimage=preimage):
            message = UpdateFulfillHtlc(channel.channel_id, number, preimage)
            return _remove(channel, number, message, preimage=preimage)
        case FailHtlc(htlc_id=number, code=code):
            return _remove(channel, number, UpdateFailHtlc(channel.channel_id, number, code), failure=code)
        case MessageReceived(message=UpdateAddHtlc() as message):
            htlc = Htlc(
                id=message.id,
                ours=False,
                amount=Msat(message.amount_msat),
                payment_hash=PaymentHash(message.payment_hash),
                expiry=BlockHeight(message.cltv_expiry),
                stage=Stage.COMMITTED,
            )
            return _stored(evolve(channel, htlcs=(*channel.htlcs, htlc)), received(channel, htlc))
        case MessageReceived(message=UpdateFulfillHtlc(id=number, preimage=preimage)):
            return _ended(channel, number, Preimage(preimage), FailureCode.INTERNAL)
        case MessageReceived(message=UpdateFailHtlc(id=number, code=code)):
            return _ended(channel, number, None, FailureCode(code))
        case MessageReceived(message=RevokeAndAck()):
            return _forgotten(channel)
        case _:
            return Step(channel)


def _stored(channel: Channel, *effects: ChannelEffect) -> Step:
    return Step(channel, (StoreChannel(channel=channel), *effects))


def _offer(channel: Channel, event: OfferHtlc) -> Step:
    if spendable(channel) < event.amount:
        reason = Refusal.BELOW_RESERVE
        refused = HtlcRefused(channel_id=channel.channel_id, reference=event.reference, reason=reason)
        return Step(channel, (refused,))
    htlc = Htlc(
        id=channel.our_next_id,
        ours=True,
        amount=event.amount,
        payment_hash=event.payment_hash,
        expiry=event.expiry,
        stage=Stage.COMMITTED,
    )
    message = UpdateAddHtlc(channel.channel_id, htlc.id, htlc.amount, htlc.payment_hash, htlc.expiry)
    return _stored(
        evolve(channel, htlcs=(*channel.htlcs, htlc), our_next_id=htlc.id + 1),
        SendMessage(peer=channel.peer, message=message),
        HtlcOffered(channel_id=channel.channel_id, reference=event.reference, htlc_id=htlc.id),
    )


def _remove(
    channel: Channel,
    number: int,
    message: ChannelMessage,
    *,
    preimage: Preimage | None = None,
    failure: FailureCode | None = None,
) -> Step:
    """We settle or fail one of theirs. It moves behind the others, so that revocations find removals in their order."""
    for htlc in channel.htlcs:
        if htlc.id == number and not htlc.ours and htlc.stage is Stage.COMMITTED:
            rest = tuple(each for each in channel.htlcs if each is not htlc)
            removed = Htlc(
                id=htlc.id,
                ours=False,
                amount=htlc.amount,
                payment_hash=htlc.payment_hash,
                expiry=htlc.expiry,
                stage=Stage.REMOVE_SENT,
                preimage=preimage,
                failure=failure,
            )
            return _stored(evolve(channel, htlcs=(*rest, removed)), SendMessage(peer=channel.peer, message=message))
    return Step(channel)


def _ended(channel: Channel, number: int, preimage: Preimage | None, code: FailureCode) -> Step:
    """They settled or failed one of ours."""
    for htlc in channel.htlcs:
        if htlc.id == number and htlc.ours:
            rest = tuple(each for each in channel.htlcs if each is not htlc)
            told: ChannelEffect
            if preimage is None:
                after = evolve(channel, htlcs=rest)
                told = HtlcFailed(
                    channel_id=channel.channel_id, htlc_id=number, payment_hash=htlc.payment_hash, code=code
                )
            else:
                after = _moved(evolve(channel, htlcs=rest), -htlc.amount)
                told = HtlcFulfilled(
                    channel_id=channel.channel_id, htlc_id=number, payment_hash=htlc.payment_hash, preimage=preimage
                )
            revoked = RevokeAndAck(channel.channel_id, bytes(32), _NO_KEY)
            return _stored(after, SendMessage(peer=channel.peer, message=revoked), told)
    return Step(channel)


def _forgotten(channel: Channel) -> Step:
    """They revoked the last commitment that held the oldest HTLC that we removed."""
    for htlc in channel.htlcs:
        if htlc.stage is Stage.REMOVE_SENT:
            rest = tuple(each for each in channel.htlcs if each is not htlc)
            return _stored(_moved(evolve(channel, htlcs=rest), htlc.amount if htlc.preimage else 0))
    return Step(channel)


def _moved(channel: Channel, gain: int) -> Channel:
    return evolve(
        channel, our_balance=Msat(channel.our_balance + gain), their_balance=Msat(channel.their_balance - gain)
    )


# --- what the dance would cost ----------------------------------------------------------------------------------------

_DANCE = (
    CommitmentSigned(bytes(32), bytes(64), ()),
    RevokeAndAck(bytes(32), bytes(32), _NO_KEY),
)  # each way once, after every update
MESSAGES = 1 + 2 * len(_DANCE)  # per update, with nothing gathered
_DANCE_BYTES = 2 * sum(len(CODEC.encode(each)) for each in _DANCE)


def one_way_trips(message: ChannelMessage) -> int:
    """After how many one-way trips the receiver may act on an update: an HTLC, or a failure, when both have revoked what
    was before; a preimage at once."""
    return 3 if isinstance(message, UpdateAddHtlc | UpdateFailHtlc) else 1


def cost(message: ChannelMessage) -> tuple[int, int]:
    """Messages and bytes that the real channel engine would send for an update; the HTLCs' own signatures left out."""
    if isinstance(message, RevokeAndAck):
        return 0, 0  # counted with its update
    return MESSAGES, len(CODEC.encode(message)) + _DANCE_BYTES
