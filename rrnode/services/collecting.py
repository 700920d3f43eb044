"""`/rr/init/1`, the payee's side of a mailbox: fetch what waits for us, act on it, acknowledge it (DESIGN 4, R14)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import trio

from protocols.errors import PeerProtocolError
from protocols.ids import PeerId
from protocols.units import UnixTime
from protocols.wire.init import (
    CODEC,
    Acknowledge,
    Acknowledged,
    Answered,
    DeliveryCode,
    Failed,
    Fetch,
    Mail,
    Mails,
)
from rrnode.host.base import FrameStream
from rrnode.host.peer_text import to_text
from rrnode.services.limits import printable

log = structlog.get_logger(__name__)

FETCH_EVERY = 300.0  # seconds; what comes while we are attached is handed down, unless we do not answer for a moment
FIRST_AGAIN = 0.5  # seconds before what could not be taken yet is tried again, as our channel may be coming up; doubles
TOO_LARGE_FOR = (
    600.0  # seconds that mail above what our channels take is left, as one may be coming up: then it gives way
)
MOST_PAGES = 32  # fetched in one go: a thousand mails, ten times what an honest server keeps for us
ANSWER_WITHIN = 30.0  # seconds that a server's disk may take


@dataclass(frozen=True, slots=True, kw_only=True)
class Emptied:
    """How our mailbox at one server was left last.

    Attributes:
        at: unix seconds.
        taken: payments that we asked the network for.
        left: mails that could not be taken yet and are still there.
        turned_away, expired: mails that we shall never see, in all that this process was told.
        problem: why the server could not be asked; "" when it could.
    """

    at: UnixTime
    taken: int = 0
    left: int = 0
    turned_away: int = 0
    expired: int = 0
    problem: str = ""


class Collector:
    """Empties our mailboxes.

    Args:
        take: acts on one mail as on an initialization that was handed down, and notes what is missed; told whether what
            is too large now is not tried again; gives one of `DeliveryCode`, or 0, and a sentence.
        keeps: whether this server has the `mailbox` switch.
        missed: told how many were turned away and how many expired at a server, when it is news.
        now: unix time.
    """

    def __init__(
        self,
        *,
        take: Callable[[PeerId, Mail, bool], Awaitable[tuple[int, str]]],
        keeps: Callable[[PeerId], bool],
        missed: Callable[[PeerId, int, int], None],
        now: Callable[[], UnixTime],
    ) -> None:
        self.keeps, self._take, self._missed, self._now = keeps, take, missed, now
        self.emptied: dict[PeerId, Emptied] = {}  # of servers, which are our neighbours

    async def run(self, stream: FrameStream, answers: trio.MemoryReceiveChannel[Mails | Acknowledged | Failed]) -> None:
        """Empty the mailbox at this server now and then, as long as we are attached to it."""
        if not self.keeps(stream.peer):
            return
        wait, since = FIRST_AGAIN, trio.current_time()
        while True:
            last = trio.current_time() - since > TOO_LARGE_FOR
            left = await _Turn(self, stream, answers, last=last).run()
            await trio.sleep(wait if left else FETCH_EVERY)
            wait = min(2 * wait, FETCH_EVERY) if left else FIRST_AGAIN


class _Turn:
    """Once through a mailbox. `last`: what is too large for our channels now is given up."""

    def __init__(
        self,
        collector: Collector,
        stream: FrameStream,
        answers: trio.MemoryReceiveChannel[Mails | Acknowledged | Failed],
        *,
        last: bool,
    ) -> None:
        self._collector, self._stream, self._answers, self._last = collector, stream, answers, last
        before = collector.emptied.get(stream.peer)
        self._turned_away, self._expired = (before.turned_away, before.expired) if before else (0, 0)
        self._taken = self._left = 0

    async def run(self) -> int:
        """Gives how many mails are left to be tried again; at least 1 when the server could not be asked."""
        after = 0
        for _ in range(MOST_PAGES):
            page = await self._ask(Fetch(after))
            if isinstance(page, Failed):
                return self._note(printable(page.reason))
            if not isinstance(page, Mails):
                raise PeerProtocolError(f"{type(page).__name__} as the answer to Fetch")
            answered = []
            for mail in page.mails:
                if mail.number <= after:
                    raise PeerProtocolError("mails that are not in the order of their numbers")
                after = mail.number
                code, reason = await self._collector._take(self._stream.peer, mail, self._last)
                if code == DeliveryCode.TOO_MANY or (code == DeliveryCode.TOO_LARGE and not self._last):
                    self._left += 1
                else:
                    self._taken += code == 0
                    answered.append(Answered(mail.number, code, reason))
            if (answered or page.turned_away or page.expired) and (problem := await self._acknowledge(answered, page)):
                return self._note(problem)
            if not page.more or not page.mails:
                break
        return self._note("")

    async def _acknowledge(self, answered: list[Answered], page: Mails) -> str:
        """Gives why it could not be done, or ""."""
        done = await self._ask(Acknowledge(tuple(answered), page.turned_away, page.expired))
        if isinstance(done, Failed):
            return printable(done.reason)
        if not isinstance(done, Acknowledged):
            raise PeerProtocolError(f"{type(done).__name__} as the answer to Acknowledge")
        if page.turned_away or page.expired:
            self._turned_away += page.turned_away
            self._expired += page.expired
            self._collector._missed(self._stream.peer, page.turned_away, page.expired)
        return ""

    def _note(self, problem: str) -> int:
        if problem:
            log.warning("a mailbox of ours cannot be emptied", server=to_text(self._stream.peer), reason=problem)
        self._collector.emptied[self._stream.peer] = Emptied(
            at=self._collector._now(),
            taken=self._taken,
            left=self._left,
            turned_away=self._turned_away,
            expired=self._expired,
            problem=problem,
        )
        return self._left or bool(problem)

    async def _ask(self, message: Fetch | Acknowledge) -> Mails | Acknowledged | Failed:
        await self._stream.send(CODEC.encode(message))
        try:
            with trio.fail_after(ANSWER_WITHIN):
                return await self._answers.receive()
        except trio.TooSlowError:
            raise PeerProtocolError(f"no answer to {type(message).__name__} within {ANSWER_WITHIN:.0f} s") from None
