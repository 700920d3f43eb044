"""`python -m tools.decode`: frames of this project's protocols, from hex or a file, in words."""

import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from protocols.errors import DecodeError
from protocols.ids import PeerId
from protocols.node_record import NodeRecord, Refusal, read
from protocols.units import AssetId, UnixTime
from protocols.wire.codec import Codec, Message
from protocols.wire.framing import Deframer
from protocols.wire.info import Signed
from rrnode.cli.context import emit
from rrnode.host.peer_text import to_text
from rrnode.services.limits import printable
from tools import common

MOST_BYTES = 64 << 20  # of a file
SHOWN = 64  # bytes of a byte string, elements of a list
_HEX = re.compile(r"[0-9a-fA-F\s]*")
_TIMES = {"expiry", "now", "made"}  # u32 or u63 fields that are unix seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One frame. `messages` are what it is in each protocol in which it is one."""

    payload: bytes
    messages: tuple[tuple[str, Message], ...]


def frames_of(raw: bytes) -> tuple[list[bytes], str]:
    """The frames in some bytes, and why what follows them is none; "" when nothing follows."""
    deframer = Deframer()
    found: list[bytes] = []
    for at in range(0, len(raw), 4096):  # what came before a broken frame is shown all the same
        piece = raw[at : at + 4096]
        try:
            found += deframer.feed(piece)
        except DecodeError:
            one_by_one = Deframer()
            found = []
            for position in range(at + len(piece)):
                try:
                    found += one_by_one.feed(raw[position : position + 1])
                except DecodeError as error:
                    return found, f"byte {position}: {error}"
    return found, f"{deframer.pending} bytes of a frame that is not whole" if deframer.pending else ""


def read_frames(payloads: Sequence[bytes], protocol: str = "") -> list[Read]:
    """What each frame is. When one protocol fits all of them, it is taken to be that one."""
    known = {protocol: common.codecs()[protocol]} if protocol else common.codecs()
    found = [Read(payload=each, messages=_fits(each, known)) for each in payloads]
    common_ones = set.intersection(*({name for name, _ in each.messages} for each in found)) if found else set()
    if common_ones:
        found = [
            dataclasses.replace(each, messages=tuple(pair for pair in each.messages if pair[0] in common_ones))
            for each in found
        ]
    return found


def _fits(payload: bytes, known: dict[str, Codec[Any]]) -> tuple[tuple[str, Message], ...]:
    """The protocols in which it is a message: those in which nothing of it is left over, if there are any."""
    found: list[tuple[str, Message]] = []
    whole: list[tuple[str, Message]] = []
    for name, codec in known.items():
        try:
            message = codec.decode(payload)
        except DecodeError:
            continue
        found.append((name, message))
        if codec.encode(message) == payload:
            whole.append((name, message))
    return tuple(whole or found)


def why_not(payload: bytes, protocol: str) -> str:
    """Why a frame is no message of a protocol, or of any."""
    if not protocol:
        return f"no message of any protocol: {payload[:SHOWN].hex()}{'…' if len(payload) > SHOWN else ''}"
    try:
        common.codecs()[protocol].decode(payload)
    except DecodeError as error:
        return str(error)
    raise AssertionError("it is one")


# --- for people and for programs --------------------------------------------------------------------------------------


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


def _given(hexed: str, file: Path | None) -> bytes:
    if bool(hexed) == (file is not None):
        raise common.given_up("give either hex or --file", code=2)
    if file is not None:
        try:
            with file.open("rb") as opened:
                raw = opened.read(MOST_BYTES + 1)
        except OSError as error:
            raise common.given_up(f"{file} cannot be read: {error.strerror}") from None
        if len(raw) > MOST_BYTES:
            raise common.given_up(f"{file} has more than {MOST_BYTES >> 20} MiB")
        text = raw.decode("ascii", "replace")
        if not _HEX.fullmatch(text):
            return raw
        hexed = text
    if not _HEX.fullmatch(hexed) or len("".join(hexed.split())) % 2:
        raise common.given_up("this is no hex: pairs of 0-9 and a-f wanted", code=2)
    return bytes.fromhex(hexed)


def main(
    hexed: Annotated[str, typer.Argument(metavar="HEX", help="Frames in hex; - reads it from standard input.")] = "",
    file: Annotated[Path | None, typer.Option(help="A file of frames, as bytes or as hex.")] = None,
    protocol: Annotated[str, typer.Option(help="e.g. /rr/routing/1 [default: whichever fits].")] = "",
    bare: Annotated[bool, typer.Option("--bare", help="One message without the length before it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say what frames of this project's protocols mean. Fails when one of them means nothing."""
    if protocol and protocol not in common.codecs():
        raise common.given_up(f"no protocol {protocol[:40]!r}; known are: {', '.join(common.codecs())}", code=2)
    raw = _given(sys.stdin.read(MOST_BYTES) if hexed == "-" else hexed, file)
    payloads, rest = ([raw], "") if bare else frames_of(raw)
    found = read_frames(payloads, protocol)
    if as_json:
        frames = [
            {
                "bytes": len(each.payload),
                "messages": [{"protocol": name, **as_document(message)} for name, message in each.messages],
                "problem": "" if each.messages else why_not(each.payload, protocol),
            }
            for each in found
        ]
        emit({"frames": frames, "rest": rest})
    else:
        for line in _lines(found, protocol):
            print(line)
        if rest:
            print(f"then: {rest}")
    if rest or not found or not all(each.messages for each in found):
        raise typer.Exit(1)


def _lines(found: Sequence[Read], protocol: str) -> Iterator[str]:
    for number, each in enumerate(found, 1):
        if not each.messages:
            yield f"{number}. {why_not(each.payload, protocol)}"
        for name, message in each.messages:
            yield f"{number}. {type(message).__name__} of {name}, {len(each.payload)} bytes"
            yield from in_words(message)
        if len(each.messages) > 1:
            yield "   (it is a message of each of these; --protocol chooses one)"


if __name__ == "__main__":
    typer.run(main)
