"""A whole node under fire, over the memory host and over libp2p on loopback: whatever a stranger or a neighbour writes on
any protocol ends that stream, is counted and logged, costs no memory that stays, and an honest client goes on paying
through the node meanwhile. Seeded; every wait has an end."""

import gc
import random
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import median
from subprocess import PIPE
from typing import Any

import msgspec
import pytest
import structlog
import trio

sys.path.insert(0, str(Path(__file__).parent / "scenario"))

import scenario_kit
from scenario_kit import World, world

from bootstrap.networks import REGTEST
from protocols.ids import PeerId
from protocols.payment.events import PayPhase
from protocols.wire import channel, info, init, link, routing, subscribe
from protocols.wire.framing import encode_varint, frame
from rrnode.errors import LinkClosed, Unreachable
from rrnode.host.base import HostConfig
from rrnode.host.libp2p import LibP2PHost
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.host.peers import LinkedHost
from rrnode.host.transport import ByteStream

KEY, HASH, TIME = b"\x02" * 33, b"\x07" * 32, 2_000_000_000
OFFER = routing.RoutingMessage(HASH, REGTEST.genesis, 1000, 10, 5, 10**9, REGTEST.genesis, TIME)
SCRIPT = b"\x00\x14" + bytes(20)
MESSAGES: dict[str, tuple[Any, ...]] = {
    link.PROTOCOL: (
        link.Hello(REGTEST.genesis, 1, "again"),
        link.Ping(1),
        link.Pong(2),
        link.Hello(bytes(32), 0, "elsewhere"),
    ),
    routing.PROTOCOL: (
        routing.Resume(b"\x01" * 16, bytes(16), 0, True),
        routing.Resume(b"\x01" * 16, b"\x09" * 16, 2**62, False),
        routing.Bundle(1, (OFFER,) * 20),
        routing.Bundle(2**63 - 1, (OFFER,)),
        routing.Acknowledge(0),
        routing.Acknowledge(10**9),
        routing.Stop("enough"),
    ),
    subscribe.PROTOCOL: (
        subscribe.Subscribe(1, (HASH,) * 200, (subscribe.Prefix(8, b"\x07"),), 2**32 - 1),
        subscribe.Subscribe(1, (), (subscribe.Prefix(1, b"\x00" * 32),), 0),
        subscribe.Unsubscribe(2, (HASH,), (subscribe.Prefix(256, b"\x00"),)),
        subscribe.Query(3, (HASH,) * 256),
        subscribe.Follow(4, 0),
        subscribe.Accepted(5, 0),
        subscribe.Offers(6, (OFFER,)),
        subscribe.Stop(0, ""),
    ),
    init.PROTOCOL: (
        init.Attach(),
        init.Attached(),
        init.Deliver(KEY, bytes(init.SEALED_SIZE)),
        init.Delivered(),
        init.Failed(1, "no"),
        init.Handed(1, bytes(init.SEALED_SIZE)),
        init.Taken(1, 0, ""),
    ),
    info.PROTOCOL: (
        info.GetRecord(1, True),
        info.GetOthers(2, b"\xff" * 33),
        info.Record(1, 2**62, info.Signed(bytes(113), bytes(64)), (info.ToldChannel(KEY, 0),)),
        info.Others(2, (info.Signed(bytes(1900), bytes(64)),), True),
        info.Refused(3, 255, "\x1b[2J"),
        info.Stop(0, ""),
    ),
    channel.PROTOCOL: (
        channel.OpenChannel(
            REGTEST.genesis, HASH, 10**6, 0, 354, 10**9, 20_000, 1, 6, 100, KEY, KEY, KEY, KEY, KEY, KEY, SCRIPT
        ),
        channel.FundingCreated(HASH, HASH, 0, bytes(64)),
        channel.FundingSigned(HASH, bytes(64)),
        channel.ChannelReady(HASH, KEY),
        channel.UpdateAddHtlc(HASH, 0, 10**6, HASH, 500),
        channel.UpdateFulfillHtlc(HASH, 0, HASH),
        channel.UpdateFailHtlc(HASH, 2**62, 255),
        channel.CommitmentSigned(HASH, bytes(64), (bytes(64),) * 228),
        channel.RevokeAndAck(HASH, HASH, KEY),
        channel.ChannelReestablish(HASH, 2**62, 2**62, HASH, KEY),
        channel.Shutdown(HASH, SCRIPT),
        channel.ClosingComplete(HASH, SCRIPT, SCRIPT, 1, 0, b"", b"x", bytes(64)),
        channel.Error(HASH, "\x1b[2J"),
        channel.Warn(bytes(32), "boo"),
    ),
}
CODECS: dict[str, Any] = {
    module.PROTOCOL: module.CODEC  # type: ignore[attr-defined]
    for module in (link, routing, subscribe, init, info, channel)
}


def bad_bytes(randomness: random.Random) -> list[bytes]:
    """Each ends a stream by itself: no frame, or a frame that is no message."""
    return [
        randomness.randbytes(70_000),
        encode_varint(65_537) + randomness.randbytes(1000),
        encode_varint(2**60) + randomness.randbytes(1000),
        b"\x00",
        frame(randomness.randbytes(randomness.randint(1, 200))),
        frame(msgspec.msgpack.encode([99, *range(randomness.randint(0, 9))])),  # an unknown message
        frame(msgspec.msgpack.encode([2, b"", -1, "x" * 300])),
        frame(b"\x91" * 60_000),  # arrays in arrays
        frame(b"\xdd\xff\xff\xff\xff"),  # an array of four thousand million
    ]


def disorder(protocol: str, randomness: random.Random) -> bytes:
    """Valid messages of a protocol, in an order that nobody meant."""
    chosen = randomness.choices(MESSAGES[protocol], k=randomness.randint(1, 12))
    return b"".join(frame(CODECS[protocol].encode(message)) for message in chosen)


def on_loopback(secret: bytes, *, network: MemoryNetwork, genesis: bytes, **given: Any) -> LibP2PHost:
    """In place of a memory host, a real one."""
    given["listen"] = ("/ip4/127.0.0.1/tcp/0",) if given.get("listen") else ()
    return LibP2PHost(secret, genesis=genesis, **given)


class Siege:
    """A---B---C, all honest, A and C clients of B; M had a channel with B and is now somebody else's puppet."""

    def __init__(self, net: World, nursery: trio.Nursery, make: Callable[..., LinkedHost]) -> None:
        self.net, self._nursery, self._make = net, nursery, make
        self._randomness = random.Random(4)
        self.paid = 0
        self.took: list[float] = []  # seconds that each payment took

    async def prepare(self) -> None:
        self.victim = await self.net.add("B")
        self.payer, self.payee = await self.net.add("A", routes=False), await self.net.add("C", routes=False)
        puppet = await self.net.add("M", routes=False)
        await self.net.mine(101)
        for funder, other in ((self.payer, self.victim), (self.victim, self.payee), (puppet, self.victim)):
            if funder is self.victim:
                await other.owner.connect(self.victim.address)
            await self.net.channel(funder, other)
        self.puppet_secret = puppet.keys.identity_secret()
        await puppet.stop()
        del self.net.actors["M"]
        with trio.fail_after(20):
            while not self.payee.node.initializations.standing:  # noqa: ASYNC110
                await trio.sleep(0.05)
        self.contact = (await self.payee.owner.contact()).contact

    @property
    def host(self) -> LinkedHost:
        host = self.victim.node.host
        assert isinstance(host, LinkedHost)
        return host

    async def pay_on(self) -> None:
        """The honest client pays and pays; a payment that fails fails the test."""
        while True:
            began = trio.current_time()
            payment = await self.payer.pay(self.contact, 10_000 + self.paid)
            assert payment.phase is PayPhase.PAID, payment.reason
            self.took.append(trio.current_time() - began)
            self.paid += 1
            await trio.sleep(0.6)  # a payee takes 120 initializations a minute

    def streams(self, who: LinkedHost, protocol: str) -> int:
        """How many streams of a peer stand."""
        return [each.protocol for each in self.host._links[who.peer_id].streams].count(protocol)

    async def progress(self, payments: int = 1) -> None:
        """Wait until honest payments went through that began after now."""
        target = self.paid + 1 + payments
        with trio.fail_after(300):
            while self.paid < target:  # noqa: ASYNC110
                await trio.sleep(0.05)

    @asynccontextmanager
    async def attacker(self, secret: bytes | None = None) -> AsyncIterator[LinkedHost]:
        """A linked host: a stranger, or with this key."""
        host = self._make(
            secret or self._randomness.randbytes(32),
            network=self.net.network,
            genesis=REGTEST.genesis,
            config=HostConfig(queue_bytes=2**24, queue_frames=2**16),
        )
        async with host.running():
            await host.dial(self.victim.address)
            yield host

    async def raw(self, attacker: LinkedHost, protocol: str) -> ByteStream:
        """A stream below the frames; the link is made again when the last attack ended it."""
        for _ in range(10):
            with suppress(LinkClosed, Unreachable, KeyError):
                await attacker.dial(self.victim.address)
                return await attacker._links[self.host.peer_id].connection.open(protocol)
            await trio.sleep(0.05)
        raise AssertionError(f"no stream for {protocol}")

    async def fire(self, attacker: LinkedHost, protocol: str, attack: bytes, *, ends: bool) -> None:
        """Write it, and wait until the victim has ended the stream, or a moment where it need not."""
        stream = await self.raw(attacker, protocol)
        with suppress(LinkClosed):
            await stream.write(attack)
        with trio.move_on_after(5 if ends else 0.1) as patience, suppress(LinkClosed):
            while await stream.read():
                pass
        assert not (ends and patience.cancelled_caught), f"{protocol} stands after {attack[:40]!r}"
        await stream.reset()

    def held(self, peer: PeerId) -> int:
        """Bytes in the victim's queues for one peer."""
        links = [each for each in self.host._all.values() if each.peer == peer]
        return sum(stream._inbox.size + stream._outbox.size for each in links for stream in each.streams)

    def well(self) -> None:
        """The victim met no bug and has not halted."""
        assert self.host.counters.handler_errors == 0
        assert self.victim.node.halted() == ""
        assert self.victim.runs


@asynccontextmanager
async def flooding(*arguments: str) -> AsyncIterator[None]:
    """A `flooder` in a process of its own: what it costs to make a flood is not the victim's."""
    command = [sys.executable, str(Path(__file__).with_name("flooder.py")), *arguments]
    process = await trio.lowlevel.open_process(command, stdin=PIPE)
    try:
        yield
        assert process.poll() is None, "the flooder ended by itself"
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@asynccontextmanager
async def besieged(directory: Path, make: Callable[..., LinkedHost]) -> AsyncIterator[Siege]:
    async with world(directory) as net, trio.open_nursery() as nursery:
        siege = Siege(net, nursery, make)
        await siege.prepare()
        yield siege
        siege.well()
        nursery.cancel_scope.cancel()


@pytest.fixture
async def siege(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Siege]:
    make: Callable[..., LinkedHost] = MemoryHost
    if getattr(request, "param", "memory") == "libp2p":
        make = on_loopback
        monkeypatch.setattr(scenario_kit, "MemoryHost", on_loopback)
    async with besieged(tmp_path, make) as made:
        made._nursery.start_soon(made.pay_on)
        await made.progress()
        yield made
        await made.progress()


@pytest.mark.parametrize("siege", ["memory", "libp2p"], indirect=True)
async def test_whatever_is_written_ends_its_stream_with_a_reason_and_honest_payments_go_on(siege: Siege) -> None:
    counters = siege.host.counters
    with structlog.testing.capture_logs() as logs:
        for secret in (siege.puppet_secret, None):
            async with siege.attacker(secret) as attacker:
                for protocol in sorted(MESSAGES, key=lambda each: each == channel.PROTOCOL):
                    randomness = random.Random(f"{protocol}{secret is None}")
                    for attack in bad_bytes(randomness):
                        await siege.fire(attacker, protocol, attack, ends=True)
                        assert siege.held(attacker.peer_id) < 600_000
                    for _ in range(6):
                        await siege.fire(attacker, protocol, disorder(protocol, randomness), ends=False)
                await siege.progress()
        # All nine of the neighbour's on each protocol; a stranger is not even read on two of them.
        assert counters.bad_frames + counters.bad_messages >= 9 * 5 + 9 * 3
        assert counters.bad_frames >= 3 * 5
    reasons = [line for line in logs if "bad frame" in line["event"] or line.get("reason")]
    assert len(reasons) >= counters.bad_frames + counters.bad_messages
    assert not [line for line in logs if line["log_level"] in ("error", "critical") and "alarm" not in line["event"]]
    siege.well()


async def test_half_a_frame_and_then_silence_holds_little_and_not_for_ever(siege: Siege) -> None:
    async with siege.attacker(siege.puppet_secret) as attacker, siege.attacker() as stranger:
        for protocol in MESSAGES:
            for who in (attacker, stranger):
                for _ in range(5):
                    stream = await siege.raw(who, protocol)
                    with suppress(LinkClosed):
                        await stream.write(encode_varint(60_000) + bytes(59_999))
        await trio.sleep(0.2)
        for who in (attacker, stranger):
            assert siege.held(who.peer_id) < 600_000
            for protocol in MESSAGES:  # the newest takes the place of the older; the standing link has one of its own
                most = 1 + (protocol == link.PROTOCOL) * 5
                with trio.fail_after(10):  # one that was refused closes politely, which takes a few seconds at most
                    while siege.streams(who, protocol) > most:  # noqa: ASYNC110
                        await trio.sleep(0.1)
        await siege.progress(2)
    siege.well()


@pytest.mark.slow
@pytest.mark.parametrize("siege", ["libp2p"], indirect=True)
@pytest.mark.parametrize("floods", [("offers", "queries"), ("astray",), ("warnings", "deliveries")], ids="+".join)
async def test_payments_take_no_three_times_longer_while_a_neighbour_floods_with_lawful_messages(
    siege: Siege, floods: tuple[str, ...]
) -> None:
    await siege.progress(4)
    quiet = median(siege.took[-4:])
    async with flooding(siege.puppet_secret.hex(), siege.victim.address, *floods):
        with trio.fail_after(20):
            counters = siege.host.counters
            while not counters.slowed_peers + counters.bad_messages:  # noqa: ASYNC110 - it floods from here on
                await trio.sleep(0.05)
        await siege.progress(6)
        assert median(siege.took[-6:]) < 3 * quiet
        assert max(siege.held(peer) for peer in siege.host.connected()) < 4_000_000
    assert len(siege.victim.node.routing.engine._table.entries) <= 6000  # its budget, not what it sent
    siege.well()


async def test_strangers_who_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    async with besieged(tmp_path, MemoryHost) as siege:
        randomness = random.Random(11)

        async def visit() -> None:
            async with siege.attacker() as attacker:
                for protocol in MESSAGES:
                    for attack in (bad_bytes(randomness)[randomness.randrange(9)], disorder(protocol, randomness)):
                        await siege.fire(attacker, protocol, attack, ends=False)

        async def measure() -> tuple[int, int]:
            await trio.sleep(0.5)
            gc.collect()
            return tracemalloc.get_traced_memory()[0], trio.lowlevel.current_statistics().tasks_living

        async def visits(count: int) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(visit)

        tracemalloc.start()
        try:
            await visits(10)
            memory, tasks = await measure()
            for _ in range(3):
                await visits(10)
            memory_after, tasks_after = await measure()
        finally:
            tracemalloc.stop()
        assert tasks_after <= tasks
        assert memory_after - memory < 30 * 8_000  # what is remembered of a visitor: names in bounded tables
        payment = await siege.payer.pay(siege.contact, 12_345)
        assert payment.phase is PayPhase.PAID
