"""The event bus: numbering, history, and what a slow follower costs (only itself)."""

import pytest
import trio

from rrnode.control import models as m
from rrnode.control.bus import EventBus


def tip(height: int) -> m.TipEvent:
    return m.TipEvent(height=height, block_hash="")


def numbers(receive: trio.MemoryReceiveChannel[m.Event]) -> list[int]:
    seen = []
    while True:
        try:
            seen.append(receive.receive_nowait().seq)
        except (trio.WouldBlock, trio.EndOfChannel):
            return seen


async def test_events_are_numbered_and_dated_in_order() -> None:
    bus = EventBus(lambda: 12.3456)
    assert [bus.publish(tip(height)).seq for height in (5, 6)] == [1, 2]
    assert bus.publish(tip(7)) == m.TipEvent(seq=3, at_ms=12_345, height=7, block_hash="")
    assert bus.last == 3


async def test_a_new_follower_sees_only_what_comes_unless_it_asks_for_more() -> None:
    bus = EventBus(lambda: 0, history=3)
    for height in range(5):
        bus.publish(tip(height))
    async with bus.subscribe() as fresh, bus.subscribe(after=0) as everything, bus.subscribe(after=4) as tail:
        bus.publish(tip(9))
        assert (numbers(fresh), numbers(everything), numbers(tail)) == ([6], [3, 4, 5, 6], [5, 6])


async def test_a_follower_that_does_not_read_is_cut_off_and_others_miss_nothing() -> None:
    bus = EventBus(lambda: 0, history=2, queue=4)
    async with bus.subscribe() as slow, bus.subscribe() as quick:
        seen = []
        for height in range(6):
            bus.publish(tip(height))
            seen += numbers(quick)
        assert seen == [1, 2, 3, 4, 5, 6]
        assert bus.followers == 1
        assert [(await slow.receive()).seq for _ in range(4)] == [1, 2, 3, 4]
        with pytest.raises(trio.EndOfChannel):
            await slow.receive()


async def test_closing_lets_followers_read_what_is_queued_and_then_end() -> None:
    bus = EventBus(lambda: 0)
    async with bus.subscribe() as follower:
        bus.publish(tip(1))
        bus.close()
        assert (await follower.receive()).seq == 1
        with pytest.raises(trio.EndOfChannel):
            await follower.receive()


async def test_a_follower_that_is_gone_costs_nothing() -> None:
    bus = EventBus(lambda: 0)
    async with bus.subscribe():
        pass
    assert bus.followers == 0
    bus.publish(tip(1))
