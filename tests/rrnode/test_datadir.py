"""The data directory: private, one process at a time, with sockets that fit."""

import fcntl
import os
import stat
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from rrnode.datadir import GUARD_MOMENT, check_private, default_data_dir, is_locked, locked, make_private
from rrnode.errors import UserError


def test_each_network_has_its_own_default_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert {default_data_dir(network) for network in ("regtest", "signet")} == {
        tmp_path / "rrnode" / "regtest",
        tmp_path / "rrnode" / "signet",
    }


def test_a_directory_is_made_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    make_private(tmp_path / "a" / "b")


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError) as refused:
            make_private(path)
        assert "--datadir" in refused.value.hint


@pytest.mark.parametrize("mode", [0o710, 0o701, 0o750, 0o777])
def test_a_directory_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(UserError, match="can be entered by other users"):
        check_private(tmp_path)
    tmp_path.chmod(0o700)
    check_private(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(UserError, match="belongs to another user"):
        check_private(tmp_path)


def test_a_directory_is_held_by_one_at_a_time_and_the_message_names_the_holder(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(UserError, match=f"process {os.getpid()} uses") as refused, locked(tmp_path):
            pass
        assert refused.value.hint == f"stop it with: rrnode --datadir {tmp_path} stop"
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        pass


def test_who_starts_waits_for_a_guard_that_holds_the_directory_for_a_moment(tmp_path: Path) -> None:
    guard, paused = ExitStack(), list[float]()
    guard.enter_context(locked(tmp_path))

    def pause(seconds: float) -> None:
        paused.append(seconds)
        if len(paused) == 3:
            guard.close()

    with locked(tmp_path, patience=GUARD_MOMENT, pause=pause):
        assert is_locked(tmp_path)
    assert len(paused) == 3


def test_who_starts_waits_no_longer_than_that(tmp_path: Path) -> None:
    paused: list[float] = []
    with (
        locked(tmp_path),
        pytest.raises(UserError, match=f"process {os.getpid()} uses"),
        locked(tmp_path, patience=GUARD_MOMENT, pause=paused.append),
    ):
        pass
    assert sum(paused) == pytest.approx(GUARD_MOMENT)


def test_one_that_only_looks_whether_a_directory_is_held_does_not_hold_it(tmp_path: Path) -> None:
    with locked(tmp_path):
        pass
    with (tmp_path / "lock").open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)  # as `is_locked` does in another process
        assert not is_locked(tmp_path)
    with (tmp_path / "lock").open("rb") as looking, ExitStack() as started:
        fcntl.flock(looking, fcntl.LOCK_SH)
        end = partial(fcntl.flock, looking, fcntl.LOCK_UN)
        started.enter_context(locked(tmp_path, patience=GUARD_MOMENT, pause=lambda _: end()))
        assert is_locked(tmp_path)


def test_a_lock_file_with_rubbish_in_it_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"\xff" * 5000)
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    (tmp_path / "lock").write_text("not a number")
    with locked(tmp_path), pytest.raises(UserError, match="process"), locked(tmp_path):
        pass


def test_a_directory_that_is_gone_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened"), locked(tmp_path / "none"):
        pass
