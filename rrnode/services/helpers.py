"""`/rr/chain/1`, the client's side: a stream to each of our helpers, questions with a deadline, and each one's record.

What the answers are worth is decided in `rrnode.chain.remote`.
"""

from collections.abc import Awaitable, Callable, Iterable
from itertools import count

import structlog
import trio

from protocols.errors import PeerProtocolError
from protocols.ids import PeerId, Txid
from protocols.light.agreement import Standing
from protocols.wire.chain import (
    ANSWER_PIECES,
    MAX_ITEMS,
    PROTOCOL,
    REQUEST_PIECES,
    Answer,
    Joiner,
    News,
    Refused,
    Request,
    Stop,
    Watch,
    Watching,
    payloads,
)
from rrnode.chain.base import Interests
from rrnode.config.checks import MOST_HELPERS
from rrnode.host.base import FrameStream, Host
from rrnode.host.peer_text import to_text
from rrnode.services.limits import printable
from rrnode.services.sessions import Sessions

log = structlog.get_logger(__name__)

_QUEUED = 16  # requests of one helper that wait to be written


class _Waiting:
    """Who waits for one answer."""

    __slots__ = ("answer", "came")

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.came = trio.Event()


class Helper:
    """One helper: our stream to it, if there is one, and its record.

    Attributes:
        standing: its record.
        watched: what it was told, on this stream, that concerns us.
        news: set when it pushed `News`.
        synced: set when its headers were followed once more, or it shall be asked what it was not waited for.
        said_why: the reason it gave for ending the last stream, for people; "" when it gave none.
    """

    def __init__(self, peer: PeerId, answer_within: float) -> None:
        self.standing = Standing(peer)
        self.watched = Interests()
        self.news, self.synced = trio.Event(), trio.Event()
        self.said_why = ""
        self._answer_within = answer_within
        self._stream: FrameStream | None = None
        self._requests = count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._outgoing: trio.MemorySendChannel[tuple[bytes, ...]] | None = None

    @property
    def peer(self) -> PeerId:
        return self.standing.peer

    @property
    def is_ready(self) -> bool:
        """Whether it can be asked: connected, and on the best chain that we know."""
        return self.standing.connected and not self.standing.trouble

    @property
    def is_relied_on(self) -> bool:
        """Whether its silence is worth anything when it can be asked: never caught lying, nor related to a neighbour."""
        return not self.standing.lies and not self.standing.related

    @property
    def counts(self) -> bool:
        """Whether its silence about something is worth anything now."""
        return self.is_ready and self.is_relied_on

    def lied(self, what: str) -> None:
        """It said what is proven wrong."""
        log.warning("a helper was caught lying", peer=to_text(self.peer), what=what)
        self.standing.lied(what)

    def drop(self) -> None:
        """End the stream; it is opened anew, later each time."""
        if self._stream is not None:
            self._stream.reset()

    def look_again(self) -> None:
        """Whoever waits for `synced` sees what it has to say now."""
        self.synced.set()
        self.synced = trio.Event()

    async def ask(self, make: Callable[[int], Request]) -> Answer | None:
        """Its answer, `Refused` among them; None when there is none: not connected, lost meanwhile, or silent too long.

        Args:
            make: the request, given its number.
        """
        outgoing = self._outgoing
        if outgoing is None:
            await trio.lowlevel.checkpoint()
            return None
        number = next(self._requests) & 0xFFFF_FFFF
        frames = payloads(make(number), REQUEST_PIECES)
        assert frames is not None, "no request of ours has so many pieces"
        waiting = self._waiting[number] = _Waiting()
        try:
            with trio.move_on_after(self._answer_within) as patience:
                await outgoing.send(frames)
                await waiting.came.wait()
        except trio.BrokenResourceError:
            return None
        finally:
            self._waiting.pop(number, None)
        if patience.cancelled_caught:
            self.standing.silences += 1
            self.drop()
        elif isinstance(waiting.answer, Refused):
            self.standing.refusals += 1
        elif waiting.answer is not None:
            self.standing.answers += 1
        return waiting.answer

    async def watch(self, interests: Interests) -> bool:
        """Tell it what concerns us, as far as it was not told on this stream; whether it watches all of that now."""
        while self._stream is not None:
            new = interests.but(self.watched)
            if not len(new):
                return True
            outpoints, txids, scripts = (tuple(each)[:MAX_ITEMS] for each in (new.outpoints, new.txids, new.scripts))
            # Noted before it is said: what others ask on this stream from now on is read after it. Should it not be said
            # after all, the stream ends, or an honest helper would seem to keep silent about what it never was told.
            self.watched |= Interests(
                outpoints=frozenset(outpoints), txids=frozenset(map(Txid, txids)), scripts=frozenset(scripts)
            )
            answer = None
            stream = self._stream
            try:
                answer = await self.ask(lambda number, these=(outpoints, txids, scripts): Watch(number, *these))  # type: ignore[misc]
            finally:
                if not isinstance(answer, Watching):
                    stream.reset()
            if not isinstance(answer, Watching):
                return False
        return False

    # --- the stream -------------------------------------------------------------------------------------------------

    async def session(self, stream: FrameStream, beside: Callable[["Helper"], Awaitable[None]]) -> None:
        """Serve one stream until it ends.

        Args:
            beside: runs while the stream stands.
        """
        outgoing, to_write = trio.open_memory_channel[tuple[bytes, ...]](_QUEUED)
        self._stream, self._outgoing, self.watched = stream, outgoing, Interests()
        self.standing.connected, self.standing.trouble, self.said_why = True, "its headers are being followed", ""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream, to_write)
                nursery.start_soon(beside, self)
                await self._read(stream)
                nursery.cancel_scope.cancel()
        finally:
            self._stream = self._outgoing = None
            to_write.close()
            self.standing.connected, self.standing.trouble = False, "not connected"
            for waiting in self._waiting.values():
                waiting.came.set()

    @staticmethod
    async def _write(stream: FrameStream, to_write: "trio.MemoryReceiveChannel[tuple[bytes, ...]]") -> None:
        async for frames in to_write:
            for frame in frames:
                await stream.send(frame)

    async def _read(self, stream: FrameStream) -> None:
        joiner = Joiner(ANSWER_PIECES)
        while True:
            message = joiner.take(await stream.receive())
            if isinstance(message, Answer):
                # Nobody waits any more for the answer to a question that was cancelled.
                if waiting := self._waiting.pop(message.request, None):
                    waiting.answer = message
                    waiting.came.set()
            elif isinstance(message, News):
                self.news.set()
            elif isinstance(message, Stop):
                self.said_why = f"it said: {printable(message.reason)}"
                return
            elif message is not None:
                raise PeerProtocolError(f"{type(message).__name__} from a helper")


class Helpers:
    """Our helpers, each with a stream that is opened again when it ends.

    Args:
        host: the links; who dials is not our business.
        peers: those we chose, at most `MOST_HELPERS`.
        answer_within: seconds that a helper has for one answer.
        beside: runs beside each stream while it stands.
        changed: called when one comes or goes.
    """

    def __init__(
        self,
        *,
        host: Host,
        peers: Iterable[PeerId],
        answer_within: float,
        beside: Callable[[Helper], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        self.all = tuple(Helper(peer, answer_within) for peer in dict.fromkeys(peers))
        assert 1 <= len(self.all) <= MOST_HELPERS, "checked where the configuration is read"
        self._by_peer = {helper.peer: helper for helper in self.all}
        self._beside, self._changed = beside, changed
        self._sessions = Sessions(
            host=host, protocol=PROTOCOL, session=self._session, needed=self._by_peer.__contains__, serves=None
        )

    async def run(self) -> None:
        """Hold the streams until cancelled."""
        await self._sessions.run()

    async def _session(self, stream: FrameStream) -> None:
        try:
            await self._by_peer[stream.peer].session(stream, self._beside)
        finally:
            self._changed()
