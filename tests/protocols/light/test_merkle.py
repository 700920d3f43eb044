"""Merkle branches: every leaf of trees of every size, and forgeries that use inner nodes, doubled leaves and 64 bytes."""

import hashlib

import pytest
from bitcoin.core import CBlock, CTransaction
from hypothesis import given
from hypothesis import strategies as st

from protocols.ids import Txid
from protocols.light.merkle import MAX_DEPTH, branch_of, proves, reads_as_transaction, tree_of


def leaf(number: int) -> Txid:
    return Txid(hashlib.sha256(number.to_bytes(4, "big")).digest())


def pair(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(left + right).digest()).digest()


LEAVES = tuple(leaf(number) for number in range(9))


@given(st.integers(1, 70))
def test_every_branch_of_every_tree_proves_its_leaf_and_no_other(size):
    leaves = [leaf(number) for number in range(size)]
    tree = tree_of(leaves)
    root = tree[-1][0]
    assert root == CBlock.build_merkle_tree_from_txids(leaves)[-1]
    for index, txid in enumerate(leaves):
        branch = branch_of(tree, index)
        assert proves(txid, 100, index, branch, root)
        assert not proves(leaf(1000), 100, index, branch, root)
        assert not proves(txid, 100, index + 1, branch, root)
        assert not proves(txid, 100, index + (1 << len(branch)), branch, root)
        assert not proves(txid, 100, -1, branch, root)


def test_a_branch_of_another_length_or_with_another_sibling_proves_nothing():
    tree = tree_of(LEAVES)
    branch, root = branch_of(tree, 3), tree[-1][0]
    assert proves(LEAVES[3], 100, 3, branch, root)
    assert not proves(LEAVES[3], 100, 3, branch[:-1], root)
    assert not proves(LEAVES[3], 100, 3, (*branch, root), root)
    assert not proves(LEAVES[3], 100, 3, (bytes(32), *branch[1:]), root)


def test_a_doubled_last_leaf_is_proven_at_its_own_place_only():
    tree = tree_of(LEAVES[:3])
    root = tree[-1][0]
    assert proves(LEAVES[2], 100, 2, branch_of(tree, 2), root)
    assert not proves(LEAVES[2], 100, 3, branch_of(tree, 2), root)


def test_a_branch_deeper_than_any_block_is_refused():
    tree = tree_of([leaf(number) for number in range(2**MAX_DEPTH)])
    assert proves(leaf(5), 100, 5, branch_of(tree, 5), tree[-1][0])
    deeper = tree_of([leaf(number) for number in range(2**MAX_DEPTH + 1)])
    assert not proves(leaf(5), 100, 5, branch_of(deeper, 5), deeper[-1][0])


def test_an_inner_node_is_no_transaction_of_64_bytes():
    """CVE-2017-12842, first way: what is hashed to an inner node is shown as a transaction."""
    tree = tree_of(LEAVES[:4])
    inner, sibling = tree[1]
    assert proves(Txid(inner), 65, 0, (sibling,), tree[-1][0])  # all but the size fits
    assert not proves(Txid(inner), 64, 0, (sibling,), tree[-1][0])


def small_transaction(input_script: bytes, output_script: bytes, tail: bytes) -> bytes:
    """64 bytes; the last ones are free for a forger to choose."""
    raw = b"\x01\x00\x00\x00\x01" + bytes(36) + bytes([len(input_script)]) + input_script + b"\xff\xff\xff\xff"
    return raw + b"\x01" + bytes(8) + bytes([len(output_script)]) + output_script + tail


@pytest.mark.parametrize("split", range(5))
def test_a_transaction_of_64_bytes_hides_no_other_below_it(split):
    """CVE-2017-12842, second way: a mined transaction of 64 bytes whose second half is an invented transaction's id."""
    mined = small_transaction(bytes(split), bytes(4 - split), b"\x00\x00\x00\x00")
    assert len(mined) == 64
    CTransaction.deserialize(mined)
    invented = Txid(mined[32:])
    root = pair(pair(mined[:32], mined[32:]), LEAVES[0])
    assert tree_of([Txid(pair(mined[:32], mined[32:])), LEAVES[0]])[-1][0] == root  # the block as it was mined
    assert reads_as_transaction(mined)
    assert not proves(invented, 100, 1, (mined[:32], LEAVES[0]), root)


def test_what_is_nearly_a_transaction_of_64_bytes_is_an_honest_inner_node():
    mined = small_transaction(b"", bytes(4), b"\x00\x00\x00\x00")
    for place, value in ((4, 0), (4, 2), (41, 5), (46, 0), (54, 0x7F), (55, 3)):
        changed = bytearray(mined)
        changed[place] = value
        assert not reads_as_transaction(bytes(changed)), place
