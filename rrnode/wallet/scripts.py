"""Our output scripts and where they hang on the seed; always some way ahead of what was given out (BIP 44, gap limit)."""

from collections.abc import Iterator
from typing import NamedTuple

from protocols.onchain.scripts import p2wpkh
from rrnode.keys import KeyTree

LOOK_AHEAD = 100  # unused addresses in a row that a restore from the words still looks across


class Place(NamedTuple):
    """An address of ours: `m/84'/coin'/0'/change/number`."""

    change: bool
    number: int


class Scripts:
    """Scripts by place and places by script, derived up to `look_ahead` past the last one given out or used.

    Args:
        next_receiving, next_change: first index of each kind never given out.
    """

    def __init__(
        self, keys: KeyTree, *, next_receiving: int = 0, next_change: int = 0, look_ahead: int = LOOK_AHEAD
    ) -> None:
        self._keys, self._look_ahead = keys, look_ahead
        self._places: dict[bytes, Place] = {}
        self._derived = {False: 0, True: 0}
        self._next = {False: next_receiving, True: next_change}
        self._used: set[Place] = set()
        self._extend()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, script: bytes) -> bool:
        return script in self._places

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._places)

    def place(self, script: bytes) -> Place | None:
        """Where this script hangs, None when it is not ours."""
        return self._places.get(script)

    def script(self, place: Place) -> bytes:
        """The P2WPKH script of an address, whether in sight or not."""
        return p2wpkh(self._keys.wallet_key(place.number, change=place.change))

    def next(self, *, change: bool) -> int:
        """First index never given out."""
        return self._next[change]

    def give_out(self, *, change: bool) -> int:
        """Take the next index."""
        index = self._next[change]
        self._next[change] = index + 1
        self._extend()
        return index

    def look_further(self, look_ahead: int) -> None:
        """Look across at least so many unused addresses from now on."""
        self._look_ahead = max(self._look_ahead, look_ahead)
        self._extend()

    def used(self, place: Place) -> None:
        """A transaction pays it, so it counts as given out (which is how a restore finds its way)."""
        self._used.add(place)
        if place.number >= self._next[place.change]:
            self._next[place.change] = place.number + 1
            self._extend()

    def is_used(self, place: Place) -> bool:
        """Whether a transaction that we know of pays it."""
        return place in self._used

    def _extend(self) -> None:
        for change in (False, True):
            wanted = self._next[change] + self._look_ahead
            for index in range(self._derived[change], wanted):
                place = Place(change, index)
                self._places[self.script(place)] = place
            self._derived[change] = max(wanted, self._derived[change])
