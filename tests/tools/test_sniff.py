"""`tools.sniff` against a fake node on a real socket: what is shown, what is recorded and read again, and how it ends."""

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
import typer
from typer.testing import CliRunner

from protocols.wire import channel, link, routing
from rrnode.control import models as m
from rrnode.control.text import peer_text
from rrnode.errors import UserError
from tools import frames, own, sniff

app = typer.Typer()
app.command()(sniff.main)
PREIMAGE = b"\x07" * 32
HASH = hashlib.sha256(PREIMAGE).digest()
ONE = b"\x0a" * 32
OFFER = routing.RoutingMessage(HASH, b"\x08" * 32, 100_022_002, 36, 5, 10**9, b"\x08" * 32, 1_800_000_000)
BUNDLE = routing.CODEC.encode(routing.Bundle(3, (OFFER,)))
LOCK = channel.CODEC.encode(channel.UpdateAddHtlc(ONE, 7, 100_022_002, HASH, 140))
FULFIL = channel.CODEC.encode(channel.UpdateFulfillHtlc(ONE, 7, PREIMAGE))
FAIL = channel.CODEC.encode(channel.UpdateFailHtlc(ONE, 8, 6))
PING = link.CODEC.encode(link.Ping(7))


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


async def sniffed(node: Any, data_dir: Path, pass_frames: Callable[[], None], *arguments: str) -> Any:
    """What a sniffer leaves that listens while these frames pass."""
    found = []

    async def sniffer() -> None:
        found.append(await trio.to_thread.run_sync(partial(run, "--datadir", str(data_dir), *arguments)))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sniffer)
            while not node.tap.listeners:
                await trio.lowlevel.checkpoint()
            pass_frames()
    return found[0]


def pass_all(node: Any, fake: ModuleType) -> None:
    node.tap.tell(fake.BOB, link.PROTOCOL, False, PING)
    node.tap.tell(fake.BOB, routing.PROTOCOL, False, BUNDLE)
    node.tap.tell(fake.CAROL, channel.PROTOCOL, True, LOCK)
    node.tap.tell(fake.CAROL, channel.PROTOCOL, False, FULFIL)
    node.tap.tell(fake.CAROL, channel.PROTOCOL, False, FAIL)


def told(line: str) -> str:
    """A line without its time of day, which depends on the place."""
    return line[13:]


async def test_messages_are_shown_in_words(node: Any, data_dir: Path, fake: ModuleType) -> None:
    result = await sniffed(node, data_dir, lambda: pass_all(node, fake), "--count", "5")
    assert result.exit_code == 0, result.stderr
    bob, carol = (f"…{peer_text(each)[-8:]}" for each in (fake.BOB, fake.CAROL))
    assert [told(line) for line in result.stdout.splitlines()] == [
        f"<- {bob} link      {len(PING):5} B  Ping nonce=7",
        f"<- {bob} routing   {len(BUNDLE):5} B  Bundle number=3 offers=[{{payment_hash={HASH.hex()[:16]}…"
        f" asset={'08' * 8}… amount_msat=100,022,002 lock_blocks=36 hops_left=5 ceiling_msat=1,000,000,000"
        f" ceiling_asset={'08' * 8}… expiry=1800000000}}]",
        f"-> {carol} channel   {len(LOCK):5} B  UpdateAddHtlc channel_id={'0a' * 8}… id=7"
        f" amount_msat=100,022,002 payment_hash={HASH.hex()[:16]}… cltv_expiry=140",
        f"<- {carol} channel   {len(FULFIL):5} B  UpdateFulfillHtlc channel_id={'0a' * 8}… id=7 preimage=(hidden)",
        f"<- {carol} channel   {len(FAIL):5} B  UpdateFailHtlc channel_id={'0a' * 8}… id=8 code=6"
        " (a channel further on could not carry it)",
    ]
    assert result.stderr.splitlines() == ["listening; Ctrl-C ends it", "5 frames shown"]


async def test_one_payment_is_followed_and_its_preimage_shown_when_asked_for(
    node: Any, data_dir: Path, fake: ModuleType
) -> None:
    wanted = ("--hash", HASH.hex().upper(), "--secrets", "--json", "--count", "3")
    result = await sniffed(node, data_dir, lambda: pass_all(node, fake), *wanted)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["message"]["message"] for each in found] == ["Bundle", "UpdateAddHtlc", "UpdateFulfillHtlc"]
    assert found[2] == {
        "at_ms": 1_800_000_000_250,
        "direction": "in",
        "peer_id": peer_text(fake.CAROL),
        "protocol": channel.PROTOCOL,
        "size": len(FULFIL),
        "payload": FULFIL.hex(),
        "hidden": [],
        "dropped": 0,
        "message": {
            "message": "UpdateFulfillHtlc",
            "channel_id": ONE.hex(),
            "id": 7,
            "preimage": PREIMAGE.hex(),
        },
        "problem": "",
    }


async def test_what_was_recorded_is_read_again_with_its_own_filters(
    node: Any, data_dir: Path, fake: ModuleType, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    await sniffed(node, data_dir, lambda: pass_all(node, fake), "--count", "5", "--record", str(record))
    assert record.stat().st_mode & 0o777 == 0o600
    assert PREIMAGE.hex() not in record.read_text()
    head = json.loads(record.read_text().splitlines()[0])
    assert head == {
        "format": "rrnode-frames",
        "version": 1,
        "peer_id": peer_text(fake.US),
        "network": "regtest",
        "secrets": False,
    }
    assert len(run("--read", str(record)).stdout.splitlines()) == 5
    result = run("--read", str(record), "--hash", HASH.hex(), "--protocol", "channel", "--json")
    names = [json.loads(line)["message"]["message"] for line in result.stdout.splitlines()]
    assert (result.exit_code, names) == (0, ["UpdateAddHtlc", "UpdateFulfillHtlc"])
    assert run("--read", str(record), "--peer", fake.BOB.hex()).stderr.splitlines() == ["2 frames shown"]


async def test_a_record_that_is_full_ends_and_the_rest_is_shown(
    node: Any, data_dir: Path, fake: ModuleType, tmp_path: Path
) -> None:
    def many() -> None:
        for _ in range(20):
            node.tap.tell(fake.BOB, "/other/1", True, b"\x5a" * 60_000)

    record = tmp_path / "record"
    result = await sniffed(node, data_dir, many, "--count", "20", "--record", str(record), "--record-mib", "1")
    kept = len(list(frames.read(record)))
    assert len(result.stdout.splitlines()) == 20
    assert kept == 8
    assert f"the record is full after {kept} frames; what follows is only shown" in result.stderr.splitlines()
    assert record.stat().st_size <= 1 << 20


async def test_missing_frames_are_told(node: Any, data_dir: Path, fake: ModuleType) -> None:
    def too_many() -> None:
        for _ in range(200):
            node.tap.tell(fake.BOB, "/other/1", True, b"\x5a" * 60_000)
        pass_later.set()

    pass_later = trio.Event()

    async def later() -> None:
        await pass_later.wait()
        while node.tap.listeners and node.tap.listeners[0]._queue:
            await trio.lowlevel.checkpoint()
        node.tap.tell(fake.BOB, link.PROTOCOL, True, PING)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        result = await sniffed(node, data_dir, too_many, "--count", "140")
    lines = result.stdout.splitlines()
    assert lines[-2] == "-- 61 frames are missing here: they came faster than they were read"
    assert result.stderr.splitlines()[-1] == "140 frames shown, 61 missing"


async def test_it_ends_with_its_node(node: Any, data_dir: Path) -> None:
    result = await sniffed(node, data_dir, node.stopping.set)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines() == ["listening; Ctrl-C ends it", "the node has stopped", "0 frames shown"]


async def test_ctrl_c_ends_it_without_a_trace(node: Any, data_dir: Path, fake: ModuleType) -> None:
    command = [sys.executable, "-m", "tools.sniff", "--datadir", str(data_dir)]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            run_it = partial(
                trio.run_process, command, check=False, stdout=subprocess.PIPE, capture_stderr=True, stdin=b""
            )
            process = await nursery.start(run_it)
            while not node.tap.listeners:  # noqa: ASYNC110 (another process)
                await trio.sleep(0.01)
            node.tap.tell(fake.BOB, link.PROTOCOL, False, PING)
            shown = b""
            while b"\n" not in shown:
                shown += await process.stdout.receive_some(4096)
            process.send_signal(signal.SIGINT)
            await process.wait()
            while node.tap.listeners:
                await trio.lowlevel.checkpoint()
    assert process.returncode == own.INTERRUPTED
    assert b"Ping nonce=7" in shown


def test_without_a_node_it_says_so(data_dir: Path) -> None:
    result = run("--datadir", str(data_dir))
    assert (result.exit_code, result.stdout) == (own.NO_NODE, "")
    assert result.stderr.splitlines() == [
        f"there is no node in {data_dir}",
        f"try: make one with: rrnode --datadir {data_dir} init",
    ]
    assert json.loads(run("--datadir", str(data_dir), "--json").stdout)["error"] == f"there is no node in {data_dir}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--protocol", "rooting"), "there is no protocol 'rooting'"),
        (("--read", "/nowhere/at/all"), "/nowhere/at/all cannot be read: No such file or directory"),
        (("--read", "/nowhere", "--record", "/nowhere"), "--read goes without --record"),
    ],
)
def test_a_wrong_order_is_a_sentence(data_dir: Path, arguments: tuple[str, ...], sentence: str) -> None:
    result = run("--datadir", str(data_dir), *arguments)
    assert result.exit_code == own.FAILED
    assert sentence in result.stderr.splitlines()


async def test_a_record_is_never_written_over(node: Any, data_dir: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    arguments = ["--datadir", str(data_dir), "--record", str(mine)]
    result = await trio.to_thread.run_sync(partial(run, *arguments))
    assert (result.exit_code, result.stderr.splitlines()[0]) == (own.FAILED, f"{mine} is there already")
    assert mine.read_text() == "precious"


FRAME = m.Frame(at_ms=1, direction="in", peer_id="x", protocol="/rr/link/1", size=1, payload="00")
HEAD = '{"format": "rrnode-frames", "version": 1, "peer_id": "x", "network": "regtest", "secrets": false}\n'


@pytest.mark.parametrize(
    ("text", "frames_before", "sentence"),
    [
        ("", 0, "is no record of frames"),
        ('{"format": "rrnode-frames"\n', 0, "its first line is damaged"),
        (HEAD.replace("1", "2", 1), 0, "is a record of version 2, this program reads 1"),
        (HEAD + FRAME.model_dump_json() + "\n" + "{}\n" + FRAME.model_dump_json() + "\n", 1, "line 3 is no frame$"),
        (
            HEAD + FRAME.model_dump_json() + "\n" + FRAME.model_dump_json()[:20],
            1,
            r"line 3 is no frame \(the record was",
        ),
        (HEAD + "x" * 200_000 + "\n", 0, "line 2 is no frame"),
    ],
)
def test_a_damaged_record_is_named_after_what_could_be_read(
    tmp_path: Path, text: str, frames_before: int, sentence: str
) -> None:
    path = tmp_path / "record"
    path.write_text(text)
    reading = frames.read(path)
    assert [next(reading) for _ in range(frames_before)] == [FRAME] * frames_before
    with pytest.raises(UserError, match=sentence):
        next(reading)
