"""`rrnode cover`: who looks after the channels while the node is away. `rrnode bounty list|show`: what this node hunts."""

from typing import Annotated

import typer

from rrnode.cli import show
from rrnode.cli.amounts import sat
from rrnode.cli.context import JsonFlag, emit, say, session

bounty = typer.Typer(no_args_is_help=True, help="Show breaches that this node hunts for others.")


def register(app: typer.Typer) -> None:
    """Add these commands to the top level."""
    app.command()(cover)
    app.add_typer(bounty, name="bounty")


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


@bounty.command("list")
def list_bounties(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List breaches, newest first: how each hunt stands, what it brought."""
    with session(context, as_json).client() as node:
        found = node.get("/bounties")
    if as_json:
        emit(found)
        return
    show.table(
        ("breach", "seen", "outcome", "reward>", "outputs lost>"),
        (
            (
                each["txid"],
                show.when(each["first_seen_unix"]),
                each["outcome"],
                sat(each["reward_sat"]),
                f"{each['lost']} of {len(each['outputs'])}",
            )
            for each in found
        ),
        empty="No breach was seen yet.",
    )


@bounty.command("show")
def show_bounty(
    context: typer.Context,
    txid: Annotated[str, typer.Argument(help="The breach's transaction id, see: rrnode bounty list")],
    as_json: JsonFlag = False,
) -> None:
    """Show one breach with each of its outputs."""
    from urllib.parse import quote

    with session(context, as_json).client() as node:
        found = node.get(f"/bounties/{quote(txid, safe='')}")
    if as_json:
        emit(found)
        return
    height = found["breach_height"]
    show.pairs(
        [
            ("breach", found["txid"]),
            ("seen", show.when(found["first_seen_unix"])),
            ("confirmed", "not yet" if height is None else f"in block {height:,}"),
            ("outcome", found["outcome"]),
            ("reward", sat(found["reward_sat"])),
            ("claim", found["claim_txid"]),
            ("its fee", sat(found["claim_fee_sat"]) if found["claim_txid"] else ""),
        ]
    )
    say("")
    show.table(
        ("output>", "value>", "bounty>", "taken by", "in block>"),
        (
            (
                str(each["index"]),
                sat(each["value_sat"]),
                sat(each["bounty_sat"]),
                ("us" if each["ours"] else each["spender"]) or "nobody yet",
                "" if each["height"] is None else f"{each['height']:,}",
            )
            for each in found["outputs"]
        ),
        empty="",
    )
