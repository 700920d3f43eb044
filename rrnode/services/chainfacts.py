"""`/rr/chain/1`, the server's side: chain facts with proofs for clients without a chain (the `chain` switch; DESIGN 2, 8).

One request of a client is worked on at a time, and its answer is written before the next is read: who asks much waits, and
nobody else does. Nothing of a client outlives its stream.
"""

from collections.abc import Awaitable, Callable

import structlog
import trio

from protocols.errors import PeerProtocolError
from protocols.ids import PeerId, Txid
from protocols.wire.chain import (
    ANSWER_PIECES,
    CODEC,
    PROTOCOL,
    REQUEST_PIECES,
    Answer,
    ChainMessage,
    Feerate,
    GetFeerate,
    GetHeaders,
    GetMatches,
    GetMempool,
    GetOutput,
    Headers,
    Joiner,
    Matches,
    Mempool,
    News,
    Output,
    Publish,
    Published,
    RefusalCode,
    Refused,
    Request,
    Stop,
    Unwatch,
    VerdictCode,
    Watch,
    Watching,
    payloads,
)
from rrnode.chain.base import BlockRef, Interests, Verdict, WholeChain
from rrnode.chain.proofs import Proofs
from rrnode.errors import ChainUnavailable
from rrnode.host.base import FrameStream, Host
from rrnode.host.peer_text import to_text
from rrnode.services.limits import Shares, arrivals, one_network, one_sender, printable

log = structlog.get_logger(__name__)

MOST_WATCHED = 20_000  # things of one client: some 2 MB, and 40 requests to Bitcoin Core at each look
MOST_WATCHED_IN_ALL = 400_000  # some 50 MB; beyond it each client has its own room only
OWN_ROOM = 1_000  # things that a client may watch whatever others do: twenty greedy ones would lock out all the rest
MOST_OF_SENDER = 16  # clients at once
MOST_OF_NETWORK = 64  # of 256: so that four networks are needed to lock out the rest
LOOK_EVERY = 1.0  # seconds between two looks at the mempool: each costs Bitcoin Core a request per 500 things watched
TIP_EVERY = 0.1  # seconds between two looks at the tip: each costs it a few, however many clients there are
_FIRST_RETRY, _LAST_RETRY = 0.5, 30.0  # seconds while the chain is away

_VERDICTS = {
    Verdict.ACCEPTED: VerdictCode.ACCEPTED,
    Verdict.KNOWN: VerdictCode.KNOWN,
    Verdict.REFUSED: VerdictCode.REFUSED,
}


class _Client:
    """What one client watches and what it was told.

    Attributes:
        answer: written next; requests are read one by one.
        news: whether to push `News`.
        told_tip, told_mempool: what it knows, as of our last word.
    """

    __slots__ = (
        "answer",
        "news",
        "outpoints",
        "scripts",
        "stream",
        "told_mempool",
        "told_tip",
        "txids",
        "wake",
        "written",
    )

    def __init__(self, stream: FrameStream) -> None:
        self.stream = stream
        self.outpoints: set[bytes] = set()
        self.txids: set[Txid] = set()
        self.scripts: set[bytes] = set()
        self.answer: Answer | None = None
        self.news = False
        self.told_tip = b""
        self.told_mempool: frozenset[Txid] = frozenset()
        self.wake = trio.Event()
        self.written = trio.Event()

    def __len__(self) -> int:
        return len(self.outpoints) + len(self.txids) + len(self.scripts)

    def tell_news(self) -> None:
        self.news = True
        self.wake.set()

    @property
    def interests(self) -> Interests:
        return Interests(
            outpoints=frozenset(self.outpoints), txids=frozenset(self.txids), scripts=frozenset(self.scripts)
        )


class ChainFactsServer:
    """Serves chain facts from our own chain to whoever asks.

    Args:
        host: the links.
        chain: our own; running while `run` runs.
        most: clients at once; one more is told so.
        look_every: seconds at least between two looks at the mempool for news; a new block is told at once.
    """

    def __init__(self, *, host: Host, chain: WholeChain, most: int = 256, look_every: float = LOOK_EVERY) -> None:
        self._chain, self._proofs, self._most, self._look_every = chain, Proofs(chain), most, look_every
        self._clients: dict[PeerId, _Client] = {}
        self._best: tuple[BlockRef, bytes] | None = None  # with its header
        self._arrivals = arrivals()
        # Each publication costs Bitcoin Core a validation, each question perhaps the reading of a block or of two thousand
        # headers (a first start asks for five hundred such runs, which is within the burst). Who publishes too
        # much is refused; who asks too much waits, for a refusal would be no answer that a client can count.
        self._publications = Shares(per_sender=5, per_network=20, total=100, own=0.2, burst=40)
        self._questions = Shares(per_sender=20, per_network=50, total=100, own=0.5, burst=40)
        host.handle(PROTOCOL, self._serve)

    def __len__(self) -> int:
        return len(self._clients)

    # --- news -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look for news and push them until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_looking, self._look_at_tip, TIP_EVERY)
            nursery.start_soon(self._keep_looking, self._look_at_mempool, self._look_every)

    async def _keep_looking(self, look: Callable[[], Awaitable[BlockRef]], every: float) -> None:
        """Look once more whenever the chain or its mempool has changed since the tip that `look` gave."""
        sequence, retry = -1, _FIRST_RETRY
        while True:
            try:
                best = await look()
                retry = _FIRST_RETRY
                await trio.sleep(every)
                sequence = await self._chain.wait_for_change(best, sequence)
            except ChainUnavailable as error:
                log.debug("chain facts: our chain is away", reason=str(error))
                await trio.sleep(retry)
                retry = min(2 * retry, _LAST_RETRY)

    async def _look_at_tip(self) -> BlockRef:
        best = await self._chain.tip()
        if self._best is None or self._best[0] != best:
            header = await self._chain.headers(best.height, 1)
            if not header:
                raise ChainUnavailable("the chain moved while it was looked at")
            self._best = best, header[0]
        for client in self._clients.values():
            if client.told_tip != best.hash:
                client.told_tip = best.hash
                client.tell_news()
        return best

    async def _look_at_mempool(self) -> BlockRef:
        best = await self._chain.tip()
        watched = {client: client.interests for client in self._clients.values()}
        look = await self._proofs.look_at_mempool(Interests.joined(watched.values()))
        for client, interests in watched.items():
            mempool = look.of(interests)
            if client.told_mempool != mempool:
                client.told_mempool = mempool
                client.tell_news()
        return best

    # --- one client -------------------------------------------------------------------------------------------------

    async def _serve(self, stream: FrameStream) -> None:
        peer = stream.peer
        if not self._arrivals.take(one_sender(stream.remote_address, peer)):
            stream.reset()
            return
        if peer not in self._clients and (full := self._is_full_for(stream)):
            await stream.send(CODEC.encode(Stop(RefusalCode.TOO_MANY, full)))
            return
        if older := self._clients.get(peer):
            older.stream.reset()
        client = self._clients[peer] = _Client(stream)
        if self._best is not None:
            client.told_tip, client.news = self._best[0].hash, True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, client)
                await self._read(client)
                nursery.cancel_scope.cancel()
        finally:
            if self._clients.get(peer) is client:
                del self._clients[peer]

    def _is_full_for(self, stream: FrameStream) -> str:
        """Why one more client cannot be served; "" when it can."""
        if len(self._clients) >= self._most:
            return "this node serves all the clients it can"
        for alike, most in ((one_sender, MOST_OF_SENDER), (one_network, MOST_OF_NETWORK)):
            here = alike(stream.remote_address, stream.peer)
            if sum(alike(c.stream.remote_address, c.stream.peer) == here for c in self._clients.values()) >= most:
                return "this node serves enough clients of your network"
        return ""

    async def _read(self, client: _Client) -> None:
        joiner = Joiner(REQUEST_PIECES)
        while True:
            message = joiner.take(await client.stream.receive())
            if message is None:
                continue
            if not isinstance(message, Request):
                raise PeerProtocolError(f"{type(message).__name__} from a client")
            client.answer = await self._answer(client, message)
            client.written = written = trio.Event()
            client.wake.set()
            await written.wait()

    async def _write(self, client: _Client) -> None:
        while True:
            client.wake = wake = trio.Event()
            if (answer := client.answer) is not None:
                client.answer = None
                await self._send(client.stream, answer)
                client.written.set()
            elif client.news and self._best is not None:
                client.news = False
                best, header = self._best
                await self._send(client.stream, News(best.height, header))
            else:
                await wake.wait()

    @staticmethod
    async def _send(stream: FrameStream, message: ChainMessage) -> None:
        frames = payloads(message, ANSWER_PIECES)
        if frames is None:
            assert isinstance(message, Answer), "news are small"
            frames = payloads(Refused(message.request, RefusalCode.TOO_LARGE, "the answer is too large"), 1)
            assert frames is not None, "a refusal is small"
        for frame in frames:
            await stream.send(frame)

    # --- answers ----------------------------------------------------------------------------------------------------

    async def _answer(self, client: _Client, request: Request) -> Answer:
        try:
            return await self._facts(client, request)
        except ChainUnavailable as error:
            # What is wrong here (paths, addresses of our Bitcoin Core) is nothing for strangers.
            log.info("chain facts: no answer", peer=to_text(client.stream.peer), reason=str(error))
            return Refused(request.request, RefusalCode.UNAVAILABLE, "the helper's own chain does not answer")

    async def _facts(self, client: _Client, request: Request) -> Answer:
        number = request.request
        if not isinstance(request, Watch | Unwatch | Publish):
            await self._questions.wait(client.stream.remote_address, client.stream.peer)
        match request:
            case GetHeaders(locator=locator):
                found = await self._proofs.headers_after(locator)
                if found is None:
                    return Refused(number, RefusalCode.UNKNOWN_BLOCK, "none of these blocks is in my best chain")
                return Headers(number, found[0], found[1])
            case Watch():
                return self._watch(client, request)
            case Unwatch():
                client.outpoints.difference_update(request.outpoints)
                client.txids.difference_update(map(Txid, request.txids))
                client.scripts.difference_update(request.scripts)
                return Watching(number, self._room(client))
            case GetMatches(block_hash=block_hash):
                matches = await self._proofs.matches(block_hash, client.interests)
                if matches is None:
                    return Refused(number, RefusalCode.UNKNOWN_BLOCK, "no such block in my best chain")
                return Matches(number, block_hash, *matches)
            case GetMempool():
                found_now = await self._proofs.mempool(client.interests)
                client.told_mempool = frozenset(found_now)
                return Mempool(number, tuple(found_now.values()))
            case GetOutput(txid=txid, index=index):
                output = await self._proofs.output(Txid(txid), index)
                if output is None:
                    return Output(number, (await self._chain.tip()).hash, bytes(32), ())
                return Output(number, output[0], output[1], (output[2],))
            case Publish(transactions=transactions):
                if not self._publications.take(client.stream.remote_address, client.stream.peer):
                    return Refused(number, RefusalCode.TOO_FAST, "too many publications by you or your network")
                result = await self._chain.publish(transactions)
                return Published(number, _VERDICTS[result.verdict], printable(result.reason)[:256])
            case GetFeerate(within_blocks=within_blocks):
                return Feerate(number, await self._chain.feerate(within_blocks))

    def _watch(self, client: _Client, request: Watch) -> Answer:
        new = (
            len(set(request.outpoints) - client.outpoints)
            + len(set(map(Txid, request.txids)) - client.txids)
            + len(set(request.scripts) - client.scripts)
        )
        if new > self._room(client):
            reason = f"at most {MOST_WATCHED} things are watched for one client, {MOST_WATCHED_IN_ALL} in all"
            return Refused(request.request, RefusalCode.TOO_MANY, reason)
        client.outpoints.update(request.outpoints)
        client.txids.update(map(Txid, request.txids))
        client.scripts.update(request.scripts)
        return Watching(request.request, self._room(client))

    def _room(self, client: _Client) -> int:
        in_all = sum(len(each) for each in self._clients.values())
        room = max(OWN_ROOM - len(client), MOST_WATCHED_IN_ALL - in_all)
        return max(0, min(MOST_WATCHED - len(client), room))
