"""One connection to a peer while it lives, as the host and the heartbeat share it."""

import trio

from rrnode.host.base import PeerConnected
from rrnode.host.link import QueuedStream
from rrnode.host.pace import Pace
from rrnode.host.transport import Connection


class Link:
    """One connection while it lives: its streams, what was heard, and whether the peer said `Hello`."""

    def __init__(self, connection: Connection, pace: Pace) -> None:
        self.connection = connection
        self.pace = pace
        self.peer = connection.peer
        self.inbound = connection.inbound
        self.nursery: trio.Nursery | None = None
        self.started = trio.Event()  # the nursery is there
        self.linked = trio.Event()  # both said `Hello` and this is the peer's one link
        self.ended = trio.Event()
        self.gone = trio.Event()  # the connection is closed and its tasks are over
        self.linked_at = 0.0
        self.reason: str | None = None
        self.info: PeerConnected | None = None
        self.control: QueuedStream | None = None
        self.streams: set[QueuedStream] = set()
        self.newest: dict[str, QueuedStream] = {}  # by protocol, inbound
        self.raw = 0  # inbound streams without frames
        self.heard = True  # since the heartbeat looked last
        self.silence, self.pinged_at, self.nonce = 0.0, 0.0, 0  # the heartbeat's own

    def on_heard(self) -> None:
        self.heard = True

    def end(self, reason: str) -> None:
        """Let the connection's task end it; the first reason counts."""
        if self.reason is None:
            self.reason = reason
        self.ended.set()
