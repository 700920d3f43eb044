"""Quotes: exact, rounded up, never a loss (R2). Examples by hand and properties against exact fractions."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import MisuseError
from protocols.ids import PeerId
from protocols.routing.pricing import AssetFee, FeePolicy, NeighbourFee, Pricer, Rate
from protocols.units import MAX_MSAT, AssetId, Msat

COIN = AssetId(b"\xc0" * 32)
GOLD = AssetId(b"\x60" * 32)


def rate(numerator: int, denominator: int) -> Rate:
    return Rate(downstream=COIN, upstream=GOLD, numerator=numerator, denominator=denominator)


def test_a_fee_is_base_plus_millionths_rounded_up():
    pricer = Pricer(FeePolicy(base_msat=Msat(7), ppm=100))
    assert pricer.quote(Msat(10_000), COIN, COIN) == 10_000 + 7 + 1
    assert pricer.quote(Msat(10_001), COIN, COIN) == 10_001 + 7 + 2  # 1.0001 msat is charged as 2
    assert pricer.quote(Msat(0), COIN, COIN) == 7


def test_converting_multiplies_amount_and_fee_as_the_theory_says():
    pricer = Pricer(FeePolicy(base_msat=Msat(10), ppm=0), rates=(rate(3, 7),))
    assert pricer.quote(Msat(1000), COIN, GOLD) == -(-1010 * 3 // 7) == 433


def test_what_has_no_rate_is_not_converted():
    pricer = Pricer(FeePolicy(), rates=(rate(3, 7),))
    assert pricer.quote(Msat(1000), GOLD, COIN) is None


def test_a_quote_above_all_money_is_none():
    pricer = Pricer(FeePolicy(base_msat=Msat(1), ppm=0))
    assert pricer.quote(Msat(MAX_MSAT - 1), COIN, COIN) == MAX_MSAT
    assert pricer.quote(MAX_MSAT, COIN, COIN) is None


def test_an_asset_may_have_its_own_fee():
    own = AssetFee(asset=GOLD, fee=FeePolicy(base_msat=Msat(1), ppm=0))
    pricer = Pricer(FeePolicy(base_msat=Msat(10), ppm=0), (own,))
    assert (pricer.quote(Msat(100), COIN, COIN), pricer.quote(Msat(100), GOLD, GOLD)) == (110, 101)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FeePolicy(base_msat=Msat(-1)),
        lambda: FeePolicy(ppm=1_000_001),
        lambda: rate(0, 1),
        lambda: rate(1, 0),
        lambda: Rate(downstream=COIN, upstream=COIN, numerator=1, denominator=1),
        lambda: Pricer(FeePolicy(), rates=(rate(1, 2), rate(1, 3))),
    ],
)
def test_prices_that_make_no_sense_are_refused(make):
    with pytest.raises(MisuseError):
        make()


parts = st.integers(1, 10**12)


@given(
    amount=st.integers(0, MAX_MSAT),
    base=st.integers(0, 10**9),
    ppm=st.integers(0, 1_000_000),
    numerator=parts,
    denominator=parts,
)
def test_the_node_never_loses_by_rounding_and_never_asks_a_whole_msat_too_much(
    amount, base, ppm, numerator, denominator
):
    pricer = Pricer(FeePolicy(base_msat=Msat(base), ppm=ppm), rates=(rate(numerator, denominator),))
    exact = (amount + base + Fraction(amount * ppm, 1_000_000)) * Fraction(numerator, denominator)
    quote = pricer.quote(Msat(amount), COIN, GOLD)
    if quote is None:
        assert exact > MAX_MSAT
    else:
        assert exact <= quote < exact + 1


@given(st.integers(0, MAX_MSAT // 4), st.integers(0, MAX_MSAT // 4))
def test_a_cheaper_offer_never_makes_a_dearer_quote(one, other):
    pricer = Pricer(FeePolicy(base_msat=Msat(1000), ppm=100))
    low, high = sorted((one, other))
    assert pricer.quote(Msat(low), COIN, COIN) <= pricer.quote(Msat(high), COIN, COIN)


def test_a_neighbour_with_a_fee_of_its_own_pays_that_and_the_others_the_general_one() -> None:
    dear = PeerId(b"\x02" + bytes(31) + b"\x09")
    other = PeerId(b"\x02" + bytes(31) + b"\x08")
    asset = COIN
    pricer = Pricer(
        FeePolicy(base_msat=Msat(1000), ppm=100),
        neighbour_fees=(NeighbourFee(neighbour=dear, fee=FeePolicy(base_msat=Msat(5000), ppm=2500)),),
    )
    assert pricer.quote(Msat(1_000_000), asset, asset, dear) == 1_000_000 + 5000 + 2500
    assert pricer.quote(Msat(1_000_000), asset, asset, other) == 1_000_000 + 1000 + 100
    assert pricer.quote(Msat(1_000_000), asset, asset) == 1_000_000 + 1000 + 100
