"""`/rr/link/1`: the first stream of every connection between two nodes: who are you, are you still there.

The dialler opens it and says `Hello`; the answer is `Hello`, or `Goodbye` with the reason why there will be no link.
Then either sends `Ping` whenever nothing else was heard for the heartbeat interval, answered by `Pong`. A peer that is silent for longer than the loss interval is lost, whatever TCP thinks (LIBP2P.md 6).
"""

from protocols.wire.codec import U8, U32, Bytes32, Codec, Message, Text

PROTOCOL = "/rr/link/1"
CROSSED = "your dial crosses ours, which stands"  # `Goodbye.reason` when two nodes dial each other (DESIGN 4)


class Hello(Message, frozen=True, tag=0):
    """First message each way.

    Attributes:
        network: genesis block hash of the chain this node works on; another network's node is told and cut.
        switches: bit 0 route, 1 chain, 2 watch, 3 mailbox (DESIGN 2).
        agent: program and version, for people.
    """

    network: Bytes32
    switches: U8
    agent: Text


class Ping(Message, frozen=True, tag=1):
    nonce: U32


class Pong(Message, frozen=True, tag=2):
    nonce: U32


class Goodbye(Message, frozen=True, tag=3):
    """The last message: this connection ends on purpose. A stream that ends without it was lost."""

    reason: Text


LinkMessage = Hello | Ping | Pong | Goodbye
CODEC: Codec[LinkMessage] = Codec(LinkMessage, PROTOCOL)
