"""Transactions and blocks from bytes: against python-bitcoinlib, and against whatever else may come."""

import bitcoin.core
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import DecodeError
from rrnode.chain.parse import compact_size, parse_block, parse_header, parse_transaction

GENESIS = bitcoin.core.CoreRegTestParams.GENESIS_BLOCK.serialize()

hashes = st.binary(min_size=32, max_size=32)
numbers = st.integers(0, 2**32 - 1)
items = st.binary(max_size=300)


@st.composite
def transactions(draw):
    count = draw(st.integers(1, 4))
    inputs = [
        bitcoin.core.CTxIn(bitcoin.core.COutPoint(draw(hashes), draw(numbers)), draw(items), draw(numbers))
        for _ in range(count)
    ]
    outputs = [
        bitcoin.core.CTxOut(draw(st.integers(0, 21 * 10**14)), draw(items)) for _ in range(draw(st.integers(1, 3)))
    ]
    stacks = [
        bitcoin.core.CTxInWitness(bitcoin.core.script.CScriptWitness(draw(st.lists(items, max_size=3))))
        for _ in range(count)
    ]
    return bitcoin.core.CTransaction(
        inputs, outputs, draw(numbers), draw(st.integers(0, 2**31 - 1)), bitcoin.core.CTxWitness(stacks)
    )


@given(transactions())
def test_a_transaction_is_taken_apart_as_python_bitcoinlib_does(other):
    raw = other.serialize()
    tx = parse_transaction(raw)
    assert (tx.txid, tx.wtxid, tx.raw) == (other.GetTxid(), other.GetHash(), raw)
    assert (tx.version, tx.lock_time) == (other.nVersion, other.nLockTime)
    assert tx.prevouts == tuple(each.prevout.serialize() for each in other.vin)
    assert tx.sequences == tuple(each.nSequence for each in other.vin)
    assert tx.script_sigs == tuple(bytes(each.scriptSig) for each in other.vin)
    assert [(o.value, o.script) for o in tx.outputs] == [(o.nValue, bytes(o.scriptPubKey)) for o in other.vout]
    if not other.wit.is_null():
        assert tx.witnesses == tuple(tuple(each.scriptWitness.stack) for each in other.wit.vtxinwit)
    assert tx.weight == other.calc_weight()
    assert tx.vsize == -(-tx.weight // 4)


@given(transactions(), st.data())
def test_part_of_a_transaction_is_none(other, data):
    raw = other.serialize()
    with pytest.raises(DecodeError):
        parse_transaction(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(DecodeError):
        parse_transaction(raw + b"\0")


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_garbage_raises_decode_error_only(raw):
    for parse in (parse_transaction, parse_block, parse_header):
        try:
            parse(raw)
        except DecodeError:
            continue


@given(transactions(), st.data())
def test_a_changed_byte_raises_decode_error_only(other, data):
    raw = bytearray(other.serialize())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_transaction(bytes(raw))
    except DecodeError:
        return


def test_the_first_block_of_regtest_is_what_it_is():
    block = parse_block(GENESIS)
    assert block.header.hash[::-1].hex() == "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
    assert (block.header.previous, block.header.time, len(block.transactions)) == (bytes(32), 1296688602, 1)
    assert block.transactions[0].is_coinbase
    assert block.transactions[0].txid == block.header.merkle_root
    with pytest.raises(DecodeError):
        parse_block(GENESIS + b"\0")


@pytest.mark.parametrize("announced", [0xFFFFFFFF, 0x7FFFFFFF, 2**63])
def test_a_huge_announced_length_costs_nothing(announced):
    with pytest.raises(DecodeError):
        parse_transaction(bytes(4) + compact_size(announced) + bytes(100))
    with pytest.raises(DecodeError):
        parse_block(GENESIS[:80] + compact_size(announced))


@pytest.mark.parametrize("length", ["fd0100", "fe01000000", "ff0100000000000000"])
def test_a_length_written_longer_than_needed_is_refused(length):
    with pytest.raises(DecodeError, match="canonical"):
        parse_transaction(bytes(4) + bytes.fromhex(length) + bytes(100))
