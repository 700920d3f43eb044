"""Which HTLC is on which commitment, how signatures and revocations move it on, and the commitments themselves.

Source: BOLT 2, "Normal Operation" (the stages of `state.Stage`); BOLT 3 for the transactions (`protocols.onchain`).
"""

from protocols.channel import records
from protocols.channel.state import Channel, Htlc, SignedCommitment, Stage
from protocols.errors import MisuseError
from protocols.onchain import commitment
from protocols.onchain.commitment import BuiltCommitment, CommitmentParams, CommitmentSpec, HtlcSpec
from protocols.onchain.keys import ChannelKeys
from protocols.units import Msat, Sat

# A signature by X moves an HTLC of X's own, or one of the other side's, from the one stage to the other.
_SIGNED_OWN = {Stage.ADD_SENT: Stage.ADD_SIGNED, Stage.REMOVE_REVOKED: Stage.REMOVE_ACK_SIGNED}
_SIGNED_OTHER = {Stage.ADD_REVOKED: Stage.ADD_ACK_SIGNED, Stage.REMOVE_SENT: Stage.REMOVE_SIGNED}
_REVOKED_OWN = {Stage.ADD_ACK_SIGNED: Stage.COMMITTED, Stage.REMOVE_SIGNED: Stage.REMOVE_REVOKED}
_REVOKED_OTHER = {Stage.ADD_SIGNED: Stage.ADD_REVOKED, Stage.REMOVE_ACK_SIGNED: Stage.REMOVED}


def at_stage(htlc: Htlc, stage: Stage) -> Htlc:
    """The same HTLC, further on."""
    return Htlc(
        id=htlc.id,
        ours=htlc.ours,
        amount=htlc.amount,
        payment_hash=htlc.payment_hash,
        expiry=htlc.expiry,
        stage=stage,
        preimage=htlc.preimage,
        failure=htlc.failure,
    )


def _moved(
    htlcs: tuple[Htlc, ...], by_us: bool, own: dict[Stage, Stage], other: dict[Stage, Stage]
) -> tuple[Htlc, ...]:
    changed = False
    result = []
    for htlc in htlcs:
        stage = (own if htlc.ours == by_us else other).get(htlc.stage)
        if stage is not None:
            changed = True
            htlc = at_stage(htlc, stage)
        result.append(htlc)
    return tuple(result) if changed else htlcs


def after_signature(htlcs: tuple[Htlc, ...], *, by_us: bool) -> tuple[Htlc, ...]:
    """The HTLCs once one side has sent commitment_signed. The same object when there was nothing to sign."""
    return _moved(htlcs, by_us, _SIGNED_OWN, _SIGNED_OTHER)


def after_revocation(htlcs: tuple[Htlc, ...], *, by_us: bool) -> tuple[Htlc, ...]:
    """The HTLCs once one side has sent revoke_and_ack; those now REMOVED are still among them."""
    return _moved(htlcs, by_us, _REVOKED_OWN, _REVOKED_OTHER)


def has_unsigned(channel: Channel) -> bool:
    """Whether a commitment_signed of ours would change their commitment."""
    return any(htlc.stage in (_SIGNED_OWN if htlc.ours else _SIGNED_OTHER) for htlc in channel.htlcs)


def has_unsigned_updates(channel: Channel) -> bool:
    """Whether we sent updates that no commitment_signed of ours covers yet."""
    return any(htlc.stage == (Stage.ADD_SENT if htlc.ours else Stage.REMOVE_SENT) for htlc in channel.htlcs)


# Stages with which an HTLC is on a commitment: first and last. Above the last it was removed from it.
_ON_OFFERER = (Stage.ADD_ACK_SIGNED, Stage.REMOVE_SENT)
_ON_RECEIVER = (Stage.ADD_SIGNED, Stage.REMOVE_REVOKED)
# The same for the one before, while the newest one's predecessor is not revoked.
_ON_OFFERER_BEFORE = (Stage.COMMITTED, Stage.REMOVE_SIGNED)
_ON_RECEIVER_BEFORE = (Stage.ADD_REVOKED, Stage.REMOVE_ACK_SIGNED)


def spec_of(channel: Channel, number: int, *, ours: bool, older: bool = False) -> CommitmentSpec:
    """What is in one side's newest signed commitment, as the stages of the HTLCs say.

    Args:
        number: of that commitment.
        ours: whose commitment.
        older: the one before it instead, while that is not revoked.
    """
    offerer, receiver = (_ON_OFFERER_BEFORE, _ON_RECEIVER_BEFORE) if older else (_ON_OFFERER, _ON_RECEIVER)
    balance_ours, balance_theirs = channel.our_balance, channel.their_balance
    specs = []
    for htlc in channel.htlcs:
        offered = htlc.ours == ours  # by the broadcaster
        first, last = offerer if offered else receiver
        if htlc.stage < first:
            continue
        amount = htlc.amount
        gained = Msat(0)
        if htlc.stage <= last:
            specs.append(
                HtlcSpec(
                    id=htlc.id,
                    offered=offered,
                    amount=amount,
                    payment_hash=htlc.payment_hash,
                    expiry=htlc.expiry,
                )
            )
        elif htlc.failure is None:
            gained = amount
        else:
            continue
        if htlc.ours:
            balance_ours, balance_theirs = Msat(balance_ours - amount), Msat(balance_theirs + gained)
        else:
            balance_ours, balance_theirs = Msat(balance_ours + gained), Msat(balance_theirs - amount)
    return CommitmentSpec(
        number=number,
        to_broadcaster=balance_ours if ours else balance_theirs,
        to_countersignatory=balance_theirs if ours else balance_ours,
        htlcs=tuple(specs),
    )


def params_of(channel: Channel, *, ours: bool) -> CommitmentParams:
    """What is the same in all commitments of one side. MisuseError before the funding is known."""
    if channel.funding is None or channel.their_points is None or channel.their_terms is None:
        raise MisuseError("a commitment before the funding is known")
    own, other = (channel.our_terms, channel.their_terms) if ours else (channel.their_terms, channel.our_terms)
    return CommitmentParams(
        funding_txid=channel.funding.txid,
        funding_index=channel.funding.index,
        capacity=channel.capacity,
        broadcaster=channel.our_points if ours else channel.their_points,
        countersignatory=channel.their_points if ours else channel.our_points,
        opener_is_broadcaster=channel.we_fund == ours,
        to_self_delay=other.to_self_delay,
        dust_limit=own.dust_limit,
    )


def build_ours(channel: Channel, keys: ChannelKeys, number: int) -> BuiltCommitment:
    """Our commitment `number`, with the HTLCs that the stages put on our newest one."""
    return commitment.build(
        params_of(channel, ours=True), spec_of(channel, number, ours=True), keys.per_commitment_point(number)
    )


def build_theirs(channel: Channel, number: int, point: bytes) -> BuiltCommitment:
    """Their commitment `number`, with the HTLCs that the stages put on their newest one."""
    return commitment.build(params_of(channel, ours=False), spec_of(channel, number, ours=False), point)


def signed(built: BuiltCommitment) -> SignedCommitment:
    """What is stored of a commitment of theirs that we sign."""
    return SignedCommitment(number=built.spec.number, txid=built.txid, record=records.encode(built))


def dust_exposure(channel: Channel, dust_limit: Sat, *, ours: bool) -> Msat:
    """Sum of the HTLCs, both ways, that are in one side's next commitment without an output of their own."""
    total = 0
    for htlc in channel.htlcs:  # for each HTLC that is offered: what decides most of them comes first
        if not commitment.is_trimmed(htlc.amount, dust_limit):
            continue
        if htlc.ours == ours:
            there = Stage.ADD_REVOKED <= htlc.stage <= Stage.COMMITTED
        else:
            there = htlc.stage <= Stage.REMOVE_SIGNED
        if there:
            total += htlc.amount
    return Msat(total)


def without_removed(channel: Channel) -> tuple[tuple[Htlc, ...], Msat]:
    """(HTLCs that remain, what our balance gains) when those that are REMOVED are taken out."""
    gain = 0
    kept = []
    for htlc in channel.htlcs:
        if htlc.stage != Stage.REMOVED:
            kept.append(htlc)
        elif htlc.failure is None:
            gain += -htlc.amount if htlc.ours else htlc.amount
    return tuple(kept), Msat(gain)
