"""The socket itself: who may open it, where it is, how serving ends. Real sockets, real users where we may be them."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import trio

from rrnode.control.client import ControlClient
from rrnode.control.server import serve_control
from rrnode.datadir import SOCKET_PATH_MAX, prepare_socket, socket_path
from rrnode.errors import UserError

CONNECT_AS_NOBODY = """
import os, socket, sys
door = socket.socket(socket.AF_UNIX)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
door.connect(sys.argv[1])
"""


async def test_the_socket_is_for_its_owner_only(node: Any, data_dir: Path) -> None:
    assert stat.S_IMODE(os.stat(socket_path(data_dir)).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(data_dir).st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try it as another user")
async def test_another_user_is_refused_by_the_socket_even_in_an_open_directory(
    fake: ModuleType, short_dir: Path
) -> None:
    def try_as_nobody(path: Path) -> str:
        command = [sys.executable, "-c", CONNECT_AS_NOBODY, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stderr.strip().splitlines()[-1] if done.stderr else "connected"

    os.chmod(short_dir, 0o755)
    data_dir = short_dir / "n"
    async with fake.serving(data_dir):
        path = socket_path(data_dir)
        assert "PermissionError" in await trio.to_thread.run_sync(try_as_nobody, path)
        os.chmod(data_dir, 0o755)
        assert "PermissionError" in await trio.to_thread.run_sync(try_as_nobody, path)
        os.chmod(path, 0o666)  # the test can fail: without both bars the door is open
        assert await trio.to_thread.run_sync(try_as_nobody, path) == "connected"


async def test_a_directory_that_others_may_enter_is_refused(fake: ModuleType, data_dir: Path) -> None:
    os.chmod(data_dir, 0o750)
    with pytest.raises(UserError, match="can be entered by other users") as refused:
        await serve_control(fake.FakeNode(data_dir, trio.Event()), data_dir, trio.Event())
    assert refused.value.hint == f"run: chmod 700 {data_dir}"


async def test_a_dead_socket_is_replaced_and_ours_is_removed_at_the_end(fake: ModuleType, data_dir: Path) -> None:
    path = socket_path(data_dir)
    for _ in range(2):
        async with fake.serving(data_dir):
            async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
                assert (await client.get("http://rrnode/v1/contact")).status_code == 200
        assert not path.exists()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))


async def test_a_long_data_directory_has_its_socket_elsewhere_and_clients_find_it(
    fake: ModuleType, tmp_path: Path, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = short_dir / "run"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    data_dir = tmp_path / ("long" * 25)
    assert len(str(data_dir)) > SOCKET_PATH_MAX
    async with fake.serving(data_dir):
        path = socket_path(data_dir)
        assert path.is_relative_to(runtime)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

        def ask() -> Any:
            with ControlClient(data_dir) as client:
                return client.get("/contact")

        assert (await trio.to_thread.run_sync(ask))["contact"] == "rrr1contact"


def test_a_path_too_long_even_so_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("r" * 100)))
    data_dir = tmp_path / ("d" * 100)
    data_dir.mkdir(mode=0o700)
    with pytest.raises(UserError, match="a socket's path may have 107") as refused:
        prepare_socket(data_dir)
    assert "--datadir" in refused.value.hint


async def test_two_long_directories_never_share_a_socket(tmp_path: Path) -> None:
    one, other = tmp_path / ("x" * 120 + "1"), tmp_path / ("x" * 120 + "2")
    assert socket_path(one) != socket_path(other)
    assert socket_path(one) == socket_path(one)
