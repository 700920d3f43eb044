"""`rrnode audit`: whose collusion could rob this node."""

import typer

from rrnode.cli import show
from rrnode.cli.amounts import msat
from rrnode.cli.context import JsonFlag, emit, say, session

_HOW = {
    ("away", "old state"): "While this node is away for {delay} blocks or more, {who} could take up to {amount}"
    " by publishing an old state of the channel",
    ("away", "payments in flight"): "While this node is away until payments in flight expire, {who} could take up to"
    " {amount} of these",
    (
        "up",
        "old state",
    ): "While this node is up, {who} could take up to {amount} by hiding the chain from it and publishing"
    " an old state of the channel",
    ("up", "payments in flight"): "While this node is up, {who} could take up to {amount} of the payments in flight by"
    " hiding the chain from it until they expire",
}


def register(app: typer.Typer) -> None:
    """Add this command to the top level."""
    app.command()(audit)


def audit(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show for each channel whose collusion could rob this node, and of how much.

    The smallest sets, as things are now: the neighbour, the watchers that hold the newest remedy, and, where this node has no
    chain of its own, the helpers that tell it one. As long as one party of a set is honest, that set takes nothing. Those who
    seem to belong together count as one; who hides it is not found out.
    """
    with session(context, as_json).client() as node:
        found = node.get("/audit")
    if as_json:
        emit(found)
        return
    if not found["channels"]:
        say("No channels: there is nothing to take.")
    for channel in found["channels"]:
        _channel(channel, own_chain=found["own_chain"])


def _channel(channel: show.Json, *, own_chain: bool) -> None:
    say(f"channel {show.short(channel['channel_id'])} with {channel['peer_id']}")
    for each in channel["sets"]:
        count = len(each["parties"])
        who = f"these {count} together" if count > 1 else "the neighbour alone"
        how = _HOW[each["when"], each["means"]]
        amount = msat(each["at_stake_msat"])
        say(f"  {how.format(delay=channel['to_self_delay_blocks'], who=who, amount=amount)}:")
        for party in each["parties"]:
            _party(party)
    if not channel["sets"]:
        say("  Nobody could take anything now: there is no old state of it, and no payment is in flight.")
    elif own_chain:
        say("  While this node is up, nobody could: it reads the chain by itself.")
    if channel["warning"]:
        say(f"  WARNING  {show.clean(channel['warning'])}")
    say("")


def _party(party: show.Json) -> None:
    peers = (f"{' and '.join(peer['roles'])} {peer['peer_id']}" for peer in party["peers"])
    say("    " + show.clean("; ".join(peers)))
    for why in party["why"]:
        say("      as one: " + show.clean(why))
