"""Who answered for which blocks, however many they are: heights in a row with the same answerers take the room of one.

Source: DESIGN 8 (that nothing happened in a block holds when k helpers answered for it).
"""

from collections.abc import Iterator, Set

from protocols.ids import PeerId
from protocols.units import BlockHeight

MOST_RUNS = 1000  # helpers come and go a few times a day; each run is some 300 bytes

_Run = tuple[int, int, frozenset[PeerId]]  # first and last height, and who answered for all of them


class Answered:
    """Answerers by height. Of too many runs the two lowest are joined, and nobody counts who did not answer for both."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []  # ascending, none overlaps another

    def put(self, height: BlockHeight, peers: Set[PeerId]) -> None:
        """These and no others answered for this height."""
        here = (height, height, frozenset(peers))
        below = [(first, min(last, height - 1), who) for first, last, who in self._runs if first < height]
        above = [(max(first, height + 1), last, who) for first, last, who in self._runs if last > height]
        self._runs = []
        for run in (*below, here, *above):
            first, last, who = run
            if self._runs and self._runs[-1][1] + 1 == first and self._runs[-1][2] == who:
                run = (self._runs.pop()[0], last, who)
            self._runs.append(run)
        if len(self._runs) > MOST_RUNS:
            (first, _, some), (_, last, others) = self._runs[:2]
            self._runs[:2] = [(first, last, some & others)]

    def at(self, height: BlockHeight) -> frozenset[PeerId]:
        """Who answered for this height."""
        return next((who for first, last, who in self._runs if first <= height <= last), frozenset())

    def lacking(self, relied_on: Set[PeerId], least: int) -> Iterator[BlockHeight]:
        """Heights for which fewer than k of these answered, ascending, as of the first one that is taken."""
        for first, last, who in tuple(self._runs):
            if len(who & relied_on) < least:
                yield from map(BlockHeight, range(first, last + 1))
