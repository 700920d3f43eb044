"""Just enough ZeroMQ to hear that Bitcoin Core has news: a subscriber over TCP, on Trio.

Source: ZMTP 3.0 (greeting, NULL mechanism, frames). Bitcoin Core publishes with `-zmqpubhashblock`, `-zmqpubhashtx`,
`-zmqpubsequence`; only the fact that something came is used, what it is gets asked by RPC.
"""

from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

import trio

from protocols.errors import DecodeError

MAX_FRAME = 64 * 1024  # a hash and its topic are some fifty bytes
_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
_MORE, _LONG, _COMMAND = 1, 2, 4


class _Reader:
    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream, self._buffer = stream, bytearray()

    async def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            piece = await self._stream.receive_some(4096)
            if not piece:
                raise EOFError("the publisher closed the connection")
            self._buffer += piece
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def frame(self) -> tuple[int, bytes]:
        flags = (await self.exactly(1))[0]
        size = int.from_bytes(await self.exactly(8 if flags & _LONG else 1), "big")
        if flags & ~(_MORE | _LONG | _COMMAND) or size > MAX_FRAME:
            raise DecodeError(f"ZMTP frame with flags {flags:02x} and {size} bytes, at most {MAX_FRAME} allowed")
        return flags, await self.exactly(size)


def _short(flags: int, body: bytes) -> bytes:
    return bytes((flags, len(body))) + body


def _ready() -> bytes:
    name, value = b"Socket-Type", b"SUB"
    return _short(_COMMAND, b"\x05READY" + bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value)


async def messages(stream: trio.abc.Stream, topics: Sequence[bytes]) -> AsyncIterator[tuple[bytes, ...]]:
    """Subscribe on a connected stream and give each message's parts, the topic first.

    Raises:
        DecodeError: the other side does not speak ZMTP 3, or sends frames larger than any hash.
        EOFError: it closed the connection.
    """
    reader = _Reader(stream)
    await stream.send_all(_GREETING)
    greeting = await reader.exactly(64)
    if greeting[0] != 0xFF or greeting[9] & 1 == 0 or greeting[10] < 3 or greeting[12:16] != b"NULL":
        raise DecodeError("no ZMTP 3 publisher with the NULL mechanism")
    await stream.send_all(_ready())
    flags, body = await reader.frame()
    if not flags & _COMMAND or not body.startswith(b"\x05READY"):
        raise DecodeError(f"ZMTP handshake answered by {body[:20]!r}, READY wanted")
    await stream.send_all(b"".join(_short(0, b"\x01" + topic) for topic in topics))
    parts: list[bytes] = []
    while True:
        flags, body = await reader.frame()
        if flags & _COMMAND:
            continue
        if len(parts) >= 8:
            raise DecodeError("a ZMTP message of more than 8 parts")
        parts.append(body)
        if not flags & _MORE:
            yield tuple(parts)
            parts = []


async def connect(address: str) -> trio.SocketStream:
    """Open `tcp://host:port` as Bitcoin Core's options write it.

    Raises:
        OSError: nobody listens there, or it is no such address.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None or parts.scheme != "tcp":
        raise OSError(f"{address!r} is no tcp://host:port")
    with trio.fail_after(5):
        return await trio.open_tcp_stream("127.0.0.1" if host in ("0.0.0.0", "*") else host, port)
