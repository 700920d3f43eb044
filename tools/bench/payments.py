"""What payments cost in the engines alone: no streams, no disk, no other process; every node of the chain in this one.

Offers have arrived before the clock starts; from the lock to the last revocation everything counts, on all nodes. Floor:
the signatures made and checked on the way, counted in a run of their own, at what one of each costs here and now.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from protocols.ids import PaymentHash
from protocols.onchain import ec
from protocols.payment.events import LockRequested, PayPhase
from protocols.routing.events import OffersWanted
from protocols.units import UnixTime
from tools.bench.table import Row, bench, seconds_of
from tools.simulate.disk import Disk
from tools.simulate.network import Network, default_config, hash_of, preimage_of

AMOUNT = 1_000_000
CAPACITY = 900_000_000
PAYMENTS = 200


class _NoDisk(Disk):
    """Stores cost nothing here; the real ones have a bench of their own."""

    def write(self, stores: Iterable[Any]) -> None:
        for _ in stores:
            pass


class _Line:
    """Nodes in a row, the first pays the last."""

    def __init__(self, hops: int) -> None:
        self.names = [f"node {number}" for number in range(hops + 1)]
        config = default_config()
        self.net = Network(*self.names, config=replace(config, channel=replace(config.channel, reserve_ppm=10_000)))
        for one, other in zip(self.names, self.names[1:], strict=False):
            self.net.channel(one, other, capacity=CAPACITY, push=0)
        for node in self.net.nodes.values():
            node.disk = _NoDisk()
        self.number = 0

    def offered(self, count: int) -> list[PaymentHash]:
        """So many payments with offers in place, ready to be locked."""
        hashes = []
        for _ in range(count):
            self.number += 1
            payment_hash = hash_of(preimage_of(self.number))
            until = UnixTime(self.net.now + 600)
            first, last = self.names[0], self.names[-1]
            self.net[first].route(OffersWanted(payment_hash=payment_hash, expiry=until, now=self.net.now))
            self.net.promise(last, self.number, AMOUNT)
            self.net.spread()
            self.net.order(first, last, self.number, AMOUNT)
            hashes.append(payment_hash)
        return hashes

    def pay(self, hashes: list[PaymentHash], in_flight: int) -> None:
        """Lock them, so many at a time, each group to its end."""
        for start in range(0, len(hashes), in_flight):
            orders = [LockRequested(payment_hash=each) for each in hashes[start : start + in_flight]]
            self.net.give(self.names[0], *orders)
            self.net.quiet()

    def check(self, hashes: list[PaymentHash]) -> None:
        """A bench of payments that fail would be worthless."""
        phases = {getattr(self.net[self.names[0]].money.payment(each), "phase", None) for each in hashes}
        assert phases == {PayPhase.PAID}, phases


def _signature_floor(hops: int, in_flight: int) -> float:
    """Seconds per payment for the signatures and verifications alone."""
    line, count = _Line(hops), max(20, in_flight)
    hashes = line.offered(count)
    counts = {"sign": 0, "verify": 0}
    sign, verify = ec.sign, ec.verify

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            counts[name] += 1
            return function(*arguments)

        return call

    ec.sign, ec.verify = counted("sign", sign), counted("verify", verify)
    try:
        line.pay(hashes, in_flight)
    finally:
        ec.sign, ec.verify = sign, verify
    line.check(hashes)
    secret, digest = hashlib.sha256(b"key").digest(), hashlib.sha256(b"digest").digest()
    key, signature = ec.point_of(secret), ec.sign(secret, digest)
    signing = seconds_of(lambda: [ec.sign(secret, digest) for _ in range(500)]) / 500
    verifying = seconds_of(lambda: [ec.verify(key, digest, signature) for _ in range(500)]) / 500
    return (counts["sign"] * signing + counts["verify"] * verifying) / count


@bench("payments-engines", about="payments through the engines of all nodes of a chain, in one process")
def payments() -> Iterator[Row]:
    """One channel and three hops, one and a hundred in flight."""
    for hops in (1, 3):
        for in_flight in (1, 100):
            line = _Line(hops)
            groups = [line.offered(PAYMENTS) for _ in range(3)]
            todo = iter(groups)
            seconds = seconds_of(lambda line=line, todo=todo, n=in_flight: line.pay(next(todo), n))  # type: ignore[misc]
            for group in groups:
                line.check(group)
            yield Row(
                what=f"payments over {hops} hop{'s' if hops > 1 else ''}, {in_flight} in flight, all nodes in one process",
                figure=PAYMENTS / seconds,
                unit="payments/s",
                floor=1 / _signature_floor(hops, in_flight),
                floor_is="their signatures, made and checked",
            )
