"""Asks several helpers the same thing, and waits little for one that answers late on purpose (DESIGN 8).

Every publication asks a dozen questions. A helper that answered each just before its deadline would hold up all of them by
ten seconds each, and with many HTLCs that lets deadlines pass. So once enough others have answered, a helper is waited for a
tenth of the time at most. It is asked on beside, and its record kept; while it owes an answer others are asked without it.
"""

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import trio

from rrnode.chain.evidence import BadProof
from rrnode.errors import ChainUnavailable
from rrnode.services.helpers import Helper

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that libp2p brings name it so

SHARE = 0.1  # of the time, for each helper
MOST_SAVED = 10.0  # seconds
LEAST_WAIT = 0.5  # seconds: an honest one is rarely slower than the others by more

T = TypeVar("T")


class Asking:
    """Asks, and remembers of each helper how long it was waited for while enough others had answered."""

    def __init__(self) -> None:
        """Nothing can be asked before `run`."""
        self._nursery: trio.Nursery | None = None
        self._owed: Counter[Helper] = Counter()
        self._saved: dict[Helper, tuple[float, float]] = {}  # seconds, and when

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Where questions outlive those who asked; until cancelled."""
        async with trio.open_nursery() as self._nursery:
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def owes(self, helper: Helper) -> bool:
        """Whether it has not answered yet what it was not waited for."""
        return self._owed[helper] > 0

    async def ask_each(
        self,
        helpers: Iterable[Helper],
        ask: Callable[[Helper], Awaitable[T | None]],
        are_enough: Callable[[Mapping[Helper, T]], bool],
    ) -> dict[Helper, T]:
        """What each of these answers; a bad proof is entered in its record and is no answer.

        Args:
            ask: None is no answer. It ends by itself.
            are_enough: whether those who did not answer yet are waited for no longer than they have saved.

        Raises:
            ChainUnavailable: nothing is asked any more.
        """
        if self._nursery is None:
            raise ChainUnavailable("the helpers are not asked any more")
        waiting = dict.fromkeys(helpers, math.inf)  # until when each is waited for
        owing, done = set[Helper](), set[Helper]()
        tell, hear = trio.open_memory_channel[tuple[Helper, T | None]](len(waiting))

        async def one(helper: Helper) -> None:
            answer: T | None = None
            try:
                answer = await ask(helper)
            except BadProof as error:
                helper.lied(str(error))
                helper.drop()
            finally:
                done.add(helper)
                with suppress(trio.BrokenResourceError):
                    tell.send_nowait((helper, answer))
                if helper in owing:
                    self._owed[helper] -= 1
                    helper.look_again()

        for each in waiting:
            self._nursery.start_soon(one, each)
        answers: dict[Helper, T] = {}
        enough_since: float | None = None
        with hear:
            while waiting:
                helper, answer = await _heard_until(min(waiting.values()), hear)
                now = trio.current_time()
                gone = [each for each in waiting if each is helper or (each not in done and waiting[each] <= now)]
                for each in gone:
                    del waiting[each]
                    if enough_since is not None:
                        self._saved[each] = max(0.0, self._left(each) - (now - enough_since)), now
                    if each is not helper:
                        owing.add(each)
                        self._owed[each] += 1
                if helper is not None and answer is not None:
                    answers[helper] = answer
                if enough_since is None and are_enough(answers):
                    enough_since = now
                    waiting = {each: now + max(LEAST_WAIT, self._left(each)) for each in waiting}
        return answers

    def _left(self, helper: Helper) -> float:
        now = trio.current_time()
        saved, since = self._saved.get(helper, (MOST_SAVED, now))
        return min(MOST_SAVED, saved + SHARE * (now - since))


async def _heard_until(
    deadline: float, hear: "trio.MemoryReceiveChannel[tuple[Helper, T | None]]"
) -> tuple[Helper | None, T | None]:
    """What is there already, else what comes in time, else nothing."""
    try:
        return hear.receive_nowait()
    except trio.WouldBlock:
        with trio.move_on_at(deadline):
            return await hear.receive()
        return None, None
