"""`rrnode demo|guard`: the whole network on one machine; the small watch over deadlines."""

from pathlib import Path
from typing import Annotated

import typer

from rrnode.cli.context import JsonFlag, emit, progress, session
from rrnode.errors import UserError


def register(app: typer.Typer) -> None:
    """Add these commands to the top level."""
    app.command()(demo)
    app.command()(guard)


def demo(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the network running, and say how to use it.")] = False,
    directory: Annotated[Path | None, typer.Option(help="Where its files go [default: a new temporary one].")] = None,
    stop: Annotated[Path | None, typer.Option(help="End the network that --keep left in this directory.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run seven nodes on this machine, pay through them, and close channels."""
    session(context, as_json)
    if stop is not None and (keep or directory is not None):
        raise UserError("--stop goes with no other flag", "start a new network without it")
    from rrnode.demo import story

    console = progress() if as_json else None
    found = (
        story.stop(stop, console)
        if stop is not None
        else story.run(story.Options(keep=keep, directory=directory), console)
    )
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
