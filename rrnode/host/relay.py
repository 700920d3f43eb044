"""Circuits, the relay's side: carry bytes between a peer that reserved and whoever asks for it, within small limits of our
own (libp2p specification, relay/circuit-v2.md).

Made for one payment initialization, not for a way around NATs: libp2p's own relay believes the peer named in a RESERVE,
and looks at a circuit's age only when bytes flow (LIBP2P.md 4).
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import ceil

import trio
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from multiaddr import Multiaddr

from protocols.errors import DecodeError
from protocols.ids import PeerId
from rrnode.errors import LinkClosed
from rrnode.host import peer_text
from rrnode.host.base import CircuitLimits
from rrnode.host.circuit import ANSWER_WITHIN, STOP, Talk
from rrnode.host.transport import ByteStream, Connection
from rrnode.relations import network_of

_MAX_ADDRESSES = 8  # of ours, told with a reservation


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reservation:
    connection: Connection
    until: float  # trio's clock


@dataclass(slots=True, kw_only=True, eq=False)
class _Circuit:
    """A place in the limits. `until`: when it is free again, by trio's clock."""

    dialler: object
    listener: PeerId
    until: float


class Relay:
    """Serves the hop protocol.

    Args:
        admits: whether this peer may reserve: one with which we have to do anyway.
        addresses: where we are reached, each with our id.
    """

    def __init__(
        self, *, limits: CircuitLimits, admits: Callable[[PeerId], bool], addresses: Callable[[], tuple[str, ...]]
    ) -> None:
        self._limits, self._admits, self._addresses = limits, admits, addresses
        self._reservations: dict[PeerId, _Reservation] = {}
        self._circuits: list[_Circuit] = []

    async def serve(self, connection: Connection, raw: ByteStream) -> None:
        """Answer one stream, and carry it when it asks for that; it has ended on return.

        Raises:
            DecodeError: nonsense, which was answered, too.
            LinkClosed: it ended.
        """
        talk = Talk(raw)
        try:
            try:
                request = await talk.receive(pb.HopMessage)
            except DecodeError:
                await self._refuse(talk, pb.MALFORMED_MESSAGE)
                raise
            match request.type:
                case pb.HopMessage.RESERVE:
                    await self._reserve(connection, request, talk)
                case pb.HopMessage.CONNECT:
                    await self._connect(connection, request, talk)
                case _:
                    await self._refuse(talk, pb.UNEXPECTED_MESSAGE)
        finally:
            await talk.reset()

    async def _refuse(self, talk: Talk, status: pb.Status.ValueType) -> None:
        with suppress(LinkClosed):
            await talk.send(pb.HopMessage(type=pb.HopMessage.STATUS, status=status))
        await talk.hang_up()

    @property
    def _limit(self) -> pb.Limit:
        return pb.Limit(duration=ceil(self._limits.seconds), data=self._limits.bytes)

    # Reservations.

    async def _reserve(self, connection: Connection, request: pb.HopMessage, talk: Talk) -> None:
        """Who reserves is who the connection proved to be; whoever names another lies, or means a thing that is not."""
        self._tidy()
        peer = connection.peer
        if request.HasField("peer") and request.peer.id != peer_text.to_bytes(peer):
            await self._refuse(talk, pb.MALFORMED_MESSAGE)
            raise DecodeError("a reservation in another peer's name")
        if not self._admits(peer):
            await self._refuse(talk, pb.PERMISSION_DENIED)
            return
        if peer not in self._reservations and len(self._reservations) >= self._limits.reservations:
            await self._refuse(talk, pb.RESERVATION_REFUSED)
            return
        seconds = self._limits.reserved
        self._reservations[peer] = _Reservation(connection=connection, until=trio.current_time() + seconds)
        told = [Multiaddr(address).to_bytes() for address in self._addresses()[:_MAX_ADDRESSES]]
        reservation = pb.Reservation(expire=int(time.time() + seconds), addrs=told)
        await talk.send(
            pb.HopMessage(type=pb.HopMessage.STATUS, status=pb.OK, reservation=reservation, limit=self._limit)
        )
        await talk.hang_up()

    def _tidy(self) -> None:
        for peer, held in list(self._reservations.items()):
            if not self._holds(held):
                del self._reservations[peer]
        now = trio.current_time()
        self._circuits = [circuit for circuit in self._circuits if circuit.until > now]

    def _holds(self, held: _Reservation) -> bool:
        return not held.connection.closed.is_set() and held.until > trio.current_time()

    # Circuits.

    async def _connect(self, connection: Connection, request: pb.HopMessage, talk: Talk) -> None:
        try:
            target = peer_text.from_bytes(request.peer.id)
        except DecodeError:  # of another kind of key, or none: lawful, but nobody we know
            await self._refuse(talk, pb.NO_RESERVATION)
            return
        self._tidy()
        held = self._reservations.get(target)
        if held is None or not self._admits(target):
            await self._refuse(talk, pb.NO_RESERVATION)
            return
        circuit = self._take_place(connection, target)
        if circuit is None:
            await self._refuse(talk, pb.RESOURCE_LIMIT_EXCEEDED)
            return
        began = trio.current_time()
        try:
            await self._join(connection, talk, held.connection)
        finally:
            circuit.until = max(trio.current_time(), began + self._limits.rest)

    def _take_place(self, connection: Connection, target: PeerId) -> _Circuit | None:
        """Diallers are thrown away and cost nothing, so their network counts; those of this machine cannot be told apart."""
        dialler = network_of(connection.remote_address) or connection.peer
        limits = self._limits
        if (
            len(self._circuits) >= limits.circuits
            or sum(each.listener == target for each in self._circuits) >= limits.per_listener
            or sum(each.dialler == dialler for each in self._circuits) >= limits.per_dialler
        ):
            return None
        circuit = _Circuit(dialler=dialler, listener=target, until=float("inf"))
        self._circuits.append(circuit)
        return circuit

    async def _join(self, caller: Connection, talk: Talk, called: Connection) -> None:
        try:
            other = await self._call(caller.peer, called)
        except (LinkClosed, DecodeError):  # the listener's trouble; the dialler only learns that it did not work
            await self._refuse(talk, pb.CONNECTION_FAILED)
            return
        try:
            await talk.send(pb.HopMessage(type=pb.HopMessage.STATUS, status=pb.OK, limit=self._limit))
            with trio.move_on_after(self._limits.seconds):  # by the clock, whether bytes flow or not
                await self._carry(talk, other)
        finally:
            await other.reset()

    async def _call(self, caller: PeerId, called: Connection) -> Talk:
        """Raises LinkClosed, DecodeError."""
        with trio.move_on_after(ANSWER_WITHIN):
            talk = Talk(await called.open(STOP))
            try:
                peer = pb.PeerId(id=peer_text.to_bytes(caller))
                await talk.send(pb.StopMessage(type=pb.StopMessage.CONNECT, peer=peer, limit=self._limit))
                answer = await talk.receive(pb.StopMessage)
                if answer.type != pb.StopMessage.STATUS or answer.status != pb.OK:
                    raise LinkClosed("the peer takes no circuit")
                return talk
            except BaseException:
                await talk.reset()
                raise
        raise LinkClosed(f"the peer did not take a circuit within {ANSWER_WITHIN:g} s")

    async def _carry(self, one: Talk, other: Talk) -> None:
        """Both ways until one breaks, both ended, or one has used up its bytes. A chunk is held at a time, so a slow reader
        slows its writer."""
        async with trio.open_nursery() as nursery:

            async def pump(source: Talk, target: Talk) -> None:
                left = self._limits.bytes
                try:
                    while data := await source.read():
                        left -= len(data)
                        if left < 0:
                            break
                        await target.write(data)
                    else:
                        await target.finish()
                        return
                except LinkClosed:
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(pump, one, other)
            nursery.start_soon(pump, other, one)
