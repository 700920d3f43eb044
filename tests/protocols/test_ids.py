"""Identifiers are checked where they enter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import DecodeError
from protocols.ids import Txid, channel_id, channel_id_of, payment_hash, peer_id, preimage


@pytest.mark.parametrize("check", [payment_hash, preimage, channel_id])
@given(st.binary(max_size=40))
def test_thirty_two_bytes_and_nothing_else(check, raw):
    if len(raw) == 32:
        assert check(raw) == raw
    else:
        with pytest.raises(DecodeError, match=f"of {len(raw)} bytes, 32 wanted"):
            check(raw)


@given(st.binary(max_size=40) | st.binary(min_size=33, max_size=33))
def test_a_peer_id_is_a_compressed_key(raw):
    if len(raw) == 33 and raw[0] in (2, 3):
        assert peer_id(raw) == raw
    else:
        with pytest.raises(DecodeError):
            peer_id(raw)


def test_something_that_is_not_bytes_is_refused():
    with pytest.raises(DecodeError):
        payment_hash("x" * 32)


def test_a_channel_id_is_the_funding_txid_with_the_index_xored_into_its_end():
    txid = Txid(bytes(30) + b"\xff\x01")
    assert channel_id_of(txid, 0) == txid
    assert channel_id_of(txid, 0x0103) == bytes(30) + b"\xfe\x02"
