"""`rrnode cover`: who looks after the channels while the node is away."""

import typer

from rrnode.cli import show
from rrnode.cli.amounts import sat
from rrnode.cli.context import JsonFlag, emit, say, session


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command()(cover)


def cover(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show which watcher holds what of each channel, and why a channel is not covered."""
    with session(context, as_json).client() as node:
        found = node.get("/cover")
    emit(found) if as_json else _show(found)


def _show(found: show.Json) -> None:
    show.table(
        ("watcher", "state", "address"),
        (
            (
                each["peer_id"],
                each["problem"] or ("connected" if each["connected"] else "not connected"),
                each["address"],
            )
            for each in found["watchers"]
        ),
        empty="No watchers. Name some in the configuration: watch.watchers",
    )
    say("")
    show.table(
        ("channel", "revoked states>", "newest held by>", "at stake>", "note"),
        (
            (
                show.short(each["channel_id"]),
                str(each["states_revoked"]),
                f"{each['holders_of_newest']} of {len(each['held'])}" if each["states_revoked"] else "",
                sat(each["stake_sat"]),
                each["note"],
            )
            for each in found["channels"]
        ),
        empty="No channels.",
    )
