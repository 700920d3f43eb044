"""State and events to bytes and back: MessagePack straight from the frozen dataclasses, checked while decoding (DESIGN 4).

Fields travel by name, so a field that is added with a default reads old rows. The *values* of stored enums and the names
of stored fields are part of the schema: changing one needs a migration.
"""

from typing import Any, TypeVar, get_args

import msgspec

from protocols.channel.events import ChannelEvent
from protocols.facts import Facts
from protocols.payment.events import Forward, Payment, PaymentEvent, Promise
from rrnode.errors import StorageFailed

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
EVENT_TYPES: dict[str, type] = {kind.__name__: kind for kind in (*get_args(ChannelEvent), *get_args(PaymentEvent))}


_decoders: dict[type, msgspec.msgpack.Decoder[Any]] = {}


def _decoder(kind: type[T]) -> msgspec.msgpack.Decoder[T]:
    found = _decoders.get(kind)
    if found is None:
        found = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    return found


def encode(value: object) -> bytes:
    """The bytes of a frozen dataclass of the state or of an event."""
    return _encoder.encode(value)


def decode(kind: type[T], raw: bytes, where: str) -> T:
    """A value of exactly this type.

    Args:
        where: names the row, for the message.

    Raises:
        StorageFailed: the bytes are damaged or of another type.
    """
    try:
        return _decoder(kind).decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise StorageFailed(
            f"{where} is damaged ({error}): do not start with an older copy; put this file aside and ask for help"
        ) from None


def channel_type() -> type[Any]:
    """The type of a stored channel."""
    from protocols.channel.state import Channel

    return Channel


def decode_event(name: str, raw: bytes, where: str) -> Any:
    """An event of the journal. Raises StorageFailed for one that this version does not know."""
    kind = EVENT_TYPES.get(name)
    if kind is None:
        raise StorageFailed(f"{where} is an event {name}, which this version does not know")
    return decode(kind, raw, where)


def decode_facts(raw: bytes, where: str) -> Facts:
    """The facts of a journal line. Raises StorageFailed."""
    return decode(Facts, raw, where)


__all__ = [
    "EVENT_TYPES",
    "Forward",
    "Payment",
    "Promise",
    "channel_type",
    "decode",
    "decode_event",
    "decode_facts",
    "encode",
]
