"""Whole nodes: hunters that were down or whose disk failed, and come back while the cheat's delay runs or when it is over."""

import pytest
from scenario_kit import World, eventually
from test_hunt import CAPACITY, PAID, hunter, its_case, prepared, published
from trio.testing import MockClock

from protocols.onchain import tx
from protocols.watch.remedy import hint_of
from rrnode.chain.base import Verdict
from rrnode.control.text import txid_text
from rrnode.errors import StorageFailed

DELAY = 6  # blocks, as the kit's nodes have it


async def test_hunter_that_was_down_goes_on_where_the_chain_is_now(leaping_clock: MockClock, net: World) -> None:
    h = await hunter(net, "H")
    cheat = await prepared(net, h)
    await h.crash()
    await cheat.publish()
    await net.mine(1)  # the breach is confirmed while nobody looks
    await h.start()
    await its_case(h, cheat)
    await h.crash()
    await h.start()
    assert (await its_case(h, cheat)).height is not None
    await published(h, cheat)
    await cheat.bury()
    assert (await h.owner.bounty(cheat.txid)).outcome == "won"


async def test_watcher_that_comes_up_with_one_block_left_claims_in_the_last_block_of_the_delay(
    leaping_clock: MockClock, net: World
) -> None:
    h = await hunter(net, "H")
    cheat = await prepared(net, h)
    await h.crash()
    await cheat.confirm()
    confirmed = (await net.chain.tip()).height
    await net.mine(DELAY - 2)
    assert "BIP68" in (await net.chain.publish((cheat.sweep(),))).reason  # the cheat could be mined a block later
    await h.start()
    await published(h, cheat)
    await net.mine(1)
    told = await h.owner.bounty(cheat.txid)
    assert (told.breach_height, [each.height for each in told.outputs]) == (confirmed, [confirmed + DELAY - 1] * 2)
    assert "BIP68" not in (await net.chain.publish((cheat.sweep(),))).reason
    await cheat.bury()
    assert (await h.owner.bounty(cheat.txid)).outcome == "won"


async def test_watcher_that_comes_up_a_block_too_late_says_what_the_cheat_took_and_claims_the_rest(
    leaping_clock: MockClock, net: World
) -> None:
    h = await hunter(net, "H")
    cheat = await prepared(net, h)
    await h.crash()
    await cheat.confirm()
    confirmed = (await net.chain.tip()).height
    await net.mine(DELAY - 1)
    stolen = cheat.sweep()
    assert (await net.chain.publish((stolen,))).verdict is Verdict.ACCEPTED
    await net.mine(1)
    await h.start()
    await published(h, cheat)
    await cheat.bury()
    told = await h.owner.bounty(cheat.txid)
    assert (told.outcome, told.lost) == ("won in part", 1)
    to_local, htlc = sorted(told.outputs, key=lambda each: each.ours)
    assert (to_local.spender, to_local.height) == (txid_text(tx.parse(stolen).txid()), confirmed + DELAY)
    assert htlc.value_sat == PAID
    assert h.coins().confirmed == told.reward_sat > 0


async def test_htlc_that_the_cheat_takes_to_the_second_stage_is_lost_for_hunters_and_not_for_its_owner(
    leaping_clock: MockClock, net: World
) -> None:
    h = await hunter(net, "H")
    cheat = await prepared(net, h)
    await h.crash()
    await cheat.confirm()
    (success,) = cheat.old.htlcs
    cheat.bob.node.broadcaster.take(success)
    await cheat.bob.node.broadcaster.carry_out()
    await net.mine(1)
    await h.start()
    await published(h, cheat)
    await net.mine(1)
    before = cheat.alice.coins().confirmed
    await cheat.alice.start()
    await cheat.bury()
    told = await h.owner.bounty(cheat.txid)
    assert (told.outcome, told.lost) == ("won in part", 1)
    assert [each.value_sat for each in told.outputs if not each.ours] == [PAID]
    gained = cheat.alice.coins().confirmed - before
    assert CAPACITY - 20_000 < gained < CAPACITY


async def test_breach_that_the_disk_hid_is_told_of_and_hunted_after_a_restart(
    leaping_clock: MockClock, net: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    h = await hunter(net, "H")
    cheat = await prepared(net, h)
    remedies = h.node.parts.remedies
    assert remedies is not None
    find = remedies.find_some

    def some(hint: bytes, after: int) -> list[tuple[int, bytes]]:
        if hint == hint_of(cheat.txid):
            raise StorageFailed("database disk image is malformed")
        return find(hint, after)

    monkeypatch.setattr(remedies, "find_some", some)
    await cheat.confirm()
    await net.mine(2)
    await eventually("the alarm", lambda: any("malformed" in each for each in h.node.alarms))
    assert await h.owner.bounties() == ()
    await h.crash()
    await net.mine(1)
    await h.start()  # with a disk that answers
    await published(h, cheat)
    await cheat.bury()
    assert (await h.owner.bounty(cheat.txid)).outcome == "won"


async def test_disk_that_answers_again_needs_no_restart(
    leaping_clock: MockClock, net: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    h = await hunter(net, "H")
    cheat = await prepared(net, h)
    remedies = h.node.parts.remedies
    assert remedies is not None

    def fail(hint: bytes, after: int) -> list[tuple[int, bytes]]:
        raise StorageFailed("the disk does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(remedies, "find_some", fail)
        await cheat.confirm()
        await net.mine(1)
        assert await h.owner.bounties() == ()
    await published(h, cheat)
    await cheat.bury()
    assert (await h.owner.bounty(cheat.txid)).outcome == "won"
