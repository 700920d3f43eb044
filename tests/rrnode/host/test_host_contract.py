"""What every host promises, held against the memory host and against libp2p over loopback.

The libp2p runs have real, short deadlines; the memory runs none, their clock jumps.
"""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
import trio.testing

from protocols.errors import DecodeError, MisuseError
from protocols.wire.framing import encode_varint
from rrnode.errors import LinkClosed, Unreachable
from rrnode.host.base import FrameStream, HostEvent, PeerConnected, PeerLost
from rrnode.host.peers import LinkedHost

ECHO = "/test/echo/1"
SINK = "/test/sink/1"  # takes nothing, waits
BOOM = "/test/boom/1"


async def echo(stream: FrameStream) -> None:
    while True:
        await stream.send(await stream.receive())


async def sink(stream: FrameStream) -> None:
    await trio.sleep_forever()


async def boom(stream: FrameStream) -> None:
    await stream.receive()
    raise ValueError("a bug of ours")


@asynccontextmanager
async def running(*hosts: LinkedHost) -> AsyncIterator[None]:
    with trio.fail_after(20):
        async with AsyncExitStack() as stack:
            for host in hosts:
                for protocol, handler in ((ECHO, echo), (SINK, sink), (BOOM, boom)):
                    host.handle(protocol, handler)
                await stack.enter_async_context(host.running())
            yield


async def until(condition, seconds: float = 5.0) -> None:  # type: ignore[no-untyped-def]
    """Wait for something that no event tells."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - it asks what a host shows, which has no event
            await trio.sleep(0.005)


async def next_event(events: trio.MemoryReceiveChannel[HostEvent]) -> HostEvent:
    with trio.fail_after(5):
        return await events.receive()


# Meeting.


async def test_hello_tells_both_sides_who_the_other_is(world, clock) -> None:
    client, server = world.host(1, listen=False, switches=2), world.host(2, switches=5)
    async with running(client, server), client.events() as at_client, server.events() as at_server:
        assert await client.dial(await world.address(server, client)) == server.peer_id
        dialled, came_from = client.connected()[server.peer_id].address, server.connected()[client.peer_id].address
        kind = server.addresses()[0].split("/")[1]
        assert {each.split("/")[1] for each in (dialled, came_from)} == {kind}
        assert kind == "memory" or {each.split("/")[2] for each in (dialled, came_from)} == {"127.0.0.1"}
        theirs = PeerConnected(peer=server.peer_id, inbound=False, switches=5, agent="n2", address=dialled)
        ours = PeerConnected(peer=client.peer_id, inbound=True, switches=2, agent="n1", address=came_from)
        assert await next_event(at_client) == theirs
        assert await next_event(at_server) == ours
        assert client.connected() == {server.peer_id: theirs}
        assert server.connected() == {client.peer_id: ours}


async def test_a_client_has_no_address_and_a_server_one_that_ends_in_its_peer_id(world, clock) -> None:
    client, server = world.host(1, listen=False), world.host(2)
    async with running(client, server):
        assert client.addresses() == ()
        (address,) = server.addresses()
        assert await client.dial(address) == server.peer_id
    assert server.addresses() == ()


async def test_dialling_a_linked_peer_again_changes_nothing(world, clock) -> None:
    client, server = world.host(1), world.host(2)
    async with running(client, server), client.events() as events:
        address = await world.address(server, client)
        await client.dial(address)
        link = client.connected()[server.peer_id]
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(client.dial, address)
        assert client.connected()[server.peer_id] is link
        assert await next_event(events) == link
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()


async def test_several_dials_at_once_make_one_link(world, clock) -> None:
    client, server = world.host(1), world.host(2)
    async with running(client, server), server.events() as events:
        address = await world.address(server, client)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(client.dial, address)
        assert isinstance(await next_event(events), PeerConnected)
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()


async def test_two_nodes_that_dial_each_other_keep_the_dial_of_the_lower_id(world, clock) -> None:
    one, other = sorted((world.host(1), world.host(2)), key=lambda host: host.peer_id)
    async with running(one, other):
        at_one, at_other = await world.address(one, other), await world.address(other, one)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.dial, at_other)
            nursery.start_soon(other.dial, at_one)
        await until(lambda: one.connected() and other.connected())
        assert not one.connected()[other.peer_id].inbound
        assert other.connected()[one.peer_id].inbound
        for host, peer in ((one, other), (other, one)):
            stream = await host.open_stream(peer.peer_id, ECHO)
            await stream.send(b"x")
            assert await stream.receive() == b"x"
        await until(lambda: len(one._all) == len(other._all) == 1)  # the other connection is gone


# Not meeting.


async def test_unreachable_addresses_are_told_in_one_sentence(world, clock) -> None:
    one, other, stranger, gone = world.host(1), world.host(2), world.host(3, network=b"\x02" * 32), world.host(4)
    async with running(one, other, stranger):
        async with gone.running():
            nobody = gone.addresses()[0]
        other_where = other.addresses()[0].rpartition("/p2p/")[0]
        wrong_id = other_where + "/p2p/" + nobody.rpartition("/p2p/")[2]
        for address, words in (
            (nobody, "refused"),
            (wrong_id, "not 16Uiu2"),
            (stranger.addresses()[0], "another network"),
            (one.addresses()[0], "this node itself"),
            ("/ip4/1.2.3.4/tcp/5", "is not of the form"),
            ("/no/such/thing" + nobody[nobody.index("/p2p/") :], "/no/such/thing"),
            ("nonsense", "is not of the form"),
        ):
            with pytest.raises(Unreachable, match=words) as caught:
                await one.dial(address)
            assert "\n" not in str(caught.value)
        assert one.connected() == other.connected() == {}
        await until(lambda: not one._all and not other._all and not stranger._all)
        assert stranger.counters.refused_peers == 1


async def test_a_peer_that_does_not_answer_is_given_up(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    async with running(one, other):
        address = await world.address(other, one)
        world.silence()
        began = trio.current_time()
        with pytest.raises(Unreachable, match="no answer"):
            await one.dial(address)
        assert trio.current_time() - began < 2.5
        assert one._all == {}
        world.heal()


async def test_a_dial_that_is_cancelled_leaves_nothing(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    async with running(one, other):
        address = await world.address(other, one)
        for wait in (0.0, 0.001, 0.005, 0.01, 0.02):
            with trio.move_on_after(wait):
                await one.dial(address)
            if one.connected():
                await one.disconnect(other.peer_id, "again")
        await until(lambda: not one._all and not other._all)
        assert await one.dial(address) == other.peer_id


async def test_an_address_in_use_is_told_plainly(world, clock) -> None:
    one = world.host(1)
    async with running(one):
        second = world.host(2)
        second._listen = (one.addresses()[0].rpartition("/p2p/")[0],)
        with pytest.raises(Unreachable, match="in use"):
            async with second.running():
                pass
        second._listen = ("/ip4/nonsense/tcp/1",)
        with pytest.raises(Unreachable):
            async with second.running():
                pass


# Frames.


async def test_frames_arrive_whole_and_in_order(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    async with running(one, other):
        stream = await one.open_stream(await one.dial(await world.address(other, one)), ECHO)
        assert (stream.peer, stream.protocol, stream.inbound) == (other.peer_id, ECHO, False)
        sizes = [1, 2, 127, 128, 5000, 65536, 1, 40_000, 16384]
        async with trio.open_nursery() as nursery:

            async def send_all() -> None:
                for number, size in enumerate(sizes):
                    await stream.send(bytes([number]) * size)

            nursery.start_soon(send_all)
            for number, size in enumerate(sizes):
                assert await stream.receive() == bytes([number]) * size
        with pytest.raises(MisuseError):
            await stream.send(b"")
        with pytest.raises(MisuseError):
            stream.send_nowait(bytes(65537))


async def test_what_was_sent_before_the_end_is_still_received(world, clock) -> None:
    one, other = world.host(1), world.host(2)

    async def three(stream: FrameStream) -> None:
        for word in (b"a", b"b", b"c"):
            await stream.send(word)

    other.handle("/test/three/1", three)
    async with running(one, other):
        stream = await one.open_stream(await one.dial(await world.address(other, one)), "/test/three/1")
        await trio.sleep(0.1)
        assert [await stream.receive() for _ in range(3)] == [b"a", b"b", b"c"]
        for _ in range(2):
            with pytest.raises(LinkClosed):
                await stream.receive()
        with pytest.raises(LinkClosed):
            await stream.send(b"x")
        with pytest.raises(LinkClosed):
            stream.send_nowait(b"x")


async def test_closing_sends_what_is_queued_and_both_sides_end(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    got: list[bytes] = []
    ended = trio.Event()

    async def collect(stream: FrameStream) -> None:
        try:
            while True:
                got.append(await stream.receive())
        finally:
            ended.set()

    other.handle("/test/collect/1", collect)
    async with running(one, other):
        stream = await one.open_stream(await one.dial(await world.address(other, one)), "/test/collect/1")
        for number in range(8):
            stream.send_nowait(bytes([number]) * 1000)
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(LinkClosed):
            stream.send_nowait(b"late")
        with pytest.raises(LinkClosed):
            await stream.receive()
        await ended.wait()
        assert got == [bytes([number]) * 1000 for number in range(8)]
        assert one.connected()
        await until(
            lambda: (
                not any(
                    s.protocol.startswith("/test")
                    for h in (one, other)
                    for link in h._links.values()
                    for s in link.streams
                )
            )
        )


async def test_a_full_queue_makes_the_sender_wait_and_bounds_memory(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    async with running(one, other):
        stream = await one.open_stream(await one.dial(await world.address(other, one)), SINK)
        sent = 0
        with trio.move_on_after(0.3):
            while True:
                await stream.send(bytes(10_000))
                sent += 1
        # one queue here, one there, and the window between them
        assert 20 <= sent <= (2 * 100_000 + 2 * 256 * 1024 + 65536) // 10_000 + 2
        with pytest.raises(trio.WouldBlock):
            stream.send_nowait(bytes(10_000))
        with trio.move_on_after(0.05) as scope:
            await stream.flush()
        assert scope.cancelled_caught


async def test_flush_waits_until_all_was_handed_over(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    async with running(one, other):
        stream = await one.open_stream(await one.dial(await world.address(other, one)), ECHO)
        for _ in range(5):
            stream.send_nowait(b"x")
        await stream.flush()
        assert len(stream._outbox) == 0


async def test_cancelled_sends_and_receives_lose_nothing(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    async with running(one, other):
        stream = await one.open_stream(await one.dial(await world.address(other, one)), ECHO)
        got: list[int] = []
        sent = 0
        step = 0
        while len(got) < 300:
            step += 1
            with trio.move_on_after((step % 7) * 0.0002):
                if step % 2 and sent < 300:
                    await stream.send(sent.to_bytes(4, "big") * 50)
                    sent += 1
                else:
                    got.append(int.from_bytes((await stream.receive())[:4], "big"))
        assert got == list(range(300))
        assert one.connected()


# Streams and handlers.


async def test_an_unknown_protocol_is_named_and_the_link_stands(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    async with running(one, other):
        peer = await one.dial(await world.address(other, one))
        with pytest.raises(LinkClosed, match="does not speak /test/none/1"):
            await one.open_stream(peer, "/test/none/1")
        with pytest.raises(LinkClosed, match="not connected"):
            await one.open_stream(world.host(9).peer_id, ECHO)
        stream = await one.open_stream(peer, ECHO)
        await stream.send(b"x")
        assert await stream.receive() == b"x"


async def test_a_handler_that_raises_ends_its_stream_and_nothing_else(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    async with running(one, other):
        peer = await one.dial(await world.address(other, one))
        good = await one.open_stream(peer, ECHO)
        bad = await one.open_stream(peer, BOOM)
        await bad.send(b"x")
        with pytest.raises(LinkClosed):
            await bad.receive()
        await good.send(b"x")
        assert await good.receive() == b"x"
        assert other.counters.handler_errors == 1


async def test_a_handler_is_cancelled_when_its_link_ends(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    began, cancelled = trio.Event(), trio.Event()

    async def wait(stream: FrameStream) -> None:
        began.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.set()
            raise

    other.handle("/test/wait/1", wait)
    async with running(one, other):
        peer = await one.dial(await world.address(other, one))
        await one.open_stream(peer, "/test/wait/1")
        await began.wait()
        await one.disconnect(peer, "enough")
        await cancelled.wait()
        assert other.counters.handler_errors == 0


async def test_a_newer_inbound_stream_replaces_the_older(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    async with running(one, other):
        peer = await one.dial(await world.address(other, one))
        older = await one.open_stream(peer, ECHO)
        await older.send(b"x")
        assert await older.receive() == b"x"
        newer = await one.open_stream(peer, ECHO)
        await newer.send(b"y")
        assert await newer.receive() == b"y"
        with pytest.raises(LinkClosed):
            await older.receive()


async def test_streams_above_the_limit_are_refused(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    for number in range(12):
        other.handle(f"/test/{number}/1", sink)
    async with running(one, other):
        peer = await one.dial(await world.address(other, one))
        for number in range(7):  # the eighth is the link's own
            await one.open_stream(peer, f"/test/{number}/1")
        await until(lambda: len(other._links[one.peer_id].streams) == 8)
        refused = await one.open_stream(peer, "/test/8/1")
        with pytest.raises(LinkClosed):
            await refused.receive()
        assert other.counters.refused_streams == 1
        assert one.connected()


async def test_a_reset_ends_both_sides_at_once(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    ended = trio.Event()

    async def watch(stream: FrameStream) -> None:
        try:
            await stream.receive()
        finally:
            ended.set()

    other.handle("/test/watch/1", watch)
    async with running(one, other):
        stream = await one.open_stream(await one.dial(await world.address(other, one)), "/test/watch/1")
        stream.reset()
        stream.reset()
        with pytest.raises(LinkClosed):
            await stream.receive()
        await ended.wait()
        assert one.connected()


# Bad bytes.


@pytest.mark.parametrize(
    "garbage",
    [b"\x00", b"\xff\xff\xff\xff", encode_varint(65537) + bytes(100), b"\x80\x00"],
    ids=lambda raw: raw[:4].hex(),
)
async def test_bytes_that_are_no_frames_end_that_stream_only(world, clock, garbage: bytes) -> None:
    one, other = world.host(1), world.host(2)
    seen: list[object] = []
    done = trio.Event()

    async def read(stream: FrameStream) -> None:
        seen.append(await stream.receive())
        for _ in range(2):
            try:
                await stream.receive()
            except (DecodeError, LinkClosed) as error:
                seen.append(type(error))
        done.set()

    other.handle("/test/read/1", read)
    async with running(one, other):
        peer = await one.dial(await world.address(other, one))
        good = await one.open_stream(peer, ECHO)
        raw = await world.raw(one, peer, "/test/read/1")
        await raw.write(b"\x01a")
        await trio.sleep(0.05)
        await raw.write(garbage)
        await done.wait()
        assert seen == [b"a", DecodeError, LinkClosed]
        await until(lambda: other.counters.bad_frames == 1)
        await good.send(b"x")
        assert await good.receive() == b"x"
        await raw.reset()


async def test_half_a_frame_and_silence_holds_that_half_only(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    async with running(one, other):
        peer = await one.dial(await world.address(other, one))
        raw = await world.raw(one, peer, ECHO)
        await raw.write(encode_varint(60_000) + bytes(30_000))
        good = await one.open_stream(peer, SINK)
        await trio.sleep(1.0)  # beyond `lost_after`: the heartbeat keeps the link
        assert one.connected()
        assert other.connected()
        (held,) = (s for s in other._links[one.peer_id].streams if s.protocol == ECHO)
        assert len(held._inbox) == 0
        assert good._end is None
        await raw.reset()


async def test_nonsense_on_the_link_protocol_ends_the_link(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    async with running(one, other), other.events() as events:
        await one.dial(await world.address(other, one))
        await next_event(events)
        control = one._links[other.peer_id].control
        control.send_nowait(b"\x93\x01\x02\x03\x04\x05")
        event = await next_event(events)
        assert isinstance(event, PeerLost)
        assert "nonsense" in event.reason
        assert other.counters.bad_messages == 1


# Ends.


async def test_disconnecting_tells_both_sides_and_ends_every_stream(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    async with running(one, other), one.events() as at_one, other.events() as at_other:
        peer = await one.dial(await world.address(other, one))
        stream = await one.open_stream(peer, ECHO)
        await next_event(at_one)
        await next_event(at_other)
        await one.disconnect(peer, "enough")
        assert await next_event(at_one) == PeerLost(peer=other.peer_id, reason="enough")
        assert await next_event(at_other) == PeerLost(peer=one.peer_id, reason="the peer said goodbye: enough")
        with pytest.raises(LinkClosed):
            await stream.receive()
        with pytest.raises(LinkClosed):
            await stream.send(b"x")
        assert one.connected() == other.connected() == {}
        await one.disconnect(peer, "twice changes nothing")
        assert await one.dial(other.addresses()[0]) == peer


async def test_a_silent_peer_is_lost_in_time_by_both(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    async with running(one, other), one.events() as at_one, other.events() as at_other:
        peer = await one.dial(await world.address(other, one))
        stream = await one.open_stream(peer, ECHO)
        await next_event(at_one)
        await next_event(at_other)
        await trio.sleep(1.0)
        assert one.connected()
        assert other.connected()  # idle, but alive
        world.silence()
        began = trio.current_time()
        for events in (at_one, at_other):
            event = await next_event(events)
            assert isinstance(event, PeerLost)
            assert "nothing heard" in event.reason
        assert 0.3 < trio.current_time() - began < 1.5
        with pytest.raises(LinkClosed):
            await stream.receive()
        assert one.counters.lost_peers == other.counters.lost_peers == 1
        world.heal()


async def test_a_peer_that_takes_no_bytes_loses_the_stream(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    async with running(one, other):
        peer = await one.dial(await world.address(other, one))
        stuck, good = await one.open_stream(peer, SINK), await one.open_stream(peer, ECHO)

        async def fill() -> None:
            while True:
                await stuck.send(bytes(20_000))

        with pytest.raises(LinkClosed, match="took nothing"):
            await fill()
        assert one.counters.stalled_streams == 1
        await good.send(b"x")
        assert await good.receive() == b"x"


async def test_a_newer_connection_of_a_peer_replaces_the_older(world, clock) -> None:
    before, after, other = world.host(1), world.host(1), world.host(2)  # one identity: a node that was started again
    async with running(before, after, other), other.events() as events:
        await before.dial(await world.address(other, before))
        assert isinstance(await next_event(events), PeerConnected)
        older = await other.open_stream(before.peer_id, ECHO)
        await after.dial(other.addresses()[0])
        assert await next_event(events) == PeerLost(peer=after.peer_id, reason="a newer connection took its place")
        assert isinstance(await next_event(events), PeerConnected)
        with pytest.raises(LinkClosed):
            await older.receive()
        for host, peer in ((after, other), (other, after)):
            stream = await host.open_stream(peer.peer_id, ECHO)
            await stream.send(b"x")
            assert await stream.receive() == b"x"
        await until(lambda: not before.connected() and len(other._all) == 1)


async def test_stopping_says_goodbye_and_frees_everything(world, clock) -> None:
    def held() -> tuple[int, int]:
        return trio.lowlevel.current_statistics().tasks_living, open_files()

    warm = world.host(7)
    async with running(warm):
        pass
    before = held()
    for _ in range(2):
        one, other = world.host(1), world.host(2)
        async with running(other), other.events() as events:
            async with running(one):
                peer = await one.dial(other.addresses()[0])
                streams = [await one.open_stream(peer, protocol) for protocol in (ECHO, SINK)]
                assert isinstance(await next_event(events), PeerConnected)
                await streams[0].send(b"x")
                async with one.events() as own:
                    pass
            lost = await next_event(events)
            assert lost == PeerLost(peer=one.peer_id, reason="the peer said goodbye: this node stops")
            with pytest.raises(trio.ClosedResourceError):
                own.receive_nowait()
            with pytest.raises(LinkClosed):
                await streams[0].send(b"x")
    await until(lambda: held() == before)


async def test_cancelling_frees_the_address_too(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    with trio.CancelScope() as scope:
        async with running(one, other):
            await other.dial(one.addresses()[0])
            address = one.addresses()[0].rpartition("/p2p/")[0]
            scope.cancel()
            await trio.lowlevel.checkpoint()
    again = world.host(1)
    again._listen = (address,)
    async with running(again):
        assert again.addresses()[0].startswith(address)


async def test_a_host_that_does_not_run_dials_nobody(world, clock) -> None:
    one, other = world.host(1), world.host(2)
    async with running(other):
        with pytest.raises(Unreachable, match="not running"):
            await one.dial(other.addresses()[0])


async def test_events_end_when_the_host_stops(world, clock) -> None:
    one = world.host(1)
    async with AsyncExitStack() as stack:
        async with running(one):
            events = await stack.enter_async_context(one.events())
        with pytest.raises(trio.EndOfChannel):
            await events.receive()


async def test_an_exception_leaves_the_host_as_it_is(world, clock) -> None:
    with pytest.raises(KeyError):
        async with world.host(1).running():
            raise KeyError("mine")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
