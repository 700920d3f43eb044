"""What py-libp2p 0.8.1 needs before a node can rest on it; each repair says which fault it answers (LIBP2P.md A).

Not here, because `rrnode.host.libp2p` does without the part that has the fault: B1, B11, B17 (it listens itself), B12
(it dials itself), B5 (every exchange has its own last message), B9's 16 minutes (heartbeat and stall watch), B10
(streams live in their link's nursery), B13 (own address book; peers are not asked to identify), B15, B16 (not used),
B18 (own limits per peer and address). `Repair` names let a test leave one out and see its fault.
"""

import logging
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Any

import libp2p
import libp2p.io.utils
import libp2p.network.connection.swarm_connection as swarm_connection
import libp2p.stream_muxer.yamux.yamux as yamux
import libp2p.utils.varint
import trio
from libp2p.exceptions import ParseError
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.auto_connector import AutoConnector
from libp2p.peer.peerstore import PeerStore
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.tools.anyio_service.trio_manager import TrioManager

from rrnode.host.sockets import watch_dead_peers

WANTED_VERSION = "0.8.1"
WRITE_STALL = 30.0  # seconds one frame may wait for TCP before the connection is given up
MAX_STREAMS = 256  # streams of one connection, those still agreeing on a protocol included
MAX_NEGOTIATION = 65_536  # bytes of a multistream-select message; a list of all protocols is the longest
MAX_PEERS = 10_000  # entries of the peer store; it is a cache to us

log = logging.getLogger("rrnode.host.repairs")


class Repair(Enum):
    """The repairs by the fault they answer."""

    LOGGING = "logging"
    B1_LISTENING = "B1"  # by `rrnode.host.libp2p`, which listens itself; here so that a test can name it
    PLAIN_TEXT = "plain"  # likewise: Noise only
    B2_PEER_STORE = "B2"
    B3_HANDLER_GUARD = "B3"
    B4_CANCELLATION = "B4"
    B6_READ_EXACTLY = "B6"
    B7_WINDOW = "B7"
    B8_AUTO_CONNECTOR = "B8"
    B9_ZERO_WINDOW = "B9"
    B14_PARENT_TASK = "B14"
    NEGOTIATION = "negotiation"
    TCP_STREAM = "tcp"
    PROBE = "probe"


class PinnedPeerStore(PeerStore):
    """A peer store that is bounded but never evicts our own key, without which identify raises (B2)."""

    def __init__(self, max_peers: int = MAX_PEERS) -> None:
        super().__init__(max_records=max_peers, max_peers=max_peers)
        self._pinned: set[Any] = set()

    def add_key_pair(self, peer_id: Any, key_pair: Any) -> None:
        self._pinned.add(peer_id)
        super().add_key_pair(peer_id, key_pair)

    def _enforce_peer_limit(self) -> None:
        excess = len(self.peer_data_map) - self.max_peers
        for peer_id in [known for known in self.peer_data_map if known not in self._pinned][: max(0, excess)]:
            self.peer_record_map.pop(peer_id, None)
            del self.peer_data_map[peer_id]


def tame_logging() -> None:
    """Nothing on stderr for what strangers do: libp2p reports refused and broken connections as errors. What matters
    is logged by `rrnode.host`. Its calls to the root logger would install a root handler, so they get their own."""
    logger = logging.getLogger("libp2p")
    logger.propagate = True
    logger.setLevel(logging.CRITICAL)
    swarm_connection.logging = logging.getLogger("libp2p.network.connection.swarm_connection")


def guard_handlers() -> None:
    """B3: an exception out of a stream handler, or of protocol negotiation, would end `host.run()`. It ends its stream.

    The same place bounds the streams of one connection (B18), before anything is negotiated.
    """
    original = swarm_connection.SwarmConn._handle_muxed_stream

    async def handle(self: Any, muxed_stream: Any) -> None:
        try:
            if len(self.streams) < MAX_STREAMS:
                await original(self, muxed_stream)
                return
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not pass here
            log.debug("stream of %s: %r", self.muxed_conn.peer_id, error)
        with trio.CancelScope(shield=True), trio.move_on_after(WRITE_STALL):
            with suppress(Exception):
                await muxed_stream.reset()

    swarm_connection.SwarmConn._handle_muxed_stream = handle
    for owner in (swarm_connection.SwarmConn, yamux.Yamux):  # tasks of the swarm, likewise
        owner.start = _never_raising(owner.start)


def _never_raising(task: Any) -> Any:
    async def run(self: Any) -> None:
        try:
            await task(self)
        except Exception as error:  # noqa: BLE001 - one connection's trouble
            log.debug("%s: %r", type(self).__name__, error)
            with suppress(Exception):
                await self.close()

    return run


def shield_frames() -> None:
    """B4: Noise has counted a message as sent before the socket has it, so a write that is cancelled in between breaks
    the connection. A frame is written whole; a peer that does not take one for 30 s loses the connection."""

    async def write_frame(self: Any, data: bytes) -> None:
        async with self._write_lock:  # waiting for the turn may be cancelled
            with trio.CancelScope(shield=True, deadline=trio.current_time() + WRITE_STALL) as scope:
                await self.secured_conn.write(data)
            if not scope.cancelled_caught:
                return
            with trio.CancelScope(shield=True):  # the reading task sees the end and cleans up
                await self.secured_conn.close()
        raise ConnectionClosedError("the peer takes no bytes", transport="tcp")

    yamux.Yamux._write_frame = write_frame


def read_without_loss() -> None:
    """B4: a read that was cancelled while it gave the window back lost the bytes that it had taken. Here nothing can be
    cancelled between taking bytes and returning them. The window is fixed and given back in halves, where the original
    may write after every read and grows it to 16 MiB; and no event is left behind for a stream that has gone."""

    async def read(self: Any, n: int | None = None) -> bytes:
        conn, stream_id = self.conn, self.stream_id
        while True:
            buffer = conn.stream_buffers.get(stream_id)
            if buffer:
                data = bytes(buffer if n is None or n < 0 else buffer[:n])
                del buffer[: len(data)]
                if self.closed:
                    conn._finalize_stream_locked(self, fully_closed=True)
                await give_back(self, len(data))
                return data
            event = conn.stream_events.get(stream_id)
            if self.reset_received:
                raise MuxedStreamReset("the stream was reset")
            if buffer is None or event is None or self.recv_closed or self.closed:
                raise MuxedStreamEOF("the stream has ended")
            await event.wait()
            if conn.stream_events.get(stream_id) is event:
                conn.stream_events[stream_id] = trio.Event()

    async def give_back(self: Any, count: int) -> None:
        self._pending_recv_release += count
        credit = self._pending_recv_release
        if credit < yamux.DEFAULT_WINDOW_SIZE // 2 or self.recv_closed:
            return
        self._pending_recv_release = 0
        self.recv_window += credit
        with trio.CancelScope(shield=True):
            await self.send_window_update(credit)

    yamux.YamuxStream.read = read


class WindowOverrun(trio.TooSlowError):
    """The peer sent more than its window. Of this base class because yamux closes the connection for no other."""


def enforce_window() -> None:
    """B7: a peer that ignores the receive window was only warned about and could fill our memory. It loses the
    connection, and a frame above the window is not even read."""

    def get(self: Any) -> int:
        return self._recv_window

    def set_(self: Any, value: int) -> None:
        if value < 0:
            raise WindowOverrun(f"{-value} bytes above the window")
        self._recv_window = value

    yamux.YamuxStream.recv_window = property(get, set_)
    yamux.MAX_WINDOW_SIZE = yamux.DEFAULT_WINDOW_SIZE


def wait_for_window() -> None:
    """B9: a writer without window polled every 10 ms and gave up after 5 s. It is woken by the window update; how long
    it may wait is its owner's business."""

    def get(self: Any) -> int:
        return self._send_window

    def set_(self: Any, value: int) -> None:
        self._send_window = value
        if value > 0:
            self.__dict__.setdefault("_window_opened", trio.lowlevel.ParkingLot()).unpark_all()

    async def write(self: Any, data: bytes) -> None:
        start = 0
        while start < len(data):
            if self.send_closed or self.closed:
                raise MuxedStreamError("the stream is closed for sending")
            if self.send_window <= 0:
                with trio.move_on_after(1.0):  # an end of the stream does not wake us
                    await self._window_opened.park()
                continue
            size = min(self.send_window, yamux.MAX_MESSAGE_SIZE - yamux.HEADER_SIZE, len(data) - start)
            self.send_window -= size
            header = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, self.stream_id, size)
            await self.conn._write_frame(header + data[start : start + size])
            start += size

    yamux.YamuxStream.send_window = property(get, set_)
    yamux.YamuxStream.write = write


def read_exactly_once() -> None:
    """B6: after the end of the stream it read 100 times more, and it gave up after 101 short reads."""

    async def read_exactly(reader: Any, n: int, retry_count: int = 0) -> bytes:
        data = await reader.read(n)
        if len(data) == n:
            return bytes(data)
        buffer = bytearray(data)
        while len(buffer) < n:
            data = await reader.read(n - len(buffer)) if data else b""
            if not data:
                raise IncompleteReadError(
                    f"ended after {len(buffer)} of {n} bytes", expected_bytes=n, received_bytes=len(buffer)
                )
            buffer += data
        return bytes(buffer)

    _replace_everywhere("read_exactly", libp2p.io.utils.read_exactly, read_exactly)


def bound_negotiation() -> None:
    """A stranger's negotiation message was read whatever length it named, before anybody knew who sends it."""

    async def read_delim(reader: Any) -> bytes:
        size = await libp2p.utils.varint.decode_uvarint_from_stream(reader)
        if not 0 < size <= MAX_NEGOTIATION:
            raise ParseError(f"negotiation message of {size} bytes, 1 to {MAX_NEGOTIATION} allowed")
        message = await libp2p.io.utils.read_exactly(reader, size)
        if message[-1:] != b"\n":
            raise ParseError("negotiation message does not end its line")
        return message[:-1]

    _replace_everywhere("read_delim", libp2p.utils.varint.read_delim, read_delim)


def stop_auto_connector() -> None:
    """B8: it dials every address that any peer ever named. Nothing is dialled that our owner did not name."""

    async def nothing(self: Any) -> None:
        return None

    AutoConnector.maybe_connect = nothing


def stop_round_trip_probe() -> None:
    """Yamux pinged every peer every 30 s for the window that it grew; ours is fixed, and the heartbeat keeps NATs open."""

    async def nothing(self: Any) -> None:
        return None

    yamux.Yamux._measure_rtt_loop = nothing


def stop_parent_search() -> None:
    """B14: every new task searched all others for its parent, twice a connection; and a parent may have 1000 only."""
    TrioManager._find_parent_task = lambda self, task: None


def improve_tcp_stream() -> None:
    """Dead peers are noticed by the kernel too (TCP_USER_TIMEOUT), IPv6 peers have an address, and a Noise message
    costs one system call instead of two: length and body are read together."""

    def init(self: Any, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.read_lock = trio.Lock()
        self.write_lock = trio.Lock()
        self._ahead = bytearray()
        try:
            address = stream.socket.getpeername()
            self._cached_remote_address = (str(address[0]), int(address[1]))
        except OSError:
            self._cached_remote_address = None
        watch_dead_peers(stream)

    async def read(self: Any, n: int | None = None) -> bytes:
        async with self.read_lock:
            if not self._ahead:
                if n == 0:
                    return b""
                try:
                    data = await self.stream.receive_some(65536)
                except trio.BrokenResourceError as error:
                    raise ConnectionClosedError(f"reset by the peer: {error}", transport="tcp") from error
                except trio.ClosedResourceError:
                    return b""
                if n is None or len(data) <= n:
                    return bytes(data)
                self._ahead += data
            taken = bytes(self._ahead if n is None else self._ahead[:n])
            del self._ahead[: len(taken)]
            return taken

    TrioTCPStream.__init__ = init
    TrioTCPStream.read = read


def _replace_everywhere(name: str, old: Any, new: Any) -> None:
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("libp2p") and getattr(module, name, None) is old:
            setattr(module, name, new)


_STEPS: dict[Repair, tuple[Callable[[], None], ...]] = {
    Repair.LOGGING: (tame_logging,),
    Repair.B2_PEER_STORE: (),  # `peer_store` below
    Repair.B1_LISTENING: (),
    Repair.PLAIN_TEXT: (),
    Repair.B3_HANDLER_GUARD: (guard_handlers,),
    Repair.B4_CANCELLATION: (shield_frames, read_without_loss),
    Repair.B6_READ_EXACTLY: (read_exactly_once,),
    Repair.B7_WINDOW: (enforce_window,),
    Repair.B8_AUTO_CONNECTOR: (stop_auto_connector,),
    Repair.B9_ZERO_WINDOW: (wait_for_window,),
    Repair.B14_PARENT_TASK: (stop_parent_search,),
    Repair.NEGOTIATION: (bound_negotiation,),
    Repair.TCP_STREAM: (improve_tcp_stream,),
    Repair.PROBE: (stop_round_trip_probe,),
}
_applied: set[Repair] = set()
_left_out: set[Repair] = set()


def apply(*, without: frozenset[Repair] = frozenset()) -> None:
    """Repair libp2p in this process, once; further calls do nothing.

    Args:
        without: repairs to leave out, for tests that show their faults; only the first call's counts.

    Raises:
        RuntimeError: another version of libp2p is installed, for which none of this was checked.
    """
    if libp2p.__version__ != WANTED_VERSION:
        raise RuntimeError(
            f"libp2p {libp2p.__version__} is installed, {WANTED_VERSION} is wanted: its faults are repaired by name. "
            f"Install it with: pip install libp2p=={WANTED_VERSION}"
        )
    if _applied:
        return
    _left_out.update(without)
    for repair, steps in _STEPS.items():
        if repair not in without:
            _applied.add(repair)
            for step in steps:
                step()


def peer_store(max_peers: int = MAX_PEERS) -> PeerStore:
    """The peer store for a new host (B2)."""
    if Repair.B2_PEER_STORE in _left_out:
        return PeerStore(max_records=max_peers, max_peers=max_peers)
    return PinnedPeerStore(max_peers)
