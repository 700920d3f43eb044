"""What the tools that look at networks share: a throw-away identity, and an end that a person can read."""

import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import trio
import typer

from bootstrap.networks import NETWORKS, Network
from protocols.errors import RrnodeError
from rrnode import log
from rrnode.errors import leaves
from rrnode.host.base import Host
from rrnode.host.libp2p import LibP2PHost
from rrnode.services.limits import printable
from rrnode.version import VERSION

T = TypeVar("T")
INTERRUPTED = 130  # exit code, as shells have it


def network_of(name: str) -> Network:
    """A network by its name; ends the program when there is none."""
    if name not in NETWORKS:
        raise given_up(f"there is no network {name[:40]!r}; known are: {', '.join(NETWORKS)}", code=2)
    return NETWORKS[name]


def throw_away(network: Network) -> Host:
    """A host under a fresh identity, which listens nowhere."""
    return LibP2PHost(os.urandom(32), genesis=network.genesis, agent=f"rrnode-tools/{VERSION}")


def run(what: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Run a coroutine to its end. What cannot be done is one sentence on standard error; Ctrl-C ends without a trace."""
    log.setup("error")
    try:
        return trio.run(partial(what, *arguments))
    except (KeyboardInterrupt, RrnodeError) as error:
        reason: BaseException = error
    except BaseExceptionGroup as group:  # from inside nurseries
        # An interrupt first: it is what the person did, whatever broke for it.
        reason = min(leaves(group), key=lambda leaf: not isinstance(leaf, KeyboardInterrupt))
        if not isinstance(reason, KeyboardInterrupt | RrnodeError):
            raise
    if isinstance(reason, KeyboardInterrupt):
        raise given_up("interrupted", code=INTERRUPTED)
    raise given_up(printable(str(reason)))


def given_up(sentence: str, *, code: int = 1) -> typer.Exit:
    """Say one sentence; the caller raises what comes back, which ends the program."""
    sys.stderr.write(f"{sentence}\n")
    return typer.Exit(code)
