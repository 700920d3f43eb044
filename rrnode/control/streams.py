"""Following the node's events: one JSON document a line over HTTP, or one a message over a WebSocket.

Both end when the client goes, when the node stops, or when the client reads too slowly (the bus cuts it off).
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from fastapi import WebSocket
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from rrnode.control import models as m
from rrnode.control.service import NodeService


async def _next(events: trio.MemoryReceiveChannel[m.Event], stopping: trio.Event) -> m.Event | None:
    """The next event; None at the end, or when the node stops and everything queued was taken."""
    found: m.Event | None = None
    try:
        return events.receive_nowait()
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
            found = await events.receive()
        nursery.cancel_scope.cancel()
    return found


async def _cancel_when(gone: Callable[[], Awaitable[object]], scope: trio.CancelScope) -> None:
    await gone()
    scope.cancel()


class EventLines(Response):
    """A response that never ends by itself: `application/x-ndjson`, one event a line.

    The subscription stands before the first byte of the answer leaves: whoever has read the status line misses nothing.
    """

    media_type = "application/x-ndjson"

    def __init__(self, service: NodeService, stopping: trio.Event, after: int | None) -> None:
        super().__init__(media_type=self.media_type)
        del self.headers["content-length"]
        self._service, self._stopping, self._after = service, stopping, after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client (ASGI)."""

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        async with self._service.events(after=self._after) as events:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, gone, nursery.cancel_scope)
                while event := await _next(events, self._stopping):
                    line = event.model_dump_json().encode() + b"\n"
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
