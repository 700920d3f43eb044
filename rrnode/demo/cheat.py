"""`rrnode demo cheat`: a client is away, its neighbour publishes a revoked state, and strangers bring the coins back (DESIGN 7).

Each act is one cheat on a channel of its own. Every figure is read from the nodes or the chain, and every claim that the
story makes is checked on them: the first that does not hold ends it.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rrnode.control.client import Json
from rrnode.demo.core import cache_dir, find_bitcoind
from rrnode.demo.network import stage
from rrnode.demo.screen import Screen
from rrnode.demo.theft import ACTS, Theft
from rrnode.demo.watched import Watched
from rrnode.errors import UserError

CHAINS = EMBEDDED, BITCOIND = ("embedded", "bitcoind")
HOW_TO_GET_ONE = "set $BITCOIND, put one on the PATH, or build one with: make bitcoind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked on the command line.

    Attributes:
        act: one of `ACTS`; "" plays all.
        chain: "embedded" or "bitcoind"; "": embedded, and the race once more on a Bitcoin Core where there is one.
        directory: for the files of all nodes; None: a temporary one.
    """

    act: str = ""
    chain: str = ""
    directory: Path | None = None


def run(options: Options, console: Console | None = None) -> Json:
    """Play the acts.

    Returns:
        What each came to: what everybody had before, would have had by closing honestly, and had after the cheat.

    Raises:
        UserError: there is no such act or chain, a claim of the story does not hold, or something else went wrong.
    """
    _check("--act", options.act, tuple(ACTS))
    _check("--chain", options.chain, CHAINS)
    screen, began = Screen(console or Console()), time.monotonic()
    acts = (options.act,) if options.act else tuple(ACTS)
    played: list[Json] = []
    for chain, bitcoind, chosen in _plan(options, acts, screen):
        with stage(None if options.directory is None else options.directory / chain) as network:
            story = Theft(Watched(network), screen)
            story.set_up(bitcoind)
            played += [{"chain": chain, **story.play(act)} for act in chosen]
    seconds = time.monotonic() - began
    screen.title("What next")
    screen.say(f"Everything that was claimed held. That took {seconds:.0f} seconds; nothing is left running.")
    screen.say("Have your own node watched: watch.watchers in its rrnode.toml, then `rrnode cover`.")
    screen.say("Watch for others and earn bounties: `rrnode init --set roles.watch=true`, then `rrnode bounty list`.")
    return {"seconds": round(seconds, 1), "acts": played}


def _check(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value and value not in known:
        raise UserError(f"{flag} {value[:40]!r} is not known", "known are: " + ", ".join(known))


def _plan(
    options: Options, acts: tuple[str, ...], screen: Screen
) -> Iterable[tuple[str, Path | None, tuple[str, ...]]]:
    """What is played on which chain; a bitcoind where that is no embedded one."""
    if options.chain == EMBEDDED or (options.act and not options.chain):
        return ((EMBEDDED, None, acts),)
    found = find_bitcoind(cache_dir())
    if found is None:
        screen.say(f"There is no Bitcoin Core here ({HOW_TO_GET_ONE}): all is played on the embedded chain.")
        return ((EMBEDDED, None, acts),)
    if options.chain == BITCOIND:
        return ((BITCOIND, found, acts),)
    return ((EMBEDDED, None, acts), (BITCOIND, found, ("race",)))
