"""`/rr/info/1`: what a node says about itself, and the signed records of other servers that it knows (DESIGN 4).

The asker opens the stream and sends `GetRecord` and `GetOthers`; each is answered, in order, by `Record`, `Others`, or
by `Refused`. What is signed in a record says `protocols.node_record`.
"""

from typing import Annotated

from msgspec import Meta

from protocols.wire.codec import U8, U32, U63, Bytes33, Bytes64, Codec, Message, Text

PROTOCOL = "/rr/info/1"
MAX_CONTENT = 1900  # bytes of a record: 32 of them fit one frame
MAX_RECORDS = 32
MAX_CHANNELS = 1000  # told by one node: with a record they fit one frame

Capacity = Annotated[int, Meta(ge=0, le=21 * 10**14)]


class Signed(Message, frozen=True):
    """A record and its signature; the key is in the record."""

    content: Annotated[bytes, Meta(min_length=113, max_length=MAX_CONTENT)]
    signature: Bytes64


class ToldChannel(Message, frozen=True):
    """A channel that its owner tells of. `capacity_sat` is 0 when it is not told."""

    peer: Bytes33
    capacity_sat: Capacity


class GetRecord(Message, frozen=True, tag=0):
    """What do you say about yourself? `channels`: and which channels do you tell of? Answered by `Record`."""

    request: U32
    channels: bool


class GetOthers(Message, frozen=True, tag=1):
    """Which other servers do you know? In the order of their keys, those after `after` only. Answered by `Others`."""

    request: U32
    after: Bytes33


class Record(Message, frozen=True, tag=2):
    """The record of the node that is asked.

    Attributes:
        now: its clock, unix seconds.
        channels: all that it tells of, if they were asked for; their digest is in the record.
    """

    request: U32
    now: U63
    record: Signed
    channels: Annotated[tuple[ToldChannel, ...], Meta(max_length=MAX_CHANNELS)]


class Others(Message, frozen=True, tag=3):
    """Part of the records that it knows; `more`: ask again after the key of the last one."""

    request: U32
    records: Annotated[tuple[Signed, ...], Meta(max_length=MAX_RECORDS)]
    more: bool


class Refused(Message, frozen=True, tag=4):
    """Attributes: code: one of `RefusalCode`; reason: a sentence for people."""

    request: U32
    code: U8
    reason: Text


class Stop(Message, frozen=True, tag=5):
    """The last message of either side."""

    code: U8
    reason: Text


class RefusalCode:
    """Why a request was refused or a stream stopped."""

    TOO_FAST = 1
    BAD_REQUEST = 2
    SHUTTING_DOWN = 3


InfoMessage = GetRecord | GetOthers | Record | Others | Refused | Stop
CODEC: Codec[InfoMessage] = Codec(InfoMessage, PROTOCOL)
