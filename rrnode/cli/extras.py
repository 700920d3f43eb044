"""`rrnode demo|guard`: the whole network on one machine; the small watch over deadlines."""

from pathlib import Path
from typing import Annotated

import typer

from rrnode.cli.context import JsonFlag, emit, session


def register(app: typer.Typer) -> None:
    """Add these commands to the top level."""
    app.command()(demo)
    app.command()(guard)


def demo(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the network running, and say how to use it.")] = False,
    directory: Annotated[
        Path | None, typer.Option(help="Where to put the network [default: a temporary directory].")
    ] = None,
    stop: Annotated[Path | None, typer.Option(help="End a network that --keep left running in this directory.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run five nodes on this machine, pay through them, and close the channels."""
    now = session(context, as_json)
    from rich.console import Console

    from rrnode.demo import story

    console = Console(stderr=as_json)  # with --json the story goes to stderr, its end as JSON to stdout
    if stop is not None:
        ended = story.stop(stop, console)
    else:
        ended = story.run(story.Options(keep=keep, directory=directory), console)
    if now.as_json:
        emit(ended)


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
