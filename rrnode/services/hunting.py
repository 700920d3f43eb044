"""Hunts bounties: every transaction of every block and of the mempool is looked up by hint; on a hit a case is opened, and
claims are published and raised until a block decides (DESIGN 7).

Two halves: `take` is told everything that the node follows, and only notes; `run` publishes (`bidding`). Neither waits for
the other, and what goes wrong here stops nothing but a hunt.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

import structlog
import trio

from protocols.errors import DecodeError, MisuseError
from protocols.ids import Txid
from protocols.units import BlockHeight, Sat, UnixTime
from protocols.watch import hunt
from protocols.watch.hunt import Case
from protocols.watch.remedy import hint_of
from rrnode.chain.base import ChainBackend
from rrnode.chain.fees import FeePolicy
from rrnode.chain.follower import Batch
from rrnode.chain.parse import Tx
from rrnode.control.text import txid_text
from rrnode.errors import ChainUnavailable, StorageFailed
from rrnode.services.bidding import Bidder
from rrnode.storage.cases import CaseStore
from rrnode.storage.remedies import RemedyStore

log = structlog.get_logger(__name__)

MOST_OPEN = 1000  # cases; each needs a transaction that a mempool has taken
MOST_MISSED = 1000  # transactions whose remedies the disk did not give, to be tried again
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
        policy: FeePolicy | None = None,
    ) -> None:
        self.store = store
        self._backend, self._wallet, self._remedies = backend, wallet, remedies
        self._depth, self._now = buried_depth, now
        self._bidder = Bidder(backend, policy or FeePolicy())
        self._open = {case.txid: case for case in store.open_cases()}
        self._watched = {place: case.txid for case in self._open.values() for place in case.places}
        self._unsaved: dict[Txid, Case] = {}
        self._missed: list[tuple[Tx, BlockHeight | None]] = []
        self._script = next((case.script for case in self._open.values()), None)
        self._tip = BlockHeight(0)
        self._acted_on: dict[Txid, tuple[BlockHeight, Case, tuple[Txid | None, ...]]] = {}
        self._wake = trio.Event()

    # --- told ---------------------------------------------------------------------------------------------------------

    async def take(self, batch: Batch) -> None:
        """Note what the chain and the mempool tell. On disk, if the disk works, when this returns; to be called before the
        batch's tip is committed, so that a crash repeats it."""
        self._tip = batch.tip.height
        if (fork := batch.fork) is not None:
            for case in list(self._open.values()):
                self._update(hunt.undone(case, fork.height))
            self._missed = [
                (tx, None if height is None or height > fork.height else height) for tx, height in self._missed
            ]
        missed = self._missed
        found = await trio.to_thread.run_sync(self._look_up, batch)
        for tx, height in (*missed, *self._of(batch)):
            await self._see(tx, height, found.get(tx.txid, ()))
        for case in list(self._open.values()):
            self._update(hunt.settled(case, batch.tip.height, self._depth))
        await self._save()
        self._wake.set()

    @staticmethod
    def _of(batch: Batch) -> Iterable[tuple[Tx, BlockHeight | None]]:
        for block in batch.connected:
            for tx in block.transactions:
                yield tx, block.ref.height
        for tx in batch.arrived:
            yield tx, None

    def _look_up(self, batch: Batch) -> dict[Txid, tuple[bytes, ...]]:
        """Remedies that fit a transaction of the batch, or one that the disk did not answer for. In a worker thread."""
        likely = [(tx, height) for tx, height in self._of(batch) if self._remedies.may_have(hint_of(tx.txid))]
        asked, self._missed = [*self._missed, *likely], []
        found: dict[Txid, tuple[bytes, ...]] = {}
        for number, (tx, _) in enumerate(asked):
            try:
                useful = hunt.useful(tx.raw, self._remedies.find(hint_of(tx.txid)))
            except StorageFailed as error:
                log.error("remedies cannot be read", reason=str(error))
                self._missed = asked[number:][:MOST_MISSED]
                break
            except (DecodeError, MisuseError) as error:  # a transaction that our own parser does not read has no remedy
                log.warning("a transaction cannot be checked", txid=txid_text(tx.txid), reason=str(error))
                continue
            if useful:
                found[tx.txid] = useful
        return found

    async def _see(self, tx: Tx, height: BlockHeight | None, remedies: tuple[bytes, ...]) -> None:
        if height is not None:
            for txid in {self._watched[place] for place in tx.prevouts if place in self._watched}:
                case = self._open[txid]
                reward = Sat(sum(each.value for each in tx.outputs if each.script == case.script))
                self._update(hunt.spent(case, tx.txid, tx.prevouts, reward, height))
        if remedies and tx.txid not in self._open:
            await self._begin(tx, remedies)
        if height is not None and tx.txid in self._open:
            self._update(hunt.confirmed(self._open[tx.txid], height))

    async def _begin(self, tx: Tx, remedies: tuple[bytes, ...]) -> None:
        if len(self._open) >= MOST_OPEN:
            log.error("a breach is not hunted: too many cases are open", txid=txid_text(tx.txid))
            return
        try:
            script = self._script = self._script or await self._wallet.change_script(PURPOSE)
        except StorageFailed as error:
            log.error("a breach is not hunted: the wallet gives no script", txid=txid_text(tx.txid), reason=str(error))
            return
        case = Case(
            txid=tx.txid,
            breach=tx.raw,
            remedies=remedies,
            script=script,
            first_seen=self._now(),
            opened_at=self._tip,
        )
        log.warning("a breach is seen; the hunt is on", txid=txid_text(tx.txid), outputs=len(case.pairs))
        self._watched |= dict.fromkeys(case.places, case.txid)
        self._update(case)

    def _update(self, case: Case) -> None:
        if self._open.get(case.txid) == case:
            return
        self._unsaved[case.txid] = case
        if not case.closed:
            self._open[case.txid] = case
            return
        del self._open[case.txid]
        for place in case.places:
            del self._watched[place]
        if case.reward:
            self._script = None  # a fresh one for the next case; one that was never paid is used again
        log.warning("a hunt has ended", txid=txid_text(case.txid), outcome=case.outcome.value, reward_sat=case.reward)

    async def _save(self) -> None:
        if not self._unsaved:
            return
        unsaved = dict(self._unsaved)
        try:
            await trio.to_thread.run_sync(self.store.save, unsaved.values())
        except StorageFailed as error:
            log.error("cases are not on disk; the hunt goes on", reason=str(error))  # again with the next batch
        else:
            self._unsaved = {txid: case for txid, case in self._unsaved.items() if unsaved.get(txid) is not case}

    # --- acting -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Publish and raise claims until cancelled. While the chain is away they wait, with back-off."""
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
        spenders = await self._backend.mempool_spenders(list(self._watched))
        for case in list(self._open.values()):
            now = tip, case, tuple(spenders.get(place) for place in case.places)
            if self._acted_on.get(case.txid) == now:
                continue
            claim = await self._bidder.pursue(case, spenders, tip)
            self._acted_on[case.txid] = now
            there = self._open.get(case.txid)
            if claim is not None and there is not None:
                self._update(replace(there, claim=claim[0], claim_fee=claim[1]))
        self._acted_on = {txid: acted for txid, acted in self._acted_on.items() if txid in self._open}
        await self._save()
