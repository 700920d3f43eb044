"""Run as a program: links to a node under a given key and pours lawful messages on it, as fast as they are taken, until its
standard input ends. Arguments: the secret in hex, the node's address, and the names of floods."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress

import msgspec
import trio

from bootstrap.networks import REGTEST
from protocols.ids import PeerId
from protocols.wire import channel, init, routing, subscribe
from protocols.wire.framing import frame
from rrnode.errors import LinkClosed, Unreachable
from rrnode.host.base import HostConfig
from rrnode.host.libp2p import LibP2PHost
from rrnode.host.transport import ByteStream

HASH = b"\x07" * 32
OFFER = routing.RoutingMessage(HASH, REGTEST.genesis, 1000, 10, 5, 10**9, REGTEST.genesis, 2_000_000_000)
OFFERS = tuple(msgspec.structs.replace(OFFER, payment_hash=each.to_bytes(32, "big")) for each in range(480))

RESUME = frame(routing.CODEC.encode(routing.Resume(b"\x01" * 16, bytes(16), 0, True)))
QUERY = frame(subscribe.CODEC.encode(subscribe.Query(1, (HASH,) * 256)))
ASTRAY = frame(channel.CODEC.encode(channel.UpdateFailHtlc(HASH, 1, 1)))  # about a channel that is not there
WARNING = frame(channel.CODEC.encode(channel.Warn(bytes(32), "boo")))  # about all that are
DELIVERY = frame(init.CODEC.encode(init.Deliver(b"\x02" * 33, bytes(init.SEALED_SIZE))))


def bundle(number: int) -> bytes:
    return frame(routing.CODEC.encode(routing.Bundle(number, OFFERS)))


# By name: the protocol, what a stream begins with, and what follows for ever.
FLOODS: dict[str, tuple[str, bytes, Callable[[int], bytes]]] = {
    "offers": (routing.PROTOCOL, RESUME, bundle),
    "queries": (subscribe.PROTOCOL, QUERY, lambda number: QUERY * 10),
    "astray": (channel.PROTOCOL, ASTRAY, lambda number: ASTRAY * 100),
    "warnings": (channel.PROTOCOL, WARNING, lambda number: WARNING * 100),
    "deliveries": (init.PROTOCOL, DELIVERY, lambda number: DELIVERY),
}


async def pour(host: LibP2PHost, address: str, protocol: str, first: bytes, again: Callable[[int], bytes]) -> None:
    """Write until the stream ends, and begin anew; whatever is answered is read, so that nothing else holds us up."""
    while True:
        with suppress(LinkClosed, Unreachable, KeyError):
            peer: PeerId = await host.dial(address)
            stream = await host._links[peer].connection.open(protocol)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, stream, nursery.cancel_scope)
                with suppress(LinkClosed):
                    await stream.write(first)
                    number = 0
                    while True:
                        number += 1
                        await stream.write(again(number))
                nursery.cancel_scope.cancel()
        await trio.sleep(0.1)


async def read(stream: ByteStream, scope: trio.CancelScope) -> None:
    """Read until the end, which is the end of writing, too."""
    with suppress(LinkClosed):
        while await stream.read():
            pass
    scope.cancel()


async def main(secret: str, address: str, *names: str) -> None:
    """Flood until standard input ends."""
    config = HostConfig(peer_frames=10**9, dial_timeout=60, hello_timeout=60)
    host = LibP2PHost(bytes.fromhex(secret), genesis=REGTEST.genesis, config=config)
    async with host.running(), trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(pour, host, address, *FLOODS[name])
        await trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())).receive_some()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        trio.run(main, *sys.argv[1:])
    os._exit(0)  # libp2p's own may leave a listener behind (B11)
