"""Serving the control API: Hypercorn on Trio, on a Unix socket that only its owner may open (DESIGN 3).

Two bars: the socket has mode 0600, and its directory 0700; the kernel checks both at `connect` (unix(7)).
"""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from rrnode.control.api import create_app
from rrnode.control.service import NodeService
from rrnode.datadir import prepare_socket

if TYPE_CHECKING:
    from trio_typing import TaskStatus

GRACE = 2.0  # seconds that requests under way may take when the node stops


async def serve_control(
    service: NodeService,
    data_dir: Path,
    stopping: trio.Event,
    *,
    task_status: "TaskStatus[Path]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stopping` is set; reports the socket's path once clients can connect.

    The caller holds the lock of `data_dir` (`rrnode.datadir.locked`): a socket found there is a dead one.

    Raises:
        UserError: the directory is open to others, or the path too long for a socket.
    """
    path = prepare_socket(data_dir)
    config = Config()
    config.bind = [f"unix:{path}"]
    config.umask = 0o177  # the socket is 0600 from its first moment
    config.graceful_timeout = GRACE
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.websocket_max_message_size = 64 * 1024
    config.include_server_header = False
    app = create_app(service, stopping)
    run = partial(
        serve, cast(Any, app), config, shutdown_trigger=cast(Callable[..., Awaitable[None]], stopping.wait), mode="asgi"
    )
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            task_status.started(path)
    finally:
        path.unlink(missing_ok=True)
