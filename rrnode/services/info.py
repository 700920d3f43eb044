"""`/rr/info/1`, the server's side: what our owner lets us say about ourselves, and which servers we know (DESIGN 4).

A record is made anew when what it says has changed or an hour has passed, so neither its date nor its content tells when
a payment went through or who is connected.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import trio

from bootstrap.known import dialable
from bootstrap.relays import SWITCH_ROUTE
from protocols.channel.state import Channel, Phase
from protocols.errors import PeerProtocolError
from protocols.ids import PeerId
from protocols.node_record import (
    MAX_ADDRESS,
    MAX_ADDRESSES,
    MAX_AHEAD,
    MAX_PROTOCOL,
    MAX_PROTOCOLS,
    MAX_TEXT,
    NodeRecord,
    digest_of,
    sign,
)
from protocols.units import Sat, UnixTime
from protocols.wire.info import (
    CODEC,
    MAX_CHANNELS,
    MAX_RECORDS,
    PROTOCOL,
    GetOthers,
    GetRecord,
    Others,
    Record,
    RefusalCode,
    Refused,
    Signed,
    Stop,
    ToldChannel,
)
from rrnode.config.settings import Settings
from rrnode.host.base import FrameStream, Host
from rrnode.host.peer_text import split_address
from rrnode.services.limits import Shares

RENEW_AFTER = 3600  # seconds; a record counts for a week, so that some asker always has one in time
IDLE = 60.0  # seconds without a request after which a stream is ended
CHANNELS_PER_REQUEST = 100  # told channels that cost as much as one request

Page = Callable[[bytes, int], tuple[tuple[Signed, ...], bool]]


class OwnRecord:
    """Our own record as it is now.

    Args:
        settings: what may be told.
        secret: of the node's key.
        agent: program and version.
        host: addresses, protocols, and who of our neighbours routes.
        channels: all of ours.
        now: unix time.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        secret: bytes,
        agent: str,
        host: Host,
        channels: Callable[[], Iterable[Channel]],
        now: Callable[[], UnixTime],
    ) -> None:
        self._settings, self._secret, self._agent, self._host = settings, secret, agent, host
        self._channels, self._now = channels, now
        self._routing: frozenset[PeerId] = frozenset()  # neighbours that were linked once and route
        self._looked_at = UnixTime(-1)
        self._facts: NodeRecord | None = None
        self._made = UnixTime(0)
        self._answer: tuple[Signed, tuple[ToldChannel, ...]] | None = None

    def current(self) -> tuple[Signed, tuple[ToldChannel, ...]]:
        """The record, and the channels that its digest is over. What it costs is paid once a second at most."""
        now = self._now()
        if self._answer is not None and now == self._looked_at:
            return self._answer
        self._looked_at = now
        channels = self._told_channels()
        facts = self._say(channels)
        if self._answer is None or self._facts != facts or not 0 <= now - self._made < RENEW_AFTER:
            # Of two records the later one counts, so a changed one waits for the next second; unless our clock was set back.
            if self._made >= now and self._made - now <= MAX_AHEAD:
                assert self._answer is not None, "made before the first answer"
                return self._answer
            self._facts, self._made = facts, now
            self._answer = sign(replace(facts, made=now), self._secret), channels
        return self._answer

    def _say(self, channels: tuple[ToldChannel, ...]) -> NodeRecord:
        told, node = self._settings.info, self._settings.node
        return NodeRecord(
            node=self._host.peer_id,
            network=self._settings.network.genesis,
            made=UnixTime(0),
            switches=self._settings.switches if told.roles else 0,
            agent=_cut(self._agent) if told.agent else "",
            operator=_cut(node.operator),
            addresses=self._addresses() if told.addresses else (),
            protocols=self._protocols() if told.roles else (),
            channels=len(channels),
            channels_digest=digest_of((PeerId(each.peer), Sat(each.capacity_sat)) for each in channels),
        )

    def _addresses(self) -> tuple[str, ...]:
        places = (split_address(each)[0] for each in self._host.addresses())
        anywhere = self._settings.node.network == "regtest"  # else our own network's addresses are nobody's business
        return tuple(each for each in dialable(places, anywhere=anywhere) if len(each) <= MAX_ADDRESS)[:MAX_ADDRESSES]

    def _protocols(self) -> tuple[str, ...]:
        return tuple(each for each in self._host.protocols() if len(each) <= MAX_PROTOCOL)[:MAX_PROTOCOLS]

    def _told_channels(self) -> tuple[ToldChannel, ...]:
        told = self._settings.info.channels
        if told == "nothing":
            return ()
        open_ones = [each for each in self._channels() if each.phase is Phase.OPEN]
        linked = self._host.connected()
        self._routing = frozenset(
            each.peer
            for each in open_ones
            if each.peer in self._routing or (each.peer in linked and linked[each.peer].switches & SWITCH_ROUTE)
        )
        public = [each for each in open_ones if each.peer in self._routing]
        if told == "peers":
            return tuple(ToldChannel(peer, 0) for peer in sorted({each.peer for each in public})[:MAX_CHANNELS])
        public.sort(key=lambda each: (-each.capacity, each.peer))
        return tuple(ToldChannel(each.peer, each.capacity) for each in public[:MAX_CHANNELS])


def _cut(text: str) -> str:
    return text.encode()[:MAX_TEXT].decode(errors="ignore")


class InfoServer:
    """Answers whoever asks, within limits.

    Args:
        host: the links.
        own: our record.
        others: a page of the records that we know: those after a key, at most so many, and whether there are more.
        now: unix time.
    """

    def __init__(self, *, host: Host, own: OwnRecord, others: Page, now: Callable[[], UnixTime]) -> None:
        self._own, self._others, self._now = own, others, now
        self._requests = Shares(per_sender=2, per_network=20, total=200, own=0.5, burst=20)
        host.handle(PROTOCOL, self._serve)

    async def _serve(self, stream: FrameStream) -> None:
        while True:
            with trio.move_on_after(IDLE) as patience:
                request = CODEC.decode(await stream.receive())
            if patience.cancelled_caught:
                await stream.send(CODEC.encode(Stop(RefusalCode.SHUTTING_DOWN, "nothing was asked for a minute")))
                return
            match request:
                case GetRecord() | GetOthers():
                    await stream.send(CODEC.encode(self._answer(request, stream)))
                case Stop():
                    return
                case other:
                    raise PeerProtocolError(f"{type(other).__name__} from one who asks")

    def _answer(self, request: GetRecord | GetOthers, stream: FrameStream) -> Record | Others | Refused:
        if not self._requests.take(stream.remote_address, stream.peer):
            return Refused(request.request, RefusalCode.TOO_FAST, "more than 2 requests a second")
        match request:
            case GetRecord(request=number):
                record, channels = self._own.current()
                sent = channels if request.channels else ()
                if sent and not self._requests.take(
                    stream.remote_address, stream.peer, len(sent) / CHANNELS_PER_REQUEST
                ):
                    return Refused(number, RefusalCode.TOO_FAST, "channels count for several requests")
                return Record(number, self._now(), record, sent)
            case GetOthers(request=number, after=after):
                records, more = self._others(after, MAX_RECORDS)
                return Others(number, records, more)
