"""Following events over HTTP lines and over a WebSocket, on the real socket: nothing missed, and every end is noticed."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from rrnode.control import models as m
from rrnode.datadir import socket_path


def tip(height: int) -> m.TipEvent:
    return m.TipEvent(height=height, block_hash="00" * 32)


def over_socket(data_dir: Path) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(socket_path(data_dir)))
    return httpx.AsyncClient(transport=transport, base_url="http://rrnode", trust_env=False, timeout=None)


async def test_a_follower_gets_what_happens_after_it_was_answered(node: Any, data_dir: Path) -> None:
    node.bus.publish(tip(1))
    async with over_socket(data_dir) as client, client.stream("GET", "/v1/events") as response:
        assert response.headers["content-type"] == "application/x-ndjson"
        node.bus.publish(tip(2))
        node.bus.publish(tip(3))
        lines = response.aiter_lines()
        seen = [json.loads(await anext(lines)) for _ in range(2)]
    assert [(event["seq"], event["height"]) for event in seen] == [(2, 2), (3, 3)]
    assert seen[0] == {"seq": 2, "at_ms": 1_800_000_000_250, "kind": "tip", "height": 2, "block_hash": "00" * 32}


async def test_a_follower_that_comes_back_names_the_last_it_saw(node: Any, data_dir: Path) -> None:
    for height in (1, 2, 3):
        node.bus.publish(tip(height))
    async with over_socket(data_dir) as client, client.stream("GET", "/v1/events?after=1") as response:
        lines = response.aiter_lines()
        assert [json.loads(await anext(lines))["height"] for _ in range(2)] == [2, 3]


async def test_streams_end_when_the_node_stops(node: Any, data_dir: Path) -> None:
    async with over_socket(data_dir) as client, client.stream("GET", "/v1/events") as response:
        await node.stop()
        lines = [json.loads(line) async for line in response.aiter_lines()]
    assert [event["kind"] for event in lines] == ["stopping"]


async def test_streams_end_even_when_the_bus_is_left_open(node: Any, data_dir: Path) -> None:
    async with over_socket(data_dir) as client, client.stream("GET", "/v1/events") as response:
        node.stopping.set()
        assert [line async for line in response.aiter_lines()] == []


async def test_a_follower_that_leaves_is_forgotten(node: Any, data_dir: Path) -> None:
    async with over_socket(data_dir) as client, client.stream("GET", "/v1/events"):
        assert node.bus.followers == 1
    with trio.fail_after(10):
        while node.bus.followers:
            await trio.lowlevel.checkpoint()


async def test_a_wrong_place_to_begin_is_refused(node: Any, data_dir: Path) -> None:
    async with over_socket(data_dir) as client:
        answer = await client.get("/v1/events?after=-1")
    assert (answer.status_code, answer.json()["error"].partition(":")[0]) == (422, "after")


async def connect_websocket(nursery: trio.Nursery, data_dir: Path, path: str) -> WebSocketConnection:
    stream = await trio.open_unix_socket(str(socket_path(data_dir)))
    return await wrap_client_stream(nursery, stream, "rrnode", path)


async def test_a_websocket_gets_the_same_events(node: Any, data_dir: Path) -> None:
    node.bus.publish(tip(7))
    async with trio.open_nursery() as nursery:
        socket = await connect_websocket(nursery, data_dir, "/v1/events?after=0")
        assert json.loads(await socket.get_message())["height"] == 7
        await socket.send_message("whatever a client says is ignored")
        node.bus.publish(tip(8))
        assert json.loads(await socket.get_message())["height"] == 8
        await socket.aclose()
    with trio.fail_after(10):
        while node.bus.followers:
            await trio.lowlevel.checkpoint()


async def test_a_websocket_is_closed_when_the_node_stops(node: Any, data_dir: Path, fake: ModuleType) -> None:
    async with trio.open_nursery() as nursery:
        socket = await connect_websocket(nursery, data_dir, "/v1/events")
        await node.stop()
        assert json.loads(await socket.get_message())["kind"] == "stopping"
        with pytest.raises(ConnectionClosed) as closed:
            await socket.get_message()
    assert closed.value.reason.code == 1001
