"""Processes of the bench's node network: worker nodes that take orders line by line, a chain, and raw libp2p relays."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from rrnode.demo.network import DemoNetwork, free_port

ENDS_WITHIN = 15.0  # seconds for a process to end by itself
CAPACITY_SAT = 20_000_000
LINKS = (("A", "B"), ("B", "D"), ("B", "C"), ("C", "D"), ("E", "D"))  # dialler first
CHANNELS = (("A", "B"), ("B", "D"), ("B", "C"), ("C", "D"), ("D", "E"))  # funder first


class WorkerFailed(Exception):
    """A process of the bench said no, or ended."""


class Orders:
    """A process that answers each line of JSON with one. A context manager; on leaving, it has ended."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name, self._log = name, log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def order(self, do: str, **arguments: Any) -> None:
        """Give an order; `answer` follows."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # its end shows when the answer is read
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()

    def answer(self) -> Any:
        """What came of the oldest order. Raises WorkerFailed."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])
            raise WorkerFailed(f"{self.name} ended:\n{tail}")
        found = json.loads(line)
        if "error" in found:
            raise WorkerFailed(f"{self.name}: {found['error']}")
        return found["answer"]

    def do(self, do: str, **arguments: Any) -> Any:
        """An order and its answer."""
        self.order(do, **arguments)
        return self.answer()

    def end(self) -> None:
        """Close its standard input, its sign to end; end it if it does not."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            self.process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Line:
    """The example network: five workers and a chain, linked, funded and open."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nodes: dict[str, Orders] = {}
        self.who: dict[str, dict[str, Any]] = {}
        self._chain = DemoNetwork(directory)

    def __enter__(self) -> "Line":
        try:
            self._set_up()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def __getitem__(self, name: str) -> Orders:
        return self.nodes[name]

    def end(self, *names: str) -> None:
        """End these nodes, or everything."""
        for name in names or tuple(self.nodes):
            self.nodes.pop(name).end()
        if not names:
            self._chain.stop()

    def _start(self, name: str, **more: Any) -> None:
        order = {
            "dir": str(self.directory / name),
            "routes": name in "BCD",
            "chain": self._chain.chain_url,
            "cookie": str(self._chain.cookie),
            **more,
        }
        self.nodes[name] = Orders(name, ["tools.bench.node_worker", json.dumps(order)], self.directory / f"{name}.log")

    def _set_up(self) -> None:
        self._chain.start_chain(free_port())
        self._start("B")
        self.who["B"] = self.nodes["B"].do("hello")
        # D asks more of B than of C, so that the short way is heard of first and the longer one is cheaper.
        self._start("D", fees=[f"{self.who['B']['peer']} 5000 2500"])
        self._start("C", delta=3)  # its own delta is short, so that what the payer's slack leaves is enough (R5)
        self._start("A")
        self._start("E")
        for name, node in self.nodes.items():
            self.who[name] = node.do("hello")
            node.do("mine", blocks=4)
        self._mine(101)
        for dialler, other in LINKS:
            self.nodes[dialler].do("connect", address=self.who[other]["addresses"][0])
        for funder, other in CHANNELS:
            self.nodes[funder].do("open", peer=self.who[other]["hex"], capacity=CAPACITY_SAT)
        self._mine(2)
        for name, count in (("A", 1), ("B", 3), ("C", 2), ("D", 3), ("E", 1)):
            self.nodes[name].do("usable", channels=count)

    def _mine(self, blocks: int) -> None:
        height = self.nodes["B"].do("mine", blocks=blocks, ours=False)
        for node in self.nodes.values():
            node.do("caught_up", height=height)

    def stats(self) -> dict[str, float]:
        """What all nodes have spent so far, summed."""
        total: dict[str, float] = {}
        for node in self.nodes.values():
            for key, value in node.do("stats").items():
                total[key] = total.get(key, 0.0) + value
        return total


@contextmanager
def example_network() -> Iterator[Line]:
    """The example network in a directory of its own, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="rrnode-bench-") as directory, Line(Path(directory)) as line:
        yield line


def raw_hop_seconds(links: int = 3) -> list[float]:
    """What one hop costs bare py-libp2p processes in a line, one message at a time: seconds, one figure per round.

    Each round is a message there and back over `links` links, divided by the hops that it makes.
    """
    relays: list[subprocess.Popen[str]] = []
    command = [sys.executable, "-m", "tools.bench.relay_worker"]
    try:
        address = ""
        for _ in range(links):
            started = subprocess.Popen(
                [*command, address] if address else command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libp2p reports each end of a connection
                text=True,
            )
            relays.append(started)
            assert started.stdout is not None
            address = started.stdout.readline().strip()
            if not address:
                raise WorkerFailed("a raw libp2p relay did not start")
        done = subprocess.run([*command, "measure", address], capture_output=True, text=True, timeout=60, check=True)
        return [trip / (2 * links) for trip in json.loads(done.stdout)]
    finally:
        for relay in reversed(relays):
            assert relay.stdin is not None
            relay.stdin.close()  # its sign to end
        for relay in relays:
            try:
                relay.wait(10)
            except subprocess.TimeoutExpired:
                relay.kill()
                relay.wait()
            assert relay.stdout is not None
            relay.stdout.close()
