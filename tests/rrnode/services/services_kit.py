"""Hosts that run in the background, a unix clock on trio's clock, and peers that write whatever they like."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from bootstrap.networks import REGTEST
from protocols.channel.state import Channel, Phase, Terms
from protocols.ids import ChannelId, PaymentHash, PeerId
from protocols.onchain.keys import BasePoints
from protocols.routing.events import Liquidity, LiquidityChanged
from protocols.units import AssetId, BlockDelta, BlockHeight, Msat, Sat, UnixTime
from protocols.wire.routing import RoutingMessage
from rrnode.errors import LinkClosed
from rrnode.host.base import FrameStream, HostConfig
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.host.transport import ByteStream

GENESIS = b"\x01" * 32
START = 1_700_000_000
COIN = AssetId(b"\xc0" * 32)
GOLD = AssetId(b"\x60" * 32)


def now() -> UnixTime:
    """Unix time that goes with trio's clock."""
    return UnixTime(START + int(trio.current_time()))


def hash_(number: int) -> PaymentHash:
    return PaymentHash(number.to_bytes(32, "big"))


def offer(number: int = 1, amount: int = 1000, *, asset: AssetId = COIN, expiry: int = START + 600) -> RoutingMessage:
    return RoutingMessage(hash_(number), asset, amount, 10, 5, 10**12, COIN, expiry)


def liquidity(peer: PeerId, *, ours: int = 10**9, theirs: int = 10**9, asset: AssetId = COIN) -> LiquidityChanged:
    known = (Liquidity(asset=asset, ours=Msat(ours), theirs=Msat(theirs)),)
    return LiquidityChanged(neighbour=peer, liquidity=known if ours or theirs else (), now=now())


def channel(number: int, peer: PeerId, phase: Phase = Phase.OPEN) -> Channel:
    """A channel as the money engine keeps it."""
    key = b"\x02" * 33
    return Channel(
        channel_id=ChannelId(bytes([number]) * 32),
        peer=peer,
        asset=REGTEST.genesis,
        key_index=number,
        phase=phase,
        we_fund=True,
        capacity=Sat(1_000_000),
        push=Msat(0),
        opened_tip=BlockHeight(100),
        our_terms=Terms(
            dust_limit=Sat(354),
            max_in_flight=Msat(10**9),
            reserve=Sat(20_000),
            htlc_minimum=Msat(1),
            to_self_delay=BlockDelta(144),
            max_accepted_htlcs=114,
            shutdown_script=b"\x00\x14" + bytes(20),
        ),
        our_points=BasePoints(funding_pubkey=key, revocation=key, payment=key, delayed_payment=key, htlc=key),
        our_balance=Msat(10**9),
        their_balance=Msat(0),
    )


class Net:
    """Hosts by number; host 0 has the lowest peer id, and so on."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.network = MemoryNetwork(seed=1, delay=0.01)
        secrets = [number.to_bytes(32, "big") for number in range(1, 13)]
        made = [MemoryHost(secret, network=self.network, genesis=GENESIS) for secret in secrets]
        order = sorted(range(len(made)), key=lambda number: made[number].peer_id)
        self._secrets = [secrets[number] for number in order]
        self._scopes: dict[MemoryHost, trio.CancelScope] = {}

    def secret(self, number: int) -> bytes:
        """Of this host's identity."""
        return self._secrets[number]

    async def host(self, number: int, *, config: HostConfig | None = None, switches: int = 0) -> MemoryHost:
        """A running host that listens."""
        made = MemoryHost(
            self._secrets[number],
            network=self.network,
            genesis=GENESIS,
            switches=switches,
            listen=("/memory/0",),
            config=config,
        )
        await self.nursery.start(self._run, made)
        return made

    async def _run(self, host: MemoryHost, task_status: Any) -> None:
        with trio.CancelScope() as self._scopes[host]:
            async with host.running():
                task_status.started()
                await trio.sleep_forever()

    def stop(self, host: MemoryHost) -> None:
        """End a host."""
        self._scopes[host].cancel()

    def spawn(self, *services: Any) -> None:
        """Run services in the background; each has a `run`."""
        for service in services:
            self.nursery.start_soon(service.run)

    async def link(self, dialler: MemoryHost, other: MemoryHost) -> None:
        """Connect two hosts, and wait until both know."""
        await dialler.dial(other.addresses()[0])
        await until(lambda: dialler.peer_id in other.connected())

    async def raw(self, host: MemoryHost, peer: PeerId, protocol: str) -> ByteStream:
        """A stream below the frames; nobody reads it."""
        return await host._links[peer].connection.open(protocol)


async def until(condition: Callable[[], bool], within: float = 60.0) -> None:
    """Wait, on the clock that jumps, until something holds."""
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110 - on a clock that jumps a wait costs nothing
            await trio.sleep(0.01)


async def ended(stream: FrameStream) -> None:
    """Wait until the other side has ended this stream; what it still sends is thrown away."""
    with trio.fail_after(120):
        try:
            while True:
                await stream.receive()
        except LinkClosed:
            pass


async def within(seconds: float, what: Callable[[], Awaitable[bytes]]) -> bytes | None:
    """What comes within some seconds, or None."""
    with trio.move_on_after(seconds):
        return await what()
    return None
