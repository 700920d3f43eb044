"""The node's side: what the guard did is told before any peer is heard, and a guard is there while the node runs."""

import os
from dataclasses import replace
from typing import Any

import pytest
import trio

from protocols.channel.events import CloseRequested
from protocols.channel.state import Phase
from protocols.ids import ChannelId
from rrnode.config.settings import ChainSettings
from rrnode.guard import Keeper, guard_pid, keeper, read_closed
from rrnode.guard.files import add_closed, read_heartbeat
from rrnode.keys import SeedFile, new_words


async def test_channels_that_the_guard_closed_are_told_until_the_disk_has_them_closed(pair: Any) -> None:
    side = pair.a
    data_dir, channel = side.settings.data_dir, side.channel()
    assert Keeper(side.settings).begin([channel]) == ()
    gone = ChannelId(b"g" * 32)
    add_closed(data_dir, [channel.channel_id, gone])
    assert Keeper(side.settings).begin([side.on_disk()]) == (channel.channel_id,)
    assert read_closed(data_dir) == {channel.channel_id}
    await side.post(CloseRequested(channel_id=channel.channel_id, force=True))
    assert side.on_disk().phase is Phase.FORCED
    assert Keeper(side.settings).begin([side.on_disk()]) == ()
    assert read_closed(data_dir) == frozenset()


async def test_a_node_says_that_it_lives_before_it_reads_the_notes(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    monkeypatch.setattr(keeper, "write_heartbeat", lambda *_: order.append("beat"))
    monkeypatch.setattr(keeper, "read_closed", lambda *_: order.append("read") or frozenset())
    Keeper(pair.a.settings).begin([])
    assert order == ["beat", "read"]


async def test_a_heart_beats_while_the_engine_answers_and_stands_still_when_not(
    pair: Any, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = pair.a
    settings = replace(side.settings, chain=ChainSettings(kind="kernel"))  # so that no guard is started
    heights = iter(range(100, 200))
    answers = trio.Event()

    async def probe() -> tuple[int, str]:
        height = next(heights)
        if height == 103:
            await answers.wait()
        return height, ""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Keeper(settings).run, probe)
        await trio.sleep(5)
        first = read_heartbeat(side.settings.data_dir)
        await trio.sleep(keeper.BEAT_EVERY)
        second = read_heartbeat(side.settings.data_dir)
        assert first is not None
        assert second is not None
        assert (first.height, second.height, second.pid) == (100, 101, os.getpid())
        assert second.count > first.count
        await trio.sleep(10 * keeper.BEAT_EVERY)
        stuck = read_heartbeat(side.settings.data_dir)
        await trio.sleep(10 * keeper.BEAT_EVERY)
        assert read_heartbeat(side.settings.data_dir) == stuck
        assert stuck is not None
        assert stuck.height == 102
        nursery.cancel_scope.cancel()


async def test_a_guard_is_started_stays_when_the_node_dies_and_ends_in_good_order(pair: Any) -> None:
    side = pair.a
    SeedFile(side.settings.data_dir).create(new_words())
    kept = Keeper(side.settings)
    kept._see_to_the_guard()
    try:
        with trio.fail_after(20):
            while guard_pid(side.settings.data_dir) is None:  # noqa: ASYNC110
                await trio.sleep(0.05)
        pid = guard_pid(side.settings.data_dir)
        assert pid is not None
        assert os.getsid(pid) == pid  # a session of its own: the node's terminal and group do not reach it
        Keeper(side.settings)._see_to_the_guard()  # a node that comes back finds it, and starts no second one
        assert guard_pid(side.settings.data_dir) == pid
    finally:
        kept.end()
    assert guard_pid(side.settings.data_dir) is None


async def test_without_a_chain_of_its_own_there_is_nothing_to_guard(pair: Any) -> None:
    assert Keeper(pair.a.settings).wanted
    assert not Keeper(replace(pair.a.settings, chain=ChainSettings(kind="kernel"))).wanted
