"""What only the memory network has: delay, jitter that repeats, silence that keeps bytes, cuts, partitions."""

import random
from itertools import pairwise

import pytest
import trio
import trio.testing

from rrnode.errors import LinkClosed, Unreachable
from rrnode.host.base import FrameStream, PeerConnected, PeerLost
from rrnode.host.memory import MemoryHost, MemoryNetwork, _Pipe

ECHO = "/test/echo/1"


async def echo(stream: FrameStream) -> None:
    while True:
        await stream.send(await stream.receive())


def host(number: int, network: MemoryNetwork) -> MemoryHost:
    made = MemoryHost(number.to_bytes(32, "big"), network=network, genesis=bytes(32), listen=("/memory/0",))
    made.handle(ECHO, echo)
    return made


async def arrival_times(seed: int) -> list[float]:
    network = MemoryNetwork(seed=seed, delay=0.1, jitter=0.1)
    one, other = host(1, network), host(2, network)
    times = []
    async with one.running(), other.running():
        stream = await one.open_stream(await one.dial(other.addresses()[0]), ECHO)
        for _ in range(10):
            began = trio.current_time()
            await stream.send(b"x")
            await stream.receive()
            times.append(round(trio.current_time() - began, 9))
    return times


async def test_bytes_take_their_delay_and_the_jitter_repeats(autojump_clock) -> None:
    first, again, other = await arrival_times(1), await arrival_times(1), await arrival_times(2)
    assert first == again != other
    assert all(0.2 <= time <= 0.4 for time in first)


async def test_silence_keeps_what_was_sent_and_healing_delivers_it(autojump_clock) -> None:
    network = MemoryNetwork()
    one, other = host(1, network), host(2, network)
    async with one.running(), other.running():
        stream = await one.open_stream(await one.dial(other.addresses()[0]), ECHO)
        network.silence(one.peer_id, other.peer_id)
        await stream.send(b"later")
        with trio.move_on_after(10) as scope:
            await stream.receive()
        assert scope.cancelled_caught
        network.heal()
        assert await stream.receive() == b"later"


async def test_one_way_silence_is_noticed_by_both_within_thirty_seconds(autojump_clock) -> None:
    network = MemoryNetwork(delay=0.05)
    one, other = host(1, network), host(2, network)
    async with one.running(), other.running(), one.events() as at_one, other.events() as at_other:
        await one.dial(other.addresses()[0])
        for events in (at_one, at_other):
            assert isinstance(await events.receive(), PeerConnected)
        await trio.sleep(500)
        network.silence(one.peer_id, other.peer_id)
        began = trio.current_time()
        for events in (at_other, at_one):
            assert isinstance(await events.receive(), PeerLost)
            assert trio.current_time() - began <= 30


async def test_a_cut_ends_both_sides_at_once_and_they_may_meet_again(autojump_clock) -> None:
    network = MemoryNetwork()
    one, other = host(1, network), host(2, network)
    async with one.running(), other.running():
        stream = await one.open_stream(await one.dial(other.addresses()[0]), ECHO)
        network.cut(one.peer_id, other.peer_id)
        with pytest.raises(LinkClosed):
            await stream.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert one.connected() == other.connected() == {}
        await one.dial(other.addresses()[0])


async def test_a_partition_lasts_until_healed(autojump_clock) -> None:
    network = MemoryNetwork()
    one, other = host(1, network), host(2, network)
    async with one.running(), other.running():
        await one.dial(other.addresses()[0])
        network.part(one.peer_id, other.peer_id)
        with pytest.raises(Unreachable, match="refused"):
            await one.dial(other.addresses()[0])
        network.heal()
        await one.dial(other.addresses()[0])


async def test_a_process_that_slept_does_not_take_its_peers_for_dead(mock_clock) -> None:
    network = MemoryNetwork()
    one, other = host(1, network), host(2, network)
    async with one.running(), other.running():
        await one.dial(other.addresses()[0])
        mock_clock.jump(1000)  # everything stood still, as under SIGSTOP
        await trio.testing.wait_all_tasks_blocked()
        assert one.connected()
        assert other.connected()
        mock_clock.autojump_threshold = 0
        await trio.sleep(100)
        assert one.connected()
        assert other.connected()


@pytest.mark.parametrize("seed", range(40))
async def test_nodes_that_dial_each_other_settle_on_one_link(seed: int, autojump_clock) -> None:
    randomness = random.Random(seed)
    network = MemoryNetwork(
        seed=seed, delay=randomness.choice([0.0, 0.01, 0.1, 0.5]), jitter=randomness.choice([0.0, 0.1, 0.5])
    )
    one, other = host(1, network), host(2, network)
    lost: list[PeerLost] = []

    async def note(watched: MemoryHost) -> None:
        async with watched.events() as events:
            async for event in events:
                if isinstance(event, PeerLost):
                    lost.append(event)

    async def dial(from_: MemoryHost, to: MemoryHost, wait: float) -> None:
        await trio.sleep(wait)
        assert await from_.dial(to.addresses()[0]) == to.peer_id

    async with one.running(), other.running(), trio.open_nursery() as nursery:
        nursery.start_soon(note, one)
        nursery.start_soon(note, other)
        async with trio.open_nursery() as dialling:
            dialling.start_soon(dial, one, other, randomness.uniform(0, 1) * randomness.choice([0, 1, 5]))
            dialling.start_soon(dial, other, one, randomness.uniform(0, 1) * randomness.choice([0, 1, 5]))
        await trio.sleep(30)
        flaps = len(lost)
        await trio.sleep(120)
        assert len(lost) == flaps <= 2
        assert list(one.connected()) == [other.peer_id]
        assert list(other.connected()) == [one.peer_id]
        ours, theirs = one._links[other.peer_id], other._links[one.peer_id]
        assert ours.connection.other is theirs.connection
        assert len(one._all) == len(other._all) == 1
        nursery.cancel_scope.cancel()


async def test_an_idle_link_is_never_silent_for_longer_than_a_network_translator_remembers_it(
    autojump_clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty seconds are the shortest that are met with in practice, and those for UDP; RFC 5382 wants two hours for TCP."""
    sent: dict[object, list[float]] = {}
    put = _Pipe.put

    def note(pipe: _Pipe, data: bytes) -> None:
        sent.setdefault(pipe._sender, []).append(trio.current_time())
        put(pipe, data)

    monkeypatch.setattr(_Pipe, "put", note)
    network = MemoryNetwork(delay=0.05)
    one, other = host(1, network), host(2, network)
    async with one.running(), other.running():
        await one.dial(other.addresses()[0])
        began = trio.current_time()
        await trio.sleep(3600)
        for times in sent.values():
            assert max(later - earlier for earlier, later in pairwise([*times, began + 3600])) < 20
    assert set(sent) == {one.peer_id, other.peer_id}
