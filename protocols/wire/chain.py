"""`/rr/chain/1`: chain facts for a client without a chain, from several full nodes of which one honest is enough (DESIGN 8).

The client says what concerns it (`Watch`), asks one thing at a time and checks every proof; the server pushes `News` when
there is something to ask for. Every request is answered once, in order, by its answer or by `Refused`. A message that is
larger than a frame travels as `Piece`s, with nothing in between.
"""

from typing import Annotated

from msgspec import Meta

from protocols.errors import PeerProtocolError
from protocols.light.headers import HEADER_SIZE, MAX_LOCATOR
from protocols.light.merkle import MAX_DEPTH
from protocols.wire.codec import U8, U16, U32, U63, Bytes32, Codec, Message, Text
from protocols.wire.framing import MAX_FRAME

PROTOCOL = "/rr/chain/1"
MAX_HEADERS = 2000  # in one answer, as Bitcoin's own network does
MAX_ITEMS = 400  # of each kind in one `Watch`: it fits a frame
MAX_TRANSACTION = 4_000_000  # bytes; a block holds no larger one
MAX_PUBLISHED = 400_000  # bytes: the largest transaction that is relayed
MAX_MATCHES = 20_000  # transactions; a block holds fewer
PIECE = 65_000  # bytes of a message in each frame but the last
REQUEST_PIECES = 13  # a package of two transactions of the largest size
ANSWER_PIECES = (
    330  # a block of the smallest transactions, each with two branches, is 21 MB: refused, it could never be read
)

Outpoint = Annotated[bytes, Meta(min_length=36, max_length=36)]
Script = Annotated[bytes, Meta(min_length=1, max_length=42)]
HeaderBytes = Annotated[bytes, Meta(min_length=HEADER_SIZE, max_length=HEADER_SIZE)]
Outpoints = Annotated[tuple[Outpoint, ...], Meta(max_length=MAX_ITEMS)]
Txids = Annotated[tuple[Bytes32, ...], Meta(max_length=MAX_ITEMS)]
Scripts = Annotated[tuple[Script, ...], Meta(max_length=MAX_ITEMS)]
TransactionBytes = Annotated[bytes, Meta(min_length=60, max_length=MAX_TRANSACTION)]
RelayedBytes = Annotated[bytes, Meta(min_length=60, max_length=MAX_PUBLISHED)]


class RefusalCode:
    """Why a request was refused or a stream stopped."""

    UNKNOWN_BLOCK = 1
    TOO_MANY = 2
    TOO_FAST = 3
    UNAVAILABLE = 4
    TOO_LARGE = 5
    BAD_REQUEST = 6
    SHUTTING_DOWN = 7


class VerdictCode:
    """What became of a published transaction or package."""

    ACCEPTED = 0
    KNOWN = 1
    REFUSED = 2


class Proven(Message, frozen=True):
    """A transaction with its place in a block and the branch from there to the header's Merkle root, lowest first."""

    index: U32
    branch: Annotated[tuple[Bytes32, ...], Meta(max_length=MAX_DEPTH)]
    transaction: TransactionBytes


class ProvenWhole(Message, frozen=True):
    """A transaction whose witnesses are proven, too: `witness_branch` leads to the root that the coinbase commits to (BIP
    141); none where it commits to nothing."""

    index: U32
    branch: Annotated[tuple[Bytes32, ...], Meta(max_length=MAX_DEPTH)]
    transaction: TransactionBytes
    witness_branch: Annotated[tuple[Bytes32, ...], Meta(max_length=MAX_DEPTH)]


class GetHeaders(Message, frozen=True, tag=0):
    """Headers of your best chain after the first of these blocks that is in it."""

    request: U32
    locator: Annotated[tuple[Bytes32, ...], Meta(min_length=1, max_length=MAX_LOCATOR)]


class Watch(Message, frozen=True, tag=1):
    """From now on these concern me: spends of outputs, transactions, payments to scripts."""

    request: U32
    outpoints: Outpoints
    txids: Txids
    scripts: Scripts


class Unwatch(Message, frozen=True, tag=2):
    request: U32
    outpoints: Outpoints
    txids: Txids
    scripts: Scripts


class GetMatches(Message, frozen=True, tag=3):
    """What of this block concerns me?"""

    request: U32
    block_hash: Bytes32


class GetMempool(Message, frozen=True, tag=4):
    """What of your mempool spends a watched output or is a watched transaction? Scripts are looked for in blocks only."""

    request: U32


class GetOutput(Message, frozen=True, tag=5):
    """Is this output unspent in your best chain, whatever the mempool does?"""

    request: U32
    txid: Bytes32
    index: U32


class Publish(Message, frozen=True, tag=6):
    """One transaction, or a parent and its child as a package."""

    request: U32
    transactions: Annotated[tuple[RelayedBytes, ...], Meta(min_length=1, max_length=2)]


class GetFeerate(Message, frozen=True, tag=7):
    request: U32
    within_blocks: Annotated[int, Meta(ge=1, le=1008)]


class Headers(Message, frozen=True, tag=8):
    """Attributes: tip_height: of the server's best block: how much is still to come; headers: 80 bytes each."""

    request: U32
    tip_height: U32
    headers: Annotated[bytes, Meta(max_length=MAX_HEADERS * HEADER_SIZE)]


class Watching(Message, frozen=True, tag=9):
    """Done. Attributes: left: how many more things this client may watch."""

    request: U32
    left: U32


class Matches(Message, frozen=True, tag=10):
    """Every transaction of the block that concerns the client, in the block's order, and no other.

    Attributes: coinbase: the block's first transaction, when there are any: it commits to their witnesses.
    """

    request: U32
    block_hash: Bytes32
    coinbase: Annotated[tuple[Proven, ...], Meta(max_length=1)]
    transactions: Annotated[tuple[ProvenWhole, ...], Meta(max_length=MAX_MATCHES)]


class Mempool(Message, frozen=True, tag=11):
    request: U32
    transactions: Annotated[tuple[TransactionBytes, ...], Meta(max_length=MAX_MATCHES)]


class Output(Message, frozen=True, tag=12):
    """Attributes: tip: the block as of which this is said; block_hash, created: the block and the transaction that made
    the output; 32 zero bytes and none when it is not unspent there."""

    request: U32
    tip: Bytes32
    block_hash: Bytes32
    created: Annotated[tuple[Proven, ...], Meta(max_length=1)]


class Published(Message, frozen=True, tag=13):
    """Attributes: verdict: one of `VerdictCode`; reason: Bitcoin Core's word when it was refused."""

    request: U32
    verdict: Annotated[int, Meta(ge=0, le=2)]
    reason: Text


class Feerate(Message, frozen=True, tag=14):
    request: U32
    sat_per_kvb: U63


class Refused(Message, frozen=True, tag=15):
    request: U32
    code: U8
    reason: Text


class News(Message, frozen=True, tag=16):
    """There is something to ask for: another best block, or another answer to `GetMempool`."""

    tip_height: U32
    header: HeaderBytes


class Piece(Message, frozen=True, tag=17):
    """A part of a larger message, 1 to `total` in order."""

    number: U16
    total: U16
    data: Annotated[bytes, Meta(min_length=1, max_length=PIECE)]


class Stop(Message, frozen=True, tag=18):
    """The last message of the server."""

    code: U8
    reason: Text


ChainMessage = (
    GetHeaders
    | Watch
    | Unwatch
    | GetMatches
    | GetMempool
    | GetOutput
    | Publish
    | GetFeerate
    | Headers
    | Watching
    | Matches
    | Mempool
    | Output
    | Published
    | Feerate
    | Refused
    | News
    | Piece
    | Stop
)
Request = GetHeaders | Watch | Unwatch | GetMatches | GetMempool | GetOutput | Publish | GetFeerate
Answer = Headers | Watching | Matches | Mempool | Output | Published | Feerate | Refused
CODEC: Codec[ChainMessage] = Codec(ChainMessage, PROTOCOL)


def payloads(message: ChainMessage, most: int) -> tuple[bytes, ...] | None:
    """What goes into frames to carry a message; None when it would take more than `most` pieces."""
    whole = CODEC.encode(message)
    if len(whole) <= MAX_FRAME:
        return (whole,)
    total = -(-len(whole) // PIECE)
    if total > most:
        return None
    return tuple(
        CODEC.encode(Piece(number + 1, total, whole[number * PIECE : (number + 1) * PIECE])) for number in range(total)
    )


class Joiner:
    """Payloads of frames in, messages out.

    Args:
        most: pieces that one message may have: what the other side may make us hold.
    """

    __slots__ = ("_most", "_parts", "_total")

    def __init__(self, most: int) -> None:
        self._most = most
        self._total = 0
        self._parts: list[bytes] = []

    def take(self, payload: bytes) -> ChainMessage | None:
        """The message that this payload is or completes, None when pieces are still to come.

        Raises:
            PeerProtocolError: no message, pieces out of order or too many, or something between pieces.
        """
        message = CODEC.decode(payload)
        if not isinstance(message, Piece):
            if self._parts:
                raise PeerProtocolError(f"{type(message).__name__} between pieces {len(self._parts)} and {self._total}")
            return message
        if not self._parts:
            self._total = message.total
            if not 2 <= self._total <= self._most:
                raise PeerProtocolError(f"a message in {self._total} pieces, 2 to {self._most} allowed")
        if (message.number, message.total) != (len(self._parts) + 1, self._total):
            wanted = f"{len(self._parts) + 1} of {self._total}"
            raise PeerProtocolError(f"piece {message.number} of {message.total}, {wanted} wanted")
        self._parts.append(message.data)
        if len(self._parts) < self._total:
            return None
        whole, self._parts = b"".join(self._parts), []
        joined = CODEC.decode(whole)
        if isinstance(joined, Piece):
            raise PeerProtocolError("a piece made of pieces")
        return joined
