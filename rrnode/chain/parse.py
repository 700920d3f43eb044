"""Transactions and blocks from bytes, once and fast, for everything that follows the chain.

Source: Bitcoin's serialization (BIP 144 for witnesses, BIP 141 for weight). Ids are in serialization order.
"""

import hashlib
import struct
from dataclasses import dataclass

from protocols.errors import DecodeError
from protocols.ids import Txid
from protocols.units import Sat

HEADER_SIZE = 80
COINBASE_OUTPOINT = bytes(32) + b"\xff\xff\xff\xff"
_MAX_COMPACT = 0x02000000  # what Bitcoin Core takes for a length at most

_U16, _U32, _U64, _I64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<q")


def double_sha256(data: bytes) -> bytes:
    """Bitcoin's hash of blocks and transactions."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def outpoint(txid: bytes, index: int) -> bytes:
    """An outpoint as the 36 bytes that an input carries."""
    return txid + index.to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class Output:
    """A transaction's output."""

    value: Sat
    script: bytes


@dataclass(frozen=True, slots=True)
class Tx:
    """A transaction taken apart.

    Attributes:
        raw: whole serialization, with witnesses.
        prevouts: the 36-byte outpoints it spends, in order.
        sequences: nSequence of each input.
        script_sigs: of each input.
        witnesses: stack of each input, empty where there is none.
        base_size: bytes without witnesses.
    """

    raw: bytes
    txid: Txid
    version: int
    prevouts: tuple[bytes, ...]
    sequences: tuple[int, ...]
    script_sigs: tuple[bytes, ...]
    outputs: tuple[Output, ...]
    witnesses: tuple[tuple[bytes, ...], ...]
    lock_time: int
    base_size: int

    @property
    def wtxid(self) -> bytes:
        return double_sha256(self.raw)

    @property
    def weight(self) -> int:
        return self.base_size * 3 + len(self.raw)

    @property
    def vsize(self) -> int:
        return -(-self.weight // 4)

    @property
    def is_coinbase(self) -> bool:
        return self.prevouts == (COINBASE_OUTPOINT,)


@dataclass(frozen=True, slots=True)
class Header:
    """A block's header taken apart; `hash` is its own."""

    raw: bytes
    hash: bytes
    previous: bytes
    merkle_root: bytes
    time: int


@dataclass(frozen=True, slots=True)
class Block:
    """A block taken apart."""

    header: Header
    transactions: tuple[Tx, ...]


def compact_size(number: int) -> bytes:
    """Bitcoin's variable-length integer."""
    if number < 0xFD:
        return bytes((number,))
    if number <= 0xFFFF:
        return b"\xfd" + _U16.pack(number)
    return b"\xfe" + _U32.pack(number) if number <= 0xFFFFFFFF else b"\xff" + _U64.pack(number)


def _compact(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 0xFD:
        return first, at + 1
    if first == 0xFD:
        value, least, end = _U16.unpack_from(data, at + 1)[0], 0xFD, at + 3
    elif first == 0xFE:
        value, least, end = _U32.unpack_from(data, at + 1)[0], 0x10000, at + 5
    else:
        value, least, end = _U64.unpack_from(data, at + 1)[0], 0x100000000, at + 9
    if value < least or value > _MAX_COMPACT:
        raise DecodeError(f"length {value} in {end - at} bytes: not canonical or above {_MAX_COMPACT}")
    return value, end


def _piece(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _compact(data, at)
    end = at + size
    if end > len(data):
        raise DecodeError(f"{size} bytes announced, {len(data) - at} left")
    return data[at:end], end


def _transaction(data: bytes, start: int) -> tuple[Tx, int]:
    at = start + 4
    segwit = data[at] == 0
    if segwit:
        if data[at + 1] != 1:
            raise DecodeError(f"transaction flag {data[at + 1]}, 1 wanted")
        at += 2
    body = at
    count, at = _compact(data, at)
    if count == 0:
        raise DecodeError("a transaction without inputs")
    prevouts, script_sigs, sequences = [], [], []
    for _ in range(count):
        prevouts.append(data[at : at + 36])
        script_sig, at = _piece(data, at + 36)
        script_sigs.append(script_sig)
        sequences.append(_U32.unpack_from(data, at)[0])
        at += 4
    count, at = _compact(data, at)
    outputs = []
    for _ in range(count):
        value = _I64.unpack_from(data, at)[0]
        script, at = _piece(data, at + 8)
        outputs.append(Output(value, script))
    body_end = at
    witnesses: list[tuple[bytes, ...]] = []
    if segwit:
        for _ in prevouts:
            items, at = _compact(data, at)
            if items > len(data) - at:
                raise DecodeError(f"{items} witness items announced, {len(data) - at} bytes left")
            stack = []
            for _ in range(items):
                item, at = _piece(data, at)
                stack.append(item)
            witnesses.append(tuple(stack))
        if not any(witnesses):
            raise DecodeError("a witness section without any witness")
    else:
        witnesses = [()] * len(prevouts)
    end = at + 4
    lock_time = _U32.unpack_from(data, at)[0]
    raw = data[start:end]
    stripped = data[start : start + 4] + data[body:body_end] + data[at:end] if segwit else raw
    return (
        Tx(
            raw,
            Txid(double_sha256(stripped)),
            _U32.unpack_from(data, start)[0],
            tuple(prevouts),
            tuple(sequences),
            tuple(script_sigs),
            tuple(outputs),
            tuple(witnesses),
            lock_time,
            len(stripped),
        ),
        end,
    )


def parse_transaction(raw: bytes) -> Tx:
    """Take one transaction apart.

    Raises:
        DecodeError: the bytes are not exactly one transaction.
    """
    try:
        transaction, end = _transaction(raw, 0)
    except (IndexError, struct.error) as error:
        raise DecodeError(f"transaction of {len(raw)} bytes ends early") from error
    if end != len(raw):
        raise DecodeError(f"{len(raw) - end} bytes after the transaction")
    return transaction


def parse_header(raw: bytes) -> Header:
    """Take a header (80 bytes, or the beginning of a block) apart. Raises DecodeError."""
    if len(raw) < HEADER_SIZE:
        raise DecodeError(f"block header of {len(raw)} bytes, {HEADER_SIZE} wanted")
    raw = raw[:HEADER_SIZE]
    return Header(raw, double_sha256(raw), raw[4:36], raw[36:68], _U32.unpack_from(raw, 68)[0])


def parse_block(raw: bytes) -> Block:
    """Take a whole block apart.

    Raises:
        DecodeError: the bytes are not exactly one block.
    """
    header = parse_header(raw)
    transactions = []
    try:
        count, at = _compact(raw, HEADER_SIZE)
        for _ in range(count):
            transaction, at = _transaction(raw, at)
            transactions.append(transaction)
    except (IndexError, struct.error) as error:
        raise DecodeError(f"block of {len(raw)} bytes ends early") from error
    if at != len(raw):
        raise DecodeError(f"{len(raw) - at} bytes after the block")
    return Block(header, tuple(transactions))


def merkle_root(leaves: list[bytes]) -> bytes:
    """Root of Bitcoin's Merkle tree over transaction ids (an odd level repeats its last)."""
    level = list(leaves)
    while len(level) > 1:
        if len(level) % 2:
            level.append(level[-1])
        level = [double_sha256(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]
