"""Targets, compact forms and the difficulty rules of each network: known values, and every rule at its edge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.light.work import (
    MAINNET_RULES,
    REGTEST_RULES,
    SIGNET_RULES,
    TESTNET4_RULES,
    Parent,
    bits_of,
    bits_required,
    target_of,
    work_of,
)

EASIEST = 0x1D00FFFF
TWO_WEEKS = 2016 * 600


@pytest.mark.parametrize(
    ("bits", "target"),
    [
        (0x1D00FFFF, 0xFFFF << 208),
        (0x207FFFFF, 0x7FFFFF << 232),
        (0x1E0377AE, 0x377AE << 216),
        (0x05009234, 0x92340000),
        (0x03123456, 0x123456),
        (0x02123456, 0x1234),
    ],
)
def test_known_compact_forms_are_read(bits, target):
    assert target_of(bits) == target


@pytest.mark.parametrize("bits", [0, 0x01003456, 0x04923456, 0x1D80FFFF, 0xFF123456, 0x23000001, 0x1D000000])
def test_what_is_negative_zero_or_too_large_is_no_target(bits):
    assert target_of(bits) is None


@given(st.integers(1, (1 << 255) - 1))
def test_a_compact_form_keeps_the_first_bytes_of_a_target_and_never_eases_it(target):
    again = target_of(bits_of(target))
    assert again <= target
    assert target - again < max(1, target >> 15)
    assert bits_of(again) == bits_of(target)


def test_limits_in_their_compact_forms_are_those_of_the_first_blocks():
    rules = (MAINNET_RULES, TESTNET4_RULES, SIGNET_RULES, REGTEST_RULES)
    assert [bits_of(each.limit) for each in rules] == [EASIEST, EASIEST, 0x1E0377AE, 0x207FFFFF]


def test_work_is_the_expected_number_of_hashes():
    assert work_of(target_of(EASIEST)) == 0x100010001
    assert work_of((1 << 255) - 1) == 2


def required(rules, height, time, blocks):
    return bits_required(rules, height, time, blocks.get)


def test_within_a_period_the_difficulty_stays():
    assert required(MAINNET_RULES, 5000, 10**9, {4999: Parent(0, 0x1B0404CB)}) == 0x1B0404CB


@pytest.mark.parametrize(
    ("first", "last", "old", "new"),
    [
        # The retarget cases of Bitcoin Core's pow_tests: at block 32,256; limits at both ends.
        (1261130161, 1262152739, 0x1D00FFFF, 0x1D00D86A),
        (1231006505, 1233061996, 0x1D00FFFF, 0x1D00FFFF),
        (1279008237, 1279297671, 0x1C05A3F4, 0x1C0168FD),
        (1263163443, 1269211443, 0x1C387F6F, 0x1D00E1FD),
    ],
)
def test_a_new_period_follows_from_the_time_of_the_last_one(first, last, old, new):
    blocks = {30240: Parent(first, old), 32255: Parent(last, old)}
    assert required(MAINNET_RULES, 32256, 0, blocks) == new


def test_on_testnet4_a_period_follows_from_its_first_block():
    blocks = {0: Parent(0, 0x1C05A3F4), 2015: Parent(TWO_WEEKS, EASIEST)}
    assert required(TESTNET4_RULES, 2016, 0, blocks) == 0x1C05A3F4
    assert required(MAINNET_RULES, 2016, 0, blocks) == EASIEST


def test_after_20_minutes_a_testnet4_block_must_be_an_easy_one():
    blocks = {4033: Parent(1000, 0x1C05A3F4)}
    assert required(TESTNET4_RULES, 4034, 1000 + 1201, blocks) == EASIEST
    assert required(TESTNET4_RULES, 4034, 1000 + 1200, blocks) == 0x1C05A3F4
    assert required(MAINNET_RULES, 4034, 1000 + 1201, blocks) == 0x1C05A3F4


def test_easy_blocks_of_testnet4_do_not_count_for_those_after_them():
    blocks = {4034: Parent(0, 0x1C05A3F4), 4035: Parent(0, EASIEST), 4036: Parent(0, EASIEST)}
    assert required(TESTNET4_RULES, 4037, 600, blocks) == 0x1C05A3F4
    only_easy = {4032: Parent(0, EASIEST), 4033: Parent(0, EASIEST)}
    assert required(TESTNET4_RULES, 4034, 600, only_easy) == EASIEST


def test_what_depends_on_an_unknown_block_is_undecided():
    assert required(MAINNET_RULES, 2016, 0, {2015: Parent(0, EASIEST)}) is None
    assert required(MAINNET_RULES, 2017, 0, {}) is None
    assert required(TESTNET4_RULES, 4034, 600, {4033: Parent(0, EASIEST)}) is None


def test_regtest_is_always_easiest():
    blocks = {143: Parent(0, 0x207FFFFF), 144: Parent(1, 0x207FFFFF)}
    assert required(REGTEST_RULES, 144, 0, blocks) == 0x207FFFFF
    assert required(REGTEST_RULES, 145, 10**9, blocks) == 0x207FFFFF
