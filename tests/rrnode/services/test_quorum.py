"""How far enough watchers hold a channel, as the money engine is told: over receipts that come, go, and cannot be read."""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocols.channel.events import Flush
from protocols.channel.state import Phase
from protocols.ids import ChannelId, PeerId
from protocols.payment.events import RemediesHeld
from protocols.units import BlockHeight
from rrnode.errors import StorageFailed
from rrnode.services.quorum import TICK, Quorum

CHANNEL = ChannelId(b"c" * 32)
NEIGHBOUR = PeerId(b"\x02" + b"n" * 32)


class Receipts:
    """Of two watchers, 1 and 2, for one channel: the numbers of the states that each holds, as `CoverStore` tells them."""

    def __init__(self) -> None:
        self.count = 0
        self.held: dict[int, set[int]] = {1: set(), 2: set()}
        self.readable = True

    def held_up_to(self, watcher: int, channel_id: ChannelId, since: int | None, tip: BlockHeight) -> int:
        if not self.readable:
            raise StorageFailed("the disk reports an error")
        first = self.count - 1 if since is None else min(since, self.count - 1)
        return next((each for each in range(first, self.count) if each not in self.held[watcher]), self.count)


class Scene:
    def __init__(self, needed: int) -> None:
        self.receipts, self.allowed = Receipts(), [1, 2]
        self.posted: list[Any] = []
        self.quorum = Quorum(
            needed=needed,
            store=self.receipts,  # type: ignore[arg-type]
            watchers=lambda neighbour: self.allowed,
            channels=lambda: (self.channel,),
            height=lambda: BlockHeight(100),
            post=self._post,
        )

    @property
    def channel(self) -> Any:
        secrets = SimpleNamespace(count=self.receipts.count)
        return SimpleNamespace(channel_id=CHANNEL, peer=NEIGHBOUR, phase=Phase.OPEN, their_secrets=secrets)

    async def _post(self, event: Any) -> None:
        self.posted.append(event)

    async def told(self) -> list[int]:
        """What the engine was told since it was last asked."""
        self.quorum.wake()
        await trio.sleep(TICK / 10)  # of a clock that leaps once the look in its thread is over
        told = [each.states for each in self.posted if isinstance(each, RemediesHeld)]
        self.posted.clear()
        return told


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0.05)


async def with_scene(needed: int, story: Callable[[Scene], Awaitable[None]]) -> None:
    scene = Scene(needed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.quorum.run)
        await story(scene)
        nursery.cancel_scope.cancel()


async def test_as_many_states_are_told_as_enough_watchers_hold_and_changes_only(clock: MockClock) -> None:
    async def story(scene: Scene) -> None:
        held = scene.receipts.held
        scene.receipts.count = 3
        assert await scene.told() == [2]
        held[1] |= {2}
        assert await scene.told() == []
        held[2] |= {2}
        assert await scene.told() == [3]
        scene.receipts.count = 5
        held[1] |= {3, 4}
        held[2] |= {4}  # the newest alone is not enough: the one before it was revoked since
        assert await scene.told() == []
        held[2] |= {3}
        assert await scene.told() == [5]
        held[1] -= {4}
        assert await scene.told() == [4]

    await with_scene(2, story)


async def test_watchers_that_may_not_be_used_count_for_nothing_until_they_may(clock: MockClock) -> None:
    async def story(scene: Scene) -> None:
        scene.receipts.count = 3
        scene.receipts.held = {1: {2}, 2: {2}}  # the older ones do not fit their quotas
        scene.allowed = [1]
        assert await scene.told() == [0]
        scene.allowed = [1, 2]
        assert await scene.told() == [3]

    await with_scene(2, story)


async def test_while_something_waits_the_engine_looks_at_it_again_and_again(clock: MockClock) -> None:
    async def story(scene: Scene) -> None:
        scene.receipts.count = 1
        await scene.told()
        await trio.sleep(2.5 * TICK)
        assert scene.posted == [Flush(), Flush()]
        scene.receipts.held = {1: {0}, 2: {0}}
        await scene.told()
        await trio.sleep(2.5 * TICK)
        assert scene.posted == []

    await with_scene(1, story)


async def test_a_disk_that_cannot_be_read_leaves_what_was_told(clock: MockClock) -> None:
    async def story(scene: Scene) -> None:
        scene.receipts.count, scene.receipts.held[1] = 1, {0}
        assert await scene.told() == [1]
        scene.receipts.count, scene.receipts.readable = 2, False
        assert await scene.told() == []
        assert scene.quorum.waits(scene.channel)
        scene.receipts.readable, scene.receipts.held[1] = True, {0, 1}
        assert await scene.told() == [2]

    await with_scene(1, story)


async def test_without_a_quorum_nothing_is_looked_at(clock: MockClock) -> None:
    scene = Scene(0)
    scene.receipts.count, scene.receipts.readable = 1, False
    await scene.quorum.run()
    assert not scene.quorum.waits(scene.channel)
