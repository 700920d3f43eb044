"""A bare py-libp2p process of the bench: `python -m tools.bench.relay_worker [address of the next]`.

Whatever comes on its stream it writes on to the next process, and what comes back from there it writes back; the last of
the line returns what it gets. It prints its own address and serves until its standard input ends. With `measure ADDRESS`
it is the first of the line: it sends one small message at a time, with pauses so that everybody sleeps in between, as
nodes do before a payment, and prints the seconds of each way there and back.
"""

import json
import os
import sys
import time
from typing import Any

import trio
from libp2p import new_host
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

from tools.bench.host_worker import until_stdin_ends

PROTOCOL = TProtocol("/bench/relay/1")
MESSAGE = 200  # bytes: about what an initialization or a bundle with one offer takes
ROUNDS, PAUSE = 40, 0.05


async def _exactly(stream: Any, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await stream.read(count - len(data))
    return data


async def _to(host: Any, address: str) -> Any:
    info = info_from_p2p_addr(Multiaddr(address))
    await host.get_network().dial_addr(info.addrs[0], info.peer_id)
    return await host.new_stream(info.peer_id, [PROTOCOL])


async def relay(following: str) -> None:
    """Serve as one of the line."""
    host: Any = new_host(key_pair=create_new_key_pair(os.urandom(32)))
    ahead: list[Any] = []

    async def pass_on(stream: Any) -> None:
        try:
            while True:
                message = await _exactly(stream, MESSAGE)
                if ahead:
                    await ahead[0].write(message)
                    message = await _exactly(ahead[0], MESSAGE)
                await stream.write(message)
        except Exception:  # noqa: BLE001 - any would end the whole host
            await stream.reset()

    host.set_stream_handler(PROTOCOL, pass_on)
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        if following:
            ahead.append(await _to(host, following))
        print(str(host.get_addrs()[0]), flush=True)
        await until_stdin_ends()
        os._exit(0)  # it has nothing to end well


async def measure(address: str) -> None:
    """Be the first of the line."""
    host: Any = new_host(key_pair=create_new_key_pair(os.urandom(32)))
    async with host.run([]):
        stream = await _to(host, address)
        trips = []
        for _ in range(ROUNDS):
            await trio.sleep(PAUSE)
            start = time.perf_counter()
            await stream.write(bytes(MESSAGE))
            await _exactly(stream, MESSAGE)
            trips.append(time.perf_counter() - start)
        print(json.dumps(trips), flush=True)
        os._exit(0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        trio.run(measure, sys.argv[2])
    else:
        trio.run(relay, sys.argv[1] if len(sys.argv) > 1 else "")
