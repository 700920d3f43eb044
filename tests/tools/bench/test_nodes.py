"""The bench's processes: they answer, say no in words, and are gone afterwards; a commit and a raw hop take some time."""

import sys

import pytest

from tools.bench import nodes
from tools.bench.network import commit_seconds

ECHO = """
import json, sys
for line in sys.stdin:
    order = json.loads(line)
    if order["do"] == "end":
        sys.exit("that was it")
    print(json.dumps({"error": "no"} if order["do"] == "refuse" else {"answer": order}), flush=True)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    (tmp_path / "echo_worker.py").write_text(ECHO)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = nodes.Orders("W", ["echo_worker"], tmp_path / "log")
    yield made
    made.end()
    assert made.process.poll() is not None


def test_a_worker_answers_orders_in_turn(worker):
    worker.order("one", number=1)
    worker.order("two", number=2)
    assert [worker.answer(), worker.answer()] == [{"do": "one", "number": 1}, {"do": "two", "number": 2}]


def test_a_workers_no_is_raised_with_its_name(worker):
    with pytest.raises(nodes.WorkerFailed, match="W: no"):
        worker.do("refuse")
    assert worker.do("again") == {"do": "again"}


def test_a_worker_that_ends_is_told_with_the_end_of_its_log(worker):
    with pytest.raises(nodes.WorkerFailed, match="W ended:\nthat was it"):
        worker.do("end")


def test_a_worker_that_does_not_end_when_asked_is_ended(tmp_path, monkeypatch):
    (tmp_path / "deaf_worker.py").write_text("import time\nprint('{}', flush=True)\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(nodes, "ENDS_WITHIN", 0.01)
    made = nodes.Orders("deaf", ["deaf_worker"], tmp_path / "log")
    made.end()
    assert made.process.poll() is not None


def test_commits_are_measured_and_leave_nothing_behind(tmp_path):
    assert commit_seconds(tmp_path, rounds=2) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="process start is slow elsewhere")
def test_raw_relays_give_a_figure_per_round_and_end():
    assert len(nodes.raw_hop_seconds(links=1)) > 1
