"""What the node shows to its owner of the frames that pass: chosen by protocol, peer and payment hash, secrets covered.

A hash is looked for in a frame's bytes: MessagePack carries it as it is. What settles or fails an HTLC does not name the
hash, so the HTLCs that do are remembered. Sealed initializations name none and cannot be found by it.
"""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from protocols.errors import DecodeError
from protocols.ids import PaymentHash, PeerId
from protocols.wire import channel
from rrnode.control import models as m
from rrnode.control.text import peer_text
from rrnode.errors import UserError
from rrnode.host.tap import Listener, Tap, TappedFrame

MOST_SNIFFERS = 4  # at a time; each may make the node hold 8 MiB
MOST_HTLCS = 256  # remembered by a sniffer that looks for a hash: far more than the tries of one payment
SECRETS: dict[type[msgspec.Struct], str] = {
    channel.UpdateFulfillHtlc: "preimage",
    channel.RevokeAndAck: "per_commitment_secret",
    channel.ChannelReestablish: "your_last_per_commitment_secret",
}
COVERED = bytes(32)  # stands where a secret was


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which frames; what is empty or None does not matter.

    Attributes:
        secrets: show preimages and revocation secrets as they passed.
    """

    protocols: frozenset[str] = frozenset()
    peer: PeerId | None = None
    payment_hash: PaymentHash | None = None
    secrets: bool = False


class Sieve:
    """Lets pass what is wanted."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._htlcs: dict[tuple[PeerId, bytes, int, bool], None] = {}  # peer, channel, number, whether we offered it

    def __call__(self, peer: PeerId, protocol: str, outward: bool, payload: bytes) -> bool:
        """Whether to show this frame."""
        wanted = self._wanted
        if wanted.protocols and protocol not in wanted.protocols:
            return False
        if wanted.peer is not None and peer != wanted.peer:
            return False
        return wanted.payment_hash is None or self._names(wanted.payment_hash, peer, protocol, outward, payload)

    def _names(self, payment_hash: PaymentHash, peer: PeerId, protocol: str, outward: bool, payload: bytes) -> bool:
        if protocol != channel.PROTOCOL:
            return bytes(payment_hash) in payload
        match _read(payload):
            case channel.UpdateAddHtlc(payment_hash=named, channel_id=channel_id, id=number):
                if named == payment_hash:
                    if len(self._htlcs) >= MOST_HTLCS:
                        del self._htlcs[next(iter(self._htlcs))]
                    self._htlcs[peer, channel_id, number, outward] = None
                return named == payment_hash
            case channel.UpdateFulfillHtlc(preimage=preimage) if hashlib.sha256(preimage).digest() == payment_hash:
                return True
            case (
                channel.UpdateFulfillHtlc(channel_id=channel_id, id=number)  # its preimage may be covered
                | channel.UpdateFailHtlc(channel_id=channel_id, id=number)
            ):
                return (peer, channel_id, number, not outward) in self._htlcs
        return False


def _read(payload: bytes) -> channel.ChannelMessage | None:
    try:
        return channel.CODEC.decode(payload)
    except DecodeError:
        return None


def covered(protocol: str, payload: bytes) -> tuple[bytes, tuple[str, ...]]:
    """A frame's payload with its secrets covered, and what was covered.

    On the protocol that carries secrets, nothing is shown of what cannot be read: a secret might be in it.
    """
    if protocol != channel.PROTOCOL:
        return payload, ()
    message = _read(payload)
    if message is None:
        return b"", ("payload",)
    secret = SECRETS.get(type(message))
    if secret is None:
        return payload, ()
    return channel.CODEC.encode(msgspec.structs.replace(message, **{secret: COVERED})), (secret,)


class Sniffed:
    """The frames of one sniffer as its owner sees them; a feed for `rrnode.control.streams`."""

    def __init__(self, listener: Listener, *, secrets: bool) -> None:
        self._listener, self._secrets = listener, secrets

    def receive_nowait(self) -> m.Frame:
        """The next frame. Raises trio.WouldBlock when there is none."""
        return self._shown(self._listener.receive_nowait())

    async def receive(self) -> m.Frame:
        """The next frame, when there is one."""
        return self._shown(await self._listener.receive())

    def _shown(self, frame: TappedFrame) -> m.Frame:
        payload, hidden = (frame.payload, ()) if self._secrets else covered(frame.protocol, frame.payload)
        return m.Frame(
            at_ms=frame.at_ms,
            direction="out" if frame.outward else "in",
            peer_id=peer_text(frame.peer),
            protocol=frame.protocol,
            size=len(frame.payload),
            payload=payload.hex(),
            hidden=hidden,
            dropped=frame.dropped,
        )


@asynccontextmanager
async def sniffing(tap: Tap, wanted: Wanted, clock: Callable[[], float]) -> AsyncIterator[Sniffed]:
    """Frames from now on, as long as inside. Raises UserError when too many look already."""
    if len(tap.listeners) >= MOST_SNIFFERS:
        raise UserError(f"{MOST_SNIFFERS} sniffers look at this node already", "end one of them")
    with tap.listening(Listener(Sieve(wanted), clock)) as listener:
        yield Sniffed(listener, secrets=wanted.secrets)
