"""Blocks for a regtest: coinbase, witness commitment and the little work that regtest asks for.

Source: BIP 34 (height in the coinbase), BIP 141 (witness commitment), regtest's difficulty and halving.
"""

import struct
from collections.abc import Sequence

from rrnode.chain.base import BlockRef
from rrnode.chain.parse import COINBASE_OUTPOINT, Tx, compact_size, double_sha256, merkle_root

HALVING = 150
_BITS = 0x207FFFFF
_TARGET = 0x7FFFFF << (8 * (0x20 - 3))
_VERSION = 0x20000000
_COMMITMENT = b"\x6a\x24\xaa\x21\xa9\xed"


def subsidy(height: int) -> int:
    """What a block of regtest may pay its miner beside fees, satoshi."""
    halvings = height // HALVING
    return 0 if halvings >= 64 else 50 * 100_000_000 >> halvings


def script_number(number: int) -> bytes:
    """A push of a number as scripts write them (minimal, little-endian, sign bit)."""
    if number == 0:
        return b"\x00"
    if number <= 16:
        return bytes((0x50 + number,))
    raw = number.to_bytes((number.bit_length() + 8) // 8, "little")
    return bytes((len(raw),)) + raw


def _output(value: int, script: bytes) -> bytes:
    return struct.pack("<q", value) + compact_size(len(script)) + script


def build_block(
    parent: BlockRef, transactions: Sequence[Tx], fees: int, script: bytes, when: int, *, number: int
) -> bytes:
    """A block on top of `parent`, with the work done.

    Args:
        fees: of the transactions, satoshi.
        script: where coinbase goes.
        when: header time, unix seconds, above the median of the last eleven.
        number: goes into the coinbase, so that two branches never make the same block.
    """
    height = parent.height + 1
    tag = number.to_bytes(8, "little")
    script_sig = script_number(height) + bytes((len(tag),)) + tag
    outputs = [_output(subsidy(height) + fees, script)]
    if transactions:
        root = merkle_root([bytes(32), *(tx.wtxid for tx in transactions)])
        outputs.append(_output(0, _COMMITMENT + double_sha256(root + bytes(32))))
    body = (
        b"\x01" + COINBASE_OUTPOINT + compact_size(len(script_sig)) + script_sig + b"\xff\xff\xff\xff"
        + compact_size(len(outputs)) + b"".join(outputs)
    )  # fmt: skip
    version, lock_time = struct.pack("<I", 2), bytes(4)
    txid = double_sha256(version + body + lock_time)
    witness = b"\x01\x20" + bytes(32)
    coinbase = version + b"\x00\x01" + body + witness + lock_time if transactions else version + body + lock_time
    root = merkle_root([txid, *(tx.txid for tx in transactions)])
    start = struct.pack("<I", _VERSION) + parent.hash + root + struct.pack("<II", when, _BITS)
    nonce = 0
    while True:
        header = start + struct.pack("<I", nonce)
        if int.from_bytes(double_sha256(header), "little") <= _TARGET:
            break
        nonce += 1
    raws = [coinbase, *(tx.raw for tx in transactions)]
    return header + compact_size(len(raws)) + b"".join(raws)
