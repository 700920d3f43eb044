"""Header chains at costless difficulty: linking, every rule of a header at its edge, reorganisations by work, lookups.

`EASY` is a network of short periods whose difficulty moves, so that work and length of a branch differ.
"""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols.errors import DecodeError, MisuseError
from protocols.light import headers as headers_module
from protocols.light.headers import (
    Checkpoint,
    HeaderChain,
    InvalidHeader,
    StaleBranch,
    parse_header,
    split_headers,
)
from protocols.light.work import REGTEST_RULES, PowRules, bits_required, target_of, work_of

EASY = PowRules(limit=(1 << 255) - 1, interval=8, retargets=True, minimum_after_20_minutes=False, bip94=False)
START = 1_700_000_000
LATER = START + 10**8


class Bench:
    """A chain and a miner that knows the rules."""

    def __init__(self, mine, rules=EASY, height=0):
        self.mine, self.rules = mine, rules
        self.first = mine(bytes(32), START)
        self.chain = HeaderChain(rules, Checkpoint(height=height, header=self.first))
        self.known = {height: self.chain.tip}

    def grow(self, count, *, spacing=600, mark=0, above=None):
        """Headers on top of a height (default: the tip of those made so far on this line), as raw bytes."""
        line = {height: h for height, h in self.known.items() if above is None or height <= above}
        made = []
        for _ in range(count):
            height = max(line) + 1
            parent = line[height - 1]
            time = parent.time + spacing
            bits = bits_required(self.rules, height, time, line.get)
            raw = self.mine(parent.hash, time, bits=bits, mark=mark)
            line[height] = parse_header(raw)
            made.append(raw)
        self.known = line
        return tuple(made)

    def take(self, raws):
        branch = self.chain.branch(parse_header(raws[0]).previous)
        branch.extend(raws, LATER)
        return self.chain.adopt(branch)


@pytest.fixture
def bench(mine):
    return Bench(mine)


def test_headers_are_linked_from_the_checkpoint_on_across_periods(bench):
    raws = bench.grow(30)
    assert bench.take(raws)
    assert (bench.chain.height, bench.chain.tip.raw) == (30, raws[-1])
    assert [bench.chain.at(height).raw for height in range(31)] == [bench.first, *raws]
    assert [bench.chain.height_of(parse_header(raw).hash) for raw in (bench.first, *raws)] == list(range(31))
    assert bench.chain.at(31) is None
    assert bench.chain.at(-1) is None
    assert bench.chain.height_of(bytes(32)) is None
    assert bench.chain.branch(b"\x07" * 32) is None


def test_a_heavier_branch_replaces_a_longer_one(bench):
    trunk = bench.grow(16)
    bench.take(trunk)
    slow = bench.grow(12, spacing=2400)  # the next period is easy
    bench.take(slow)
    fast = bench.grow(12, spacing=1, mark=1, above=16)  # as long, and its second period is hard
    branch = bench.chain.branch(bench.chain.at(16).hash)
    branch.extend(fast[:7], LATER)
    assert not bench.chain.adopt(branch)
    assert bench.chain.tip.raw == slow[-1]
    branch.extend(fast[7:11], LATER)
    assert bench.chain.adopt(branch)
    assert (bench.chain.height, bench.chain.tip.raw) == (27, fast[10])
    assert bench.chain.at(16).raw == trunk[-1]
    assert bench.chain.at(17).raw == fast[0]
    assert bench.chain.height_of(parse_header(slow[0]).hash) is None
    branch.extend(fast[11:], LATER)  # it goes on from where it became the best
    assert bench.chain.adopt(branch)
    assert bench.chain.tip.raw == fast[11]


def test_work_that_was_added_up_before_is_that_of_the_headers_that_are_there(bench, monkeypatch):
    monkeypatch.setattr(headers_module, "_SUMMED", 4)

    def summed(height):
        return sum(work_of(target_of(bench.chain.at(n).bits)) for n in range(height + 1, bench.chain.height + 1))

    for above, count, spacing in ((0, 30, 600), (13, 25, 100), (11, 29, 60), (40, 9, 30)):
        assert bench.take(bench.grow(count, spacing=spacing, mark=above, above=above))
        heights = range(bench.chain.height + 1)
        assert [bench.chain._run.work_above(height) for height in heights] == [summed(height) for height in heights]
    assert len({bench.chain.at(height).bits for height in heights}) > 2


def test_of_two_branches_of_the_same_work_the_first_seen_stays(bench):
    first = bench.grow(3)
    bench.take(first)
    assert not bench.take(bench.grow(3, mark=1, above=0))
    assert bench.chain.tip.raw == first[-1]


def test_a_lighter_branch_changes_nothing(bench):
    first = bench.grow(5)
    bench.take(first)
    assert not bench.take(bench.grow(4, mark=1, above=0))
    assert bench.chain.tip.raw == first[-1]


def test_a_branch_whose_ground_was_reorganised_away_is_stale(bench):
    bench.take(bench.grow(5))
    branch = bench.chain.branch(bench.chain.tip.hash)
    old = bench.grow(1)
    bench.take(bench.grow(7, mark=1, above=2))
    with pytest.raises(StaleBranch):
        branch.extend(old, LATER)
    with pytest.raises(StaleBranch):
        bench.chain.adopt(branch)
    assert bench.chain.height == 9


def test_an_invalid_header_is_refused_and_those_before_it_are_kept(bench, mine):
    bench.take(bench.grow(12))
    tip = bench.chain.tip
    good = bench.grow(1, spacing=60)[0]
    last = parse_header(good)
    median = bench.chain.at(13 - 5).time
    cases = {
        r"header 14 does not follow the one before it": mine(tip.hash, last.time + 1, bits=last.bits),
        r"header 14 states the difficulty 1f7fffff, 206fffff wanted": mine(last.hash, last.time + 1, bits=0x1F7FFFFF),
        r"header 14 has too little work": mine(last.hash, last.time + 1, bits=last.bits, enough=False),
        r"header 14 is not later than the median": mine(last.hash, median, bits=last.bits),
        r"header 14 is more than two hours ahead": mine(last.hash, LATER + 7201, bits=last.bits),
    }
    for words, bad in cases.items():
        branch = bench.chain.branch(tip.hash)
        with pytest.raises(InvalidHeader, match=words):
            branch.extend((good, bad), LATER)
        assert (branch.height, branch.last.raw, branch.raw) == (13, good, good)
    for time in (median + 1, LATER + 7200):
        branch = bench.chain.branch(tip.hash)
        branch.extend((good, mine(last.hash, time, bits=last.bits)), LATER)
        assert branch.height == 14


def test_a_difficulty_easier_than_the_networks_is_refused_even_if_it_follows(mine):
    bench = Bench(mine, replace(REGTEST_RULES, limit=(1 << 254) - 1))
    branch = bench.chain.branch(bench.chain.tip.hash)
    with pytest.raises(InvalidHeader, match="header 1 has too little work"):
        branch.extend((mine(bench.chain.tip.hash, START + 60),), LATER)  # what its parent, taken for granted, states


def test_bip94_forbids_turning_the_time_back_at_a_new_period(mine):
    bench = Bench(mine, replace(EASY, bip94=True, minimum_after_20_minutes=True))
    bench.take(bench.grow(7))
    last = bench.chain.tip
    for back, fine in ((601, False), (600, True)):
        bits = bits_required(bench.rules, 8, last.time - back, bench.known.get)
        branch = bench.chain.branch(last.hash)
        raw = mine(last.hash, last.time - back, bits=bits)
        if fine:
            branch.extend((raw,), LATER)
        else:
            with pytest.raises(InvalidHeader, match="header 8 turns the time back"):
                branch.extend((raw,), LATER)


def test_near_a_checkpoint_above_block_0_the_unknown_median_is_not_asked_for(mine):
    bench = Bench(mine, EASY, height=80)
    branch = bench.chain.branch(bench.chain.tip.hash)
    branch.extend((mine(bench.chain.tip.hash, START - 100),), LATER)  # later than the eleven before it, for all we know
    bench.take(bench.grow(10))
    branch = bench.chain.branch(bench.chain.tip.hash)
    with pytest.raises(InvalidHeader, match="header 91 is not later"):
        branch.extend((mine(bench.chain.tip.hash, START, bits=bench.chain.tip.bits),), LATER)


def test_a_checkpoint_within_a_period_is_a_bug_of_ours(mine):
    with pytest.raises(MisuseError):
        HeaderChain(EASY, Checkpoint(height=9, header=mine(bytes(32), START)))


def test_headers_have_a_maximum(bench, monkeypatch):
    monkeypatch.setattr(headers_module, "MAX_HEADERS", 5)
    branch = bench.chain.branch(bench.chain.tip.hash)
    with pytest.raises(InvalidHeader, match="more than 5 headers above the checkpoint"):
        branch.extend(bench.grow(5), LATER)
    assert branch.height == 4


def test_a_locator_reaches_from_the_tip_to_the_checkpoint(bench):
    assert bench.chain.locator() == (bench.chain.tip.hash,)
    bench.take(bench.grow(100))
    heights = [bench.chain.height_of(each) for each in bench.chain.locator()]
    assert heights == [*range(100, 90, -1), 89, 85, 77, 61, 29, 0]


def test_a_hash_within_other_fields_of_a_header_is_not_found(bench, mine):
    tip = bench.chain.tip
    wanted = b"\x07" * 32
    bench.take((mine(tip.hash, START + 600, mark=int.from_bytes(wanted, "big")),))
    bench.take((mine(bench.chain.tip.hash, START + 1200),))
    assert bench.chain.height_of(wanted) is None


@given(size=st.integers(0, 300))
def test_only_80_bytes_are_a_header(size):
    if size % 80:
        with pytest.raises(DecodeError):
            split_headers(bytes(size))
    else:
        assert len(split_headers(bytes(size))) == size // 80
    if size != 80:
        with pytest.raises(DecodeError):
            parse_header(bytes(size))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9), st.sampled_from([60, 600, 1100])), max_size=6))
def test_the_best_chain_is_always_the_heaviest_branch_seen(mine, turns):
    bench = Bench(mine)
    best = 0
    for number, (back, count, spacing) in enumerate(turns):
        fork = max(0, bench.chain.height - back)
        bench.known = {height: bench.chain.at(height) for height in range(bench.chain.height + 1)}
        raws = bench.grow(count, spacing=spacing, mark=number + 1, above=fork)
        branch = bench.chain.branch(bench.chain.at(fork).hash)
        branch.extend(raws, LATER)
        whole = bench.chain._run.work_above(0) - bench.chain._run.work_above(fork) + branch.work
        assert bench.chain.adopt(branch) == (whole > best)
        best = max(best, whole)
        assert bench.chain._run.work_above(0) == best
