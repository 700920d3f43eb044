"""Following a feed of the node (its events, its frames): one JSON document a line over HTTP, or one a message over a WebSocket.

Both end when the client goes, when the node stops, or when the feed ends (the bus cuts off who reads its events too slowly).
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Protocol, TypeVar

import trio
from fastapi import WebSocket
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from rrnode.control import models as m
from rrnode.control.service import NodeService

T_co = TypeVar("T_co", bound=m.Model, covariant=True)


class Feed(Protocol[T_co]):
    """Documents in order, from a bounded queue; trio's memory channels are such."""

    def receive_nowait(self) -> T_co:
        """The next one. Raises trio.WouldBlock when there is none, trio.EndOfChannel at the end."""

    async def receive(self) -> T_co:
        """The next one, when there is one. Raises trio.EndOfChannel at the end."""


async def _next(feed: Feed[T_co], stopping: trio.Event) -> T_co | None:
    """The next document; None at the end, or when the node stops and everything queued was taken."""
    found: T_co | None = None
    try:
        return feed.receive_nowait()
    except trio.EndOfChannel:
        return None
    except trio.WouldBlock:
        if stopping.is_set():
            return None
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            await stopping.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop)
        with suppress(trio.EndOfChannel):
            found = await feed.receive()
        nursery.cancel_scope.cancel()
    return found


async def _cancel_when(gone: Callable[[], Awaitable[object]], scope: trio.CancelScope) -> None:
    await gone()
    scope.cancel()


class Lines(Response):
    """A response that never ends by itself: `application/x-ndjson`, one document a line.

    The subscription stands before the first byte of the answer leaves: whoever has read the status line misses nothing.
    """

    media_type = "application/x-ndjson"

    def __init__(self, feed: AbstractAsyncContextManager[Feed[m.Model]], stopping: trio.Event) -> None:
        super().__init__(media_type=self.media_type)
        del self.headers["content-length"]
        self._feed, self._stopping = feed, stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client (ASGI)."""

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        async with self._feed as feed:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, gone, nursery.cancel_scope)
                while document := await _next(feed, self._stopping):
                    line = document.model_dump_json().encode() + b"\n"
                    await send({"type": "http.response.body", "body": line, "more_body": True})
                nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def serve_events(socket: WebSocket, service: NodeService, stopping: trio.Event, after: int | None) -> None:
    """The same over a WebSocket, one event a message; what the client says is ignored."""

    async def gone() -> None:
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass

    async with service.events(after=after) as events:
        await socket.accept()
        left = False
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal left
                await gone()
                left = True
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                while event := await _next(events, stopping):
                    await socket.send_text(event.model_dump_json())
            except WebSocketDisconnect:
                left = True
            nursery.cancel_scope.cancel()
        if not left:
            await socket.close(1001)
