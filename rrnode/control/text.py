"""Text forms of ids at the edge: peer ids as libp2p writes them, hashes in hex, transaction ids as explorers show them.

What is here raises `UserError`: it reads what a person typed. `rrnode.host.peer_text` has the form of peer ids itself.
"""

from protocols import ids
from protocols.errors import DecodeError
from protocols.ids import ChannelId, PaymentHash, PeerId, Txid
from rrnode.errors import UserError
from rrnode.host.peer_text import from_text, split_address, to_text


def peer_text(peer: PeerId) -> str:
    """A peer id as it stands at the end of a multiaddr."""
    return to_text(peer)


def parse_peer(text: str) -> PeerId:
    """A peer id from base58 (as in a multiaddr) or 66 hex digits.

    Raises:
        UserError: neither.
    """
    try:
        if len(text) == 66:
            return ids.peer_id(bytes.fromhex(text))
        return from_text(text)
    except (ValueError, DecodeError) as error:
        raise UserError(
            f"{text[:80]!r} is not a peer id: {error}", "a peer id looks like 16Uiu2HA..., as at the end of an address"
        ) from None


def peer_of_address(address: str) -> PeerId | None:
    """The peer that a multiaddr names in its last part, or None when it names none. Raises UserError."""
    if "/p2p/" not in address:
        return None
    try:
        return split_address(address)[1]
    except DecodeError as error:
        raise UserError(str(error), "an address looks like /ip4/192.0.2.7/tcp/9780/p2p/16Uiu2HA...") from None


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


def parse_txid(text: str) -> Txid:
    """A transaction id as displays show it. Raises UserError."""
    return Txid(_hex32(text, "transaction id")[::-1])


def txid_text(txid: Txid | bytes) -> str:
    """A transaction or block id as displays show it: reversed."""
    return bytes(txid)[::-1].hex()
