"""`rrnode status|stop|peers|helpers|connect|disconnect|events|api`: the running node as a whole."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from rrnode.cli import show
from rrnode.cli.context import JsonFlag, emit, say, session
from rrnode.errors import UserError

STOP_WITHIN = 60.0  # seconds for an orderly end: peers are told, the database is closed


def register(app: typer.Typer) -> None:
    """Add these commands to the top level."""
    for command in (status, stop, peers, helpers, connect, disconnect, events, api):
        app.command()(command)


def status(
    context: typer.Context,
    listening: Annotated[
        bool, typer.Option("--listening", help="Only the addresses to give to others, one a line.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show the state of the node."""
    with session(context, as_json).client() as node:
        found = node.get("/status")
    if as_json:
        emit(found)
    elif listening:
        for address in found["listening"]:
            say(address)
    else:
        show.status(found)


def stop(
    context: typer.Context,
    wait: Annotated[bool, typer.Option(help="Return when the node has ended.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Stop the node in good order. Channels stay open."""
    now = session(context, as_json)
    with now.client() as node:
        node.post("/stop")
    if wait:
        _wait_for_end(now.data_dir)
    if as_json:
        emit({"stopped": wait})
    elif not wait:
        say("The node is stopping.")


def _wait_for_end(data_dir: Path) -> None:
    from rrnode.datadir import is_locked

    end = time.monotonic() + STOP_WITHIN
    while is_locked(data_dir):
        if time.monotonic() > end:
            raise UserError(
                f"the node still runs {STOP_WITHIN:.0f} s after it was told to stop", "look at its log, then try again"
            )
        time.sleep(0.05)


def peers(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List peers: connected, kept, or neighbours."""
    with session(context, as_json).client() as node:
        found = node.get("/peers")
    emit(found) if as_json else show.peers(found)


def helpers(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List the helpers that tell this node the chain: agreement, lag, last lie caught."""
    with session(context, as_json).client() as node:
        found = node.get("/helpers")
    emit(found) if as_json else show.helpers(found)


def connect(
    context: typer.Context,
    address: Annotated[str, typer.Argument(help="e.g. /ip4/192.0.2.7/tcp/9780/p2p/16Uiu2HA...")],
    as_json: JsonFlag = False,
) -> None:
    """Connect to a peer and stay connected."""
    with session(context, as_json).client() as node:
        found = node.post("/peers", {"address": address})
    emit(found) if as_json else say(f"Connected to {found['peer_id']}.")


def disconnect(
    context: typer.Context,
    peer: Annotated[str, typer.Argument(help="A peer id, 16Uiu2HA...")],
    as_json: JsonFlag = False,
) -> None:
    """End the link to a peer and do not dial it again."""
    from urllib.parse import quote

    with session(context, as_json).client() as node:
        found = node.delete(f"/peers/{quote(peer, safe='')}")
    emit(found) if as_json else say("Disconnected.")


def events(
    context: typer.Context,
    after: Annotated[int | None, typer.Option(help="Begin with the kept events above this number; 0: all.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Follow what happens, one JSON document a line, until interrupted or the node stops."""
    import json

    with session(context, as_json).client() as node, node.events(after) as lines:
        for event in lines:
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()


def api(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Print the control API's page (HTML), or its OpenAPI description with --json."""
    import json

    with session(context, as_json).client() as node:
        if as_json:
            emit(json.loads(node.page("/openapi.json")))
        else:
            say(node.page("/docs"))
