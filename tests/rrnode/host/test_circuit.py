"""Circuits over real loopback libp2p: a relay, a client that listens nowhere, strangers who dial it, and peers that lie."""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb

from protocols.errors import DecodeError
from protocols.ids import PeerId
from rrnode.errors import LinkClosed, Unreachable
from rrnode.host import circuit
from rrnode.host.base import CircuitLimits, FrameStream, HostConfig
from rrnode.host.circuit import HOP, STOP, Talk, Wire
from rrnode.host.libp2p import LibP2PHost
from rrnode.host.peer_text import join_address, split_address, through, to_bytes
from rrnode.host.transport import ByteStream, Connection

OPEN, SHUT = "/test/open/1", "/test/shut/1"
DEFAULT = CircuitLimits(rest=0.0)


def host(number: int, *listen: str, limits: CircuitLimits = DEFAULT) -> LibP2PHost:
    config = HostConfig(hello_timeout=1.0, close_timeout=1.0, crossing_wait=0.1, dial_timeout=4.0, circuit=limits)
    made = LibP2PHost(number.to_bytes(32, "big"), genesis=bytes(32), switches=1, listen=listen, config=config)
    made.handle(OPEN, echo, relayed=True)
    made.handle(SHUT, echo)
    return made


async def echo(stream: FrameStream) -> None:
    while True:
        await stream.send(await stream.receive())


class Scene:
    """A relay, and the hosts of a test, each running and linked with it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.relay = host(1)
        self.clients: set[PeerId] = set()

    async def begin(self, limits: CircuitLimits = DEFAULT) -> None:
        self.relay = host(1, "/ip4/127.0.0.1/tcp/0", limits=limits)
        self.relay.relay_for(self.clients.__contains__)
        await self._nursery.start(self._run, self.relay)

    async def _run(self, host: LibP2PHost, *, task_status: trio.TaskStatus[None]) -> None:
        async with host.running():
            task_status.started()
            await trio.sleep_forever()

    async def host(self, number: int, *, limits: CircuitLimits = DEFAULT, client: bool = False) -> LibP2PHost:
        made = host(number, limits=limits)
        await self._nursery.start(self._run, made)
        await made.dial(self.relay.addresses()[0])
        if client:
            self.clients.add(made.peer_id)
            await made.reserve(self.relay.peer_id)
        return made

    def address(self, client: LibP2PHost) -> str:
        return join_address(through(*split_address(self.relay.addresses()[0])), client.peer_id)

    async def hop(self, caller: LibP2PHost, *messages: pb.HopMessage) -> pb.HopMessage:
        talk = Talk(await caller._links[self.relay.peer_id].connection.open(HOP))
        for message in messages:
            await talk.send(message)
        return await talk.receive(pb.HopMessage)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with trio.open_nursery() as nursery:
        yield Scene(nursery)
        nursery.cancel_scope.cancel()


def to(target: LibP2PHost) -> pb.HopMessage:
    return pb.HopMessage(type=pb.HopMessage.CONNECT, peer=pb.PeerId(id=to_bytes(target.peer_id)))


async def says(host: LibP2PHost, peer: PeerId, what: bytes = b"hello") -> bytes:
    stream = await host.open_stream(peer, OPEN)
    await stream.send(what)
    return await stream.receive()


async def eventually(holds: Callable[[], bool]) -> None:
    with trio.fail_after(4):
        while not holds():
            await trio.lowlevel.checkpoint()


async def gone(host: LibP2PHost, peer: PeerId) -> None:
    with trio.fail_after(4):
        async with host.events() as events:
            while peer in host.connected():
                await events.receive()


async def test_a_client_that_listens_nowhere_is_reached_through_its_relay(scene: Scene) -> None:
    await scene.begin()
    client, stranger = await scene.host(2, client=True), await scene.host(3)
    assert await stranger.dial(scene.address(client)) == client.peer_id
    assert await says(stranger, client.peer_id) == b"hello"
    where = split_address(scene.address(client))[0]
    inbound, outbound = client.connected()[stranger.peer_id], stranger.connected()[client.peer_id]
    assert (inbound.inbound, inbound.address, inbound.switches) == (True, where, 0)
    assert (outbound.inbound, outbound.address, outbound.switches) == (False, where, 0)


async def test_who_comes_through_a_relay_gets_only_what_was_opened_for_that(scene: Scene) -> None:
    await scene.begin()
    client, stranger = await scene.host(2, client=True), await scene.host(3)
    await stranger.dial(scene.address(client))
    shut = await stranger.open_stream(client.peer_id, SHUT)
    await shut.send(b"hello")
    with pytest.raises(LinkClosed):
        await shut.receive()
    assert client.counters.refused_streams == 1
    assert await says(scene.relay, client.peer_id) == b"hello"


async def test_a_reservation_holds_for_an_hour_and_tells_the_limits(scene: Scene) -> None:
    await scene.begin()
    client = await scene.host(2, client=True)
    assert 3595 < await client.reserve(scene.relay.peer_id) <= 3600
    answer = await scene.hop(client, pb.HopMessage(type=pb.HopMessage.RESERVE))
    assert (answer.type, answer.status) == (pb.HopMessage.STATUS, pb.OK)
    assert (answer.limit.duration, answer.limit.data) == (30, 32768)
    assert len(answer.reservation.addrs) == 1


async def test_strangers_may_not_reserve(scene: Scene) -> None:
    await scene.begin()
    client, stranger = await scene.host(2), await scene.host(3)
    with pytest.raises(LinkClosed, match="permission denied"):
        await client.reserve(scene.relay.peer_id)
    with pytest.raises(Unreachable, match="no reservation"):
        await stranger.dial(scene.address(client))


async def test_a_peer_without_a_relay_says_that_it_has_none(scene: Scene) -> None:
    await scene.begin()
    client = await scene.host(2)
    with pytest.raises(LinkClosed, match="does not speak"):
        await scene.relay.reserve(client.peer_id)


async def test_nobody_reserves_in_another_peers_name(scene: Scene) -> None:
    await scene.begin()
    victim, liar = await scene.host(2), await scene.host(3)
    scene.clients |= {victim.peer_id, liar.peer_id}
    lie = pb.HopMessage(type=pb.HopMessage.RESERVE, peer=pb.PeerId(id=to_bytes(victim.peer_id)))
    assert (await scene.hop(liar, lie)).status == pb.MALFORMED_MESSAGE
    await eventually(lambda: scene.relay.counters.bad_messages == 1)
    for target in (victim, liar):
        assert (await scene.hop(liar, to(target))).status == pb.NO_RESERVATION


async def test_there_are_no_more_reservations_than_the_relay_will_hold(scene: Scene) -> None:
    await scene.begin(CircuitLimits(reservations=1))
    first, second = await scene.host(2, client=True), await scene.host(3)
    scene.clients.add(second.peer_id)
    with pytest.raises(LinkClosed, match="reservation refused"):
        await second.reserve(scene.relay.peer_id)
    await first.reserve(scene.relay.peer_id)
    await first.disconnect(scene.relay.peer_id, "bye")
    await gone(scene.relay, first.peer_id)
    await second.reserve(scene.relay.peer_id)


@pytest.mark.parametrize("limit", ["circuits", "per_listener", "per_dialler"])
async def test_there_are_no_more_circuits_than_the_relay_will_carry(scene: Scene, limit: str) -> None:
    await scene.begin(replace(DEFAULT, **{limit: 1}))
    client = await scene.host(2, client=True)
    first, second = await scene.host(3), await scene.host(4)
    await first.dial(scene.address(client))
    with pytest.raises(Unreachable, match="resource limit exceeded"):
        await second.dial(scene.address(client))
    await first.disconnect(client.peer_id, "bye")
    await gone(client, first.peer_id)
    with trio.fail_after(4):
        while (await scene.hop(second, to(client))).status != pb.OK:
            await trio.lowlevel.checkpoint()


async def test_a_circuit_counts_for_a_while_after_its_end(scene: Scene) -> None:
    await scene.begin(CircuitLimits(rest=3600.0, per_listener=1))
    client, stranger = await scene.host(2, client=True), await scene.host(3)
    await stranger.dial(scene.address(client))
    await stranger.disconnect(client.peer_id, "bye")
    await gone(client, stranger.peer_id)
    with pytest.raises(Unreachable, match="resource limit exceeded"):
        await stranger.dial(scene.address(client))


async def test_a_circuit_ends_when_its_time_is_over_though_no_byte_flows(scene: Scene) -> None:
    await scene.begin(CircuitLimits(rest=0.0, seconds=0.5, per_listener=1))
    client, stranger = await scene.host(2, client=True), await scene.host(3)
    await stranger.dial(scene.address(client))
    await gone(stranger, client.peer_id)
    await gone(client, stranger.peer_id)
    assert scene.relay.peer_id in stranger.connected()
    assert scene.relay.peer_id in client.connected()
    await stranger.dial(scene.address(client))


async def test_a_circuit_ends_when_its_bytes_are_used_up(scene: Scene) -> None:
    await scene.begin(CircuitLimits(rest=0.0, bytes=20_000))
    client, stranger = await scene.host(2, client=True), await scene.host(3)
    await stranger.dial(scene.address(client))
    assert await says(stranger, client.peer_id, bytes(15_000)) == bytes(15_000)
    with pytest.raises(LinkClosed):
        await says(stranger, client.peer_id, bytes(15_000))
    await gone(client, stranger.peer_id)
    assert scene.relay.peer_id in client.connected()


async def test_a_reservation_ends_with_the_link_that_made_it(scene: Scene) -> None:
    await scene.begin()
    client, stranger = await scene.host(2, client=True), await scene.host(3)
    await client.disconnect(scene.relay.peer_id, "bye")
    await gone(scene.relay, client.peer_id)
    await client.dial(scene.relay.addresses()[0])
    with pytest.raises(Unreachable, match="no reservation"):
        await stranger.dial(scene.address(client))
    await client.reserve(scene.relay.peer_id)
    await stranger.dial(scene.address(client))


async def test_a_reservation_ends_when_the_relay_no_longer_admits_the_peer(scene: Scene) -> None:
    await scene.begin()
    client, stranger = await scene.host(2, client=True), await scene.host(3)
    scene.clients.clear()
    with pytest.raises(Unreachable, match="no reservation"):
        await stranger.dial(scene.address(client))


async def test_when_the_relay_dies_both_ends_notice(scene: Scene) -> None:
    await scene.begin()
    client, stranger = await scene.host(2, client=True), await scene.host(3)
    await stranger.dial(scene.address(client))
    for link in list(scene.relay._all.values()):
        await trio.aclose_forcefully(link.connection._below)  # type: ignore[attr-defined]
    await gone(client, stranger.peer_id)
    await gone(stranger, client.peer_id)
    assert client.connected() == stranger.connected() == {}


async def test_a_client_takes_no_circuit_from_a_peer_at_which_it_reserved_none(scene: Scene) -> None:
    await scene.begin()
    client = await scene.host(2)
    talk = Talk(await scene.relay._links[client.peer_id].connection.open(STOP))
    await talk.send(pb.StopMessage(type=pb.StopMessage.CONNECT, peer=pb.PeerId(id=to_bytes(scene.relay.peer_id))))
    answer = await talk.receive(pb.StopMessage)
    assert (answer.type, answer.status) == (pb.StopMessage.STATUS, pb.PERMISSION_DENIED)
    assert client.counters.refused_connections == 1


async def test_a_client_takes_no_more_circuits_than_it_will(scene: Scene) -> None:
    await scene.begin()
    client = await scene.host(2, client=True, limits=CircuitLimits(inbound=1))
    first, second = await scene.host(3), await scene.host(4)
    await first.dial(scene.address(client))
    with pytest.raises(Unreachable, match="connection failed"):
        await second.dial(scene.address(client))
    assert client.counters.refused_connections == 1


async def test_a_relay_that_puts_itself_at_the_other_end_is_found_out(scene: Scene) -> None:
    await scene.begin()
    client, stranger = await scene.host(2, client=True), await scene.host(3)

    async def pretend(connection: Connection, raw: ByteStream) -> None:
        talk = Talk(raw)
        await talk.receive(pb.HopMessage)
        await talk.send(pb.HopMessage(type=pb.HopMessage.STATUS, status=pb.OK))
        below = Wire(talk)
        await scene.relay._upgrade_inbound(RawConnection(below, False), below, "")

    scene.relay._raw_handlers[HOP] = pretend
    with pytest.raises(Unreachable, match="is another node"):
        await stranger.dial(scene.address(client))
    assert client.peer_id not in stranger.connected()


async def test_circuits_do_not_lead_through_circuits(scene: Scene) -> None:
    await scene.begin()
    client, stranger = await scene.host(2, client=True), await scene.host(3)
    client.relay_for(lambda peer: True)
    await stranger.dial(scene.address(client))
    with pytest.raises(LinkClosed):
        await stranger.reserve(client.peer_id)
    talk = Talk(await stranger._links[client.peer_id].connection.open(HOP))
    await talk.send(to(client))
    with pytest.raises(LinkClosed):
        await talk.receive(pb.HopMessage)
    twice = join_address(through(*split_address(scene.address(client))), host(9).peer_id)
    with pytest.raises(Unreachable, match="leads through more than one relay"):
        await stranger.dial(twice)


NONSENSE = (b"\x00", b"\x03\xff\xff\xff", b"\xff\xff\xff\xff\x0f", b"\x81\x40", b"\x02\x10\x01")


@pytest.mark.parametrize("nonsense", NONSENSE)
async def test_nonsense_on_the_hop_protocol_is_answered_and_counted(scene: Scene, nonsense: bytes) -> None:
    await scene.begin()
    client, stranger = await scene.host(2, client=True), await scene.host(3)
    raw = await stranger._links[scene.relay.peer_id].connection.open(HOP)
    await raw.write(nonsense)
    answer = await Talk(raw).receive(pb.HopMessage)
    assert (answer.type, answer.status) == (pb.HopMessage.STATUS, pb.MALFORMED_MESSAGE)
    await gone_quiet(raw)
    await eventually(lambda: scene.relay.counters.bad_messages == 1)
    assert scene.relay.counters.handler_errors == 0
    await stranger.dial(scene.address(client))


@pytest.mark.parametrize("nonsense", NONSENSE)
async def test_nonsense_on_the_stop_protocol_ends_its_stream_only(scene: Scene, nonsense: bytes) -> None:
    await scene.begin()
    client, stranger = await scene.host(2, client=True), await scene.host(3)
    raw = await scene.relay._links[client.peer_id].connection.open(STOP)
    await raw.write(nonsense)
    await gone_quiet(raw)
    await eventually(lambda: client.counters.bad_messages == 1)
    assert client.counters.handler_errors == 0
    await stranger.dial(scene.address(client))


async def test_nonsense_over_a_circuit_ends_that_circuit_only(scene: Scene) -> None:
    await scene.begin()
    client, stranger = await scene.host(2, client=True), await scene.host(3)
    talk = await circuit.connect(stranger._links[scene.relay.peer_id].connection, client.peer_id)
    await talk.write(bytes(5000))
    await gone_quiet(talk)
    assert client.counters.handler_errors == scene.relay.counters.handler_errors == 0
    await stranger.dial(scene.address(client))


async def test_silence_in_place_of_a_message_is_not_waited_for_long(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit, "ANSWER_WITHIN", 0.2)
    await scene.begin()
    stranger = await scene.host(3)
    raw = await stranger._links[scene.relay.peer_id].connection.open(HOP)
    await raw.write(b"\x05")
    await gone_quiet(raw)
    assert scene.relay.counters.bad_messages == 0


async def gone_quiet(raw: ByteStream) -> None:
    """Read until the other side has ended the stream."""
    with trio.fail_after(4):
        try:
            while await raw.read():
                pass
        except LinkClosed:
            pass


class Chunks(ByteStream):
    """Bytes that arrive in the given pieces, then the end."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = [chunk for chunk in chunks if chunk]

    async def read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._chunks.pop(0) if self._chunks else b""

    async def write(self, data: bytes) -> None:
        self._chunks.append(data)

    async def finish(self) -> None: ...

    async def reset(self) -> None: ...


@given(what=st.binary(max_size=300))
def test_of_any_bytes_comes_a_message_or_an_error_of_the_peers(what: bytes) -> None:
    async def run() -> None:
        with suppress(DecodeError, LinkClosed):
            assert (await Talk(Chunks(what)).receive(pb.HopMessage)).HasField("type")

    trio.run(run)


@given(cut=st.integers(0, 60), rest=st.binary(max_size=20))
def test_a_message_is_read_however_it_is_cut_and_what_follows_is_kept(cut: int, rest: bytes) -> None:
    async def run() -> None:
        written = Chunks()
        await Talk(written).send(to(host(2)))
        whole = await written.read() + rest
        talk = Talk(Chunks(whole[:cut], whole[cut:]))
        assert await talk.receive(pb.HopMessage) == to(host(2))
        got = b""
        while more := await talk.read():
            got += more
        assert got == rest

    trio.run(run)
