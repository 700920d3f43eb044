"""Quantities: conversions are exact or rounded the safe way, and two assets never mix."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import MisuseError
from protocols.units import MAX_MSAT, MAX_SAT, Amount, AssetId, fee_for, floor_to_sat, to_msat, weight_to_vbytes

COIN = AssetId(b"\xc0" * 32)
GOLD = AssetId(b"\x60" * 32)
OPERATIONS = [
    lambda one, other: one + other,
    lambda one, other: one - other,
    lambda one, other: one < other,
    lambda one, other: one <= other,
    lambda one, other: one > other,
    lambda one, other: one >= other,
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_mixing_two_assets_is_an_error_of_type(operation):
    with pytest.raises(MisuseError, match="two assets mixed: c0c0c0c0 and 60606060"):
        operation(Amount(1, COIN), Amount(1, GOLD))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_amount_never_meets_a_bare_number(operation):
    with pytest.raises(TypeError):
        operation(Amount(1, COIN), 1)


@given(st.integers(0, MAX_MSAT), st.integers(0, MAX_MSAT))
def test_amounts_of_one_asset_behave_as_their_numbers(one, other):
    left, right = Amount(one, COIN), Amount(other, COIN)
    assert (left + right, left - right) == (Amount(one + other, COIN), Amount(one - other, COIN))
    assert (left < right, left <= right, left > right, left >= right) == (
        one < other, one <= other, one > other, one >= other,
    )  # fmt: skip
    assert (left == right) == (one == other)


def test_equal_numbers_of_two_assets_are_not_equal():
    assert Amount(1, COIN) != Amount(1, GOLD)


@given(st.integers(0, MAX_SAT), st.integers(0, 999))
def test_what_cannot_exist_on_chain_is_dropped(sat, rest):
    assert floor_to_sat(to_msat(sat) + rest) == sat


@given(st.integers(0, 10**6), st.integers(0, 10**7))
def test_sizes_and_fees_are_rounded_up(size, rate):
    assert 0 <= 4 * weight_to_vbytes(size) - size < 4
    assert 0 <= 1000 * fee_for(size, rate) - size * rate < 1000
