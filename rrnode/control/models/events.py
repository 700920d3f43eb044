"""What followers are told as it happens."""

from typing import Annotated, Literal

from pydantic import Field

from rrnode.control.models.base import Model


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
