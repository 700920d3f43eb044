"""Where a node keeps its things: one directory per network, for its owner only, locked against a second process.

The lock is the operating system's (`flock`): it ends with the process, however that ends, so a file left behind by a
crash locks nobody out. The process id inside is for the message only.
"""

import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rrnode.errors import UserError

LOCK_NAME = "lock"
GUARD_MOMENT = 1.0  # seconds for which a guard may hold the lock: it looks every other second, and notes what it closes
_TRY_EVERY = 0.05  # seconds
SOCKET_NAME = "control.sock"
SOCKET_PATH_MAX = 107  # bytes: `sun_path` of Linux is 108 with its end mark (unix(7)); macOS has 104
PID_NAME = "rrnode.pid"
LOG_NAME = "rrnode.log"
HEADERS_NAME = "headers"  # of a client without a chain; it costs time only to lose it


def default_data_dir(network: str) -> Path:
    """The user's data directory for this network (platformdirs)."""
    from platformdirs import user_data_path

    return user_data_path("rrnode", appauthor=False) / network


def make_private(path: Path) -> None:
    """Make the directory (and its parents), readable by its owner only.

    Raises:
        UserError: it cannot be made, is no directory, or belongs to somebody else.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except FileExistsError:
        raise UserError(f"{path} is not a directory", "choose another with --datadir") from None
    except OSError as error:
        raise UserError(f"{path} cannot be used: {error.strerror}", "choose another with --datadir") from None


def check_private(path: Path) -> None:
    """Refuse a directory that others may enter: the control socket and the keys are in it. Raises UserError."""
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be used: {error.strerror}", "choose another with --datadir") from None
    if found.st_uid != os.geteuid():
        raise UserError(f"{path} belongs to another user", "run rrnode as that user, or choose another with --datadir")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise UserError(f"{path} can be entered by other users", f"run: chmod 700 {path}")


def socket_path(data_dir: Path) -> Path:
    """Where the control socket of this data directory is.

    In the directory itself; when that path is too long for a socket, in the user's runtime directory under a name
    made from it, so that `rrnode --datadir` finds it again without being told.
    """
    inside = data_dir.absolute() / SOCKET_NAME
    if len(os.fsencode(inside)) <= SOCKET_PATH_MAX:
        return inside
    base = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/rrnode-{os.geteuid()}"
    name = hashlib.sha256(os.fsencode(data_dir.absolute())).hexdigest()[:16]
    return Path(base) / f"rrnode-{name}" / SOCKET_NAME


def prepare_socket(data_dir: Path) -> Path:
    """Where to bind the control socket, in a directory that only we may enter.

    Raises:
        UserError: others may enter the directory, or even the replacement's path is too long.
    """
    path = socket_path(data_dir)
    if path.parent != data_dir.absolute():
        base = path.parent.parent
        if not base.exists():
            make_private(base)
        make_private(path.parent)
    check_private(path.parent)
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise UserError(
            f"{path} is {len(os.fsencode(path))} bytes long, a socket's path may have {SOCKET_PATH_MAX}",
            "choose a shorter data directory with --datadir, or a shorter XDG_RUNTIME_DIR",
        )
    return path


def is_locked(data_dir: Path) -> bool:
    """Whether a process holds the data directory now."""
    try:
        handle = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: who else looks this moment is no holder
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def holder(data_dir: Path) -> int | None:
    """The id of the process that holds the data directory now; None when nobody does, or it did not say."""
    if not is_locked(data_dir):
        return None
    try:
        text = (data_dir / LOCK_NAME).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() else None


@contextmanager
def locked(data_dir: Path, *, patience: float = 0.0, pause: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Hold the data directory while inside.

    Args:
        patience: seconds to try again while another process holds it; `GUARD_MOMENT` for one that starts a node.
        pause: waits so many seconds.

    Raises:
        UserError: another process holds it; the message names its process id.
    """
    path = data_dir / LOCK_NAME
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(
            f"{path} cannot be opened: {error.strerror}", "check the directory's owner and rights"
        ) from None
    try:
        tries = round(patience / _TRY_EVERY)
        while not _take(handle, path):
            if tries > 0:
                tries -= 1
                pause(_TRY_EVERY)
                continue
            holder = os.read(handle, 32).decode("ascii", "replace").strip()
            who = f"process {holder}" if holder.isdecimal() else "another process"
            raise UserError(f"{who} uses {data_dir}", f"stop it with: rrnode --datadir {data_dir} stop")
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)  # the lock goes with it; the file stays, or two could hold two files of one name


def _take(handle: int, path: Path) -> bool:
    """Whether the lock is ours now. Raises UserError where there are no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise UserError(f"{path} cannot be locked: {error.strerror}", "use a local disk") from None
        return False
    return True
