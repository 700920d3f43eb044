"""Witness commitments: what binds a block to its transactions' signatures and preimages, which their ids do not (BIP 141)."""

import hashlib
from collections.abc import Sequence

from protocols.ids import Txid
from protocols.light.merkle import root_of, tree_of

_HEADER = bytes.fromhex("6a24aa21a9ed")
_COINBASE_LEAF = bytes(32)


def commitment_of(scripts: Sequence[bytes]) -> bytes | None:
    """A block's commitment, 32 bytes; None when it has none, and then no transaction of it has a witness.

    Args:
        scripts: of the coinbase's outputs; of several that look like one the last counts.
    """
    found = [script for script in scripts if script.startswith(_HEADER) and len(script) >= len(_HEADER) + 32]
    return found[-1][len(_HEADER) : len(_HEADER) + 32] if found else None


def witness_tree_of(wtxids: Sequence[bytes]) -> tuple[tuple[bytes, ...], ...]:
    """Every level of the tree over ids with witnesses, leaves first; the coinbase's own leaf is zero.

    Args:
        wtxids: of all transactions of the block, in order.
    """
    return tree_of(tuple(map(Txid, (_COINBASE_LEAF, *wtxids[1:]))))


def binds(commitment: bytes, reserved: bytes, wtxid: bytes, index: int, branch: Sequence[bytes]) -> bool:
    """Whether a block commits to a transaction as it is, witnesses included.

    Where the transaction stands, and so how deep the tree is, must be proven already (`merkle.proves`): a branch of that
    length begins at a leaf.

    Args:
        commitment: see `commitment_of`; of a coinbase that is proven.
        reserved: 32 bytes, the coinbase's only witness item; unproven, but nobody finds another that fits.
        branch: siblings in the tree of `witness_tree_of`, lowest first.
    """
    root = root_of(wtxid if index else _COINBASE_LEAF, index, branch)
    return hashlib.sha256(hashlib.sha256(root + reserved).digest()).digest() == commitment
