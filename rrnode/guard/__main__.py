"""The guard as the node starts it: settings come pickled on the standard input, from the node itself."""

import pickle
import sys

import trio

from protocols.errors import RrnodeError
from rrnode import log
from rrnode.guard.process import run


def main() -> int:
    """Read the settings, watch until there is nothing to watch over."""
    settings = pickle.loads(sys.stdin.buffer.read())
    log.setup(settings.node.log_level, settings.node.log_format)
    try:
        trio.run(run, settings)
    except RrnodeError as error:
        sys.stderr.write(f"guard: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
