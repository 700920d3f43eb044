"""Hunts bounties: every transaction of every block and of the mempool is looked up by hint; on a hit a case is opened, and
claims are published and raised until a block decides (DESIGN 7).

Three parts: `take` is told everything that the node follows, and only notes; `run` publishes (`bidding`), and looks again at
what could not be settled at once (`backlog`). None waits for another, and what goes wrong here stops nothing but a hunt.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import structlog
import trio

from protocols.ids import Txid
from protocols.units import BlockHeight, FeeRate, Sat, UnixTime
from protocols.watch import hunt
from protocols.watch.bounty import worth
from protocols.watch.hunt import PATIENCE, Case
from protocols.watch.pairs import Pair
from rrnode.chain.base import ChainBackend, Interests
from rrnode.chain.fees import FeePolicy
from rrnode.chain.follower import Batch
from rrnode.chain.parse import Tx
from rrnode.control.text import txid_text
from rrnode.errors import ChainUnavailable, StorageFailed
from rrnode.services.backlog import Backlog, Rank, rank_of
from rrnode.services.bidding import ASK_WITHIN, Bidder
from rrnode.services.lookups import Lookup, Seen, begun
from rrnode.storage.cases import CaseStore
from rrnode.storage.remedies import RemedyStore

log = structlog.get_logger(__name__)

MOST_OPEN = 1000  # cases, each of at most 231 outputs and 130 kB; for one more the lowest rank is left
MOST_SCRIPTS = 50  # unpaid addresses at once: half of what a restore of the wallet looks across
SECONDS_A_BATCH = 1.0  # of look-ups before the batch goes on; the rest is done beside it
PURPOSE = b"bounties"
_FIRST_RETRY, _LAST_RETRY = 0.5, 30.0  # seconds


class RewardWallet(Protocol):
    """Where rewards go; `rrnode.wallet.Wallet` is one."""

    async def change_script(self, purpose: bytes) -> bytes:
        """A script of the wallet's own."""


class Hunter:
    """One watcher's hunts.

    Args:
        remedies: what clients handed over.
        store: of cases.
        buried_depth: confirmations after which a case is closed.
        now: unix time.
        alarm: brings a sentence to our owner.
        policy: how fees grow.
    """

    def __init__(
        self,
        *,
        backend: ChainBackend,
        wallet: RewardWallet,
        remedies: RemedyStore,
        store: CaseStore,
        buried_depth: int,
        now: Callable[[], UnixTime],
        alarm: Callable[[str], None],
        policy: FeePolicy | None = None,
    ) -> None:
        policy = policy or FeePolicy()
        self.store = store
        self.backlog = Backlog(backend, remedies, found=self._found_late, has_room=self._has_room, alarm=alarm)
        self._backend, self._wallet, self._remedies = backend, wallet, remedies
        self._depth, self._now, self._alarm = buried_depth, now, alarm
        self._bidder = Bidder(backend, policy, self._note)
        self._floor = self._rate = policy.floor
        self._open = {case.txid: case for case in store.open_cases()}
        self._watched = {place: case.txid for case in self._open.values() for place in case.places}
        self._worth = {txid: worth(case.open_pairs, self._rate) for txid, case in self._open.items()}
        self._unsaved: dict[Txid, Case] = {}
        self._unwritten = False
        self._writing = trio.CapacityLimiter(1)  # whoever saves waits for who saved before: the newest is written last
        self._settled_to = store.settled_to()
        self._tip = self._settled_to or BlockHeight(0)
        self._started = False
        self._forks = 0
        self._acted_on: dict[Txid, tuple[object, ...]] = {}
        self._wake = trio.Event()

    # --- told ---------------------------------------------------------------------------------------------------------

    async def take(self, batch: Batch) -> None:
        """Note what the chain and the mempool tell. On disk, if the disk works, when this returns; to be called before the
        batch's tip is committed, so that a crash repeats it. What is not settled then, an own cursor holds."""
        if not self._started:
            self._read_what_was_left(batch)
        self._tip = batch.tip.height
        if (fork := batch.fork) is not None:
            self._forks += 1
            self.backlog.undone(fork.height)
            for case in list(self._open.values()):
                self._update(hunt.undone(case, fork.height))
        seen = list(_seen(batch))
        lookups = await trio.to_thread.run_sync(begun, seen, self._remedies, SECONDS_A_BATCH)
        found = {each.txid: each for each in lookups}
        for tx, height in seen:
            await self._see(tx, height, found.get(tx.txid))
        for case in list(self._open.values()):
            self._update(hunt.settled(case, batch.tip.height, self._depth))
        self.backlog.took(batch.tip.height)
        await self._save()
        self._wake.set()

    def _read_what_was_left(self, batch: Batch) -> None:
        """Blocks that an earlier life took in and did not settle. Below the batch: what is in it is told now."""
        self._started = True
        first_told = batch.connected[0].ref.height if batch.connected else BlockHeight(batch.tip.height + 1)
        if self._settled_to is not None:
            first = max(self._settled_to + 1, first_told - PATIENCE)
            self.backlog.read_again(BlockHeight(first), BlockHeight(first_told - 1))

    async def _see(self, tx: Tx, height: BlockHeight | None, lookup: Lookup | None) -> None:
        if height is not None:
            self._spends(tx, height)
        if lookup is not None:
            pairs = tuple(lookup.pairs.values())
            settled = await self._begin(tx, height, pairs)
            lookup.told = dict(lookup.pairs) if settled else {}
            if not lookup.done or not settled:
                self.backlog.add(lookup, self._tip)
        if height is not None and tx.txid in self._open:
            self._update(hunt.confirmed(self._open[tx.txid], height))

    def _spends(self, tx: Tx, height: BlockHeight) -> None:
        for txid in {self._watched[place] for place in tx.prevouts if place in self._watched}:
            case = self._open[txid]
            reward = Sat(sum(each.value for each in tx.outputs if each.script == case.script))
            self._update(hunt.spent(case, tx.txid, tx.prevouts, reward, height))

    async def _begin(self, tx: Tx, height: BlockHeight | None, pairs: Sequence[Pair]) -> bool:
        """Open a case, or add to an open one; False when the disk did not let us, and it is to be tried again."""
        if tx.txid in self._open:
            self._update(hunt.improved(self._open[tx.txid], pairs))
            return True
        at_most = worth(pairs, self._floor)
        if not at_most:
            return True  # not even at the lowest feerate that is relayed
        paid = worth(pairs, self._rate)
        if not self._has_room(rank_of(height, paid)):
            self.backlog.leave(tx.txid, height, paid, at_most, self._tip)
            return True
        try:
            before = self._unsaved.get(tx.txid) or await trio.to_thread.run_sync(self.store.find, tx.txid)
            script = before.script if before is not None else await self._script()
        except StorageFailed as error:
            self._tell_unwritten(error)
            return False
        if tx.txid in self._open:  # the backlog was quicker
            return True
        case = Case(
            txid=tx.txid,
            breach=tx.raw,
            pairs=(),
            script=script,
            first_seen=self._now(),
            opened_at=self._tip,
        )
        if before is not None:
            case = hunt.reopened(before, self._tip)
        self._make_room()
        log.warning("a breach is seen; the hunt is on", txid=txid_text(tx.txid), outputs=len(pairs))
        self._watched |= dict.fromkeys(case.places, case.txid)
        self._update(hunt.improved(case, pairs))
        return True

    def _rank(self, txid: Txid) -> Rank:
        return rank_of(self._open[txid].height, self._worth[txid])

    def _has_room(self, rank: Rank) -> bool:
        return len(self._open) < MOST_OPEN or rank > min(map(self._rank, self._open))

    def _make_room(self) -> None:
        """Worthless cases are cheap to make: the lowest rank gives way, and is taken up again when there is room."""
        while len(self._open) >= MOST_OPEN:
            poorest = min(self._open, key=self._rank)
            case = self._open[poorest]
            at_most = worth(case.open_pairs, self._floor)
            self.backlog.leave(poorest, case.height, self._worth[poorest], at_most, self._tip)
            self._update(replace(case, closed=True, left=True))

    async def _script(self) -> bytes:
        """One that no open case has, so that rewards are not linked; the same again while nobody has paid it."""
        used = {case.script for case in self._open.values()}
        if len(used) < MOST_SCRIPTS:
            for number in range(MOST_SCRIPTS):
                script = await self._wallet.change_script(PURPOSE + bytes((number,)))
                if script not in used:
                    return script
        # None is free: to ask for all of them again with every case would hold up the news of our own channels.
        return await self._wallet.change_script(PURPOSE + bytes((len(self._open) % MOST_SCRIPTS,)))

    def _update(self, case: Case) -> None:
        before = self._open.get(case.txid)
        if before == case:
            return
        self._unsaved[case.txid] = case
        if not case.closed:
            self._open[case.txid] = case
            if before is None or before.open_pairs != case.open_pairs:
                self._worth[case.txid] = worth(case.open_pairs, self._rate)
            return
        del self._open[case.txid], self._worth[case.txid]
        for place in case.places:
            del self._watched[place]
        log.warning("a hunt has ended", txid=txid_text(case.txid), outcome=case.outcome.value, reward_sat=case.reward)

    async def _save(self) -> None:
        """Write what is new, and up to which block nothing waits any more: a restart looks at the others again."""
        lowest = self.backlog.lowest
        settled_to = self._tip if lowest is None else min(self._tip, BlockHeight(lowest - 1))
        unsaved = dict(self._unsaved)
        if not unsaved and settled_to == self._settled_to:
            return
        write = partial(self.store.save, tuple(unsaved.values()), settled_to)
        try:
            await trio.to_thread.run_sync(write, limiter=self._writing)
        except StorageFailed as error:
            self._tell_unwritten(error)  # again with the next batch
        else:
            self._unwritten, self._settled_to = False, settled_to
            self._unsaved = {txid: case for txid, case in self._unsaved.items() if unsaved.get(txid) is not case}

    def _tell_unwritten(self, error: StorageFailed) -> None:
        log.error("cases cannot be kept", reason=str(error))
        if not self._unwritten:
            self._unwritten = True
            self._alarm(
                f"the watcher's disk keeps no bounty cases: {error}; open hunts go on, new ones are tried again"
            )

    # --- found late ---------------------------------------------------------------------------------------------------

    async def _found_late(self, lookup: Lookup) -> None:
        """Pairs of a transaction that was seen some time ago. Raises ChainUnavailable, StorageFailed; may be repeated."""
        if not await self._begin(lookup.tx, lookup.height, tuple(lookup.pairs.values())):
            raise StorageFailed("a case could not be opened")
        if lookup.height is not None and lookup.txid in self._open:
            self._update(hunt.confirmed(self._open[lookup.txid], lookup.height))
            await self._fill(lookup.txid, lookup.height)
        await self._save()
        self._wake.set()

    async def _fill(self, txid: Txid, height: BlockHeight) -> None:
        """What blocks have done to a breach since the one that holds it; later ones are told, for its case is open."""
        interests = Interests(outpoints=frozenset(self._open[txid].places))
        last, forks = self._tip, self._forks
        for at in range(height, last + 1):
            ref = await self._backend.block_at(BlockHeight(at))
            transactions = () if ref is None else await self._backend.transactions(ref, interests)
            if self._forks != forks:
                raise ChainUnavailable("the chain was reorganised while it was read; it is tried again")
            for tx in transactions:
                if txid in {self._watched.get(place) for place in tx.prevouts}:
                    self._spends(tx, BlockHeight(at))

    # --- acting -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Publish and raise claims until cancelled. While the chain is away they wait, with back-off."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.backlog.run)
            nursery.start_soon(self._hunt)

    async def _hunt(self) -> None:
        retry = _FIRST_RETRY
        while True:
            self._wake = trio.Event()
            try:
                await self._act()
                retry = _FIRST_RETRY
            except ChainUnavailable as error:
                log.warning("hunts wait for the chain", reason=str(error))
                await trio.sleep(retry)
                retry = min(2 * retry, _LAST_RETRY)
                continue
            await self._wake.wait()

    async def _act(self) -> None:
        """Look at the cases of which something is new: all with a new tip, else those whose outputs others spend now."""
        if not self._open:
            return
        tip = (await self._backend.tip()).height
        await self._ask_feerate()
        spenders = await self._backend.mempool_spenders(list(self._watched))
        for case in [self._open[txid] for txid in sorted(self._open, key=self._rank, reverse=True)]:
            # Not our claims: who is refused tries again when something else is new.
            now = tip, (case.height, case.taken, case.pairs), tuple(spenders.get(place) for place in case.places)
            if self._acted_on.get(case.txid) == now:
                continue
            claim = await self._bidder.pursue(case, spenders, tip)
            self._acted_on[case.txid] = now
            there = self._open.get(case.txid)
            if claim is not None and there is not None:
                self._update(replace(there, claim=claim[0], claim_fee=claim[1]))
        self._acted_on = {txid: acted for txid, acted in self._acted_on.items() if txid in self._open}
        await self._save()

    async def _ask_feerate(self) -> None:
        """What cases are worth depends on it; those that were left may be worth more when it falls."""
        rate = max(await self._backend.feerate(ASK_WITHIN), self._floor)
        if rate == self._rate:
            return
        self.backlog.feerate_changed(rate)
        self._rate = rate
        found = await trio.to_thread.run_sync(_worths, tuple(self._open.values()), rate)
        self._worth |= {txid: paid for txid, paid in found.items() if txid in self._open}

    async def _note(self, txid: Txid, claim: Txid) -> None:
        """Before a claim leaves: after a crash its reward is still known to be ours, and no rival's is."""
        if (case := self._open.get(txid)) is not None:
            self._update(hunt.claimed(case, claim))
            await self._save()


def _worths(cases: Sequence[Case], rate: FeeRate) -> dict[Txid, Sat]:
    return {each.txid: worth(each.open_pairs, rate) for each in cases}


def _seen(batch: Batch) -> Iterable[Seen]:
    for block in batch.connected:
        for tx in block.transactions:
            yield tx, block.ref.height
    for tx in batch.arrived:
        yield tx, None
