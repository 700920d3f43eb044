"""What a command sees when there is no node, no directory, no right, or a node that goes away."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from rrnode.control.client import ControlClient, NodeAway
from rrnode.datadir import socket_path
from rrnode.errors import UserError


def ask(data_dir: Path) -> Any:
    with ControlClient(data_dir) as client:
        return client.get("/status")


def test_without_a_directory_it_says_how_to_make_a_node(tmp_path: Path) -> None:
    with pytest.raises(NodeAway, match="there is no node in") as refused:
        ask(tmp_path / "none")
    assert refused.value.hint == f"make one with: rrnode --datadir {tmp_path / 'none'} init"


def test_without_a_socket_it_says_how_to_start_the_node(data_dir: Path) -> None:
    with pytest.raises(NodeAway, match="is not running") as refused:
        ask(data_dir)
    assert refused.value.hint == f"start it with: rrnode --datadir {data_dir} start"


def test_a_socket_that_nobody_serves_is_a_node_that_does_not_run(data_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_path(data_dir)))
    with pytest.raises(NodeAway, match="is not running"):
        ask(data_dir)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_socket_of_somebody_else_is_named_as_that(data_dir: Path) -> None:
    data_dir.chmod(0)
    with pytest.raises(NodeAway, match="you may not use"):
        ask(data_dir)


async def test_an_answer_that_is_no_json_is_a_sentence(data_dir: Path) -> None:
    async def nonsense(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(4096)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    with pytest.raises(UserError, match="cannot be read"):
        await _against(nonsense, data_dir)


async def test_an_error_without_a_reason_is_a_sentence(data_dir: Path) -> None:
    async def nonsense(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(4096)
            await stream.send_all(b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\n[]")

    with pytest.raises(UserError, match="answered 500 without a reason"):
        await _against(nonsense, data_dir)


async def test_a_node_that_goes_away_in_the_middle_is_named_as_that(data_dir: Path) -> None:
    async def silent_end(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(4096)

    with pytest.raises(NodeAway, match="went away in the middle"):
        await _against(silent_end, data_dir)


async def _against(serve: Any, data_dir: Path) -> None:
    listener = trio.socket.socket(socket.AF_UNIX)
    await listener.bind(str(socket_path(data_dir)))
    listener.listen()
    failed: UserError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listener)])
        try:
            await trio.to_thread.run_sync(ask, data_dir)
        except UserError as error:
            failed = error
        nursery.cancel_scope.cancel()
    assert failed is not None
    raise failed


async def test_events_end_with_the_node(node: Any, data_dir: Path) -> None:
    def follow() -> list[str]:
        with ControlClient(data_dir) as client, client.events() as events:
            client.post("/stop")
            return [event["kind"] for event in events]

    assert await trio.to_thread.run_sync(follow) == ["stopping"]
