"""What a node has seen of one payment."""

from typing import Literal

from rrnode.control.models.base import Model

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
