"""How fast one peer is read, over all its streams: a flood waits at its sender and takes nobody's turn (DESIGN 9).

Nothing is refused and nothing lost: beyond its budget a peer's bytes stay unread, its window closes and its own writes
wait. Costs are counted in small frames, about 0.1 ms of processor each from socket to engine, as measured.
"""

from collections.abc import Callable
from functools import partial

import trio

from protocols.ids import PeerId

BYTES_PER_FRAME = 8192  # a long frame counts once more for each: 64 KiB take about 1 ms to decrypt, copy and decode
FRAMES_PER_STREAM = 32  # to agree on a protocol and to start a stream takes 3 ms
_NEWCOMER = 8  # the part of the burst that a new peer begins with: identities are free, and each would bring a burst


class Pace:
    """The budget of one peer, and whoever waits for it.

    Every stream asks for one frame at a time and in the order of asking, so a stream that floods keeps no other of the
    same peer waiting for longer than the frames of one round.

    Args:
        per_second: frames in the long run.
        burst: frames that may come at once after a silence.
        exceeded: called when the peer has to wait for the first time.
    """

    __slots__ = ("_exceeded", "_paid_until", "_saved", "_seconds")

    def __init__(self, per_second: int, burst: int, exceeded: Callable[[], None]) -> None:
        self._seconds = 1 / per_second
        self._saved = burst / per_second  # seconds
        self._paid_until = trio.current_time() - self._saved / _NEWCOMER  # when what was taken has been earned
        self._exceeded: Callable[[], None] | None = exceeded

    async def take_frame(self, size: int) -> None:
        """Take a frame of so many bytes out of the budget; waits until it is earned."""
        await self._take(1 + size // BYTES_PER_FRAME)

    async def take_stream(self) -> None:
        """Likewise for the start of a stream."""
        await self._take(FRAMES_PER_STREAM)

    async def _take(self, frames: int) -> None:
        now = trio.current_time()
        self._paid_until = max(self._paid_until, now - self._saved) + frames * self._seconds
        if self._paid_until > now:
            if self._exceeded is not None:
                self._exceeded()
                self._exceeded = None
            await trio.sleep_until(self._paid_until)


class Paces:
    """The budgets of all peers. They outlive links, or a peer would renew its own by dialling again.

    Args:
        per_second, burst: of each peer, in frames.
        most: peers remembered; of more, the one that connected longest ago begins anew when it connects again.
        exceeded: called with a peer that has to wait for the first time.
    """

    def __init__(self, per_second: int, burst: int, *, most: int, exceeded: Callable[[PeerId], None]) -> None:
        self._per_second, self._burst, self._most = per_second, burst, most
        self._exceeded = exceeded
        self._known: dict[PeerId, Pace] = {}

    def of(self, peer: PeerId) -> Pace:
        """The budget of a peer that connects."""
        pace = self._known.pop(peer, None)
        if pace is None:
            pace = Pace(self._per_second, self._burst, partial(self._exceeded, peer))
        self._known[peer] = pace
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]
        return pace
