"""`/rr/init/1`: a sealed payment initialization on its way to the payee (THEORY, "Payment initialization"; R14).

A payee that cannot be dialled holds a stream to its routing server and says `Attach`. A payer (under a throw-away
identity) sends `Deliver` to the payee itself or to that server; the server passes the sealed bytes down as `Handed`
and answers the payer with `Delivered` or `Failed` once the payee said `Taken`. Each exchange ends with such an answer.
"""

from typing import Annotated

from msgspec import Meta

from protocols.wire.codec import U8, U32, Bytes33, Codec, Message, Text

PROTOCOL = "/rr/init/1"
SEALED_SIZE = 512  # every sealed initialization has this size, so that none tells by its length

Sealed = Annotated[bytes, Meta(min_length=SEALED_SIZE, max_length=SEALED_SIZE)]


class DeliveryCode:
    """Why an initialization was not delivered."""

    NOT_HERE = 1  # that payee has no open link to this server
    TOO_MANY = 2  # the payee's or the server's budget is used up
    NO_ANSWER = 3  # the payee's link is open but it did not answer in time
    REFUSED = 4  # the payee read it and will not take the payment
    BAD_REQUEST = 5


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


InitMessage = Attach | Attached | Deliver | Delivered | Failed | Handed | Taken
CODEC: Codec[InitMessage] = Codec(InitMessage, PROTOCOL)
