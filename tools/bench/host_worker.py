"""One side of the host bench: `python -m tools.bench.host_worker ours|raw serve|measure [address]`.

A server prints its address and serves until its standard input ends; a client measures and prints one JSON object.
"""

import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

import trio

FRAME = 100
ROUNDS = 1500
FRAMES = 200_000
DIALS = 15
ECHO, COUNT = "/bench/echo/1", "/bench/count/1"
SECRETS = {"serve": b"\x01" * 32, "measure": b"\x02" * 32}


async def until_stdin_ends() -> None:
    """Wait for the parent to close our standard input."""
    await trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())).receive_some()


class Ours:
    """`LibP2PHost` and its frame streams."""

    @asynccontextmanager
    async def host(self, role: str) -> AsyncIterator[Any]:
        from rrnode.host.base import FrameStream, HostConfig
        from rrnode.host.libp2p import LibP2PHost

        async def echo(stream: FrameStream) -> None:
            while True:
                await stream.send(await stream.receive())

        async def count(stream: FrameStream) -> None:
            for _ in range(FRAMES):
                await stream.receive()
            await stream.send(b"done")

        listen = ("/ip4/127.0.0.1/tcp/0",) if role == "serve" else ()
        unbraked = HostConfig(peer_frames=10**9)
        host = LibP2PHost(SECRETS[role], genesis=bytes(32), listen=listen, config=unbraked)
        host.handle(ECHO, echo)
        host.handle(COUNT, count)
        async with host.running():
            yield host

    def address(self, host: Any) -> str:
        return str(host.addresses()[0])

    async def measure(self, host: Any, address: str) -> dict[str, float]:
        dials = []
        for _ in range(DIALS):
            start = time.perf_counter()
            peer = await host.dial(address)
            dials.append(time.perf_counter() - start)
            await host.disconnect(peer, "again")
        peer = await host.dial(address)
        stream = await host.open_stream(peer, ECHO)
        trips = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            await stream.send(bytes(FRAME))
            await stream.receive()
            trips.append(time.perf_counter() - start)
        stream = await host.open_stream(peer, COUNT)
        payload = bytes(FRAME)
        start = time.perf_counter()
        for _ in range(FRAMES):
            await stream.send(payload)
        await stream.receive()
        return {"dial": median(dials), "round_trip": median(trips), "frames": FRAMES / (time.perf_counter() - start)}


class Raw:
    """py-libp2p as it comes."""

    @asynccontextmanager
    async def host(self, role: str) -> AsyncIterator[Any]:
        from libp2p import new_host
        from libp2p.crypto.secp256k1 import create_new_key_pair
        from libp2p.custom_types import TProtocol
        from multiaddr import Multiaddr

        async def echo(stream: Any) -> None:
            try:
                while True:
                    await stream.write(await stream.read(65536))
            except Exception:  # noqa: BLE001 - any would end the whole host
                await stream.reset()

        async def count(stream: Any) -> None:
            left = FRAMES * FRAME
            while left > 0:
                left -= len(await stream.read(65536))
            await stream.write(b"d")

        host: Any = new_host(key_pair=create_new_key_pair(SECRETS[role]))
        host.set_stream_handler(TProtocol(ECHO), echo)
        host.set_stream_handler(TProtocol(COUNT), count)
        async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")] if role == "serve" else []):
            yield host
            await host.close()

    def address(self, host: Any) -> str:
        return str(host.get_addrs()[0])

    async def measure(self, host: Any, address: str) -> dict[str, float]:
        from libp2p.custom_types import TProtocol
        from libp2p.peer.peerinfo import info_from_p2p_addr
        from multiaddr import Multiaddr

        info = info_from_p2p_addr(Multiaddr(address))
        dials = []
        for _ in range(DIALS):
            start = time.perf_counter()
            await host.get_network().dial_addr(info.addrs[0], info.peer_id)
            dials.append(time.perf_counter() - start)
            await host.disconnect(info.peer_id)
        await host.get_network().dial_addr(info.addrs[0], info.peer_id)
        stream = await host.new_stream(info.peer_id, [TProtocol(ECHO)])
        trips = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            await stream.write(bytes(FRAME))
            left = FRAME
            while left:
                left -= len(await stream.read(left))
            trips.append(time.perf_counter() - start)
        stream = await host.new_stream(info.peer_id, [TProtocol(COUNT)])
        left = FRAMES * FRAME
        start = time.perf_counter()
        while left > 0:
            await stream.write(bytes(min(left, 65536)))
            left -= 65536
        await stream.read(1)
        return {"dial": median(dials), "round_trip": median(trips), "frames": FRAMES / (time.perf_counter() - start)}


async def main(kind: str, role: str, address: str = "") -> None:
    """Serve or measure."""
    side: Ours | Raw = Ours() if kind == "ours" else Raw()
    async with side.host(role) as host:
        if role == "serve":
            print(side.address(host), flush=True)
            await until_stdin_ends()
        else:
            print(json.dumps(await side.measure(host, address)), flush=True)
    os._exit(0)  # libp2p's own may leave a listener behind (B11)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
