"""Messages of this project's protocols for people (on one line, or a line for each field) and for programs."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec

import protocols.wire
from protocols.errors import DecodeError
from protocols.ids import PeerId
from protocols.node_record import NodeRecord, Refusal, read
from protocols.payment.payer import failure_words
from protocols.units import AssetId, UnixTime
from protocols.wire.channel import FailureCode, UpdateFailHtlc
from protocols.wire.codec import Codec, Message
from protocols.wire.info import Signed
from rrnode.host.peer_text import to_text
from rrnode.services.limits import printable

SHOWN = 64  # bytes of a byte string, elements of a list
_SHOWN_IN_LINE = 4  # elements of a list
_TIMES = {"expiry", "now", "made"}  # u32 or u63 fields that are unix seconds
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
            more = f", and {len(value) - _SHOWN_IN_LINE} more" if len(value) > _SHOWN_IN_LINE else ""
            return "[" + ", ".join(_short(name, each) for each in value[:_SHOWN_IN_LINE]) + more + "]"
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


def in_words(message: Message, indent: str = "  ") -> Iterator[str]:
    """A line for each field, and lines for what is inside."""
    for field in msgspec.structs.fields(type(message)):
        yield from _field(field.name, getattr(message, field.name), indent)
    if isinstance(message, Signed):
        yield from _record(message, indent)


def _field(name: str, value: object, indent: str) -> Iterator[str]:
    match value:
        case Message():
            yield f"{indent}{name}: {type(value).__name__}"
            yield from in_words(value, indent + "  ")
        case tuple():
            yield f"{indent}{name}: {len(value)}"
            for number, each in enumerate(value[:SHOWN]):
                yield from _field(f"[{number}]", each, indent + "  ")
            if len(value) > SHOWN:
                yield f"{indent}  … and {len(value) - SHOWN} more"
        case _:
            yield f"{indent}{name}: {_value(name, value)}"


def _value(name: str, value: object) -> str:
    match value:
        case bytes():
            shown = value[:SHOWN].hex() + ("…" if len(value) > SHOWN else "")
            peer = f" ({to_text(PeerId(value))})" if len(value) == 33 and value[:1] in (b"\2", b"\3") else ""
            return f"{shown or 'nothing'}{peer}, {len(value)} bytes"
        case bool():
            return "yes" if value else "no"
        case int() if name in _TIMES and 10**9 < value < 2**32:
            return f"{value} ({datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC)"
        case int() if name.endswith(("_msat", "_sat")):
            return f"{value:,} {name.rpartition('_')[2]}"
        case str():
            return f'"{printable(value)}"'
    return str(value)


def _record(signed: Signed, indent: str) -> Iterator[str]:
    """What a signed record says; whether it is in time does not matter here."""
    network, made = signed.content[1:33], signed.content[66:74]
    record = read(signed, network=AssetId(network), now=UnixTime(int.from_bytes(made, "big")))
    if isinstance(record, Refusal):
        yield f"{indent}record: {record.value}"
        return
    yield f"{indent}record:"
    for field in dataclasses.fields(NodeRecord):
        yield from _field(field.name, getattr(record, field.name), indent + "  ")


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
