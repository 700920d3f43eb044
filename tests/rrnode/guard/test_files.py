"""What node and guard leave for each other: whole or not at all, and damage is noticed where it matters."""

import os
from pathlib import Path

import pytest

from protocols.ids import ChannelId
from rrnode.errors import StorageFailed
from rrnode.guard import Heartbeat, guard_pid, read_closed, remove_closed, write_heartbeat
from rrnode.guard.files import CLOSED, HEARTBEAT, add_closed, only_guard, read_heartbeat

ONE, TWO = ChannelId(b"1" * 32), ChannelId(b"2" * 32)
BEAT = Heartbeat(pid=7, count=3, height=100, halted="the disk is full")


def test_a_heartbeat_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_heartbeat(tmp_path) is None
    write_heartbeat(tmp_path, BEAT)
    assert read_heartbeat(tmp_path) == BEAT
    assert os.listdir(tmp_path) == [HEARTBEAT]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff\xfe", b'{"pid":"x","count":1,"height":1,"halted":""}']
)
def test_an_unreadable_heartbeat_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / HEARTBEAT).write_bytes(content)
    assert read_heartbeat(tmp_path) is None


def test_notes_gather_and_go(tmp_path: Path) -> None:
    assert read_closed(tmp_path) == frozenset()
    add_closed(tmp_path, [ONE])
    add_closed(tmp_path, [TWO, ONE])
    assert read_closed(tmp_path) == {ONE, TWO}
    remove_closed(tmp_path, [ONE])
    assert read_closed(tmp_path) == {TWO}
    assert os.stat(tmp_path / CLOSED).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["zz", "00", "ab" * 31, "ab" * 33])
def test_a_damaged_note_stops_the_node(tmp_path: Path, content: str) -> None:
    (tmp_path / CLOSED).write_text(content + "\n")
    with pytest.raises(StorageFailed, match="guard-closed"):
        read_closed(tmp_path)
    with pytest.raises(StorageFailed, match="guard-closed"):
        add_closed(tmp_path, [ONE])
    assert (tmp_path / CLOSED).read_text() == content + "\n"


def test_what_cannot_be_written_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="cannot be written"):
        write_heartbeat(tmp_path / "nowhere", BEAT)
    with pytest.raises(StorageFailed, match="cannot be written"):
        add_closed(tmp_path / "nowhere", [ONE])


def test_the_guard_is_known_while_it_lives(tmp_path: Path) -> None:
    assert guard_pid(tmp_path) is None
    with only_guard(tmp_path):
        assert guard_pid(tmp_path) == os.getpid()
    assert guard_pid(tmp_path) is None
