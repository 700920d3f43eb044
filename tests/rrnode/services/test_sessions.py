"""Sessions between memory hosts: which stream stands, when one is opened anew, and what a bad one may cost."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import trio
import trio.testing
from services_kit import Net, ended, until

from protocols.errors import PeerProtocolError
from protocols.ids import PeerId
from rrnode.errors import LinkClosed
from rrnode.host.base import FrameStream
from rrnode.host.memory import MemoryHost
from rrnode.services.sessions import Sessions

Clock = trio.testing.MockClock
PROTOCOL = "/test/1"


class Side:
    """A host, its sessions, and what became of each stream."""

    def __init__(self, host: MemoryHost, *, needed: bool = True, lingers: float = 0.0) -> None:
        self.host = host
        self.needed = needed
        self.lingers = lingers
        self.began: list[tuple[float, FrameStream]] = []
        self.live: list[FrameStream] = []
        self.heard: list[bytes] = []
        self.behave: Callable[[FrameStream], None] = lambda stream: None
        self.sessions = Sessions(
            host=host,
            protocol=PROTOCOL,
            session=self.session,
            needed=lambda peer: self.needed,
            serves=lambda peer: True,
        )

    async def session(self, stream: FrameStream) -> None:
        self.began.append((trio.current_time(), stream))
        self.live.append(stream)
        try:
            self.behave(stream)
            while True:
                self.heard.append(await stream.receive())
        finally:
            self.live.remove(stream)
            with trio.CancelScope(shield=True):
                await trio.sleep(self.lingers)


async def pair(net: Net, dialler: int = 0, other: int = 1, **sides: bool) -> tuple[Side, Side]:
    one, two = Side(await net.host(dialler)), Side(await net.host(other))
    one.needed, two.needed = sides.get("one", True), sides.get("two", True)
    net.spawn(one.sessions, two.sessions)
    await trio.testing.wait_all_tasks_blocked()
    await net.link(one.host, two.host)
    return one, two


@pytest.mark.parametrize(("dialler", "other"), [(0, 1), (1, 0)])
async def test_of_two_streams_opened_at_once_that_of_the_lower_id_stands_on_both_sides(
    net: Net, autojump_clock: Clock, dialler: int, other: int
) -> None:
    one, two = Side(await net.host(dialler)), Side(await net.host(other))
    opened: list[PeerId] = []

    def counting(host: MemoryHost) -> None:
        open_stream = host.open_stream

        async def counted(peer: PeerId, protocol: str) -> FrameStream:
            opened.append(host.peer_id)
            return await open_stream(peer, protocol)

        host.open_stream = counted  # type: ignore[method-assign]

    counting(one.host)
    counting(two.host)
    net.spawn(one.sessions, two.sessions)
    net.network.delay = 1.0  # so long that the dialled side has waited enough before it hears of the other's stream
    await net.link(one.host, two.host)
    await trio.sleep(30)
    assert opened == [one.host.peer_id, two.host.peer_id]
    sides = {one.host.peer_id: one, two.host.peer_id: two}
    low, high = (sides[peer] for peer in sorted(sides))
    assert [stream.inbound for stream in low.live] == [False]
    assert [stream.inbound for stream in high.live] == [True]
    assert low.sessions.stream(high.host.peer_id) is low.live[0]
    await low.live[0].send(b"down")
    await high.live[0].send(b"up")
    await trio.sleep(5)
    assert (low.heard, high.heard) == ([b"up"], [b"down"])
    before = len(one.began) + len(two.began)
    await trio.sleep(600)
    assert len(one.began) + len(two.began) == before  # and it rests there


async def test_a_stream_that_ends_is_opened_anew_ever_later(net: Net, autojump_clock: Clock) -> None:
    one, two = await pair(net, two=False)
    two.behave = lambda stream: stream.reset()
    await trio.sleep(200)
    starts = [at for at, _ in one.began]
    gaps = [round(later - earlier) for earlier, later in pairwise(starts)]
    assert gaps[:7] == [1, 1, 2, 4, 8, 16, 30]
    assert set(gaps[7:]) == {30}
    two.behave = lambda stream: None
    await until(lambda: bool(two.live) and bool(one.live))
    await trio.sleep(100)
    two.live[0].reset()
    count = len(one.began)
    await trio.sleep(2)
    assert len(one.began) == count + 1  # one that stood long is missed at once


async def test_a_link_that_is_replaced_gets_a_stream_of_its_own(net: Net, autojump_clock: Clock) -> None:
    one = Side(await net.host(0), lingers=3.0)
    net.spawn(one.sessions)
    before, after = await net.host(1), await net.host(1)  # the same node, started again before its old link was missed
    for host in (before, after):
        host.handle(PROTOCOL, ended)
    await net.link(before, one.host)
    await until(lambda: len(one.live) == 1)
    await net.link(after, one.host)
    await until(lambda: len(one.began) == 2, within=10)
    await trio.sleep(5)
    assert one.sessions.stream(after.peer_id) is one.live[0]
    one.live[0].send_nowait(b"it works")
    await one.live[0].flush()


async def test_a_newer_stream_of_the_same_side_replaces_the_older(net: Net, autojump_clock: Clock) -> None:
    one, two = await pair(net, one=False, two=False)
    first = await one.host.open_stream(two.host.peer_id, PROTOCOL)
    await until(lambda: len(two.live) == 1)
    second = await one.host.open_stream(two.host.peer_id, PROTOCOL)
    await ended(first)
    await second.send(b"x")
    await until(lambda: two.heard == [b"x"])
    assert two.live == [two.sessions.stream(one.host.peer_id)]


async def test_a_stream_waits_until_the_one_it_replaces_has_cleared_up(net: Net, autojump_clock: Clock) -> None:
    one, two = await pair(net, one=False, two=False)
    two.lingers = 5.0
    await one.host.open_stream(two.host.peer_id, PROTOCOL)
    await until(lambda: len(two.live) == 1)
    await one.host.open_stream(two.host.peer_id, PROTOCOL)
    await trio.sleep(4)
    assert len(two.began) == 1
    await trio.sleep(2)
    assert len(two.began) == 2


async def test_a_peer_that_opens_one_stream_after_another_is_served_no_more(net: Net, autojump_clock: Clock) -> None:
    one, two = await pair(net, one=False, two=False)
    for _ in range(200):
        await one.host.open_stream(two.host.peer_id, PROTOCOL)
    await trio.sleep(1)
    assert 20 <= len(two.began) <= 25
    assert len(two.live) <= 1
    await trio.sleep(60)
    await one.host.open_stream(two.host.peer_id, PROTOCOL)
    await until(lambda: len(two.live) == 1)  # it may come back


async def test_a_broken_rule_ends_the_stream_and_is_counted_also_out_of_a_nursery(
    net: Net, autojump_clock: Clock
) -> None:
    async def breaks(stream: FrameStream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise PeerProtocolError("nonsense")

    host = await net.host(0)
    sessions = Sessions(
        host=host, protocol=PROTOCOL, session=breaks, needed=lambda peer: True, serves=lambda peer: True
    )
    other = await net.host(1)
    other.handle(PROTOCOL, ended)
    net.spawn(sessions)
    await net.link(host, other)
    await until(lambda: sessions.broken == 2)
    assert host.counters.bad_messages == 2
    assert host.counters.handler_errors == 0


async def test_a_bug_in_a_session_that_we_opened_ends_that_stream_only(net: Net, autojump_clock: Clock) -> None:
    one, two = await pair(net, two=False)
    three = await net.host(2)
    three.handle(PROTOCOL, ended)
    await net.link(one.host, three)
    await until(lambda: len(one.live) == 2)

    def bug(stream: FrameStream) -> None:
        raise KeyError("a bug of ours")

    one.behave = bug
    one.sessions.drop(two.host.peer_id)
    await until(lambda: one.host.counters.handler_errors == 1)
    assert [stream.peer for stream in one.live] == [three.peer_id]
    one.behave = lambda stream: None
    await until(lambda: len(one.live) == 2)


async def test_what_is_not_needed_is_not_opened_until_it_is(net: Net, autojump_clock: Clock) -> None:
    one, two = await pair(net, one=False, two=False)
    await trio.sleep(100)
    assert one.began == two.began == []
    one.needed = True
    for _ in range(3):
        one.sessions.check(two.host.peer_id)
    one.sessions.check(PeerId(b"\x02" * 33))  # nobody we are linked with
    await trio.sleep(10)
    assert len(one.began) == len(two.began) == 1
    one.needed = False
    one.sessions.drop(two.host.peer_id)
    await trio.sleep(100)
    assert len(one.began) == 1


async def test_an_unwelcome_stream_is_reset_unserved(net: Net, autojump_clock: Clock) -> None:
    async def never(stream: FrameStream) -> None:
        raise AssertionError

    host, other = await net.host(0), await net.host(1)
    Sessions(host=host, protocol=PROTOCOL, session=never, needed=lambda peer: False, serves=lambda peer: False)
    await net.link(other, host)
    stream = await other.open_stream(host.peer_id, PROTOCOL)
    with pytest.raises(LinkClosed):
        await stream.receive()
    assert host.counters.handler_errors == 0


async def test_after_the_end_nothing_is_opened_and_nothing_breaks(net: Net, autojump_clock: Clock) -> None:
    one, two = Side(await net.host(0)), Side(await net.host(1))
    await net.link(one.host, two.host)
    with trio.move_on_after(3):
        await one.sessions.run()
    await trio.sleep(5)
    assert (len(one.began), one.live) == (1, [])
    one.sessions.check(two.host.peer_id)
    await trio.sleep(100)
    assert len(one.began) == 1


@pytest.mark.parametrize("how", ["cut", "stop"])
async def test_a_handler_with_tasks_of_its_own_whose_link_breaks_does_not_end_the_node(
    net: Net, autojump_clock: Clock, how: str
) -> None:
    """Its reader raises LinkClosed while its writer is cancelled; the two together are no `Exception`."""
    host, other = await net.host(0), await net.host(1)
    serving = trio.Event()

    async def handler(stream: FrameStream) -> None:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    stream.reset()

            serving.set()
            try:
                await stream.receive()
            finally:
                raise LinkClosed("at the same moment")

    host.handle(PROTOCOL, handler)
    await net.link(other, host)
    await other.open_stream(host.peer_id, PROTOCOL)
    await serving.wait()
    if how == "cut":
        net.network.cut(host.peer_id, other.peer_id)
        await until(lambda: other.peer_id not in host.connected())
        await trio.sleep(1)
        await net.link(other, host)
    else:
        net.stop(host)
        await trio.sleep(10)
    assert host.counters.handler_errors == 0
