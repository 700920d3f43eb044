"""`rrnode demo [cheat]|guard`: whole networks on one machine; the small watch over deadlines."""

from pathlib import Path
from typing import Annotated

import typer

from rrnode.cli.context import JsonFlag, emit, progress, session
from rrnode.errors import UserError

_NAT = "Another story: two clients behind NATs, and all that breaks a link at home (Linux, as root; four minutes)."
_WHERE = "Where its files go [default: a new temporary one]."

demo = typer.Typer(help="Run seven nodes on this machine, pay through them, and close channels.")


def register(app: typer.Typer) -> None:
    """Add these commands to the top level."""
    app.add_typer(demo, name="demo")
    app.command()(guard)


@demo.callback(invoke_without_command=True)
def example(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the network running, and say how to use it.")] = False,
    directory: Annotated[Path | None, typer.Option(help=_WHERE)] = None,
    stop: Annotated[Path | None, typer.Option(help="End the network that --keep left in this directory.")] = None,
    nat: Annotated[bool, typer.Option("--nat", help=_NAT)] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run seven nodes on this machine, pay through them, and close channels. Another story: rrnode demo cheat"""
    session(context, as_json)
    if context.invoked_subcommand is not None:
        if keep or nat or as_json or directory is not None or stop is not None:
            raise UserError(f"flags of another demo stand before {context.invoked_subcommand}", "put its own after it")
        return
    if stop is not None and (keep or nat or directory is not None):
        raise UserError("--stop goes with no other flag", "start a new network without it")
    if nat and keep:
        raise UserError("--nat and --keep do not go together", "its namespaces end with the story")
    from rrnode.demo import behind, story

    console = progress() if as_json else None
    found = (
        behind.run(directory, console)
        if nat
        else story.stop(stop, console)
        if stop is not None
        else story.run(story.Options(keep=keep, directory=directory), console)
    )
    if as_json:
        emit(found)


@demo.command()
def cheat(
    context: typer.Context,
    act: Annotated[
        str,
        typer.Option(
            help="Play one act only: race, insider (the cheat hunts too), last (one watcher is left) or htlc (a payment in flight)."
        ),
    ] = "",
    chain: Annotated[
        str,
        typer.Option(
            help="bitcoind or embedded [default: embedded, and the race once more on a Bitcoin Core if there is one]."
        ),
    ] = "",
    directory: Annotated[Path | None, typer.Option(help=_WHERE)] = None,
    as_json: JsonFlag = False,
) -> None:
    """Let a node publish a revoked state while its neighbour is away, and strangers stop it for a bounty."""
    session(context, as_json)
    from rrnode.demo import cheat as story

    found = story.run(story.Options(act=act, chain=chain, directory=directory), progress() if as_json else None)
    if as_json:
        emit(found)


def guard(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Watch over the deadlines of locked payments while the node is down or broken."""
    from rrnode.cli.setup import read_settings

    now = session(context, as_json)
    settings = read_settings(now, {})
    import trio

    from rrnode import guard as watch
    from rrnode import log

    log.setup(settings.node.log_level, settings.node.log_format)
    trio.run(watch.run, settings)
