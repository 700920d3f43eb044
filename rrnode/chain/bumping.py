"""Transactions that pay for others: an anchor's child, and an HTLC transaction with coins added. Pure; nothing is signed here.

Source: BIP 431 (a child of at most 1000 virtual bytes), BOLT 3 `zero_fee_commitments` (SINGLE | ANYONECANPAY: input i and
output i stay together).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from protocols.errors import MisuseError
from protocols.onchain.weights import FEE_INPUT_WEIGHT
from protocols.units import Sat, weight_to_vbytes
from rrnode.chain.fees import FeeCoin
from rrnode.chain.parse import Tx, compact_size, outpoint, parse_transaction

VERSION = 3
REPLACEABLE = 0xFFFFFFFD
MAX_CHILD_VBYTES = 1000
MAX_COINS = 12  # of 68 virtual bytes each, so that a child stays below the limit
CHANGE_DUST = Sat(294)  # of P2WPKH
_CHANGE_WEIGHT = 4 * 31
_CHILD_WEIGHT = 4 * (4 + 1 + 41 + 1 + 4) + 2 + 1 + _CHANGE_WEIGHT  # anchor with an empty witness, change


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsigned:
    """A transaction whose added coins are still to be signed.

    Attributes:
        raw: with the witnesses that were there before.
        coins: those that it spends.
        fee: what it pays.
        vbytes: what it will take, once signed.
    """

    raw: bytes
    coins: tuple[FeeCoin, ...]
    fee: Sat
    vbytes: int


def child_vbytes(coins: int) -> int:
    """Size of an anchor's child that spends so many coins."""
    return weight_to_vbytes(_CHILD_WEIGHT + coins * FEE_INPUT_WEIGHT)


def bumped_vbytes(transaction: Tx, coins: int) -> int:
    """Size of HTLC transactions joined in one, once so many coins and change are added."""
    return weight_to_vbytes(transaction.weight + coins * FEE_INPUT_WEIGHT + _CHANGE_WEIGHT)


def _serialized(
    version: int,
    inputs: Sequence[tuple[bytes, int, tuple[bytes, ...]]],
    outputs: Sequence[tuple[int, bytes]],
    lock_time: int,
) -> bytes:
    parts = [struct.pack("<I", version), b"\x00\x01", compact_size(len(inputs))]
    parts += [place + b"\x00" + struct.pack("<I", sequence) for place, sequence, _ in inputs]
    parts.append(compact_size(len(outputs)))
    parts += [struct.pack("<q", value) + compact_size(len(script)) + script for value, script in outputs]
    for _, _, witness in inputs:
        parts.append(compact_size(len(witness)))
        parts += [compact_size(len(item)) + item for item in witness]
    parts.append(struct.pack("<I", lock_time))
    return b"".join(parts)


def build_child(
    parent: Tx, anchor_index: int, coins: tuple[FeeCoin, ...], change: bytes, fee: Sat, *, least: Sat
) -> Unsigned | None:
    """A child that spends the anchor and the coins and pays `fee` for both.

    Args:
        fee: wanted for parent and child together; less when the coins do not reach.
        least: below this the pair is not relayed.

    Returns:
        None when the coins do not even pay `least`.
    """
    coins = coins[:MAX_COINS]
    anchor = parent.outputs[anchor_index]
    total = anchor.value + sum(coin.value for coin in coins)
    paid = min(fee, total - CHANGE_DUST)
    if not coins or paid < least:
        return None
    inputs = [(outpoint(parent.txid, anchor_index), REPLACEABLE, ())]
    inputs += [(outpoint(coin.txid, coin.index), REPLACEABLE, ()) for coin in coins]
    raw = _serialized(VERSION, inputs, [(total - paid, change)], 0)
    return Unsigned(raw=raw, coins=coins, fee=Sat(paid), vbytes=child_vbytes(len(coins)))


def joined(transactions: Sequence[Tx]) -> Tx:
    """One transaction with the inputs and outputs of all, in this order: for those signed SINGLE | ANYONECANPAY.

    Raises:
        MisuseError: they differ in version or nLockTime, which the signatures cover.
    """
    first = transactions[0]
    if len(transactions) == 1:
        return first
    if any((each.version, each.lock_time) != (first.version, first.lock_time) for each in transactions):
        raise MisuseError("transactions of different version or nLockTime cannot be one")
    inputs = [pair for each in transactions for pair in zip(each.prevouts, each.sequences, each.witnesses, strict=True)]
    outputs = [(output.value, output.script) for each in transactions for output in each.outputs]
    return parse_transaction(_serialized(first.version, inputs, outputs, first.lock_time))


def add_inputs(transaction: Tx, coins: tuple[FeeCoin, ...], change: bytes, fee: Sat, *, least: Sat) -> Unsigned | None:
    """The transaction with coins added behind its inputs and change behind its outputs; None when they do not pay `least`.

    What would be dust as change goes to the fee.
    """
    coins = coins[:MAX_COINS]
    total = sum(coin.value for coin in coins)
    paid = min(fee, total)
    if not coins or paid < least:
        return None
    outputs: list[tuple[int, bytes]] = [(output.value, output.script) for output in transaction.outputs]
    if total - paid >= CHANGE_DUST:
        outputs.append((total - paid, change))
    else:
        paid = total
    inputs = list(zip(transaction.prevouts, transaction.sequences, transaction.witnesses, strict=True))
    inputs += [(outpoint(coin.txid, coin.index), REPLACEABLE, ()) for coin in coins]
    raw = _serialized(transaction.version, inputs, outputs, transaction.lock_time)
    return Unsigned(raw=raw, coins=coins, fee=Sat(paid), vbytes=bumped_vbytes(transaction, len(coins)))
