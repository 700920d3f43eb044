"""The guard over a node that is down, halted or hung: it acts at the deadline and not before, on the newest state only,
leaves a note of it, and brings the money home.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from protocols.channel.engine import deadline, force_close_transactions
from protocols.channel.events import PublishWithChild
from protocols.channel.state import Phase
from protocols.onchain import tx as onchain
from protocols.units import BlockHeight
from rrnode import datadir
from rrnode.chain.parse import parse_transaction
from rrnode.errors import ChainUnavailable, StorageFailed, UserError
from rrnode.guard import Heartbeat, process, read_closed, write_heartbeat
from rrnode.guard.files import add_closed, only_guard
from rrnode.wallet import Wallet, rescan

AMOUNT = 50_000_000


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at other processes every few milliseconds instead of seconds."""
    monkeypatch.setattr(process, "LOOK_EVERY", 0.005)
    monkeypatch.setattr(process, "RETRY_AFTER", 0.01)
    monkeypatch.setattr(process, "STALE_AFTER", 0.05)


@asynccontextmanager
async def guarding(pair: Any, side: Any) -> Any:
    """The guard runs meanwhile, and must end by being cancelled."""
    guard = pair.guard_of(side)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guard.run)
        yield guard
        nursery.cancel_scope.cancel()


def due(side: Any) -> int:
    """The height at which the chain must be used, as the disk has it."""
    found = deadline(side.on_disk(), side.settings.channel_config())
    assert found is not None
    return found


def commitment_of(side: Any) -> bytes:
    """Id of the newest commitment that the disk can sign."""
    channel = side.on_disk()
    closing = force_close_transactions(channel, side.keys.channel_keys(channel.key_index))
    assert closing is not None
    return onchain.txid_of(closing.transaction)


async def mempool(pair: Any) -> set[bytes]:
    return set(await pair.chain.mempool())


async def mine_to(pair: Any, height: int) -> None:
    while await pair.height() < height:
        await pair.mine()


async def followed(guard: Any, pair: Any, eventually: Any) -> None:
    """Give the guard the time to do what it should not do."""
    for _ in range(20):
        await trio.sleep(0.005)


async def dead_payee(pair: Any) -> Any:
    """B released a preimage, A never heard of it, B died."""
    await pair.lock(AMOUNT, answered=False)
    await pair.cut()
    pair.b.die()
    return pair.b


async def test_the_guard_of_a_dead_payee_closes_at_the_deadline_and_claims_the_payment(
    pair: Any, eventually: Callable[..., Any]
) -> None:
    side = await dead_payee(pair)
    pair.a.die()
    commitment, height = commitment_of(side), due(side)
    async with guarding(pair, side) as guard:
        await mine_to(pair, height - 1)
        await followed(guard, pair, eventually)
        assert await mempool(pair) == set()
        assert read_closed(side.settings.data_dir) == frozenset()
        await pair.mine()

        async def published() -> bool:
            return commitment in await mempool(pair)

        await eventually(published)
        assert read_closed(side.settings.data_dir) == {side.on_disk().channel_id}
        assert len(await mempool(pair)) == 2  # with the child that pays for both
        await pair.mine()

        async def claimed() -> bool:
            return len(await mempool(pair)) == 1

        await eventually(claimed)
        (claim,) = await mempool(pair)
        raw = await pair.chain.mempool_transaction(claim)
        assert parse_transaction(raw).prevouts[0][:32] == commitment
        assert await pair.height() < side.on_disk().htlcs[0].expiry  # before A may take it back
        await pair.mine()
        for _ in range(8):  # past to_self_delay
            await pair.mine()
            await followed(guard, pair, eventually)
    restored = Wallet(side.keys, side_wallet_state())
    await rescan(restored, pair.chain, 1)
    start = 3 * 50 * 100_000_000
    ours = 550_000  # what was pushed, and the payment
    fees = start + ours - restored.balance().confirmed
    assert 0 < fees < 100_000  # a hurried commitment, a hurried claim, two sweeps


def side_wallet_state() -> Any:
    from rrnode.storage import WalletState

    return WalletState()


async def test_the_guard_of_a_dead_payer_takes_back_what_nobody_claimed(
    pair: Any, eventually: Callable[..., Any]
) -> None:
    await pair.lock(AMOUNT, answered=False)
    await pair.cut()
    pair.a.die()
    pair.b.die()
    side = pair.a
    commitment, height = commitment_of(side), due(side)
    assert height == side.on_disk().htlcs[0].expiry + 2
    async with guarding(pair, side) as guard:
        await mine_to(pair, height - 1)
        await followed(guard, pair, eventually)
        assert await mempool(pair) == set()
        await pair.mine()

        async def published() -> bool:
            return commitment in await mempool(pair)

        await eventually(published)
        await pair.mine()

        async def taken_back() -> bool:
            found = [parse_transaction(await pair.chain.mempool_transaction(each)) for each in await mempool(pair)]
            return any(each.prevouts[0][:32] == commitment and each.lock_time == height - 2 for each in found)

        await eventually(taken_back)


async def test_a_node_that_runs_is_left_alone(pair: Any, eventually: Callable[..., Any]) -> None:
    side = await dead_payee(pair)
    height, commitment = due(side), commitment_of(side)
    pair.a.die()
    with datadir.locked(side.settings.data_dir):
        async with guarding(pair, side) as guard:
            await mine_to(pair, height + 1)
            await followed(guard, pair, eventually)
            assert not guard.standing_in
            assert await mempool(pair) == set()
    async with guarding(pair, side):

        async def published() -> bool:
            return commitment in await mempool(pair)

        await eventually(published)


async def test_the_guard_steps_back_when_the_node_returns(pair: Any, eventually: Callable[..., Any]) -> None:
    side = await dead_payee(pair)
    pair.a.die()
    async with guarding(pair, side) as guard:

        async def standing_in() -> bool:
            return guard.standing_in

        async def stepped_back() -> bool:
            return not guard.standing_in

        await eventually(standing_in)
        with datadir.locked(side.settings.data_dir):
            await eventually(stepped_back)
            await mine_to(pair, due(side) + 1)
            await followed(guard, pair, eventually)
            assert await mempool(pair) == set()


async def test_a_state_that_was_revoked_after_the_guard_had_loaded_it_is_never_published(
    pair: Any, eventually: Callable[..., Any]
) -> None:
    await pair.lock(AMOUNT, answered=False, blocks=14)
    await pair.cut()
    pair.b.die()
    side, old = pair.b, commitment_of(pair.b)
    async with guarding(pair, side) as guard:

        async def standing_in() -> bool:
            return guard.standing_in

        await eventually(standing_in)
        await followed(guard, pair, eventually)
        await side.begin()  # a life of the node that the guard does not notice by its lock
        await pair.join()
        assert side.channel().htlcs == ()
        await pair.lock(AMOUNT, answered=False, blocks=10)
        await pair.cut()
        side.die()
        pair.a.die()
        new = commitment_of(side)
        assert new != old
        await mine_to(pair, due(side))

        async def published() -> bool:
            return bool(await mempool(pair))

        await eventually(published)
        assert new in await mempool(pair)
        assert old not in await mempool(pair)


async def test_a_halted_node_is_stood_in_for_though_it_holds_the_lock(
    pair: Any, eventually: Callable[..., Any]
) -> None:
    side = await dead_payee(pair)
    pair.a.die()
    commitment = commitment_of(side)
    with datadir.locked(side.settings.data_dir):
        write_heartbeat(
            side.settings.data_dir, Heartbeat(pid=os.getpid(), count=9, height=1, halted="the disk is full")
        )
        async with guarding(pair, side):
            await mine_to(pair, due(side))

            async def published() -> bool:
                return commitment in await mempool(pair)

            await eventually(published)
    assert read_closed(side.settings.data_dir) == {side.on_disk().channel_id}


async def test_a_halted_beat_of_another_process_means_nothing(pair: Any, eventually: Callable[..., Any]) -> None:
    side = await dead_payee(pair)
    pair.a.die()
    with datadir.locked(side.settings.data_dir):
        write_heartbeat(side.settings.data_dir, Heartbeat(pid=1, count=9, height=1, halted="in an earlier life"))
        async with guarding(pair, side) as guard:
            await mine_to(pair, due(side) + 1)
            await followed(guard, pair, eventually)
            assert await mempool(pair) == set()


HOLDER = """
import os, sys, time
from pathlib import Path
from rrnode import datadir
from rrnode.guard.files import Heartbeat, write_heartbeat
directory = Path(sys.argv[1])
with datadir.locked(directory):
    write_heartbeat(directory, Heartbeat(pid=os.getpid(), count=1, height=1))
    print("held", flush=True)
    time.sleep(60)
"""


async def test_a_hung_node_is_ended_at_the_deadline_and_not_before(pair: Any, eventually: Callable[..., Any]) -> None:
    side = await dead_payee(pair)
    pair.a.die()
    commitment, height = commitment_of(side), due(side)
    hung = subprocess.Popen(  # noqa: ASYNC220 (over in a moment)
        [sys.executable, "-c", HOLDER, str(side.settings.data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    try:
        assert hung.stdout is not None
        assert hung.stdout.readline() == "held\n"
        async with guarding(pair, side):
            await mine_to(pair, height - 1)
            await trio.sleep(0.2)
            assert hung.poll() is None
            await pair.mine()

            async def published() -> bool:
                return commitment in await mempool(pair)

            await eventually(published)
            assert hung.wait() == -9
    finally:
        hung.kill()
        hung.wait()
        hung.stdout.close()


async def test_a_node_that_beats_is_not_ended_though_a_deadline_passes(
    pair: Any, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    monkeypatch.setattr(process.os, "kill", lambda *order: ended.append(order))
    side = await dead_payee(pair)
    pair.a.die()
    await mine_to(pair, due(side) + 1)
    with datadir.locked(side.settings.data_dir):
        async with guarding(pair, side):
            for count in range(30):
                write_heartbeat(side.settings.data_dir, Heartbeat(pid=os.getpid(), count=count, height=1))
                await trio.sleep(0.01)
    assert ended == []


async def test_their_commitment_on_the_chain_is_answered_too(pair: Any, eventually: Callable[..., Any]) -> None:
    """A closes by force while B is dead: B's guard claims the payment from A's commitment with the preimage."""
    from protocols.channel.events import CloseRequested

    side = await dead_payee(pair)
    a = pair.a
    await a.post(CloseRequested(channel_id=a.channel().channel_id, force=True))
    theirs = commitment_of(a)
    await pair.mine()
    a.die()
    async with guarding(pair, side):

        async def claimed() -> bool:
            found = [parse_transaction(await pair.chain.mempool_transaction(each)) for each in await mempool(pair)]
            return any(theirs in {prevout[:32] for prevout in each.prevouts} for each in found)

        await eventually(claimed)


async def test_a_revoked_state_is_taken_with_the_htlc_that_was_gone(pair: Any, eventually: Callable[..., Any]) -> None:
    """B publishes a state in which a payment was still under way; A is dead, and A's guard knows of it from the disk only."""
    a, b = pair.sides
    await pair.lock(AMOUNT, answered=False)
    channel = b.on_disk()
    old = force_close_transactions(channel, b.keys.channel_keys(channel.key_index))
    assert old is not None
    await pair.cut()
    await pair.join()
    assert a.on_disk().htlcs == ()
    a.die()
    b.broadcaster.take(
        PublishWithChild(
            channel_id=channel.channel_id,
            transaction=old.transaction,
            anchor_index=old.anchor_index,
            deadline=BlockHeight(await pair.height() + 1),
        )
    )
    await b.broadcaster.carry_out()
    async with guarding(pair, a):
        await pair.mine()
        breach = onchain.txid_of(old.transaction)

        async def all_claimed() -> bool:
            found = [parse_transaction(await pair.chain.mempool_transaction(each)) for each in await mempool(pair)]
            spent = [prevout for each in found for prevout in each.prevouts if prevout[:32] == breach]
            return len(spent) == 2  # B's balance and the payment

        await eventually(all_claimed)


async def test_a_node_that_returns_sees_what_its_guard_did(pair: Any, eventually: Callable[..., Any]) -> None:
    side = await dead_payee(pair)
    commitment = commitment_of(side)
    async with guarding(pair, side):
        await mine_to(pair, due(side))

        async def published() -> bool:
            return commitment in await mempool(pair)

        await eventually(published)
    await side.begin()
    await pair.mine()
    assert side.channel().phase is Phase.FORCED
    assert side.channel().close.transaction
    assert onchain.txid_of(side.channel().close.transaction) == commitment


async def test_there_is_one_guard(pair: Any) -> None:
    with only_guard(pair.a.settings.data_dir), pytest.raises(UserError, match=r"watches over .* already"):
        await pair.guard_of(pair.a).run()


async def test_the_guard_ends_when_nothing_is_at_stake(pair: Any) -> None:
    from protocols.channel.events import CloseRequested

    for side in pair.sides:
        await side.post(CloseRequested(channel_id=side.channel().channel_id, force=False))
    await pair.mine(8)
    assert pair.a.channel().phase is Phase.CLOSED
    pair.a.die()
    with trio.fail_after(5):
        await pair.guard_of(pair.a).run()


async def test_the_guard_ends_with_its_directory(pair: Any, tmp_path: Path) -> None:
    for side in pair.sides:
        side.die()
    guard = pair.guard_of(pair.a)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guard.run)
        await trio.sleep(0.05)
        assert guard.standing_in
        pair.a.settings.data_dir.rename(tmp_path / "moved")
        with trio.fail_after(5):
            while nursery.child_tasks:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_a_chain_that_is_away_is_tried_again(pair: Any, eventually: Callable[..., Any]) -> None:
    side = await dead_payee(pair)
    pair.a.die()
    commitment, height = commitment_of(side), due(side)
    await mine_to(pair, height)
    refusals = 3

    @asynccontextmanager
    async def away() -> Any:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            raise ChainUnavailable("nobody answers")
        yield

    pair.chain.running = away
    async with guarding(pair, side):

        async def published() -> bool:
            return commitment in await mempool(pair)

        await eventually(published)


async def test_on_regtest_a_guard_without_chain_and_node_ends(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "REGTEST_PATIENCE", 0.05)
    for side in pair.sides:
        side.die()

    @asynccontextmanager
    async def away() -> Any:
        raise ChainUnavailable("nobody answers")
        yield

    pair.chain.running = away
    with trio.fail_after(5):
        await pair.guard_of(pair.a).run()


async def test_without_room_for_the_note_nothing_is_published(
    pair: Any, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    side = await dead_payee(pair)
    pair.a.die()
    tried = 0

    def full(*_: Any) -> None:
        nonlocal tried
        tried += 1
        raise StorageFailed("no space left on device")

    monkeypatch.setattr(process, "add_closed", full)
    async with guarding(pair, side):
        await mine_to(pair, due(side))

        async def tried_twice() -> bool:
            return tried > 1

        await eventually(tried_twice)
        assert await mempool(pair) == set()
        monkeypatch.setattr(process, "add_closed", add_closed)

        async def published() -> bool:
            return bool(await mempool(pair))

        await eventually(published)


class _ShadowThatCloses:
    """Stands for a shadow that has decided to close one channel."""

    def __init__(self, channel_id: Any) -> None:
        self._channel_id = channel_id

    def to_be_noted(self) -> frozenset[Any]:
        return frozenset({self._channel_id})


async def test_the_last_look_before_publishing(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the lock held and the state still the one that was loaded, and in no other case, and noted first."""
    side = pair.b
    guard, shadow = pair.guard_of(side), _ShadowThatCloses(side.channel().channel_id)
    data_dir, mark = side.settings.data_dir, side.store.mark()
    with datadir.locked(data_dir):  # a node runs
        assert not guard._may_publish(shadow, side.store, mark)
        # A node that halted, and another one that starts while the note is being written:
        halted = Heartbeat(pid=os.getpid(), count=1, height=1, halted="full")
        write_heartbeat(data_dir, halted)
        assert guard._may_publish(shadow, side.store, mark)

        def start_meanwhile(*order: Any) -> None:
            add_closed(*order)
            write_heartbeat(data_dir, Heartbeat(pid=os.getpid(), count=2, height=1))

        monkeypatch.setattr(process, "add_closed", start_meanwhile)
        assert not guard._may_publish(shadow, side.store, mark)
    monkeypatch.setattr(process, "add_closed", add_closed)
    (data_dir / "guard-closed").unlink()
    await pair.lock(AMOUNT, answered=True)  # the state moves on
    assert not guard._may_publish(shadow, side.store, mark)
    assert read_closed(data_dir) == frozenset()
    assert guard._may_publish(shadow, side.store, side.store.mark())
    assert read_closed(data_dir) == {side.channel().channel_id}
