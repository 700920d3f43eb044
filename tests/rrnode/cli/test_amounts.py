"""Amounts and times as typed: exact, or refused with a sentence; never through a binary fraction."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.units import MAX_MSAT
from rrnode.cli.amounts import msat, parse_ms, parse_msat, parse_sat, parse_seconds
from rrnode.errors import UserError


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1500", 1_500_000),
        ("1_500sat", 1_500_000),
        ("1500.25 sat", 1_500_250),
        ("1500250msat", 1_500_250),
        ("0.001BTC", 100_000_000),
        ("0.00000000001btc", 1),
        ("1.10sats", 1_100),
        ("21000000btc", MAX_MSAT),
        ("0.1000000000000000000sat", 100),
    ],
)
def test_amounts_are_exact(text: str, amount: int) -> None:
    assert parse_msat(text) == amount


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not an amount"),
        ("ten", "is not an amount"),
        ("1e5", "is not an amount"),
        ("5 eur", "'eur' in '5 eur' is not a unit known here"),
        ("1,500", "is not an amount"),
        ("0x10", "is not an amount"),
        (".5", "is not an amount"),
        ("5.", "is not an amount"),
        ("-5", "is less than nothing"),
        ("0", "the amount is zero"),
        ("0.000msat", "the amount is zero"),
        ("1.5msat", "is finer than a millisatoshi"),
        ("0.0001sat", "is finer than a millisatoshi"),
        ("21000001btc", "is more than all bitcoin there will ever be"),
        ("٣sat", "is not an amount"),
        ("9" * 1000, "is not an amount"),
    ],
)
def test_what_is_no_amount_is_refused_with_the_reason(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as refused:
        parse_msat(text)
    assert refused.value.hint.startswith("amounts look like 1500 (satoshi)")


@given(st.integers(min_value=1, max_value=MAX_MSAT))
def test_every_amount_reads_back_from_what_people_see(amount: int) -> None:
    assert parse_msat(msat(amount).replace(",", "")) == amount
    assert parse_msat(f"{Decimal(amount).scaleb(-11):f}btc") == amount
    assert parse_msat(f"{amount}msat") == amount


@given(st.text(max_size=30))
def test_any_text_is_an_amount_or_a_sentence(text: str) -> None:
    for parse in (parse_msat, parse_sat, parse_ms, parse_seconds):
        try:
            assert parse(text) >= 0
        except UserError as error:
            assert error.hint  # noqa: PT017


def test_the_chain_wants_whole_satoshi() -> None:
    assert parse_sat("0.00000001btc") == 1
    with pytest.raises(UserError, match="is not a whole number of satoshi"):
        parse_sat("1.001")


def test_times_have_units() -> None:
    assert [parse_ms(text) for text in ("500ms", "30", "30s", "10m", "1 h", "2d")] == [
        500, 30_000, 30_000, 600_000, 3_600_000, 172_800_000,
    ]  # fmt: skip
    assert parse_seconds("10m") == 600
    with pytest.raises(UserError, match="is not a whole number of seconds"):
        parse_seconds("1500ms")
    with pytest.raises(UserError, match="is not a length of time"):
        parse_ms("1.5h")


def test_amounts_for_people_are_exact_and_short() -> None:
    assert [msat(amount) for amount in (0, 1, 1_000, 1_234_567_890, -1_500)] == [
        "0 sat", "0.001 sat", "1 sat", "1,234,567.89 sat", "-1.5 sat",
    ]  # fmt: skip
