"""`/rr/channel/1` over memory hosts, between a stream and a dispatcher that does what it is told when it is told to."""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from services_kit import Net, ended, until, within

from protocols.channel.events import LinkDown, LinkUp, MessageReceived
from protocols.ids import ChannelId, PeerId
from protocols.wire.channel import CODEC, PROTOCOL, CommitmentSigned, Error, OpenChannel, UpdateFailHtlc, Warn
from rrnode.dispatcher import Halted
from rrnode.errors import StorageFailed
from rrnode.host.base import FrameStream, HostConfig
from rrnode.host.memory import MemoryHost
from rrnode.services.channels import MOST_IN_HAND, MOST_WAITING, ChannelService

Clock = trio.testing.MockClock


def fail(number: int, channel: int = 1) -> UpdateFailHtlc:
    return UpdateFailHtlc(channel.to_bytes(32, "big"), number, 1)


def opening(number: int = 1) -> OpenChannel:
    key = b"\x02" * 33
    return OpenChannel(
        bytes(32), number.to_bytes(32, "big"), 10**6, 0, 546, 10**9, 20_000, 1, 6, 100, key, key, key, key, key, key,
        b"\x00\x14" + bytes(20),
    )  # fmt: skip


class Posted:
    """Stands for the dispatcher: keeps what was posted, and performs it at once or when told to."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.waiting: deque[Callable[[], None]] = deque()
        self.at_once = True
        self.halted = False

    async def post(self, event: Any, *, before: Callable[[], None] | None = None) -> None:
        await trio.lowlevel.checkpoint()
        if self.halted:
            raise Halted("disk full")
        self.events.append(event)
        self.waiting.append(before or (lambda: None))
        if self.at_once:
            self.perform()

    def perform(self) -> None:
        while self.waiting:
            self.waiting.popleft()()


class Scene:
    """The service on host 1, a peer on host 0 that writes what it likes."""

    def __init__(self, net: Net, server: MemoryHost, peer: MemoryHost) -> None:
        self.net, self.server, self.peer = net, server, peer
        self.posted = Posted()
        self.neighbours: set[PeerId] = {peer.peer_id}
        self.has_channel = True
        self.refusal: str | None = None
        self.keys = 0
        self.disk_full = False
        self.errors: list[tuple[ChannelId, str]] = []
        self.service = ChannelService(
            host=server,
            post=self.posted.post,
            is_neighbour=self.neighbours.__contains__,
            concerns=lambda event: self.has_channel,
            fresh_keys=self.fresh_keys,
            refuses_open=lambda peer, message: self.refusal,
            error_received=lambda channel, text: self.errors.append((channel, text)),
            link_changed=lambda: None,
        )

    async def fresh_keys(self) -> int:
        if self.disk_full:
            raise StorageFailed("disk full")
        self.keys += 1
        return self.keys

    async def stream(self) -> FrameStream:
        return await self.peer.open_stream(self.server.peer_id, PROTOCOL)

    def send(self, *messages: Any) -> None:
        for message in messages:
            self.service.send(self.peer.peer_id, message)

    def told(self) -> list[type]:
        return [type(event) for event in self.posted.events]


@pytest.fixture
async def scene(net: Net) -> Scene:
    made = Scene(net, await net.host(1), await net.host(0))
    net.spawn(made.service)
    await net.link(made.peer, made.server)
    return made


async def say(stream: FrameStream, *messages: Any) -> None:
    for message in messages:
        await stream.send(CODEC.encode(message))


async def hear(stream: FrameStream, seconds: float = 2.0) -> Any:
    frame = await within(seconds, stream.receive)
    return None if frame is None else CODEC.decode(frame)


async def test_the_engine_is_told_of_link_messages_and_end_in_order(scene: Scene, autojump_clock: Clock) -> None:
    stream = await scene.stream()
    await say(stream, fail(1), fail(2))
    await trio.sleep(0.1)
    stream.reset()
    await trio.sleep(0.1)
    peer = scene.peer.peer_id
    assert scene.posted.events == [
        LinkUp(peer=peer),
        MessageReceived(peer=peer, message=fail(1), key_index=None),
        MessageReceived(peer=peer, message=fail(2), key_index=None),
        LinkDown(peer=peer),
    ]
    assert not scene.service.is_up(peer)


async def test_a_message_from_before_the_link_went_up_is_never_sent_on_the_new_stream(
    scene: Scene, autojump_clock: Clock
) -> None:
    scene.posted.at_once = False
    first = await scene.stream()
    await trio.sleep(0.1)
    scene.send(fail(1))  # an effect of an earlier event than LinkUp
    scene.posted.perform()
    scene.send(fail(2))
    assert await hear(first) == fail(2)
    second = await scene.stream()
    await trio.sleep(0.1)
    scene.send(fail(3))  # the engine knows of the first stream only, which is gone
    scene.posted.waiting.popleft()()  # LinkDown
    scene.send(fail(4))
    scene.posted.perform()  # LinkUp
    scene.send(fail(5))
    assert await hear(second) == fail(5)
    assert await hear(second) is None
    assert scene.told() == [LinkUp, LinkDown, LinkUp]


async def test_a_stream_that_is_replaced_goes_down_before_the_newer_comes_up(
    scene: Scene, autojump_clock: Clock
) -> None:
    for number in range(5):
        await say(await scene.stream(), fail(number))
        await trio.sleep(0.05)
    assert scene.told() == [LinkUp, MessageReceived, *[LinkDown, LinkUp, MessageReceived] * 4]
    assert [each.message.id for each in scene.posted.events if isinstance(each, MessageReceived)] == list(range(5))


async def test_a_batch_larger_than_the_streams_queue_reaches_a_neighbour_that_reads_whole_and_in_order(
    scene: Scene, autojump_clock: Clock
) -> None:
    stream = await scene.stream()
    await trio.sleep(0.1)
    scene.send(*map(fail, range(2000)))  # performed without a pause
    sent = 2000
    while sent < 4000:  # whatever the moment, what comes later does not overtake what waits
        await trio.lowlevel.checkpoint()
        scene.send(fail(sent))
        sent += 1
    assert [(await hear(stream)).id for _ in range(sent)] == list(range(sent))
    assert scene.told() == [LinkUp]


async def test_a_neighbour_that_does_not_read_is_dropped_and_what_waited_for_it_too(
    net: Net, autojump_clock: Clock
) -> None:
    scene = Scene(net, await net.host(1, config=HostConfig(stall_after=10**6)), await net.host(0))
    net.spawn(scene.service)
    await net.link(scene.peer, scene.server)
    await net.raw(scene.peer, scene.server.peer_id, PROTOCOL)
    await until(lambda: scene.service.is_up(scene.peer.peer_id))
    line = scene.service._ready[scene.peer.peer_id]
    signed = CommitmentSigned(bytes(32), bytes(64), (bytes(64),) * 200)
    for _ in range(10_000):
        scene.send(signed)
        assert line._size <= MOST_WAITING
        if scene.server.connected() and LinkDown in scene.told():
            break
        await trio.sleep(0.001)
    assert scene.told()[:2] == [LinkUp, LinkDown]
    assert scene.peer.peer_id in scene.server.connected()


async def test_a_stranger_may_open_a_channel_but_not_as_often_as_it_likes(scene: Scene, autojump_clock: Clock) -> None:
    scene.neighbours.clear()
    stream = await scene.stream()
    await say(stream, *map(opening, range(30)))
    answers = [await hear(stream, 1) for _ in range(30)]
    refused = [each for each in answers if each is not None]
    assert {each.text for each in refused} == {"too many channel openings; try again in a minute"}
    assert (scene.keys, len(refused)) == (10, 20)
    assert [each.key_index for each in scene.posted.events[1:]] == list(range(1, 11))


async def test_an_opening_that_is_not_wanted_costs_no_key(scene: Scene, autojump_clock: Clock) -> None:
    scene.refusal = "this node accepts no channels"
    stream = await scene.stream()
    await say(stream, opening(7))
    assert await hear(stream) == Error((7).to_bytes(32, "big"), "this node accepts no channels")
    scene.refusal, scene.disk_full = None, True
    await say(stream, opening(8))
    assert await hear(stream) == Error((8).to_bytes(32, "big"), "this node can write nothing to its disk now")
    assert (scene.keys, scene.told()) == (0, [LinkUp])


async def test_a_strangers_messages_about_no_channel_are_cut_before_they_fill_the_journal(
    scene: Scene, autojump_clock: Clock
) -> None:
    scene.neighbours.clear()
    stream = await scene.stream()
    await say(stream, *map(fail, range(100)))
    await ended(stream)
    assert scene.told() == [LinkUp, *[MessageReceived] * 20, LinkDown]
    assert scene.server.counters.bad_messages == 1


async def test_a_neighbours_messages_about_its_channels_are_not_counted(scene: Scene, autojump_clock: Clock) -> None:
    stream = await scene.stream()
    await say(stream, *map(fail, range(1000)))
    await until(lambda: len(scene.posted.events) == 1001)


async def test_a_neighbours_messages_about_no_channel_of_its_own_are_cut_before_they_fill_the_journal(
    scene: Scene, autojump_clock: Clock
) -> None:
    scene.has_channel = False
    stream = await scene.stream()
    await say(stream, *map(fail, range(100)))
    await ended(stream)
    assert scene.told() == [LinkUp, *[MessageReceived] * 64, LinkDown]
    assert scene.server.counters.bad_messages == 1


async def test_a_neighbour_is_read_no_further_than_the_engine_gets_on_with_its_messages(
    scene: Scene, autojump_clock: Clock
) -> None:
    stream = await scene.stream()
    await trio.sleep(0.1)
    scene.posted.at_once = False
    await say(stream, *map(fail, range(400)))
    await trio.sleep(10)
    assert len(scene.posted.events) == 1 + MOST_IN_HAND
    scene.posted.waiting.popleft()()
    await trio.sleep(1)
    assert len(scene.posted.events) == 2 + MOST_IN_HAND
    scene.posted.at_once = True
    scene.posted.perform()
    await until(lambda: len(scene.posted.events) == 401)
    assert [event.message.id for event in scene.posted.events[1:]] == list(range(400))


async def test_a_newer_stream_brings_its_sender_no_further_turns(scene: Scene, autojump_clock: Clock) -> None:
    scene.posted.at_once = False
    for number in range(5):
        await say(await scene.stream(), fail(number))
        await trio.sleep(1)
    assert scene.told() == [LinkUp, *[LinkDown, LinkUp] * 4]  # nothing is heard before the engine knows of the stream
    scene.posted.perform()
    await until(lambda: len(scene.posted.events) == 10)
    assert scene.posted.events[-1].message == fail(4)


async def test_what_a_neighbour_says_is_wrong_is_heard_without_what_drives_a_terminal(
    scene: Scene, autojump_clock: Clock
) -> None:
    stream = await scene.stream()
    await say(stream, Warn(bytes(32), "careful"), Error(bytes(32), "bad \x1b[31mnews"))
    await until(lambda: len(scene.posted.events) == 3)
    assert scene.errors == [(bytes(32), "bad ·[31mnews")]


async def test_a_halted_node_ends_its_streams_in_peace(scene: Scene, autojump_clock: Clock) -> None:
    stream = await scene.stream()
    await trio.sleep(0.1)
    scene.posted.halted = True
    await say(stream, fail(1))
    await ended(stream)
    assert not scene.service.is_up(scene.peer.peer_id)
    assert scene.server.counters.handler_errors == 0


async def test_a_stream_that_is_wanted_for_an_opening_is_opened_and_not_for_ever(
    net: Net, autojump_clock: Clock
) -> None:
    scene = Scene(net, await net.host(1), await net.host(0))
    scene.neighbours.clear()
    streams: list[FrameStream] = []

    async def serve(stream: FrameStream) -> None:
        streams.append(stream)
        await ended(stream)

    scene.peer.handle(PROTOCOL, serve)
    net.spawn(scene.service)
    await net.link(scene.server, scene.peer)
    await trio.sleep(10)
    assert streams == []
    scene.service.want(scene.peer.peer_id)
    await until(lambda: scene.service.is_up(scene.peer.peer_id), within=5)
    streams[0].reset()
    await trio.sleep(100)
    assert len(streams) == 1


async def test_nonsense_ends_the_stream_and_the_engine_knows(scene: Scene, autojump_clock: Clock) -> None:
    stream = await scene.stream()
    await stream.send(b"\x93\xff\xff\xff")
    await ended(stream)
    assert scene.told() == [LinkUp, LinkDown]
    assert scene.service.sessions.broken == 1
