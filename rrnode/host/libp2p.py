"""The host on py-libp2p: TCP, Noise, Yamux, secp256k1 identities (DESIGN 3, 4; LIBP2P.md).

Of libp2p it uses the upgrade of a connection, the muxer and protocol negotiation. It listens and dials by itself
(B1, B11, B12, B17), offers Noise and Yamux only (the default also accepts connections in plain text, whose peer id
nobody proves), asks nobody to identify (B13), and counts connections and streams by itself (B18).
"""

import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import trio
from libp2p import new_host
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.secp256k1 import Secp256k1PrivateKey
from libp2p.crypto.x25519 import create_new_key_pair as new_noise_key
from libp2p.custom_types import TProtocol
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.io.trio import TrioTCPStream
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import ProtocolNotSupportedError
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from protocols.errors import DecodeError
from protocols.ids import PeerId
from protocols.wire import link as wire
from rrnode.errors import LinkClosed, Unreachable
from rrnode.host import circuit, peer_text, repairs, sockets
from rrnode.host.base import HostConfig, StreamHandler
from rrnode.host.peers import LinkedHost, log
from rrnode.host.relay import Relay
from rrnode.host.transport import ByteStream, Connection

_READ = 64 * 1024
_HARD_CLOSE = 1.0  # seconds a polite close of a connection may take before its socket is closed under it


def key_pair(secret: bytes) -> KeyPair:
    """The libp2p identity of a 32-byte secp256k1 secret."""
    private = Secp256k1PrivateKey.from_bytes(secret)
    return KeyPair(private, private.get_public_key())


def to_libp2p(peer: PeerId) -> ID:
    """The peer id as libp2p has it."""
    return ID(peer_text.to_bytes(peer))


def from_libp2p(peer: ID) -> PeerId:
    """The peer behind a libp2p id.

    Raises:
        DecodeError: its key is not secp256k1.
    """
    return peer_text.from_bytes(peer.to_bytes())


class _SwarmStream(ByteStream):
    """A negotiated libp2p stream. What libp2p raises in its many ways becomes LinkClosed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._muxed = stream.muxed_stream  # past a layer that only keeps a state and takes locks for it

    async def read(self) -> bytes:
        try:
            return bytes(await self._muxed.read(_READ))
        except MuxedStreamEOF:
            return b""
        except Exception as error:  # noqa: BLE001 - the border to libp2p
            raise LinkClosed(f"reading failed: {error or type(error).__name__}") from None

    async def write(self, data: bytes) -> None:
        try:
            await self._muxed.write(data)
        except Exception as error:  # noqa: BLE001 - the border to libp2p
            raise LinkClosed(f"writing failed: {error or type(error).__name__}") from None

    async def finish(self) -> None:
        with suppress(Exception):  # it has ended already
            await self._stream.close()

    async def reset(self) -> None:
        with suppress(Exception):
            await self._stream.reset()


class _SwarmConnection(Connection):
    """A connection of libp2p's swarm, and the TCP stream or circuit below it, which ends it when nothing else does."""

    def __init__(
        self, swarm_conn: Any, below: trio.abc.AsyncResource, address: str, *, inbound: bool, timeout: float
    ) -> None:
        self.peer = from_libp2p(swarm_conn.muxed_conn.peer_id)
        self.inbound = inbound
        self.remote_address = address
        self.relayed = peer_text.is_relayed(address)
        self.closed = swarm_conn.event_closed
        self._swarm_conn = swarm_conn
        self._below = below
        self._timeout = timeout

    async def open(self, protocol: str) -> ByteStream:
        stream = None
        try:
            with trio.fail_after(self._timeout):
                stream = await self._swarm_conn.new_stream()
                await MultiselectClient().select_one_of(
                    [TProtocol(protocol)], MultiselectCommunicator(stream), int(self._timeout) + 1
                )
            stream.set_protocol(TProtocol(protocol))
            return _SwarmStream(stream)
        except BaseException as error:
            if stream is not None:
                with trio.CancelScope(shield=True), trio.move_on_after(_HARD_CLOSE), suppress(Exception):
                    await stream.reset()
            if not isinstance(error, Exception):
                raise
            raise LinkClosed(self._why(protocol, error)) from None

    def _why(self, protocol: str, error: Exception) -> str:
        if isinstance(error, trio.TooSlowError):
            return f"{peer_text.to_text(self.peer)} did not open {protocol} within {self._timeout:g} s"
        if isinstance(error, ProtocolNotSupportedError) or "not supported" in str(error):
            return f"{peer_text.to_text(self.peer)} does not speak {protocol}"
        return f"opening {protocol} failed: {error or type(error).__name__}"

    async def close(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cut_off)
            with suppress(Exception):
                await self._swarm_conn.close()
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(self._below)

    async def _cut_off(self) -> None:
        """A write that waits for a dead peer would hold the close up; without a socket it fails at once."""
        await trio.sleep(_HARD_CLOSE)
        await trio.aclose_forcefully(self._below)


def _far_end(tcp: trio.SocketStream) -> str:
    try:
        return sockets.multiaddr_of(tcp.socket.getpeername())
    except OSError:
        return ""


def _is_another_identity(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, PeerIDMismatchesPubkey) or "Peer ID mismatch" in str(error):
            return True
        error = error.__cause__
    return False


class LibP2PHost(LinkedHost):
    """A host on py-libp2p. Repairs libp2p in this process when made; arguments are those of `LinkedHost`.

    Args:
        listen: such as `/ip4/0.0.0.0/tcp/19780`; port 0 asks for a free one.
        announce: told to peers of other kinds (identify) and shown by `addresses` in place of `listen`.
    """

    def __init__(
        self,
        secret: bytes,
        *,
        genesis: bytes,
        switches: int = 0,
        agent: str = "rrnode",
        listen: tuple[str, ...] = (),
        announce: tuple[str, ...] = (),
        config: HostConfig | None = None,
    ) -> None:
        super().__init__(
            secret, genesis=genesis, switches=switches, agent=agent, listen=listen, announce=announce, config=config
        )
        repairs.apply()
        self._key_pair = key_pair(secret)
        self._host: Any = None
        self._swarm: Any = None
        self._bound: tuple[str, ...] = ()
        self._known: dict[Any, _SwarmConnection] = {}  # by libp2p's muxed connection
        self._arrivals = trio.lowlevel.ParkingLot()
        self._addresses_open: Counter[str] = Counter()  # inbound connections by IP address, handshakes included
        self._relays: dict[Connection, float] = {}  # where we hold a reservation; until when, by trio's clock
        self._circuits = 0  # to us, handshakes included
        self._raw_handlers[circuit.STOP] = self._on_circuit

    def addresses(self) -> tuple[str, ...]:
        return tuple(peer_text.join_address(where, self.peer_id) for where in self._announce or self._bound)

    def handle(self, protocol: str, handler: StreamHandler, *, relayed: bool = False) -> None:
        super().handle(protocol, handler, relayed=relayed)
        if self._host is not None:
            self._host.set_stream_handler(TProtocol(protocol), self._on_stream)

    def relay_for(self, admits: Callable[[PeerId], bool]) -> None:
        relay = Relay(limits=self.config.circuit, admits=admits, addresses=self.addresses)
        self._raw_handlers[circuit.HOP] = relay.serve
        if self._host is not None:
            self._host.set_stream_handler(TProtocol(circuit.HOP), self._on_stream)

    async def reserve(self, peer: PeerId) -> float:
        link = self._standing(peer)
        if link is None or link.connection.relayed:
            raise LinkClosed(f"not connected to {peer_text.to_text(peer)}")
        seconds = await circuit.reserve(link.connection, time.time())
        self._relays = {relay: until for relay, until in self._relays.items() if not relay.closed.is_set()}
        self._relays[link.connection] = trio.current_time() + seconds
        return seconds

    # The transport.

    def _transport(self) -> AbstractAsyncContextManager[None]:
        return self._serving()

    @asynccontextmanager
    async def _serving(self) -> AsyncGenerator[None, None]:
        listeners: list[trio.SocketListener] = []
        try:
            for where in self._listen:
                listeners += await sockets.listen(where, self.config.listen_backlog, share=self.config.share_port)
            bound = (sockets.multiaddr_of(listener.socket.getsockname()) for listener in listeners)
            self._bound = tuple(reachable for where in bound for reachable in sockets.reachable(where))
            self._make_host()
            async with self._host.run([]), trio.open_nursery() as nursery:
                try:
                    for listener in listeners:
                        nursery.start_soon(trio.serve_listeners, self._on_accept, [listener])
                    yield
                finally:
                    nursery.cancel_scope.cancel()
                    with trio.CancelScope(shield=True), trio.move_on_after(self.config.close_timeout):
                        await self._host.close()
        finally:
            for listener in listeners:
                listener.socket.close()
            self._bound = ()
            self._known.clear()
            self._relays.clear()

    def _make_host(self) -> None:
        limit = self.config.max_connections * 2 + 64  # above ours, so that libp2p's limits never decide
        host: Any = new_host(
            key_pair=self._key_pair,
            sec_opt={NOISE: NoiseTransport(self._key_pair, noise_privkey=new_noise_key().private_key)},
            muxer_opt={TProtocol(YAMUX): Yamux},
            peerstore_opt=repairs.peer_store(),
            connection_config=ConnectionConfig(
                max_connections=limit,
                min_connections=0,
                low_watermark=0,
                high_watermark=limit,
                max_connections_per_peer=16,
                auto_connect_interval=86_400.0,
                inbound_upgrade_timeout=self.config.hello_timeout,
                outbound_upgrade_timeout=self.config.dial_timeout,
            ),
            addrs_factory=lambda _: [Multiaddr(where) for where in self._announce or self._bound],
            disable_identify_address_discovery=True,
        )
        host._schedule_identify = lambda *_, **__: None  # B13; and two streams less per connection
        host.remove_stream_handler(ID_PUSH)
        swarm = host.get_network()
        swarm.set_resource_manager(None)  # its limits are global, and one peer can use them up (B18)
        for protocol in (wire.PROTOCOL, *self._handlers, *self._raw_handlers):
            host.set_stream_handler(TProtocol(protocol), self._on_stream)
        self._host, self._swarm = host, swarm

    def _remember(
        self, swarm_conn: Any, below: trio.abc.AsyncResource, address: str, *, inbound: bool
    ) -> _SwarmConnection:
        connection = _SwarmConnection(swarm_conn, below, address, inbound=inbound, timeout=self.config.dial_timeout)
        self._known[swarm_conn.muxed_conn] = connection
        self._arrivals.unpark_all()
        assert self._nursery is not None
        self._nursery.start_soon(self._forget, swarm_conn.muxed_conn, connection)
        return connection

    async def _forget(self, muxed_conn: Any, connection: _SwarmConnection) -> None:
        await connection.closed.wait()
        self._known.pop(muxed_conn, None)
        self._arrivals.unpark_all()

    async def _connect(self, where: str, peer: PeerId) -> Connection:
        if peer_text.is_relayed(where):
            below = circuit.Wire(await self._circuit_to(peer, where))
            return await self._upgrade_outbound(RawConnection(below, True), below, where, where, peer)
        tcp = await sockets.connect(where)
        return await self._upgrade_outbound(RawConnection(TrioTCPStream(tcp), True), tcp, _far_end(tcp), where, peer)

    async def _circuit_to(self, peer: PeerId, where: str) -> ByteStream:
        """Raises Unreachable."""
        try:
            relay = peer_text.relay_of(where)
        except DecodeError as error:
            raise Unreachable(str(error)) from None
        link = self._standing(await self.dial(relay))
        if link is None or link.connection.relayed:
            raise Unreachable(f"{relay} can be a relay only when it is linked with us directly")
        try:
            return await circuit.connect(link.connection, peer)
        except LinkClosed as error:
            raise Unreachable(f"no circuit to {peer_text.to_text(peer)} through {relay}: {error}") from None

    async def _upgrade_outbound(
        self, raw: RawConnection, below: trio.abc.AsyncResource, address: str, where: str, peer: PeerId
    ) -> Connection:
        try:
            swarm_conn = await self._swarm.upgrade_outbound_raw_conn(raw, to_libp2p(peer))
            return self._remember(swarm_conn, below, address, inbound=False)
        except BaseException as error:
            await trio.aclose_forcefully(below)
            if not isinstance(error, Exception):
                raise
            if _is_another_identity(error):
                raise Unreachable(f"{where} is another node, not {peer_text.to_text(peer)}") from None
            raise Unreachable(f"{where} is no libp2p node with Noise and Yamux, or it refuses: {error}") from None

    async def _on_accept(self, tcp: trio.SocketStream) -> None:
        """One inbound connection, from accept to end; limits come before the handshake, which costs milliseconds."""
        try:
            ip = str(tcp.socket.getpeername()[0])
        except OSError:
            await trio.aclose_forcefully(tcp)
            return
        if (
            self._addresses_open.total() >= self.config.max_connections
            or self._addresses_open[ip] >= self.config.max_per_address
        ):
            self.counters.refused_connections += 1
            await trio.aclose_forcefully(tcp)
            return
        self._addresses_open[ip] += 1
        try:
            await self._upgrade_inbound(RawConnection(TrioTCPStream(tcp), False), tcp, _far_end(tcp))
        except Exception as error:  # noqa: BLE001 - a stranger's handshake; whatever libp2p makes of it ends here
            log.debug("inbound handshake failed", address=ip, reason=str(error))
        finally:
            self._addresses_open[ip] -= 1
            if not self._addresses_open[ip]:
                del self._addresses_open[ip]
            await trio.aclose_forcefully(tcp)

    async def _on_circuit(self, relay: Connection, raw: ByteStream) -> None:
        """One circuit that a relay of ours brings, from its message to its end. Raises DecodeError, LinkClosed."""
        talk = circuit.Talk(raw)
        if self._relays.get(relay, 0.0) <= trio.current_time() or self._circuits >= self.config.circuit.inbound:
            self.counters.refused_connections += 1
            await circuit.refuse(talk)
            return
        self._circuits += 1
        try:
            await circuit.accept(talk)
            below = circuit.Wire(talk)
            address = peer_text.through(relay.remote_address, relay.peer)
            try:
                await self._upgrade_inbound(RawConnection(below, False), below, address)
            except Exception as error:  # noqa: BLE001 - as in `_on_accept`
                log.debug("handshake over a circuit failed", relay=peer_text.to_text(relay.peer), reason=str(error))
        finally:
            self._circuits -= 1

    async def _upgrade_inbound(self, raw: RawConnection, below: trio.abc.AsyncResource, address: str) -> None:
        muxed = await self._swarm.upgrade_inbound_raw_conn(raw, Multiaddr("/tcp/0"))
        for swarm_conn in self._swarm.get_connections(muxed.peer_id):
            if swarm_conn.muxed_conn is muxed:
                try:
                    self._attach(self._remember(swarm_conn, below, address, inbound=True))
                except DecodeError:  # a key of another kind: not one of ours
                    self.counters.refused_peers += 1
                    await swarm_conn.close()
                await swarm_conn.event_closed.wait()

    async def _on_stream(self, stream: Any) -> None:
        """An inbound stream whose protocol was agreed on; returns when it has ended."""
        raw = _SwarmStream(stream)
        with trio.move_on_after(self.config.hello_timeout):
            while stream.muxed_conn not in self._known and not stream.swarm_conn.is_closed:
                await self._arrivals.park()
        connection = self._known.get(stream.muxed_conn)
        if connection is None or self._nursery is None:
            await raw.reset()
            return
        await self._incoming(connection, str(stream.get_protocol()), raw)
