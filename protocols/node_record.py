"""What a node says about itself: a signed, dated, bounded record that others may keep and pass on (DESIGN 4, `/rr/info/1`).

Signed are bytes of a fixed layout, big-endian; a text is its length in one byte and so many bytes of UTF-8:

    version 1 · genesis hash 32 · node's key 33 · made 8 · switches 1 · number of channels 2 · digest of the channels 32 ·
    agent, a text · operator, a text · how many addresses 1, each a text · how many protocols 1, each a text

Later versions may append bytes: a reader ignores them, and passes them on. The signature is ECDSA by the node's key, compact,
low s, over SHA-256(t || t || those bytes), where t is SHA-256 of `rr node record`. The digest is SHA-256 of, one after the
other, each channel's peer 33 and capacity 8; the channels themselves are told by their owner only. No balance has a place here.
"""

import hashlib
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from protocols.errors import DecodeError, MisuseError
from protocols.ids import PeerId, peer_id
from protocols.onchain import ec
from protocols.units import AssetId, Sat, UnixTime
from protocols.wire.info import MAX_CHANNELS, MAX_CONTENT, Signed

MAX_TEXT = 64  # bytes of agent and of operator
MAX_ADDRESSES, MAX_ADDRESS = 6, 128  # more would be ways to make others knock at strangers' doors
MAX_PROTOCOLS, MAX_PROTOCOL = 16, 48
MAX_AHEAD = 30  # seconds that clocks may differ (DESIGN 4)
MAX_AGE = 7 * 24 * 3600  # seconds; who lives signs anew each hour, who is gone is forgotten after a week

_VERSION = 1
_HEAD = struct.Struct(">B32s33sQBH32s")
_CHANNEL = struct.Struct(">33sQ")
_TAG = hashlib.sha256(b"rr node record").digest()
_PLACE = re.compile(r"/[!-~]+")  # an address is read by machines only

ToldChannel = tuple[PeerId, Sat]  # the neighbour, and the capacity or 0 when it is not told


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """A node's own word; nothing in it is proven but who said it and that it is not older than `made`.

    Attributes:
        network: genesis hash of the chain it works on.
        made: when it was signed; of two records of a node the later one counts.
        switches: bit 0 route, 1 chain, 2 watch, 3 mailbox; 0 also when not told.
        agent: program and version, `program/version`; "" when not told.
        operator: who runs it, as they say; "" when not told.
        addresses: multiaddrs without `/p2p` at which it can be dialled.
        protocols: libp2p protocol ids that it serves; none when not told.
        channels: how many it tells of; `channels_digest` is over them.
    """

    node: PeerId
    network: AssetId
    made: UnixTime
    switches: int = 0
    agent: str = ""
    operator: str = ""
    addresses: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    channels: int = 0
    channels_digest: bytes = hashlib.sha256(b"").digest()


class Refusal(Enum):
    """Why a record counts for nothing. The value is for people."""

    MALFORMED = "it is no record"
    WRONG_KEY = "it is not signed by the node that it speaks of"
    OTHER_NETWORK = "it is of another network"
    FROM_THE_FUTURE = "it is dated in the future; one of the clocks is wrong"
    TOO_OLD = "it is older than a week"


def digest_of(channels: Iterable[ToldChannel]) -> bytes:
    """What a record says about its channels, 32 bytes; the order counts."""
    return hashlib.sha256(b"".join(_CHANNEL.pack(peer, capacity) for peer, capacity in channels)).digest()


def sign(record: NodeRecord, secret: bytes) -> Signed:
    """The record as its node gives it away.

    Raises:
        MisuseError: beyond its limits, or not this key's.
    """
    content = _encode(record)
    if ec.point_of(secret) != record.node:
        raise MisuseError("a node signs its own record only")
    try:
        _decode(content)
    except DecodeError as error:
        raise MisuseError(f"a record of our own that nobody would take: {error}") from None
    return Signed(content, ec.sign(secret, _digest(content)))


def read(signed: Signed, *, network: AssetId, now: UnixTime) -> NodeRecord | Refusal:
    """The record, if it is one, of this network, in time, and signed by its node."""
    try:
        record = _decode(signed.content)
        if record.network != network:
            return Refusal.OTHER_NETWORK
        if record.made > now + MAX_AHEAD:
            return Refusal.FROM_THE_FUTURE
        if record.made < now - MAX_AGE:
            return Refusal.TOO_OLD
        if not ec.verify(record.node, _digest(signed.content), signed.signature):
            return Refusal.WRONG_KEY
    except DecodeError:
        return Refusal.MALFORMED
    return record


def key_in(signed: Signed) -> bytes:
    """The 33 bytes where a record has its node's key, whatever else is wrong with it; lists are in their order."""
    return signed.content[33:66]


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(_TAG + _TAG + content).digest()


# --- the layout -------------------------------------------------------------------------------------------------------


def _encode(record: NodeRecord) -> bytes:
    head = _HEAD.pack(
        _VERSION,
        record.network,
        record.node,
        record.made,
        record.switches,
        record.channels,
        record.channels_digest,
    )
    texts = _text(record.agent) + _text(record.operator)
    return head + texts + _texts(record.addresses) + _texts(record.protocols)


def _text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > 0xFF:
        raise MisuseError(f"a text of {len(raw)} bytes in a record, at most 255 can be written")
    return bytes([len(raw)]) + raw


def _texts(texts: tuple[str, ...]) -> bytes:
    return bytes([len(texts)]) + b"".join(map(_text, texts))


def _decode(content: bytes) -> NodeRecord:
    """Raises DecodeError."""
    if not _HEAD.size <= len(content) <= MAX_CONTENT:
        raise DecodeError(f"record of {len(content)} bytes, {_HEAD.size} to {MAX_CONTENT} wanted")
    version, network, node, made, switches, channels, digest = _HEAD.unpack_from(content)
    if version != _VERSION:
        raise DecodeError(f"record of version {version}, {_VERSION} wanted")
    if channels > MAX_CHANNELS or made >= 1 << 63:
        raise DecodeError(f"record of {channels} channels made at {made}, at most {MAX_CHANNELS} before 2^63 allowed")
    rest = _Reader(content, _HEAD.size)
    record = NodeRecord(
        node=peer_id(node),
        network=AssetId(network),
        made=UnixTime(made),
        switches=switches,
        agent=rest.text(MAX_TEXT),
        operator=rest.text(MAX_TEXT),
        addresses=rest.texts(MAX_ADDRESSES, MAX_ADDRESS),
        protocols=rest.texts(MAX_PROTOCOLS, MAX_PROTOCOL),
        channels=channels,
        channels_digest=digest,
    )
    for address in record.addresses:
        if not _PLACE.fullmatch(address) or "/p2p/" in address:
            raise DecodeError(f"address {address!r} is not of the form /ip4/<ip>/tcp/<port>")
    return record


class _Reader:
    """Texts, one after the other."""

    def __init__(self, content: bytes, start: int) -> None:
        self._content, self._at = content, start

    def byte(self) -> int:
        if self._at >= len(self._content):
            raise DecodeError("a record that ends too early")
        self._at += 1
        return self._content[self._at - 1]

    def text(self, most: int) -> str:
        size = self.byte()
        raw = self._content[self._at : self._at + size]
        self._at += size
        if size > most or len(raw) != size:
            raise DecodeError(f"text of {size} bytes in a record, {len(raw)} are there and {most} allowed")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise DecodeError("a text in a record that is not UTF-8") from None

    def texts(self, most: int, longest: int) -> tuple[str, ...]:
        count = self.byte()
        if count > most:
            raise DecodeError(f"list of {count} texts in a record, at most {most} allowed")
        return tuple(self.text(longest) for _ in range(count))
