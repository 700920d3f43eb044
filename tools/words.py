"""Messages of this project's protocols for people and for programs: one line each, or JSON documents."""

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec

import protocols.wire
from protocols.errors import DecodeError
from protocols.ids import PeerId
from protocols.payment.payer import failure_words
from protocols.wire.channel import FailureCode, UpdateFailHtlc
from protocols.wire.codec import Codec, Message
from rrnode.host.peer_text import to_text
from rrnode.services.limits import printable

SHOWN = 4  # elements of a list
_PEERS = ("payee", "peer")  # fields that hold a node's key; others of that size are points of one channel
_WHOLE, _ID = 8, 33  # bytes: of longer ones the beginning is shown, and the size of those that are longer than an id


@cache
def codecs() -> dict[str, Codec[Any]]:
    """The codec of each protocol of this project, by its id."""
    names = (each.name for each in pkgutil.iter_modules(protocols.wire.__path__))
    modules = [importlib.import_module(f"protocols.wire.{name}") for name in names]
    return {module.PROTOCOL: module.CODEC for module in modules if hasattr(module, "PROTOCOL")}


def message_of(protocol: str, payload: bytes) -> Message:
    """The message in a frame. Raises DecodeError."""
    codec = codecs().get(protocol)
    if codec is None:
        raise DecodeError("a protocol that this version does not know")
    message: Message = codec.decode(payload)
    return message


def in_line(message: Message, hidden: Sequence[str] = ()) -> str:
    """A message on one line, byte strings shortened; fields that were hidden are said to be."""
    parts = []
    for field in msgspec.structs.fields(type(message)):
        value = getattr(message, field.name)
        parts.append(f"{field.name}={'(hidden)' if field.name in hidden else _short(field.name, value)}")
    if isinstance(message, UpdateFailHtlc) and message.code in set(FailureCode):
        parts.append(f"({failure_words(FailureCode(message.code))})")
    return f"{type(message).__name__} {' '.join(parts)}".rstrip()


def _short(name: str, value: object) -> str:
    match value:
        case Message():
            return "{" + in_line(value).partition(" ")[2] + "}"
        case tuple():
            more = f", and {len(value) - SHOWN} more" if len(value) > SHOWN else ""
            return "[" + ", ".join(_short(name, each) for each in value[:SHOWN]) + more + "]"
        case bytes():
            if name in _PEERS and len(value) == 33:
                return to_text(PeerId(value))
            if len(value) <= _WHOLE:
                return value.hex() or "nothing"
            return value[:_WHOLE].hex() + ("…" if len(value) <= _ID else f"…({len(value)} bytes)")
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}" if name.endswith(("_msat", "_sat")) else str(value)
        case str():
            return f'"{printable(value)}"'
    return str(value)


def as_document(value: object) -> Any:
    """A message for programs: byte strings in hex."""
    match value:
        case Message():
            fields = {name: as_document(getattr(value, name)) for name in type(value).__struct_fields__}
            return {"message": type(value).__name__, **fields}
        case tuple():
            return [as_document(each) for each in value]
        case bytes():
            return value.hex()
    return value
