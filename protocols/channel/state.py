"""A channel as frozen state: what is on disk, and what can be read off it without cryptography.

Source: BOLT 2 ("Normal Operation", "Message Retransmission"), BOLT 3 (trimming), DESIGN 6. Every HTLC carries its
stage in BOLT 2's dance of updates, commitments and revocations; which commitment contains it, what each side's
balance is there, and what must be sent again after a reconnect all follow from the stages.
"""

from dataclasses import dataclass, field, fields
from enum import Enum, IntEnum
from operator import attrgetter
from typing import Any

from protocols.channel.events import HtlcReceived, Outpoint
from protocols.ids import ChannelId, PaymentHash, PeerId, Preimage, Txid
from protocols.onchain.keys import BasePoints
from protocols.onchain.secrets import SecretStore
from protocols.units import AssetId, BlockDelta, BlockHeight, Msat, Sat, to_msat
from protocols.watch.state import Close
from protocols.wire.channel import FailureCode


class Phase(Enum):
    """Where a channel is in its life. The value is for people."""

    OPENING = "waiting for the neighbour to accept"  # funder: open_channel sent
    FUNDING = "waiting for our wallet"  # funder: accepted, the wallet builds the funding transaction
    SIGNING = "waiting for the neighbour's signature"  # funder: funding_created sent
    ACCEPTED = "waiting for the neighbour's funding"  # fundee: accept_channel sent
    CONFIRMING = "waiting for confirmations"  # funding signed; until it is deep and both said channel_ready
    OPEN = "open"
    SHUTTING = "closing, waiting for payments to end"  # a shutdown was sent or received; no new HTLCs
    CLOSING = "closing together"  # shutdown both ways and no HTLC left; until a closing transaction is buried
    FORCED = "closing by force"  # a commitment is being published or was seen
    LOST = "our record is old: waiting for the neighbour to close"  # we must not publish (BOLT 2, data loss)
    CLOSED = "closed"


BEFORE_FUNDING = frozenset({Phase.OPENING, Phase.FUNDING, Phase.SIGNING, Phase.ACCEPTED})
UPDATING = frozenset({Phase.OPEN, Phase.SHUTTING})  # phases with HTLC updates, commitment_signed and revoke_and_ack


class Stage(IntEnum):
    """How far an HTLC's addition, then its removal, has got. The offerer adds; the receiver settles or fails.

    In brackets: who has just sent what.
    """

    ADD_SENT = 0  # [offerer: update_add_htlc]
    ADD_SIGNED = 1  # [offerer: commitment_signed] it is in the receiver's commitment
    ADD_REVOKED = 2  # [receiver: revoke_and_ack] and in no older one of the receiver's
    ADD_ACK_SIGNED = 3  # [receiver: commitment_signed] it is in the offerer's commitment, too
    COMMITTED = 4  # [offerer: revoke_and_ack] irrevocably
    REMOVE_SENT = 5  # [receiver: update_fulfill_htlc or update_fail_htlc]
    REMOVE_SIGNED = 6  # [receiver: commitment_signed] gone from the offerer's commitment
    REMOVE_REVOKED = 7  # [offerer: revoke_and_ack] and from every older one of the offerer's
    REMOVE_ACK_SIGNED = 8  # [offerer: commitment_signed] gone from the receiver's commitment
    REMOVED = 9  # [receiver: revoke_and_ack] irrevocably; never stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Htlc:
    """One HTLC.

    Attributes:
        id: counted from 0 by its offerer.
        ours: whether we offered it.
        expiry: absolute height after which the offerer may take it back.
        preimage: known once shown by them (ours) or released by us (theirs); never forgotten, whatever is rolled back.
            Once it is known for one of ours, `HtlcFulfilled` was told and `HtlcFailed` never will be.
        failure: set while the removal is, or shall be, a failure; None from stage REMOVE_SENT on means settled.
    """

    id: int
    ours: bool
    amount: Msat
    payment_hash: PaymentHash
    expiry: BlockHeight
    stage: Stage = Stage.ADD_SENT
    preimage: Preimage | None = None
    failure: FailureCode | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one side announced in open_channel or accept_channel (BOLT 2). It binds the *other* side, except the dust
    limit, which shapes the announcer's own commitments."""

    dust_limit: Sat
    max_in_flight: Msat
    reserve: Sat
    htlc_minimum: Msat
    to_self_delay: BlockDelta
    max_accepted_htlcs: int
    shutdown_script: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCommitment:
    """A commitment of theirs that we signed; `record` is what a remedy will need once it is revoked (`records`)."""

    number: int
    txid: Txid
    record: bytes


class LastSent(Enum):
    """Which of the two was sent last: after a reconnect they are repeated in the same order (BOLT 2)."""

    NOTHING = 0
    COMMITMENT_SIGNED = 1
    REVOKE_AND_ACK = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosingProposal:
    """Our own last closing_complete on this connection; an answer must repeat it."""

    fee: Sat
    locktime: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A channel's whole state; one side's view.

    Attributes:
        channel_id: temporary until the funding outpoint is known, then permanent.
        asset: genesis hash of the chain it lives on.
        key_index: which of our channel keys it uses.
        capacity: value of the funding output.
        push: what the funder gave the fundee at the start.
        opened_tip: height at which we asked or accepted; patience with the funding counts from here.
        our_terms, their_terms: what each announced. Theirs are None until known.
        our_points, their_points: base points and funding key of each side.
        minimum_depth: confirmations before *we* use the channel.

        our_balance, their_balance: with every HTLC of `htlcs` still in its offerer's balance; their sum is the
            capacity. See `balances` for what is really free.
        htlcs: all that are not irrevocably removed, in the order in which they came.
        our_next_id, their_next_id: id of each side's next HTLC.

        our_number: number of our current commitment, the one that they signed last (BOLT 2 counts from 0).
        their_signature, their_htlc_signatures: for that commitment. Together with our keys they publish it.
        their_commitment: theirs that is valid now; None before the funding is known.
        their_unrevoked: a newer one that we signed and for which they have not yet revoked `their_commitment`.
        their_point: per-commitment point of `their_commitment`.
        their_next_point: of the one after it. None until channel_ready tells it.
        their_secrets: of everything that they revoked.
        last_sent: order of retransmission.

        funding: outpoint. funding_transaction: whole, only if we fund. funding_height: where it is confirmed.
        deep: the funding has `minimum_depth` confirmations now.
        ready_sent, ready_received: channel_ready.
        our_shutdown, their_shutdown: scripts of shutdown messages, None until sent or received. In SHUTTING, ours is
            None while updates of ours are unsigned (BOLT 2: no shutdown before they are).
        proposal: see there; volatile.
        closing_transactions: whole closing transactions that we hold, newest last; published until one is buried.
        close: the end on the chain (`protocols.watch`), once we force it or the funding output is spent.
        failure: why the channel was failed, told to the peer again when it reconnects; "" while it is not.

        connected: the stream stands. reestablished: and channel_reestablish was received on it. Both are volatile:
            not to be trusted after loading, see `loaded`.
    """

    channel_id: ChannelId
    peer: PeerId
    asset: AssetId
    key_index: int
    phase: Phase
    we_fund: bool
    capacity: Sat
    push: Msat
    opened_tip: BlockHeight
    our_terms: Terms
    our_points: BasePoints
    their_terms: Terms | None = None
    their_points: BasePoints | None = None
    minimum_depth: int = 0

    our_balance: Msat = Msat(0)
    their_balance: Msat = Msat(0)
    htlcs: tuple[Htlc, ...] = ()
    our_next_id: int = 0
    their_next_id: int = 0

    our_number: int = 0
    their_signature: bytes = b""
    their_htlc_signatures: tuple[bytes, ...] = ()
    their_commitment: SignedCommitment | None = None
    their_unrevoked: SignedCommitment | None = None
    their_point: bytes = b""
    their_next_point: bytes | None = None
    their_secrets: SecretStore = field(default_factory=SecretStore)
    last_sent: LastSent = LastSent.NOTHING

    funding: Outpoint | None = None
    funding_transaction: bytes = b""
    funding_height: BlockHeight | None = None
    deep: bool = False
    ready_sent: bool = False
    ready_received: bool = False

    our_shutdown: bytes | None = None
    their_shutdown: bytes | None = None
    proposal: ClosingProposal | None = None
    closing_transactions: tuple[bytes, ...] = ()
    close: Close | None = None
    failure: str = ""

    connected: bool = False
    reestablished: bool = False


_NAMES = tuple(each.name for each in fields(Channel))
_SETTERS = {name: Channel.__dict__[name].__set__ for name in _NAMES}
_IN_ORDER = tuple(_SETTERS.values())
_values_of = attrgetter(*_NAMES)


def evolve(channel: Channel, **changes: Any) -> Channel:
    """`dataclasses.replace` for a channel, at a quarter of its cost: a payment changes both channels' state a dozen times."""
    changed: Channel = object.__new__(Channel)
    for set_field, value in zip(_IN_ORDER, _values_of(channel), strict=True):
        set_field(changed, value)
    for name, value in changes.items():
        _SETTERS[name](changed, value)
    return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Balances:
    """Where the capacity is, millisatoshi; the four sum to it exactly.

    Attributes:
        ours: ours and in no HTLC.
        theirs: theirs and in no HTLC.
        offered: in HTLCs that we offered and that are not irrevocably removed.
        received: in HTLCs that they offered, likewise.
    """

    ours: Msat
    theirs: Msat
    offered: Msat
    received: Msat


def balances(channel: Channel) -> Balances:
    """Where the channel's capacity is now."""
    offered = received = 0
    for htlc in channel.htlcs:
        if htlc.ours:
            offered += htlc.amount
        else:
            received += htlc.amount
    return Balances(
        ours=Msat(channel.our_balance - offered),
        theirs=Msat(channel.their_balance - received),
        offered=Msat(offered),
        received=Msat(received),
    )


def is_usable(channel: Channel) -> bool:
    """Whether HTLCs may be offered now: open, funding deep enough, the peer there and re-established."""
    return channel.phase is Phase.OPEN and channel.deep and channel.connected and channel.reestablished


def live_htlcs(channel: Channel) -> tuple[Htlc, ...]:
    """Every HTLC, either way, that is not irrevocably removed (R10, R11)."""
    return channel.htlcs


def undecided(channel: Channel) -> tuple[HtlcReceived, ...]:
    """Received HTLCs that are irrevocably committed and that we have neither settled nor failed.

    What `HtlcReceived` is told for, again after a restart.
    """
    return tuple(
        received(channel, htlc)
        for htlc in channel.htlcs
        if not htlc.ours and htlc.stage == Stage.COMMITTED and htlc.preimage is None and htlc.failure is None
    )


def received(channel: Channel, htlc: Htlc) -> HtlcReceived:
    """The upward notice of an HTLC of theirs."""
    return HtlcReceived(
        channel_id=channel.channel_id,
        htlc_id=htlc.id,
        amount=htlc.amount,
        payment_hash=htlc.payment_hash,
        expiry=htlc.expiry,
    )


def spendable(channel: Channel) -> Msat:
    """The largest single HTLC that we can offer now, 0 when none; within reserve, count, value in flight and minimum."""
    return _room(channel, ours=True) if is_usable(channel) else Msat(0)


def receivable(channel: Channel) -> Msat:
    """The largest single HTLC that they can offer now, 0 when none; likewise."""
    return _room(channel, ours=False) if is_usable(channel) else Msat(0)


def _room(channel: Channel, *, ours: bool) -> Msat:
    terms = channel.their_terms if ours else channel.our_terms
    if terms is None:
        return Msat(0)
    count, in_flight = pending(channel, ours=ours)
    if count >= terms.max_accepted_htlcs:
        return Msat(0)
    room = min(available(channel, ours=ours) - to_msat(terms.reserve), terms.max_in_flight - in_flight)
    return Msat(room) if room > 0 and room >= terms.htlc_minimum else Msat(0)


def available(channel: Channel, *, ours: bool) -> Msat:
    """What one side has outside of HTLCs in the next commitment of the *other* side, which it would sign (BOLT 2:
    an HTLC must be payable there). Before the reserve is taken off.

    The side's own failed HTLCs count as refunded once they left every commitment of its own; HTLCs that it settled
    count as soon as it sent the preimage, because its next signature covers both.
    """
    total: int = channel.our_balance if ours else channel.their_balance
    for htlc in channel.htlcs:
        if htlc.ours == ours:
            if htlc.stage <= Stage.REMOVE_SIGNED or htlc.failure is None:
                total -= htlc.amount
        elif htlc.stage >= Stage.REMOVE_SENT and htlc.failure is None:
            total += htlc.amount
    return Msat(total)


def pending(channel: Channel, *, ours: bool) -> tuple[int, Msat]:
    """(count, sum) of the HTLCs that one side offered and that are in the next commitment of the other side."""
    count = total = 0
    for htlc in channel.htlcs:
        if htlc.ours == ours and htlc.stage <= Stage.REMOVE_SIGNED:
            count += 1
            total += htlc.amount
    return count, Msat(total)
