"""What the node's owner and whoever waits inside it learn: alarms, events for followers, and that something has changed."""

from collections import deque
from collections.abc import Callable

import structlog
import trio

from protocols.ids import ChannelId
from rrnode.control import models as m
from rrnode.control.bus import EventBus
from rrnode.services.limits import printable

log = structlog.get_logger(__name__)

MOST_ALARMS = 100  # sentences kept for `rrnode status`; older ones are in the log


class News:
    """Told by every part of a node.

    Attributes:
        alarms: what a person must know, newest last.
        bus: events for followers.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.alarms: deque[str] = deque(maxlen=MOST_ALARMS)
        self.bus = EventBus(clock)
        self._change = trio.Event()

    def alarm(self, text: str, channel_id: ChannelId | None = None) -> None:
        """A person must know this."""
        text = printable(text)  # it may repeat what a peer said
        log.error("alarm", text=text)
        self.alarms.append(text)
        self.bus.publish(m.AlarmRaised(channel_id=channel_id.hex() if channel_id else "", text=text))

    def notify(self) -> None:
        """Something (a channel, a peer, the chain) has changed: wake who waits for it."""
        self._change.set()
        self._change = trio.Event()

    async def changed(self) -> None:
        """Wait until something has changed."""
        await self._change.wait()
