"""Messages of `/rr/chain/1` that are larger than a frame: cut, joined, and cut by somebody who means ill."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import DecodeError, PeerProtocolError
from protocols.wire.chain import (
    ANSWER_PIECES,
    CODEC,
    MAX_HEADERS,
    MAX_ITEMS,
    MAX_TRANSACTION,
    PIECE,
    REQUEST_PIECES,
    GetMempool,
    Headers,
    Joiner,
    Matches,
    News,
    Piece,
    Proven,
    ProvenWhole,
    Publish,
    Watch,
    payloads,
)
from protocols.wire.framing import MAX_FRAME

LARGE = Headers(1, 2000, bytes(MAX_HEADERS * 80))


def joined(frames, most=ANSWER_PIECES):
    joiner = Joiner(most)
    return [joiner.take(each) for each in frames]


def test_a_large_message_comes_back_after_its_last_piece():
    frames = payloads(LARGE, ANSWER_PIECES)
    assert [len(CODEC.decode(each).data) for each in frames] == [PIECE, PIECE, len(CODEC.encode(LARGE)) - 2 * PIECE]
    assert all(len(each) <= MAX_FRAME for each in frames)
    assert joined([*frames, *frames]) == [None, None, LARGE, None, None, LARGE]


@given(st.integers(0, 5000))
def test_a_message_of_any_size_around_a_frame_comes_back(more):
    message = Publish(7, (bytes(62_500 + more),))
    frames = payloads(message, REQUEST_PIECES)
    assert all(len(each) <= MAX_FRAME for each in frames)
    assert (len(frames) == 1) == (len(CODEC.encode(message)) <= MAX_FRAME)
    assert joined(frames)[-1] == message


def test_the_largest_messages_fit_their_pieces():
    ids, places, scripts = (bytes(32),) * MAX_ITEMS, (bytes(36),) * MAX_ITEMS, (bytes(42),) * MAX_ITEMS
    assert len(payloads(Watch(2**32 - 1, places, ids, scripts), 1)) == 1
    assert payloads(Publish(1, (bytes(400_000),) * 2), REQUEST_PIECES) is not None
    branch = (bytes(32),) * 15
    many = (ProvenWhole(20_000, branch, bytes(240), branch),) * 16_666
    assert payloads(Matches(1, bytes(32), (Proven(0, branch, bytes(1000)),), many), ANSWER_PIECES) is not None
    coinbase = Proven(0, branch, bytes(MAX_TRANSACTION)), ProvenWhole(0, branch, bytes(MAX_TRANSACTION), branch)
    assert payloads(Matches(1, bytes(32), coinbase[:1], coinbase[1:]), ANSWER_PIECES) is not None


def test_a_message_of_too_many_pieces_is_not_sent():
    assert payloads(LARGE, 2) is None
    assert len(payloads(LARGE, 3)) == 3


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([Piece(2, 2, b"x")], "piece 2 of 2, 1 of 2 wanted"),
        ([Piece(1, 3, b"x"), Piece(3, 3, b"x")], "piece 3 of 3, 2 of 3 wanted"),
        ([Piece(1, 3, b"x"), Piece(2, 2, b"x")], "piece 2 of 2, 2 of 3 wanted"),
        ([Piece(1, 3, b"x"), Piece(1, 3, b"x")], "piece 1 of 3, 2 of 3 wanted"),
        ([Piece(1, 1, b"x")], "a message in 1 pieces, 2 to 330 allowed"),
        ([Piece(1, 331, b"x")], "a message in 331 pieces, 2 to 330 allowed"),
        ([Piece(1, 0, b"x")], "a message in 0 pieces"),
        ([Piece(1, 2, b"x"), GetMempool(1)], "GetMempool between pieces 1 and 2"),
        ([Piece(1, 2, b"\xc1"), Piece(2, 2, b"x")], "/rr/chain/1"),
    ],
)
def test_pieces_that_break_a_rule_end_the_stream(pieces, words):
    with pytest.raises(PeerProtocolError, match=words):
        joined([CODEC.encode(each) for each in pieces])


def test_pieces_of_pieces_are_refused():
    whole = CODEC.encode(Piece(1, 2, b"xyz"))
    with pytest.raises(PeerProtocolError, match="a piece made of pieces"):
        joined([CODEC.encode(Piece(1, 2, whole[:3])), CODEC.encode(Piece(2, 2, whole[3:]))])


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(Piece, st.integers(0, 4), st.integers(0, 4), st.binary(min_size=1, max_size=9)).map(CODEC.encode),
        ),
        max_size=6,
    )
)
def test_garbage_and_stray_pieces_raise_protocol_errors_only(frames):
    with contextlib.suppress(PeerProtocolError):
        joined(frames)


def test_a_header_of_another_size_is_no_news():
    with pytest.raises(DecodeError):
        CODEC.decode(CODEC.encode(News(1, bytes(79))))
