"""What a client says to a watcher that is slow, full or evasive, state by state: over a stream to a watcher played here."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from services_kit import GENESIS
from trio.testing import MockClock

from protocols.channel.state import Phase
from protocols.ids import ChannelId, Txid
from protocols.units import AssetId, BlockDelta, BlockHeight, Sat
from protocols.watch import receipt
from protocols.watch.policy import BountyConfig
from protocols.watch.remedy import SEALED_SIZES
from protocols.wire.watch import CODEC, HandOver, Holdings, List, Receipt, RefusalCode, Refused, Terms, WatchMessage
from rrnode.host.peer_text import peer_of
from rrnode.services import handing
from rrnode.services.handing import Means, Talk, Watcher
from rrnode.storage import RevokedState
from rrnode.storage.cover import Handed, Proof

SECRET, TIP = b"\x41" * 32, BlockHeight(500)
US, WATCHER = peer_of(b"\x42" * 32), peer_of(SECRET)
ONE, OTHER = ChannelId(b"1" * 32), ChannelId(b"2" * 32)
State = tuple[ChannelId, int]


def txid(channel_id: ChannelId, number: int) -> Txid:
    return Txid(hashlib.sha256(channel_id + number.to_bytes(4, "big")).digest())


@dataclass
class Disk:
    """`CoverStore` for one watcher: how many states each channel has, and which of them were handed over, in their order."""

    counts: dict[ChannelId, int]
    noted: list[State] = field(default_factory=list)

    def revoked(self, channel_id: ChannelId) -> int:
        return self.counts[channel_id]

    def to_do(
        self, watcher: int, channel_id: ChannelId, *, stake: Sat, start: int, end: int, limit: int
    ) -> tuple[RevokedState, ...]:
        lacking = [number for number in range(end - 1, start - 1, -1) if (channel_id, number) not in self.noted]
        return tuple(
            RevokedState(number=number, txid=txid(channel_id, number), record=b"") for number in lacking[:limit]
        )

    def note(self, watcher: int, channel_id: ChannelId, handed: Sequence[Handed], proof: Proof | None) -> None:
        self.noted += [(channel_id, each.number) for each in handed]

    def count(self, watcher: int) -> int:
        return 0

    def due(self, watcher: int, before: BlockHeight, limit: int) -> tuple[()]:
        return ()

    def handed(self, watcher: int, after: tuple[int, int], limit: int) -> tuple[()]:
        return ()

    def drop_receipts(self, tip: BlockHeight) -> None:
        pass


class Scene:
    """Attributes: answers: gives what the watcher says to a request; by default it takes everything."""

    def __init__(self, **counts: int) -> None:
        self.disk = Disk({ONE: counts.get("one", 0), OTHER: counts.get("other", 0)})
        self.watcher = Watcher(peer=WATCHER, address="", number=1)
        self.alarms: list[str] = []
        self.answer: Callable[[Any], WatchMessage] = self.takes
        self._say, self._hear = trio.open_memory_channel[WatchMessage](10)

    def takes(self, request: Any) -> WatchMessage:
        if isinstance(request, List):
            return Holdings(request.request, (), False)
        assert isinstance(request, HandOver)
        kept = [(each.hint, hashlib.sha256(each.sealed).digest()) for each in request.remedies]
        until = BlockHeight(request.until)
        return Receipt(request.request, until, 0, receipt.sign(SECRET, AssetId(GENESIS), US, until, kept))

    def channels(self) -> Any:
        return [
            SimpleNamespace(
                channel_id=each, phase=Phase.OPEN, key_index=0, their_secrets=SimpleNamespace(count=count), peer=US
            )
            for each, count in self.disk.counts.items()
        ]

    def revoke(self, channel_id: ChannelId) -> None:
        self.disk.counts[channel_id] += 1
        self.watcher.wake.set()

    async def send(self, frame: bytes) -> None:
        """What the client's stream does."""
        await self._say.send(self.answer(CODEC.decode(frame)))

    async def play(self, story: Callable[[], Awaitable[None]]) -> None:
        """The talk in the background."""
        means = Means(
            us=US,
            store=self.disk,  # type: ignore[arg-type]
            channels=self.channels,
            keys_of=lambda index: None,  # type: ignore[arg-type, return-value]
            network=AssetId(GENESIS),
            height=lambda: TIP,
            ask=BlockDelta(1000),
            bounties=BountyConfig(),
            alarm=self.alarms.append,
        )
        await self._say.send(Terms(TIP, 1000, 10**6, 0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Talk(means, self.watcher, self, self._hear).run)  # type: ignore[arg-type]
            await story()
            nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def remedies(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Sealed ones of the smallest size, but for the numbers of states in the table."""
    sizes: dict[int, int] = {}

    def sealed(channel: Any, keys: Any, states: Any, stake: Any, config: Any) -> Any:
        return [(each, bytes(sizes.get(each.number, SEALED_SIZES[0]))) for each in states]

    monkeypatch.setattr(handing, "sealed_remedies", sealed)
    monkeypatch.setattr(handing, "stake_of", lambda channel: Sat(1))
    monkeypatch.setattr(handing, "BUILT_AT_ONCE", 2)
    return sizes


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0.02)


async def test_what_is_revoked_while_much_is_handed_over_does_not_wait_for_its_end(clock: MockClock) -> None:
    scene = Scene(one=9, other=1)

    def answer(request: Any) -> WatchMessage:
        if (ONE, 6) in scene.disk.noted and scene.disk.counts[OTHER] == 1:
            scene.revoke(OTHER)
            scene.revoke(OTHER)
        return scene.takes(request)

    scene.answer = answer

    async def story() -> None:
        await trio.sleep(1)
        newest = [(ONE, 8), (OTHER, 0)]
        before, after = [(ONE, each) for each in (7, 6, 5, 4)], [(ONE, each) for each in (3, 2, 1, 0)]
        assert scene.disk.noted == [*newest, *before, (OTHER, 2), *after, (OTHER, 1)]

    await scene.play(story)


async def test_what_is_revoked_while_nothing_larger_is_taken_is_handed_over_at_once(
    clock: MockClock, remedies: dict[int, int]
) -> None:
    remedies[0] = SEALED_SIZES[1]
    scene = Scene(one=2)

    def answer(request: Any) -> WatchMessage:
        if isinstance(request, HandOver) and any(len(each.sealed) > SEALED_SIZES[0] for each in request.remedies):
            return Refused(request.request, RefusalCode.OVER_QUOTA, "this client's bytes are used up")
        return scene.takes(request)

    scene.answer = answer

    async def story() -> None:
        await trio.sleep(35)  # it waits for its third try
        assert scene.disk.noted == [(ONE, 1)]
        scene.revoke(ONE)
        await trio.sleep(1)
        assert scene.disk.noted == [(ONE, 1), (ONE, 2)]
        assert scene.watcher.problem == "it refuses: this client's bytes are used up"

    await scene.play(story)


async def test_a_watcher_that_never_says_what_it_holds_is_a_problem_that_is_told(clock: MockClock) -> None:
    scene = Scene(one=1)
    scene.watcher.problem = ""

    def answer(request: Any) -> WatchMessage:
        if isinstance(request, List):
            return Refused(request.request, RefusalCode.TOO_FAST, "not now")
        return scene.takes(request)

    scene.answer = answer

    async def story() -> None:
        await trio.sleep(100)
        assert scene.watcher.problem == "it refuses: not now"
        scene.answer = scene.takes
        await trio.sleep(100)
        assert (scene.watcher.problem, scene.disk.noted) == ("", [(ONE, 0)])

    await scene.play(story)


async def test_a_watcher_that_refuses_now_and_then_does_not_drown_other_alarms(clock: MockClock) -> None:
    scene = Scene(one=1)

    def answer(request: Any) -> WatchMessage:
        if isinstance(request, HandOver) and request.request % 2:
            return Refused(request.request, RefusalCode.FULL, "nothing is taken")
        return scene.takes(request)

    scene.answer = answer

    async def story() -> None:
        for _ in range(10):
            scene.revoke(ONE)
            await trio.sleep(700)
        assert len(scene.disk.noted) == 11
        (alarm,) = scene.alarms
        assert "refuses the newest revoked state" in alarm

    await scene.play(story)
