"""Initializations as texts: round trip, and a sentence for whatever is not one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import DecodeError
from protocols.payment import by_hand, text

PREFIXES = {"regtest": "rrr", "signet": "rrs"}
PAYEE = b"\x02" + b"e" * 32
SEALED = b"\x03" + bytes(range(256)) + bytes(255)


def problem(string: str) -> str:
    with pytest.raises(DecodeError) as caught:
        by_hand.decode(string, network="regtest", prefixes=PREFIXES)
    return str(caught.value)


def test_it_is_read_as_it_was_written_in_either_case():
    string = by_hand.encode(PAYEE, SEALED, prefix="rrr")
    assert string.startswith("rrri1")
    assert len(string) < 900  # a QR code that a terminal can show
    for each in (string, string.upper(), f" {string}\n"):
        assert by_hand.decode(each, network="regtest", prefixes=PREFIXES) == (PAYEE, SEALED)


def test_what_is_none_gets_a_sentence():
    assert (
        problem(by_hand.encode(PAYEE, SEALED, prefix="rrs")) == "this payment is on signet, this node works on regtest"
    )
    assert "rrnode pay --out-of-band" in problem(text.encode("rrrc", b"\0" + PAYEE + SEALED))
    assert problem(text.encode("rrri", b"\1" + PAYEE + SEALED)).endswith("this program knows 0: update it")
    assert problem(text.encode("rrri", b"\0" + PAYEE + SEALED + b"\0")) == "this text holds 547 bytes, 546 are wanted"
    string = by_hand.encode(PAYEE, SEALED, prefix="rrr")
    assert "checksum" in problem(string[:-1] + ("q" if string[-1] != "q" else "p"))


@given(st.text(max_size=300) | st.binary(max_size=600).map(lambda raw: text.encode("rrri", raw)))
def test_garbage_raises_decode_errors_only(string):
    problem(string)
