"""`tools.decode`: every example of the protocols' page is read, what is broken is named, and nothing drives a terminal."""

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from protocols.wire import info, link, routing
from protocols.wire.framing import frame
from rrnode.control import models as m
from tools import decode, frames, words

README = Path(__file__).parents[2] / "protocols" / "README.md"
app = typer.Typer()
app.command()(decode.main)
PING = frame(link.CODEC.encode(link.Ping(7)))


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def examples() -> list[tuple[str, str, str]]:
    """Protocol, message and hex of each example on the page."""
    found = []
    for protocol, section in re.findall(
        r"^## `(/rr/[^`]+)`(.*?)(?=^## |\Z)", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        for message, hexed in re.findall(
            r"^### (\w+) \(\d+\)$.*?^```\n\[.*?\]\n([0-9a-f\n]+)\n```", section, re.MULTILINE | re.DOTALL
        ):
            found.append((protocol, message, hexed))
    return found


def test_every_example_of_the_page_is_said_to_be_what_it_is() -> None:
    known = examples()
    assert len(known) >= 60
    for protocol, message, hexed in known:
        (read,) = decode.read_frames(decode.frames_of(bytes.fromhex(hexed))[0], protocol)
        assert [(name, type(found).__name__) for name, found in read.messages] == [(protocol, message)]
        (guessed,) = decode.read_frames(decode.frames_of(bytes.fromhex(hexed))[0])
        assert (protocol, message) in [(name, type(found).__name__) for name, found in guessed.messages]
        lines = list(decode.in_words(read.messages[0][1]))
        assert all("\n" not in line for line in lines)


def test_a_message_is_told_field_by_field() -> None:
    offer = routing.RoutingMessage(b"\x07" * 32, b"\x08" * 32, 1_234_567, 10, 5, 10**9, b"\x08" * 32, 1_800_000_000)
    result = run(frame(routing.CODEC.encode(routing.Bundle(3, (offer,)))).hex(), "--protocol", routing.PROTOCOL)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "1. Bundle of /rr/routing/1, 124 bytes",
        "  number: 3",
        "  offers: 1",
        "    [0]: RoutingMessage",
        f"      payment_hash: {'07' * 32}, 32 bytes",
        f"      asset: {'08' * 32}, 32 bytes",
        "      amount_msat: 1,234,567 msat",
        "      lock_blocks: 10",
        "      hops_left: 5",
        "      ceiling_msat: 1,000,000,000 msat",
        f"      ceiling_asset: {'08' * 32}, 32 bytes",
        "      expiry: 1800000000 (2027-01-15 08:00:00 UTC)",
    ]


def test_of_several_protocols_the_one_that_fits_all_frames_is_meant() -> None:
    hello = frame(link.CODEC.encode(link.Hello(bytes(32), 1, "a\x1b[2J")))
    read = decode.read_frames(decode.frames_of(PING + hello + PING)[0])
    assert [[name for name, _ in each.messages] for each in read] == [[link.PROTOCOL]] * 3
    assert '  agent: "a·[2J"' in list(decode.in_words(read[1].messages[0][1]))


def test_programs_get_everything_in_hex() -> None:
    signed = info.Signed(bytes(113), bytes(64))
    answer = info.Record(1, 2, signed, ())
    result = run("--json", "--protocol", info.PROTOCOL, frame(info.CODEC.encode(answer)).hex())
    assert json.loads(result.stdout) == {
        "frames": [
            {
                "bytes": len(info.CODEC.encode(answer)),
                "messages": [
                    {
                        "protocol": "/rr/info/1",
                        "message": "Record",
                        "request": 1,
                        "now": 2,
                        "record": {"message": "Signed", "content": "00" * 113, "signature": "00" * 64},
                        "channels": [],
                    }
                ],
                "problem": "",
            }
        ],
        "rest": "",
    }


@pytest.mark.parametrize("written", [PING + PING, (PING + PING).hex().encode(), b" 03920107\n03920107\n"])
def test_a_file_holds_bytes_or_hex(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "frames"
    path.write_bytes(written)
    result = run("--file", str(path), "--protocol", link.PROTOCOL)
    assert (result.exit_code, result.stdout) == (
        0,
        "1. Ping of /rr/link/1, 3 bytes\n  nonce: 7\n2. Ping of /rr/link/1, 3 bytes\n  nonce: 7\n",
    )


def test_hex_comes_from_a_pipe_and_one_message_may_come_without_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("920107"))
    assert CliRunner().invoke(app, ["-", "--bare", "--protocol", link.PROTOCOL], input="920107").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ((), 2, "give either hex or --file"),
        (("00", "--file", "x"), 2, "give either hex or --file"),
        (("--file", "/nowhere/x"), 1, "/nowhere/x cannot be read: No such file or directory"),
        (("xyz",), 2, "this is no hex"),
        (("123",), 2, "this is no hex"),
        (("--protocol", "/rr/beer/1", "00"), 2, "no protocol '/rr/beer/1'; known are: /rr/chain/1, "),
        (("0392010703ff",), 1, "then: 2 bytes of a frame that is not whole"),
        (("0392010700",), 1, "then: byte 4: frame of 0 bytes, at least 1 wanted"),
        (("0391c0c0",), 1, "1. no message of any protocol: 91c0c0"),
        (("0391c0c0", "--protocol", link.PROTOCOL), 1, "1. /rr/link/1: Expected `int`, got `null` - at `$[0]`"),
    ],
)
def test_what_is_wrong_is_named(arguments: tuple[str, ...], code: int, sentence: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert sentence in result.output


@given(st.binary(max_size=400))
def test_garbage_is_read_without_a_fault(raw: bytes) -> None:
    payloads, _rest = decode.frames_of(raw)
    assert sum(map(len, payloads)) <= len(raw)
    for each in decode.read_frames(payloads):
        if not each.messages:
            assert decode.why_not(each.payload, "")


def test_whole_frames_before_a_broken_one_are_kept_however_long_the_file() -> None:
    raw = PING * 5000 + b"\x00" + PING
    payloads, rest = decode.frames_of(raw)
    assert (len(payloads), rest) == (5000, "byte 20000: frame of 0 bytes, at least 1 wanted")


def test_all_protocols_are_known() -> None:
    assert len(words.codecs()) >= 7


def test_what_was_sniffed_is_told_frame_by_frame(tmp_path: Path) -> None:
    path = tmp_path / "record"
    recorder = frames.Recorder(path, peer_id="16Uiu2HA", network="regtest", secrets=False)
    passed = [(link.PROTOCOL, link.CODEC.encode(link.Ping(7)).hex(), "in"), ("/other/1", "c1", "out")]
    for number, (protocol, payload, direction) in enumerate(passed):
        recorder.add(
            m.Frame.model_validate(
                {
                    "at_ms": 1_800_000_000_250 + number,
                    "direction": direction,
                    "peer_id": "16Uiu2HB",
                    "protocol": protocol,
                    "size": len(payload) // 2,
                    "payload": payload,
                }
            )
        )
    recorder.close()
    result = run("--file", str(path))
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "1. 08:00:00.250 UTC, from 16Uiu2HB:",
        "   Ping of /rr/link/1, 3 bytes",
        "  nonce: 7",
        "2. 08:00:00.251 UTC, to 16Uiu2HB:",
        "   something of /other/1, 1 bytes",
        "  a protocol that this version does not know",
    ]
    only = run("--file", str(path), "--protocol", link.PROTOCOL, "--json")
    assert (only.exit_code, json.loads(only.stdout)) == (
        0,
        {
            "frames": [
                {
                    "at_ms": 1_800_000_000_250,
                    "direction": "in",
                    "peer_id": "16Uiu2HB",
                    "protocol": link.PROTOCOL,
                    "size": 3,
                    "hidden": [],
                    "messages": [{"protocol": link.PROTOCOL, "message": "Ping", "nonce": 7}],
                    "problem": "",
                }
            ],
            "rest": "",
        },
    )
    with path.open("a") as file:
        file.write('{"at_ms":')
    cut = run("--file", str(path), "--protocol", link.PROTOCOL)
    assert (cut.exit_code, cut.stdout.splitlines()[-1]) == (
        1,
        f"then: {path}: line 4 is no frame (the record was cut off here)",
    )
