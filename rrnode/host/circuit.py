"""Circuits, a peer's side: hold a reservation at a relay, be reached and reach others through one (libp2p specification,
relay/circuit-v2.md). A relay is believed nothing: who is at the other end, Noise proves over the circuit as over TCP.
"""

from contextlib import suppress
from typing import TypeVar

import trio
from google.protobuf.message import DecodeError as ProtobufError
from google.protobuf.message import Message
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from libp2p.utils.varint import encode_uvarint

from protocols.errors import DecodeError
from protocols.ids import PeerId
from rrnode.errors import LinkClosed
from rrnode.host import peer_text
from rrnode.host.transport import ByteStream, Connection

HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"
MAX_MESSAGE = 4096  # bytes; the largest honest one is a reservation with a voucher and some addresses
ANSWER_WITHIN = 5.0  # seconds for each message that is waited for
MAX_TTL = 86_400.0  # seconds that a reservation is taken to hold, whatever a relay says
_HANG_UP = 1.0  # seconds that the other has to read our last word

M = TypeVar("M", bound=Message)


class Talk(ByteStream):
    """A stream that begins with messages and goes on as the circuit; bytes read ahead of their turn are kept. Deadlines stand
    on its reads only where the stream ends with them.

    Args:
        raw: the stream of the hop or stop protocol.
    """

    def __init__(self, raw: ByteStream) -> None:
        self._raw = raw
        self._ahead = bytearray()

    async def receive(self, kind: type[M]) -> M:
        """The next message.

        Raises:
            DecodeError: too long, or none.
            LinkClosed: the stream ended, or nothing came in time.
        """
        with trio.move_on_after(ANSWER_WITHIN):
            size, start = await self._length()
            while len(self._ahead) < start + size:
                await self._more()
            body = bytes(self._ahead[start : start + size])
            del self._ahead[: start + size]
            try:
                message = kind.FromString(body)
            except ProtobufError as error:
                raise DecodeError(f"no {kind.__name__} ({error})") from None
            if not message.HasField("type"):
                raise DecodeError(f"{kind.__name__} without a type")
            return message
        raise LinkClosed(f"no {kind.__name__} within {ANSWER_WITHIN:g} s")

    async def _length(self) -> tuple[int, int]:
        """The length of the message that begins, at most `MAX_MESSAGE`, and how many bytes say so."""
        size, read = 0, 0
        while True:
            while len(self._ahead) <= read:
                await self._more()
            byte = self._ahead[read]
            size |= (byte & 0x7F) << 7 * read
            read += 1
            if size > MAX_MESSAGE or (read == 2 and byte & 0x80):
                raise DecodeError(f"message of more than {MAX_MESSAGE} bytes")
            if not byte & 0x80:
                return size, read

    async def _more(self) -> None:
        data = await self._raw.read()
        if not data:
            raise LinkClosed("the stream ended before its message")
        self._ahead += data

    async def send(self, message: Message) -> None:
        """Raises LinkClosed."""
        body = message.SerializeToString()
        await self._raw.write(encode_uvarint(len(body)) + body)

    async def hang_up(self) -> None:
        """End the stream when the other has read what was sent, or had its time: a reset overtakes bytes (LIBP2P.md B5)."""
        with trio.CancelScope(shield=True), trio.move_on_after(_HANG_UP), suppress(LinkClosed):
            await self._raw.finish()
            while await self._raw.read():
                pass
        await self.reset()

    async def read(self) -> bytes:
        if self._ahead:
            data = bytes(self._ahead)
            self._ahead.clear()
            return data
        return await self._raw.read()

    async def write(self, data: bytes) -> None:
        await self._raw.write(data)

    async def finish(self) -> None:
        await self._raw.finish()

    async def reset(self) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(_HANG_UP):
            await self._raw.reset()


class Wire(ReadWriteCloser, trio.abc.AsyncResource):
    """A circuit as what libp2p upgrades: it takes the place of the TCP stream."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._ahead = bytearray()

    async def read(self, n: int | None = None) -> bytes:
        if not self._ahead:
            try:
                self._ahead += await self._stream.read()
            except LinkClosed as error:
                raise ConnectionClosedError(str(error), transport="circuit") from None
        taken = bytes(self._ahead if n is None else self._ahead[:n])
        del self._ahead[: len(taken)]
        return taken

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except LinkClosed as error:
            raise ConnectionClosedError(str(error), transport="circuit") from None

    async def close(self) -> None:
        await self._stream.reset()

    async def aclose(self) -> None:
        await self._stream.reset()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None


async def reserve(connection: Connection, now: float) -> float:
    """Ask the relay at the other end to let others reach us through it.

    Args:
        now: unix time.

    Returns:
        Seconds for which it holds, at most a day, by our clock.

    Raises:
        LinkClosed: it will not, is no relay, or talks nonsense.
    """
    talk = Talk(await connection.open(HOP))
    try:
        await talk.send(pb.HopMessage(type=pb.HopMessage.RESERVE))
        answer = await _answer(talk)
        if not answer.HasField("reservation"):
            raise LinkClosed("the relay names no reservation")
        seconds = answer.reservation.expire - now
        if seconds <= 0:
            raise LinkClosed("the relay's reservation is over already; does its clock agree with ours?")
        return min(seconds, MAX_TTL)
    finally:
        await talk.reset()


async def connect(connection: Connection, target: PeerId) -> Talk:
    """Ask the relay at the other end for a circuit to a peer. Raises LinkClosed."""
    talk = Talk(await connection.open(HOP))
    try:
        await talk.send(pb.HopMessage(type=pb.HopMessage.CONNECT, peer=pb.PeerId(id=peer_text.to_bytes(target))))
        await _answer(talk)
    except BaseException:
        await talk.reset()
        raise
    return talk


async def accept(talk: Talk) -> None:
    """Take the circuit that a relay brings. Who it says is calling is not asked: Noise proves it.

    Raises:
        DecodeError: something else came.
        LinkClosed: the stream ended.
    """
    message = await talk.receive(pb.StopMessage)
    if message.type != pb.StopMessage.CONNECT:
        raise DecodeError("a stop message that is no CONNECT")
    await talk.send(pb.StopMessage(type=pb.StopMessage.STATUS, status=pb.OK))


async def refuse(talk: Talk) -> None:
    """Say no to the circuit that a relay brings. Raises LinkClosed."""
    await talk.send(pb.StopMessage(type=pb.StopMessage.STATUS, status=pb.PERMISSION_DENIED))
    await talk.hang_up()


async def _answer(talk: Talk) -> pb.HopMessage:
    try:
        answer = await talk.receive(pb.HopMessage)
    except DecodeError as error:
        raise LinkClosed(f"the relay answers nonsense: {error}") from None
    if answer.type != pb.HopMessage.STATUS:
        raise LinkClosed("the relay answers nonsense: no STATUS")
    if answer.status != pb.OK:
        raise LinkClosed(f"the relay refuses: {name_of(answer.status)}")
    return answer


def name_of(status: int) -> str:
    """A status in words."""
    try:
        return pb.Status.Name(pb.Status.ValueType(status)).lower().replace("_", " ")
    except ValueError:
        return f"status {status}"
