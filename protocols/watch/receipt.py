"""A watcher's receipt: that it holds these sealed remedies for this client until a height, signed by its node key.

Source: DESIGN 7. Signed are bytes of a fixed layout, big-endian, which both sides put together for themselves:

    version 1 · genesis hash 32 · client's key 33 · until 4 · number of remedies 2 ·
    SHA-256 of, one after the other, each remedy's hint 16 and the SHA-256 of its sealed bytes 32

in the order of the request. The signature is ECDSA, compact, low s, over SHA-256(t || t || those bytes), where t is SHA-256 of
`rr watch receipt`. A receipt proves later what a watcher promised; it cannot make it hunt.
"""

import hashlib
import struct
from collections.abc import Iterable

from protocols.ids import PeerId
from protocols.onchain import ec
from protocols.units import AssetId, BlockHeight

_VERSION = 1
_LAYOUT = struct.Struct(">B32s33sIH32s")
_TAG = hashlib.sha256(b"rr watch receipt").digest()

Kept = tuple[bytes, bytes]  # hint, and SHA-256 of the sealed remedy


def sign(secret: bytes, network: AssetId, client: PeerId, until: BlockHeight, kept: Iterable[Kept]) -> bytes:
    """The watcher's signature, 64 bytes.

    Args:
        secret: of the watcher's node key.
        network: genesis hash of the chain that `until` is a height of.
        client: whom it holds them for: the key of the stream's other end.
    """
    return ec.sign(secret, _digest(network, client, until, kept))


def is_valid(
    signature: bytes, watcher: PeerId, network: AssetId, client: PeerId, until: BlockHeight, kept: Iterable[Kept]
) -> bool:
    """Whether this is that watcher's receipt for exactly these. DecodeError: the watcher's key is not on the curve."""
    return ec.verify(watcher, _digest(network, client, until, kept), signature)


def _digest(network: AssetId, client: PeerId, until: BlockHeight, kept: Iterable[Kept]) -> bytes:
    listed = [hint + digest for hint, digest in kept]
    content = _LAYOUT.pack(_VERSION, network, client, until, len(listed), hashlib.sha256(b"".join(listed)).digest())
    return hashlib.sha256(_TAG + _TAG + content).digest()
