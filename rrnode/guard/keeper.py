"""The node's side of its guard: start it, keep it, show it signs of life, and end it when the node ends in good order."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from protocols.channel.state import Channel, Phase
from protocols.ids import ChannelId
from rrnode.errors import StorageFailed
from rrnode.guard.files import Heartbeat, guard_pid, read_closed, remove_closed, write_heartbeat

if TYPE_CHECKING:
    from rrnode.config import Settings

log = structlog.get_logger(__name__)

GUARD_LOG = "guard.log"
BEAT_EVERY = 10.0  # seconds; the guard waits thirty times as long before it calls a node hung
RESPAWN_AFTER = 30.0  # seconds between two tries to start a guard that does not stay
END_WITHIN = 5.0  # seconds that a guard gets to end

_CLOSED_ON_DISK = frozenset({Phase.FORCED, Phase.CLOSED})


class Keeper:
    """Keeps one guard for this node.

    Args:
        settings: as the node runs with, flags and environment included; the guard gets the same.
    """

    def __init__(self, settings: "Settings") -> None:
        self._settings, self._data_dir = settings, settings.data_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._spawned_at = -RESPAWN_AFTER

    @property
    def wanted(self) -> bool:
        """Whether a guard can do anything: not for a chain that lives in the node and ends with it."""
        return self._settings.chain.kind != "kernel"

    def begin(self, channels: Iterable[object]) -> tuple[ChannelId, ...]:
        """Say that this node lives, then read what the guard did meanwhile. To be called with the directory's lock held,
        after loading and **before any link to a peer**.

        Args:
            channels: as loaded (`protocols.channel.state.Channel`).

        Returns:
            Channels that the guard closed by force and that the disk still has open. Each must be closed by force
            before any peer is heard: the commitment that the guard published must never be revoked.

        Raises:
            StorageFailed: the guard's notes cannot be read; the node must not start.
        """
        self.beat(0, "")
        noted = read_closed(self._data_dir)
        known = {channel.channel_id: channel.phase for channel in channels if isinstance(channel, Channel)}
        remove_closed(self._data_dir, [each for each in noted if known.get(each, Phase.CLOSED) in _CLOSED_ON_DISK])
        return tuple(sorted(each for each in noted if known.get(each, Phase.CLOSED) not in _CLOSED_ON_DISK))

    def beat(self, height: int, halted: str) -> None:
        """One sign of life. Raises StorageFailed."""
        write_heartbeat(
            self._data_dir, Heartbeat(pid=os.getpid(), count=time.monotonic_ns(), height=height, halted=halted)
        )

    async def run(self, probe: Callable[[], Awaitable[tuple[int, str]]]) -> None:
        """Beat and keep the guard alive until cancelled.

        Args:
            probe: goes once through the node's engine and comes back with the height up to which the node has taken in
                the chain, and why it has halted ("" while it has not). While it does not come back, the heart stands
                still, which is the point.
        """
        while True:
            try:
                self.beat(*await probe())
            except StorageFailed as error:
                log.error("guard.no_heartbeat", reason=str(error))
            if self.wanted:
                await trio.to_thread.run_sync(self._see_to_the_guard)
            await trio.sleep(BEAT_EVERY)

    def _see_to_the_guard(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            log.warning("guard.ended", code=self._process.returncode)
            self._process = None
        if guard_pid(self._data_dir) is not None or self._process is not None:
            return
        if time.monotonic() - self._spawned_at < RESPAWN_AFTER:
            return
        self._spawned_at = time.monotonic()
        try:
            self._process = spawn(self._settings)
        except OSError as error:
            log.error("guard.not_started", reason=str(error))

    def end(self) -> None:
        """The node ends in good order: nobody needs to stand in for it. Waits a few seconds."""
        process, self._process = self._process, None
        pid = process.pid if process is not None else guard_pid(self._data_dir)
        if pid is None:
            return
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return
        if process is not None:
            try:
                process.wait(END_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def spawn(settings: "Settings") -> "subprocess.Popen[bytes]":
    """Start a guard in a session of its own, so that what ends the node does not end it. Raises OSError."""
    path: Path = settings.data_dir / GUARD_LOG
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "rrnode.guard"],
            stdin=subprocess.PIPE,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    assert process.stdin is not None
    with process.stdin as pipe:
        # The settings hold the password of the chain's RPC: through a pipe, where no other user can read along.
        pipe.write(pickle.dumps(settings))
    return process
