"""The dispatcher with a small engine and a store that can fail: what is committed when, and what leaves when."""

from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing

from protocols.channel.events import Flush, ForgetChannel
from protocols.facts import Facts
from protocols.ids import ChannelId, PaymentHash
from protocols.payment.events import FindOffers, OffersFound
from protocols.units import BlockHeight, FeeRate, UnixTime
from rrnode.dispatcher import Batch, Dispatcher, Halted, _Posted
from rrnode.errors import StorageFailed


@dataclass(frozen=True)
class Pay:
    number: int


@dataclass(frozen=True)
class Sent:
    number: int


def store(number: int) -> ForgetChannel:
    return ForgetChannel(channel_id=ChannelId(number.to_bytes(32, "big")))


def facts() -> Facts:
    return Facts(now=UnixTime(1), tip=BlockHeight(2), feerate=FeeRate(1000), entropy=bytes(32))


class World:
    """An engine that stores and sends each `Pay`, a disk, and everything that left."""

    def __init__(self) -> None:
        self.handled: list[Any] = []
        self.disk: list[Batch] = []
        self.left: list[Any] = []
        self.fails = False
        self.bug = False
        self.asks = False
        self.gate: trio.Event | None = None
        self.dispatcher = Dispatcher(
            handle=self.handle, commit=self.commit, perform=self.perform, answer=self.answer, facts=facts
        )

    def handle(self, event: Any, facts: Facts) -> list[Any]:
        self.handled.append(event)
        if self.bug:
            raise KeyError("a bug")
        match event:
            case Pay(number):
                question = [FindOffers(reference=b"q", payment_hash=PaymentHash(bytes(32)), upstream=None, asset=None)]
                return [store(number), *(question if self.asks else []), Sent(number)]
            case OffersFound():
                return [Sent(-1)]
        return []

    def commit(self, batch: Batch) -> None:
        if self.fails:
            raise StorageFailed("disk full")
        if self.gate is not None:
            trio.from_thread.run(self.gate.wait)
        self.disk.append(batch)

    def perform(self, effect: Any) -> None:
        self.left.append((effect, len(self.disk)))

    def answer(self, question: FindOffers) -> OffersFound:
        return OffersFound(reference=question.reference, offers=())


async def test_an_effect_leaves_only_after_its_state_is_on_disk() -> None:
    world = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.dispatcher.run)
        assert await world.dispatcher.ask(Pay(7)) == [Sent(7)]
        assert world.left == [(Sent(7), 1)]
        assert world.disk[0].stores == (store(7),)
        assert [row.event for row in world.disk[0].journal] == [Pay(7), Flush()]
        nursery.cancel_scope.cancel()


async def test_nothing_leaves_when_the_commit_fails_and_nothing_more_is_taken_on() -> None:
    world = World()
    world.fails = True
    asked: list[str] = []

    async def ask() -> None:
        with pytest.raises(Halted, match="disk full"):
            await world.dispatcher.ask(Pay(1))
        asked.append("told")

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - a nursery is one thing
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.dispatcher.run)
            nursery.start_soon(ask)
    assert caught.group_contains(Halted)
    assert world.left == []
    assert asked == ["told"]
    assert world.dispatcher.halted == "what was decided could not be written to disk: disk full"
    with pytest.raises(Halted):
        await world.dispatcher.post(Pay(2))


async def test_a_bug_in_the_engine_halts_the_node_before_anything_leaves() -> None:
    world = World()
    world.bug = True
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - a nursery is one thing
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.dispatcher.run)
            await world.dispatcher.post(Pay(1))
    assert caught.group_contains(Halted)
    assert (world.left, world.disk) == ([], [])


async def test_what_gathers_during_a_commit_shares_the_next_one() -> None:
    world = World()
    world.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.dispatcher.run)
        await world.dispatcher.post(Pay(0))
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1, 6):
            await world.dispatcher.post(Pay(number))
        world.gate.set()
        await world.dispatcher.ask(Pay(6))
        nursery.cancel_scope.cancel()
    assert [len(batch.stores) for batch in world.disk] == [1, 6]
    assert [effect.number for effect, _ in world.left] == list(range(7))


async def test_a_question_is_answered_in_the_batch_that_asked_it() -> None:
    world = World()
    world.asks = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.dispatcher.run)
        assert await world.dispatcher.ask(Pay(3)) == [Sent(-1), Sent(3)]
        nursery.cancel_scope.cancel()
    assert [type(row.event) for row in world.disk[0].journal] == [Pay, OffersFound, Flush]
    assert world.left == [(Sent(-1), 1), (Sent(3), 1)]


async def test_a_call_before_an_event_comes_after_the_effects_of_earlier_events() -> None:
    world = World()
    seen: list[int] = []
    world.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.dispatcher.run)
        await world.dispatcher.post(Pay(0))
        await trio.testing.wait_all_tasks_blocked()
        await world.dispatcher.post(Pay(1))
        await world.dispatcher.post(Pay(2), before=lambda: seen.append(len(world.left)))
        world.gate.set()
        await world.dispatcher.ask(Pay(3))
        nursery.cancel_scope.cancel()
    assert seen == [2]


async def test_a_cursor_alone_is_committed() -> None:
    world = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.dispatcher.run)
        await world.dispatcher.post("tip", cursor=(5, b"h" * 32))
        await world.dispatcher.ask("other")
        nursery.cancel_scope.cancel()
    assert [batch.cursor for batch in world.disk] == [(5, b"h" * 32)]


async def test_whoever_asks_while_the_node_stops_is_told_that_it_did_not_happen() -> None:
    world = World()
    world.gate = trio.Event()
    told: list[int] = []

    async def ask(number: int) -> None:
        with pytest.raises(Halted, match="the node has stopped"):
            await world.dispatcher.ask(Pay(number))
        told.append(number)

    async with trio.open_nursery() as asking:
        async with trio.open_nursery() as serving:
            serving.start_soon(world.dispatcher.run)
            committed: list[list[Any]] = []

            @asking.start_soon
            async def _() -> None:
                committed.append(await world.dispatcher.ask(Pay(0)))

            await trio.testing.wait_all_tasks_blocked()  # its commit is under way
            for number in (1, 2):
                asking.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
            serving.cancel_scope.cancel()
            world.gate.set()
    assert committed == [[Sent(0)]]  # what was committed was performed, and is not denied
    assert sorted(told) == [1, 2]
    assert [effect for effect, _ in world.left] == [Sent(0)]
    with pytest.raises(Halted):
        await world.dispatcher.ask(Pay(3))


async def test_an_answer_that_is_on_disk_is_given_although_the_next_batch_fails() -> None:
    world = World()
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await world.dispatcher.ask(Pay(1)))
        answers.append(world.dispatcher.halted)

    def fail_next(effect: Any) -> None:
        world.fails = True
        world.dispatcher._send.send_nowait(_Posted(Pay(2)))  # there before whoever asked is awake

    world.dispatcher._perform = fail_next  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - a nursery is one thing
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.dispatcher.run)
            nursery.start_soon(ask)
    assert caught.group_contains(Halted)
    assert answers[0] == [Sent(1)]
