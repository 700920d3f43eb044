"""`/rr/subscribe/1`: a client asks a routing server for the offers it cares about (seed, "Routing server").

The client sends `Subscribe`, `Unsubscribe` and `Query`; the server answers each with `Accepted`, `Refused` or `Answer`,
and pushes `Offers`: the best offer so far, then each cheaper one. A quote goes only to the neighbour it is priced for.
"""

from typing import Annotated

from msgspec import Meta

from protocols.wire.codec import U8, U32, U63, Bytes32, Codec, Message, Text
from protocols.wire.routing import MAX_BUNDLE, RoutingMessage

PROTOCOL = "/rr/subscribe/1"
MAX_FILTERS = 256  # per message
MAX_PREFIXES = 16  # likewise
MIN_PREFIX_BITS = 8  # a shorter prefix is the full feed by another name

Hashes = Annotated[tuple[Bytes32, ...], Meta(max_length=MAX_FILTERS)]


class Prefix(Message, frozen=True):
    """All hashes whose first `bits` bits equal those of `value`; `value` has ceil(bits / 8) bytes, spare bits zero."""

    bits: Annotated[int, Meta(ge=1, le=256)]
    value: Annotated[bytes, Meta(min_length=1, max_length=32)]


Prefixes = Annotated[tuple[Prefix, ...], Meta(max_length=MAX_PREFIXES)]


class Subscribe(Message, frozen=True, tag=0):
    """Add filters. They end with the stream, or after `seconds`."""

    request: U32
    hashes: Hashes
    prefixes: Prefixes
    seconds: U32


class Unsubscribe(Message, frozen=True, tag=1):
    request: U32
    hashes: Hashes
    prefixes: Prefixes


class Query(Message, frozen=True, tag=2):
    """One-shot: what are the best offers now? For those who cannot hold a stream."""

    request: U32
    hashes: Hashes


class Follow(Message, frozen=True, tag=3):
    """The full feed from a number on; only for keys that the server's owner lists. Once per stream."""

    request: U32
    from_number: U63


class Accepted(Message, frozen=True, tag=4):
    request: U32
    filters_left: U32


class Refused(Message, frozen=True, tag=5):
    """Attributes: code: one of `RefusalCode`; reason: a sentence for people."""

    request: U32
    code: U8
    reason: Text


class Offers(Message, frozen=True, tag=6):
    number: U63
    offers: Annotated[tuple[RoutingMessage, ...], Meta(min_length=1, max_length=MAX_BUNDLE)]


class Answer(Message, frozen=True, tag=7):
    """Reply to `Query`: the best offer for each hash that has one."""

    request: U32
    offers: Annotated[tuple[RoutingMessage, ...], Meta(max_length=MAX_BUNDLE)]


class Stop(Message, frozen=True, tag=8):
    """The last message of either side."""

    code: U8
    reason: Text


class Following(Message, frozen=True, tag=9):
    """Reply to `Follow`: the number of the first bundle that comes; above `from_number` when older ones are gone, below it
    when there are not so many."""

    request: U32
    first: U63


class Fed(Message, frozen=True, tag=10):
    """A bundle of the full feed: offers as the server took them, priced for nobody. A gap in the numbers is what a
    follower that was too slow has missed."""

    number: U63
    offers: Annotated[tuple[RoutingMessage, ...], Meta(min_length=1, max_length=MAX_BUNDLE)]


class RefusalCode:
    """Why a request was refused or a stream stopped."""

    TOO_MANY_FILTERS = 1
    PREFIX_TOO_SHORT = 2
    NOT_LISTED = 3
    NO_CHANNEL = 4
    TOO_FAST = 5
    BAD_REQUEST = 6
    SHUTTING_DOWN = 7


MAX_SECONDS = 24 * 3600
SubscribeMessage = (
    Subscribe | Unsubscribe | Query | Follow | Accepted | Refused | Offers | Answer | Stop | Following | Fed
)
CODEC: Codec[SubscribeMessage] = Codec(SubscribeMessage, PROTOCOL)
