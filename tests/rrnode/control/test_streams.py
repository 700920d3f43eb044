"""Following events over HTTP lines and over a WebSocket, on the real socket: nothing missed, and every end is noticed."""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from rrnode.control import models as m
from rrnode.control.text import peer_text
from rrnode.datadir import socket_path
from rrnode.sniffing import MOST_SNIFFERS


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


async def test_frames_are_seen_from_the_moment_it_was_answered(node: Any, data_dir: Path, fake: ModuleType) -> None:
    node.tap.tell(fake.BOB, "/rr/link/1", True, b"before")
    about = {"protocol": ["/rr/link/1", "/rr/init/1"], "peer": peer_text(fake.BOB)}
    async with over_socket(data_dir) as client, client.stream("GET", "/v1/frames", params=about) as response:
        node.tap.tell(fake.BOB, "/rr/link/1", False, b"one")
        node.tap.tell(fake.CAROL, "/rr/link/1", False, b"of another peer")
        node.tap.tell(fake.BOB, "/rr/watch/1", False, b"of another protocol")
        node.tap.tell(fake.BOB, "/rr/init/1", True, b"two")
        lines = response.aiter_lines()
        seen = [m.Frame.model_validate_json(await anext(lines)) for _ in range(2)]
    common = {"at_ms": 1_800_000_000_250, "peer_id": peer_text(fake.BOB), "size": 3}
    assert seen == [
        m.Frame(direction="in", protocol="/rr/link/1", payload=b"one".hex(), **common),
        m.Frame(direction="out", protocol="/rr/init/1", payload=b"two".hex(), **common),
    ]
    with trio.fail_after(10):
        while node.tap.listeners:
            await trio.lowlevel.checkpoint()


async def test_frames_end_when_the_node_stops(node: Any, data_dir: Path) -> None:
    async with over_socket(data_dir) as client, client.stream("GET", "/v1/frames") as response:
        node.stopping.set()
        assert [line async for line in response.aiter_lines()] == []


async def test_what_cannot_be_looked_for_is_refused_before_anything_is_shown(node: Any, data_dir: Path) -> None:
    async with over_socket(data_dir) as client:
        answers = [await client.get("/v1/frames", params=each) for each in ({"peer": "Bob"}, {"payment_hash": "12"})]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert [answer.json()["error"].partition(" is not")[0] for answer in answers] == ["'Bob'", "'12'"]
    assert node.tap.listeners == ()


async def test_only_so_many_look_at_once(node: Any, data_dir: Path) -> None:
    async with over_socket(data_dir) as client, AsyncExitStack() as looking:
        for _ in range(MOST_SNIFFERS):
            await looking.enter_async_context(client.stream("GET", "/v1/frames"))
        answer = await client.get("/v1/frames")
    assert (answer.status_code, answer.json()["error"]) == (400, "4 sniffers look at this node already")


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
