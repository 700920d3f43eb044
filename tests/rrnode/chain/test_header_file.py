"""Headers kept on disk: what a next start takes from the file, whatever became of the file meanwhile.

The chain is regtest's, whose headers cost nothing to make.
"""

import struct
from contextlib import AsyncExitStack

import pytest

from bootstrap.networks import REGTEST
from protocols.light.headers import Checkpoint, HeaderChain, parse_header
from protocols.light.work import target_of
from rrnode.chain.header_file import HeaderFile

BITS = 0x207FFFFF
LATER = 1_900_000_000


def mine(parent, count, mark=0):
    made = []
    while len(made) < count:
        for nonce in range(1 << 10):
            raw = struct.pack("<I32s32sIII", 4, parent.hash, bytes([mark]) * 32, parent.time + 600, BITS, nonce)
            if int.from_bytes(parse_header(raw).hash, "little") <= target_of(BITS):
                break
        parent = parse_header(raw)
        made.append(raw)
    return tuple(made)


class Life:
    """A client's chain of headers with its file, from a start on."""

    def __init__(self, path, checkpoint=REGTEST.checkpoint):
        self.chain = HeaderChain(REGTEST.pow_rules, checkpoint)
        self.kept = HeaderFile(path, self.chain)

    def adopt(self, raws):
        branch = self.chain.branch(parse_header(raws[0]).previous)
        branch.extend(raws, LATER)
        fork = branch.fork
        assert self.chain.adopt(branch)
        self.kept.adopted(fork)


@pytest.fixture
async def path(tmp_path):
    """A file with 30 headers above block 0, from an earlier life."""
    life = Life(tmp_path / "headers")
    async with life.kept.open(LATER):
        life.adopt(mine(life.chain.tip, 30))
    return tmp_path / "headers"


async def begun(path, now=LATER):
    """The height with which a life begins."""
    life = Life(path)
    async with life.kept.open(now):
        return life.chain.height


async def test_a_start_goes_on_where_the_last_life_ended(path):
    life = Life(path)
    async with life.kept.open(LATER):
        assert life.chain.height == 30
        life.adopt(mine(life.chain.tip, 12))
    assert path.read_bytes() == REGTEST.checkpoint.header + life.chain.raw_above(0)
    assert await begun(path) == 42


async def test_a_reorganisation_is_kept_too(path):
    life = Life(path)
    async with life.kept.open(LATER):
        life.adopt(mine(life.chain.at(20), 11, mark=7))
        assert path.read_bytes() == REGTEST.checkpoint.header + life.chain.raw_above(0)
        life.adopt(mine(life.chain.at(10), 22, mark=8))
    again = Life(path)
    async with again.kept.open(LATER):
        assert again.chain.tip == life.chain.tip


@pytest.mark.parametrize("place", [80 * 20 + 7, 80 * 20 + 40, 80 * 20 + 75], ids=["parent", "root", "difficulty"])
async def test_a_damaged_file_is_taken_up_to_the_damage_and_mended(path, place):
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    life = Life(path)
    async with life.kept.open(LATER):
        assert life.chain.height in (19, 20)  # a changed header may have enough work by chance; its follower tells
        above = life.chain.height
        life.adopt(mine(life.chain.tip, 3))
    assert len(path.read_bytes()) == (above + 4) * 80
    assert await begun(path) == above + 3


@pytest.mark.parametrize("cut", [80 * 12 + 33, 40, 0], ids=["in a header", "in the checkpoint", "empty"])
async def test_a_file_cut_short_is_taken_as_far_as_it_goes(path, cut):
    path.write_bytes(path.read_bytes()[:cut])
    life = Life(path)
    async with life.kept.open(LATER):
        assert life.chain.height == max(0, cut // 80 - 1)
        life.adopt(mine(life.chain.tip, 2))
    assert await begun(path) == max(0, cut // 80 - 1) + 2


async def test_headers_from_another_checkpoint_are_forgotten(path):
    other = Life(path, Checkpoint(height=144, header=parse_header(path.read_bytes()[80 * 9 : 80 * 10]).raw))
    async with other.kept.open(LATER):
        assert other.chain.height == 144
        other.adopt(mine(other.chain.tip, 1))
    assert len(path.read_bytes()) == 160
    assert await begun(path) == 0


async def test_a_clock_that_is_wrong_costs_nothing(path):
    whole = path.read_bytes()
    assert await begun(path, now=parse_header(REGTEST.checkpoint.header).time) == 12
    assert path.read_bytes() == whole
    assert await begun(path) == 30


async def test_only_one_of_two_writes_and_the_other_takes_over(path):
    first, second = Life(path), Life(path)
    async with AsyncExitStack() as end_of_second:
        async with first.kept.open(LATER):
            await end_of_second.enter_async_context(second.kept.open(LATER))
            second.adopt(mine(second.chain.tip, 5, mark=5))
            first.adopt(mine(first.chain.tip, 1, mark=1))
            assert path.read_bytes()[80:] == first.chain.raw_above(0)
        second.adopt(mine(second.chain.tip, 1, mark=5))
    assert path.read_bytes()[80:] == second.chain.raw_above(0)


@pytest.mark.parametrize("path_of", [lambda p: p, lambda p: p / "none" / "headers", lambda _: "/dev/full"])
async def test_a_place_that_cannot_be_written_hinders_nothing(tmp_path, path_of):
    life = Life(path_of(tmp_path))
    async with life.kept.open(LATER):
        life.adopt(mine(life.chain.tip, 2))
        life.adopt(mine(life.chain.tip, 2))
        assert life.chain.height == 4


async def test_a_chain_that_runs_once_more_keeps_what_it_has(path):
    life = Life(path)
    for mark in (1, 2):
        async with life.kept.open(LATER):
            life.adopt(mine(life.chain.tip, 4, mark=mark))
    assert path.read_bytes()[80:] == life.chain.raw_above(0)
    assert await begun(path) == 38
