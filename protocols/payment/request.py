"""Contacts and payment requests: what a payee gives to a payer, each one checksummed string (R14, THEORY "Delivery").

Payload of both, big-endian, inside the text form of `protocols.payment.text`:

    version      1 byte    0
    payee       33 bytes   compressed node key
    servers      1 byte    how many; then each as 2 bytes of length and a multiaddr in UTF-8

and of a request, further:

    hash        32 bytes   SHA-256 of the preimage
    asset       32 bytes   genesis hash of the chain whose coin the amount is of
    amount       8 bytes   millisatoshi
    expiry       8 bytes   unix seconds
    memo         1 byte of length, then UTF-8
    signature   64 bytes   compact, low-S ECDSA by the node key over SHA-256(SHA-256(tag) || SHA-256(tag) || prefix || all
                           of the above), the tag being `rr payment request` and the prefix the text's, so the network is
                           signed, too

The prefix is the network's (`bootstrap.networks`) and `c` for a contact, `p` for a request. Bytes beyond these are refused.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from protocols import ids
from protocols.errors import DecodeError, MisuseError
from protocols.ids import PaymentHash, PeerId
from protocols.onchain import ec
from protocols.payment import text
from protocols.units import MAX_MSAT, Amount, AssetId, Msat, UnixTime

CONTACT, REQUEST = "c", "p"
MAX_SERVERS = 8  # a payer tries one after the other
MAX_ADDRESS = 256  # bytes of one multiaddr
MAX_MEMO = 200  # bytes; fits the sealed initialization, too
_VERSION = 0
_TAG = hashlib.sha256(b"rr payment request").digest()
_BODY = struct.Struct(">32s32sQQ")
_SIGNATURE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """How to reach a payee.

    Attributes:
        payee: its node key.
        servers: multiaddrs, each ending in `/p2p/<id>`, of itself or of routing servers that hand down to it; 1 to 8.
    """

    payee: PeerId
    servers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A payment that the payee waits for and has signed for. The preimage is the payer's receipt."""

    contact: Contact
    payment_hash: PaymentHash
    amount: Amount
    expiry: UnixTime
    memo: str = ""


def encode_contact(contact: Contact, *, prefix: str) -> str:
    """The contact string. `prefix` is the network's.

    Raises:
        MisuseError: no server or too many, an address that is no multiaddr with a peer id, a text that grew too long.
    """
    return text.encode(prefix + CONTACT, _contact_bytes(contact))


def encode_request(request: Request, *, prefix: str, secret: bytes) -> str:
    """The request string, signed with the payee's node secret (32 bytes). `prefix` is the network's.

    Raises:
        MisuseError: as `encode_contact`; or the secret is not the payee's.
    """
    if ec.point_of(secret) != request.contact.payee:
        raise MisuseError("a request is signed by the node key of its payee")
    body = _request_bytes(request)
    return text.encode(prefix + REQUEST, body + ec.sign(secret, _digest(prefix + REQUEST, body)))


def decode(string: str, *, network: str, prefixes: Mapping[str, str], now: UnixTime) -> Contact | Request:
    """Read what a payee gave.

    Args:
        network: the name of the network that this node works on.
        prefixes: of every known network, by name.
        now: a request must not have expired by then.

    Raises:
        DecodeError: a sentence for the user: not such a text, damaged, for another network, expired, forged.
    """
    prefix, payload = text.decode(string)
    kind = prefix[-1]
    names = {value: name for name, value in prefixes.items()}
    theirs = names.get(prefix[:-1])
    if kind not in (CONTACT, REQUEST) or theirs is None:
        raise DecodeError("this is neither a contact nor a payment request")
    if theirs != network:
        what = "contact" if kind == CONTACT else "request"
        raise DecodeError(f"this {what} is for {theirs}, this node works on {network}")
    reader = _Reader(payload)
    contact = _read_contact(reader)
    if kind == CONTACT:
        reader.end()
        return contact
    payment_hash, asset, amount, expiry = _BODY.unpack(reader.take(_BODY.size))
    memo = _utf8(reader.take(reader.take(1)[0]), "memo")
    body, signature = payload[: reader.position], reader.take(_SIGNATURE)
    reader.end()
    if not 0 < amount <= MAX_MSAT:
        raise DecodeError(f"this request asks for {amount} msat, which cannot be")
    if not ec.verify(contact.payee, _digest(prefix, body), signature):
        raise DecodeError("the signature is not the payee's: this request was forged or damaged, ask for a new one")
    if expiry <= now:
        raise DecodeError(f"this request expired {_ago(now - expiry)} ago; ask the payee for a new one")
    return Request(
        contact=contact,
        payment_hash=PaymentHash(payment_hash),
        amount=Amount(Msat(amount), AssetId(asset)),
        expiry=UnixTime(expiry),
        memo=memo,
    )


def check_memo(memo: str) -> bytes:
    """The memo as bytes. Raises MisuseError above `MAX_MEMO` bytes."""
    raw = memo.encode()
    if len(raw) > MAX_MEMO:
        raise MisuseError(f"memo of {len(raw)} bytes, at most {MAX_MEMO} allowed")
    return raw


def _contact_bytes(contact: Contact) -> bytes:
    if not 0 < len(contact.servers) <= MAX_SERVERS:
        raise MisuseError(f"{len(contact.servers)} routing servers in a contact, 1 to {MAX_SERVERS} wanted")
    parts = [bytes([_VERSION]), ids.peer_id(contact.payee), bytes([len(contact.servers)])]
    for server in contact.servers:
        if problem := _wrong_address(server):
            raise MisuseError(problem)
        raw = server.encode()
        parts += [len(raw).to_bytes(2, "big"), raw]
    return b"".join(parts)


def _request_bytes(request: Request) -> bytes:
    memo = check_memo(request.memo)
    body = _BODY.pack(ids.payment_hash(request.payment_hash), request.amount.asset, request.amount.msat, request.expiry)
    return _contact_bytes(request.contact) + body + bytes([len(memo)]) + memo


def _read_contact(reader: "_Reader") -> Contact:
    version = reader.take(1)[0]
    if version != _VERSION:
        raise DecodeError(f"this text has version {version}, this program knows {_VERSION}: update it")
    payee = ids.peer_id(reader.take(33))
    if not ec.is_point(payee):
        raise DecodeError("the payee's key is no point of the curve")
    count = reader.take(1)[0]
    if not 0 < count <= MAX_SERVERS:
        raise DecodeError(f"{count} routing servers, 1 to {MAX_SERVERS} wanted")
    servers = tuple(_utf8(reader.take(int.from_bytes(reader.take(2), "big")), "address") for _ in range(count))
    for server in servers:
        if problem := _wrong_address(server):
            raise DecodeError(problem)
    return Contact(payee=payee, servers=servers)


def _wrong_address(server: str) -> str:
    head, separator, peer = server.rpartition("/p2p/")
    printable = server.isascii() and server.isprintable() and " " not in server
    if printable and head.startswith("/") and separator and peer.isalnum() and len(server) <= MAX_ADDRESS:
        return ""
    return f"{server[:64]!r} is not an address of the form /.../p2p/<id> of at most {MAX_ADDRESS} characters"


def _digest(prefix: str, body: bytes) -> bytes:
    return hashlib.sha256(_TAG + _TAG + prefix.encode() + body).digest()


def _utf8(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise DecodeError(f"the {what} in this text is not UTF-8") from None


def _ago(seconds: int) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds // size} {name}"
    return f"{seconds} seconds"


@dataclass(slots=True)
class _Reader:
    """Takes bytes from the front; running out of them is the sender's fault."""

    payload: bytes
    position: int = 0

    def take(self, size: int) -> bytes:
        if self.position + size > len(self.payload):
            raise DecodeError("this text ends too early")
        self.position += size
        return self.payload[self.position - size : self.position]

    def end(self) -> None:
        if self.position != len(self.payload):
            raise DecodeError(f"{len(self.payload) - self.position} bytes too many in this text")
