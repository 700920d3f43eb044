"""A routing server with a crowd of clients that hold one subscription each and mostly sleep (DESIGN 1, "thousands of clients").

Floors are bare py-libp2p servers and clients, limits raised, doing the same: one stream per client, one write of the size of
a push to the client that is meant.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rrnode.demo.network import free_port
from rrnode.host.peer_text import peer_of
from tools.bench.crowd_worker import EDGE
from tools.bench.nodes import Orders, WorkerFailed
from tools.bench.table import Row, bench

QUICK, MANY = 200, 5000
PROCESSES = 4  # of clients: a process holds some thousand hosts
AT_ONCE = 8  # dials under way per process
IDLE_SECONDS = 15
PUSHES = 100
PAUSE = 0.02  # seconds between pushes: each meets a server at rest
FLOOD_SECONDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Attributes: memory: bytes of the server per idle client; idle: share of a processor per thousand idle clients;
    accept: clients a second, when all of them come at once; again: likewise, after a restart of the server; pushes: seconds
    from the order to the client, sorted; flooded: likewise, while one client floods."""

    memory: float
    idle: float
    accept: float
    again: float
    pushes: list[float]
    flooded: list[float]


class _Crowd:
    """Servers and clients of one kind, in processes of their own."""

    def __init__(self, stack: ExitStack, directory: Path, kind: str, count: int) -> None:
        self._stack, self._directory, self._kind = stack, directory, kind
        self.count = count
        self._listen = f"/ip4/127.0.0.1/tcp/{free_port()}"
        self.share = -(-count // PROCESSES)
        self.clients = [
            self._start(f"clients-{start}", "clients", first=start, count=min(self.share, count - start))
            for start in range(0, count, self.share)
        ]

    def _start(self, name: str, role: str, **order: Any) -> Orders:
        command = ["tools.bench.crowd_worker", role, self._kind, json.dumps(order)]
        started = Orders(f"{self._kind} {name}", command, self._directory / f"{self._kind}-{name}.log")
        self._stack.callback(started.end)
        return started

    def serve(self, name: str, **order: Any) -> tuple[Orders, list[str]]:
        """A server on the crowd's port, and its addresses: that one first, then one of its own."""
        server = self._start(name, "serve", listen=self._listen, **order)
        addresses: list[str] = server.do("hello")
        return server, addresses

    def join(self, address: str) -> float:
        """All clients dial and subscribe; seconds it took. Raises WorkerFailed: some could not."""
        began = time.monotonic()
        for each in self.clients:
            each.order("join", address=address, at_once=AT_ONCE)
        for each in self.clients:
            answer = each.answer()
            if answer["failed"]:
                raise WorkerFailed(f"{answer['failed']} of {self.count} clients did not get in: {answer['why']}")
        return time.monotonic() - began

    def push(self, server: Orders, amount: int, *, without_first: bool = False) -> list[float]:
        """Offers for some of the clients, one after the other; seconds until each had its own, sorted.

        Args:
            without_first: leave out the clients of the first process, which has something else to do.
        """
        asked = self.clients[1:] if without_first else self.clients
        self._received(asked)
        first = self.share if without_first else 0
        numbers = list(range(first, self.count, max(1, (self.count - first) // PUSHES)))
        sent = server.do("push", numbers=numbers, amount=amount, pause=PAUSE)
        received: dict[str, float] = {}
        end = time.monotonic() + 20
        while len(received) < len(sent) and time.monotonic() < end:
            received |= self._received(asked)
        if len(received) < len(sent):
            raise WorkerFailed(f"{len(sent) - len(received)} of {len(sent)} offers did not arrive")
        return sorted(received[number] - at for number, at in sent.items())

    @staticmethod
    def _received(clients: list[Orders]) -> dict[str, float]:
        found: dict[str, float] = {}
        for each in clients:
            found |= each.do("received")
        return found


@contextmanager
def _crowd(kind: str, count: int) -> Iterator[_Crowd]:
    with tempfile.TemporaryDirectory(prefix="rrnode-bench-") as directory, ExitStack() as stack:
        yield _Crowd(stack, Path(directory), kind, count)


def _measure(kind: str, count: int) -> Figures:
    with _crowd(kind, count) as crowd:
        server, (address, *_) = crowd.serve("server")
        empty = server.do("stats")
        joined = crowd.join(address)
        full = server.do("stats")
        if full["clients"] != count:
            raise WorkerFailed(f"the server has {full['clients']} clients of {count}")
        idle = server.do("idle", seconds=IDLE_SECONDS)
        pushes = crowd.push(server, 1000)
        flooded = []
        if kind == "ours":
            crowd.clients[0].order("flood", address=address, seconds=FLOOD_SECONDS)
            flooded = crowd.push(server, 900, without_first=True)
            crowd.clients[0].answer()
        server.end()
        _, (address, *_) = crowd.serve("server again")
        again = crowd.join(address)
        return Figures(
            memory=(full["rss"] - empty["rss"]) / count,
            idle=idle / count * 1000,
            accept=count / joined,
            again=count / again,
            pushes=pushes,
            flooded=flooded,
        )


def _rows(count: int) -> Iterator[Row]:
    raw, ours = _measure("raw", count), _measure("ours", count)
    bare = "bare libp2p"
    yield Row(
        what=f"{count} subscribed clients: memory of the server per idle client",
        figure=ours.memory,
        unit="bytes",
        floor=raw.memory,
        floor_is=bare,
    )
    yield Row(
        what="  processor of the server per thousand idle clients",
        figure=ours.idle * 100,
        unit="%",
        floor=raw.idle * 100,
        floor_is=f"{bare}, which would not notice a lost client",
    )
    yield Row(what="  a crowd comes in", figure=ours.accept, unit="clients/s", floor=raw.accept, floor_is=bare)
    yield Row(
        what="  the crowd comes back after a restart",
        figure=ours.again,
        unit="clients/s",
        floor=raw.again,
        floor_is=bare,
    )
    calm = median(ours.pushes)
    yield Row(
        what="  one client's offer, all others idle: order to client",
        figure=calm * 1e3,
        unit="ms",
        floor=median(raw.pushes) * 1e3,
        floor_is=bare,
    )
    yield Row(
        what="    the slowest of a hundred",
        figure=ours.pushes[-1] * 1e3,
        unit="ms",
        floor=raw.pushes[-1] * 1e3,
        floor_is=bare,
    )
    yield Row(
        what="  the same while one client asks as fast as it can",
        figure=median(ours.flooded) * 1e3,
        unit="ms",
        floor=calm * 1e3,
        floor_is="the same, in peace",
        aim=2 * calm * 1e3,
    )


def _shards(count: int) -> Iterator[Row]:
    """Two processes share key and port; the second takes its offers from the first one's feed."""
    with _crowd("ours", 2 * count) as crowd:
        first, (address, inner) = crowd.serve("first", share=True, followers=[peer_of(EDGE).hex()])
        second, _ = crowd.serve("second", share=True, follow=inner)
        joined = crowd.join(address)
        held = [each.do("stats")["clients"] for each in (first, second)]
        pushes = crowd.push(first, 1000)
        yield Row(
            what=f"two shards on one port, {held[0]} and {held[1]} clients: they come in",
            figure=2 * count / joined,
            unit="clients/s",
        )
        yield Row(
            what="  one client's offer, by the first or, over its feed, by the second",
            figure=median(pushes) * 1e3,
            unit="ms",
        )


@bench("crowd", about=f"a server with {QUICK} subscribed clients, and two shards with twice as many (a minute)")
def crowd() -> Iterator[Row]:
    """A crowd that is there in seconds."""
    yield from _rows(QUICK)
    yield from _shards(QUICK)


@bench("crowd-5000", about=f"the same with {MANY} and {2 * MANY} clients (a quarter of an hour)", long=True)
def crowd_many() -> Iterator[Row]:
    """As many as one process is asked to hold."""
    yield from _rows(MANY)
    yield from _shards(MANY)
