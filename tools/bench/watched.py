"""What a watcher watches, made for the bench: a store with millions of hints, and blocks as full as consensus allows (BIP 141)."""

import os
import random
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from protocols.ids import PeerId
from protocols.units import BlockHeight
from protocols.watch.remedy import HINT_SIZE, SEALED_SIZES
from rrnode.chain.parse import HEADER_SIZE, compact_size, parse_transaction
from rrnode.storage.remedies import Quotas, RemedyStore, on_disk

PER_CLIENT = 64_000  # hints; what a watcher's room for one client is at first (`watch.client_bytes`)
UNTIL = BlockHeight(1_000_000)
ROOM = 1 << 50  # bytes: no quota is measured here
MAX_WEIGHT = 4_000_000
_FRAME_WEIGHT = 4 * (HEADER_SIZE + 3)  # of a block beside its transactions
_WATCHER = PeerId(b"\x02" + b"w" * 32)


def opened(file: Path) -> RemedyStore:
    """The store of the bench's watcher."""
    return RemedyStore.open(
        file, node_id=_WATCHER, network="regtest", quotas=Quotas(total=ROOM, client=ROOM, network=ROOM)
    )


def fill(file: Path, hints: int, seed: int = 7) -> None:
    """Make a store with so many remedies, as it would be had clients handed them over, in some microseconds each.

    Past the product, whose synced commits would take half an hour for ten million: in the order of the key, indexes afterwards,
    nothing synced before the end.
    """
    opened(file).close()
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'remedies' AND sql IS NOT NULL"
        ).fetchall()
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("BEGIN")
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        connection.executemany("INSERT INTO watch_clients (number, peer, used_bytes) VALUES (?, ?, ?)", _clients(hints))
        connection.executemany(
            "INSERT INTO remedies (hint, client, until, sealed) VALUES (?, ?, ?, ?)", _remedies(hints, seed)
        )
        for _, sql in indexes:
            connection.execute(sql)
        connection.execute("COMMIT")
    with file.open("rb+") as written:
        os.fsync(written.fileno())


def _clients(hints: int) -> Iterator[tuple[int, bytes, int]]:
    clients = -(-hints // PER_CLIENT)
    for number in range(clients):
        count = len(range(number, hints, clients))
        yield number + 1, b"\x02" + number.to_bytes(32, "big"), count * on_disk(SEALED_SIZES[0])


def _remedies(hints: int, seed: int) -> Iterator[tuple[bytes, int, int, bytes]]:
    """One random hint from each of so many equal parts of all that there are, so that they come in order."""
    rng = random.Random(seed)
    clients, part = -(-hints // PER_CLIENT), (1 << 8 * HINT_SIZE) // hints
    for number in range(hints):
        hint = number * part + rng.randrange(part)
        yield hint.to_bytes(HINT_SIZE, "big"), number % clients + 1, UNTIL, rng.randbytes(SEALED_SIZES[0])


def forget(file: Path) -> None:
    """Have the system drop what it holds of a file in memory, where it can be asked to: what is read next is on disk."""
    if hasattr(os, "posix_fadvise"):
        with file.open("rb") as opened_file:
            os.posix_fadvise(opened_file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def full_block(rng: random.Random, *, witness: int) -> bytes:
    """As many transactions as a block can weigh. No miner's work, no coinbase: it is to be read, not believed.

    Args:
        witness: bytes of each transaction's witness beside the key.
    """
    first = _transaction(rng, witness)
    count = (MAX_WEIGHT - _FRAME_WEIGHT) // parse_transaction(first).weight
    others = (_transaction(rng, witness) for _ in range(count - 1))
    return b"".join((rng.randbytes(HEADER_SIZE), compact_size(count), first, *others))


def _transaction(rng: random.Random, witness: int) -> bytes:
    """The smallest that is ordinary: one input, one P2WPKH output."""
    return b"".join(
        (
            b"\x02\x00\x00\x00\x00\x01\x01",
            rng.randbytes(36),
            b"\x00\xfd\xff\xff\xff\x01",
            struct.pack("<q", rng.randrange(1000, 10**8)),
            b"\x16\x00\x14",
            rng.randbytes(20),
            b"\x02",
            compact_size(witness),
            rng.randbytes(witness),
            b"\x21\x02",
            rng.randbytes(32),
            bytes(4),
        )
    )
