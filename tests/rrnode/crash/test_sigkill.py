"""Real processes over loopback libp2p, killed by SIGKILL at a commit of open, update, forward and close, on either side.

They are started again and go on by themselves: both ends agree, no msat is lost, the payment ends. `make test` dies once
per phase; the slow tests at every commit, before and after it. `tests/rrnode/scenario/test_crashes.py` does the same to
whole nodes in one process, at every commit, every time.
"""

from collections.abc import Callable

import pytest
from crash_kit import MOST_COMMITS, Line


def at_every_commit(phase: Callable[[int, str], bool], *, step: int = 1) -> None:
    """Die at the first commit of a phase, at the second, and so on, until the phase gets through; before, then after."""
    for side in ("before", "after"):
        for commit in range(1, MOST_COMMITS, step):
            try:
                died = phase(commit, side)
            except BaseException as error:
                error.add_note(f"killed {side} commit {commit}")
                raise
            if not died:
                assert commit > 1, "nothing was tried"
                break
        else:
            raise AssertionError(f"more than {MOST_COMMITS} commits")


def test_one_death_in_each_phase(line: Line) -> None:
    assert line.pay("A", "B", 7_000_001, victim="A", commit=3, side="after")  # update, the payer
    assert line.pay("A", "B", 7_000_002, victim="B", commit=3, side="before")  # update, the payee
    assert line.pay("A", "C", 5_000_001, victim="B", commit=4, side="after")  # forward
    assert line.open(victim="A", commit=4, side="after")
    assert line.close(victim="B", commit=2, side="after", force=False)
    assert line.close(victim="A", commit=2, side="after", force=True)
    assert not line.pay("A", "C", 5_000_002, victim="B", commit=MOST_COMMITS, side="before"), "in peace"


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["A", "B"], ids=["payer", "payee"])
def test_death_at_any_commit_of_an_update(line: Line, victim: str) -> None:
    at_every_commit(lambda commit, side: line.pay("A", "B", 7_000_001, victim, commit, side))


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["A", "B", "C"], ids=["payer", "forwarder", "payee"])
def test_death_at_any_commit_of_a_forward(line: Line, victim: str) -> None:
    at_every_commit(lambda commit, side: line.pay("A", "C", 5_000_001, victim, commit, side))


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["A", "B"], ids=["funder", "fundee"])
def test_death_at_any_commit_of_an_opening(line: Line, victim: str) -> None:
    def phase(commit: int, side: str) -> bool:
        died = line.open(victim, commit, side)
        line.close(victim, MOST_COMMITS, "before", force=False)
        return died

    at_every_commit(phase)


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True], ids=["together", "by force"])
@pytest.mark.parametrize("victim", ["A", "B"], ids=["closer", "other"])
def test_death_at_any_commit_of_a_close(line: Line, victim: str, force: bool) -> None:
    at_every_commit(lambda commit, side: line.close(victim, commit, side, force=force), step=4 if force else 1)
