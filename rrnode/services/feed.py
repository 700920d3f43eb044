"""The other end of the full feed: for a server that shares another's work, and for tools (`/rr/subscribe/1`, Follow)."""

from collections.abc import Callable

import structlog

from protocols.errors import PeerProtocolError
from protocols.ids import PeerId
from protocols.wire.routing import RoutingMessage
from protocols.wire.subscribe import CODEC, PROTOCOL, Fed, Follow, Following, Refused, Stop
from rrnode.host.base import FrameStream, Host
from rrnode.host.peer_text import to_text
from rrnode.services.limits import printable
from rrnode.services.sessions import Sessions

log = structlog.get_logger(__name__)

FROM_NOW = 2**63 - 1  # as `from_number`: nothing that was before


class FeedFollower:
    """Holds a stream to one server and takes its full feed; after a break it goes on where it was.

    Args:
        host: linked with the server, or to be.
        server: whose feed.
        take: gets the offers of each bundle, in order, each bundle once.
        from_number: the first bundle wanted; 0: the oldest that is kept.

    Attributes:
        next: number of the bundle that comes next.
        gaps: how often the feed went on further than where it had stopped: we were away too long, or too slow, or the
            server started anew.
        problem: why the server gives nothing; "" while it does.
    """

    def __init__(
        self, *, host: Host, server: PeerId, take: Callable[[tuple[RoutingMessage, ...]], None], from_number: int = 0
    ) -> None:
        self._take = take
        self.next = from_number
        self.gaps = 0
        self.problem = ""
        self._expects = 0 < from_number < FROM_NOW  # whether a later start is a gap
        self.sessions = Sessions(
            host=host, protocol=PROTOCOL, session=self._session, needed=lambda peer: peer == server, serves=None
        )

    async def run(self) -> None:
        """Hold the stream until cancelled."""
        await self.sessions.run()

    async def _session(self, stream: FrameStream) -> None:
        await stream.send(CODEC.encode(Follow(1, self.next)))
        match CODEC.decode(await stream.receive()):
            case Following(request=1, first=first):
                self.problem = ""
                self._begin(first)
            case Refused(reason=reason) | Stop(reason=reason):
                self.problem = printable(reason)
                log.warning("a server gives no feed", peer=to_text(stream.peer), reason=self.problem)
                return
            case other:
                raise PeerProtocolError(f"{type(other).__name__} in answer to Follow")
        while True:
            match CODEC.decode(await stream.receive()):
                case Fed(number=number, offers=offers):
                    if number < self.next:
                        raise PeerProtocolError(f"bundle {number} of the feed after {self.next - 1}")
                    self._begin(number)
                    self.next = number + 1
                    self._take(offers)
                case Stop(reason=reason):
                    self.problem = printable(reason)
                    return
                case other:
                    raise PeerProtocolError(f"{type(other).__name__} from a server that we follow")

    def _begin(self, number: int) -> None:
        self.gaps += self._expects and number > self.next
        self._expects = True
        self.next = number
