"""`/rr/watch/1`: a client hands sealed remedies to a watcher and gets signed receipts (DESIGN 7; seed, "bounty hunter").

The watcher begins with `Terms`. The client sends `HandOver`, `Renew`, `List` and `Withdraw`; each is answered, in order, by
`Receipt`, `Receipt`, `Holdings`, `Withdrawn`, or by `Refused`, and nothing of a refused request is done. What is kept belongs
to the key of the stream's other end, per hint. All requests may be repeated: after a break the client sends again
what was not answered.
"""

from typing import Annotated

from msgspec import Meta

from protocols.wire.codec import U8, U32, U63, Bytes16, Bytes32, Bytes64, Codec, Message, Text

PROTOCOL = "/rr/watch/1"
MAX_REMEDIES = 256  # per message; as many of the smallest size fit one frame
MAX_HINTS = 3000  # likewise
MAX_HELD = 1000  # likewise
SMALLEST_SEALED, LARGEST_SEALED = 184, 21_455  # bytes; which sizes between them there are says `protocols.watch.remedy`

Hints = Annotated[tuple[Bytes16, ...], Meta(min_length=1, max_length=MAX_HINTS)]


class SealedRemedy(Message, frozen=True):
    """For one revoked commitment. Another one of the same client under the same hint takes its place."""

    hint: Bytes16
    sealed: Annotated[bytes, Meta(min_length=SMALLEST_SEALED, max_length=LARGEST_SEALED)]


class Held(Message, frozen=True):
    """One that the watcher holds. `digest` is SHA-256 of the sealed bytes; `until` the height at which it is dropped."""

    hint: Bytes16
    digest: Bytes32
    until: U32


class Terms(Message, frozen=True, tag=0):
    """The watcher's first message.

    Attributes:
        height: of the watcher's best block.
        most_blocks: how long it keeps, as it is now, a remedy of this client that is not renewed.
        most_bytes: how much this client may have with it, as it is on disk; 0: it takes nothing from this one.
        used_bytes: how much this client has with it.
    """

    height: U32
    most_blocks: U32
    most_bytes: U63
    used_bytes: U63


class HandOver(Message, frozen=True, tag=1):
    """Keep these until a height. Answered by `Receipt`."""

    request: U32
    until: U32
    remedies: Annotated[tuple[SealedRemedy, ...], Meta(min_length=1, max_length=MAX_REMEDIES)]


class Renew(Message, frozen=True, tag=2):
    """Keep these longer. Answered by `Receipt`; refused when one of them is not held."""

    request: U32
    until: U32
    hints: Hints


class List(Message, frozen=True, tag=3):
    """What do you hold for me? Answered by `Holdings`, in the order of the hints, those after `after` only."""

    request: U32
    after: Bytes16


class Withdraw(Message, frozen=True, tag=4):
    """Drop these: their channel is closed and buried. Unknown ones are no error. Answered by `Withdrawn`."""

    request: U32
    hints: Hints


class Receipt(Message, frozen=True, tag=5):
    """They are on disk. `until` may be earlier than asked; `signature` is over `protocols.watch.receipt`."""

    request: U32
    until: U32
    used_bytes: U63
    signature: Bytes64


class Holdings(Message, frozen=True, tag=6):
    """Part of what is held; `more`: ask again after the last hint of these."""

    request: U32
    held: Annotated[tuple[Held, ...], Meta(max_length=MAX_HELD)]
    more: bool


class Withdrawn(Message, frozen=True, tag=7):
    request: U32
    used_bytes: U63


class Refused(Message, frozen=True, tag=8):
    """Attributes: code: one of `RefusalCode`; reason: a sentence for people."""

    request: U32
    code: U8
    reason: Text


class Stop(Message, frozen=True, tag=9):
    """The last message of either side. The watcher keeps what it gave receipts for."""

    code: U8
    reason: Text


class RefusalCode:
    """Why a request was refused or a stream stopped."""

    OVER_QUOTA = 1  # this client's bytes are used up
    FULL = 2  # the room for all, for new clients or for a network is used up, or the disk; what it keeps it keeps
    TOO_FAST = 3
    BAD_REQUEST = 4
    NOT_HELD = 5
    NOT_SERVED = 6  # this watcher takes nothing from this client
    SHUTTING_DOWN = 7


WatchMessage = Terms | HandOver | Renew | List | Withdraw | Receipt | Holdings | Withdrawn | Refused | Stop
CODEC: Codec[WatchMessage] = Codec(WatchMessage, PROTOCOL)
