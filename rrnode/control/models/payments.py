"""Payments that this node makes and takes, and the mailboxes in which they wait for it (DESIGN 5)."""

from typing import Literal

from rrnode.control.models.base import Model
from rrnode.control.models.events import Missed


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


class PaymentStarted(Model):
    """The payment is stored and runs; follow it through the events of its hash or ask for it."""

    payment_hash: str


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


class MailInfo(Model):
    """What waits, or waited, in mailboxes: ours at our servers, and those of others here.

    Attributes:
        kept_here: mails that wait here for clients of ours; None: this node keeps none.
        missed: what came to nothing, newest first, since this process began.
    """

    mailboxes: tuple[MailboxInfo, ...] = ()
    missed: tuple[Missed, ...] = ()
    kept_here: int | None = None
