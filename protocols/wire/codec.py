"""MessagePack arrays, validated while they are decoded; shared by every protocol's module (DESIGN 4).

A message is an array whose first element is its number within its protocol; fields follow. Later versions may append
fields: unknown further elements are ignored.
"""

from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from protocols.errors import DecodeError
from protocols.units import MAX_MSAT

U8 = Annotated[int, Meta(ge=0, le=0xFF)]
U16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
U63 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
AmountMsat = Annotated[int, Meta(ge=0, le=MAX_MSAT)]
Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Bytes33 = Annotated[bytes, Meta(min_length=33, max_length=33)]
Bytes64 = Annotated[bytes, Meta(min_length=64, max_length=64)]  # a compact ECDSA signature
Text = Annotated[str, Meta(max_length=256)]


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of every wire message; subclasses state `tag=<number>`."""


M = TypeVar("M")
_encoder = msgspec.msgpack.Encoder()


class Codec(Generic[M]):
    """Encoder and decoder of one protocol's messages.

    Args:
        union: the union type of the protocol's messages.
        name: the protocol's id, for error messages.
    """

    def __init__(self, union: Any, name: str) -> None:
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(union)
        self.name = name

    def encode(self, message: M) -> bytes:
        """The message as one MessagePack array."""
        return _encoder.encode(message)

    def decode(self, payload: bytes) -> M:
        """Decode and validate one message.

        Raises:
            DecodeError: whatever is wrong with the bytes; nothing else is ever raised.
        """
        try:
            return self._decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            raise DecodeError(f"{self.name}: {error}") from None
