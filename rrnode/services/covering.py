"""`/rr/watch/1`, the client's side: every state that a neighbour revokes is handed to every watcher (DESIGN 7).

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
    PROTOCOL,
    HandOver,
    Receipt,
    RefusalCode,
    Refused,
    Renew,
    SealedRemedy,
    Stop,
    Terms,
    WatchMessage,
    Withdraw,
    Withdrawn,
)
from rrnode.host.base import FrameStream, Host
from rrnode.host.peer_text import to_text
from rrnode.remedies import sealed_remedies, stake_of
from rrnode.services.limits import printable
from rrnode.services.sessions import Sessions
from rrnode.storage import RevokedState
from rrnode.storage.cover import NEVER, WINDOW, CoverStore, Extent, Handed, Proof

log = structlog.get_logger(__name__)

ANSWER_WITHIN = 60.0  # seconds; a watcher's disk may be slow
BUILT_AT_ONCE = 64  # states; with 230 HTLCs each a second of signing
FRAME_ROOM = 64_000  # bytes of remedies in one message: three of the largest
RENEWED_AT_ONCE = 1000
FIRST_RETRY, LAST_RETRY = 10.0, 600.0  # seconds after a refusal


class _Turned(Exception):
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
    """

    peer: PeerId
    address: str
    number: int
    problem: str = "not connected"
    connected: bool = False
    wake: trio.Event = field(default_factory=trio.Event)
    done: dict[ChannelId, tuple[int, Sat]] = field(default_factory=dict)
    withdrawn: set[ChannelId] = field(default_factory=set)


class CoverClient:
    """Hands remedies to our watchers and renews them.

    Args:
        host: the links.
        store: what each watcher has.
        watchers: their peer ids and addresses, as configured.
        channels: all of ours, as they are now.
        keys_of: our keys of a channel, by its key index.
        network: genesis hash.
        height: of the chain.
        ask: how long remedies are to be kept; they are renewed when half of it is over.
        refuses: why this watcher must not be used now, "" when it may.
        bounties: how they are set.
    """

    def __init__(
        self,
        *,
        host: Host,
        store: CoverStore,
        watchers: Sequence[tuple[PeerId, str]],
        channels: Callable[[], Sequence[Channel]],
        keys_of: Callable[[int], ChannelKeys],
        network: AssetId,
        height: Callable[[], BlockHeight],
        ask: BlockDelta,
        refuses: Callable[[PeerId], str],
        bounties: BountyConfig,
    ) -> None:
        self._host, self._store, self._channels, self._keys_of = host, store, channels, keys_of
        self._network, self._height, self._ask, self._bounties = network, height, ask, bounties
        self._refuses = refuses
        self.watchers = {
            peer: Watcher(peer=peer, address=address, number=store.watcher(peer)) for peer, address in watchers
        }
        self._sessions = Sessions(
            host=host, protocol=PROTOCOL, session=self._session, needed=self._is_needed, serves=None
        )

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._sessions.run()

    def wake(self) -> None:
        """A state was revoked, or there is a new block. Never waits."""
        for watcher in self.watchers.values():
            watcher.wake.set()

    def neighbours_changed(self) -> None:
        """Whom we may use may have changed."""
        for peer in self.watchers:
            if self._is_needed(peer):
                self._sessions.check(peer)
            else:
                self._sessions.drop(peer)

    def extent(self, watcher: Watcher, channel_id: ChannelId) -> Extent:
        """How much of a channel a watcher covers. Blocking."""
        return self._store.extent(watcher.number, channel_id)

    def _is_needed(self, peer: PeerId) -> bool:
        watcher = self.watchers.get(peer)
        if watcher is None:
            return False
        refusal = self._refuses(peer)
        if refusal and watcher.problem != refusal:
            watcher.problem = refusal
            log.warning("a watcher is not used", watcher=to_text(peer), why=refusal)
        return not refusal

    # --- one stream ---------------------------------------------------------------------------------------------------

    async def _session(self, stream: FrameStream) -> None:
        watcher = self.watchers[stream.peer]
        send, receive = trio.open_memory_channel[WatchMessage](1)
        watcher.connected, watcher.problem = True, ""
        watcher.done.clear()
        watcher.withdrawn.clear()
        try:
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    while True:
                        message = CODEC.decode(await stream.receive())
                        if isinstance(message, Stop):
                            watcher.problem = printable(message.reason)
                            nursery.cancel_scope.cancel()
                        await send.send(message)

                nursery.start_soon(read)
                await _Talk(self, watcher, stream, receive).run()
        finally:
            watcher.connected = False
            watcher.problem = watcher.problem or "not connected"


class _Talk:
    """What is said on one stream, one request after the other."""

    def __init__(
        self,
        client: CoverClient,
        watcher: Watcher,
        stream: FrameStream,
        answers: trio.MemoryReceiveChannel[WatchMessage],
    ) -> None:
        self._client, self._watcher, self._stream, self._answers = client, watcher, stream, answers
        self._store, self._numbers = client._store, count(1)
        self._keep = client._ask
        self._looked_at = BlockHeight(0)  # height at which everything was looked at

    async def run(self) -> None:
        terms = await self._answer()
        if not isinstance(terms, Terms):
            raise self._broken(f"{type(terms).__name__} as a watcher's first message")
        self._keep = BlockDelta(min(self._client._ask, terms.most_blocks))
        if terms.used_bytes == 0:  # it lost what it had, or never had any
            await trio.to_thread.run_sync(self._store.forget, self._watcher.number)
        retry = FIRST_RETRY
        while True:
            self._watcher.wake = trio.Event()
            try:
                await self._bring_up_to_date()
                self._watcher.problem, retry = "", FIRST_RETRY
            except _Turned as refusal:
                self._watcher.problem = f"it refuses: {refusal}"
                log.warning("a watcher refuses", watcher=to_text(self._watcher.peer), why=str(refusal))
                await trio.sleep(retry)
                retry = min(2 * retry, LAST_RETRY)
                continue
            await self._watcher.wake.wait()

    async def _bring_up_to_date(self) -> None:
        """Withdrawals first: they make room. Then what is held already: a refusal of what is new must not let it run out."""
        tip, channels = self._client._height(), self._client._channels()
        for channel in channels:
            if channel.phase is Phase.CLOSED and channel.channel_id not in self._watcher.withdrawn:
                await self._withdraw(channel)
                self._watcher.withdrawn.add(channel.channel_id)
        if tip != self._looked_at:
            await self._renew(tip)
            await trio.to_thread.run_sync(self._store.drop_receipts, tip)
        for channel in channels:
            start, _ = self._watcher.done.get(channel.channel_id, (0, Sat(0)))
            news = start < channel.their_secrets.count or tip != self._looked_at  # the stake may have grown
            if news and channel.phase is not Phase.CLOSED and channel.their_secrets.count:
                await self._hand_over(channel)
        self._looked_at = tip

    def _broken(self, what: str) -> PeerProtocolError:
        self._watcher.problem = printable(f"it broke the protocol: {what}")
        return PeerProtocolError(what)

    async def _answer(self) -> WatchMessage:
        with trio.move_on_after(ANSWER_WITHIN):
            return await self._answers.receive()
        raise self._broken(f"a watcher said nothing for {ANSWER_WITHIN:.0f} s")

    async def _ask(self, request: HandOver | Renew | Withdraw) -> WatchMessage:
        await self._stream.send(CODEC.encode(request))
        answer = await self._answer()
        if isinstance(answer, Refused):
            raise _Turned(answer.code, answer.reason)
        return answer

    # --- handing over -------------------------------------------------------------------------------------------------

    async def _hand_over(self, channel: Channel) -> None:
        watcher, client = self._watcher, self._client
        stake = stake_of(channel)
        start, looked_at = watcher.done.get(channel.channel_id, (0, Sat(-1)))
        start = start if stake <= looked_at else 0
        # The engine may be ahead of the disk, and by now the disk ahead of this channel: only what is in both is there.
        stored = await trio.to_thread.run_sync(self._store.revoked, channel.channel_id)
        end = min(stored, channel.their_secrets.count)
        while start < end:
            states = await trio.to_thread.run_sync(
                partial(
                    self._store.to_do,
                    watcher.number,
                    channel.channel_id,
                    stake=stake,
                    start=start,
                    limit=BUILT_AT_ONCE,
                )
            )
            keys = client._keys_of(channel.key_index)
            states = tuple(each for each in states if each.number < end)
            made = await trio.to_thread.run_sync(sealed_remedies, channel, keys, states, stake, client._bounties)
            for part in _frames(made):
                await self._hand_over_some(channel.channel_id, part, stake)
            start = start + WINDOW if len(states) < BUILT_AT_ONCE else states[-1].number + 1
        watcher.done[channel.channel_id] = end, max(stake, looked_at)

    async def _hand_over_some(
        self, channel_id: ChannelId, made: Sequence[tuple[RevokedState, bytes | None]], stake: Sat
    ) -> None:
        remedies = tuple(SealedRemedy(hint_of(state.txid), sealed) for state, sealed in made if sealed is not None)
        proof, until = None, NEVER
        if remedies:
            kept = [(each.hint, hashlib.sha256(each.sealed).digest()) for each in remedies]
            asked = BlockHeight(self._client._height() + self._keep)
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

    def _proof(self, answer: WatchMessage, asked: BlockHeight, kept: Sequence[receipt.Kept]) -> Proof:
        if not isinstance(answer, Receipt):
            raise self._broken(f"{type(answer).__name__} where a receipt was wanted")
        until = BlockHeight(answer.until)
        if until > asked or until < self._client._height():
            raise self._broken(f"a receipt until height {until}, asked was {asked}")
        client = self._client
        if not receipt.is_valid(
            answer.signature, self._watcher.peer, client._network, client._host.peer_id, until, kept
        ):
            raise self._broken("a receipt whose signature is not the watcher's for what was handed over")
        listed = b"".join(hint + digest for hint, digest in kept)
        return Proof(until=until, listed=listed, signature=answer.signature)

    # --- keeping up ---------------------------------------------------------------------------------------------------

    async def _renew(self, tip: BlockHeight) -> None:
        """Keep what would be dropped before half of the time asked for is over."""
        watcher, horizon = self._watcher, BlockHeight(tip + self._keep // 2)
        while due := await trio.to_thread.run_sync(self._store.due, watcher.number, horizon, RENEWED_AT_ONCE):
            asked = BlockHeight(tip + self._keep)
            try:
                answer = await self._ask(Renew(next(self._numbers), asked, tuple(hint_of(each.txid) for each in due)))
            except _Turned as refusal:
                if refusal.code != RefusalCode.NOT_HELD:
                    raise
                await trio.to_thread.run_sync(self._store.dropped, watcher.number, due)
                watcher.done.clear()
                watcher.wake.set()  # they are handed over again
                continue
            proof = self._proof(answer, asked, [(hint_of(each.txid), each.digest) for each in due])
            await trio.to_thread.run_sync(self._store.renewed, watcher.number, due, proof)
            if proof.until < horizon:
                return  # it grants less than its terms say: again with the next block

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
