"""What a hunter notes of the chain: cases on disk, hits that the disk did not answer for, too many of them at once, and what
an earlier life did not settle."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from test_bidding import BREACH

from protocols.ids import PeerId, Txid
from protocols.units import BlockHeight, FeeRate, Sat, UnixTime
from protocols.watch import hunt, pairs, remedy
from protocols.watch.bounty import assemble, worth
from protocols.watch.hunt import Case, Outcome
from rrnode.chain.base import BlockRef, Interests
from rrnode.chain.follower import Batch, FollowedBlock
from rrnode.chain.parse import Tx, parse_transaction
from rrnode.errors import ChainUnavailable, StorageFailed
from rrnode.services import backlog, hunting, lookups
from rrnode.services.hunting import Hunter
from rrnode.storage.cases import CaseStore
from rrnode.storage.remedies import Quotas, RemedyStore

CLIENT = PeerId(b"\x02" + b"c" * 32)


@dataclass
class Scripts:
    """A wallet: the same address for the same purpose until it is paid, as the real one."""

    given: dict[bytes, bytes] = field(default_factory=dict)
    paid: set[bytes] = field(default_factory=set)
    count: int = 0
    asked: int = 0

    async def change_script(self, purpose: bytes) -> bytes:
        self.asked += 1
        if self.given.get(purpose) in self.paid or purpose not in self.given:
            self.count += 1
            self.given[purpose] = b"\x00\x14" + bytes([self.count]) * 20
        return self.given[purpose]


@dataclass
class Chain:
    """The blocks that a scene was shown, and a feerate; nothing can be published here."""

    blocks: dict[int, FollowedBlock] = field(default_factory=dict)
    rate: FeeRate = FeeRate(1000)
    away: bool = False
    pruned: int | None = None

    async def block_at(self, height: BlockHeight) -> BlockRef | None:
        if self.away:
            raise ChainUnavailable("away")
        return self.blocks[height].ref if height in self.blocks else None

    async def transactions(self, ref: BlockRef, interests: Interests) -> tuple[Tx, ...]:
        if ref.height == self.pruned:
            raise ChainUnavailable("pruned")
        return self.blocks[ref.height].transactions

    async def mempool_transaction(self, txid: Txid) -> bytes | None:
        return None

    async def mempool_spenders(self, places: Any) -> dict[bytes, Txid]:
        return {}

    async def tip(self) -> BlockRef:
        return self.blocks[max(self.blocks)].ref

    async def feerate(self, within_blocks: int) -> FeeRate:
        return self.rate


class Scene:
    """A hunter that is told blocks; those that are not mined stand for a mempool that loses all."""

    def __init__(self, directory: Path) -> None:
        self.remedies = RemedyStore.open(
            directory / "watch.sqlite",
            node_id=CLIENT,
            network="regtest",
            quotas=Quotas(total=10**7, client=10**7, network=10**7),
        )
        self.store = CaseStore(self.remedies.database)
        self.wallet = Scripts()
        self.chain = Chain()
        self.alarms: list[str] = []
        self.hunter = self.started()

    def started(self) -> Hunter:
        return Hunter(
            backend=self.chain,  # type: ignore[arg-type] - what a hunter asks of it
            wallet=self.wallet,
            remedies=self.remedies,
            store=self.store,
            buried_depth=3,
            now=lambda: UnixTime(7),
            alarm=self.alarms.append,
        )

    def keep(self, *breaches: Any) -> None:
        sealed = {remedy.hint_of(each.txid): remedy.seal(each.remedy(), each.txid, bytes(12)) for each in breaches}
        self.remedies.put(CLIENT, BlockHeight(10_000), sealed, tip=BlockHeight(0), network="")

    async def see(self, *transactions: Any, height: int = 100, mined: bool = False, fork: int | None = None) -> None:
        """A batch that ends at a height; `mined`: with a block of these, else they are in the mempool."""
        seen = tuple(parse_transaction(each.raw) for each in transactions)
        block = FollowedBlock(ref=ref_of(height), transactions=seen)
        if fork is not None:
            self.chain.blocks = {at: each for at, each in self.chain.blocks.items() if at <= fork}
        if mined or height not in self.chain.blocks:
            self.chain.blocks[height] = block if mined else FollowedBlock(ref=ref_of(height), transactions=())
        await self.hunter.take(
            Batch(
                tip=block.ref,
                fork=None if fork is None else ref_of(fork),
                connected=(self.chain.blocks[height],),
                arrived=() if mined else seen,
                mempool=None,
                facts=(),
            )
        )

    async def look_further(self) -> None:
        """Until that brings nothing more."""
        while await self.hunter.backlog.look_further():
            pass

    def claim(self, case: Any, feerate: int = 1_000) -> Any:
        (claim,) = assemble(case.pairs, case.script, FeeRate(feerate))  # type: ignore[misc]
        return claim

    async def published(self, case: Case) -> Any:
        """A claim as the bidder makes it, noted as it does."""
        claim = self.claim(case)
        await self.hunter._note(case.txid, parse_transaction(claim.raw).txid)
        return claim

    def file(self, breach: Any, sealed: bytes, client: int = 0) -> None:
        peer = PeerId(b"\x02" + bytes([client]) * 32)
        hint = remedy.hint_of(breach.txid)
        self.remedies.put(peer, BlockHeight(10_000), {hint: sealed}, tip=BlockHeight(0), network="")

    def damage(self, patched: pytest.MonkeyPatch, *breaches: Any) -> None:
        """The disk does not give what is filed for these."""
        bad, find = {remedy.hint_of(each.txid) for each in breaches}, self.remedies.find_some

        def some(hint: bytes, after: int) -> list[tuple[int, bytes]]:
            if hint in bad:
                raise StorageFailed("database disk image is malformed")
            return find(hint, after)

        patched.setattr(self.remedies, "find_some", some)

    def full(self, patched: pytest.MonkeyPatch) -> None:
        """The disk takes no more."""

        def fail(*_: Any) -> None:
            raise StorageFailed("the disk is full")

        patched.setattr(self.store, "save", fail)

    def cases(self) -> set[Txid]:
        return {case.txid for case in self.store.open_cases()}


def ref_of(height: int) -> BlockRef:
    return BlockRef(height=BlockHeight(height), hash=bytes([height % 256]) * 32, previous=bytes(32), time=0)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.remedies.close()


def breach(number: int, **parts: Any) -> Any:
    return BREACH.Breach(number=number, **parts)


def sealed_with(breach: Any, bounty: int) -> bytes:
    """A remedy for its balance that offers so much."""
    plan = breach.plan()
    priced = tuple(replace(each, bounty=Sat(bounty)) for each in plan.priced)
    made = pairs.build(
        replace(plan, priced=priced),
        number=breach.number,
        txid=breach.txid,
        params=breach.params,
        keys=BREACH.ALICE,
        secret=BREACH.BOB.per_commitment_secret(breach.number),
    )
    assert made is not None
    return remedy.seal(made, breach.txid, bytes(12))


def opened(breach: Any, **changes: Any) -> Case:
    """A case of it as a hunter would open it."""
    made = Case(
        txid=breach.txid,
        breach=breach.raw,
        pairs=breach.pairs(),
        script=b"\x00\x14" + b"\x66" * 20,
        first_seen=UnixTime(1),
        opened_at=BlockHeight(1),
    )
    return replace(made, **changes)


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
    assert scene.wallet.count == 1


async def test_hit_that_the_disk_does_not_answer_for_is_looked_up_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = breach(1)
    scene.keep(one)
    with monkeypatch.context() as patched:
        scene.damage(patched, one)
        await scene.see(one)
        await scene.look_further()
    assert scene.cases() == set()
    assert len(scene.alarms) == 1
    assert "malformed" in scene.alarms[0]
    await scene.look_further()
    assert scene.cases() == {one.txid}


async def test_disk_that_takes_no_case_does_not_stop_the_hunt(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    one = breach(1)
    scene.keep(one)
    with monkeypatch.context() as patched:
        scene.full(patched)
        await scene.see(one)
        await scene.see(height=101)
    assert len(scene.alarms) == 1
    assert set(scene.hunter._open) == {one.txid}
    assert scene.cases() == set()
    await scene.see(height=101)
    assert scene.cases() == {one.txid}


async def test_page_that_cannot_be_read_hides_only_what_is_on_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good, later = breach(1), breach(2), breach(3)
    scene.keep(bad, good, later)
    scene.damage(monkeypatch, bad)
    await scene.see(bad, good, mined=True)
    await scene.see(later, height=101, mined=True)
    assert scene.cases() == {good.txid, later.txid}
    assert len(scene.alarms) == 1


async def test_what_was_not_settled_is_looked_up_again_after_a_restart(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = breach(1), breach(2)
    scene.keep(one)
    await scene.see(height=99, mined=True)
    with monkeypatch.context() as patched:
        scene.damage(patched, one)
        await scene.see(one, mined=True)
        await scene.see(height=101, mined=True)
    scene.hunter = scene.started()
    await scene.see(other, height=102, mined=True)
    await scene.look_further()
    (case,) = scene.store.open_cases()
    assert (case.txid, case.height) == (one.txid, 100)
    await scene.see(height=103, mined=True)
    assert scene.store.settled_to() == 103


async def test_block_that_was_read_again_and_found_something_is_settled(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = breach(1)
    scene.keep(one)
    await scene.see(height=99, mined=True)
    with monkeypatch.context() as patched:
        scene.damage(patched, one)
        await scene.see(one, mined=True)
    scene.hunter = scene.started()
    await scene.see(height=101, mined=True)
    assert scene.store.settled_to() == 99
    await scene.look_further()
    assert scene.cases() == {one.txid}
    await scene.see(height=102, mined=True)
    assert scene.store.settled_to() == 102


async def test_nothing_counts_as_settled_until_the_disk_takes_the_case(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = breach(1)
    scene.keep(one)
    await scene.see(height=99, mined=True)
    with monkeypatch.context() as patched:
        scene.full(patched)
        await scene.see(one, mined=True)
    assert scene.store.settled_to() == 99
    scene.hunter = scene.started()
    await scene.see(height=101, mined=True)
    await scene.look_further()
    assert scene.cases() == {one.txid}
    assert len(scene.alarms) == 1


async def test_breach_that_is_found_late_is_told_what_blocks_did_since(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = breach(1)
    scene.keep(one)
    rival = parse_transaction(scene.claim(opened(one)).raw)
    with monkeypatch.context() as patched:
        scene.damage(patched, one)
        await scene.see(one, mined=True)
        await scene.see(rival, height=101, mined=True)
    scene.chain.away = True
    with pytest.raises(ChainUnavailable):
        await scene.hunter.backlog.look_further()
    scene.chain.away = False
    await scene.look_further()
    (case,) = scene.store.open_cases()
    assert (case.height, [(each.spender, each.height) for each in case.taken]) == (100, [(rival.txid, 101)])


async def test_spend_in_a_block_that_is_undone_while_it_is_read_is_not_held_against_a_late_breach(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = breach(1)
    scene.keep(one)
    with monkeypatch.context() as patched:
        scene.damage(patched, one)
        await scene.see(one, mined=True)
    await scene.see(scene.claim(opened(one)), height=101, mined=True)
    read = scene.chain.transactions

    async def reorganised(ref: BlockRef, interests: Interests) -> tuple[Tx, ...]:
        found = await read(ref, interests)
        if ref.height == 101 and found:
            await scene.see(height=101, mined=True, fork=100)
        return found

    monkeypatch.setattr(scene.chain, "transactions", reorganised)
    with pytest.raises(ChainUnavailable, match="reorganised while it was read"):
        await scene.hunter.backlog.look_further()
    await scene.look_further()
    (case,) = scene.store.open_cases()
    assert (case.height, case.taken) == (100, ())


async def test_after_a_long_absence_only_what_can_still_be_claimed_is_read_again(scene: Scene) -> None:
    await scene.see(height=99, mined=True)
    scene.hunter = scene.started()
    await scene.see(height=10_000, mined=True)
    assert scene.hunter.backlog.lowest == 10_000 - hunt.PATIENCE


async def test_block_that_is_gone_is_not_held_against_what_waits(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    one = breach(1)
    scene.keep(one)
    with monkeypatch.context() as patched:
        scene.damage(patched, one)
        await scene.see(one, mined=True)
    await scene.see(height=101, mined=True, fork=99)
    await scene.look_further()
    (case,) = scene.store.open_cases()
    assert case.height is None


async def test_block_that_the_chain_does_not_give_holds_up_nothing_else(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pruned one, for one: it never comes."""
    monkeypatch.setattr(hunting, "MOST_OPEN", 1)
    lost, rich, poor = breach(1), breach(2, stake=100_000), breach(3, stake=30_000)
    scene.keep(lost, rich, poor)
    await scene.see(height=98, mined=True)
    with monkeypatch.context() as patched:
        scene.damage(patched, lost)
        await scene.see(lost, height=99, mined=True)
    scene.hunter = scene.started()
    await scene.see(rich, poor, mined=True)
    scene.chain.pruned = 99
    await scene.see(scene.claim(opened(rich)), height=101, mined=True)
    for _ in range(5):
        with suppress(ChainUnavailable):
            await scene.hunter.backlog.look_further()
    assert scene.cases() == {poor.txid}


async def test_case_whose_room_was_taken_while_the_disk_was_full_is_taken_up_as_it_was(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hunting, "MOST_OPEN", 1)
    rich, poor = breach(1, stake=100_000), breach(2, stake=30_000)
    scene.keep(rich, poor)
    await scene.see(poor, mined=True)
    scene.full(monkeypatch)
    (case,) = scene.store.open_cases()
    claim = await scene.published(case)
    await scene.see(rich, height=101, mined=True)
    await scene.see(scene.claim(opened(rich)), height=102, mined=True)
    await scene.look_further()
    (now,) = scene.hunter._open.values()
    assert (now.txid, now.claims) == (poor.txid, (parse_transaction(claim.raw).txid,))


async def test_closed_case_that_is_told_again_keeps_its_end(scene: Scene) -> None:
    one = breach(1)
    scene.keep(one)
    await scene.see(one, mined=True)
    (case,) = scene.store.open_cases()
    claim = await scene.published(case)
    await scene.see(claim, height=101, mined=True)
    await scene.see(height=103, mined=True)
    before = scene.store.find(one.txid)
    scene.hunter = scene.started()
    scene.hunter.backlog.read_again(BlockHeight(100), BlockHeight(103))
    await scene.see(height=104, mined=True)
    await scene.look_further()
    await scene.see(height=105, mined=True)
    after = scene.store.find(one.txid)
    assert before is not None
    assert after == replace(before, opened_at=BlockHeight(104))


# --- too many ---------------------------------------------------------------------------------------------------------


async def test_poorest_case_gives_way_and_comes_back_when_there_is_room(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hunting, "MOST_OPEN", 2)
    poor, poorer, rich, richer = (breach(number, stake=10_000 * number) for number in (3, 2, 4, 5))
    scene.keep(poor, poorer, rich, richer)
    await scene.see(poor, poorer, mined=True)
    assert scene.cases() == {poor.txid, poorer.txid}
    await scene.see(rich, richer, height=101, mined=True)
    await scene.look_further()
    assert scene.cases() == {rich.txid, richer.txid}
    assert scene.store.find(poor.txid).outcome is Outcome.LEFT  # type: ignore[union-attr]
    claims = [await scene.published(case) for case in scene.store.open_cases()]
    await scene.see(*claims, height=102, mined=True)
    await scene.see(height=104, mined=True)
    await scene.look_further()
    assert {(case.txid, case.height) for case in scene.store.open_cases()} == {(poor.txid, 100), (poorer.txid, 100)}


async def test_case_that_is_no_richer_waits_and_a_taken_one_is_worth_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hunting, "MOST_OPEN", 1)
    rich, poor = breach(1, stake=100_000), breach(2, stake=30_000)
    scene.keep(rich, poor)
    await scene.see(rich, poor, mined=True)
    await scene.look_further()
    assert scene.cases() == {rich.txid}
    await scene.see(scene.claim(opened(rich)), height=101, mined=True)
    await scene.look_further()
    assert scene.cases() == {poor.txid}


async def test_riches_that_no_block_holds_never_drive_out_a_confirmed_breach(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One coin, spent again and again in mempools, would else end all hunts for as long as a case is waited for."""
    monkeypatch.setattr(hunting, "MOST_OPEN", 2)
    real, later, *rich = breach(1, stake=30_000), breach(2, stake=30_000), breach(3), breach(4), breach(5)
    scene.keep(real, later, *rich)
    await scene.see(real, mined=True)
    await scene.see(*rich)
    await scene.look_further()
    assert real.txid in scene.cases()
    assert len(scene.cases()) == 2
    await scene.see(later, height=101, mined=True)
    await scene.look_further()
    assert {(case.txid, case.height) for case in scene.store.open_cases()} == {(real.txid, 100), (later.txid, 101)}


async def test_confirmed_breach_is_not_forgotten_for_riches_that_no_block_holds(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hunting, "MOST_OPEN", 1)
    monkeypatch.setattr(backlog, "MOST_LEFT", 1)
    hunted, real, rich, richer = breach(1, stake=100_000), breach(2, stake=30_000), breach(3), breach(4)
    scene.keep(hunted, real, rich, richer)
    await scene.see(hunted, real, mined=True)
    await scene.see(rich, richer, height=101)
    await scene.see(scene.claim(opened(hunted)), height=102, mined=True)
    await scene.look_further()
    assert scene.cases() == {real.txid}


async def test_what_was_left_is_found_again_after_a_restart(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hunting, "MOST_OPEN", 1)
    rich, poor = breach(1, stake=100_000), breach(2, stake=30_000)
    scene.keep(rich, poor)
    await scene.see(height=99, mined=True)
    await scene.see(poor, mined=True)
    await scene.see(rich, height=101, mined=True)
    monkeypatch.setattr(hunting, "MOST_OPEN", 2)
    scene.hunter = scene.started()
    await scene.see(height=102, mined=True)
    await scene.look_further()
    assert {(case.txid, case.height) for case in scene.store.open_cases()} == {(rich.txid, 101), (poor.txid, 100)}


async def test_when_fees_fall_those_that_were_left_are_judged_anew(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hunting, "MOST_OPEN", 1)
    single = breach(1, bob=0, htlcs=((True, 90_000, 500),))
    many = breach(2, bob=0, htlcs=tuple((True, 25_000, 500 + place) for place in range(8)))
    scene.keep(single, many)
    await scene.see(height=99, mined=True)
    dear = FeeRate(30_000)
    assert worth(opened(single).pairs, dear) > worth(opened(many).pairs, dear) == 0
    assert 0 < worth(opened(single).pairs, FeeRate(1000)) < worth(opened(many).pairs, FeeRate(1000))
    scene.hunter._rate = dear
    scene.hunter.backlog.feerate_changed(dear)
    await scene.see(single, many, mined=True)
    await scene.look_further()
    assert scene.cases() == {single.txid}
    await scene.hunter._ask_feerate()
    await scene.look_further()
    assert scene.cases() == {many.txid}


async def test_bounty_that_never_pays_for_its_room_is_no_case(scene: Scene) -> None:
    small, enough = breach(1), breach(2)
    for each, bounty in ((small, 400), (enough, 700)):
        scene.file(each, sealed_with(each, bounty))
    await scene.see(small, enough, mined=True)
    await scene.look_further()
    assert scene.cases() == {enough.txid}
    assert scene.store.settled_to() == 100


async def test_transaction_that_is_larger_than_any_commitment_is_not_looked_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = breach(1)
    scene.keep(one)
    monkeypatch.setattr(hunt, "MOST_OUTPUTS", len(one.parsed.outputs) - 1)
    await scene.see(one, mined=True)
    await scene.look_further()
    assert scene.cases() == set()


# --- too many remedies ------------------------------------------------------------------------------------------------


async def test_remedies_of_one_transaction_are_tried_some_at_a_time_and_all_in_the_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = breach(1), breach(2)
    for number in range(20):
        scene.file(one, bytes(184), client=number)
    scene.keep(one, other)  # the victim came last
    monkeypatch.setattr(lookups, "SECONDS_AT_ONCE", 0.0)
    monkeypatch.setattr(hunting, "SECONDS_A_BATCH", 1e9)
    await scene.see(height=99, mined=True)
    await scene.see(one, other, mined=True)
    assert scene.cases() == {other.txid}
    assert scene.store.settled_to() == 99
    for _ in range(20):
        assert scene.cases() == {other.txid}
        assert await scene.hunter.backlog.look_further()
    assert scene.cases() == {one.txid, other.txid}
    await scene.look_further()
    await scene.see(height=101, mined=True)
    assert scene.store.settled_to() == 101


async def test_raise_that_is_found_later_improves_the_case(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    one = breach(1)
    scene.file(one, sealed_with(one, 2_000), client=1)
    scene.file(one, sealed_with(one, 3_000), client=2)
    monkeypatch.setattr(lookups, "SECONDS_AT_ONCE", 0.0)
    await scene.see(one, mined=True)
    bounties = [[pair.bounty for pair in case.pairs] for case in scene.store.open_cases()]
    await scene.look_further()
    bounties += [[pair.bounty for pair in case.pairs] for case in scene.store.open_cases()]
    assert bounties == [[2_000], [3_000]]


async def test_batch_that_brings_too_much_goes_on_and_nothing_of_it_is_lost(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [breach(number) for number in range(1, 5)]
    scene.keep(*some)
    monkeypatch.setattr(hunting, "SECONDS_A_BATCH", 0.0)
    monkeypatch.setattr(backlog, "MOST_WAITING", 2)
    await scene.see(*some, mined=True)
    assert scene.cases() == set()
    await scene.look_further()
    assert scene.cases() == {each.txid for each in some}


async def test_look_up_from_the_mempool_gives_way_and_comes_again_with_its_block(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, one = breach(1), breach(2)
    scene.keep(waiting, one)
    monkeypatch.setattr(backlog, "MOST_WAITING", 1)
    with monkeypatch.context() as patched:
        scene.damage(patched, waiting, one)
        await scene.see(waiting)
        await scene.see(one, height=101, mined=True)
    assert list(scene.hunter.backlog._waiting) == [one.txid]
    assert scene.hunter.backlog._unread is None
    await scene.see(waiting, height=102, mined=True)
    await scene.look_further()
    assert scene.cases() == {waiting.txid, one.txid}


async def test_signatures_are_never_checked_on_the_loop(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    one = breach(1)
    scene.keep(one)
    threads = set()
    check = pairs.check

    def noted(*given: Any, **named: Any) -> Any:
        threads.add(threading.current_thread())
        return check(*given, **named)

    monkeypatch.setattr(pairs, "check", noted)
    await scene.see(one, mined=True)
    scene.hunter = scene.started()
    await scene.see(one, height=101, mined=True)
    assert scene.cases() == {one.txid}
    assert threads
    assert threading.current_thread() not in threads


# --- addresses --------------------------------------------------------------------------------------------------------


async def test_open_cases_have_addresses_of_their_own(scene: Scene) -> None:
    some = [breach(number) for number in range(1, 4)]
    scene.keep(*some)
    await scene.see(*some)
    assert len({case.script for case in scene.store.open_cases()}) == 3


async def test_addresses_that_nobody_paid_are_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hunting, "MOST_SCRIPTS", 2)
    some = [breach(number) for number in range(1, 5)]
    scene.keep(*some)
    await scene.see(*some)
    assert len({case.script for case in scene.store.open_cases()}) == scene.wallet.count == 2


async def test_case_for_which_no_address_is_free_asks_for_one_only(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs a read of the wallet, and the news of our own channels wait for them."""
    monkeypatch.setattr(hunting, "MOST_SCRIPTS", 3)
    some = [breach(number) for number in range(1, 9)]
    scene.keep(*some)
    await scene.see(*some)
    assert len(scene.cases()) == 8
    assert scene.wallet.asked == (1 + 2 + 3) + 5


async def test_address_that_was_paid_is_not_used_again(scene: Scene) -> None:
    one, other = breach(1), breach(2)
    scene.keep(one, other)
    await scene.see(one, mined=True)
    (case,) = scene.store.open_cases()
    claim = await scene.published(case)
    scene.wallet.paid.add(case.script)
    await scene.see(claim, height=101, mined=True)
    await scene.see(height=103)
    ended = scene.store.find(one.txid)
    assert ended is not None
    assert (ended.outcome, ended.reward) == (Outcome.WON, claim.reward)
    await scene.see(other, height=104)
    assert [each.script for each in scene.store.open_cases()] == [b"\x00\x14" + b"\x02" * 20]


async def test_rival_who_pays_our_address_has_won_the_race(scene: Scene) -> None:
    one = breach(1)
    scene.keep(one)
    await scene.see(one, mined=True)
    (case,) = scene.store.open_cases()
    ours = await scene.published(case)
    rival = scene.claim(case, feerate=2_000)  # pays the same address as ours, which anybody can see
    assert parse_transaction(rival.raw).txid != parse_transaction(ours.raw).txid
    await scene.see(rival, height=101, mined=True)
    await scene.see(height=103, mined=True)
    ended = scene.store.find(one.txid)
    assert ended is not None
    assert (ended.outcome, ended.reward, ended.lost) == (Outcome.LOST, 0, 1)
