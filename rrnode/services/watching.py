"""`/rr/watch/1`, the watcher's side: takes sealed remedies within quotas and answers with signed receipts (DESIGN 7).

Every stream is one task that answers one request after the other, so a client that does not read its answers stops itself.
The disk is asked in one thread of its own: a flood of small requests waits for itself, and never for the node's own threads.
"""

import hashlib
from collections.abc import Callable, Hashable
from functools import partial
from typing import TypeVar

import structlog
import trio

from protocols.errors import PeerProtocolError
from protocols.ids import PeerId
from protocols.units import AssetId, BlockDelta, BlockHeight
from protocols.watch import receipt
from protocols.watch.remedy import SEALED_SIZES
from protocols.wire.watch import (
    CODEC,
    MAX_HELD,
    PROTOCOL,
    HandOver,
    Held,
    Holdings,
    List,
    Receipt,
    RefusalCode,
    Refused,
    Renew,
    Stop,
    Terms,
    Withdraw,
    Withdrawn,
)
from rrnode.errors import StorageFailed
from rrnode.host.base import FrameStream, Host
from rrnode.host.peer_text import to_text
from rrnode.relations import network_of
from rrnode.services.limits import Shares, one_network, one_sender
from rrnode.storage.remedies import Known, NoRoom, RemedyStore

log = structlog.get_logger(__name__)

T = TypeVar("T")
Answer = Receipt | Holdings | Withdrawn | Refused

REQUESTS_A_SECOND, REQUESTS_AT_ONCE = 5, 100  # of one sender; each costs one fsync, some milliseconds
BYTES_A_SECOND, BYTES_AT_ONCE = 100_000, 20_000_000  # of one sender: a whole quota, then a trickle
MOST_OF_ONE_SENDER = 16  # streams of one address, so that no single one can drive all others out
SHARE_OF_ONE_NETWORK = 4  # likewise one part in so many of all places: one who has many addresses has them there
KEPT_AT_FIRST = BlockDelta(2016)  # blocks; two weeks: a stranger's rubbish is gone soon
_DOUBLES = 2  # times its age is what a client is granted later: it has shown that it comes back


class _NotDone(Exception):
    """Why a request is refused."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class WatchServer:
    """Serves strangers; who they are does not matter, only how much they want.

    Args:
        host: the links.
        store: where remedies are kept.
        secret: of the node's key; signs receipts.
        network: genesis hash of the chain that heights are of.
        height: up to which the chain was taken in.
        keep: the longest that a remedy is kept that is not renewed; a client is granted so much only by and by.
        most: clients served at once; for one more the one that has asked for nothing longest must go, and may come back.
    """

    def __init__(
        self,
        *,
        host: Host,
        store: RemedyStore,
        secret: bytes,
        network: AssetId,
        height: Callable[[], BlockHeight],
        keep: BlockDelta,
        most: int,
    ) -> None:
        self._store, self._secret, self._network = store, secret, network
        self._height, self._keep, self._most = height, keep, most
        self._disk = trio.CapacityLimiter(1)
        # A neighbour of a client could keep us busy while it makes the states that it means to publish.
        self._requests = Shares(
            per_sender=REQUESTS_A_SECOND,
            per_network=50,
            total=200,
            own=1,
            burst=REQUESTS_AT_ONCE / REQUESTS_A_SECOND,
        )
        self._bytes = Shares(
            per_sender=BYTES_A_SECOND,
            per_network=500_000,
            total=2_000_000,
            own=2_500,
            burst=BYTES_AT_ONCE / BYTES_A_SECOND,
        )
        # With the sender and the network that it counts for; who asked last is last.
        self._streams: dict[PeerId, tuple[bytes, Hashable, FrameStream]] = {}
        self._dropped_at = BlockHeight(0)
        self._wake = trio.Event()
        host.handle(PROTOCOL, self._serve)

    def __len__(self) -> int:
        return len(self._streams)

    async def run(self) -> None:
        """Keep the store in order until cancelled: the filter over its hints, and what is to be kept no longer."""
        while True:
            self._wake = trio.Event()
            tip = self._height()
            try:
                if self._store.wants_filter:
                    await self._on_disk(self._store.fill_filter)
                if tip != self._dropped_at and (dropped := await self._on_disk(partial(self._store.drop_past, tip))):
                    log.info("remedies dropped that nobody renewed", count=dropped)
                self._dropped_at = tip
            except StorageFailed as error:
                log.warning("a watcher's storage is not put in order", reason=str(error))  # again at the next block
            await self._wake.wait()

    def tip_changed(self) -> None:
        """There is another best block. Never waits."""
        self._wake.set()

    async def _on_disk(self, question: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(question, limiter=self._disk)

    async def _serve(self, stream: FrameStream) -> None:
        client = stream.peer
        sender = one_sender(stream.remote_address, client)
        network = one_network(stream.remote_address, client)
        others = [held for each, held in self._streams.items() if each != client]
        if sum(each == sender for each, _, _ in others) >= MOST_OF_ONE_SENDER:
            await stream.send(CODEC.encode(Stop(RefusalCode.NOT_SERVED, "too many clients at this address")))
            return
        if sum(each == network for _, each, _ in others) >= max(1, self._most // SHARE_OF_ONE_NETWORK):
            await stream.send(CODEC.encode(Stop(RefusalCode.NOT_SERVED, "too many clients of this network")))
            return
        while len(self._streams) >= self._most and client not in self._streams:
            *_, idle = self._streams.pop(next(iter(self._streams)))
            idle.reset()
        mine = self._streams[client] = sender, network, stream
        try:
            known = await self._on_disk(partial(self._store.known, client))
            tip, used = self._height(), 0 if known is None else known.used
            terms = Terms(tip, self._grant(tip, known), self._store.quotas.client, used)
            await stream.send(CODEC.encode(terms))
            while True:
                match CODEC.decode(frame := await stream.receive()):
                    case HandOver() | Renew() | List() | Withdraw() as request:
                        if self._streams.get(client) is mine:
                            self._streams[client] = self._streams.pop(client)  # the last to go
                        answer = await self._answer(client, stream.remote_address, request, len(frame))
                        await stream.send(CODEC.encode(answer))
                    case Stop():
                        return
                    case other:
                        raise PeerProtocolError(f"{type(other).__name__} from a client")
        finally:
            if self._streams.get(client) is mine:
                del self._streams[client]

    async def _answer(
        self, client: PeerId, address: str, request: HandOver | Renew | List | Withdraw, size: int
    ) -> Answer:
        try:
            if not self._requests.take(address, client) or not self._bytes.take(address, client, size):
                raise _NotDone(RefusalCode.TOO_FAST, "too much in this time; try again in some seconds")
            match request:
                case HandOver():
                    return await self._hand_over(client, network_of(address), request)
                case Renew():
                    return await self._renew(client, request)
                case List():
                    held, more = await self._on_disk(partial(self._store.held, client, request.after, MAX_HELD))
                    return Holdings(
                        request.request, tuple(Held(each.hint, each.digest, each.until) for each in held), more
                    )
                case Withdraw():
                    used = await self._on_disk(partial(self._store.withdraw, client, request.hints))
                    return Withdrawn(request.request, used)
        except _NotDone as refusal:
            return Refused(request.request, refusal.code, refusal.reason)
        except StorageFailed as error:
            log.error("a watcher takes nothing", client=to_text(client), reason=str(error))
            return Refused(request.request, RefusalCode.FULL, "this watcher cannot write at the moment")

    async def _hand_over(self, client: PeerId, network: str, request: HandOver) -> Receipt:
        tip = self._tip_before(request.until)
        remedies = {each.hint: each.sealed for each in request.remedies}
        if len(remedies) < len(request.remedies):
            raise _NotDone(RefusalCode.BAD_REQUEST, "one hint twice")
        if any(len(sealed) not in SEALED_SIZES for sealed in remedies.values()):
            raise _NotDone(RefusalCode.BAD_REQUEST, f"sealed remedies have one of the sizes {SEALED_SIZES}")

        def put() -> tuple[BlockHeight, int | NoRoom]:
            until = self._until(tip, self._store.known(client), request.until)
            return until, self._store.put(client, until, remedies, tip=tip, network=network)

        until, used = await self._on_disk(put)
        if isinstance(used, NoRoom):
            raise _NotDone(RefusalCode.OVER_QUOTA if used is NoRoom.CLIENT else RefusalCode.FULL, used.value)
        kept = [(hint, hashlib.sha256(sealed).digest()) for hint, sealed in remedies.items()]
        return self._receipt(client, request.request, until, used, kept)

    async def _renew(self, client: PeerId, request: Renew) -> Receipt:
        tip = self._tip_before(request.until)
        if len(set(request.hints)) < len(request.hints):
            raise _NotDone(RefusalCode.BAD_REQUEST, "one hint twice")

        def renew() -> tuple[BlockHeight, int, list[bytes] | None]:
            known = self._store.known(client)
            until = self._until(tip, known, request.until)
            return until, known.used if known else 0, self._store.renew(client, until, request.hints)

        until, used, digests = await self._on_disk(renew)
        if digests is None:
            raise _NotDone(RefusalCode.NOT_HELD, "at least one of these is not held for this client")
        return self._receipt(client, request.request, until, used, list(zip(request.hints, digests, strict=True)))

    def _tip_before(self, asked: int) -> BlockHeight:
        tip = self._height()
        if asked < tip:
            raise _NotDone(RefusalCode.BAD_REQUEST, f"height {asked} is past: the best block has {tip}")
        return tip

    def _until(self, tip: BlockHeight, known: Known | None, asked: int) -> BlockHeight:
        return BlockHeight(min(asked, tip + self._grant(tip, known)))

    def _grant(self, tip: BlockHeight, known: Known | None) -> BlockDelta:
        """How long a client's remedies are kept from now on: any number of keys cost nothing, coming back over months does."""
        age = 0 if known is None else tip - known.since
        return BlockDelta(min(self._keep, max(KEPT_AT_FIRST, _DOUBLES * age)))

    def _receipt(
        self, client: PeerId, request: int, until: BlockHeight, used: int, kept: list[receipt.Kept]
    ) -> Receipt:
        signature = receipt.sign(self._secret, self._network, client, until, kept)
        return Receipt(request, until, used, signature)
