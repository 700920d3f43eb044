"""What the bench's watcher watches: stores filled past the product are as the product would have them; blocks are full and read
alike by both parsers; and the bench of few hints and short messages gives every figure and leaves nothing behind."""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bitcoin.core import CBlock

from protocols.ids import PeerId
from protocols.units import BlockHeight
from protocols.watch.remedy import SEALED_SIZES, hint_of
from rrnode.chain.parse import parse_block
from rrnode.storage.remedies import RemedyStore, on_disk
from tools.bench import watched, watching
from tools.bench.table import benches
from tools.bench.watched import MAX_WEIGHT, UNTIL, fill, forget, full_block, opened

HINTS = 500
LARGE = 30_000  # bytes of a witness: blocks of few transactions
EACH = on_disk(SEALED_SIZES[0])
NEW = PeerId(b"\x03" + b"n" * 32)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemedyStore]:
    monkeypatch.setattr(watched, "PER_CLIENT", 200)
    file = tmp_path / "watch.sqlite"
    fill(file, HINTS)
    forget(file)
    made = opened(file)
    yield made
    made.close()


def test_a_filled_store_holds_what_clients_would_have_handed_over(store: RemedyStore) -> None:
    clients = [PeerId(b"\x02" + number.to_bytes(32, "big")) for number in range(3)]
    held = {client: store.held(client, b"", HINTS)[0] for client in clients}
    assert [len(held[client]) for client in clients] == [167, 167, 166]
    assert [store.used_by(client) for client in clients] == [EACH * len(held[client]) for client in clients]
    assert store.used_bytes == HINTS * EACH
    hints = {each.hint for of_one in held.values() for each in of_one}
    assert len(hints) == HINTS
    store.fill_filter()
    assert all(len(sealed) == SEALED_SIZES[0] for hint in hints for sealed in store.find(hint))


def test_a_filled_store_has_the_indexes_of_the_schema_and_takes_more(store: RemedyStore, tmp_path: Path) -> None:
    fresh = opened(tmp_path / "fresh.sqlite")
    asked = "SELECT name, sql FROM sqlite_master WHERE tbl_name = 'remedies' ORDER BY name"
    with store.database.reading() as ours, fresh.database.reading() as theirs:
        assert ours.exec_driver_sql(asked).all() == theirs.exec_driver_sql(asked).all()
    fresh.close()
    assert store.put(NEW, UNTIL, {bytes(16): bytes(SEALED_SIZES[0])}, tip=BlockHeight(0), network="") == EACH
    assert [*store.find(bytes(16))] == [bytes(SEALED_SIZES[0])]


def test_ten_million_hints_are_measured_only_when_asked_for() -> None:
    assert {name: each.long for name, each in benches().items() if name.startswith("watching")} == {
        "watching": False,
        "watching-10m": True,
    }


@pytest.mark.parametrize(("witness", "least"), [(71, 9000), (1600, 2000)])
def test_a_full_block_has_room_for_no_further_transaction_and_is_read_alike(witness: int, least: int) -> None:
    raw = full_block(random.Random(1), witness=witness)
    found = parse_block(raw).transactions
    assert [each.txid for each in found] == [each.GetTxid() for each in CBlock.deserialize(raw).vtx]
    weight = CBlock.deserialize(raw).GetWeight()
    assert weight <= MAX_WEIGHT < weight + found[0].weight
    assert len({each.txid for each in found}) == len(found) > least


def test_a_scan_asks_the_disk_for_the_one_that_has_something_filed(
    store: RemedyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.fill_filter()
    find, asked = store.find_some, []

    def noted(hint: bytes, after: int) -> list[tuple[int, bytes]]:
        asked.append(hint)
        return find(hint, after)

    monkeypatch.setattr(store, "find_some", noted)
    raw = full_block(random.Random(2), witness=LARGE)
    assert all(seconds > 0 for seconds in watching._scan(store, tmp_path / "watch.sqlite", raw))
    assert {*asked} == {hint_of(parse_block(raw).transactions[-1].txid)}
    assert [*store.find(asked[0])] == [bytes(SEALED_SIZES[0])]


def test_every_figure_is_there_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(watching, "MESSAGES", 2)
    monkeypatch.setattr(watching, "BLOCKS", 1)
    monkeypatch.setattr(watching, "KINDS", {"few": LARGE})
    rows = [*watching._rows(HINTS)]
    assert len(rows) == 7
    assert all(row.figure > 0 and row.floor for row in rows if row.unit != "MB")  # of this few hints, noise
    assert [row.figure for row in rows if row.unit == "bytes"] == [200]
    assert list(tmp_path.iterdir()) == []
