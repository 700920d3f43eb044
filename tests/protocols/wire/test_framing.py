"""Frames: any split of a stream gives the same frames; a bad length ends the stream with one plain sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import DecodeError, MisuseError
from protocols.wire.framing import MAX_FRAME, Deframer, encode_varint, frame

payloads = st.lists(st.binary(min_size=1, max_size=400), max_size=20)


@given(payloads, st.lists(st.integers(1, 300), min_size=1))
def test_any_split_of_a_stream_gives_the_same_frames(payloads, cuts):
    stream = b"".join(map(frame, payloads))
    deframer = Deframer()
    found = []
    start = turn = 0
    while start < len(stream):
        end = start + cuts[turn % len(cuts)]
        found += deframer.feed(stream[start:end])
        start, turn = end, turn + 1
    assert found == payloads
    assert deframer.pending == 0


@given(payloads)
def test_a_stream_fed_byte_by_byte_gives_the_same_frames_and_holds_only_what_is_not_whole(payloads):
    deframer = Deframer()
    found = []
    for byte in b"".join(map(frame, payloads)):
        found += deframer.feed(bytes([byte]))
        assert deframer.pending <= 402
    assert found == payloads


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_garbage_raises_decode_error_only(pieces):
    deframer = Deframer()
    try:
        for piece in pieces:
            deframer.feed(piece)
    except DecodeError:
        pass


@pytest.mark.parametrize("size", [1, 127, 128, 16383, 16384, MAX_FRAME])
def test_the_length_prefix_has_the_fewest_bytes_that_hold_it(size):
    prefix = frame(bytes(size))[:-size]
    assert len(prefix) == (size.bit_length() + 6) // 7
    assert Deframer().feed(prefix + bytes(size)) == [bytes(size)]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"\x00", "frame of 0 bytes, at least 1 wanted"),
        (b"\x81\x80\x04", "frame of 65537 bytes, at most 65536 allowed"),
        (b"\x81\x00", "length prefix is not in its shortest form"),
        (b"\x80\x80\x80", "length prefix of more than 3 bytes"),
    ],
)
def test_a_bad_length_is_said_plainly(data, sentence):
    with pytest.raises(DecodeError, match=sentence):
        Deframer().feed(data)


@pytest.mark.parametrize("size", [0, MAX_FRAME + 1])
def test_we_frame_nothing_that_others_would_refuse(size):
    with pytest.raises(MisuseError):
        frame(bytes(size))


def test_varints_are_those_of_multiformats():
    assert [encode_varint(number).hex() for number in (0, 1, 127, 128, 300, 65536)] == [
        "00", "01", "7f", "8001", "ac02", "808004",
    ]  # fmt: skip
