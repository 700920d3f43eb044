"""Merkle branches: proof that a transaction is in a block, made by who has the block and checked by who has its header.

Guards against an inner node taken for a transaction and a transaction taken for an inner node, both 64 bytes
(CVE-2017-12842), and against trees whose last leaves are doubled (CVE-2012-2459). Ids are in serialization order.
"""

import hashlib
from collections.abc import Sequence

from protocols.ids import Txid
from protocols.units import MAX_SAT

MAX_DEPTH = 15  # a block of 4,000,000 weight units holds at most 16,666 transactions of 60 bytes


def _pair(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(left + right).digest()).digest()


def tree_of(txids: Sequence[Txid]) -> tuple[tuple[bytes, ...], ...]:
    """Every level of a block's tree, leaves first, root last; an odd level pairs its last node with itself.

    Args:
        txids: of all transactions of the block, in order; at least one.
    """
    levels: list[tuple[bytes, ...]] = [tuple(txids)]
    while len(level := levels[-1]) > 1:
        full = level if len(level) % 2 == 0 else (*level, level[-1])
        levels.append(tuple(_pair(full[at], full[at + 1]) for at in range(0, len(full), 2)))
    return tuple(levels)


def branch_of(tree: Sequence[Sequence[bytes]], index: int) -> tuple[bytes, ...]:
    """The siblings on the way from a leaf to the root, lowest first.

    Args:
        tree: as `tree_of` gives it.
        index: of the transaction in its block.
    """
    branch = []
    for level in tree[:-1]:
        sibling = index ^ 1
        branch.append(level[sibling] if sibling < len(level) else level[index])
        index >>= 1
    return tuple(branch)


def root_of(leaf: bytes, index: int, branch: Sequence[bytes]) -> bytes:
    """Where a branch leads from a leaf at this place."""
    node = leaf
    for sibling in branch:
        node = _pair(sibling, node) if index & 1 else _pair(node, sibling)
        index >>= 1
    return node


def proves(txid: Txid, base_size: int, index: int, branch: Sequence[bytes], merkle_root: bytes) -> bool:
    """Whether a branch shows that a transaction is at this place of the block with this root.

    Args:
        txid: computed by the caller from the whole transaction.
        base_size: bytes of the transaction without witnesses.
        index: its place in the block.
        branch: siblings, lowest first.
        merkle_root: of a header that the caller holds to be in the best chain.
    """
    if base_size == 64 or len(branch) > MAX_DEPTH or not 0 <= index < 1 << len(branch):
        return False
    node: bytes = txid
    for sibling in branch:
        if index & 1:
            if node == sibling:
                return False  # only the left one of a doubled pair is there
            left, right = sibling, node
        else:
            left, right = node, sibling
        if reads_as_transaction(left + right):
            return False  # the tree may end here, and what is below be invented
        node = _pair(left, right)
        index >>= 1
    return node == merkle_root


def reads_as_transaction(node: bytes) -> bool:
    """Whether the 64 bytes of an inner node are also a transaction with one input and one output, which alone fits.

    Of honest nodes one in 2^40 does, and then its block's proofs are refused; a forger needs it in each forgery.
    """
    if node[4] != 1:
        return False
    input_script = node[41]
    outputs_at = 4 + 1 + 36 + 1 + input_script + 4
    if input_script > 4 or node[outputs_at] != 1:
        return False
    value = int.from_bytes(node[outputs_at + 1 : outputs_at + 9], "little")
    return value <= MAX_SAT and node[outputs_at + 9] == 4 - input_script
