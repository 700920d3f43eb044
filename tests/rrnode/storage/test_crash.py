"""A process that is killed (SIGKILL) between or within commits leaves a prefix of its batches on disk, each one whole.

What the writer had reported as committed must be there; at most the batch it was busy with may be there as well.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rrnode.storage import Store

WRITER = Path(__file__).with_name("crash_writer.py")
ROOT = Path(__file__).parents[3]


def batches_on_disk(path: Path, kit: Any) -> int:
    """The number of the last batch, having checked that exactly the batches up to it are there, whole."""
    store = Store.open(path, node_id=kit.node, network="regtest")
    loaded = store.load()
    last = loaded.cursor[0] if loaded.cursor else 0
    assert loaded.cursor == ((last, last.to_bytes(32, "big")) if last else None)
    assert loaded.snapshot.channels == ((kit.channel(1, number=last),) if last else ())
    assert loaded.snapshot.payments == tuple(kit.payment(n) for n in range(1, last + 1))
    assert [state.number for state in store.revoked_states(kit.channel_id(1))] == list(range(1, last + 1))
    lines = list(store.load_journal())
    assert [line.facts for line in lines] == [kit.facts(n) for n in range(last - len(lines) + 1, last + 1)]
    store.close()
    return last


@pytest.mark.parametrize("kills", [4])
def test_after_a_kill_a_prefix_of_whole_batches_is_on_disk(path: Path, kit: Any, kills: int) -> None:
    last = 0
    for kill in range(kills):
        process = subprocess.Popen(
            [sys.executable, str(WRITER), "write", str(path), str(last)], stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        assert process.stdout is not None
        reported = last
        for _ in range(3 + 37 * kill):  # each time somewhere else between two reports
            reported = int(process.stdout.readline())
        process.kill()
        rest = process.stdout.read().split()
        process.wait()
        process.stdout.close()
        reported = int(rest[-1]) if rest else reported
        last = batches_on_disk(path, kit)
        assert last in (reported, reported + 1)


def test_a_kill_at_any_statement_leaves_nothing_of_its_batch(tmp_path: Path, kit: Any) -> None:
    done = subprocess.run(
        [sys.executable, str(WRITER), "points", str(tmp_path)], capture_output=True, cwd=ROOT, text=True, check=True
    )
    through = int(done.stdout)
    assert through > 5
    assert [batches_on_disk(tmp_path / str(n), kit) for n in range(1, through + 1)] == [1] * (through - 1) + [2]
