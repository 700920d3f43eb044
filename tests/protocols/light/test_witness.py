"""Witness commitments: every transaction of blocks of every size, other witnesses, and coinbases that commit to nothing.

The roots are compared with python-bitcoinlib's.
"""

import hashlib

import pytest
from bitcoin.core import CBlock, CTransaction, CTxIn, CTxInWitness, CTxOut, CTxWitness
from bitcoin.core.script import CScript, CScriptWitness
from hypothesis import given
from hypothesis import strategies as st

from protocols.light.merkle import branch_of
from protocols.light.witness import binds, commitment_of, witness_tree_of

RESERVED = b"\x07" * 32
COMMITS = bytes.fromhex("6a24aa21a9ed")


def double(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def transaction(number: int) -> CTransaction:
    witness = CTxWitness([CTxInWitness(CScriptWitness([number.to_bytes(4, "big")]))])
    return CTransaction([CTxIn(nSequence=number)], [CTxOut(number, CScript())], nVersion=2, witness=witness)


@given(st.integers(1, 40))
def test_a_block_commits_to_each_of_its_transactions_as_it_is_and_to_no_other(size):
    transactions = [transaction(number) for number in range(size)]
    wtxids = [tx.GetHash() for tx in transactions]
    tree = witness_tree_of(wtxids)
    assert tree[-1][0] == CBlock.build_witness_merkle_tree_from_txs(transactions)[-1]
    commitment = double(tree[-1][0] + RESERVED)
    for index, wtxid in enumerate(wtxids):
        branch = branch_of(tree, index)
        assert binds(commitment, RESERVED, wtxid, index, branch)
        assert binds(commitment, RESERVED, bytes(32), index, branch) == (index == 0)  # the coinbase's leaf is zero
        assert not binds(commitment, bytes(32), wtxid, index, branch)
        assert not binds(commitment, RESERVED, wtxid, index ^ 1, branch) or index ^ 1 >= size or not index
        assert not binds(commitment, RESERVED, wtxid, index, (*branch, bytes(32)))


@pytest.mark.parametrize(
    ("scripts", "commitment"),
    [
        ([], None),
        ([b"\x51", b"\x6a"], None),
        ([COMMITS + bytes(31)], None),
        ([COMMITS[:-1] + b"\xee" + bytes(32)], None),
        ([COMMITS + b"\x01" * 32], b"\x01" * 32),
        ([COMMITS + b"\x01" * 32 + b"more"], b"\x01" * 32),
        ([COMMITS + b"\x01" * 32, COMMITS + b"\x02" * 32, b"\x51", COMMITS + bytes(3)], b"\x02" * 32),
    ],
)
def test_the_last_output_that_looks_like_a_commitment_is_the_one(scripts, commitment):
    assert commitment_of(scripts) == commitment
