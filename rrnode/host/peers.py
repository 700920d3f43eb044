"""Links to peers, common to every host: `Hello`, heartbeat, one link a peer, handlers, limits, events (DESIGN 3, 4).

A transport (`rrnode.host.libp2p`, `rrnode.host.memory`) subclasses `LinkedHost`, opens connections for it and hands it
inbound connections and streams. Source of the link protocol: `protocols.wire.link`.
"""

from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import structlog
import trio

from protocols.errors import DecodeError, PeerProtocolError
from protocols.ids import PeerId
from protocols.wire import link as wire
from rrnode.errors import LinkClosed, Unreachable, leaves
from rrnode.host.base import (
    FrameStream,
    Host,
    HostConfig,
    HostCounters,
    HostEvent,
    PeerConnected,
    PeerLost,
    StreamHandler,
)
from rrnode.host.keeping import Keeping
from rrnode.host.link import QueuedStream
from rrnode.host.linked import Link
from rrnode.host.pace import Paces
from rrnode.host.peer_text import peer_of, split_address, to_text
from rrnode.host.tap import Tap
from rrnode.host.transport import ByteStream, Connection

log = structlog.get_logger("rrnode.host")

_REPLACED = "a newer connection took its place"
_LINKS_PER_PEER = 4  # connections of one peer at a time, before and after Hello: a crossing needs two


RawHandler = Callable[[Connection, ByteStream], Awaitable[None]]  # of a stream that has no frames


class LinkedHost(Host):
    """Everything of a host but its transport.

    Args:
        secret: 32-byte secp256k1 secret of the identity.
        genesis: genesis block hash of the network, 32 bytes; nodes of others are told and cut.
        switches: bit 0 route, 1 chain, 2 watch, 3 mailbox.
        agent: program and version, told to peers.
        listen: multiaddrs to listen on, without `/p2p`; empty for a client.
        announce: multiaddrs under which others reach us, when they are not those we listen on; without `/p2p`.
        config: limits and deadlines.
    """

    def __init__(
        self,
        secret: bytes,
        *,
        genesis: bytes,
        switches: int,
        agent: str,
        listen: tuple[str, ...] = (),
        announce: tuple[str, ...] = (),
        config: HostConfig | None = None,
    ) -> None:
        self.peer_id = peer_of(secret)
        self.counters = HostCounters()
        self.tap = Tap()
        self.config = config or HostConfig()
        self._keeping = Keeping(self.config, self.counters)
        self._hello = wire.Hello(network=genesis, switches=switches, agent=agent)
        self._listen = listen
        self._announce = announce
        self._handlers: dict[str, StreamHandler] = {}
        self._raw_handlers: dict[str, RawHandler] = {}
        self._relayed: set[str] = {wire.PROTOCOL}  # protocols that are served to those who came through a relay
        self._links: dict[PeerId, Link] = {}  # linked ones, one a peer
        self._all: dict[Connection, Link] = {}
        self._paces = Paces(
            self.config.peer_frames,
            self.config.peer_burst,
            most=2 * self.config.max_connections,
            exceeded=self._slowed,
        )
        self._dialling: dict[PeerId, trio.Lock] = {}
        self._arrived: dict[PeerId, trio.Event] = {}  # set when a dialled peer got linked some other way
        self._subscribers: set[trio.MemorySendChannel[HostEvent]] = set()
        self._nursery: trio.Nursery | None = None

    # To be provided by the transport.

    @abstractmethod
    async def _connect(self, where: str, peer: PeerId) -> Connection:
        """Open a connection to this peer. Raises Unreachable. The caller holds a deadline over it."""

    @abstractmethod
    def _transport(self) -> AbstractAsyncContextManager[None]:
        """Listen while inside, free everything on leaving. Raises Unreachable."""

    # Host.

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        if self._nursery is not None:
            raise RuntimeError("this host is running already")
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._keeping.heartbeats, self._links)
                try:
                    async with self._transport():
                        try:
                            yield
                        finally:
                            with trio.CancelScope(shield=True), trio.move_on_after(self.config.close_timeout):
                                await self._end_all("this node stops")
                finally:
                    self._nursery = None
                    nursery.cancel_scope.cancel()
                    for channel in list(self._subscribers):
                        channel.close()
        except BaseExceptionGroup as group:
            single = list(leaves(group))
            if len(single) == 1:  # our nursery must not change what the caller's own exception is
                raise single[0] from single[0].__cause__
            raise

    def handle(self, protocol: str, handler: StreamHandler, *, relayed: bool = False) -> None:
        self._handlers[protocol] = handler
        if relayed:
            self._relayed.add(protocol)

    def protocols(self) -> tuple[str, ...]:
        return tuple(sorted((wire.PROTOCOL, *self._handlers)))

    async def dial(self, address: str) -> PeerId:
        try:
            where, peer = split_address(address)
        except DecodeError as error:
            raise Unreachable(str(error)) from None
        if peer == self.peer_id:
            raise Unreachable(f"{address} is this node itself")
        if self._nursery is None:
            raise Unreachable("this node is not running")
        await trio.lowlevel.checkpoint()
        lock = self._dialling.setdefault(peer, trio.Lock())
        try:
            async with lock:
                if self._standing(peer) is None:
                    await self._dial_once(where, peer)
        finally:
            if not lock.locked():
                self._dialling.pop(peer, None)
        return peer

    async def open_stream(self, peer: PeerId, protocol: str) -> FrameStream:
        link = self._standing(peer)
        if link is None:
            raise LinkClosed(f"not connected to {to_text(peer)}")
        return await self._open(link, protocol)

    async def disconnect(self, peer: PeerId, reason: str) -> None:
        link = self._links.get(peer)
        if link is not None:
            await self._farewell(link, reason)
        else:
            await trio.lowlevel.checkpoint()

    def connected(self) -> dict[PeerId, PeerConnected]:
        return {peer: link.info for peer, link in self._links.items() if link.info is not None}

    @asynccontextmanager
    async def events(self) -> AsyncGenerator[trio.MemoryReceiveChannel[HostEvent], None]:
        send, receive = trio.open_memory_channel[HostEvent](2**62)
        self._subscribers.add(send)
        try:
            yield receive
        finally:
            self._subscribers.discard(send)
            send.close()
            receive.close()

    def _standing(self, peer: PeerId) -> Link | None:
        """The link of this peer, unless it broke a moment ago and nobody was told yet."""
        link = self._links.get(peer)
        if link is None or link.ended.is_set() or link.connection.closed.is_set():
            return None
        return link

    # Dialling.

    async def _dial_once(self, where: str, peer: PeerId) -> None:
        arrived = self._arrived[peer] = trio.Event()
        failure: Unreachable | None = None
        try:
            with trio.move_on_after(self.config.dial_timeout):
                async with trio.open_nursery() as nursery:

                    async def attempt() -> None:
                        nonlocal failure
                        try:
                            await self._attempt(where, peer)
                        except Unreachable as error:
                            failure = error
                            if str(error) == wire.CROSSED:
                                await trio.sleep_forever()  # theirs is on its way
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(attempt)
                    await arrived.wait()
                    nursery.cancel_scope.cancel()
        finally:
            del self._arrived[peer]
        if self._standing(peer) is not None:
            return
        raise failure or Unreachable(f"no answer from {where} within {self.config.dial_timeout:g} s")

    async def _attempt(self, where: str, peer: PeerId) -> None:
        connection = await self._connect(where, peer)
        link = self._attach(connection)
        try:
            await link.started.wait()
            stream = await self._open(link, wire.PROTOCOL)
            await stream.send(wire.CODEC.encode(self._hello))
            answer = wire.CODEC.decode(await stream.receive())
            match answer:
                case wire.Hello():
                    pass
                case wire.Goodbye(reason=reason):
                    raise Unreachable(wire.CROSSED if reason == wire.CROSSED else f"{where} refuses: {reason}")
                case _:
                    raise Unreachable(f"{where} answers {type(answer).__name__} where Hello was wanted")
            if answer.network != self._hello.network:
                await self._keeping.say_goodbye(link, stream, _other_network(self._hello.network))
                raise Unreachable(f"{where} works on another network ({_name(answer.network)})")
            if self._standing(peer) is not None:
                raise Unreachable("linked meanwhile")
            self._register(link, answer, stream)
        except (LinkClosed, PeerProtocolError) as error:
            link.end(str(error))
            raise Unreachable(f"{where} ended the connection before Hello: {error}") from None
        except BaseException as error:
            link.end(str(error) or "dial given up")
            raise

    # Connections and their links.

    def _attach(self, connection: Connection) -> Link:
        """The link of this connection; its task is started when it is new. Called by dials and by the transport."""
        link = self._all.get(connection)
        if link is None:
            link = Link(connection, self._paces.of(connection.peer))
            if sum(other.peer == link.peer for other in self._all.values()) >= _LINKS_PER_PEER:
                self.counters.refused_connections += 1
                link.end("too many connections of one peer")
            self._all[connection] = link
            assert self._nursery is not None
            self._nursery.start_soon(self._run_link, link)
        return link

    def _slowed(self, peer: PeerId) -> None:
        self.counters.slowed_peers += 1
        log.info("a peer sends more than its budget and is read no faster", peer=to_text(peer))

    async def _run_link(self, link: Link) -> None:
        try:
            async with trio.open_nursery() as nursery:
                link.nursery = nursery
                link.started.set()
                nursery.start_soon(self._watch_connection, link)
                if link.inbound:
                    nursery.start_soon(self._await_hello, link)
                await link.ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            link.end("this node stops")
            link.started.set()
            self._all.pop(link.connection, None)
            self._unregister(link)
            with trio.CancelScope(shield=True), trio.move_on_after(self.config.close_timeout):
                await link.connection.close()
            link.gone.set()

    async def _watch_connection(self, link: Link) -> None:
        await link.connection.closed.wait()
        link.end("the connection broke")

    async def _await_hello(self, link: Link) -> None:
        with trio.move_on_after(self.config.hello_timeout + self.config.crossing_wait):
            await link.linked.wait()
            return
        self.counters.refused_peers += 1
        link.end(f"no Hello within {self.config.hello_timeout:g} s")

    def _register(self, link: Link, hello: wire.Hello, control: QueuedStream) -> None:
        old = self._links.get(link.peer)
        if old is not None:
            old.end(_REPLACED)
            self._unregister(old)
        link.control = control
        link.linked_at = trio.current_time()
        link.info = PeerConnected(
            peer=link.peer,
            inbound=link.inbound,
            switches=0 if link.connection.relayed else hello.switches,  # nobody serves from behind a relay
            agent=hello.agent,
            address=link.connection.remote_address,
        )
        self._links[link.peer] = link
        link.linked.set()
        assert link.nursery is not None
        link.nursery.start_soon(self._keeping.listen, link, control)
        self._tell(link.info)
        if link.peer in self._arrived:
            self._arrived[link.peer].set()

    def _unregister(self, link: Link) -> None:
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
            self._tell(PeerLost(peer=link.peer, reason=link.reason or "the link has ended"))

    def _tell(self, event: HostEvent) -> None:
        for channel in self._subscribers:
            with suppress(trio.BrokenResourceError):  # its reader left without leaving `events`
                channel.send_nowait(event)

    # Streams.

    async def _open(self, link: Link, protocol: str) -> QueuedStream:
        if link.nursery is None or link.ended.is_set():
            raise LinkClosed(f"not connected to {to_text(link.peer)}")
        raw = await link.connection.open(protocol)
        stream = self._stream(link, raw, protocol, inbound=False)
        if link.ended.is_set():
            with trio.CancelScope(shield=True), trio.move_on_after(self.config.close_timeout):
                await raw.reset()
            raise LinkClosed(f"{protocol}: {link.reason}")
        link.nursery.start_soon(self._run_stream, link, stream)
        return stream

    def _stream(self, link: Link, raw: ByteStream, protocol: str, *, inbound: bool) -> QueuedStream:
        return QueuedStream(
            raw,
            peer=link.peer,
            protocol=protocol,
            inbound=inbound,
            remote_address=link.connection.remote_address,
            config=self.config,
            pace=link.pace,
            heard=link.on_heard,
            tap=self.tap,
        )

    async def _run_stream(self, link: Link, stream: QueuedStream) -> None:
        link.streams.add(stream)
        try:
            await stream.run()
        finally:
            link.streams.discard(stream)
            if stream.bad_frames:
                self.counters.bad_frames += 1
                log.info("bad frame", peer=to_text(stream.peer), protocol=stream.protocol)

    async def _incoming(self, connection: Connection, protocol: str, raw: ByteStream) -> None:
        """Serve one inbound stream; returns when it is over. The transport calls it in a task of its own."""
        link = self._attach(connection)
        await link.started.wait()
        await link.pace.take_stream()  # before any limit: who is refused has cost as much
        full = len(link.streams) + link.raw >= self.config.max_streams
        unwelcome = connection.relayed and protocol not in self._relayed
        if link.ended.is_set() or link.nursery is None or full or unwelcome:
            self.counters.refused_streams += 1
            await raw.reset()
            return
        if protocol in self._raw_handlers:
            over = trio.Event()
            link.raw += 1
            link.nursery.start_soon(self._serve_raw, link, protocol, raw, over)
            await over.wait()
            return
        stream = self._stream(link, raw, protocol, inbound=True)
        link.streams.add(stream)
        link.nursery.start_soon(self._serve, link, stream)
        await stream.finished.wait()

    async def _serve(self, link: Link, stream: QueuedStream) -> None:
        """Pump an inbound stream and run its handler; whatever the handler raises ends this stream only (B3)."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_stream, link, stream)
            try:
                if stream.protocol == wire.PROTOCOL:
                    await self._greet(link, stream)
                    if link.control is stream:
                        await stream.finished.wait()
                else:
                    await link.linked.wait()
                    older = link.newest.get(stream.protocol)
                    link.newest[stream.protocol] = stream
                    if older is not None:
                        older.end("a newer stream took its place")
                    await self._handlers[stream.protocol](stream)
                await stream.aclose()
            except* Exception as group:  # noqa: BLE001
                # The supervisor of handlers: their bugs must not end the node. A handler with tasks of its own raises
                # LinkClosed and Cancelled together when its link breaks: that is no `Exception`, hence the star.
                self._judge(stream, group)
                stream.reset()
            finally:
                if link.newest.get(stream.protocol) is stream:
                    del link.newest[stream.protocol]

    async def _serve_raw(self, link: Link, protocol: str, raw: ByteStream, over: trio.Event) -> None:
        """Run the handler of a stream without frames, which ends it; whatever it raises ends this stream only (B3)."""
        try:
            await link.linked.wait()
            await self._raw_handlers[protocol](link.connection, raw)
        except* LinkClosed:
            pass
        except* PeerProtocolError as group:
            self.counters.bad_messages += 1
            log.info("stream ended", peer=to_text(link.peer), protocol=protocol, reason=str(next(leaves(group))))
        except* Exception as group:  # the star as in `_serve`
            self.counters.handler_errors += 1
            log.error("handler failed", peer=to_text(link.peer), protocol=protocol, exc_info=group)
        finally:
            link.raw -= 1
            with trio.CancelScope(shield=True), trio.move_on_after(self.config.close_timeout):
                await raw.reset()
            over.set()

    def _judge(self, stream: QueuedStream, error: Exception) -> None:
        """Count and log why a handler ended: the link, the peer, or ourselves."""
        causes = [leaf for leaf in leaves(error) if not isinstance(leaf, LinkClosed)]
        ours = [leaf for leaf in causes if not isinstance(leaf, PeerProtocolError)]
        if ours:
            self.counters.handler_errors += 1
            log.error("handler failed", peer=to_text(stream.peer), protocol=stream.protocol, exc_info=error)
        elif causes:
            self.counters.bad_messages += not stream.bad_frames
            log.info("stream ended", peer=to_text(stream.peer), protocol=stream.protocol, reason=str(causes[0]))

    # /rr/link/1.

    async def _greet(self, link: Link, stream: QueuedStream) -> None:
        """Answer the dialler's `Hello` with ours, or say why not."""
        if link.linked.is_set() or not link.inbound:
            raise DecodeError("a second Hello on one connection")
        hello = wire.CODEC.decode(await stream.receive())
        if not isinstance(hello, wire.Hello):
            link.end(f"{type(hello).__name__} where Hello was wanted")
            raise DecodeError(f"{type(hello).__name__} where Hello was wanted")
        refusal = None
        if hello.network != self._hello.network:
            refusal = _other_network(self._hello.network)
        elif self.peer_id < link.peer and await self._our_dial_stands(link.peer):
            refusal = wire.CROSSED
        if refusal is not None:
            self.counters.refused_peers += refusal != wire.CROSSED
            await self._keeping.say_goodbye(link, stream, refusal)
            link.end(refusal)
            return
        stream.send_nowait(wire.CODEC.encode(self._hello))
        self._register(link, hello, stream)

    async def _our_dial_stands(self, peer: PeerId) -> bool:
        """When two nodes dial each other the dial of the lower id stands (DESIGN 4); only the lower one asks."""
        arrived = self._arrived.get(peer)
        if arrived is not None:
            with trio.move_on_after(self.config.crossing_wait):
                await arrived.wait()
        link = self._links.get(peer)
        if link is None or link.inbound or link.ended.is_set():
            return False
        # An older link of ours is no crossing: the peer would not dial if it still had it.
        return trio.current_time() - link.linked_at < self.config.dial_timeout

    async def _farewell(self, link: Link, reason: str) -> None:
        link.reason = link.reason or reason
        self._unregister(link)
        if link.control is not None:
            await self._keeping.say_goodbye(link, link.control, reason)
        link.end(reason)
        await link.gone.wait()

    async def _end_all(self, reason: str) -> None:
        async with trio.open_nursery() as nursery:
            for link in list(self._all.values()):
                nursery.start_soon(self._farewell, link, reason)


def _name(genesis: bytes) -> str:
    return genesis[::-1].hex()[:16] + "…"


def _other_network(ours: bytes) -> str:
    return f"this node works on another network ({_name(ours)})"
