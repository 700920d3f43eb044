"""`rrnode channel open|list|close`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrnode.cli import show
from rrnode.cli.amounts import parse_msat, parse_sat
from rrnode.cli.context import JsonFlag, emit, progress, say, session
from rrnode.errors import UserError

if TYPE_CHECKING:
    from rrnode.control.client import ControlClient

app = typer.Typer(no_args_is_help=True, help="Open, list and close payment channels.")
_SHORTEST_PREFIX = 4  # hex digits


@app.command("open")
def open_channel(
    context: typer.Context,
    peer: Annotated[str, typer.Argument(help="A peer id, or an address, which is dialled first.")],
    capacity: Annotated[str, typer.Argument(help="What you put in, e.g. 500000 (satoshi) or 0.005btc.")],
    push: Annotated[str | None, typer.Option(help="Of that, an amount given to the peer at once.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the channel can be used.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Open a channel with a peer; you fund it from the wallet."""
    order = {
        "peer": peer,
        "capacity_sat": parse_sat(capacity),
        "push_msat": parse_msat(push) if push is not None and push.strip() != "0" else 0,
    }
    with session(context, as_json).client() as node, node.events() as events:
        channel = node.post("/channels", order)
        if wait:
            channel = _follow(node, events, channel, lambda found: bool(found["usable"]))
    if as_json:
        emit(channel)
        return
    show.channel(channel)
    if not wait:
        say("It can be used when its funding is confirmed: rrnode channel list")


@app.command("list")
def list_channels(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List all channels."""
    with session(context, as_json).client() as node:
        found = node.get("/channels")
    emit(found) if as_json else show.channels(found)


@app.command("close")
def close_channel(
    context: typer.Context,
    channel: Annotated[str, typer.Argument(help="A channel id, or its first digits.")],
    force: Annotated[bool, typer.Option("--force", help="Without the peer: slower, and dearer.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when its closing transaction is known.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Close a channel together with the peer, or by force when the peer does not answer."""
    with session(context, as_json).client() as node, node.events() as events:
        channel_id = _resolve(node, channel)
        found = node.post(f"/channels/{channel_id}/close", {"force": force})
        if wait:
            found = _follow(node, events, found, lambda now: bool(now["closing_txid"]))
    if as_json:
        emit(found)
        return
    show.channel(found)


def _resolve(node: "ControlClient", text: str) -> str:
    """A full channel id from its first digits."""
    wanted = text.strip().lower().rstrip("…")
    wanted = wanted.split("…", maxsplit=1)[0]
    if not wanted or any(character not in "0123456789abcdef" for character in wanted) or len(wanted) > 64:
        raise UserError(f"{text[:80]!r} is not a channel id", "see them with: rrnode channel list")
    if len(wanted) == 64:
        return wanted
    if len(wanted) < _SHORTEST_PREFIX:
        raise UserError(f"{text!r} is too short to name a channel", f"give at least {_SHORTEST_PREFIX} digits")
    matches = [channel["channel_id"] for channel in node.get("/channels") if channel["channel_id"].startswith(wanted)]
    if len(matches) == 1:
        return str(matches[0])
    problem = "there is no channel" if not matches else f"there are {len(matches)} channels"
    raise UserError(f"{problem} whose id begins with {wanted}", "see them with: rrnode channel list")


def _follow(
    node: "ControlClient", events: Iterator[dict[str, Any]], channel: dict[str, Any], reached: Any
) -> dict[str, Any]:
    """Show what happens to a channel until it is where the caller wants it. Its id changes once, when it is funded."""
    console = progress()
    peer, funding = channel["peer_id"], channel["funding_txid"]
    known = {channel["channel_id"]}
    while True:
        for found in node.get("/channels"):
            if found["channel_id"] in known or (funding and found["funding_txid"] == funding):
                known.add(found["channel_id"])
                if reached(found):
                    return dict(found)
                break
        else:
            raise UserError(
                "the channel is gone before it came that far", "see the node's log, or: rrnode channel list"
            )
        for event in events:
            if event["kind"] == "channel" and (event["channel_id"] in known or event["peer_id"] == peer):
                if event["text"]:
                    console.print(show.clean(event["text"]), markup=False)
                break
        else:
            raise UserError("the node stopped in the middle", "start it again; the channel is not lost")
