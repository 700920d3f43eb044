"""`python -m tools.trace` against a node that runs, one that does not, and none."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
import typer
from typer.testing import CliRunner

from bootstrap.networks import REGTEST
from protocols.ids import PaymentHash, PeerId
from protocols.payment.events import Attempt, Kind, Payment, PayPhase, StorePayment
from protocols.units import Amount, BlockHeight, Msat, UnixTime
from rrnode.control import models as m
from rrnode.control.text import peer_text
from rrnode.storage import Store
from tools import own
from tools.trace.__main__ import MOST_NODES, main

app = typer.Typer()
app.command()(main)
HASH = PaymentHash(b"\xab" * 32)
US, BOB = PeerId(b"\x02" + b"\x11" * 32), PeerId(b"\x02" + b"\x22" * 32)
PAID = Payment(
    payment_hash=HASH,
    kind=Kind.REQUEST,
    payee=BOB,
    amount=Amount(Msat(1000), REGTEST.genesis),
    ceiling=Amount(Msat(2000), REGTEST.genesis),
    preimage=None,
    phase=PayPhase.PAID,
    created=UnixTime(1_700_000_000),
    expiry=UnixTime(1_700_000_060),
    ended=UnixTime(1_700_000_002),
    attempts=(
        Attempt(
            channel_id=b"\x01" * 32,
            htlc_id=1,
            neighbour=BOB,
            amount=Msat(1500),
            expiry=BlockHeight(140),
        ),
    ),
)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, [HASH.hex().upper(), *arguments])


async def off_thread(*arguments: str) -> Any:
    return await trio.to_thread.run_sync(partial(run, *arguments))


@pytest.fixture
def kept() -> Iterator[Callable[[Path], None]]:
    """Makes the configuration and the database of a node that has paid once."""
    stores: list[Store] = []

    def make(directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "rrnode.toml").write_text('[node]\nnetwork = "regtest"\n')
        stores.append(Store.open(directory / "rrnode.sqlite", node_id=US, network="regtest"))
        stores[-1].commit([StorePayment(payment=PAID)])

    yield make
    for store in stores:
        store.close()


async def test_a_running_node_is_asked_and_its_disk_read(
    node: Any, data_dir: Path, kept: Callable[[Path], None]
) -> None:
    kept(data_dir)
    node.notes[HASH] = (
        m.TraceNote(
            at_ms=1_900_000_000_000, kind="offer", peer_id=peer_text(BOB), amount_msat=7000, blocks=9, kept=True
        ),
    )
    result = await off_thread("--datadir", str(data_dir))
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:5] == [
        f"payment {HASH.hex()}",
        f"request of 1 sat from n to {peer_text(BOB)}: paid",
        "1.5 sat left n, 0.5 sat of it are fees",
        "",
        f"  n  {peer_text(US)}  runs",
    ]
    other = f"…{peer_text(BOB)[-6:]}"
    assert [line.split("  ")[-1].strip() for line in lines[7:-1]] == [
        "locks 1.5 sat until block 140",
        "has paid 1.5 sat",
        "send me 7 sat, 9 blocks - kept",
    ]
    assert lines[7].endswith(f"n -> {other}  locks 1.5 sat until block 140")


async def test_of_a_node_that_does_not_run_the_disk_is_told(
    data_dir: Path, kept: Callable[[Path], None], tmp_path: Path
) -> None:
    kept(data_dir)
    picture = tmp_path / "payment.svg"
    result = await off_thread("--datadir", str(data_dir), "--json", "--svg", str(picture))
    found = json.loads(result.stdout)
    assert (result.exit_code, found["payment"]["phase"]) == (0, "paid")
    assert found["nodes"] == [
        {
            "name": "n",
            "peer_id": peer_text(US),
            "network": "regtest",
            "runs": False,
            "left_out": 0,
            "problem": f"the node in {data_dir} is not running",
        }
    ]
    assert [each["words"] for each in found["happenings"]] == ["locks 1.5 sat until block 140", "has paid 1.5 sat"]
    assert picture.read_text().startswith("<svg ")


async def test_one_node_that_cannot_be_asked_does_not_spoil_the_others(
    data_dir: Path, kept: Callable[[Path], None], tmp_path: Path
) -> None:
    kept(data_dir)
    result = await off_thread("--datadir", str(tmp_path / "n"), "--datadir", str(data_dir))
    assert result.exit_code == 0
    assert [line.strip() for line in result.stdout.splitlines()[4:7]] == [
        "n    (unknown)  not asked",
        f"there is no node in {tmp_path / 'n'}",
        f"n-2  {peer_text(US)}  from its disk",
    ]


async def test_a_damaged_database_beside_a_running_node_is_told(node: Any, data_dir: Path, fake: ModuleType) -> None:
    (data_dir / "rrnode.toml").write_text('[node]\nnetwork = "regtest"\n')
    (data_dir / "rrnode.sqlite").write_bytes(b"rubbish" * 1000)
    node.notes[HASH] = (m.TraceNote(at_ms=5, kind="want"),)
    result = await off_thread("--datadir", str(data_dir), "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, [each["words"] for each in found["happenings"]]) == (0, ["wants to pay"])
    assert "this file is no database" in found["nodes"][0]["problem"]
    assert found["nodes"][0]["peer_id"] == peer_text(fake.US)


async def test_an_unknown_payment_fails(data_dir: Path, kept: Callable[[Path], None]) -> None:
    kept(data_dir)
    result = await trio.to_thread.run_sync(partial(CliRunner().invoke, app, ["cd" * 32, "--datadir", str(data_dir)]))
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (own.FAILED, "none of these nodes knows this payment")


def test_without_any_node_it_says_so(tmp_path: Path) -> None:
    result = run("--datadir", str(tmp_path / "none"))
    assert (result.exit_code, result.stderr.splitlines()) == (
        own.FAILED,
        [
            f"there is no node in {tmp_path / 'none'}",
            f"try: make one with: rrnode --datadir {tmp_path / 'none'} init",
        ],
    )


def test_a_wrong_hash_or_too_many_nodes_are_sentences(tmp_path: Path) -> None:
    wrong = CliRunner().invoke(app, ["12", "--datadir", str(tmp_path)])
    assert (wrong.exit_code, wrong.stderr.splitlines()[0]) == (own.FAILED, "'12' is not a payment hash")
    many = run(*(word for _ in range(MOST_NODES + 1) for word in ("--datadir", str(tmp_path))))
    assert many.stderr.splitlines()[0] == "33 nodes were named, at most 32 fit on a page"
