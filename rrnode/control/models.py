"""What the control API answers: text and numbers for people and programs (DESIGN 3, `control/`).

Bytes become text here and nowhere further inside (CONVENTIONS): hashes, preimages, channel ids and peer keys are
lower-case hex, transaction and block ids in the order that block explorers show, peer ids in libp2p's base58 form.
A quantity has its unit at the end of its name: `_msat`, `_sat`, `_ms`, `_s`, `_unix` (seconds since 1970), `_ppm`,
`_blocks`, `_height`. Fields are only ever added: `--json` prints these models and programs rely on them.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Model(BaseModel):
    """Frozen, and strict about names, so that a renamed field fails a test and not a user."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- the node ---------------------------------------------------------------------------------------------------------


class ChainStatus(Model):
    """The chain as the node's follower sees it. `problem` is a sentence when the backend does not answer."""

    backend: str
    height: int
    block_hash: str
    ready: bool
    problem: str = ""


class Status(Model):
    """What `rrnode status` prints.

    Attributes:
        halted: why the node takes on nothing new ("" while all is well); locked payments are still guarded.
        alarms: what a person must know, newest last.
        warnings: what is not as it should be with those who guard this node, now.
        channel_ours_msat: our settled balance in channels that live; in-flight HTLCs of ours are not in it.
    """

    version: str
    network: str
    peer_id: str
    operator: str
    switches: tuple[str, ...]
    listening: tuple[str, ...]
    data_dir: str
    pid: int
    uptime_s: int
    chain: ChainStatus
    peers_connected: int
    channels_open: int
    channels_opening: int
    channels_closing: int
    channel_ours_msat: int
    channel_theirs_msat: int
    in_flight_out_msat: int
    in_flight_in_msat: int
    wallet_confirmed_sat: int
    wallet_unconfirmed_sat: int
    payments_live: int
    forwards_live: int
    forwards_done: int = 0
    earned_msat: int = 0
    halted: str = ""
    alarms: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class PeerInfo(Model):
    """A peer that is linked, kept, or a channel neighbour.

    Attributes:
        address: where it is dialled; of an inbound link the other end, which is what a NAT made of it.
        problem: why it is not connected.
    """

    peer_id: str
    connected: bool
    inbound: bool = False
    address: str = ""
    agent: str = ""
    switches: tuple[str, ...] = ()
    kept: bool = False
    channels: int = 0
    problem: str = ""


class HelperInfo(Model):
    """A node that tells us the chain, because we hold none.

    Attributes:
        height: of the best block that it showed us; None before the first.
        lag: blocks that it is behind the best we know of.
        answers, silences, refusals: our questions by how they ended.
        disagreements: answers that differ from others' where nobody can be proven wrong; `last_disagreement` in words.
        lies: answers that are proven wrong; `last_lie` in words. Its silence then counts for nothing any more.
        problem: why it cannot be asked now; "" when it can.
        related: why its silence counts for nothing: it seems to belong to a channel neighbour.
    """

    peer_id: str
    connected: bool
    height: int | None = None
    lag: int | None = None
    answers: int = 0
    silences: int = 0
    refusals: int = 0
    disagreements: int = 0
    last_disagreement: str = ""
    lies: int = 0
    last_lie: str = ""
    problem: str = ""
    related: str = ""


# --- channels ---------------------------------------------------------------------------------------------------------


class ChannelInfo(Model):
    """One channel.

    Attributes:
        phase: the channel engine's word for where it is in its life (`open`, `closing`, ...).
        usable: payments can pass now: open, reestablished, peer connected.
        ours_msat, theirs_msat: settled balances; what is in flight is in neither.
        can_send_msat, can_receive_msat: the largest single HTLC that could move now.
        closing_txid: the transaction that closes it, once known.
        note: what is waited for, or why it failed; a sentence or "".
        warning: what its owner should do about who guards it; a sentence or "".
    """

    channel_id: str
    peer_id: str
    phase: str
    usable: bool
    funded_by_us: bool
    capacity_sat: int
    ours_msat: int
    theirs_msat: int
    in_flight_out_msat: int = 0
    in_flight_in_msat: int = 0
    can_send_msat: int = 0
    can_receive_msat: int = 0
    our_reserve_sat: int = 0
    their_reserve_sat: int = 0
    htlcs: int = 0
    funding_txid: str = ""
    funding_index: int = 0
    funding_height: int | None = None
    states_revoked: int = 0
    closing_txid: str = ""
    note: str = ""
    warning: str = ""


# --- watchers ---------------------------------------------------------------------------------------------------------


class WatcherInfo(Model):
    """A watcher of ours. `problem` says why it is not used, or holds less than it could."""

    peer_id: str
    address: str
    connected: bool
    problem: str = ""


class HeldStates(Model):
    """What one watcher holds of one channel: how many revoked states, the newest of them, until when the first is kept.

    Attributes:
        lacks: revoked states that it should hold and does not.
        related: why it counts for nothing on this channel: it seems to belong to the neighbour.
    """

    peer_id: str
    states: int
    lacks: int = 0
    newest: int | None = None
    has_newest: bool = False
    until_height: int | None = None
    related: str = ""


class ChannelCover(Model):
    """Who could stop a cheat on one channel while this node is away.

    Attributes:
        states_revoked: numbered from 0.
        stake_sat: what the neighbour is sure to lose by cheating; bounties are paid out of half of it.
        note: why it is not covered, or not wholly; a sentence or "".
    """

    channel_id: str
    peer_id: str
    states_revoked: int
    stake_sat: int
    holders_of_newest: int
    held: tuple[HeldStates, ...] = ()
    note: str = ""


class Cover(Model):
    watchers: tuple[WatcherInfo, ...]
    channels: tuple[ChannelCover, ...]


# --- audit ------------------------------------------------------------------------------------------------------------


class AuditPeer(Model):
    """A peer and what it is to this channel; one node may be helper and watcher."""

    peer_id: str
    roles: tuple[Literal["neighbour", "helper", "watcher"], ...]


class AuditParty(Model):
    """Peers who seem to belong together, and a sentence for each two of them about why; most often there is one peer."""

    peers: tuple[AuditPeer, ...]
    why: tuple[str, ...] = ()


class AuditSet(Model):
    """Parties who could together rob this node, none of whom could be missing.

    Attributes:
        when: "away": only while this node is down, for `to_self_delay_blocks`, or until payments in flight expire;
            "up": although it runs, by hiding the chain from it.
        means: publishing an "old state" of the channel, or letting "payments in flight" run out.
        at_stake_msat: the most that they could take.
        parties: the neighbour's first.
    """

    when: Literal["away", "up"]
    means: Literal["old state", "payments in flight"]
    at_stake_msat: int
    parties: tuple[AuditParty, ...]


class ChannelAudit(Model):
    """The smallest such sets for one channel, as things are now; fewest parties first. `warning` as in `ChannelInfo`."""

    channel_id: str
    peer_id: str
    to_self_delay_blocks: int
    sets: tuple[AuditSet, ...]
    warning: str = ""


class Audit(Model):
    """`own_chain`: this node reads the chain by itself, so that nobody can hide it while it runs."""

    own_chain: bool
    channels: tuple[ChannelAudit, ...]


# --- bounties ---------------------------------------------------------------------------------------------------------


class BountyOutput(Model):
    """An output of a breach. `spender` is "" while no block has spent it; `ours`: by a claim of ours."""

    index: int
    value_sat: int
    bounty_sat: int
    spender: str = ""
    height: int | None = None
    ours: bool = False


class BountyInfo(Model):
    """A breach that this node hunts or hunted.

    Attributes:
        outcome: "hunting", "won", "won in part", "lost", "the breach is gone" or "left for want of room" (it goes on when
            there is room).
        breach_height: None while no block holds the breach.
        reward_sat: what blocks have paid us.
        lost: outputs that somebody else has taken: a rival, the victim, or the cheat.
        claim_txid, claim_fee_sat: what was published last; "" before.
    """

    txid: str
    outcome: str
    first_seen_unix: int
    breach_height: int | None
    reward_sat: int
    lost: int
    claim_txid: str = ""
    claim_fee_sat: int = 0
    outputs: tuple[BountyOutput, ...] = ()


# --- payments ---------------------------------------------------------------------------------------------------------


class ContactInfo(Model):
    """Who we are, for payers: give `contact` to anybody who may pay us any amount (R14)."""

    contact: str
    peer_id: str
    routing_servers: tuple[str, ...]


class RequestInfo(Model):
    """A payment request, made and stored; give `request` to the payer."""

    request: str
    payment_hash: str
    amount_msat: int
    memo: str
    expires_unix: int


class AttemptInfo(Model):
    """One HTLC that was locked for a payment. `failure` is "" while it lives or when it was the one that paid."""

    channel_id: str
    neighbour: str
    amount_msat: int
    fee_msat: int
    expiry_height: int
    failure: str = ""


class PaymentInfo(Model):
    """A payment that we make.

    Attributes:
        kind: `push` (our secret) or `request` (theirs: `preimage` is then the receipt).
        phase: `collecting`, `locked`, `paid` or `failed`.
        sent_msat, fee_msat: what left us and what of it was fees; None until paid.
        preimage: the receipt, "" until paid.
        reason: why it failed, a sentence.
        delivery: how the payee was told of it, or what is waited for; "" when this process does not know.
    """

    payment_hash: str
    kind: Literal["push", "request"]
    phase: Literal["collecting", "locked", "paid", "failed"]
    payee: str
    amount_msat: int
    ceiling_msat: int
    sent_msat: int | None = None
    fee_msat: int | None = None
    preimage: str = ""
    attempts: tuple[AttemptInfo, ...] = ()
    created_unix: int
    expires_unix: int
    ended_unix: int | None = None
    memo: str = ""
    reason: str = ""
    delivery: str = ""


class PromiseInfo(Model):
    """A payment that we take. `phase` is `waiting`, `claimed` or `expired`."""

    payment_hash: str
    kind: Literal["push", "request"]
    phase: Literal["waiting", "claimed", "expired"]
    amount_msat: int
    received_msat: int
    created_unix: int
    expires_unix: int
    memo: str = ""


class MailboxInfo(Model):
    """Our mailbox at one server, as it was left last.

    Attributes:
        at_unix: None when this process has not asked yet.
        taken: payments that we asked the network for at that time.
        left: that could not be taken then, and are tried again.
        turned_away, expired: that we shall never see, since this process began.
        problem: why it cannot be asked; "" when it can.
    """

    server: str
    at_unix: int | None = None
    taken: int = 0
    left: int = 0
    turned_away: int = 0
    expired: int = 0
    problem: str = ""


class HandedOver(Model):
    """A payment that runs, and the text that its payee must be given: `rrnode receive TEXT`."""

    payment_hash: str
    text: str
    expires_unix: int


class Handed(Model):
    """What a payer's text was about: the network is asked for offers now."""

    payment_hash: str
    amount_msat: int
    memo: str
    expires_unix: int


# --- routing ----------------------------------------------------------------------------------------------------------


class OfferInfo(Model):
    """An offer in the routing table: lock `amount_msat` to `neighbour` and it brings the payment on."""

    neighbour: str
    amount_msat: int
    lock_blocks: int
    expires_unix: int


class RouteInfo(Model):
    """One payment hash in the routing table, its offers cheapest first. `role` is `payer`, `payee` or `forwarder`."""

    payment_hash: str
    role: Literal["payer", "payee", "forwarder"]
    offers: tuple[OfferInfo, ...]


class NeighbourInfo(Model):
    """What the routing engine knows of a channel neighbour: what could pass, and its record (R7)."""

    peer_id: str
    connected: bool
    routes: bool
    can_send_msat: int
    can_receive_msat: int
    offers_received: int = 0
    payments_completed: int = 0


class Routes(Model):
    """The routing table; soft state, empty after a restart."""

    entries: tuple[RouteInfo, ...]
    table_limit: int
    subscriptions: int
    neighbours: tuple[NeighbourInfo, ...] = ()


# --- traces -----------------------------------------------------------------------------------------------------------


NoteKind = Literal[
    "want",
    "ask",
    "subscribed",
    "offer",
    "quote",
    "stands",
    "lock_in",
    "lock_out",
    "settle_in",
    "settle_out",
    "fail_in",
    "fail_out",
    "paid",
    "failed",
    "claimed",
    "expired",
    "forwarded",
]


class TraceNote(Model):
    """One thing that happened to a payment at this node.

    Attributes:
        kind: "want" (we are the payer), "ask" (the payee), "subscribed" (a client asks for the hash), "offer" (from
            `peer_id`), "quote" (to it), "stands" (an offer in the table when one was to be locked), "lock_", "settle_" and
            "fail_" "in" (from the peer) or "out" (to it), and how it ended: "paid", "failed", "claimed", "expired",
            "forwarded".
        blocks: that an offer needs to be locked; of a lock the height at which it ends.
        kept: whether an offer went into the routing table; `text` says why not, or why it is not passed on.
    """

    at_ms: int
    kind: NoteKind
    peer_id: str = ""
    amount_msat: int | None = None
    blocks: int | None = None
    kept: bool | None = None
    text: str = ""


class Trace(Model):
    """What this node has seen of one payment since it was started, as far as it is remembered.

    Attributes:
        since_ms: when the node was started: what was before is in its database only.
        left_out: notes beyond what is kept of one payment.
    """

    payment_hash: str
    peer_id: str
    network: str
    operator: str
    since_ms: int
    notes: tuple[TraceNote, ...]
    left_out: int = 0


# --- frames -----------------------------------------------------------------------------------------------------------


class FrameFilter(Model):
    """Which frames to see. What is empty does not matter.

    Attributes:
        protocols: protocol ids.
        payment_hash: frames that name it, or settle or fail an HTLC that does.
        secrets: show preimages and revocation secrets as they passed.
    """

    protocols: tuple[str, ...] = ()
    peer: str = ""
    payment_hash: str = ""
    secrets: bool = False


class Frame(Model):
    """A frame that was read from a peer ("in") or queued for it ("out").

    Attributes:
        size: bytes of the payload as it passed.
        payload: in hex; one message of the protocol.
        hidden: fields that are 32 zero bytes here because they are secrets; "payload": the whole, for it cannot be read.
        dropped: frames that the node could not show before this one, because they were read too slowly.
    """

    at_ms: int
    direction: Literal["in", "out"]
    peer_id: str
    protocol: str
    size: int
    payload: str
    hidden: tuple[str, ...] = ()
    dropped: int = 0


# --- wallet and chain -------------------------------------------------------------------------------------------------


class WalletBalance(Model):
    """Coins on the chain. `reserved_sat` is the part of `confirmed_sat` kept to pay for closing channels (DESIGN 6)."""

    confirmed_sat: int
    unconfirmed_sat: int
    reserved_sat: int
    spendable_sat: int


class WalletAddress(Model):
    address: str


class WalletSent(Model):
    txid: str
    amount_sat: int
    fee_sat: int


class Mined(Model):
    """Hashes of the blocks made on demand (regtest only), oldest first."""

    block_hashes: tuple[str, ...]
    height: int


class PaymentStarted(Model):
    """The payment is stored and runs; follow it through the events of its hash or ask for it."""

    payment_hash: str


class Done(Model):
    """An order without further answer was carried out."""

    done: bool = True


class Failure(Model):
    """The body of every answer that is not 2xx. `try` says what to do next, or is ""."""

    error: str
    hint: str = Field(default="", alias="try")

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


# --- orders (bodies of requests) --------------------------------------------------------------------------------------

MAX_MSAT = 21_000_000 * 100_000_000 * 1000
MAX_SAT = 21_000_000 * 100_000_000
_PeerText = Annotated[str, Field(min_length=1, max_length=1024)]
_PaymentText = Annotated[str, Field(min_length=1, max_length=4096)]
_Memo = Annotated[str, Field(max_length=256)]


class ConnectOrder(Model):
    """`address` is a multiaddr ending in `/p2p/<peer id>`."""

    address: _PeerText


class OpenOrder(Model):
    """`peer` is a peer id of a connected or known peer, or a multiaddr, which is dialled first."""

    peer: _PeerText
    capacity_sat: int = Field(gt=0, le=MAX_SAT)
    push_msat: int = Field(default=0, ge=0, le=MAX_MSAT)


class CloseOrder(Model):
    force: bool = False


class RequestOrder(Model):
    amount_msat: int = Field(gt=0, le=MAX_MSAT)
    memo: _Memo = ""
    expiry_s: int = Field(default=3600, ge=10, le=30 * 86400)


class PayOrder(Model):
    """Pay a request string, or `amount_msat` to a contact string.

    Attributes:
        amount_msat: for a contact; with a request it may only repeat the request's amount.
        ceiling_msat: the most to be paid, fees included; None: from `max_fee_msat`, else the configuration.
        max_fee_msat: the most to be paid in fees; not together with `ceiling_msat`.
        quiet_ms, maximum_ms, good_enough_ppm: overrides of the wait policy (R9).
        asleep_s: how long to wait for a payee that is away; 0: not at all; None: from the configuration.
    """

    target: _PaymentText
    amount_msat: int | None = Field(default=None, gt=0, le=MAX_MSAT)
    ceiling_msat: int | None = Field(default=None, gt=0, le=MAX_MSAT)
    max_fee_msat: int | None = Field(default=None, ge=0, le=MAX_MSAT)
    quiet_ms: int | None = Field(default=None, ge=0, le=3_600_000)
    maximum_ms: int | None = Field(default=None, ge=1, le=3_600_000)
    good_enough_ppm: int | None = Field(default=None, ge=0, le=1_000_000)
    memo: _Memo = ""
    asleep_s: int | None = Field(default=None, ge=0, le=14 * 86400)


class ReceiveOrder(Model):
    """`text` is what the payer's `rrnode pay --out-of-band` made."""

    text: _PaymentText


class SendOrder(Model):
    """`amount_sat` None sends everything that is not reserved."""

    address: Annotated[str, Field(min_length=1, max_length=128)]
    amount_sat: int | None = Field(default=None, gt=0, le=MAX_SAT)
    feerate_sat_per_kvb: int | None = Field(default=None, ge=1000, le=10_000_000)


class MineOrder(Model):
    """`address` None pays the coinbase to the node's own wallet."""

    blocks: int = Field(default=1, ge=1, le=1000)
    address: Annotated[str, Field(min_length=1, max_length=128)] | None = None


# --- events -----------------------------------------------------------------------------------------------------------


class _Event(Model):
    """`seq` and `at_ms` (unix milliseconds) are set by the bus when it is published."""

    seq: int = 0
    at_ms: int = 0


class OfferSeen(_Event):
    """An offer reached us as the payer. `after_ms` counts from the start of the payment, in all payment events.

    `fee_msat` and `fee_ppm` are None when the offer is in another asset than the payment.
    """

    kind: Literal["offer"] = "offer"
    payment_hash: str
    neighbour: str
    amount_msat: int
    fee_msat: int | None
    fee_ppm: int | None
    lock_blocks: int
    cheapest: bool
    after_ms: int


class Waiting(_Event):
    """What the payment waits for now, in words ("the payee to answer", "a better offer", "the settlement")."""

    kind: Literal["waiting"] = "waiting"
    payment_hash: str
    what: str
    after_ms: int


class Locked(_Event):
    """An HTLC is locked to a neighbour; `attempt` counts from 1."""

    kind: Literal["locked"] = "locked"
    payment_hash: str
    attempt: int
    neighbour: str
    channel_id: str
    amount_msat: int
    fee_msat: int
    expiry_height: int
    after_ms: int


class AttemptFailed(_Event):
    """An HTLC came back, irrevocably (R10); the next offer is tried if there is one."""

    kind: Literal["attempt_failed"] = "attempt_failed"
    payment_hash: str
    attempt: int
    neighbour: str
    reason: str
    after_ms: int


class Settled(_Event):
    """The payment is paid; last event of its payment."""

    kind: Literal["settled"] = "settled"
    payment_hash: str
    amount_msat: int
    sent_msat: int
    fee_msat: int
    preimage: str
    after_ms: int


class PaymentFailed(_Event):
    """The payment ended unpaid, nothing of ours is locked for it; last event of its payment."""

    kind: Literal["payment_failed"] = "payment_failed"
    payment_hash: str
    reason: str
    hint: str = ""
    after_ms: int


class Received(_Event):
    """A payment to us was claimed."""

    kind: Literal["received"] = "received"
    payment_hash: str
    amount_msat: int
    memo: str = ""


class Forwarded(_Event):
    """A payment that passed through us ended; `earned_msat` is 0 when it failed."""

    kind: Literal["forwarded"] = "forwarded"
    payment_hash: str
    paid: bool
    earned_msat: int


class ForwardStep(_Event):
    """A payment that passes through us went on, or came back and is tried another way (R10).

    Attributes:
        to: the neighbour that it was locked to; "" while none is.
        tried: neighbours from which it came back, oldest first.
    """

    kind: Literal["forward_step"] = "forward_step"
    payment_hash: str
    upstream: str
    to: str = ""
    amount_msat: int = 0
    tried: tuple[str, ...] = ()


class ChannelEvent(_Event):
    """A channel's phase or balances changed; `text` says it in words."""

    kind: Literal["channel"] = "channel"
    channel_id: str
    peer_id: str
    phase: str
    usable: bool
    ours_msat: int
    theirs_msat: int
    text: str = ""


class Missed(_Event):
    """Payments to us that came to nothing while we were away, and why.

    Attributes:
        where: how they came: which mailbox they waited in.
        payment_hash, amount_msat, memo, stored_unix: of a single one that we could read.
        count: how many, where more cannot be known.
    """

    kind: Literal["missed"] = "missed"
    reason: str
    where: str = ""
    count: int = 1
    payment_hash: str = ""
    amount_msat: int | None = None
    memo: str = ""
    stored_unix: int | None = None


class PeerEvent(_Event):
    kind: Literal["peer"] = "peer"
    peer_id: str
    connected: bool
    reason: str = ""


class TipEvent(_Event):
    kind: Literal["tip"] = "tip"
    height: int
    block_hash: str


class AlarmRaised(_Event):
    """Something that a person must know."""

    kind: Literal["alarm"] = "alarm"
    channel_id: str = ""
    text: str


class Stopping(_Event):
    """The node goes down on purpose; the last event."""

    kind: Literal["stopping"] = "stopping"
    reason: str = ""


PaymentProgress = OfferSeen | Waiting | Locked | AttemptFailed | Settled | PaymentFailed
Event = Annotated[
    PaymentProgress
    | Received
    | Missed
    | ForwardStep
    | Forwarded
    | ChannelEvent
    | PeerEvent
    | TipEvent
    | AlarmRaised
    | Stopping,
    Field(discriminator="kind"),
]


# --- what is made of events ------------------------------------------------------------------------------------------


class MailInfo(Model):
    """What waits, or waited, in mailboxes: ours at our servers, and those of others here.

    Attributes:
        kept_here: mails that wait here for clients of ours; None: this node keeps none.
        missed: what came to nothing, newest first, since this process began.
    """

    mailboxes: tuple[MailboxInfo, ...] = ()
    missed: tuple[Missed, ...] = ()
    kept_here: int | None = None
