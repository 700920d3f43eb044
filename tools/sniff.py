"""`python -m tools.sniff`: the messages of one's own node as they pass, in words; from the running node or from a record."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from protocols.errors import DecodeError
from rrnode.control import models as m
from rrnode.control.client import ControlClient
from rrnode.control.text import parse_payment_hash, parse_peer
from rrnode.errors import UserError
from rrnode.sniffing import Sieve, Wanted
from tools import frames, own
from tools.words import as_document, codecs, in_line, message_of

_ARROWS = {"in": "<-", "out": "->"}


def protocol_id(name: str) -> str:
    """`routing` or `/rr/routing/1` as an id. Raises UserError when there is no such protocol."""
    for known in codecs():
        if name in (known, short(known)):
            return known
    known_ones = ", ".join(short(each) for each in sorted(codecs()))
    raise UserError(f"there is no protocol {name[:40]!r}", f"known are: {known_ones}")


def short(protocol: str) -> str:
    """`routing` for `/rr/routing/1`; others as they are."""
    parts = protocol.split("/")
    return parts[2] if len(parts) == 4 and parts[1] == "rr" else protocol


def line_of(frame: m.Frame) -> str:
    """A frame on one line."""
    at = datetime.fromtimestamp(frame.at_ms / 1000).astimezone()
    try:
        what = in_line(message_of(frame.protocol, bytes.fromhex(frame.payload)), frame.hidden)
    except (DecodeError, ValueError) as error:
        what = "(hidden: it cannot be read, and secrets may be in it)" if "payload" in frame.hidden else f"({error})"
    return (
        f"{at:%H:%M:%S}.{frame.at_ms % 1000:03d} {_ARROWS[frame.direction]} …{frame.peer_id[-8:]}"
        f" {short(frame.protocol):9} {frame.size:5} B  {what}"
    )


def document_of(frame: m.Frame) -> str:
    """A frame as a JSON document on one line."""
    found = {**frame.model_dump(), "message": None, "problem": ""}
    try:
        found["message"] = as_document(message_of(frame.protocol, bytes.fromhex(frame.payload)))
    except (DecodeError, ValueError) as error:
        found["problem"] = str(error)
    return json.dumps(found, ensure_ascii=False)


@contextmanager
def _live(
    directory: Path, wanted: m.FrameFilter, recorded: Path | None, most_bytes: int
) -> Iterator[Iterator[m.Frame]]:
    with ExitStack() as stack:
        client = stack.enter_context(ControlClient(directory))
        recorder: frames.Recorder | None = None
        if recorded is not None:
            status = client.get("/status")
            recorder = frames.Recorder(
                recorded,
                peer_id=status["peer_id"],
                network=status["network"],
                secrets=wanted.secrets,
                most_bytes=most_bytes,
            )
            stack.callback(recorder.close)
        query = wanted.model_dump()
        lines = stack.enter_context(client.frames(protocol=query.pop("protocols"), **query))
        own.say("listening; Ctrl-C ends it")

        def passing() -> Iterator[m.Frame]:
            told = False
            for line in lines:
                frame = m.Frame.model_validate(line)
                if recorder is not None:
                    recorder.add(frame)
                    if recorder.full and not told:
                        told = True
                        own.say(f"the record is full after {recorder.frames} frames; what follows is only shown")
                yield frame
            own.say("the node has stopped")

        yield passing()


def _recorded(path: Path, wanted: m.FrameFilter) -> Iterator[m.Frame]:
    """What is wanted of a record."""
    sieve = Sieve(
        Wanted(
            protocols=frozenset(wanted.protocols),
            peer=parse_peer(wanted.peer) if wanted.peer else None,
            payment_hash=parse_payment_hash(wanted.payment_hash) if wanted.payment_hash else None,
        )
    )
    for frame in frames.read(path):
        if sieve(parse_peer(frame.peer_id), frame.protocol, frame.direction == "out", bytes.fromhex(frame.payload)):
            yield frame


def _show(passing: Iterator[m.Frame], *, count: int, as_json: bool) -> None:
    shown = dropped = 0
    try:
        for frame in passing:
            if frame.dropped > dropped and not as_json:
                print(f"-- {frame.dropped - dropped} frames are missing here: they came faster than they were read")
            dropped = frame.dropped
            print(document_of(frame) if as_json else line_of(frame), flush=True)
            shown += 1
            if shown == count:
                return
    finally:
        own.say(f"{shown} frames shown" + (f", {dropped} missing" if dropped else ""))


def main(
    datadir: Annotated[
        Path | None, typer.Option(envvar="RRNODE_DATADIR", help="The node's directory [default: as rrnode has it].")
    ] = None,
    network: Annotated[str, typer.Option(envvar="RRNODE_NETWORK", help="For the default of --datadir.")] = "regtest",
    protocol: Annotated[
        list[str] | None, typer.Option(help="Only this one, e.g. routing or /rr/routing/1; may be repeated.")
    ] = None,
    peer: Annotated[str, typer.Option(help="Only this peer, 16Uiu2HA... or 66 hex digits.")] = "",
    payment: Annotated[str, typer.Option("--hash", help="Only what belongs to this payment hash.")] = "",
    secrets: Annotated[bool, typer.Option("--secrets", help="Show preimages and revocation secrets.")] = False,
    record: Annotated[Path | None, typer.Option(help="Also write the frames to this new file.")] = None,
    record_mib: Annotated[int, typer.Option(min=1, max=100_000, help="The record's largest size, MiB.")] = 64,
    read: Annotated[Path | None, typer.Option(help="Show a record instead of a running node.")] = None,
    count: Annotated[int, typer.Option(min=0, help="End after so many frames; 0: never.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
) -> None:
    """Show the messages of one's own node as they pass. A reader that is too slow misses some and is told; the node never waits.

    What is sealed stays sealed. Deliveries to payees leave under throw-away identities and are not seen here (R14).
    """
    with own.explained(as_json=as_json):
        wanted = m.FrameFilter(
            protocols=tuple(protocol_id(each) for each in protocol or ()),
            peer=peer,
            payment_hash=payment.lower(),
            secrets=secrets,
        )
        if read is not None:
            if record is not None:
                raise UserError("--read goes without --record", "copy the file instead")
            _show(_recorded(read, wanted), count=count, as_json=as_json)
            return
        with _live(own.data_dir(datadir, network), wanted, record, record_mib << 20) as passing:
            _show(passing, count=count, as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
