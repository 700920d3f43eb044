"""What watching for others costs: looking a full block up, memory, taking remedies in, and the bytes of one.

Blocks are as full as consensus allows, one kind with as many transactions as fit and one with as many bytes: a look-up costs
by the transaction, parsing by both. The hunter takes them as the node's follower hands them over, against hints on a disk
whose pages the system was told to forget. Floor: python-bitcoinlib taking the same blocks apart.
"""

import json
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import cast

import trio
from bitcoin.core import CBlock

from protocols.ids import PeerId, Txid
from protocols.units import AssetId, BlockDelta, BlockHeight, Sat, UnixTime
from protocols.watch.remedy import HINT_SIZE, SEALED_SIZES, BalancePair, Remedy, hint_of, seal
from protocols.wire.watch import CODEC, MAX_REMEDIES, PROTOCOL, HandOver, Receipt, SealedRemedy
from rrnode.chain.base import BlockRef, ChainBackend
from rrnode.chain.follower import Batch, FollowedBlock
from rrnode.chain.parse import Block, parse_block
from rrnode.host.base import HostConfig
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.services.hunting import Hunter, RewardWallet
from rrnode.services.watching import REQUESTS_AT_ONCE, WatchServer
from rrnode.storage.cases import CaseStore
from rrnode.storage.hints import BITS_PER_HINT, MOST_BITS
from rrnode.storage.remedies import RemedyStore
from tools.bench.table import Row, bench, seconds_of
from tools.bench.watched import UNTIL, fill, forget, full_block, opened

HINTS, MOST_HINTS = 200_000, 10_000_000
BLOCKS = 3  # of each kind
KINDS = {"as many transactions": 71, "as many bytes": 1_600}  # bytes of the witness beside its key
MOST_MEMORY = MOST_BITS // 8 + 16_000_000  # bytes: the largest filter, a page of hints, and SQLite's own cache
MISCHIEF = PeerId(b"\x03" + b"m" * 32)
MESSAGES = 90  # within what the server lets one sender ask at once
AIM_BYTES = 200.0
MEGABYTE, MILLION = 1e6, 1_000_000
assert MESSAGES < REQUESTS_AT_ONCE


@bench("watching", about=f"a full block against {HINTS:,} hints on disk; memory; remedies accepted; bytes of one")
def watching() -> Iterator[Row]:
    yield from _rows(HINTS)


@bench("watching-10m", about=f"the same with {MOST_HINTS:,} hints (3 GB of disk, three minutes)", long=True)
def watching_10m() -> Iterator[Row]:
    yield from _rows(MOST_HINTS)


def _rows(hints: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="rrnode-bench-") as directory:
        file = Path(directory) / "watch.sqlite"
        fill(file, hints)
        yield from _start(file, hints)
        with closing(opened(file)) as store:
            store.fill_filter()
            yield from _scans(store, file, hints)
            yield from _accepted(store, Path(directory), hints)
    yield _bytes_of_a_state()


def _start(file: Path, hints: int) -> Iterator[Row]:
    worker = [sys.executable, "-m", "tools.bench.watching_worker", str(file)]
    done = subprocess.run(worker, capture_output=True, text=True, timeout=600, check=True)
    taken: dict[str, float] = json.loads(done.stdout)
    fixed, whole = taken["fixed"] / MEGABYTE, taken["all"] / MEGABYTE
    yield Row(
        what=f"memory of a watcher's process for {hints:,} hints ({fixed:.1f} MB whatever their number)",
        figure=whole,
        unit="MB",
        floor=BITS_PER_HINT / 8 * hints / MEGABYTE,
        floor_is=f"{BITS_PER_HINT} bits for each",
        aim=MOST_MEMORY / MEGABYTE,
    )
    if hints >= MILLION:  # of fewer it is less than what an allocator leaves lying about
        yield Row(
            what="  that is, beside what is fixed, for each million",
            figure=(whole - fixed) * MILLION / hints,
            unit="MB",
            floor=BITS_PER_HINT / 8,
            floor_is=f"{BITS_PER_HINT} bits for each",
        )
    yield Row(
        what=f"opening the store and reading its {hints:,} hints, at the start",
        figure=taken["seconds"],
        unit="s",
        floor=seconds_of(partial(_read_plainly, file), rounds=1),
        floor_is="bare SQLite reading the same index",
    )


def _read_plainly(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        for _ in connection.execute("SELECT client, hint FROM remedies ORDER BY client, hint"):
            pass


# --- looking blocks up ------------------------------------------------------------------------------------------------


def _scans(store: RemedyStore, file: Path, hints: int) -> Iterator[Row]:
    rng = random.Random(13)
    for kind, witness in KINDS.items():
        raws = [full_block(rng, witness=witness) for _ in range(BLOCKS)]
        floor, parsing, scanning = (
            median(each) for each in zip(*(_scan(store, file, raw) for raw in raws), strict=True)
        )
        count = len(parse_block(raws[0]).transactions)
        size = f"{kind} as fit ({count:,}, {len(raws[0]) / MEGABYTE:.1f} MB)"
        for what, seconds in (
            (f"a full block, {size}, against {hints:,} hints", scanning),
            ("  and taking that block apart before, as the node does", parsing + scanning),
        ):
            yield Row(
                what=what,
                figure=seconds * 1e3,
                unit="ms",
                floor=floor * 1e3,
                floor_is="python-bitcoinlib taking it apart",
                aim=floor * 1e3,
            )


def _scan(store: RemedyStore, file: Path, raw: bytes) -> tuple[float, float, float]:
    """Seconds of python-bitcoinlib, of our parser, and of the hunter; one of the block's transactions has rubbish filed under
    its hint, so that something is found and opened."""
    floor = seconds_of(partial(CBlock.deserialize, raw), rounds=1)
    parsing = seconds_of(partial(parse_block, raw), rounds=1)
    block = parse_block(raw)
    rubbish = {hint_of(block.transactions[-1].txid): bytes(SEALED_SIZES[0])}
    store.put(MISCHIEF, UNTIL, rubbish, tip=BlockHeight(0), network="")
    hunter = Hunter(
        backend=cast(ChainBackend, None),  # for claims, of which there are none
        wallet=cast(RewardWallet, None),  # likewise
        remedies=store,
        store=CaseStore(store.database),
        buried_depth=6,
        now=lambda: UnixTime(0),
        alarm=lambda text: None,
    )
    forget(file)
    return floor, parsing, seconds_of(partial(trio.run, hunter.take, _batch(block)), rounds=1)


def _batch(block: Block) -> Batch:
    header = block.header
    ref = BlockRef(height=BlockHeight(1), hash=header.hash, previous=header.previous, time=header.time)
    followed = FollowedBlock(ref=ref, transactions=block.transactions)
    return Batch(tip=ref, fork=None, connected=(followed,), arrived=(), mempool=None, facts=())


# --- taking remedies in -----------------------------------------------------------------------------------------------


def _accepted(store: RemedyStore, directory: Path, hints: int) -> Iterator[Row]:
    rng = random.Random(17)
    for number, each in enumerate((MAX_REMEDIES, 1)):
        messages = [
            tuple(SealedRemedy(rng.randbytes(HINT_SIZE), rng.randbytes(SEALED_SIZES[0])) for _ in range(each))
            for _ in range(MESSAGES)
        ]
        seconds = trio.run(_hand_over, store, bytes([number + 6]) * 32, messages)
        yield Row(
            what=f"remedies accepted, on disk and receipted, {each} in a message, beside {hints:,}",
            figure=MESSAGES * each / seconds,
            unit="remedies/s",
            floor=MESSAGES * each / _commit_plainly(directory / f"floor-{each}.sqlite", messages),
            floor_is=f"the same bytes, {each} in a commit of bare SQLite",
        )


async def _hand_over(store: RemedyStore, secret: bytes, messages: Sequence[tuple[SealedRemedy, ...]]) -> float:
    """Seconds for a client that waits for each receipt, linked to the server in memory."""
    network, genesis, unbraked = MemoryNetwork(), bytes(32), HostConfig(peer_frames=10**9)
    host = MemoryHost(b"\x04" * 32, network=network, genesis=genesis, listen=("/memory/0",), config=unbraked)
    client = MemoryHost(secret, network=network, genesis=genesis, config=unbraked)
    WatchServer(
        host=host,
        store=store,
        secret=b"\x04" * 32,
        network=AssetId(genesis),
        height=lambda: BlockHeight(1),
        keep=BlockDelta(UNTIL),
        most=1,
    )
    frames = [CODEC.encode(HandOver(number, UNTIL, each)) for number, each in enumerate(messages)]
    async with host.running(), client.running():
        stream = await client.open_stream(await client.dial(host.addresses()[0]), PROTOCOL)
        await stream.receive()  # its terms
        start = trio.current_time()
        for frame in frames:
            await stream.send(frame)
            answer = CODEC.decode(await stream.receive())
            assert isinstance(answer, Receipt), answer
        return trio.current_time() - start


def _commit_plainly(file: Path, messages: Sequence[tuple[SealedRemedy, ...]]) -> float:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE floor (hint BLOB PRIMARY KEY, sealed BLOB NOT NULL) WITHOUT ROWID")

        def work() -> None:
            for message in messages:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(
                    "INSERT INTO floor VALUES (?, ?)", [(each.hint, each.sealed) for each in message]
                )
                connection.execute("COMMIT")

        return seconds_of(work, rounds=1)


# --- one remedy -------------------------------------------------------------------------------------------------------


def _bytes_of_a_state() -> Row:
    key = b"\x02" + bytes(32)
    balance = BalancePair(
        index=0, bounty=Sat(1000), signature=bytes(64), delayed_pubkey=key, to_self_delay=BlockDelta(144)
    )
    remedy = Remedy(payout=bytes(20), revocation_pubkey=key, balance=balance)
    return Row(
        what="a state without payments in flight, sealed and padded, with its hint",
        figure=HINT_SIZE + len(seal(remedy, Txid(bytes(32)), bytes(12))),
        unit="bytes",
        floor=64 + 20 + 32 + 32 + 7,
        floor_is="its signature, payout, two keys, delay, index and bounty",
        aim=AIM_BYTES,
    )
