"""What chain tests are made of: coins that anybody can spend, transactions on them, and rigs that hold a running backend.

Given to tests by the fixture `kit`. Coins sit in P2WSH of OP_TRUE, so no test of the chain needs a key.
"""

import hashlib
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import trio

from bootstrap.networks import REGTEST, Network
from protocols.errors import DecodeError
from protocols.ids import Txid
from protocols.onchain import ec
from protocols.onchain import tx as onchain
from protocols.units import Sat
from rrnode.chain.base import NO_INTERESTS, ChainBackend, Interests, Miner, PublishResult, Verdict
from rrnode.chain.bitcoind import BitcoindChain
from rrnode.chain.fees import FeeCoin
from rrnode.chain.kernel import KernelChain
from rrnode.chain.parse import Tx, compact_size, outpoint, parse_block, parse_transaction
from rrnode.chain.remote import RemoteChain
from rrnode.chain.rpc_server import serving
from rrnode.errors import ChainUnavailable
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.services.chainfacts import ChainFactsServer

OPEN_SCRIPT = bytes.fromhex("51")
OPEN = b"\x00\x20" + hashlib.sha256(OPEN_SCRIPT).digest()
LOCKED_SCRIPT = bytes.fromhex("00")
LOCKED = b"\x00\x20" + hashlib.sha256(LOCKED_SCRIPT).digest()  # nobody can spend it
ANCHOR = bytes.fromhex("51024e73")
FINAL = 0xFFFFFFFD


def coin(tx: Tx, index: int = 0) -> tuple[bytes, int, bytes]:
    """An output as (outpoint, value, script), to be spent."""
    return outpoint(tx.txid, index), tx.outputs[index].value, tx.outputs[index].script


def build(
    coins: Sequence[tuple[bytes, int, bytes]],
    outputs: Sequence[tuple[int, bytes]],
    *,
    version: int = 2,
    sequence: int = FINAL,
    lock_time: int = 0,
) -> Tx:
    """A transaction on open coins and anchors; whatever it does not pay out is fee."""
    parts = [struct.pack("<I", version), b"\x00\x01", compact_size(len(coins))]
    parts += [place + b"\x00" + struct.pack("<I", sequence) for place, _, _ in coins]
    parts.append(compact_size(len(outputs)))
    parts += [struct.pack("<q", value) + compact_size(len(script)) + script for value, script in outputs]
    witness = {OPEN: b"\x01\x01" + OPEN_SCRIPT, LOCKED: b"\x01\x01" + LOCKED_SCRIPT}
    parts += [witness.get(script, b"\x00") for _, _, script in coins]
    parts.append(struct.pack("<I", lock_time))
    return parse_transaction(b"".join(parts))


def pay(coins: Sequence[tuple[bytes, int, bytes]], fee: int, *, version: int = 2, sequence: int = FINAL) -> Tx:
    """One open output with everything but the fee."""
    return build(coins, [(sum(value for _, value, _ in coins) - fee, OPEN)], version=version, sequence=sequence)


def commitment(source: tuple[bytes, int, bytes], *, anchor: int = 0, mark: int = 0) -> Tx:
    """A version 3 transaction without fee and with an anchor, as channels close by force (output 1 is the anchor)."""
    rest = source[1] - anchor - mark
    outputs = [(rest, OPEN), (anchor, ANCHOR)]
    if mark:
        outputs.append((mark, OPEN))
    return build([source], outputs, version=3)


async def funded(chain: ChainBackend, count: int = 3) -> list[tuple[bytes, int, bytes]]:
    """Mine until so many coins are mature and give them."""
    hashes = await chain.mine(count, OPEN)  # type: ignore[attr-defined]
    await chain.mine(100, LOCKED)  # type: ignore[attr-defined]
    coins = []
    for block_hash in hashes:
        coins.append(coin(parse_block(await chain.block(block_hash)).transactions[0]))
    return coins


def free_port() -> int:
    """A port of loopback that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Rig:
    """A backend whose chain can be taken away and brought back. `chain` is what tests talk to."""

    chain: ChainBackend

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        self.directory, self._nursery = directory, nursery
        self._stop, self._stopped = trio.Event(), trio.Event()

    async def start(self) -> None:
        """Bring the chain up."""
        self._stop, self._stopped = trio.Event(), trio.Event()
        await self._nursery.start(self._run)

    async def stop(self) -> None:
        """Take the chain away, in good order."""
        self._stop.set()
        await self._stopped.wait()

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            await self._hold(task_status)
        finally:
            self._stopped.set()

    async def _hold(self, task_status: trio.TaskStatus[None]) -> None:
        raise NotImplementedError

    def client(self, network: Network = REGTEST) -> BitcoindChain | None:
        """Another client of the same chain, None where it is not reached by RPC."""
        return None


class KernelRig(Rig):
    """The embedded chain in this process."""

    async def _hold(self, task_status: trio.TaskStatus[None]) -> None:
        self.chain = KernelChain(self.directory / "regtest")
        async with self.chain.running():
            task_status.started()
            await self._stop.wait()


class _RpcRig(Rig):
    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        super().__init__(directory, nursery)
        self.port = free_port()
        self._client: BitcoindChain | None = None

    @property
    def cookie(self) -> Path:
        raise NotImplementedError

    def client(self, network: Network = REGTEST) -> BitcoindChain:
        return BitcoindChain(f"http://127.0.0.1:{self.port}", network=network, cookie=self.cookie, poll_every=0.05)

    async def start(self) -> None:
        await super().start()
        if self._client is None:
            self._client = self.client()
            self.chain = self._client
            await self._nursery.start(self._keep_client, self._client)

    async def _keep_client(self, client: BitcoindChain, task_status: trio.TaskStatus[None]) -> None:
        async with client.running():
            task_status.started()
            await trio.sleep_forever()


class ServedRig(_RpcRig):
    """The embedded chain behind its RPC server, reached over loopback."""

    @property
    def cookie(self) -> Path:
        return self.directory / "cookie"

    async def _hold(self, task_status: trio.TaskStatus[None]) -> None:
        kernel = KernelChain(self.directory / "regtest")
        async with kernel.running(), serving(kernel, port=self.port, cookie=self.cookie):
            task_status.started()
            await self._stop.wait()


class CoreRig(_RpcRig):
    """A real Bitcoin Core on a regtest of its own. `options` go to its command line."""

    def __init__(self, directory: Path, nursery: trio.Nursery, *, program: Path, options: Sequence[str] = ()) -> None:
        super().__init__(directory, nursery)
        self._program, self._options = program, options

    @property
    def cookie(self) -> Path:
        return self.directory / "core" / "regtest" / ".cookie"

    async def _hold(self, task_status: trio.TaskStatus[None]) -> None:
        data = self.directory / "core"
        data.mkdir(exist_ok=True)
        options = (
            "-regtest", f"-datadir={data}", f"-rpcport={self.port}", "-listen=0", "-connect=0", "-dnsseed=0",
            "-dbcache=4", "-par=1", "-disablewallet", "-persistmempool=1", "-debuglogfile=0", "-printtoconsole=0",
        )  # fmt: skip
        command = [str(self._program), *options, *self._options]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with trio.fail_after(30):
                await _until_answering(self.client, process)
            task_status.started()
            await self._stop.wait()
        finally:
            with trio.CancelScope(shield=True):
                if process.returncode is None:
                    process.send_signal(signal.SIGTERM)
                with trio.move_on_after(20) as patience:
                    await process.wait()
                if patience.cancelled_caught:
                    process.kill()
                    await process.wait()


async def _until_answering(client: Callable[[], BitcoindChain], process: trio.Process) -> None:
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"bitcoind ended with exit code {process.returncode}")
        try:
            async with client().running():
                return
        except ChainUnavailable:
            await trio.sleep(0.05)  # a process of its own: there is no event to wait for


def crash(directory: Path, code: str) -> None:
    """Run code in another process that is killed where it stands, with the chain of this directory open."""
    process = subprocess.run(["python", "-c", code, str(directory)], check=False, env=os.environ)
    assert process.returncode in (-signal.SIGKILL, 137)


core_rig = partial(CoreRig)
TXID_OF_NOTHING = Txid(bytes(32))


class KeyWallet:
    """A FeeWallet of one key, which is told its coins; signs for real."""

    def __init__(self, secret: bytes = b"\x11" * 32) -> None:
        self._secret, self.key = secret, ec.point_of(secret)
        self.script = b"\x00\x14" + hashlib.new("ripemd160", hashlib.sha256(self.key).digest()).digest()
        self.free: list[FeeCoin] = []
        self.held: dict[bytes, list[FeeCoin]] = {}

    def add(self, tx: Tx) -> None:
        """Take the outputs of this confirmed transaction that are ours."""
        for index, output in enumerate(tx.outputs):
            if output.script == self.script:
                self.free.append(FeeCoin(txid=tx.txid, index=index, value=output.value, script=output.script))

    def confirmed(self, tx: Tx) -> None:
        """A block holds this spend of our coins: they are gone, and the change is there."""
        for purpose, coins in self.held.items():
            self.held[purpose] = [each for each in coins if outpoint(each.txid, each.index) not in tx.prevouts]
        self.add(tx)

    async def reserve_coins(self, purpose: bytes, at_least: Sat) -> tuple[FeeCoin, ...]:
        held = self.held.setdefault(purpose, [])
        while sum(each.value for each in held) < at_least and self.free:
            self.free.sort(key=lambda each: each.value)
            held.append(self.free.pop())
        return tuple(held)

    async def release_coins(self, purpose: bytes) -> None:
        self.free += self.held.pop(purpose, [])

    async def fee_purposes(self) -> tuple[bytes, ...]:
        return tuple(purpose for purpose, coins in self.held.items() if coins)

    async def change_script(self, purpose: bytes) -> bytes:
        return self.script

    async def sign(self, transaction: bytes, coins: tuple[FeeCoin, ...], spent: tuple[tuple[Sat, bytes], ...]) -> bytes:
        parsed = onchain.parse(transaction)
        witnesses = [each.witness for each in parsed.inputs]
        for each in coins:
            number = next(n for n, i in enumerate(parsed.inputs) if (i.txid, i.index) == (each.txid, each.index))
            code = b"\x76\xa9\x14" + each.script[2:] + b"\x88\xac"
            digest = onchain.input_digest(parsed, number, code, each.value)
            witnesses[number] = (ec.to_der(ec.sign(self._secret, digest)) + b"\x01", self.key)
        return onchain.with_witnesses(parsed.base(), witnesses)


async def with_coins(chain: ChainBackend, wallet: KeyWallet, *values: int) -> None:
    """Give the wallet confirmed coins of these values."""
    (source,) = await funded(chain, 1)
    rest = source[1] - sum(values) - 1000
    tx = build([source], [*((value, wallet.script) for value in values), (rest, LOCKED)])
    assert (await chain.publish((tx.raw,))).verdict is Verdict.ACCEPTED
    await chain.mine(1, LOCKED)  # type: ignore[attr-defined]
    wallet.add(tx)


def coin_of_block(raw: bytes) -> tuple[bytes, int, bytes]:
    """A block's coinbase output, to be spent when it is mature."""
    return coin(parse_block(raw).transactions[0])


class SeenChain(RemoteChain, Miner):
    """A chain seen through helpers, with a miner behind the scenes: what is mined is waited for.

    `published` stands for the interests of whoever published: contract tests ask for the whole mempool.
    """

    whole: KernelChain
    published = NO_INTERESTS

    async def block(self, block_hash: bytes) -> bytes:
        """What a test may see, and a client without a chain may not."""
        return await self.whole.block(block_hash)

    async def publish(self, transactions: tuple[bytes, ...]) -> PublishResult:
        with suppress(DecodeError):
            for tx in map(parse_transaction, transactions):
                self.published |= Interests(txids=frozenset((tx.txid,)), outpoints=frozenset(tx.prevouts))
        return await super().publish(transactions)

    async def mempool(self, interests: Interests = NO_INTERESTS) -> tuple[Txid, ...]:
        return await super().mempool(interests | self.published)

    async def mine(self, blocks: int, script: bytes) -> tuple[bytes, ...]:
        hashes = await self.whole.mine(blocks, script)
        await self.caught_up()
        return hashes

    async def invalidate(self, block_hash: bytes) -> None:
        await self.whole.invalidate(block_hash)
        await self.caught_up()

    async def caught_up(self) -> None:
        """Wait until every helper's headers were followed to the tip."""
        wanted = await self.whole.tip()
        while (tip := await self.tip()) != wanted or any(each.trouble or each.lag for each in self.helpers()):
            await self.wait_for_change(tip, self._version)


class RemoteRig(Rig):
    """An embedded chain served by three helpers to a client that has none, over a memory network."""

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        super().__init__(directory, nursery)
        self._network = MemoryNetwork()
        self._host = MemoryHost(b"\x51" * 32, network=self._network, genesis=REGTEST.genesis)
        self._secrets = [bytes([number]) * 32 for number in (0x61, 0x62, 0x63)]
        self._client: SeenChain | None = None

    async def start(self) -> None:
        await super().start()
        if self._client is None:
            self.chain = self._client = SeenChain(self._host, self._addresses, REGTEST)
            await self._nursery.start(self._keep_client, self._client)
        self._client.whole = self.kernel
        for address in self._addresses:
            await self._host.dial(address)
        await self._client.caught_up()

    async def _keep_client(self, client: SeenChain, task_status: trio.TaskStatus[None]) -> None:
        async with self._host.running(), client.running():
            task_status.started()
            await trio.sleep_forever()

    async def _hold(self, task_status: trio.TaskStatus[None]) -> None:
        self.kernel = KernelChain(self.directory / "regtest")
        async with self.kernel.running(), AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            hosts = []
            for number, secret in enumerate(self._secrets, start=1):
                listen = (f"/memory/{number}",)
                host = MemoryHost(secret, network=self._network, genesis=REGTEST.genesis, listen=listen)
                await stack.enter_async_context(host.running())
                nursery.start_soon(ChainFactsServer(host=host, chain=self.kernel, look_every=0.001).run)
                hosts.append(host)
            self._addresses = [host.addresses()[0] for host in hosts]
            task_status.started()
            await self._stop.wait()
            nursery.cancel_scope.cancel()


RIGS: dict[str, Callable[..., Rig]] = {"kernel": KernelRig, "served": ServedRig, "remote": RemoteRig}
