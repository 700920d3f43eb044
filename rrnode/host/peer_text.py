"""Text forms of peer ids and of addresses that end in one, without importing libp2p (0.6 s, LIBP2P.md 1).

Source: libp2p peer id specification: the protobuf `PublicKey {type: Secp256k1, data: 33 bytes}` of 37 bytes is short
enough to be its own ("identity") multihash, and the text is that multihash in base58 (Bitcoin's alphabet).
"""

import base58
from coincurve import PrivateKey

from protocols.errors import DecodeError
from protocols.ids import PeerId, peer_id

# multihash: identity (00), 37 bytes (25); protobuf: field 1 = 2 (secp256k1), field 2 = 33 bytes
_PREFIX = bytes.fromhex("002508021221")
_P2P = "/p2p/"
_CIRCUIT = "/p2p-circuit"


def to_bytes(peer: PeerId) -> bytes:
    """The 39 bytes by which libp2p knows this peer."""
    return _PREFIX + peer


def from_bytes(raw: bytes) -> PeerId:
    """The peer behind a libp2p peer id.

    Raises:
        DecodeError: not the id of a secp256k1 key.
    """
    if raw[: len(_PREFIX)] != _PREFIX or len(raw) != len(_PREFIX) + 33:
        raise DecodeError("not the peer id of a secp256k1 key (they begin with 16Uiu2)")
    return peer_id(raw[len(_PREFIX) :])


def to_text(peer: PeerId) -> str:
    """The peer id as people and multiaddrs write it, `16Uiu2…`."""
    return base58.b58encode(to_bytes(peer)).decode()


def from_text(text: str) -> PeerId:
    """Read `16Uiu2…`.

    Raises:
        DecodeError: not base58, or not the id of a secp256k1 key.
    """
    if len(text) > 64:  # base58 is quadratic; real ones have 53 characters
        raise DecodeError(f"peer id of {len(text)} characters, 53 wanted")
    try:
        raw = base58.b58decode(text)
    except ValueError:
        raise DecodeError(f"peer id {text!r} is not base58") from None
    peer = from_bytes(raw)
    if to_text(peer) != text:  # the decoder lets white space pass
        raise DecodeError(f"peer id {text!r} is not written in its one form")
    return peer


def split_address(address: str) -> tuple[str, PeerId]:
    """A multiaddr ending in `/p2p/<id>` as its transport part and the peer.

    Raises:
        DecodeError: no `/p2p/` part, nothing before it, or a peer id that is none.
    """
    where, separator, text = address.rpartition(_P2P)
    if not separator or not where.startswith("/"):
        raise DecodeError(f"address {address!r} is not of the form /ip4/<ip>/tcp/<port>/p2p/<peer id>")
    return where, from_text(text)


def join_address(where: str, peer: PeerId) -> str:
    """The transport part and the peer as one multiaddr."""
    return f"{where}{_P2P}{to_text(peer)}"


def through(where: str, relay: PeerId) -> str:
    """The transport part of an address that leads through a relay (libp2p specification, relay/circuit-v2.md)."""
    return f"{join_address(where, relay)}{_CIRCUIT}"


def is_relayed(where: str) -> bool:
    """Whether this is the transport part of an address that leads through a relay."""
    return where.endswith(_CIRCUIT)


def relay_of(where: str) -> str:
    """The relay's own address, out of the transport part of one that leads through it.

    Raises:
        DecodeError: it leads through several.
    """
    relay = where.removesuffix(_CIRCUIT)
    if _CIRCUIT in relay:
        raise DecodeError(f"{where} leads through more than one relay")
    return relay


def peer_of(secret: bytes) -> PeerId:
    """The peer id of a 32-byte secp256k1 secret: its compressed public key."""
    return PeerId(PrivateKey(secret).public_key.format(compressed=True))
