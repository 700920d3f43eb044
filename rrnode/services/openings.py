"""Channels that our owner is opening: followed through the change of their id, to success or a sentence why not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from protocols.ids import ChannelId


@dataclass(slots=True)
class Opening:
    """One of them: under which id it goes now, and why it came to nothing."""

    now_called: ChannelId
    reason: str = ""
    hint: str = ""


class Openings:
    """Everything that is being opened on our owner's order.

    Args:
        changed: called when one of them has failed.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._followed: dict[ChannelId, Opening] = {}

    @contextmanager
    def following(self, temporary: ChannelId) -> Iterator[Opening]:
        """Follow the channel that is ordered under this temporary id."""
        opening = self._followed[temporary] = Opening(now_called=temporary)
        try:
            yield opening
        finally:
            del self._followed[temporary]

    def renamed(self, before: ChannelId, after: ChannelId) -> None:
        """A channel has got its permanent id."""
        for opening in self._followed.values():
            if opening.now_called == before:
                opening.now_called = after

    def failed(self, channel_id: ChannelId, reason: str, hint: str = "") -> None:
        """Somebody refused a channel: the neighbour, our wallet, or our own engine."""
        for opening in self._followed.values():
            if opening.now_called == channel_id and not opening.reason:
                opening.reason, opening.hint = reason or "the neighbour refused the channel", hint
        self._changed()
