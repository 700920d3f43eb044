"""Processes of the demo: a chain, and the nodes around it; started, asked, and ended for certain.

Everything listens on this machine only. Each process belongs to the demo and ends with it, whatever happens.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rrnode.control.client import ControlClient, Json, NodeAway
from rrnode.errors import UserError

T = TypeVar("T")
PATIENCE = 60.0  # seconds for anything that should take a few; a busy machine is forgiven, a stuck one is not
LOOK_EVERY = 0.05


def wait_for(what: str, ask: Callable[[], T | None], patience: float = PATIENCE) -> T:
    """Ask until there is an answer.

    Raises:
        UserError: none came in time; `what` names what was waited for.
    """
    end = time.monotonic() + patience
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > end:
            raise UserError(f"waited {patience:.0f} s for {what}, in vain")
        time.sleep(LOOK_EVERY)


def _tail(path: Path, lines: int = 15) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


class Spawned:
    """A process of the demo, with its output in a file."""

    def __init__(self, name: str, command: list[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.name, self.log = name, log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def check(self) -> None:
        """Raises UserError with the end of its log when the process has ended."""
        if self.process.poll() is not None:
            raise UserError(
                f"{self.name} ended with code {self.process.returncode}:\n{_tail(self.log)}", f"its log is {self.log}"
            )

    def ask_to_end(self) -> None:
        """SIGTERM; `wait_for_end` follows."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGCONT)  # one that sleeps would not hear

    def wait_for_end(self) -> None:
        """Give it a few seconds, then end it."""
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class DemoNode:
    """One node of the demo: its directory, its process, and its control API.

    Args:
        within: what to put before a command, so that it runs in another network namespace.
    """

    def __init__(self, name: str, data_dir: Path, settings: Mapping[str, str], within: Sequence[str] = ()) -> None:
        self.name, self.data_dir, self.settings = name, data_dir, dict(settings)
        self._within = tuple(within)
        self._spawned: Spawned | None = None
        self.sleeps = False
        self.client = ControlClient(data_dir)
        answer = rrnode("--datadir", str(data_dir), "init", *_sets(self.settings), "--json")
        self.peer_id = str(_json(answer)["peer_id"])

    def start(self, **more: str) -> None:
        """Start the process; `wait_until_up` follows."""
        self.settings |= {key.replace("__", "."): value for key, value in more.items()}
        self.sleeps = False
        command = [*self._within, sys.executable, "-m", "rrnode.cli", "--datadir", str(self.data_dir), "start"]
        self._spawned = Spawned(self.name, command + _sets(self.settings), self.data_dir / "demo.log")

    def wait_until_up(self) -> Json:
        """The node's status once it answers and sees the chain."""

        def up() -> Json | None:
            assert self._spawned is not None
            self._spawned.check()
            try:
                status: Json = self.client.get("/status")
            except NodeAway:
                return None
            return status if status["chain"]["ready"] else None

        return wait_for(f"{self.name} to start", up)

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not ended since."""
        return self._spawned is not None

    @property
    def address(self) -> str:
        """Where it listens."""
        listening: list[str] = self.client.get("/status")["listening"]
        return listening[0]

    def channels(self) -> list[Json]:
        """Its channels."""
        found: list[Json] = self.client.get("/channels")
        return found

    def channel_with(self, other: "DemoNode") -> Json | None:
        """Its newest channel with another node."""
        return next((each for each in reversed(self.channels()) if each["peer_id"] == other.peer_id), None)

    def wallet_sat(self) -> int:
        """Its coins on the chain, confirmed or not."""
        balance = self.client.get("/wallet/balance")
        return int(balance["confirmed_sat"] + balance["unconfirmed_sat"])

    def stop(self) -> None:
        """End it in good order."""
        self.ask_to_end()
        self.wait_for_end()

    def ask_to_end(self) -> None:
        """Begin an orderly end."""
        if self._spawned is not None:
            self._spawned.ask_to_end()

    def wait_for_end(self) -> None:
        """Until the process is gone."""
        if self._spawned is not None:
            self._spawned.wait_for_end()
            self._spawned = None

    def put_to_sleep(self) -> None:
        """SIGSTOP: it does nothing until `wake`."""
        assert self._spawned is not None
        self._spawned.process.send_signal(signal.SIGSTOP)
        self.sleeps = True

    def wake(self) -> None:
        """Go on where it stood."""
        assert self._spawned is not None
        self._spawned.process.send_signal(signal.SIGCONT)
        self.sleeps = False

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self._spawned is not None:
            self._spawned.process.kill()
            self._spawned.process.wait()
            self._spawned = None


def rrnode(*arguments: str) -> str:
    """Run a command of ours to its end and give its output. Raises UserError with what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "rrnode.cli", *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    if done.returncode != 0:
        raise UserError(f"rrnode {' '.join(arguments)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _json(text: str) -> Any:
    import json

    return json.loads(text)


def _sets(settings: Mapping[str, str]) -> list[str]:
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


class DemoNetwork:
    """A chain process and nodes in one directory. A context manager: on leaving, nothing runs any more.

    Attributes:
        kept: whether it shall go on running when its stage is left.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kept = False
        self.nodes: list[DemoNode] = []
        self._chain: Spawned | None = None
        self.chain_url = ""
        self.cookie = directory / "chain" / ".cookie"

    def __enter__(self) -> "DemoNetwork":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start_chain(self, port: int, within: Sequence[str] = ()) -> None:
        """Start the embedded regtest as a process of its own, speaking Bitcoin Core's RPC on 127.0.0.1 of its namespace."""
        folder = self.directory / "chain"
        command = [*within, sys.executable, "-m", "rrnode.cli", "chain", "serve", "--datadir", str(folder)]
        self._start_chain([*command, "--port", str(port), "--cookie", str(self.cookie)], port, here=not within)

    def start_bitcoind(self, program: Path, port: int) -> None:
        """Start a Bitcoin Core on a regtest of its own, without peers."""
        folder = self.directory / "chain"
        self.cookie = folder / "regtest" / ".cookie"
        options = ("-regtest", f"-datadir={folder}", f"-rpcport={port}", "-listen=0", "-connect=0", "-dnsseed=0")
        frugal = ("-dbcache=4", "-par=1", "-disablewallet", "-debuglogfile=0")
        self._start_chain([str(program), *options, *frugal], port)

    def _start_chain(self, command: list[str], port: int, *, here: bool = True) -> None:
        folder = self.directory / "chain"
        folder.mkdir(mode=0o700)
        self.chain_url = f"http://127.0.0.1:{port}"
        chain = self._chain = Spawned("the chain", command, folder / "log")

        def there() -> bool:
            chain.check()
            return self.cookie.exists() and (not here or _listens(port))

        wait_for("the chain to start", there)

    def rpc(self, method: str, *parameters: Any) -> Any:
        """Ask the chain itself, as Bitcoin Core's RPC has it. Raises UserError."""
        import httpx

        user, _, password = self.cookie.read_text().strip().partition(":")
        question = {"jsonrpc": "1.0", "method": method, "params": parameters, "id": 1}
        try:
            answer = httpx.post(self.chain_url, json=question, auth=(user, password), trust_env=False, timeout=PATIENCE)
            told = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise UserError(f"the chain does not answer {method}: {error}") from None
        if told.get("error"):
            raise UserError(f"the chain refuses {method}: {told['error']}")
        return told["result"]

    @property
    def by_rpc(self) -> dict[str, str]:
        """The settings of a node that reaches the chain itself."""
        return {"chain__kind": "bitcoind", "chain__url": self.chain_url, "chain__cookie_file": str(self.cookie)}

    def add(self, name: str, within: Sequence[str] = (), **settings: str) -> DemoNode:
        """Make a node's directory; keyword `fees__ppm` is the setting fees.ppm."""
        chosen = {"node.network": "regtest"} | {key.replace("__", "."): value for key, value in settings.items()}
        node = DemoNode(name, self.directory / name, chosen, within)
        self.nodes.append(node)
        return node

    def stop(self) -> None:
        """End every process."""
        for node in self.nodes:
            node.ask_to_end()
        for node in self.nodes:
            node.wait_for_end()
        if self._chain is not None:
            self._chain.ask_to_end()
            self._chain.wait_for_end()
            self._chain = None


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that nobody uses now on an address of this machine.

    Raises:
        UserError: it has no such address. Linux owns all of 127.0.0.0/8, other systems only what they are told.
    """
    import socket

    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise UserError(
                f"nothing can listen on {address}: {error.strerror}",
                f"on macOS, give it this address: sudo ifconfig lo0 alias {address}",
            ) from None
        return int(probe.getsockname()[1])


@contextmanager
def interrupted_cleanly() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the demo through its context managers."""

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stage(directory: Path | None) -> Iterator[DemoNetwork]:
    """A network in a directory that is empty or not there yet; None: a temporary one.

    On leaving, nothing runs any more and a temporary directory is gone, unless the network is `kept` or has failed.

    Raises:
        UserError: the directory is not empty; or what failed inside, then with the place of the logs.
    """
    chosen = directory or Path(tempfile.mkdtemp(prefix="rrnode-demo-"))
    chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(chosen.iterdir()):
        raise UserError(f"{chosen} is not empty", "name a new directory with --directory")
    network, failed = DemoNetwork(chosen), False
    try:
        with interrupted_cleanly():
            yield network
    except UserError as error:
        failed = True
        logs = f"look at the logs in {chosen}"
        raise UserError(str(error), f"{error.hint}; or {logs}" if error.hint else logs) from None
    finally:
        if not network.kept:
            network.stop()
        if not (network.kept or failed or directory is not None):
            shutil.rmtree(chosen, ignore_errors=True)
