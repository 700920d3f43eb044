"""`/rr/info/1`, the asker's side: one node's record, and the records that it passes on, each checked (DESIGN 4)."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from protocols.errors import PeerProtocolError
from protocols.ids import PeerId
from protocols.node_record import MAX_AHEAD, NodeRecord, Refusal, ToldChannel, digest_of, key_in, read
from protocols.units import AssetId, Sat, UnixTime
from protocols.wire.info import CODEC, PROTOCOL, GetOthers, GetRecord, Others, Record, Refused, Signed, Stop
from rrnode.errors import LinkClosed, Unreachable
from rrnode.host.base import FrameStream, Host, PeerConnected
from rrnode.services.limits import printable

ANSWER_WITHIN = 10.0  # seconds
MOST_PAGES = 8  # of a node's list: as many as an honest one has


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a node says about itself.

    Attributes:
        channels: that it tells of; empty when they were not asked for.
        clock: its clock when it answered, as seen against ours in the middle of `round_trip`: seconds ahead of us.
        round_trip: seconds from our question to its answer.
    """

    record: NodeRecord
    signed: Signed
    channels: tuple[ToldChannel, ...]
    clock: float
    round_trip: float


@dataclass(slots=True)
class Heard:
    """What a node passed on of others. `refused` counts the records that count for nothing."""

    records: list[tuple[NodeRecord, Signed]] = field(default_factory=list)
    refused: Counter[Refusal] = field(default_factory=Counter)


class Asker:
    """One stream; one question at a time. Made by `asking`.

    Every method raises `LinkClosed` when there is no answer and `PeerProtocolError` when there is one that cannot be.
    """

    def __init__(self, stream: FrameStream, network: AssetId, clock: Callable[[], float]) -> None:
        self._stream, self._network, self._clock = stream, network, clock
        self._number = 0
        self.remote_address = stream.remote_address

    async def about(self, *, channels: bool = False) -> About:
        """The node's own record."""
        asked = self._clock()
        answer = await self._ask(GetRecord(self._next(), channels))
        answered = self._clock()
        if not isinstance(answer, Record):
            raise PeerProtocolError(f"{type(answer).__name__} where Record was wanted")
        record = self._read(answer.record)
        if isinstance(record, Refusal):
            raise PeerProtocolError(f"its record counts for nothing: {record.value}")
        if record.node != self._stream.peer:
            raise PeerProtocolError("it gave another node's record for its own")
        told = tuple((PeerId(each.peer), Sat(each.capacity_sat)) for each in answer.channels)
        if channels and (len(told), digest_of(told)) != (record.channels, record.channels_digest):
            raise PeerProtocolError("its channels are not those that it signed")
        ahead = answer.now + 0.5 - (asked + answered) / 2  # its clock is cut to whole seconds
        return About(record=record, signed=answer.record, channels=told, clock=ahead, round_trip=answered - asked)

    async def others(self) -> Heard:
        """All servers that it knows, at most `MOST_PAGES` pages; those that count for nothing are counted."""
        heard, after = Heard(), bytes(33)
        for _ in range(MOST_PAGES):
            answer = await self._ask(GetOthers(self._next(), after))
            if not isinstance(answer, Others):
                raise PeerProtocolError(f"{type(answer).__name__} where Others was wanted")
            for signed in answer.records:
                record = self._read(signed)
                if isinstance(record, Refusal):
                    heard.refused[record] += 1
                    after = max(after, key_in(signed))  # or a page of such would be asked for again and again
                elif record.node <= after:
                    raise PeerProtocolError("records that are not in the order of their keys")
                else:
                    after = record.node
                    heard.records.append((record, signed))
            if not answer.more or not answer.records:
                break
        return heard

    def _read(self, signed: Signed) -> NodeRecord | Refusal:
        return read(signed, network=self._network, now=UnixTime(int(self._clock())))

    def _next(self) -> int:
        self._number += 1
        return self._number

    async def _ask(self, request: GetRecord | GetOthers) -> Record | Others:
        with trio.move_on_after(ANSWER_WITHIN):
            await self._stream.send(CODEC.encode(request))
            answer = CODEC.decode(await self._stream.receive())
            match answer:
                case Refused(reason=reason) | Stop(reason=reason):
                    raise LinkClosed(f"it does not answer: {printable(reason)}")
                case Record(request=number) | Others(request=number) if number == request.request:
                    return answer
            raise PeerProtocolError(f"{type(answer).__name__} that was not asked for")
        raise LinkClosed(f"no answer on {PROTOCOL} within {ANSWER_WITHIN:g} s")


@asynccontextmanager
async def asking(host: Host, peer: PeerId, *, network: AssetId, clock: Callable[[], float]) -> AsyncIterator[Asker]:
    """A stream for questions to a peer that is linked.

    Args:
        clock: unix time in seconds.

    Raises:
        LinkClosed: not linked, or the peer does not speak the protocol.
    """
    with trio.move_on_after(ANSWER_WITHIN) as patience:
        stream = await host.open_stream(peer, PROTOCOL)
    if patience.cancelled_caught:
        raise LinkClosed(f"{PROTOCOL} was not opened within {ANSWER_WITHIN:g} s")
    try:
        yield Asker(stream, network, clock)
    finally:
        stream.reset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """A node that answered a dial.

    Attributes:
        link: what it said in its `Hello`.
        dialled_in: seconds from the dial to its `Hello`.
        about: its record; None when it gave none, and `problem` says why.
    """

    link: PeerConnected
    dialled_in: float
    about: About | None
    problem: str = ""


async def meet(
    host: Host, address: str, *, network: AssetId, clock: Callable[[], float], channels: bool = False
) -> Meeting:
    """Dial an address and ask the node there about itself. The link is left standing.

    Raises:
        Unreachable: with one sentence.
    """
    began = trio.current_time()
    peer = await host.dial(address)
    link = host.connected().get(peer)
    if link is None:
        raise Unreachable("the link was lost at once")
    dialled_in = trio.current_time() - began
    try:
        async with asking(host, peer, network=network, clock=clock) as asker:
            about = await asker.about(channels=channels)
    except (LinkClosed, PeerProtocolError) as error:
        return Meeting(link=link, dialled_in=dialled_in, about=None, problem=printable(str(error)))
    return Meeting(link=link, dialled_in=dialled_in, about=about)


def clock_in_words(ahead: float) -> str:
    """How another clock stands against ours, `About.clock`."""
    if abs(ahead) < 1.5:
        return "agrees with ours within a second"
    warning = ", too far for offers to be understood" if abs(ahead) > MAX_AHEAD else ""
    return f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours{warning}"
