"""Keeping links and parting from them: heartbeat, writers that are stuck, goodbye (DESIGN 3; `protocols.wire.link`)."""

from collections.abc import Mapping
from contextlib import suppress

import trio

from protocols.errors import DecodeError, PeerProtocolError
from protocols.ids import PeerId
from protocols.wire import link as wire
from rrnode.errors import LinkClosed
from rrnode.host.base import HostConfig, HostCounters
from rrnode.host.link import QueuedStream
from rrnode.host.linked import Link

_LOOKED_AT_ONCE = 100  # links, some tenths of a millisecond, before other tasks get their turn


class Keeping:
    """What passes on `/rr/link/1` once both have said `Hello`."""

    def __init__(self, config: HostConfig, counters: HostCounters) -> None:
        self._config, self._counters = config, counters

    async def heartbeats(self, links: Mapping[PeerId, Link]) -> None:
        """Ping whom nothing was heard of for a while, end the links of which nothing is heard for too long.

        One task for all: a timer for each of thousands of idle links costs more than the pings. Silence is counted in ticks
        of our own, so that a process that slept does not take its peers for dead. Whoever dialled pings first; the other
        does so only when that does not come.
        """
        tick = min(self._config.heartbeat_every, self._config.lost_after) / 4
        while True:
            await trio.sleep(tick)
            for number, link in enumerate(list(links.values()), start=1):
                self._look_at(link, tick)
                if number % _LOOKED_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()

    def _look_at(self, link: Link, tick: float) -> None:
        if link.ended.is_set():
            return
        if link.heard:
            link.heard, link.silence, link.pinged_at = False, 0.0, 0.0
        else:
            link.silence += tick
        if link.silence >= self._config.lost_after:
            self._counters.lost_peers += 1
            link.end(f"nothing heard for {self._config.lost_after:g} s")
            return
        every = self._config.heartbeat_every + (tick if link.inbound else 0)
        if link.silence - link.pinged_at >= every and link.control is not None:
            link.nonce, link.pinged_at = link.nonce + 1 & 0xFFFFFFFF, link.silence
            try:
                link.control.send_nowait(wire.CODEC.encode(wire.Ping(nonce=link.nonce)))
            except trio.WouldBlock:
                pass  # the writer is stuck: silence or the stall watch will tell
            except LinkClosed as error:
                link.end(str(error))
        self._drop_stalled(link)

    def _drop_stalled(self, link: Link) -> None:
        now = trio.current_time()
        for stream in list(link.streams):
            if stream.writing_since is not None and now - stream.writing_since > self._config.stall_after:
                self._counters.stalled_streams += 1
                stream.end(f"the peer took nothing for {self._config.stall_after:g} s")
                if stream is link.control:
                    link.end("the peer reads no heartbeat")

    async def listen(self, link: Link, control: QueuedStream) -> None:
        """Answer pings until the peer says goodbye or the stream ends; the link ends with it."""
        reason = "the heartbeat stream ended"
        try:
            while True:
                match wire.CODEC.decode(await control.receive()):
                    case wire.Ping(nonce=nonce):
                        await control.send(wire.CODEC.encode(wire.Pong(nonce=nonce)))
                    case wire.Pong():
                        pass
                    case wire.Goodbye(reason=said):
                        reason = f"the peer said goodbye: {said}"
                        return
                    case wire.Hello():
                        raise DecodeError("a second Hello on one connection")
        except LinkClosed as error:
            reason = str(error)
        except PeerProtocolError as error:
            self._counters.bad_messages += not control.bad_frames
            reason = f"nonsense on {wire.PROTOCOL}: {error}"
        finally:
            link.end(reason)

    async def say_goodbye(self, link: Link, stream: QueuedStream, reason: str) -> None:
        """`Goodbye`, and a short time for the peer to read it and hang up: a closing connection may swallow it."""
        with suppress(LinkClosed), trio.move_on_after(min(1.0, self._config.close_timeout)):
            await stream.send(wire.CODEC.encode(wire.Goodbye(reason=reason[:256])))
            await stream.flush()
            await link.connection.closed.wait()
