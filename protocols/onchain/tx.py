"""Transactions as bytes: serialization, ids, witness signature hashes; reading those of others.

Source: BIP 141 (serialization, weight), BIP 143 (signature hash). What is signed here for every payment is packed directly:
building the same through python-bitcoinlib's objects costs ten times as much. Reading goes through python-bitcoinlib.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from bitcoin.core import CTransaction
from bitcoin.core.serialize import SerializationError

from protocols.errors import DecodeError
from protocols.ids import Txid
from protocols.onchain.scripts import sha256d
from protocols.units import Sat

SIGHASH_ALL = 0x01
SIGHASH_SINGLE_ANYONECANPAY = 0x83
_ZERO32 = bytes(32)
_WITNESS_MARKER = b"\x00\x01"


@dataclass(frozen=True, slots=True)
class TxInput:
    """An input: the output it spends, its sequence and witness stack. No transaction here has a scriptSig."""

    txid: Txid
    index: int
    sequence: int
    witness: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class TxOutput:
    value: Sat
    script: bytes


@dataclass(frozen=True, slots=True)
class Tx:
    """A transaction whose inputs are all segwit. `serialize` gives its bytes."""

    version: int
    inputs: tuple[TxInput, ...]
    outputs: tuple[TxOutput, ...]
    locktime: int

    def base(self) -> bytes:
        """Serialized without witnesses: what the id is the hash of."""
        parts = [struct.pack("<i", self.version), varint(len(self.inputs))]
        parts += [outpoint(each.txid, each.index) + b"\x00" + struct.pack("<I", each.sequence) for each in self.inputs]
        parts.append(varint(len(self.outputs)))
        parts += [output(each.value, each.script) for each in self.outputs]
        parts.append(struct.pack("<I", self.locktime))
        return b"".join(parts)

    def serialize(self) -> bytes:
        """Serialized with witnesses."""
        return with_witnesses(self.base(), [each.witness for each in self.inputs])

    def txid(self) -> Txid:
        return Txid(sha256d(self.base()))


def varint(value: int) -> bytes:
    """Bitcoin's length prefix."""
    if value < 0xFD:
        return bytes([value])
    if value <= 0xFFFF:
        return b"\xfd" + struct.pack("<H", value)
    return b"\xfe" + struct.pack("<I", value)


def outpoint(txid: bytes, index: int) -> bytes:
    """36 bytes."""
    return txid + struct.pack("<I", index)


def output(value: int, script: bytes) -> bytes:
    """A serialized output."""
    return struct.pack("<Q", value) + varint(len(script)) + script


def with_witnesses(base: bytes, witnesses: Sequence[Sequence[bytes]]) -> bytes:
    """A whole transaction, of its serialization without witnesses and one witness stack per input."""
    if not any(witnesses):
        return base
    stacks = [varint(len(stack)) + b"".join(varint(len(item)) + item for item in stack) for stack in witnesses]
    return base[:4] + _WITNESS_MARKER + base[4:-4] + b"".join(stacks) + base[-4:]


def single_input_base(version: int, spent: bytes, sequence: int, outputs: Sequence[bytes], locktime: int) -> bytes:
    """Serialization without witness of a transaction with one input; `spent` and `outputs` are serialized."""
    return b"".join(
        (
            struct.pack("<i", version),
            b"\x01",
            spent,
            b"\x00",
            struct.pack("<I", sequence),
            varint(len(outputs)),
            *outputs,
            struct.pack("<I", locktime),
        )
    )


def single_input_digest(
    version: int, spent: bytes, sequence: int, outputs: bytes, locktime: int, script_code: bytes, value: int
) -> bytes:
    """What SIGHASH_ALL signs in a transaction with one input (BIP 143); `outputs` are all serialized outputs."""
    packed_sequence = struct.pack("<I", sequence)
    return sha256d(
        b"".join(
            (
                struct.pack("<i", version),
                sha256d(spent),
                sha256d(packed_sequence),
                spent,
                varint(len(script_code)),
                script_code,
                struct.pack("<Q", value),
                packed_sequence,
                sha256d(outputs),
                struct.pack("<II", locktime, SIGHASH_ALL),
            )
        )
    )


def single_pair_digest(
    version: int, spent: bytes, sequence: int, paid: bytes, locktime: int, script_code: bytes, value: int
) -> bytes:
    """What SIGHASH_SINGLE | ANYONECANPAY signs (BIP 143): this input, and the output of the same number, serialized."""
    return sha256d(
        b"".join(
            (
                struct.pack("<i", version),
                _ZERO32,
                _ZERO32,
                spent,
                varint(len(script_code)),
                script_code,
                struct.pack("<QI", value, sequence),
                sha256d(paid),
                struct.pack("<II", locktime, SIGHASH_SINGLE_ANYONECANPAY),
            )
        )
    )


def input_digest(tx: Tx, number: int, script_code: bytes, value: Sat) -> bytes:
    """What SIGHASH_ALL signs for one input of any transaction (BIP 143)."""
    one = tx.inputs[number]
    return sha256d(
        b"".join(
            (
                struct.pack("<i", tx.version),
                sha256d(b"".join(outpoint(each.txid, each.index) for each in tx.inputs)),
                sha256d(b"".join(struct.pack("<I", each.sequence) for each in tx.inputs)),
                outpoint(one.txid, one.index),
                varint(len(script_code)),
                script_code,
                struct.pack("<QI", value, one.sequence),
                sha256d(b"".join(output(each.value, each.script) for each in tx.outputs)),
                struct.pack("<II", tx.locktime, SIGHASH_ALL),
            )
        )
    )


def weight(serialized: bytes) -> int:
    """Weight of a serialized transaction, four to the virtual byte.

    Raises:
        DecodeError: these bytes are no transaction.
    """
    base = len(parse(serialized).base()) if serialized[4:6] == _WITNESS_MARKER else len(serialized)
    return 3 * base + len(serialized)


def parse(serialized: bytes) -> Tx:
    """Read anybody's transaction; the scriptSigs of non-segwit inputs are dropped, so the id is right for segwit ones only.

    Raises:
        DecodeError: these bytes are no transaction.
    """
    raw = _deserialized(serialized)
    stacks = [tuple(bytes(item) for item in each.scriptWitness.stack) for each in raw.wit.vtxinwit]
    return Tx(
        raw.nVersion,
        tuple(
            TxInput(
                Txid(each.prevout.hash), each.prevout.n, each.nSequence, stacks[place] if place < len(stacks) else ()
            )
            for place, each in enumerate(raw.vin)
        ),
        tuple(TxOutput(Sat(each.nValue), bytes(each.scriptPubKey)) for each in raw.vout),
        raw.nLockTime,
    )


def txid_of(serialized: bytes) -> Txid:
    """The id of anybody's transaction, serialization order.

    Raises:
        DecodeError: these bytes are no transaction.
    """
    return Txid(_deserialized(serialized).GetTxid())


def _deserialized(serialized: bytes) -> CTransaction:
    try:
        return CTransaction.deserialize(serialized)
    except (SerializationError, ValueError, struct.error, IndexError, MemoryError) as error:
        raise DecodeError(f"{len(serialized)} bytes that are no transaction: {error}") from error
