"""The contract of ChainBackend and Miner, held against the embedded regtest in this process, the same behind its RPC
server, a real Bitcoin Core, and the embedded one seen through three helpers: a rule that only one of them keeps is a rule
that tests of the others cannot show. What only whole chains offer is asked of those.
"""

import pytest
import trio

from bootstrap.networks import REGTEST, SIGNET
from rrnode.chain.base import Interests, OutputState, PublishResult, Verdict
from rrnode.chain.parse import parse_block, parse_header
from rrnode.errors import ChainUnavailable

ACCEPTED = PublishResult(verdict=Verdict.ACCEPTED)
WHOLE = ["kernel", "served", pytest.param("core", marks=pytest.mark.bitcoind)]
KNOWN = PublishResult(verdict=Verdict.KNOWN)


def refused(result: PublishResult, *words: str) -> bool:
    return result.verdict is Verdict.REFUSED and result.reason.startswith(words)


async def test_an_empty_regtest_has_its_first_block_only(rig, kit):
    tip = await rig.chain.tip()
    assert (tip.height, tip.hash, tip.previous) == (0, REGTEST.genesis, bytes(32))
    assert await rig.chain.genesis() == REGTEST.genesis
    assert await rig.chain.block_at(0) == tip
    assert await rig.chain.block_at(1) is None
    assert await rig.chain.mempool() == ()


@pytest.mark.parametrize("rig", WHOLE, indirect=True)
async def test_what_the_mempool_has_is_told_without_fetching_it(rig, kit):
    source, other = await kit.funded(rig.chain, 2)
    there, never = kit.pay([source], 1000), kit.pay([other], 1000)
    await rig.chain.publish((there.raw,))
    assert await rig.chain.mempool_has((never.txid, there.txid)) == {there.txid}
    await rig.chain.mine(1, kit.LOCKED)
    assert await rig.chain.mempool_has((there.txid,)) == frozenset()
    assert await rig.chain.mempool_has(()) == frozenset()


@pytest.mark.parametrize("rig", WHOLE, indirect=True)
async def test_blocks_follow_each_other_and_are_read_whole(rig, kit):
    hashes = await rig.chain.mine(3, kit.OPEN)
    refs = [await rig.chain.block_at(height) for height in range(4)]
    assert tuple(ref.hash for ref in refs[1:]) == hashes
    assert [ref.previous for ref in refs[1:]] == [ref.hash for ref in refs[:-1]]
    assert await rig.chain.tip() == refs[3]
    for ref in refs[1:]:
        block = parse_block(await rig.chain.block(ref.hash))
        assert (block.header.hash, block.header.time, len(block.transactions)) == (ref.hash, ref.time, 1)
        assert block.transactions[0].outputs[0].script == kit.OPEN


@pytest.mark.parametrize("rig", WHOLE, indirect=True)
async def test_an_unknown_block_is_unavailable(rig, kit):
    for ask in (rig.chain.block, rig.chain.parent):
        with pytest.raises(ChainUnavailable):
            await ask(b"\x07" * 32)


@pytest.mark.parametrize("rig", WHOLE, indirect=True)
async def test_headers_are_those_of_the_best_chain(rig, kit):
    hashes = await rig.chain.mine(3, kit.OPEN)
    whole = await rig.chain.headers(0, 10)
    assert [parse_header(raw).hash for raw in whole] == [REGTEST.genesis, *hashes]
    assert await rig.chain.headers(1, 2) == whole[1:3]
    assert await rig.chain.headers(4, 2) == ()
    assert [await rig.chain.height_of(each) for each in (REGTEST.genesis, *hashes)] == [0, 1, 2, 3]
    assert await rig.chain.height_of(b"\x07" * 32) is None
    await rig.chain.invalidate(hashes[2])
    assert await rig.chain.height_of(hashes[2]) is None
    assert await rig.chain.parent(hashes[2]) == hashes[1]
    assert (await rig.chain.headers(1, 2)) == whole[1:3]


async def test_of_a_block_at_least_what_concerns_is_given(rig, kit):
    source, other = await kit.funded(rig.chain, 2)
    spend, payment = kit.pay([source], 1000), kit.build([other], [(1000, kit.LOCKED)])
    for tx in (spend, payment):
        await rig.chain.publish((tx.raw,))
    await rig.chain.mine(1, kit.OPEN)
    ref = await rig.chain.tip()
    for interests, wanted in (
        (Interests(outpoints=frozenset({source[0]})), spend),
        (Interests(txids=frozenset({payment.txid})), payment),
        (Interests(scripts=frozenset({kit.LOCKED})), payment),
    ):
        assert wanted in await rig.chain.transactions(ref, interests)
    found = await rig.chain.transactions(ref, Interests(txids=frozenset({spend.txid, payment.txid})))
    assert [tx for tx in found if not tx.is_coinbase] in ([spend, payment], [payment, spend])


async def test_an_output_that_no_block_spends_is_surely_unspent_whatever_the_mempool_does(rig, kit):
    source, _ = await kit.funded(rig.chain, 2)
    first = kit.pay([source], 1000)
    await rig.chain.publish((first.raw,))
    confirmed = OutputState(value=source[1], script=kit.OPEN, height=1)
    assert await rig.chain.surely_unspent(source[0][:32], 0) == confirmed
    await rig.chain.mine(1, kit.LOCKED)
    assert await rig.chain.surely_unspent(source[0][:32], 0) is None
    assert (await rig.chain.surely_unspent(first.txid, 0)).height == (await rig.chain.tip()).height


async def test_an_output_is_followed_from_mempool_to_its_spend(rig, kit):
    chain = rig.chain
    (source, *_) = await kit.funded(chain, 1)
    place, value, script = source
    assert await chain.unspent(place[:32], 0) == OutputState(value=value, script=script, height=1)
    first = kit.pay([source], 1000)
    assert await chain.publish((first.raw,)) == ACCEPTED
    assert await chain.unspent(place[:32], 0) is None
    assert await chain.unspent(first.txid, 0) == OutputState(value=value - 1000, script=kit.OPEN, height=None)
    assert await chain.unspent(first.txid, 1) is None
    (block,) = await chain.mine(1, kit.LOCKED)
    assert await chain.unspent(first.txid, 0) == OutputState(value=value - 1000, script=kit.OPEN, height=102)
    assert [tx.txid for tx in parse_block(await chain.block(block)).transactions[1:]] == [first.txid]
    assert await chain.unspent(kit.TXID_OF_NOTHING, 0) is None


async def test_what_the_mempool_does_to_an_output_is_told_apart_from_what_the_chain_has(rig, kit):
    chain = rig.chain
    source, other = await kit.funded(chain, 2)
    first = kit.pay([source], 1000)
    second = kit.pay([kit.coin(first)], 1000)
    for tx in (first, second):
        await chain.publish((tx.raw,))
    places = [source[0], other[0], kit.coin(first)[0], kit.coin(second)[0]]
    assert await chain.mempool_spenders(places) == {source[0]: first.txid, kit.coin(first)[0]: second.txid}
    assert await chain.mempool_spenders([]) == {}
    found = await chain.mempool_transactions([first.txid, kit.TXID_OF_NOTHING, second.txid])
    assert found == {first.txid: first.raw, second.txid: second.raw}
    confirmed = OutputState(value=source[1], script=kit.OPEN, height=1)
    assert await chain.confirmed_output(source[0][:32], 0) == confirmed
    assert await chain.unspent(source[0][:32], 0) is None
    assert await chain.confirmed_output(first.txid, 0) is None
    await chain.mine(1, kit.LOCKED)
    assert await chain.mempool_spenders(places) == {}
    assert await chain.confirmed_output(source[0][:32], 0) is None
    assert (await chain.confirmed_output(second.txid, 0)).value == source[1] - 2000


async def test_publishing_again_changes_nothing(rig, kit):
    chain = rig.chain
    (source,) = await kit.funded(chain, 1)
    tx = kit.pay([source], 1000)
    assert await chain.publish((tx.raw,)) == ACCEPTED
    assert await chain.publish((tx.raw,)) == KNOWN
    assert await chain.mempool() == (tx.txid,)
    assert await chain.mempool_transaction(tx.txid) == tx.raw
    await chain.mine(1, kit.LOCKED)
    assert await chain.publish((tx.raw,)) == KNOWN
    assert await chain.mempool() == ()
    assert await chain.mempool_transaction(tx.txid) is None


async def test_what_breaks_a_rule_is_refused_in_bitcoin_cores_words(rig, kit):
    chain = rig.chain
    source, other, locked_up = await kit.funded(chain, 3)
    value = source[1]
    height = (await chain.tip()).height
    young = kit.coin(parse_block(await chain.block((await chain.block_at(height)).hash)).transactions[0])
    locked = kit.pay([locked_up], 1000)
    to_locked = kit.build([locked_up], [(value - 1000, kit.LOCKED)])
    cases = {
        "a coin that is not there": (kit.pay([kit.coin(locked)], 500), "bad-txns-inputs-missingorspent"),
        "no fee": (kit.pay([source], 0), "min relay fee not met"),
        "a young coinbase": (kit.pay([young], 1000), "bad-txns-premature-spend-of-coinbase"),
        "more out than in": (kit.pay([source], -1), "bad-txns-in-belowout"),
        "a lock time ahead": (kit.build([source], [(value - 1000, kit.OPEN)], lock_time=height + 1), "non-final"),
        "a relative lock ahead": (kit.pay([source], 1000, sequence=150), "non-BIP68-final"),
        "dust": (kit.build([source], [(value - 1000, kit.OPEN), (329, kit.OPEN)]), "dust"),
        "an unknown script": (kit.build([source], [(value - 1000, b"\x51")]), "scriptpubkey"),
        "version 4": (kit.pay([source], 1000, version=4), "version"),
        "the same coin twice": (kit.pay([source, source], 1000), "bad-txns-inputs-duplicate"),
        "version 3 above 10 kvB": (
            kit.build([source], [(value // 400, kit.OPEN)] * 240, version=3),
            "TRUC-violation",
        ),
    }
    for what, (tx, reason) in cases.items():
        assert refused(await chain.publish((tx.raw,)), reason), (what, await chain.publish((tx.raw,)))
    assert await chain.mempool() == ()
    assert await chain.publish((to_locked.raw,)) == ACCEPTED
    await chain.mine(1, kit.LOCKED)
    result = await chain.publish((kit.pay([kit.coin(to_locked)], 1000).raw,))
    # libbitcoinkernel names no script error; Bitcoin Core's word has changed between versions.
    assert refused(result, "mempool-script-verify-flag-failed", "mandatory-script-verify-flag-failed"), result
    assert (await chain.publish((b"rubbish",))).verdict is Verdict.REFUSED
    assert (await chain.publish((kit.pay([other], 1000).raw[:-1],))).verdict is Verdict.REFUSED


async def test_locks_that_have_passed_are_accepted(rig, kit):
    chain = rig.chain
    (source,) = await kit.funded(chain, 1)
    height = (await chain.tip()).height
    first = kit.build([source], [(source[1] - 1000, kit.OPEN)], lock_time=height)
    assert await chain.publish((first.raw,)) == ACCEPTED
    await chain.mine(1, kit.LOCKED)
    delayed = kit.pay([kit.coin(first)], 1000, sequence=3)
    assert refused(await chain.publish((delayed.raw,)), "non-BIP68-final")
    await chain.mine(2, kit.LOCKED)
    assert await chain.publish((delayed.raw,)) == ACCEPTED


@pytest.mark.parametrize("anchor", [0, 200, 240])
async def test_a_commitment_without_fee_needs_a_child_that_pays(rig, kit, anchor):
    chain = rig.chain
    source, fees = await kit.funded(chain, 2)
    parent = kit.commitment(source, anchor=anchor)
    child = kit.pay([kit.coin(parent, 1), fees], 2000, version=3)
    assert refused(await chain.publish((parent.raw,)), "min relay fee not met")
    assert await chain.publish((parent.raw, child.raw)) == ACCEPTED
    assert set(await chain.mempool()) == {parent.txid, child.txid}
    assert await chain.publish((parent.raw, child.raw)) == KNOWN
    (block,) = await chain.mine(1, kit.LOCKED)
    mined = [tx.txid for tx in parse_block(await chain.block(block)).transactions[1:]]
    assert mined == [parent.txid, child.txid]
    assert (await chain.publish((parent.raw, child.raw))).verdict in (Verdict.KNOWN, Verdict.REFUSED)
    assert await chain.mempool() == ()


async def test_packages_that_break_a_rule_of_version_3_are_refused(rig, kit):
    chain = rig.chain
    source, fees, *_ = await kit.funded(chain, 3)
    parent = kit.commitment(source)
    poor = kit.pay([kit.coin(parent, 1), fees], 10, version=3)
    assert refused(await chain.publish((parent.raw, poor.raw)), "min relay fee not met")
    forgetful = kit.pay([kit.coin(parent, 0)], 3000, version=3)
    assert refused(await chain.publish((parent.raw, forgetful.raw)), "missing-ephemeral-spends", "unspent-dust")
    other_version = kit.pay([kit.coin(parent, 1), fees], 3000, version=2)
    assert refused(await chain.publish((parent.raw, other_version.raw)), "TRUC-violation")
    large = kit.build([kit.coin(parent, 1), fees], [(fees[1] // 50, kit.OPEN)] * 30, version=3)
    assert refused(await chain.publish((parent.raw, large.raw)), "TRUC-violation")
    stranger = kit.pay([fees], 3000, version=3)
    assert (await chain.publish((parent.raw, stranger.raw))).verdict is Verdict.REFUSED
    assert await chain.mempool() == ()


async def test_a_better_paying_child_takes_the_place_of_the_first(rig, kit):
    chain = rig.chain
    source, fees, other = await kit.funded(chain, 3)
    parent = kit.commitment(source)
    first = kit.pay([kit.coin(parent, 1), fees], 2000, version=3)
    assert await chain.publish((parent.raw, first.raw)) == ACCEPTED
    meagre = kit.pay([kit.coin(parent, 1), other], 2001, version=3)
    assert refused(await chain.publish((parent.raw, meagre.raw)), "insufficient fee")
    better = kit.pay([kit.coin(parent, 1), other], 4000, version=3)
    assert await chain.publish((parent.raw, better.raw)) == ACCEPTED
    assert set(await chain.mempool()) == {parent.txid, better.txid}
    assert await chain.unspent(fees[0][:32], 0) is not None


async def test_a_sibling_that_pays_more_evicts_the_other_child(rig, kit):
    chain = rig.chain
    source, fees, _ = await kit.funded(chain, 3)
    parent = kit.commitment(source, anchor=240)  # no dust: a child need not spend the anchor
    first = kit.pay([kit.coin(parent, 1), fees], 2000, version=3)
    assert await chain.publish((parent.raw, first.raw)) == ACCEPTED
    meagre = kit.pay([kit.coin(parent, 0)], 500, version=3)
    assert refused(await chain.publish((meagre.raw,)), "insufficient fee (including sibling eviction)")
    sibling = kit.pay([kit.coin(parent, 0)], 9000, version=3)
    assert await chain.publish((sibling.raw,)) == ACCEPTED
    assert set(await chain.mempool()) == {parent.txid, sibling.txid}
    grandchild = kit.pay([kit.coin(sibling, 0)], 9000, version=3)
    assert refused(await chain.publish((grandchild.raw,)), "TRUC-violation")


async def test_a_rival_commitment_replaces_a_package_by_paying_more(rig, kit):
    chain = rig.chain
    source, fees, other = await kit.funded(chain, 3)
    ours, theirs = kit.commitment(source, mark=1000), kit.commitment(source, mark=2000)
    first = kit.pay([kit.coin(ours, 1), fees], 2000, version=3)
    assert await chain.publish((ours.raw, first.raw)) == ACCEPTED
    meagre = kit.pay([kit.coin(theirs, 1), other], 2010, version=3)
    assert refused(await chain.publish((theirs.raw, meagre.raw)), "package RBF failed")
    better = kit.pay([kit.coin(theirs, 1), other], 5000, version=3)
    assert await chain.publish((theirs.raw, better.raw)) == ACCEPTED
    assert set(await chain.mempool()) == {theirs.txid, better.txid}


async def test_a_single_transaction_is_replaced_only_by_one_that_pays_more(rig, kit):
    chain = rig.chain
    (source,) = await kit.funded(chain, 1)
    first = kit.pay([source], 1000)
    child = kit.pay([kit.coin(first)], 1000)
    assert [await chain.publish((tx.raw,)) for tx in (first, child)] == [ACCEPTED, ACCEPTED]
    assert refused(await chain.publish((kit.pay([source], 1500).raw,)), "insufficient fee")
    better = kit.pay([source], 3000)
    assert await chain.publish((better.raw,)) == ACCEPTED
    assert await chain.mempool() == (better.txid,)


async def test_a_child_of_a_confirmed_commitment_passes_with_it(rig, kit):
    chain = rig.chain
    source, fees, other = await kit.funded(chain, 3)
    parent = kit.commitment(source, anchor=240)
    first = kit.pay([kit.coin(parent, 1), fees], 2000, version=3)
    await chain.publish((parent.raw, first.raw))
    await chain.mine(1, kit.LOCKED)
    sweep = kit.pay([kit.coin(parent, 0), other], 2000, version=3)
    assert await chain.publish((parent.raw, sweep.raw)) == ACCEPTED


async def test_a_reorganisation_brings_transactions_back_to_the_mempool(rig, kit):
    chain = rig.chain
    (source,) = await kit.funded(chain, 1)
    first = kit.pay([source], 1000)
    second = kit.pay([kit.coin(first)], 1000)
    await chain.publish((first.raw,))
    (old,) = await chain.mine(1, kit.LOCKED)
    await chain.publish((second.raw,))
    await chain.mine(1, kit.LOCKED)
    fork = (await chain.block_at(101)).hash
    await chain.invalidate(old)
    assert set(await chain.mempool()) == {first.txid, second.txid}
    assert await chain.unspent(second.txid, 0) == OutputState(value=source[1] - 2000, script=kit.OPEN, height=None)
    new = await chain.mine(4, kit.LOCKED)
    tip = await chain.tip()
    assert tip.hash == new[-1]
    assert (await chain.block_at(101)).hash == fork
    assert old not in [(await chain.block_at(height)).hash for height in range(102, tip.height + 1)]
    assert await chain.mempool() == ()
    assert (await chain.unspent(second.txid, 0)).height is not None


async def test_feerates_never_fall_below_the_floor(rig, kit):
    assert [await rig.chain.feerate(blocks) for blocks in (1, 6, 5000)] == [1000, 1000, 1000]


async def test_waiting_ends_when_a_transaction_or_a_block_comes(rig, kit):
    chain = rig.chain
    (source,) = await kit.funded(chain, 1)
    tip = await chain.tip()
    with trio.fail_after(10):
        sequence = await chain.wait_for_change(tip, -1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chain.publish, (kit.pay([source], 1000).raw,))
            later = await chain.wait_for_change(tip, sequence)
        assert later != sequence
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chain.mine, 1, kit.LOCKED)
            while (await chain.tip()).hash == tip.hash:
                later = await chain.wait_for_change(tip, later)


async def test_waiting_goes_on_while_nothing_happens(rig, kit):
    tip = await rig.chain.tip()
    sequence = await rig.chain.wait_for_change(tip, -1)
    with trio.fail_after(10):
        while True:  # a backend may wake for no reason, but not for ever
            with trio.move_on_after(0.3) as patience:
                sequence = await rig.chain.wait_for_change(tip, sequence)
            if patience.cancelled_caught:
                return


async def test_a_chain_that_goes_away_is_said_to_be_away_and_is_the_same_when_it_returns(rig, kit):
    source, fees = await kit.funded(rig.chain, 2)
    tx = kit.pay([source], 1000)
    await rig.chain.publish((tx.raw,))
    before, block = await rig.chain.tip(), await rig.chain.block_at(1)
    await rig.stop()
    for ask in (rig.chain.tip, rig.chain.mempool, lambda: rig.chain.publish((tx.raw,)), lambda: rig.chain.mine(1, b"")):
        with pytest.raises(ChainUnavailable, match=r"check that it runs|is not running|not connected"):
            await ask()
    await rig.start()
    assert await rig.chain.tip() == before
    assert await rig.chain.block_at(1) == block
    assert (await rig.chain.unspent(fees[0][:32], 0)).value == fees[1]
    with trio.fail_after(10):
        while await rig.chain.mempool() != (tx.txid,):  # Bitcoin Core loads it a moment after it answers
            await rig.chain.wait_for_change(before, -1)
    await rig.chain.mine(1, kit.LOCKED)
    assert (await rig.chain.unspent(tx.txid, 0)).height == before.height + 1


async def test_another_network_is_refused(rig, kit):
    client = rig.client(SIGNET)
    if client is None:
        pytest.skip("the embedded chain is regtest and cannot be taken for another")
    with pytest.raises(ChainUnavailable, match="is on the network regtest, signet wanted"):
        async with client.running():
            pass
