"""What the node and its guard leave for each other in the data directory (DESIGN 9).

- `heartbeat`: the node lives, has taken in the chain up to a height, or has halted. Written by the node, atomically.
- `guard-closed`: channels that the guard closed by force, one id a line. On disk before the commitment is published: a
  node that starts again must close them too, before it speaks to a peer, or it could revoke what is being mined.
- `guard.lock`: held by the one guard of this directory, with its process id inside.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from protocols.ids import ChannelId
from rrnode.errors import StorageFailed, UserError

HEARTBEAT, CLOSED, LOCK = "heartbeat", "guard-closed", "guard.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a node says of itself.

    Attributes:
        pid: of the process that wrote it.
        count: grows with every beat, so that a reader needs no clock in common.
        height: up to which the node has taken in the chain.
        halted: why it takes on nothing new, "" while all is well. A node that has halted never commits again.
    """

    pid: int
    count: int
    height: int
    halted: str = ""


def write_heartbeat(data_dir: Path, beat: Heartbeat) -> None:
    """Replace the heartbeat. Raises StorageFailed."""
    fields = {"pid": beat.pid, "count": beat.count, "height": beat.height, "halted": beat.halted}
    _replace(data_dir / HEARTBEAT, json.dumps(fields) + "\n", sync=False)


def read_heartbeat(data_dir: Path) -> Heartbeat | None:
    """The last heartbeat, None when there is none or it is unreadable (which is the same: nobody says he lives)."""
    try:
        fields = json.loads((data_dir / HEARTBEAT).read_text())
        return Heartbeat(
            pid=int(fields["pid"]),
            count=int(fields["count"]),
            height=int(fields["height"]),
            halted=str(fields["halted"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_closed(data_dir: Path) -> frozenset[ChannelId]:
    """Channels that the guard closed by force and that the node has not taken note of.

    Raises:
        StorageFailed: the file is there but cannot be understood; the node must not start.
    """
    path = data_dir / CLOSED
    try:
        lines = path.read_text().split()
        found = frozenset(ChannelId(bytes.fromhex(line)) for line in lines)
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError) as error:
        raise StorageFailed(
            f"{path} cannot be read ({error}): the guard's notes on closed channels are in it"
        ) from None
    if any(len(channel_id) != 32 for channel_id in found):
        raise StorageFailed(f"{path} is damaged: every line should be the id of a channel")
    return found


def add_closed(data_dir: Path, channels: Iterable[ChannelId]) -> None:
    """Note that these channels are closed by force; on disk when this returns. Raises StorageFailed."""
    before = read_closed(data_dir)
    after = before | frozenset(channels)
    if after != before:
        _write_closed(data_dir, after)


def remove_closed(data_dir: Path, channels: Iterable[ChannelId]) -> None:
    """The node has these channels closed on its own disk now. Raises StorageFailed."""
    before = read_closed(data_dir)
    after = before - frozenset(channels)
    if after != before:
        _write_closed(data_dir, after)


def _write_closed(data_dir: Path, channels: frozenset[ChannelId]) -> None:
    _replace(data_dir / CLOSED, "".join(f"{channel_id.hex()}\n" for channel_id in sorted(channels)), sync=True)


def _replace(path: Path, text: str, *, sync: bool) -> None:
    temporary = path.with_name(f".{path.name}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if sync:
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise StorageFailed(f"{path} cannot be written: {error.strerror}") from None


@contextmanager
def only_guard(data_dir: Path) -> Iterator[None]:
    """Be the one guard of this directory while inside. Raises UserError when there is one already."""
    path = data_dir / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}", "check the data directory") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"a guard watches over {data_dir} already") from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def guard_pid(data_dir: Path) -> int | None:
    """Process id of the guard that watches over this directory now, None when there is none."""
    try:
        handle = os.open(data_dir / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        text = os.read(handle, 32).decode("ascii", "replace").strip()
        return int(text) if text.isdecimal() else None
    finally:
        os.close(handle)
    return None
