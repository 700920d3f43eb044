"""Run as a program instead of `rrnode`: the same command line, but the process kills itself at a commit that a test chose.

The file named by NODE_TEST_FUSE says when: `3 before` is right before the third commit after the file was written, `3
after` right after it. Commits are those of the engine and of the wallet. `<file>.seen` counts them meanwhile. And a peer may open
more channels in a minute than it may elsewhere.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from rrnode.cli import main
from rrnode.services import channels
from rrnode.storage import Store

FUSE = Path(os.environ["NODE_TEST_FUSE"])
COUNTING = Lock()
SEEN = FUSE.with_name(FUSE.name + ".seen")


def cutting(write: Callable[..., None]) -> Callable[..., None]:
    """A commit, with SIGKILL before or after it when its turn has come."""

    def commit(*arguments: Any, **named: Any) -> None:
        try:
            turn, _, side = FUSE.read_text().partition(" ")
        except FileNotFoundError:
            return write(*arguments, **named)
        with COUNTING:  # the engine and the wallet commit in threads of their own
            seen = 1 + (int(SEEN.read_text()) if SEEN.exists() else 0)
            SEEN.write_text(str(seen))
        if seen == int(turn) and side == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        write(*arguments, **named)
        if seen == int(turn) and side == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    return commit


if __name__ == "__main__":
    allowance = channels.Allowance
    channels.Allowance = lambda **_: allowance(per_key=100, burst=100, total=100)  # type: ignore[assignment,misc]
    Store.commit = cutting(Store.commit)  # type: ignore[method-assign]
    Store.write_wallet = cutting(Store.write_wallet)  # type: ignore[method-assign]
    sys.exit(main())
