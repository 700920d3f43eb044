"""How much a deadline is worth (pure), and the sizes that fees are worked out from, against transactions really signed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.onchain.weights import ANCHOR_CHILD_WEIGHT
from protocols.units import fee_for
from rrnode.chain import bumping
from rrnode.chain.fees import FeeCoin, FeePolicy
from rrnode.chain.parse import parse_transaction

POLICY = FeePolicy()


def test_far_from_its_deadline_the_estimate_is_paid():
    assert [POLICY.feerate(rate, 144) for rate in (500, 1000, 25_000)] == [1000, 1000, 25_000]


def test_near_its_deadline_a_feerate_doubles_every_three_blocks_whatever_the_estimate():
    assert [POLICY.feerate(1000, left) for left in (18, 15, 12, 9, 6, 3, 0, -5)] == [
        1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 64_000,
    ]  # fmt: skip


@given(st.integers(1, 10**6), st.integers(-10, 2000))
def test_a_feerate_never_falls_as_blocks_pass(estimate, left):
    assert POLICY.feerate(estimate, left) <= POLICY.feerate(estimate, left - 1)


def test_fees_stay_within_half_of_what_is_at_stake_but_are_relayed_at_least():
    assert POLICY.fee(300, 64_000, 1_000_000) == 19_200
    assert POLICY.fee(300, 64_000, 10_000) == 5_000
    assert POLICY.fee(300, 64_000, 100) == 300


def test_a_replacement_pays_for_its_relay_and_is_worth_the_noise():
    assert not POLICY.worth_replacing(1000, 300, 1299, 300)
    assert POLICY.worth_replacing(1000, 300, 1300, 300)
    assert not POLICY.worth_replacing(100_000, 300, 105_000, 300)
    assert POLICY.worth_replacing(100_000, 300, 110_000, 300)
    assert not POLICY.worth_replacing(1000, 100, 3000, 400)


def coins(wallet, count, value=50_000):
    return tuple(FeeCoin(txid=bytes([n + 1]) * 32, index=n, value=value, script=wallet.script) for n in range(count))


@pytest.mark.parametrize("count", [1, 2, bumping.MAX_COINS])
async def test_a_childs_size_is_known_before_it_is_signed(kit, count):
    wallet = kit.KeyWallet()
    parent = kit.commitment((b"\x01" * 36, 100_000, kit.OPEN), anchor=7)
    child = bumping.build_child(parent, 1, coins(wallet, count), wallet.script, 900, least=500)
    signed = parse_transaction(
        await wallet.sign(child.raw, child.coins, ((7, kit.ANCHOR), *((c.value, c.script) for c in child.coins)))
    )
    assert child.vbytes - count <= signed.vsize <= child.vbytes <= bumping.MAX_CHILD_VBYTES
    assert signed.version == 3
    assert sum(output.value for output in signed.outputs) == 7 + 50_000 * count - 900
    assert bumping.child_vbytes(1) == -(-ANCHOR_CHILD_WEIGHT // 4)


def test_a_child_pays_what_its_coins_can_and_is_not_built_below_the_least(kit):
    wallet = kit.KeyWallet()
    parent = kit.commitment((b"\x01" * 36, 100_000, kit.OPEN))
    (coin,) = coins(wallet, 1, 1000)
    assert bumping.build_child(parent, 1, (coin,), wallet.script, 900, least=500).fee == 1000 - 294
    assert bumping.build_child(parent, 1, (coin,), wallet.script, 900, least=707) is None
    assert bumping.build_child(parent, 1, (), wallet.script, 900, least=0) is None


def test_many_small_coins_do_not_make_a_child_too_large(kit):
    wallet = kit.KeyWallet()
    parent = kit.commitment((b"\x01" * 36, 100_000, kit.OPEN))
    child = bumping.build_child(parent, 1, coins(wallet, 30, 1000), wallet.script, 9000, least=1)
    assert len(child.coins) == bumping.MAX_COINS
    assert child.vbytes <= bumping.MAX_CHILD_VBYTES


@pytest.mark.parametrize("count", [1, 3])
async def test_added_inputs_keep_what_was_signed_in_its_place(kit, count):
    wallet = kit.KeyWallet()
    bare = kit.build([(b"\x01" * 36, 40_000, kit.OPEN)], [(40_000, kit.OPEN)], version=3, sequence=0, lock_time=77)
    bumped = bumping.add_inputs(bare, coins(wallet, count), wallet.script, 600, least=100)
    spent = ((40_000, kit.OPEN), *((c.value, c.script) for c in bumped.coins))
    signed = parse_transaction(await wallet.sign(bumped.raw, bumped.coins, spent))
    assert (signed.version, signed.lock_time) == (3, 77)
    assert (signed.prevouts[0], signed.sequences[0], signed.witnesses[0]) == (
        bare.prevouts[0],
        0,
        bare.witnesses[0],
    )
    assert signed.outputs[0] == bare.outputs[0]
    assert signed.outputs[1].value == 50_000 * count - 600
    assert bumped.vbytes - count <= signed.vsize <= bumped.vbytes


def test_change_that_would_be_dust_goes_to_the_fee(kit):
    wallet = kit.KeyWallet()
    bare = kit.build([(b"\x01" * 36, 40_000, kit.OPEN)], [(40_000, kit.OPEN)], version=3)
    bumped = bumping.add_inputs(bare, coins(wallet, 1, 1000), wallet.script, 800, least=100)
    assert (bumped.fee, len(parse_transaction(bumped.raw).outputs)) == (1000, 1)
    assert bumping.add_inputs(bare, coins(wallet, 1, 99), wallet.script, 800, least=100) is None
    assert fee_for(100, 1000) == 100
