"""The subscriber over memory streams: a publisher that keeps to ZMTP 3.0, in any pieces, and ones that do not."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import DecodeError
from rrnode.chain import zmtp

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x03PUB"
READY = bytes([4, len(READY) - 2]) + READY[2:]
NEWS = b"\x01\x09hashblock" + b"\x01\x20" + b"\x07" * 32 + b"\x00\x04\x01\x00\x00\x00"


async def heard(raw, pieces=1):
    """What a subscriber makes of these bytes, and what it sent."""
    ours, theirs = trio.testing.memory_stream_pair()
    step = max(1, len(raw) // pieces)
    parts = []
    async with trio.open_nursery() as nursery:

        async def publish():
            for at in range(0, len(raw), step):
                await theirs.send_all(raw[at : at + step])
            await theirs.send_eof()

        nursery.start_soon(publish)
        try:
            async for message in zmtp.messages(ours, [b"hashblock", b"hashtx"]):
                parts.append(message)
        except EOFError:
            pass
        await ours.aclose()
    return parts, b"".join([piece async for piece in theirs])


@pytest.mark.parametrize("pieces", [1, 7, 1000])
async def test_messages_come_whole_however_they_are_cut(pieces):
    parts, sent = await heard(GREETING + READY + NEWS + NEWS, pieces)
    assert parts == [(b"hashblock", b"\x07" * 32, b"\x01\x00\x00\x00")] * 2
    assert sent[:64] == b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    assert sent[64:] == b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB\x00\x0a\x01hashblock\x00\x07\x01hashtx"


async def test_long_frames_and_commands_are_understood():
    long = b"\x02" + (300).to_bytes(8, "big") + b"x" * 300
    ping = b"\x04\x05\x04PING"
    parts, _ = await heard(GREETING + READY + ping + long)
    assert parts == [(b"x" * 300,)]


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(64),
        GREETING.replace(b"NULL", b"CURV") + READY,
        GREETING[:10] + b"\x02" + GREETING[11:] + READY,
        GREETING + b"\x04\x06\x05ERROR",
        GREETING + READY + b"\x02" + (2**40).to_bytes(8, "big"),
        GREETING + READY + b"\x80\x01x",
        GREETING + READY + b"\x01\x01x" * 9,
    ],
)
async def test_what_is_no_publisher_is_refused(raw):
    with pytest.RaisesGroup(DecodeError):
        await heard(raw)


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_ends(garbage):
    async def run():
        try:
            await heard(GREETING + READY + garbage)
        except* DecodeError:
            pass

    trio.run(run)


@pytest.mark.parametrize("address", ["", "tcp://", "tcp://host", "udp://127.0.0.1:1", "tcp://x:99999", "127.0.0.1:1"])
async def test_an_address_that_is_none_is_said_so(address):
    with pytest.raises(OSError, match="is no tcp://host:port"):
        await zmtp.connect(address)
