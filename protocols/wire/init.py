"""`/rr/init/1`: a sealed payment initialization on its way to the payee (THEORY, "Payment initialization"; R14).

A payee that cannot be dialled holds a stream to its routing server and says `Attach`. A payer (under a throw-away
identity) sends `Deliver` to the payee itself or to that server; the server passes the sealed bytes down as `Handed`
and answers the payer with `Delivered` or `Failed` once the payee said `Taken`. Each exchange ends with such an answer.

For a payee that sleeps, `Store` asks a server with the `mailbox` switch to keep the bytes: `Kept`. The payee, once
attached again, asks with `Fetch` and says with `Acknowledge` what became of each; `Inquire` tells that to the payer.
"""

from typing import Annotated

from msgspec import Meta

from protocols.wire.codec import U8, U32, U63, Bytes32, Bytes33, Codec, Message, Text

PROTOCOL = "/rr/init/1"
SEALED_SIZE = 512  # every sealed initialization has this size, so that none tells by its length
MAX_MAILS = 32  # in one message: 17 kB of sealed bytes, or so many reasons of 256 characters

Sealed = Annotated[bytes, Meta(min_length=SEALED_SIZE, max_length=SEALED_SIZE)]


class DeliveryCode:
    """Why an initialization was not delivered."""

    NOT_HERE = 1  # that payee has no open link to this server
    TOO_MANY = 2  # the payee's or the server's budget is used up
    NO_ANSWER = 3  # the payee's link is open but it did not answer in time
    REFUSED = 4  # the payee read it and will not take the payment
    BAD_REQUEST = 5
    NO_MAILBOX = 6  # this server keeps nothing for that payee
    FULL = 7  # the payee's mailbox, the share of the sender's network in it, or the server's room is used up
    NOT_KEPT = 8  # nothing of the kind is kept here: it never was, or its time is over
    UNAVAILABLE = 9  # the server cannot write or read at the moment
    TOO_LARGE = 10  # no channel of the payee can take so much now


class Attach(Message, frozen=True, tag=0):
    """This node takes initializations for its own key over this stream."""


class Attached(Message, frozen=True, tag=1):
    """The server's answer to `Attach`."""


class Deliver(Message, frozen=True, tag=2):
    payee: Bytes33
    sealed: Sealed


class Delivered(Message, frozen=True, tag=3):
    """The payee has taken the initialization and asks the network for offers now."""


class Failed(Message, frozen=True, tag=4):
    code: U8
    reason: Text


class Handed(Message, frozen=True, tag=5):
    """From the server down to the payee; `number` names it in the answer."""

    number: U32
    sealed: Sealed


class Taken(Message, frozen=True, tag=6):
    """From the payee up: `code` 0 for taken, else one of `DeliveryCode`."""

    number: U32
    code: U8
    reason: Text


class Store(Message, frozen=True, tag=7):
    """For a payee that is not there: pass it down if it is, else keep it. Sent again, it is kept once."""

    payee: Bytes33
    sealed: Sealed


class Kept(Message, frozen=True, tag=8):
    """On disk, until the payee fetches it and at most until a moment, unix seconds."""

    until: U63


class Inquire(Message, frozen=True, tag=9):
    """What became of what was kept? `digest`: SHA-256 of the sealed bytes, known to sender, server and payee alone.

    Answered by `Kept` while it waits, else as the payee acknowledged it: `Delivered`, or `Failed` with its code.
    """

    payee: Bytes33
    digest: Bytes32


class Fetch(Message, frozen=True, tag=10):
    """From an attached payee: what waits for me behind this number, oldest first? Answered by `Mails` or `Failed`."""

    after: U63


class Mail(Message, frozen=True):
    """One that waits. `number` grows from mail to mail; `stored`: when, unix seconds by the server's clock."""

    number: U63
    stored: U63
    sealed: Sealed


class Mails(Message, frozen=True, tag=11):
    """The answer to `Fetch`.

    Attributes:
        more: there are more behind the last of these.
        turned_away: initializations that found no room, or were pushed out, since the payee last acknowledged that number.
        expired: likewise, that were kept until their time was over.
    """

    mails: Annotated[tuple[Mail, ...], Meta(max_length=MAX_MAILS)]
    more: bool
    turned_away: U32
    expired: U32


class Answered(Message, frozen=True):
    """What became of one: `code` 0 for taken, else one of `DeliveryCode`. It is told to the payer who inquires."""

    number: U63
    code: U8
    reason: Text


class Acknowledge(Message, frozen=True, tag=12):
    """From an attached payee: these need to be kept no longer, and it has noted the counts that it was told."""

    answers: Annotated[tuple[Answered, ...], Meta(max_length=MAX_MAILS)]
    turned_away: U32
    expired: U32


class Acknowledged(Message, frozen=True, tag=13):
    """The server's answer to `Acknowledge`, once that is on disk."""


InitMessage = (
    Attach
    | Attached
    | Deliver
    | Delivered
    | Failed
    | Handed
    | Taken
    | Store
    | Kept
    | Inquire
    | Fetch
    | Mails
    | Acknowledge
    | Acknowledged
)
CODEC: Codec[InitMessage] = Codec(InitMessage, PROTOCOL)
