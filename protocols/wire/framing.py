"""Frames on a byte stream: an unsigned-varint length, then that many bytes, as libp2p itself frames (DESIGN 4)."""

from protocols.errors import DecodeError, MisuseError

MAX_FRAME = 65536  # what one neighbour may make us hold before anything is decoded
_MAX_PREFIX = 3  # bytes of a varint up to MAX_FRAME


def encode_varint(number: int) -> bytes:
    """Unsigned LEB128, least significant group first (multiformats unsigned-varint)."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def frame(payload: bytes) -> bytes:
    """One frame, ready for the stream.

    Raises:
        MisuseError: the payload is empty or above `MAX_FRAME` bytes.
    """
    if not 0 < len(payload) <= MAX_FRAME:
        raise MisuseError(f"frame of {len(payload)} bytes, 1 to {MAX_FRAME} allowed")
    return encode_varint(len(payload)) + payload


class Deframer:
    """Bytes in, frames out, however the bytes were split. Holds at most one frame and what came after it."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they came and return the frames that are whole now.

        Raises:
            DecodeError: a length of 0, above `MAX_FRAME`, or not in its shortest form. The stream is then useless.
        """
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        start = 0
        while True:
            length = shift = 0
            position = start
            while True:
                if position == len(buffer):
                    del buffer[:start]
                    return frames
                byte = buffer[position]
                position += 1
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
                if position - start == _MAX_PREFIX:
                    raise DecodeError(f"length prefix of more than {_MAX_PREFIX} bytes")
            if length == 0:
                raise DecodeError("frame of 0 bytes, at least 1 wanted")
            if byte == 0:
                raise DecodeError("length prefix is not in its shortest form")
            if length > MAX_FRAME:
                raise DecodeError(f"frame of {length} bytes, at most {MAX_FRAME} allowed")
            if len(buffer) - position < length:
                del buffer[:start]
                return frames
            frames.append(bytes(buffer[position : position + length]))
            start = position + length

    @property
    def pending(self) -> int:
        """Bytes held of a frame that is not whole yet."""
        return len(self._buffer)
