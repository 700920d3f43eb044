"""What the world looked like when an event was handled; drawn by the runtime, journaled with the event, so that a
journal replays exactly (CONVENTIONS, "Data and engines")."""

from dataclasses import dataclass

from protocols.units import BlockHeight, FeeRate, UnixTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts that an engine may use while it handles one event.

    Attributes:
        now: seconds since 1970, UTC.
        tip: height of the best block this node has seen.
        feerate: what a transaction should pay to confirm within a few blocks, satoshi per 1000 virtual bytes.
        entropy: 32 fresh random bytes; an engine that needs several values derives them by hashing.
    """

    now: UnixTime
    tip: BlockHeight
    feerate: FeeRate
    entropy: bytes
