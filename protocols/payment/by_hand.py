"""A sealed initialization as a text that the payer gives to the payee by any means: "out of band" (THEORY, "Delivery"; R14).

Payload, inside the text form of `protocols.payment.text`, under the network's prefix and `i`:

    version      1 byte    0
    payee       33 bytes   compressed node key: whom it is for, so that another node can say so
    sealed     512 bytes   `protocols.payment.initialization`
"""

from collections.abc import Mapping

from protocols import ids
from protocols.errors import DecodeError
from protocols.ids import PeerId
from protocols.payment import text
from protocols.wire.init import SEALED_SIZE

INITIALIZATION = "i"
_VERSION = 0
_SIZE = 1 + 33 + SEALED_SIZE


def encode(payee: PeerId, sealed: bytes, *, prefix: str) -> str:
    """The text. `prefix` is the network's."""
    return text.encode(prefix + INITIALIZATION, bytes([_VERSION]) + payee + sealed)


def decode(string: str, *, network: str, prefixes: Mapping[str, str]) -> tuple[PeerId, bytes]:
    """Whom it is for, and the sealed bytes.

    Args:
        network: the name of the network that this node works on.
        prefixes: of every known network, by name.

    Raises:
        DecodeError: a sentence for the user.
    """
    prefix, payload = text.decode(string)
    theirs = next((name for name, known in prefixes.items() if known == prefix[:-1]), None)
    if prefix[-1] != INITIALIZATION or theirs is None:
        raise DecodeError(
            "this is no payment that waits to be received; such a text is made by: rrnode pay --out-of-band"
        )
    if theirs != network:
        raise DecodeError(f"this payment is on {theirs}, this node works on {network}")
    if payload[:1] != bytes([_VERSION]):
        raise DecodeError(f"this text has version {payload[:1].hex()}, this program knows {_VERSION}: update it")
    if len(payload) != _SIZE:
        raise DecodeError(f"this text holds {len(payload)} bytes, {_SIZE} are wanted")
    return ids.peer_id(payload[1:34]), payload[34:]
