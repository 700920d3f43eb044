"""`rrnode demo|guard`: the whole network on one machine; the small watch over deadlines."""

from typing import Annotated

import typer

from rrnode.cli.context import JsonFlag, session


def register(app: typer.Typer) -> None:
    """Add these commands to the top level."""
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(demo)
    app.command()(guard)


def demo(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the network running, and say how to use it.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run five nodes on this machine, pay through them, and close the channels."""
    session(context, as_json)
    from rrnode import demo as network

    code = network.run(keep=keep, as_json=as_json, extra=tuple(context.args))
    raise typer.Exit(code)


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
