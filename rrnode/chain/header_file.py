"""The best chain's headers on disk, so that a client without a chain does not ask for all of them at each start (DESIGN 8).

A file of 80-byte headers, the checkpoint first. It is trusted no more than a helper: each header is checked by the rules of
its network when it is loaded, and what comes after the first bad one is asked for anew. Losing it costs time only.
"""

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import structlog
import trio

from protocols.light.headers import HEADER_SIZE, HeaderChain, InvalidHeader, split_headers
from protocols.units import BlockHeight, UnixTime

_BATCH = 2000  # headers checked at a time, some 30 ms: a million would hold up the node for a quarter of a minute

log = structlog.get_logger("rrnode.chain")


class HeaderFile:
    """Loads one chain and keeps it on disk; it cannot outgrow the chain itself (`MAX_HEADERS`, 80 MB).

    The guard of a node may use the same file: who has its lock writes, and others only read.
    """

    def __init__(self, path: Path | None, chain: HeaderChain) -> None:
        """Nothing is opened yet.

        Args:
            path: None keeps nothing.
        """
        self._path, self._chain = path, chain
        self._file: BinaryIO | None = None
        self._is_ours = False  # locked, and what it holds is a beginning of the chain

    @asynccontextmanager
    async def open(self, now: UnixTime) -> AsyncIterator[None]:
        """Put what is kept on top of the chain, and keep what it adopts while inside. A bad file is never an error.

        Args:
            now: our clock.
        """
        try:
            if self._path is not None:
                await self._begin(self._path, now)
            yield
        finally:
            self._close()

    async def _begin(self, path: Path, now: UnixTime) -> None:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._file = os.fdopen(descriptor, "r+b")
            self._is_ours = self._lock(self._file)
            await self._load(self._file, now)
        except OSError as error:
            self._give_up(error)

    async def _load(self, file: BinaryIO, now: UnixTime) -> None:
        await trio.lowlevel.checkpoint()
        if file.read(HEADER_SIZE) != self._chain.raw_above(self._chain.base - 1):
            # A new file, one from another checkpoint; or the chain has more than its checkpoint, for it runs once more.
            self._write(self._chain.base - 1)
            return
        while len(raw := file.read(_BATCH * HEADER_SIZE)) >= HEADER_SIZE:
            headers = split_headers(raw[: len(raw) - len(raw) % HEADER_SIZE])
            if not self._take(headers, now):
                return  # the first header that is adopted is written there, and the rest is cut off
            await trio.lowlevel.checkpoint()

    def _take(self, headers: tuple[bytes, ...], now: UnixTime) -> bool:
        """Put them on top; False when one of them is bad. Those before it are taken."""
        branch = self._chain.branch(self._chain.tip.hash)
        assert branch is not None
        try:
            branch.extend(headers, now)
        except InvalidHeader as error:
            log.warning("chain.kept_headers_refused", file=str(self._path), reason=str(error))
            return False
        finally:
            if branch.work:
                self._chain.adopt(branch)
        return True

    def adopted(self, fork: BlockHeight) -> None:
        """The chain has other headers above this height. Never waits; a disk that fails ends the keeping, nothing else."""
        if self._file is None:
            return
        if not self._is_ours:
            self._is_ours = self._lock(self._file)
            fork = BlockHeight(self._chain.base - 1)  # who had the lock may have written another chain
        self._write(fork)

    def _write(self, fork: int) -> None:
        if self._file is None or not self._is_ours:
            return
        try:
            self._file.seek((fork + 1 - self._chain.base) * HEADER_SIZE)
            self._file.write(self._chain.raw_above(fork))
            self._file.truncate()
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    @staticmethod
    def _lock(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _give_up(self, error: OSError) -> None:
        log.warning("chain.headers_not_kept", file=str(self._path), reason=error.strerror)
        self._close()

    def _close(self) -> None:
        file, self._file, self._is_ours = self._file, None, False
        if file is not None:
            try:
                file.close()
            except OSError as error:  # a disk without room: what was to be written is lost
                log.debug("chain.headers_not_kept", file=str(self._path), reason=error.strerror)
