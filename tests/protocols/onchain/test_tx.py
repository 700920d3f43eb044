"""Packed transactions and signature hashes, held to python-bitcoinlib's objects."""

import pytest
from bitcoin.core import COutPoint, CTransaction, CTxIn, CTxInWitness, CTxOut, CTxWitness
from bitcoin.core.script import (
    SIGVERSION_WITNESS_V0,
    CScript,
    CScriptWitness,
    SignatureHash,
)
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import DecodeError
from protocols.ids import Txid
from protocols.onchain import tx
from protocols.onchain.tx import Tx, TxInput, TxOutput
from protocols.units import Sat

txids = st.binary(min_size=32, max_size=32).map(Txid)
u32 = st.integers(0, 0xFFFFFFFF)
values = st.integers(0, 21_000_000 * 10**8).map(Sat)
inputs = st.builds(TxInput, txids, u32, u32, st.lists(st.binary(max_size=300), max_size=4).map(tuple))
outputs = st.builds(TxOutput, values, st.binary(max_size=300))
transactions = st.builds(
    Tx,
    st.integers(1, 3),
    st.lists(inputs, min_size=1, max_size=4).map(tuple),
    st.lists(outputs, min_size=1, max_size=4).map(tuple),
    st.integers(0, 0x7FFFFFFF),  # python-bitcoinlib hashes the locktime as a signed number
)


def as_bitcoinlib(made: Tx) -> CTransaction:
    return CTransaction(
        [CTxIn(COutPoint(each.txid, each.index), nSequence=each.sequence) for each in made.inputs],
        [CTxOut(each.value, CScript(each.script)) for each in made.outputs],
        made.locktime,
        made.version,
        CTxWitness([CTxInWitness(CScriptWitness(each.witness)) for each in made.inputs]),
    )


@given(made=transactions)
def test_serialization_and_id_are_those_of_bitcoinlib_and_reading_gives_it_back(made: Tx) -> None:
    other = as_bitcoinlib(made)
    assert made.serialize() == other.serialize()
    assert made.txid() == other.GetTxid() == tx.txid_of(made.serialize())
    assert tx.parse(made.serialize()) == made
    assert tx.weight(made.serialize()) == 3 * len(made.base()) + len(made.serialize())


@given(made=transactions, code=st.binary(min_size=1, max_size=600), value=values)
def test_signature_hashes_are_those_of_bitcoinlib(made: Tx, code: bytes, value: Sat) -> None:
    other, script = as_bitcoinlib(made), CScript(code)
    for place in range(len(made.inputs)):
        expected = SignatureHash(script, other, place, tx.SIGHASH_ALL, value, SIGVERSION_WITNESS_V0)
        assert tx.input_digest(made, place, code, value) == expected
    one = Tx(made.version, made.inputs[:1], made.outputs, made.locktime)
    other = as_bitcoinlib(one)
    spent, sequence = tx.outpoint(one.inputs[0].txid, one.inputs[0].index), one.inputs[0].sequence
    packed = [tx.output(each.value, each.script) for each in one.outputs]
    assert tx.single_input_digest(
        one.version, spent, sequence, b"".join(packed), one.locktime, code, value
    ) == SignatureHash(script, other, 0, tx.SIGHASH_ALL, value, SIGVERSION_WITNESS_V0)
    assert tx.single_pair_digest(one.version, spent, sequence, packed[0], one.locktime, code, value) == SignatureHash(
        script, other, 0, tx.SIGHASH_SINGLE_ANYONECANPAY, value, SIGVERSION_WITNESS_V0
    )
    assert tx.single_input_base(one.version, spent, sequence, packed, one.locktime) == one.base()


@given(raw=st.binary(max_size=200))
def test_garbage_raises_decode_error_only(raw: bytes) -> None:
    for read in (tx.parse, tx.txid_of, tx.weight):
        try:
            read(raw)
        except DecodeError:
            continue


@given(made=transactions, cut=st.integers(1, 40))
def test_cut_transaction_is_refused(made: Tx, cut: int) -> None:
    with pytest.raises(DecodeError, match="no transaction"):
        tx.parse(made.serialize()[:-cut])


@pytest.mark.parametrize(
    ("value", "packed"),
    [(0, "00"), (252, "fc"), (253, "fdfd00"), (65535, "fdffff"), (65536, "fe00000100")],
)
def test_length_prefix_at_its_borders(value: int, packed: str) -> None:
    assert tx.varint(value).hex() == packed
