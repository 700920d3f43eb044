"""Claims: valid by Bitcoin Core's consensus, within the limits of version 3, at the feerate asked for; and what is left for whom."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import MisuseError
from protocols.onchain import scripts, tx
from protocols.onchain.keys import payout_script
from protocols.onchain.tx import TxOutput
from protocols.units import FeeRate, Msat, Sat, fee_for, weight_to_vbytes
from protocols.watch import policy
from protocols.watch.bounty import BountyClaim, NoClaim, assemble, assemble_child
from protocols.watch.policy import BountyConfig
from rrnode.chain.verify import check_transaction

RATE = FeeRate(5_000)
HTLCS = ((True, 400_000, 500), (False, 500_000, 700_000))


def checked(claim: BountyClaim, raw: bytes) -> tx.Tx:
    """The signed claim, after what holds for every claim."""
    assert check_transaction(raw, claim.spent) is None
    parsed = tx.parse(raw)
    assert (parsed.version, parsed.locktime) == (3, 0)
    assert {each.sequence for each in parsed.inputs} == {0xFFFFFFFD}
    assert parsed.outputs[: len(claim.pairs)] == tuple(each.paid for each in claim.pairs)
    assert [(each.txid, each.index) for each in parsed.inputs[: len(claim.pairs)]] == [
        (each.txid, each.index) for each in claim.pairs
    ]
    assert len(parsed.outputs) == len(claim.pairs) + 1
    own = parsed.outputs[-1]
    assert own.value >= scripts.dust_threshold(own.script)
    assert own.value == claim.reward + sum(each.value for each in claim.coins)
    assert sum(value for value, _ in claim.spent) - sum(each.value for each in parsed.outputs) == claim.fee
    assert 0 <= claim.vbytes - weight_to_vbytes(tx.weight(raw)) <= 1 + len(claim.coins)
    return parsed


def test_confirmed_breach_is_claimed_whole_by_one_transaction(breaches: Any) -> None:
    breach = breaches.Breach(htlcs=HTLCS)
    (claim,) = assemble(breach.pairs(), breaches.HUNTER, RATE)
    parsed = checked(claim, claim.raw)
    assert set(claim.pairs) == set(breach.pairs())
    assert claim.fee == fee_for(claim.vbytes, RATE)
    assert parsed.outputs[-1] == TxOutput(Sat(breach.plan().bounties - claim.fee), breaches.HUNTER)
    assert claim.reward == breach.plan().bounties - claim.fee


@pytest.mark.parametrize("place", [0, 1, 2])
def test_hunter_who_lowers_what_a_victim_is_paid_is_refused_by_consensus(breaches: Any, place: int) -> None:
    (claim,) = assemble(breaches.Breach(htlcs=HTLCS).pairs(), breaches.HUNTER, RATE)
    outputs = list(tx.parse(claim.raw).outputs)
    outputs[place] = replace(outputs[place], value=Sat(outputs[place].value - 1))
    outputs[-1] = replace(outputs[-1], value=Sat(outputs[-1].value + 1))
    greedy = replace(tx.parse(claim.raw), outputs=tuple(outputs)).serialize()
    assert check_transaction(greedy, claim.spent) is not None


def test_several_breaches_are_claimed_together_and_split_at_ten_thousand_vbytes(breaches: Any) -> None:
    htlcs = tuple((place % 2 == 0, 40_000 + place, 500) for place in range(100))
    many = [
        breaches.Breach(bob=9_000_000, htlcs=htlcs, capacity=100_000_000, funding=(bytes([place]) * 32, 0))
        for place in (1, 2)
    ]
    config = BountyConfig(feerate=FeeRate(1_000))
    pairs = [pair for each in many for pair in each.pairs(config)]
    assert len(pairs) == 202
    claims = assemble(reversed(pairs), breaches.HUNTER, FeeRate(1_000))
    assert isinstance(claims, tuple)
    for claim in claims:
        checked(claim, claim.raw)
    assert [len(each.pairs) for each in claims] == [75, 74, 53]
    assert [each.vbytes <= 10_000 for each in claims] == [True] * 3
    assert claims[0].vbytes > 9_800
    assert {pair for each in claims for pair in each.pairs} == set(pairs)
    assert assemble(pairs, breaches.HUNTER, FeeRate(1_000)) == claims


def test_unconfirmed_breach_is_claimed_with_its_anchor_and_paid_for(breaches: Any) -> None:
    breach = breaches.Breach(htlcs=(*HTLCS, (True, 999, 500), (True, 200, 500)))
    claim = assemble_child(breach.raw, breach.pairs(), breaches.HUNTER, RATE, coins=breaches.coins(50_000))
    assert isinstance(claim, BountyClaim)
    parsed = checked(claim, claim.raw)
    anchor = parsed.inputs[3]
    assert breach.parsed.outputs[anchor.index] == TxOutput(Sat(200), scripts.ANCHOR_SCRIPT)
    assert (anchor.txid, anchor.witness, len(parsed.inputs)) == (breach.txid, (), 4)
    assert claim.coins == ()  # the bounties pay for everything
    assert claim.fee == fee_for(weight_to_vbytes(tx.weight(breach.raw)) + claim.vbytes, RATE)
    assert claim.reward == breach.plan().bounties + 200 - claim.fee


def test_unconfirmed_claim_takes_the_largest_bounties_that_fit_a_thousand_vbytes(breaches: Any) -> None:
    htlcs = tuple((place % 2 == 0, 100_000 + 1000 * place, 500) for place in range(20))
    breach = breaches.Breach(bob=2_000_000, htlcs=htlcs, capacity=100_000_000)
    claim = assemble_child(breach.raw, breach.pairs(), breaches.HUNTER, RATE)
    assert isinstance(claim, BountyClaim)
    checked(claim, claim.raw)
    assert [each.spent.value for each in claim.pairs] == [2_000_000, *(119_000 - 1000 * place for place in range(6))]
    assert 867 < claim.vbytes <= 1_000
    longest = assemble_child(breach.raw, breach.pairs(), b"\x51\x20" + bytes(32), RATE, least_fee=Sat(20_000))
    assert isinstance(longest, BountyClaim)
    assert (longest.fee, longest.vbytes <= 1_000) == (20_000, True)


def test_coins_pay_in_advance_where_the_hunter_wants_it(breaches: Any) -> None:
    breach = breaches.Breach(bob=60_000)
    (bounty,) = [each.bounty for each in breach.pairs()]
    rate = FeeRate(16_000)  # the pair pays for its own room, but not for that of the breach
    coins = breaches.coins(1_000, 90_000)
    assert assemble_child(breach.raw, breach.pairs(), breaches.HUNTER, rate) is NoClaim.FEE_TOO_HIGH
    assert assemble_child(breach.raw, breach.pairs(), breaches.HUNTER, rate, coins=coins) is NoClaim.FEE_TOO_HIGH
    claim = assemble_child(breach.raw, breach.pairs(), breaches.HUNTER, rate, coins=coins, least_reward=Sat(-9_999))
    assert isinstance(claim, BountyClaim)
    checked(claim, breaches.signed(claim))
    assert claim.coins == coins
    assert claim.reward == bounty - claim.fee < 0
    assert check_transaction(claim.raw, claim.spent) is not None  # until the coins are signed


def test_a_replacement_pays_more_than_what_it_replaces_and_victims_get_the_same(breaches: Any) -> None:
    breach = breaches.Breach(htlcs=HTLCS)
    (claim,) = assemble(breach.pairs(), breaches.HUNTER, RATE)
    (rival,) = assemble(breach.pairs(), b"\x00\x14" + bytes(20), RATE, least_fee=Sat(claim.fee + claim.vbytes))
    assert rival.fee == claim.fee + claim.vbytes
    assert checked(rival, rival.raw).outputs[:3] == checked(claim, claim.raw).outputs[:3]


def test_of_two_pairs_for_one_output_the_dearer_is_taken(breaches: Any) -> None:
    breach = breaches.Breach()
    low, high = breach.pairs(BountyConfig(stake_share=10)), breach.pairs()
    for pairs in ((*low, *high, *low), (*high, *low)):
        (claim,) = assemble(pairs, breaches.HUNTER, RATE)
        assert claim.pairs == high


def test_a_bounty_too_small_for_its_fee_waits_and_does_not_hold_up_the_others(breaches: Any) -> None:
    breach = breaches.Breach(htlcs=((True, 30_000, 500),), bob=9_000_000)
    big, small = breach.pairs()
    assert small.bounty == 2_542
    (claim,) = assemble(breach.pairs(), breaches.HUNTER, FeeRate(25_000))
    assert claim.pairs == (big,)
    assert assemble([small], breaches.HUNTER, FeeRate(25_000)) is NoClaim.FEE_TOO_HIGH
    assert assemble([small], breaches.HUNTER, FeeRate(15_000)) is NoClaim.FEE_TOO_HIGH  # pays its room, not the claim
    assert isinstance(assemble([small], breaches.HUNTER, FeeRate(10_000)), tuple)
    assert assemble([], breaches.HUNTER, RATE) is NoClaim.NO_PAIRS
    assert assemble_child(breach.raw, [], breaches.HUNTER, RATE) is NoClaim.NO_PAIRS


@pytest.mark.parametrize(("left", "claimed"), [(294, True), (293, False), (0, False), (-1, False)])
def test_nothing_is_claimed_where_the_hunters_output_would_be_dust(breaches: Any, left: int, claimed: bool) -> None:
    breach = breaches.Breach()
    (bounty,) = [each.bounty for each in breach.pairs()]
    made = assemble(breach.pairs(), breaches.HUNTER, RATE, least_fee=Sat(bounty - left))
    child = assemble_child(breach.raw, breach.pairs(), breaches.HUNTER, RATE, least_fee=Sat(bounty - left))
    assert (isinstance(made, tuple), isinstance(child, BountyClaim)) == (claimed, claimed)


def test_every_priced_pair_can_be_claimed_alone_at_the_stated_feerate(breaches: Any) -> None:
    """The cheat may have spent everything else of the state."""
    config = BountyConfig()
    htlcs = tuple((place % 2 == 0, 25_000 + place, 500) for place in range(20))
    breach = breaches.Breach(bob=25_000, htlcs=htlcs, capacity=3_000_000)
    pairs = breach.pairs(config)
    assert len(pairs) >= 10
    for script in (breaches.HUNTER, b"\x51\x20" + bytes(32)):
        for pair in pairs:
            claims = assemble([pair], script, config.feerate)
            assert isinstance(claims, tuple)
            checked(claims[0], claims[0].raw)


def test_pairs_of_another_breach_do_not_enter_the_claim_of_an_unconfirmed_one(breaches: Any) -> None:
    breach, other = breaches.Breach(), breaches.Breach(number=5)
    with pytest.raises(MisuseError, match="another transaction"):
        assemble_child(breach.raw, (*breach.pairs(), *other.pairs()), breaches.HUNTER, RATE)


# --- cheating must never pay ------------------------------------------------------------------------------------------


@st.composite
def cheats(draw: st.DrawFn) -> dict[str, Any]:
    """A channel, a state that Bob revoked in it, and what he has now: at least his reserve, if he ever offered an HTLC;
    else no less than in any earlier state, and none of his in flight there."""
    capacity = draw(st.integers(20_000, 50_000_000))
    reserve = max(capacity // 50, 354)
    offered = draw(st.booleans())
    rest, htlcs = capacity, []
    for _ in range(draw(st.integers(0, 6))):
        sat = draw(st.integers(1, max(1, rest // 2)))
        rest -= sat
        htlcs.append((offered and draw(st.booleans()), sat, draw(st.integers(1, 900_000))))
    bob = draw(st.integers(0, rest))
    now = draw(st.integers(reserve if offered else bob, capacity))
    return {"capacity": capacity, "bob": bob, "htlcs": tuple(htlcs), "reserve": reserve, "now": now}


@settings(max_examples=200, deadline=None)
@given(cheat=cheats(), feerate=st.integers(1_000, 20_000), unconfirmed=st.booleans())
def test_cheat_who_hunts_itself_ends_poorer_than_by_closing_honestly_and_its_victim_no_poorer(
    breaches: Any, cheat: dict[str, Any], feerate: int, unconfirmed: bool
) -> None:
    capacity, now = cheat["capacity"], cheat["now"]
    stake = policy.at_stake(Sat(cheat["reserve"]), Msat(1000 * now), breaches.DUST)
    breach = breaches.Breach(bob=cheat["bob"], htlcs=cheat["htlcs"], capacity=capacity, stake=stake)
    config = BountyConfig(feerate=FeeRate(feerate))
    plan, pairs = breach.plan(config), breach.pairs(config)
    mine = payout_script(breaches.BOB.payment_basepoint)
    if unconfirmed:
        made: Any = assemble_child(breach.raw, pairs, mine, FeeRate(1_000))
        claims = (made,) if isinstance(made, BountyClaim) else ()
    else:
        made = assemble(pairs, mine, FeeRate(1_000))
        claims = made if isinstance(made, tuple) else ()
        assert {pair for each in claims for pair in each.pairs} == set(pairs)
    victim = payout_script(breaches.ALICE.payment_basepoint)
    paid = [output for each in claims for output in tx.parse(each.raw).outputs]
    for each in claims:
        assert check_transaction(each.raw, each.spent) is None
    rewards = sum(each.value for each in paid if each.script == mine)
    assert rewards * 2 <= stake + 2 * 240  # the anchor is anybody's
    if not plan.deters:
        return
    honest = now if now >= breaches.DUST else 0
    unpriced = sum(each.output.value for each in plan.left)  # let the cheat get away with all of these
    assert rewards + unpriced < honest or not (plan.priced or plan.left)
    saved = sum(each.value for each in paid if each.script == victim)
    later = sum(each.paid.value for each in pairs) - saved  # of an unconfirmed breach: after its confirmation
    own = sum(each.value for each in breach.parsed.outputs if each.script == victim)
    if plan.priced or plan.left:
        assert own + saved + later >= capacity - honest


def test_bounties_from_a_reserve_that_was_never_filled_would_pay_the_cheat(breaches: Any) -> None:
    """Why the stake is not simply the reserve: Bob never had anything, and Alice's HTLC to him failed."""
    htlcs = ((False, 5_000_000, 500),)
    naive = breaches.Breach(bob=0, htlcs=htlcs, stake=200_000)
    (claim,) = assemble(naive.pairs(), breaches.HUNTER, RATE)
    assert claim.reward > 0  # closing honestly would bring Bob nothing
    right = breaches.Breach(bob=0, htlcs=htlcs, stake=policy.at_stake(Sat(200_000), Msat(0), breaches.DUST))
    assert right.pairs() == ()
    assert not right.plan().deters
