"""`python -m tools.decode`: frames of this project's protocols, from hex or a file, in words."""

import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from protocols.errors import DecodeError
from protocols.wire.codec import Codec, Message
from protocols.wire.framing import Deframer
from rrnode.control import models as m
from rrnode.errors import UserError
from tools import common, frames
from tools.words import SHOWN, as_document, codecs, in_words, message_of

MOST_BYTES = 64 << 20  # of a file
_HEX = re.compile(r"[0-9a-fA-F\s]*")


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
    known = {protocol: codecs()[protocol]} if protocol else codecs()
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
        codecs()[protocol].decode(payload)
    except DecodeError as error:
        return str(error)
    raise AssertionError("it is one")


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


def _is_record(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return frames.is_record(opened.read(100))
    except OSError:
        return False  # said when it is read


def _show_record(file: Path, protocol: str, *, as_json: bool) -> None:
    """What `tools.sniff` has recorded, as far as it is whole."""
    found: list[m.Frame] = []
    rest = ""
    if file.stat().st_size > MOST_BYTES:
        raise common.given_up(f"{file} has more than {MOST_BYTES >> 20} MiB; show it with: tools.sniff --read")
    try:
        found += (each for each in frames.read(file) if protocol in ("", each.protocol))
    except UserError as error:
        rest = str(error)
    readable = [_in_frame(each) for each in found]
    if as_json:
        documents = [
            {
                **frame.model_dump(exclude={"payload", "dropped"}),
                "messages": [] if message is None else [{"protocol": frame.protocol, **as_document(message)}],
                "problem": problem,
            }
            for frame, (message, problem) in zip(found, readable, strict=True)
        ]
        print(json.dumps({"frames": documents, "rest": rest}, indent=2, ensure_ascii=False))
    else:
        for number, (frame, (message, problem)) in enumerate(zip(found, readable, strict=True), 1):
            at = datetime.fromtimestamp(frame.at_ms / 1000, UTC)
            way = "from" if frame.direction == "in" else "to"
            name = "something" if message is None else type(message).__name__
            print(f"{number}. {at:%H:%M:%S}.{frame.at_ms % 1000:03d} UTC, {way} {frame.peer_id}:")
            print(f"   {name} of {frame.protocol}, {frame.size} bytes")
            for line in in_words(message) if message is not None else (f"  {problem}",):
                print(line)
            if frame.hidden:
                print(f"   (hidden: {', '.join(frame.hidden)})")
        if rest:
            print(f"then: {rest}")
    if rest or any(message is None for message, _ in readable):
        raise typer.Exit(1)


def _in_frame(frame: m.Frame) -> tuple[Message | None, str]:
    """The message in a recorded frame, or why there is none."""
    try:
        return message_of(frame.protocol, bytes.fromhex(frame.payload)), ""
    except (DecodeError, ValueError) as error:
        return None, str(error)


def main(
    hexed: Annotated[str, typer.Argument(metavar="HEX", help="Frames in hex; - reads it from standard input.")] = "",
    file: Annotated[
        Path | None, typer.Option(help="A file of frames, as bytes, as hex, or a record of tools.sniff.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="e.g. /rr/routing/1 [default: whichever fits].")] = "",
    bare: Annotated[bool, typer.Option("--bare", help="One message without the length before it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say what frames of this project's protocols mean. Fails when one of them means nothing."""
    if protocol and protocol not in codecs():
        raise common.given_up(f"no protocol {protocol[:40]!r}; known are: {', '.join(codecs())}", code=2)
    if file is not None and not hexed and _is_record(file):
        _show_record(file, protocol, as_json=as_json)
        return
    raw = _given(sys.stdin.read(MOST_BYTES) if hexed == "-" else hexed, file)
    payloads, rest = ([raw], "") if bare else frames_of(raw)
    found = read_frames(payloads, protocol)
    if as_json:
        documents = [
            {
                "bytes": len(each.payload),
                "messages": [{"protocol": name, **as_document(message)} for name, message in each.messages],
                "problem": "" if each.messages else why_not(each.payload, protocol),
            }
            for each in found
        ]
        print(json.dumps({"frames": documents, "rest": rest}, indent=2, ensure_ascii=False))
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
