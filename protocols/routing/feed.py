"""The full feed: what a node took into its table, as it came, in numbered bundles that can be asked for again (DESIGN 4).

For servers that share a node's work, and for tools. Nobody's balance can be read from it that its neighbours did not
give away, but all of them at once: so it is only for keys that the owner lists.
"""

from collections import deque

from protocols.wire.routing import MAX_BUNDLE, RoutingMessage

MOST_KEPT = 16_384  # offers; some 6 MB, and minutes of a busy server's traffic


class Feed:
    """The newest bundles. A follower keeps a position, and whoever falls behind finds a gap in the numbers.

    Args:
        first: number of the first bundle. A process that starts again begins above all numbers of the one before, if it
            begins with its clock in microseconds: no node makes a million bundles a second.
        most: offers kept.
    """

    __slots__ = ("_bundles", "_kept", "_most", "next")

    def __init__(self, first: int, most: int = MOST_KEPT) -> None:
        self.next = first
        self._bundles: deque[tuple[RoutingMessage, ...]] = deque()
        self._most = most
        self._kept = 0

    @property
    def oldest(self) -> int:
        """Number of the oldest bundle that is kept; that of the next one when there is none."""
        return self.next - len(self._bundles)

    def put(self, offers: tuple[RoutingMessage, ...]) -> None:
        """Add offers, as few bundles as messages can hold them."""
        for start in range(0, len(offers), MAX_BUNDLE):
            bundle = offers[start : start + MAX_BUNDLE]
            self._bundles.append(bundle)
            self._kept += len(bundle)
            self.next += 1
        while self._kept > self._most:
            self._kept -= len(self._bundles.popleft())

    def from_number(self, wanted: int) -> int:
        """Where one who wants everything from a number on begins: what is gone is skipped, what is not yet is waited for."""
        return min(max(wanted, self.oldest), self.next)

    def take(self, number: int) -> tuple[int, tuple[RoutingMessage, ...]] | None:
        """The bundle of this number, or the oldest when it is gone; None when it is not there yet."""
        number = self.from_number(number)
        if number == self.next:
            return None
        return number, self._bundles[number - self.oldest]
