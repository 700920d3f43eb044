"""What a host needs below its frames: connections to authenticated peers, byte streams on them.

`rrnode.host.libp2p` and `rrnode.host.memory` provide these two; everything above (`link`, `peers`) is common to both.
"""

from abc import ABC, abstractmethod

import trio

from protocols.ids import PeerId


class ByteStream(ABC):
    """One two-way stream of bytes. Only its one reader task and one writer task touch it (LIBP2P.md B4)."""

    @abstractmethod
    async def read(self) -> bytes:
        """Some bytes, at most 64 KiB; `b""` at the end. Raises LinkClosed when the stream broke."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Hand all bytes to the transport; waits for room. Raises LinkClosed."""

    @abstractmethod
    async def finish(self) -> None:
        """Say that no more bytes will be written. Never raises."""

    @abstractmethod
    async def reset(self) -> None:
        """Drop the stream both ways and free what it held. Idempotent, never raises."""


class Connection(ABC):
    """One connection to one peer whose identity the transport has proved."""

    peer: PeerId
    inbound: bool
    remote_address: str  # multiaddr without /p2p part, or ""
    relayed: bool = False  # through a relay: short-lived, and of few bytes
    closed: trio.Event

    @abstractmethod
    async def open(self, protocol: str) -> ByteStream:
        """Open a stream and agree on its protocol. Raises LinkClosed."""

    @abstractmethod
    async def close(self) -> None:
        """End the connection and every stream on it, free the socket, set `closed`. Idempotent, never raises."""
