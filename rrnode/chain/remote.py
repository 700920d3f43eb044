"""A chain seen through several full nodes, of which one that is honest is enough (DESIGN 8).

Headers are linked by work from a checkpoint; what happened is believed with proof, from any helper, and told at once; that
nothing else happened, when at least k helpers answered: below that there is `doubt`, and nothing new is taken on. A helper
caught lying keeps being asked, since its proofs are as good as any, but its silence counts for nothing any more; nor does
that of one who may belong to a channel neighbour.
Transactions go to all helpers, again at each new block.
"""

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog
import trio

from bootstrap.networks import Network
from protocols.ids import PeerId, Txid
from protocols.light.agreement import HelperStatus, choose_feerate, is_far_apart
from protocols.light.headers import Checkpoint, Header, HeaderChain
from protocols.units import BlockHeight, FeeRate, UnixTime
from protocols.wire.chain import Feerate, GetFeerate
from rrnode.chain.asking import Asking
from rrnode.chain.base import (
    NO_INTERESTS,
    BlockRef,
    ChainBackend,
    Interests,
    OutputState,
    PublishResult,
)
from rrnode.chain.evidence import BadProof
from rrnode.chain.header_file import HeaderFile
from rrnode.chain.header_sync import HeaderSync
from rrnode.chain.parse import Tx, outpoint
from rrnode.chain.remote_blocks import BEHIND_WAIT, RemoteBlocks
from rrnode.chain.remote_mempool import RemoteMempool
from rrnode.chain.remote_outputs import RemoteOutputs
from rrnode.chain.remote_publish import RemotePublisher
from rrnode.chain.scopes import background
from rrnode.errors import ChainUnavailable
from rrnode.host.base import Host
from rrnode.host.dialer import Dialer, Source, VolatileBook
from rrnode.host.peer_text import split_address, to_text
from rrnode.services.helpers import Helper, Helpers

LAG_ALLOWED = 1  # blocks that a helper may be behind: the newest one travels a while
START_WITHIN = 20.0  # seconds without a new header after which a start makes do with the helpers that are there

T = TypeVar("T")
log = structlog.get_logger("rrnode.chain")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePolicy:
    """How far helpers are trusted.

    Attributes:
        least: k: so many must have answered before "nothing happened" holds; one of them must be honest.
        answer_within: seconds that a helper has for one answer.
        feerate_floor, feerate_cap: bounds of fee estimates, satoshi per 1000 virtual bytes.
    """

    least: int = 2
    answer_within: float = 10.0
    feerate_floor: FeeRate = FeeRate(1_000)
    feerate_cap: FeeRate = FeeRate(500_000)


class RemoteChain(ChainBackend):
    """The chain through helpers; use it inside `running`, on a host that runs."""

    name = "remote"
    is_hearsay = True

    def __init__(
        self,
        host: Host,
        addresses: Sequence[str],
        network: Network,
        *,
        checkpoint: Checkpoint | None = None,
        policy: RemotePolicy | None = None,
        headers_file: Path | None = None,
        own_host: Host | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is asked yet.

        Args:
            addresses: of the helpers, multiaddrs that end in `/p2p/<id>`; dialled, and dialled again, from here.
            checkpoint: where headers begin; the network's own when None.
            headers_file: where they are kept; nowhere when None.
            own_host: `host` when nobody else runs it: it then runs while the backend does.
            clock: seconds since 1970.
        """
        self._host, self._own_host = host, own_host
        self._network, self._policy = network, policy or RemotePolicy()
        self._clock = clock
        self._headers = HeaderChain(network.pow_rules, checkpoint or network.checkpoint)
        self.lowest = self._headers.base
        self._kept = HeaderFile(headers_file, self._headers)
        self._sync = HeaderSync(self._headers, now=self._now, changed=self._touch, adopted=self._kept.adopted)
        self._helpers = Helpers(
            host=host,
            peers=[split_address(address)[1] for address in addresses],
            answer_within=self._policy.answer_within,
            beside=self._beside,
            changed=self._touch,
        )
        self._addresses = tuple(addresses)
        self._dialer = self._new_dialer()  # another one each time it runs
        self._version = 0  # of what could be asked; grows with each news
        self._waited_at = b""  # the tip at which helpers were waited for in vain
        self._changed = trio.Event()
        self._asking = Asking()
        self._blocks = RemoteBlocks(self._headers, least=self._policy.least, ask_all=self._ask_all, reread=self.reread)
        self._outputs = RemoteOutputs(
            self._headers, ask_all=self._ask_all, are_enough=self._are_enough, reread=self.reread
        )
        self._mempool = RemoteMempool(
            ask_all=self._ask_all, version=lambda: self._version, known_output=self._outputs.made
        )
        self._publisher = RemotePublisher(
            self._helpers.all, self._headers, asking=self._asking, changed=self._wait_changed
        )

    def helpers(self) -> tuple[HelperStatus, ...]:
        found = []
        for helper in self._helpers.all:
            if not helper.standing.connected:
                helper.standing.trouble = self._why_away(helper)
            found.append(helper.standing.status(self._headers.height))
        return tuple(found)

    def set_related(self, related: Mapping[PeerId, str]) -> None:
        before = [helper.is_relied_on for helper in self._helpers.all]
        for helper in self._helpers.all:
            helper.standing.related = related.get(helper.peer, "")
        if before != [helper.is_relied_on for helper in self._helpers.all]:
            self._touch()

    def _why_away(self, helper: Helper) -> str:
        if helper.said_why:
            return helper.said_why
        if helper.peer in self._host.connected():
            return "linked, but it does not serve the chain"
        error = next((dial.last_error for dial in self._dialer.status() if dial.peer == helper.peer), None)
        return f"not connected: {error}" if error else "not connected"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Dial, follow the headers, and serve once enough helpers do; with fewer after a while, for proofs need one only.

        Raises:
            ChainUnavailable: not even one can be asked.
        """
        self._dialer = self._new_dialer()
        own_host = self._own_host.running() if self._own_host else nullcontext()
        async with self._kept.open(self._now()), own_host, background() as nursery:
            await nursery.start(self._asking.run)
            nursery.start_soon(self._helpers.run)
            nursery.start_soon(self._publisher.run)
            nursery.start_soon(self._dialer.run)
            await self._first_answers()
            yield

    def _new_dialer(self) -> Dialer:
        dialer = Dialer(self._host, VolatileBook(), randomness=random.SystemRandom())
        for address in self._addresses:
            dialer.want(dialer.name(address, Source.USER))
        return dialer

    async def _first_answers(self) -> None:
        height, deadline = self._headers.height, trio.current_time() + START_WITHIN
        while not self._are_enough(self._ready()):
            with trio.move_on_at(deadline) as patience:
                await self._changed.wait()
            if self._headers.height > height:  # a first start reads many headers
                height, deadline = self._headers.height, trio.current_time() + START_WITHIN
            elif patience.cancelled_caught:
                await self._wait_ready()
                return

    def _now(self) -> UnixTime:
        return UnixTime(int(self._clock()))

    async def _wait_changed(self) -> None:
        await self._changed.wait()

    def _touch(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = trio.Event()

    # --- asking all -------------------------------------------------------------------------------------------------

    def _is_behind(self, helper: Helper) -> bool:
        height = helper.standing.height
        return height is None or height < self._headers.height - LAG_ALLOWED

    def _ready(self) -> list[Helper]:
        """Those worth asking: connected, on our best chain and near its tip."""
        return [helper for helper in self._helpers.all if helper.is_ready and not self._is_behind(helper)]

    @property
    def doubt(self) -> str | None:
        counting = sum(helper.counts for helper in self._ready())
        if counting < self._policy.least:
            return f"{counting} of {len(self._helpers.all)} helpers can be relied on, {self._policy.least} wanted: " + (
                self._troubles()
            )
        if (height := self._blocks.doubtful(self._relied_on())) is not None:
            return f"fewer than {self._policy.least} reliable helpers were asked about block {height} so far"
        return None

    def _relied_on(self) -> frozenset[PeerId]:
        return frozenset(helper.peer for helper in self._helpers.all if helper.is_relied_on)

    def _troubles(self) -> str:
        return "; ".join(self._trouble(helper) for helper in self._helpers.all)

    def _trouble(self, helper: Helper) -> str:
        standing = helper.standing
        what = standing.trouble if standing.connected else self._why_away(helper)
        what = what or (f"lied: {standing.last_lie}" if standing.lies else standing.related)
        if not what:
            what = f"behind, at block {standing.height}" if self._is_behind(helper) else "fine"
        return f"…{to_text(helper.peer)[-6:]} {what}"

    async def _wait_ready(self) -> list[Helper]:
        """Those worth asking. A new block reaches them one after the other, so k of them are waited for a little, once.

        Raises:
            ChainUnavailable: there are none.
        """
        await trio.lowlevel.checkpoint()
        if self._waited_at != self._headers.tip.hash:
            hopeful = sum(helper.standing.connected and helper.is_relied_on for helper in self._helpers.all)
            with trio.move_on_after(BEHIND_WAIT) as patience:
                while sum(helper.counts for helper in self._ready()) < self._policy.least <= hopeful:
                    await self._changed.wait()
            if patience.cancelled_caught:
                self._waited_at = self._headers.tip.hash
        ready = self._ready()
        if not ready:
            raise ChainUnavailable(f"none of our helpers can be asked: {self._troubles()}")
        return ready

    async def _ask_all(self, ask: Callable[[Helper], Awaitable[T | None]]) -> dict[Helper, T]:
        """What each of those that are ready answers; see `Asking.ask_each`.

        Raises:
            ChainUnavailable: nobody answered.
        """
        ready = await self._wait_ready()
        prompt = [helper for helper in ready if not self._asking.owes(helper)]
        asked = prompt if self._are_enough(prompt) else ready
        answers = await self._asking.ask_each(asked, ask, self._are_enough)
        if not answers:
            raise ChainUnavailable(f"none of our helpers answered: {self._troubles()}")
        return answers

    def _are_enough(self, helpers: Iterable[Helper]) -> bool:
        return sum(helper.counts for helper in helpers) >= self._policy.least

    # --- headers ----------------------------------------------------------------------------------------------------

    async def genesis(self) -> bytes:
        return self._network.genesis

    async def tip(self) -> BlockRef:
        await self._wait_ready()
        return _ref(self._headers.height, self._headers.tip)

    async def block_at(self, height: BlockHeight) -> BlockRef | None:
        await trio.lowlevel.checkpoint()
        if height < self._headers.base:
            raise ChainUnavailable(
                f"block {height} is below the checkpoint at {self._headers.base}; name an older one in chain.checkpoint"
            )
        header = self._headers.at(height)
        return None if header is None else _ref(height, header)

    async def parent(self, block_hash: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        height = self._headers.height_of(block_hash)
        header = None if height is None else self._headers.at(height)
        if header is None:
            raise ChainUnavailable("a block off the best chain is not known to a client without a chain")
        return header.previous

    async def wait_for_change(self, known: BlockRef, mempool_sequence: int) -> int:
        while self._headers.tip.hash == known.hash and self._version == mempool_sequence:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()
        return self._version

    # --- blocks -----------------------------------------------------------------------------------------------------

    async def transactions(self, ref: BlockRef, interests: Interests) -> tuple[Tx, ...]:
        header = self._headers.find(ref.height, ref.hash)
        if header is None:
            raise ChainUnavailable("the chain was reorganised while it was read; it is tried again")
        found = await self._blocks.read(header, ref.height, interests | Interests(txids=self._publisher.waiting))
        for helper in self._ready():
            if not self._blocks.has_heard(helper.peer, ref.hash):  # nor will be, unless it is asked beside
                helper.look_again()
        self._publisher.confirmed(tx.txid for tx in found)
        self._outputs.saw(ref, found, interests)
        return found

    async def _beside(self, helper: Helper) -> None:
        """What runs beside a helper's stream: its headers are followed, and it is asked what it missed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sync.keep, helper)
            while True:
                synced = helper.synced
                if helper.is_ready and not self._is_behind(helper) and not self._asking.owes(helper):
                    await self._hear_late(helper)
                await synced.wait()

    async def _hear_late(self, helper: Helper) -> None:
        try:
            await self._blocks.ask_late(helper, self._relied_on())
            await self._outputs.ask_late(helper)
        except BadProof as error:
            helper.lied(str(error))
            raise

    def reread(self, height: BlockHeight) -> None:
        super().reread(height)
        self._touch()

    # --- outputs ----------------------------------------------------------------------------------------------------

    async def confirmed_output(self, txid: Txid, index: int) -> OutputState | None:
        return await self._outputs.confirmed(txid, index)

    async def surely_unspent(self, txid: Txid, index: int) -> OutputState | None:
        return await self._outputs.surely_unspent(txid, index)

    async def unspent(self, txid: Txid, index: int) -> OutputState | None:
        place = outpoint(txid, index)
        known = await self._unconfirmed(Interests(outpoints=frozenset((place,)), txids=frozenset((txid,))))
        if any(place in tx.prevouts for tx in known.values()):
            return None
        if (confirmed := await self.confirmed_output(txid, index)) is not None:
            return confirmed
        waiting = known.get(txid)
        if waiting is None or index >= len(waiting.outputs):
            return None
        output = waiting.outputs[index]
        return OutputState(value=output.value, script=output.script, height=None)

    # --- mempool ----------------------------------------------------------------------------------------------------

    async def mempool(self, interests: Interests = NO_INTERESTS) -> tuple[Txid, ...]:
        self._mempool.follow(interests)
        return tuple(await self._unconfirmed(NO_INTERESTS))

    async def mempool_transaction(self, txid: Txid) -> bytes | None:
        return (await self.mempool_transactions((txid,))).get(txid)

    async def mempool_transactions(self, txids: Sequence[Txid]) -> dict[Txid, bytes]:
        known = await self._unconfirmed(Interests(txids=frozenset(txids)))
        return {txid: known[txid].raw for txid in txids if txid in known}

    async def mempool_spenders(self, outpoints: Sequence[bytes]) -> dict[bytes, Txid]:
        known = await self._unconfirmed(Interests(outpoints=frozenset(outpoints)))
        spenders = {prevout: txid for txid, tx in known.items() for prevout in tx.prevouts}
        return {place: spenders[place] for place in outpoints if place in spenders}

    async def _unconfirmed(self, interests: Interests) -> dict[Txid, Tx]:
        await self._wait_ready()
        return await self._mempool.look(interests)

    # --- publishing and fees ----------------------------------------------------------------------------------------

    async def publish(self, transactions: tuple[bytes, ...]) -> PublishResult:
        result = await self._publisher.publish(transactions)
        self._touch()  # mempools have changed, before anybody tells
        return result

    async def feerate(self, within_blocks: int) -> FeeRate:
        answers = await self._ask_all(lambda helper: self._estimate(helper, min(max(within_blocks, 1), 1008)))
        policy = self._policy
        relied_on = tuple(estimate for helper, estimate in answers.items() if helper.counts) or tuple(answers.values())
        chosen = choose_feerate(relied_on, policy.feerate_floor, policy.feerate_cap)
        for helper, estimate in answers.items():
            if is_far_apart(estimate, chosen):
                helper.standing.disagreed(f"its fee estimate is {estimate} sat/kvB, {chosen} is taken")
        return chosen

    @staticmethod
    async def _estimate(helper: Helper, within_blocks: int) -> FeeRate | None:
        answer = await helper.ask(lambda number: GetFeerate(number, within_blocks))
        return FeeRate(answer.sat_per_kvb) if isinstance(answer, Feerate) else None


def _ref(height: BlockHeight, header: Header) -> BlockRef:
    return BlockRef(height=height, hash=header.hash, previous=header.previous, time=header.time)
