"""Frames as they pass between this node and its peers."""

from typing import Literal

from rrnode.control.models.base import Model


class FrameFilter(Model):
    """Which frames to see. What is empty does not matter.

    Attributes:
        protocols: protocol ids.
        payment_hash: frames that name it, or settle or fail an HTLC that does.
        secrets: show preimages and revocation secrets as they passed.
    """

    protocols: tuple[str, ...] = ()
    peer: str = ""
    payment_hash: str = ""
    secrets: bool = False


class Frame(Model):
    """A frame that was read from a peer ("in") or queued for it ("out").

    Attributes:
        size: bytes of the payload as it passed.
        payload: in hex; one message of the protocol.
        hidden: fields that are 32 zero bytes here because they are secrets; "payload": the whole, for it cannot be read.
        dropped: frames that the node could not show before this one, because they were read too slowly.
    """

    at_ms: int
    direction: Literal["in", "out"]
    peer_id: str
    protocol: str
    size: int
    payload: str
    hidden: tuple[str, ...] = ()
    dropped: int = 0
