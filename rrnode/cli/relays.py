"""`rrnode relay list|add|test`: by whom this node finds its way into the network."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrnode.cli import show
from rrnode.cli.context import JsonFlag, Session, emit, say, session
from rrnode.errors import UserError

if TYPE_CHECKING:
    from bootstrap.relays import Relay
    from rrnode.config import Settings
    from rrnode.host.base import Host

app = typer.Typer(no_args_is_help=True, help="List, add and test the relays by which this node joins the network.")


@app.command("list")
def list_relays(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List relays: those that ship, those that you added, and the servers that this node has learnt of."""
    now = session(context, as_json)
    from bootstrap.relays import shipped_relays
    from rrnode.cli.setup import read_settings
    from rrnode.relays import own_relays

    settings = read_settings(now, {})
    shipped = shipped_relays(settings.network)
    connected = _connected(now)
    found: list[dict[str, Any]] = []
    for source, relays in (
        ("yours", own_relays(settings.data_dir, settings.network)),
        ("shipped", shipped.relays),
        ("learnt", _learnt(settings)),
    ):
        for relay in relays:
            if any(each["peer_id"] == relay.identity for each in found):
                continue
            found.append(
                {
                    "peer_id": relay.identity,
                    "source": source,
                    "operator": relay.operator,
                    "serves": list(relay.serves),
                    "addresses": list(relay.dialled_at),
                    "connected": None if connected is None else relay.identity in connected,
                }
            )
    if as_json:
        emit({"relays": found, "note": shipped.note})
        return
    show.table(
        ("from", "operator", "serves", "state", "address"),
        (
            (
                each["source"],
                each["operator"] or "not declared",
                ", ".join(each["serves"]),
                {None: "the node does not run", True: "connected", False: "not connected"}[each["connected"]],
                each["addresses"][0] if each["addresses"] else "",
            )
            for each in found
        ),
        empty="No relay is known.",
    )
    if not found and shipped.note:
        say(shipped.note)


@app.command("add")
def add(
    context: typer.Context,
    address: Annotated[str, typer.Argument(help="e.g. /ip4/192.0.2.7/tcp/9780/p2p/16Uiu2HA...")],
    operator: Annotated[
        str | None, typer.Option(help="Who runs it, as far as you know [default: what it says itself].")
    ] = None,
    untested: Annotated[bool, typer.Option("--untested", help="Add it although it may not answer now.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Add a relay to this node's own list. It is dialled from the next start on."""
    now = session(context, as_json)
    from bootstrap.relays import Relay
    from protocols.errors import DecodeError
    from rrnode.cli.setup import read_settings
    from rrnode.host.peer_text import split_address, to_text
    from rrnode.relays import add_relay

    settings = read_settings(now, {})
    try:
        where, peer = split_address(address)
    except DecodeError as error:
        raise UserError(str(error), "ask its operator for: rrnode status --listening") from None
    relay = Relay(identity=to_text(peer), addresses=(where,), operator=operator or "")
    if not untested:
        (tested,) = _tested(settings, [relay])
        if not tested["answers"]:
            raise UserError(f"this relay does not answer: {tested['problem']}", "add it with --untested all the same")
        told = relay.operator or tested["operator"]
        relay = Relay(identity=relay.identity, addresses=(where,), operator=told, serves=tuple(tested["serves"]))
    add_relay(settings.data_dir, settings.network, relay)
    if as_json:
        emit({"peer_id": relay.identity, "operator": relay.operator, "serves": list(relay.serves)})
    else:
        say(f"Added {relay.identity}, run by {show.clean(relay.operator) or 'somebody who does not say'}.")
        say(f"The node dials it when it starts next; to connect now: rrnode connect {address}")


@app.command("test")
def dial(
    context: typer.Context,
    addresses: Annotated[list[str] | None, typer.Argument(help="Which to dial [default: all that are listed].")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Dial relays under a throw-away identity and show what each says. Fails when none answers."""
    now = session(context, as_json)
    from bootstrap.relays import Relay, shipped_relays
    from protocols.errors import DecodeError
    from rrnode.cli.setup import read_settings
    from rrnode.host.peer_text import split_address, to_text
    from rrnode.relays import listed_relays

    settings = read_settings(now, {})
    relays: list[Relay] = []
    for address in addresses or ():
        try:
            where, peer = split_address(address)
        except DecodeError as error:
            raise UserError(str(error), "for example /ip4/192.0.2.7/tcp/9780/p2p/16Uiu2HA...") from None
        relays.append(Relay(identity=to_text(peer), addresses=(where,), operator=""))
    relays = relays or [*listed_relays(settings), *_learnt(settings)]
    if not relays:
        raise UserError("no relay is known", shipped_relays(settings.network).note)
    found = _tested(settings, relays)
    if as_json:
        emit(found)
    else:
        show.table(
            ("relay", "answers", "dial>", "agent", "operator", "serves", "clock", "problem"),
            (
                (
                    each["peer_id"],
                    "yes" if each["answers"] else "NO",
                    f"{each['dial_ms']} ms" if each["answers"] else "",
                    each["agent"],
                    each["operator"],
                    ", ".join(each["serves"]),
                    each["clock"],
                    each["problem"],
                )
                for each in found
            ),
            empty="",
        )
    if not any(each["answers"] for each in found):
        raise typer.Exit(1)


# --- inside -----------------------------------------------------------------------------------------------------------


def _connected(now: Session) -> set[str] | None:
    """The peers of the running node; None when it does not run."""
    from rrnode.control.client import NodeAway

    try:
        with now.client() as node:
            return {each["peer_id"] for each in node.get("/peers") if each["connected"]}
    except NodeAway:
        return None


def _learnt(settings: "Settings") -> "tuple[Relay, ...]":
    from bootstrap.known import relay_of
    from protocols.units import UnixTime
    from rrnode.host.peer_text import to_text
    from rrnode.services.acquaintances import FILE_NAME, load

    known = load(settings.data_dir / FILE_NAME, settings.network.genesis, UnixTime(int(time.time())))
    anywhere = settings.node.network == "regtest"
    return tuple(relay_of(each, anywhere=anywhere, identity=to_text(each.record.node)) for each in known)


def _tested(settings: "Settings", relays: "Sequence[Relay]") -> list[dict[str, Any]]:
    import trio

    from rrnode import log
    from rrnode.start import throw_away_host

    log.setup("error", settings.node.log_format)
    found: list[dict[str, Any]] = [{} for _ in relays]

    async def run() -> None:
        limit = trio.CapacityLimiter(8)
        async with throw_away_host(settings) as host, trio.open_nursery() as nursery:
            for number, relay in enumerate(relays):
                nursery.start_soon(one, host, limit, number, relay)

    async def one(host: "Host", limit: trio.CapacityLimiter, number: int, relay: "Relay") -> None:
        async with limit:
            found[number] = await _test_one(host, settings, relay)

    trio.run(run)
    return found


async def _test_one(host: "Host", settings: "Settings", relay: "Relay") -> dict[str, Any]:
    from bootstrap.relays import roles_of
    from rrnode.errors import Unreachable
    from rrnode.services.asking import clock_in_words, meet

    problem = "it has no address that may be dialled"
    for address in relay.dialled_at:
        try:
            met = await meet(host, address, network=settings.network.genesis, clock=time.time)
        except Unreachable as error:
            problem = str(error)
            continue
        record = met.about.record if met.about else None
        return {
            "peer_id": relay.identity,
            "answers": True,
            "dial_ms": round(met.dialled_in * 1000),
            "agent": met.link.agent,
            "operator": record.operator if record else relay.operator,
            "serves": list(roles_of(met.link.switches)),
            "clock": clock_in_words(met.about.clock) if met.about else "",
            "problem": met.problem,
        }
    return {
        "peer_id": relay.identity,
        "answers": False,
        "dial_ms": 0,
        "agent": "",
        "operator": relay.operator,
        "serves": list(relay.serves),
        "clock": "",
        "problem": problem,
    }
