"""One small scene per fault of py-libp2p 0.8.1 (LIBP2P.md A), which says "fine" or what went wrong.

`test_repairs.py` plays each repaired, and in another process without its repair:
`python fault_scenarios.py <scene>,… <repair left out>,…`.
"""

# ruff: noqa: BLE001 - whatever libp2p raises is the answer here
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
import trio
import trio.lowlevel
import trio.testing
from libp2p import new_host
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.peer.peerstore import PeerStore
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from multiaddr import Multiaddr

from rrnode.host import repairs
from rrnode.host.base import FrameStream, HostConfig
from rrnode.host.libp2p import LibP2PHost, to_libp2p

FINE = "fine"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
SINK = "/test/sink/1"


async def sink(stream: FrameStream) -> None:
    await trio.sleep_forever()


def host(number: int, *, listen: bool = True, **limits: Any) -> LibP2PHost:
    config = HostConfig(close_timeout=1.0, dial_timeout=5.0, **limits)
    made = LibP2PHost(
        number.to_bytes(32, "big"), genesis=bytes(32), listen=(LOOPBACK,) if listen else (), config=config
    )
    made.handle(SINK, sink)
    return made


async def raw_stream(ours: LibP2PHost, theirs: LibP2PHost, protocol: str | None) -> Any:
    """A libp2p stream of a linked pair, with all of its faults; negotiated unless `protocol` is None."""
    connection: Any = ours._links[theirs.peer_id].connection
    if protocol is None:
        return await connection._swarm_conn.new_stream()
    return (await connection.open(protocol))._stream


async def still_serves(server: LibP2PHost) -> str:
    try:
        client = host(98, listen=False)
        async with client.running():
            await client.dial(server.addresses()[0])
    except Exception as error:
        return f"the host serves nobody any more: {error}"
    return FINE


async def inbound_slots() -> str:
    """B1: more connections in its life than a host may have at once."""
    async with _server(repairs.Repair.B1_LISTENING, 4) as address:
        return await _visit(address, 6)


@asynccontextmanager
async def _server(repair: repairs.Repair, connections: int) -> AsyncIterator[str]:
    """Our host; or, with this repair left out, libp2p's own, which shows what ours does without."""
    if repair not in repairs._left_out:
        ours = host(1, max_connections=connections)
        async with ours.running():
            yield ours.addresses()[0]
        return
    limits = ConnectionConfig(
        max_connections=connections, min_connections=0, low_watermark=0, high_watermark=connections
    )
    theirs: Any = new_host(key_pair=create_new_key_pair(b"\x01" * 32), connection_config=limits)
    async with theirs.run([Multiaddr(LOOPBACK)]):
        try:
            yield str(theirs.get_addrs()[0])
        finally:
            await theirs.close()


async def _visit(address: str, times: int) -> str:
    info = info_from_p2p_addr(Multiaddr(address))
    for count in range(times):
        visitor: Any = new_host(key_pair=create_new_key_pair((100 + count).to_bytes(32, "big")))
        visitor.get_network().retry_config = RetryConfig(max_retries=0)
        async with visitor.run([]):
            try:
                with trio.fail_after(3):
                    await visitor.get_network().dial_addr(info.addrs[0], info.peer_id)
            except Exception:
                return f"connection {count + 1} of {times} was refused, though none was open"
            finally:
                await visitor.close()
    return FINE


async def own_key() -> str:
    """B2: the store of peers is full."""
    keys = create_new_key_pair(b"\x07" * 32)
    store = repairs.peer_store(10)
    store.add_key_pair(ID.from_pubkey(keys.public_key), keys)
    for number in range(30):
        store.add_addrs(to_libp2p(host(number + 1).peer_id), [Multiaddr("/ip4/127.0.0.1/tcp/1")], 600)
    store._enforce_peer_limit()
    if len(store.peer_ids()) > 10:
        return "the store grows beyond its limit"
    try:
        store.pubkey(ID.from_pubkey(keys.public_key))
    except Exception as error:
        return f"our own key is gone: {error}"
    return FINE


async def raising_handler() -> str:
    """B3: a stranger's negotiation message that is no text."""
    client, server = host(1, listen=False), host(2)
    try:
        async with server.running(), client.running():
            await client.dial(server.addresses()[0])
            stream = await raw_stream(client, server, None)
            await stream.write(b"\x03\xff\xfe\n")
            await trio.sleep(0.3)
            return await still_serves(server)
    except Exception as error:
        return f"the host died: {error!r}"


class _SlowSession:
    """A Noise session whose socket takes 10 seconds for each write: what is counted must be sent."""

    counted = sent = 0

    async def write(self, data: bytes) -> None:
        self.counted += 1
        await trio.sleep(10)
        self.sent += 1


def _slow_stream() -> tuple[_SlowSession, Any]:
    """A yamux stream that has 200,000 bytes to read, on a connection that is slow to write."""
    session: Any = _SlowSession()
    muxer = Yamux(session, to_libp2p(host(1).peer_id), is_initiator=True)
    stream = YamuxStream(1, muxer, True)
    stream.recv_window -= 200_000
    muxer.streams[1], muxer.stream_buffers[1], muxer.stream_events[1] = stream, bytearray(200_000), trio.Event()
    return session, stream


async def cancelled_writes() -> str:
    """B4: a write that is given up while the socket has it. (Under a clock that jumps.)"""
    session, stream = _slow_stream()
    with trio.move_on_after(1):
        await stream.write(b"hello")
    return FINE if session.counted == session.sent else "the connection broke: a message was counted and not sent"


async def cancelled_reads() -> str:
    """B4: a read that is given up while it gives the window back. (Under a clock that jumps.)"""
    session, stream = _slow_stream()
    got = 0
    for _ in range(5):
        with trio.move_on_after(1):
            got += len(await stream.read(50_000))
    if session.counted != session.sent:
        return "the connection broke: a message was counted and not sent"
    return FINE if got + len(stream.conn.stream_buffers[1]) == 200_000 else f"bytes were lost, {got} came"


class _Trickle:
    """A reader of `size` bytes, one at a time, that counts who asks after the end."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.asked_after_end = 0

    async def read(self, n: int | None = None) -> bytes:
        if not self.left:
            self.asked_after_end += 1
            return b""
        self.left -= 1
        return b"x"


async def short_reads() -> str:
    """B6: a message in 150 pieces, and one that ends too soon."""
    from libp2p.io import msgio

    try:
        await msgio.read_exactly(_Trickle(150), 150)
    except Exception as error:
        return f"150 bytes in 150 pieces: {error}"
    short = _Trickle(5)
    with suppress(Exception):
        await msgio.read_exactly(short, 10)
    return FINE if short.asked_after_end == 1 else f"read {short.asked_after_end} times after the end"


async def window_overrun() -> str:
    """B7: a peer that ignores our window and sends 4 MiB to a handler that does not read."""
    client, server = host(1, listen=False, queue_bytes=1000), host(2, queue_bytes=1000)
    async with server.running(), client.running():
        await client.dial(server.addresses()[0])
        stream = await raw_stream(client, server, SINK)
        theirs: Any = server._links[client.peer_id].connection
        stream.muxed_stream.send_window = 1 << 40
        with suppress(Exception), trio.move_on_after(5):
            for _ in range(64):
                await stream.write(b"\x01x" * 32768)
        await trio.sleep(0.3)
        held = sum(map(len, theirs._swarm_conn.muxed_conn.stream_buffers.values()))
        if held > 256 * 1024:
            return f"we hold {held} bytes for it"
        if client.peer_id in server.connected():
            return "it is still connected"
        return await still_serves(server)


async def unasked_dial() -> str:
    """B8: an address that nobody but a peer named."""
    dialled = False

    async def take(stream: trio.SocketStream) -> None:
        nonlocal dialled
        dialled = True

    server = host(1)
    async with server.running(), trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, take, 0)
        port = listeners[0].socket.getsockname()[1]
        server._swarm.peerstore.add_addrs(to_libp2p(host(2).peer_id), [Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")], 600)
        with trio.move_on_after(1):
            await server._swarm.auto_connector.maybe_connect()
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    return "it was dialled" if dialled else FINE


async def slow_window() -> str:
    """B9: the peer's window opens after 8 seconds. (Under a clock that jumps.)"""

    class Muxer:
        written = b""

        async def _write_frame(self, frame: bytes) -> None:
            self.written += frame

    muxer: Any = Muxer()
    stream = YamuxStream(1, muxer, True)
    stream.send_window = 0
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, b"hello")
            await trio.sleep(8)
            stream.send_window += 100
    except BaseException as error:
        return f"the writer gave up: {error!r}"
    return FINE if muxer.written.endswith(b"hello") else "nothing was written"


async def parent_search() -> str:
    """B14: a task is started; nothing may look through all others."""
    server = host(1)
    async with server.running():
        found = server._swarm.manager._find_parent_task
        asked: list[object] = []
        server._swarm.manager._root_tasks = _Watched(server._swarm.manager._root_tasks, asked)
        found(trio.lowlevel.current_task())
        server._swarm.manager._root_tasks = set(server._swarm.manager._root_tasks)
    return "it looks through all tasks" if asked else FINE


class _Watched(set):  # type: ignore[type-arg]
    def __init__(self, items: Any, asked: list[object]) -> None:
        super().__init__(items)
        self._asked = asked

    def __iter__(self) -> Any:
        self._asked.append(None)
        return super().__iter__()


async def long_negotiation() -> str:
    """A negotiation message that names 10 MB."""
    from libp2p.protocol_muxer import multiselect_communicator

    class Endless:
        given = 0
        start = bytes.fromhex("80ade204")  # 10,000,000

        async def read(self, n: int | None = None) -> bytes:
            if self.start:
                first, self.start = self.start[:1], self.start[1:]
                return first
            self.given += 65536
            return bytes(min(n or 0, 65536))

    reader: Any = Endless()
    with suppress(Exception):
        await multiselect_communicator.read_delim(reader)
    return FINE if reader.given < 1_000_000 else f"{reader.given} bytes were taken"


async def plain_text() -> str:
    """A peer that offers no encryption, so that nobody proves its identity."""
    keys = create_new_key_pair(b"\x05" * 32)
    visitor: Any = new_host(
        key_pair=keys, sec_opt={TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(keys, peerstore=PeerStore())}
    )
    visitor.get_network().retry_config = RetryConfig(max_retries=0)
    async with _server(repairs.Repair.PLAIN_TEXT, 4) as address, visitor.run([]):
        info = info_from_p2p_addr(Multiaddr(address))
        try:
            with trio.fail_after(3):
                await visitor.get_network().dial_addr(info.addrs[0], info.peer_id)
            return "it was taken in"
        except SwarmException:
            return FINE
        finally:
            await visitor.close()


SCENES = {scene.__name__: scene for scene in (
    inbound_slots, own_key, raising_handler, cancelled_writes, cancelled_reads, short_reads, window_overrun, unasked_dial,
    slow_window, parent_search, long_negotiation, plain_text,
)}  # fmt: skip


ON_A_CLOCK = {"slow_window", "cancelled_writes", "cancelled_reads"}


def play(scene: str) -> str:
    """Play one scene in a trio run of its own."""
    clock = trio.testing.MockClock(autojump_threshold=0) if scene in ON_A_CLOCK else None
    return trio.run(SCENES[scene], clock=clock)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    repairs.apply(without=frozenset(repairs.Repair(name) for name in sys.argv[2].split(",")))
    for name in sys.argv[1].split(","):
        print(name, play(name), flush=True)
