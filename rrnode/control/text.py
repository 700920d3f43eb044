"""Text forms of ids at the edge: peer ids as libp2p writes them, hashes in hex, transaction ids as explorers show them.

A peer id in text is base58 of the libp2p identity multihash of a secp256k1 key: `00 25 08 02 12 21` and the 33 bytes
of the compressed key (libp2p specification, "Peer IDs and keys").
"""

from bitcoin.base58 import Base58Error
from bitcoin.base58 import decode as base58_decode
from bitcoin.base58 import encode as base58_encode

from protocols import ids
from protocols.errors import DecodeError
from protocols.ids import ChannelId, PaymentHash, PeerId, Txid
from rrnode.errors import UserError

_SECP256K1_IDENTITY = bytes.fromhex("002508021221")
_PEER_TEXT_MAX = 80  # 39 bytes are 53 characters; more is refused before base58's slow arithmetic


def peer_text(peer: PeerId) -> str:
    """A peer id as it stands at the end of a multiaddr."""
    return str(base58_encode(_SECP256K1_IDENTITY + peer))


def parse_peer(text: str) -> PeerId:
    """A peer id from base58 (as in a multiaddr) or 66 hex digits.

    Raises:
        UserError: neither.
    """
    wanted = "a peer id looks like 16Uiu2HA..., as at the end of an address"
    if len(text) == 66:
        try:
            return ids.peer_id(bytes.fromhex(text))
        except (ValueError, DecodeError) as error:
            raise UserError(f"{text!r} is not a peer id: {error}", wanted) from None
    if not text or len(text) > _PEER_TEXT_MAX:
        raise UserError(f"{text[:80]!r} is not a peer id", wanted)
    try:
        raw = base58_decode(text)
        if raw[:6] != _SECP256K1_IDENTITY:
            raise UserError(f"{text!r} is not the peer id of a secp256k1 key", wanted)
        return ids.peer_id(bytes(raw[6:]))
    except (Base58Error, DecodeError, ValueError, UnicodeError) as error:
        raise UserError(f"{text!r} is not a peer id: {error}", wanted) from None


def peer_of_address(address: str) -> PeerId | None:
    """The peer that a multiaddr names in its last `/p2p/` part, or None when it names none."""
    head, found, tail = address.rpartition("/p2p/")
    return parse_peer(tail) if found and head and "/" not in tail else None


def _hex32(text: str, what: str) -> bytes:
    try:
        raw = bytes.fromhex(text) if len(text) == 64 else b""
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise UserError(f"{text[:80]!r} is not a {what}", f"a {what} is 64 hex digits")
    return raw


def parse_payment_hash(text: str) -> PaymentHash:
    """Raises UserError."""
    return PaymentHash(_hex32(text, "payment hash"))


def parse_channel_id(text: str) -> ChannelId:
    """Raises UserError."""
    return ChannelId(_hex32(text, "channel id"))


def txid_text(txid: Txid | bytes) -> str:
    """A transaction or block id as displays show it: reversed."""
    return bytes(txid)[::-1].hex()
