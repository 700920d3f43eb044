"""Ids as text: what is read back is what was written, and everything else is a sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ids import PeerId, Txid
from rrnode.control.text import (
    parse_channel_id,
    parse_payment_hash,
    parse_peer,
    peer_of_address,
    peer_text,
    txid_text,
)
from rrnode.errors import UserError

PEERS = st.tuples(st.sampled_from([b"\x02", b"\x03"]), st.binary(min_size=32, max_size=32)).map(
    lambda parts: PeerId(b"".join(parts))
)


@given(PEERS)
def test_a_peer_id_survives_both_text_forms(peer: PeerId) -> None:
    assert parse_peer(peer_text(peer)) == peer
    assert parse_peer(peer.hex()) == peer
    assert peer_text(peer).startswith("16Uiu2")


@given(st.text(max_size=90))
def test_any_other_text_is_refused_with_a_sentence(text: str) -> None:
    for parse in (parse_peer, parse_payment_hash, parse_channel_id):
        try:
            parse(text)
        except UserError as error:
            assert error.hint  # noqa: PT017


def test_an_address_names_its_last_peer() -> None:
    peer = PeerId(b"\x02" * 33)
    assert peer_of_address(f"/ip4/127.0.0.1/tcp/1/p2p/{peer_text(peer)}") == peer
    assert peer_of_address("/ip4/127.0.0.1/tcp/1") is None
    for wrong in ("/ip4/127.0.0.1/tcp/1/p2p/", "/ip4/1.2.3.4/tcp/1/p2p/QmNot", f"/p2p/{'x' * 2000}"):
        with pytest.raises(UserError):
            peer_of_address(wrong)


def test_transaction_ids_are_shown_as_explorers_do() -> None:
    assert txid_text(Txid(bytes(range(32)))) == bytes(reversed(range(32))).hex()


@pytest.mark.parametrize("text", ["", "ab", "g" * 64, "00" * 33, " " * 64])
def test_a_hash_is_64_hex_digits(text: str) -> None:
    with pytest.raises(UserError, match="is not a payment hash"):
        parse_payment_hash(text)
