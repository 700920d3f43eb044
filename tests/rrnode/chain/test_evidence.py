"""Proofs of a block that commits to no witnesses: its transactions have none (BIP 141). Other forgeries: `test_remote_liars`."""

import pytest

from protocols.light.headers import parse_header
from protocols.wire.chain import Matches, Proven, ProvenWhole
from rrnode.chain.evidence import BadProof, whole


async def test_where_nothing_is_committed_to_witnesses_are_refused(kernel_chain, kit):
    (block,) = await kernel_chain.mine(1, kit.OPEN)
    (coinbase,) = kit.parse_block(await kernel_chain.block(block)).transactions
    header = parse_header((await kernel_chain.headers(1, 1))[0])

    def answer(raw):
        return Matches(1, block, (Proven(0, (), raw),), (ProvenWhole(0, (), raw, ()),))

    assert whole(answer(coinbase.raw), header, 1) == {0: coinbase}
    assert whole(Matches(1, block, (), ()), header, 1) == {}
    with_one = coinbase.raw[:4] + b"\x00\x01" + coinbase.raw[4:-4] + b"\x01\x20" + bytes(32) + coinbase.raw[-4:]
    with pytest.raises(BadProof, match="in block 1 with witnesses not proven there"):
        whole(answer(with_one), header, 1)
