"""What a hunter notes of the chain: cases on disk, hits that the disk did not answer for, too many of them at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from test_bidding import BREACH

from protocols.ids import PeerId, Txid
from protocols.units import BlockHeight, FeeRate, UnixTime
from protocols.watch import remedy
from protocols.watch.bounty import assemble
from protocols.watch.hunt import Outcome
from rrnode.chain.base import BlockRef
from rrnode.chain.follower import Batch, FollowedBlock
from rrnode.chain.parse import parse_transaction
from rrnode.errors import StorageFailed
from rrnode.services import hunting
from rrnode.services.hunting import Hunter
from rrnode.storage.cases import CaseStore
from rrnode.storage.remedies import Quotas, RemedyStore

CLIENT = PeerId(b"\x02" + b"c" * 32)


@dataclass
class Scripts:
    """A wallet that counts what it was asked for."""

    asked: int = 0

    async def change_script(self, purpose: bytes) -> bytes:
        self.asked += 1
        return b"\x00\x14" + bytes([self.asked]) * 20


class Scene:
    """A hunter without a chain: nothing is published here."""

    def __init__(self, directory: Path) -> None:
        self.remedies = RemedyStore.open(
            directory / "watch.sqlite",
            node_id=CLIENT,
            network="regtest",
            quotas=Quotas(total=10**7, client=10**7, network=10**7),
        )
        self.store = CaseStore(self.remedies.database)
        self.wallet = Scripts()
        self.hunter = self.started()

    def started(self) -> Hunter:
        return Hunter(
            backend=None,  # type: ignore[arg-type] - `take` asks nobody
            wallet=self.wallet,
            remedies=self.remedies,
            store=self.store,
            buried_depth=3,
            now=lambda: UnixTime(7),
        )

    def keep(self, *breaches: Any) -> None:
        sealed = {remedy.hint_of(each.txid): remedy.seal(each.remedy(), each.txid, bytes(12)) for each in breaches}
        self.remedies.put(CLIENT, BlockHeight(10_000), sealed, tip=BlockHeight(0), network="")

    async def see(self, *transactions: Any, height: int = 100, mined: bool = False) -> None:
        seen = tuple(parse_transaction(each.raw) for each in transactions)
        ref = BlockRef(height=BlockHeight(height), hash=bytes([height % 256]) * 32, previous=bytes(32), time=0)
        block = FollowedBlock(ref=ref, transactions=seen)
        await self.hunter.take(
            Batch(
                tip=ref,
                fork=None,
                connected=(block,) if mined else (),
                arrived=() if mined else seen,
                mempool=None,
                facts=(),
            )
        )

    def cases(self) -> set[Txid]:
        return {case.txid for case in self.store.open_cases()}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.remedies.close()


def breach(number: int) -> Any:
    return BREACH.Breach(number=number)


async def test_case_is_on_disk_when_the_batch_is_taken_and_outlives_its_remedy(scene: Scene) -> None:
    one, other = breach(1), breach(2)
    scene.keep(one)
    await scene.see(one, other)
    assert scene.cases() == {one.txid}
    scene.remedies.withdraw(CLIENT, [remedy.hint_of(one.txid)])
    scene.hunter = scene.started()
    await scene.see(one, height=101, mined=True)
    (case,) = scene.store.open_cases()
    assert (case.height, len(case.pairs), case.first_seen) == (101, 1, 7)
    assert scene.wallet.asked == 1


async def test_hit_that_the_disk_does_not_answer_for_is_looked_up_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = breach(1)
    scene.keep(one)
    with monkeypatch.context() as patched:

        def broken(hint: bytes) -> Iterator[bytes]:
            raise StorageFailed("the disk reports an error")

        patched.setattr(scene.remedies, "find", broken)
        await scene.see(one)
    assert scene.cases() == set()
    await scene.see(height=101)
    assert scene.cases() == {one.txid}


async def test_disk_that_takes_no_case_does_not_stop_the_hunt(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    one = breach(1)
    scene.keep(one)
    with monkeypatch.context() as patched:

        def full(cases: Any) -> None:
            raise StorageFailed("the disk is full")

        patched.setattr(scene.store, "save", full)
        await scene.see(one)
    assert set(scene.hunter._open) == {one.txid}
    assert scene.cases() == set()
    await scene.see(height=101)
    assert scene.cases() == {one.txid}


async def test_cases_are_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hunting, "MOST_OPEN", 2)
    some = [breach(number) for number in range(1, 4)]
    scene.keep(*some)
    await scene.see(*some)
    assert scene.cases() == {each.txid for each in some[:2]}


async def test_address_that_was_never_paid_is_used_again(scene: Scene) -> None:
    some = [breach(number) for number in range(1, 4)]
    scene.keep(*some)
    await scene.see(*some)
    assert len({case.script for case in scene.store.open_cases()}) == 1
    assert scene.wallet.asked == 1


async def test_address_that_was_paid_is_not_used_again(scene: Scene) -> None:
    one, other = breach(1), breach(2)
    scene.keep(one, other)
    await scene.see(one, mined=True)
    (case,) = scene.store.open_cases()
    (claim,) = assemble(case.pairs, case.script, FeeRate(1_000))  # type: ignore[misc]
    await scene.see(claim, height=101, mined=True)
    await scene.see(height=103)
    ended = scene.store.find(one.txid)
    assert ended is not None
    assert (ended.outcome, ended.reward) == (Outcome.WON, claim.reward)
    await scene.see(other, height=104)
    assert [each.script for each in scene.store.open_cases()] == [b"\x00\x14" + b"\x02" * 20]
