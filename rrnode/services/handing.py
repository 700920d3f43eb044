"""What a client and one of its watchers say on one stream: handed over, renewed, withdrawn, and compared (DESIGN 7).

What a watcher lacks is read off the disk (`rrnode.storage.cover`), so a break, a restart or a new watcher is nothing
special. Remedies are built in worker threads; nothing waits for them.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import structlog
import trio

from protocols.channel.state import Channel, Phase
from protocols.errors import PeerProtocolError
from protocols.ids import ChannelId, PeerId
from protocols.onchain.keys import ChannelKeys
from protocols.units import AssetId, BlockDelta, BlockHeight, Sat
from protocols.watch import receipt
from protocols.watch.policy import BountyConfig
from protocols.watch.remedy import HINT_SIZE, hint_of
from protocols.wire.watch import (
    CODEC,
    MAX_REMEDIES,
    HandOver,
    Holdings,
    List,
    Receipt,
    RefusalCode,
    Refused,
    Renew,
    SealedRemedy,
    Terms,
    WatchMessage,
    Withdraw,
    Withdrawn,
)
from rrnode.host.base import FrameStream
from rrnode.host.peer_text import to_text
from rrnode.remedies import sealed_remedies, stake_of
from rrnode.services.limits import printable
from rrnode.storage import RevokedState
from rrnode.storage.cover import NEVER, WINDOW, CoverStore, Due, Handed, Proof

log = structlog.get_logger(__name__)

ANSWER_WITHIN = 60.0  # seconds; a watcher's disk may be slow
BUILT_AT_ONCE = 64  # states; with 230 HTLCs each a second of signing
FRAME_ROOM = 64_000  # bytes of remedies in one message: three of the largest
RENEWED_AT_ONCE = 1000
FIRST_RETRY, LAST_RETRY = 10.0, 600.0  # seconds after a refusal
COMPARE_EVERY = BlockDelta(144)  # a day: 200 bytes of list for each kilobyte held
COMPARED_AT_ONCE = 4096  # rows, some milliseconds: the channels wait for this database, too
MOST_UNKNOWN = 100_000  # remedies that a watcher may list beyond twice what it was handed; 150 bytes of memory each
BLOCKS_AHEAD = 6  # that a watcher's chain may come to be before ours; so much earlier it may rightly drop something


class Turned(Exception):
    """The watcher refused; the message is for people."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(printable(reason))
        self.code = code


@dataclass(slots=True)
class Watcher:
    """One of ours.

    Attributes:
        number: in the store.
        problem: why it holds less than it could, for people; "" while there is none.
        wake: there may be something to do.
        done: by channel, (number from which on it lacks states, stake that this was looked at with).
        withdrawn: closed channels of which it holds nothing any more.
        refused_at, lost_at: heights at which our owner was last told that it refused a newest state, or lost something.
    """

    peer: PeerId
    address: str
    number: int
    problem: str = "not connected"
    connected: bool = False
    wake: trio.Event = field(default_factory=trio.Event)
    done: dict[ChannelId, tuple[int, Sat]] = field(default_factory=dict)
    withdrawn: set[ChannelId] = field(default_factory=set)
    refused_at: BlockHeight | None = None
    lost_at: BlockHeight | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What is needed of the node.

    Attributes:
        us: our node key, which receipts are made out to.
        store: what each watcher has.
        channels: all of ours, as they are now.
        keys_of: our keys of a channel, by its key index.
        network: genesis hash.
        height: of the chain.
        ask: how long remedies are to be kept; they are renewed when half of what was granted is over.
        bounties: how they are set.
        alarm: brings a sentence to our owner.
        news: called when a watcher holds more, or less, than before.
    """

    us: PeerId
    store: CoverStore
    channels: Callable[[], Sequence[Channel]]
    keys_of: Callable[[int], ChannelKeys]
    network: AssetId
    height: Callable[[], BlockHeight]
    ask: BlockDelta
    bounties: BountyConfig
    alarm: Callable[[str], None]
    news: Callable[[], None] = lambda: None


class Talk:
    """One request after the other."""

    def __init__(
        self,
        means: Means,
        watcher: Watcher,
        stream: FrameStream,
        answers: trio.MemoryReceiveChannel[WatchMessage],
    ) -> None:
        self._means, self._watcher, self._stream, self._answers = means, watcher, stream, answers
        self._store, self._numbers = means.store, count(1)
        self._granted = means.ask  # for how long it keeps what it takes now; it may grant more the longer it knows us
        self._looked_at = BlockHeight(0)  # height at which everything was looked at
        self._compared_at: BlockHeight | None = None
        self._its_height = 0  # when we connected
        self._newest: dict[ChannelId, int] = {}  # how many states a channel had when its newest was handed over

    async def run(self) -> None:
        """Until the stream ends. Raises PeerProtocolError, LinkClosed."""
        terms = await self._answer()
        if not isinstance(terms, Terms):
            raise self._broken(f"{type(terms).__name__} as a watcher's first message")
        self._granted = BlockDelta(min(self._means.ask, terms.most_blocks))
        self._its_height = terms.height
        retry = FIRST_RETRY
        while True:
            self._watcher.wake = trio.Event()
            try:
                await self._bring_up_to_date()
                self._watcher.problem, retry = "", FIRST_RETRY
            except Turned as refusal:
                self._refuses(refusal)
                log.warning("a watcher refuses", watcher=to_text(self._watcher.peer), why=str(refusal))
                await self._rest(retry, refusal)
                retry = min(2 * retry, LAST_RETRY)
                continue
            await self._watcher.wake.wait()

    def _refuses(self, refusal: Turned) -> None:
        self._watcher.problem = f"it refuses: {refusal}"

    async def _rest(self, seconds: float, refusal: Turned) -> None:
        """Before everything is tried again. What is revoked meanwhile is not made to wait: it may be smaller, and find room."""
        end = trio.current_time() + seconds
        while refusal.code != RefusalCode.TOO_FAST:
            with trio.move_on_at(end):
                await self._watcher.wake.wait()
            if trio.current_time() >= end:
                return
            self._watcher.wake = trio.Event()
            try:
                await self._hand_over_newest(self._behind())
            except Turned as another:
                refusal = another
        await trio.sleep_until(end)

    async def _bring_up_to_date(self) -> None:
        """Withdrawals first: they make room. Then what is held already: a refusal of what is new must not let it run out.

        Then the newest state of each channel, and older ones after all of these: the newest is what a channel may wait for, and
        a neighbour who makes many states must not use up the room for it, or for another channel's.
        """
        tip = self._means.height()
        for channel in self._means.channels():
            if channel.phase is Phase.CLOSED and channel.channel_id not in self._watcher.withdrawn:
                await self._withdraw(channel)
                self._watcher.withdrawn.add(channel.channel_id)
        if tip != self._looked_at:
            if self._compared_at is None or tip >= self._compared_at + COMPARE_EVERY:
                await self._compare(tip)
                self._compared_at = tip
            await self._renew(tip)
            await trio.to_thread.run_sync(self._store.drop_receipts, tip)
        behind = self._behind()
        await self._hand_over_newest(behind)
        for channel in behind:
            await self._hand_over(channel)
        self._looked_at = tip

    def _behind(self) -> list[Channel]:
        tip = self._means.height()
        return [channel for channel in self._means.channels() if self._may_lack(channel, tip)]

    def _may_lack(self, channel: Channel, tip: BlockHeight) -> bool:
        start, _ = self._watcher.done.get(channel.channel_id, (0, Sat(0)))
        news = start < channel.their_secrets.count or tip != self._looked_at  # the stake may have grown
        return news and channel.phase is not Phase.CLOSED and channel.their_secrets.count > 0

    def _broken(self, what: str) -> PeerProtocolError:
        self._watcher.problem = printable(f"it broke the protocol: {what}")
        return PeerProtocolError(what)

    async def _answer(self) -> WatchMessage:
        with trio.move_on_after(ANSWER_WITHIN):
            return await self._answers.receive()
        raise self._broken(f"a watcher said nothing for {ANSWER_WITHIN:.0f} s")

    async def _ask(self, request: HandOver | Renew | List | Withdraw) -> WatchMessage:
        await self._stream.send(CODEC.encode(request))
        answer = await self._answer()
        if isinstance(answer, Refused):
            raise Turned(answer.code, answer.reason)
        return answer

    # --- handing over -------------------------------------------------------------------------------------------------

    async def _hand_over_newest(self, channels: Sequence[Channel]) -> None:
        refused: Turned | None = None
        for channel in channels:
            try:
                await self._hand_over(channel, newest_only=True)
            except Turned as refusal:
                if refusal.code == RefusalCode.TOO_FAST:
                    raise
                refused = refusal  # another channel's may be smaller, and find room
                tip = self._means.height()
                if _is_news(self._watcher.refused_at, tip):
                    self._watcher.refused_at = tip
                    self._means.alarm(
                        f"the watcher {to_text(self._watcher.peer)} refuses the newest revoked state of channel "
                        f"{channel.channel_id.hex()[:16]}: {refusal}; see: rrnode cover"
                    )
        if refused is not None:
            raise refused

    async def _hand_over(self, channel: Channel, *, newest_only: bool = False) -> None:
        watcher, means = self._watcher, self._means
        if newest_only and self._newest.get(channel.channel_id) == channel.their_secrets.count:
            return
        stake = stake_of(channel)
        start, looked_at = watcher.done.get(channel.channel_id, (0, Sat(-1)))
        start = start if stake <= looked_at else 0
        # The engine may be ahead of the disk, and by now the disk ahead of this channel: only what is in both is there.
        stored = await trio.to_thread.run_sync(self._store.revoked, channel.channel_id)
        end = top = min(stored, channel.their_secrets.count)
        if newest_only:
            start = max(start, end - 1)
        while start < top:
            look = partial(
                self._store.to_do,
                watcher.number,
                channel.channel_id,
                stake=stake,
                start=start,
                end=top,
                limit=BUILT_AT_ONCE,
            )
            states = await trio.to_thread.run_sync(look)
            keys = means.keys_of(channel.key_index)
            made = await trio.to_thread.run_sync(sealed_remedies, channel, keys, states, stake, means.bounties)
            for part in _frames(made):
                await self._hand_over_what_fits(channel.channel_id, part, stake)
            top = top - WINDOW if len(states) < BUILT_AT_ONCE else states[-1].number
            if not newest_only and watcher.wake.is_set():
                # A new watcher is given thousands of states, and a neighbour makes as many: nobody's newest waits for them.
                await self._hand_over_newest(self._behind())
        if newest_only:
            self._newest[channel.channel_id] = end
        else:
            watcher.done[channel.channel_id] = end, max(stake, looked_at)

    async def _hand_over_what_fits(
        self, channel_id: ChannelId, made: Sequence[tuple[RevokedState, bytes | None]], stake: Sat
    ) -> None:
        """All of it, or the newest half, or of that the newest half. Raises Turned when it was not all."""
        try:
            await self._hand_over_some(channel_id, made, stake)
        except Turned as refusal:
            if refusal.code in (RefusalCode.OVER_QUOTA, RefusalCode.FULL) and len(made) > 1:
                await self._hand_over_what_fits(channel_id, made[: len(made) // 2], stake)
            raise

    async def _hand_over_some(
        self, channel_id: ChannelId, made: Sequence[tuple[RevokedState, bytes | None]], stake: Sat
    ) -> None:
        remedies = tuple(SealedRemedy(hint_of(state.txid), sealed) for state, sealed in made if sealed is not None)
        proof, until = None, NEVER
        if remedies:
            kept = [(each.hint, hashlib.sha256(each.sealed).digest()) for each in remedies]
            asked = BlockHeight(self._means.height() + self._means.ask)
            answer = await self._ask(HandOver(next(self._numbers), asked, remedies))
            proof = self._proof(answer, asked, kept)
            until = proof.until
        handed = [
            Handed(
                number=state.number,
                digest=None if sealed is None else hashlib.sha256(sealed).digest(),
                until=NEVER if sealed is None else until,
                stake=stake,
            )
            for state, sealed in made
        ]
        await trio.to_thread.run_sync(self._store.note, self._watcher.number, channel_id, handed, proof)
        self._means.news()

    def _proof(self, answer: WatchMessage, asked: BlockHeight, kept: Sequence[receipt.Kept]) -> Proof:
        if not isinstance(answer, Receipt):
            raise self._broken(f"{type(answer).__name__} where a receipt was wanted")
        until, tip, means = BlockHeight(answer.until), self._means.height(), self._means
        if until > asked or until < tip:
            raise self._broken(f"a receipt until height {until}, asked was {asked}")
        if not receipt.is_valid(answer.signature, self._watcher.peer, means.network, means.us, until, kept):
            raise self._broken("a receipt whose signature is not the watcher's for what was handed over")
        self._granted = BlockDelta(until - (asked - means.ask))  # from when we asked: blocks may have come since
        listed = b"".join(hint + digest for hint, digest in kept)
        return Proof(until=until, listed=listed, signature=answer.signature)

    # --- keeping up ---------------------------------------------------------------------------------------------------

    async def _renew(self, tip: BlockHeight) -> None:
        """Keep what would be dropped before half of the time that is granted is over."""
        watcher, horizon = self._watcher, BlockHeight(tip + self._granted // 2)
        while due := await trio.to_thread.run_sync(self._store.due, watcher.number, horizon, RENEWED_AT_ONCE):
            asked = BlockHeight(tip + self._means.ask)
            try:
                answer = await self._ask(Renew(next(self._numbers), asked, tuple(hint_of(each.txid) for each in due)))
            except Turned as refusal:
                if refusal.code != RefusalCode.NOT_HELD:
                    raise
                await self._hand_over_again(due)
                continue
            proof = self._proof(answer, asked, [(hint_of(each.txid), each.digest) for each in due])
            await trio.to_thread.run_sync(self._store.renewed, watcher.number, due, proof)
            if proof.until < horizon:
                return  # it grants less than its terms say: again with the next block

    async def _hand_over_again(self, lost: Sequence[Due]) -> None:
        await trio.to_thread.run_sync(self._store.dropped, self._watcher.number, lost)
        self._watcher.done.clear()
        self._newest.clear()
        self._watcher.wake.set()
        self._means.news()

    async def _withdraw(self, channel: Channel) -> None:
        while True:
            due = await trio.to_thread.run_sync(
                self._store.of_channel, self._watcher.number, channel.channel_id, RENEWED_AT_ONCE
            )
            if not due:
                return
            answer = await self._ask(Withdraw(next(self._numbers), tuple(hint_of(each.txid) for each in due)))
            if not isinstance(answer, Withdrawn):
                raise self._broken(f"{type(answer).__name__} as the answer to Withdraw")
            await trio.to_thread.run_sync(self._store.dropped, self._watcher.number, due)

    # --- what it says it holds ----------------------------------------------------------------------------------------

    async def _compare(self, tip: BlockHeight) -> None:
        """Hold what it lists against its receipts. What it does not list, or only something else or for a shorter time, it has
        lost: our owner is told, and it gets it again."""
        number = self._watcher.number
        handed = await trio.to_thread.run_sync(self._store.count, number)
        listed = await self._listed(most=2 * handed + MOST_UNKNOWN)
        # We may be behind the chain ourselves. Whoever exaggerates its height might as well list what it has lost.
        after, broken, past = (0, -1), 0, max(tip, self._its_height) + BLOCKS_AHEAD
        while rows := await trio.to_thread.run_sync(self._store.handed, number, after, COMPARED_AT_ONCE):
            after = rows[-1].channel_row, rows[-1].number
            if lost := [each for each in rows if listed.get(_key(hint_of(each.txid), each.digest), -1) < each.until]:
                broken += sum(each.until > past for each in lost)
                await self._hand_over_again(lost)
        if broken:
            log.warning("a watcher lost remedies", watcher=to_text(self._watcher.peer), count=broken)
        if broken and _is_news(self._watcher.lost_at, tip):
            self._watcher.lost_at = tip
            self._means.alarm(
                f"the watcher {to_text(self._watcher.peer)} has lost {broken} remedies that it gave receipts for; they are "
                "handed over again, but do not rely on it"
            )

    async def _listed(self, *, most: int) -> dict[bytes, int]:
        """Until when it says that it holds what."""
        listed, after, more = dict[bytes, int](), bytes(HINT_SIZE), True
        while more:
            try:
                answer = await self._ask(List(next(self._numbers), after))
            except Turned as refusal:
                if refusal.code != RefusalCode.TOO_FAST:
                    raise
                self._refuses(refusal)
                await trio.sleep(FIRST_RETRY)  # and on from here: a long list would never end otherwise
                continue
            if not isinstance(answer, Holdings):
                raise self._broken(f"{type(answer).__name__} as the answer to List")
            for each in answer.held:
                if each.hint <= after:
                    raise self._broken("a list of remedies that is not in their order")
                after = each.hint
                listed[_key(each.hint, each.digest)] = each.until
            more = answer.more
            if (more and not answer.held) or len(listed) > most:
                raise self._broken(f"a list of {len(listed)} remedies that goes on, at most {most} allowed")
        return listed


def _is_news(told_at: BlockHeight | None, tip: BlockHeight) -> bool:
    """Whether our owner is told again: once a day, or one watcher could drown all other alarms."""
    return told_at is None or tip >= told_at + COMPARE_EVERY


def _key(hint: bytes, digest: bytes) -> bytes:
    return hint + digest[:8]  # enough to notice that something else was kept; whoever keeps it cannot choose the digest


def _frames(
    made: Sequence[tuple[RevokedState, bytes | None]],
) -> Iterator[Sequence[tuple[RevokedState, bytes | None]]]:
    """In parts that fit a frame each."""
    part, size = list[tuple[RevokedState, bytes | None]](), 0
    for state, sealed in made:
        room = 0 if sealed is None else HINT_SIZE + len(sealed) + 8
        if part and (size + room > FRAME_ROOM or len(part) == MAX_REMEDIES):
            yield part
            part, size = [], 0
        part.append((state, sealed))
        size += room
    if part:
        yield part
