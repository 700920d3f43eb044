"""`python -m tools.probe ADDR`: what one node is and does, as far as it tells a stranger, in words."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import trio
import typer
from multiaddr import Multiaddr

from bootstrap.networks import Network
from bootstrap.relays import roles_of
from protocols.errors import DecodeError, PeerProtocolError
from protocols.ids import PeerId
from rrnode.cli import show
from rrnode.errors import LinkClosed
from rrnode.host.base import Host
from rrnode.host.peer_text import to_text
from rrnode.services.asking import Meeting, asking, clock_in_words, meet
from tools import common
from tools.words import codecs

IDENTIFY = "/ipfs/id/1.0.0"
CIRCUIT_RELAY = "/libp2p/circuit/relay/0.2.0/hop"
PATIENCE = 10.0  # seconds for each question
ROUND_TRIPS = 3
_ROLES = {
    "route": "routes payments and serves subscriptions",
    "chain": "serves the chain",
    "watch": "watches over channels",
    "mailbox": "keeps a mailbox",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """What libp2p's identify says (its specification); texts and addresses as they came."""

    agent: str = ""
    protocols: tuple[str, ...] = ()
    observed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """Everything that was found.

    Attributes:
        round_trip: seconds, the best of a few; None when it answers no question.
        protocols: those that it speaks, of which we asked for.
        known: how many other servers it tells of; None when it does not.
    """

    address: str
    met: Meeting
    round_trip: float | None
    identified: Identified | None
    protocols: tuple[str, ...]
    known: int | None


async def probe(host: Host, address: str, network: Network, clock: Callable[[], float] = time.time) -> Probed:
    """Dial a node and ask it everything that a stranger may. Raises Unreachable."""
    met = await meet(host, address, network=network.genesis, clock=clock, channels=True)
    peer = met.link.peer
    round_trip, known = await _questions(host, peer, network, clock) if met.about is not None else (None, None)
    identified = await _identify(host, peer)
    spoken = identified.protocols if identified is not None else await _spoken(host, peer)
    return Probed(
        address=address,
        met=met,
        round_trip=round_trip,
        identified=identified,
        protocols=tuple(sorted(spoken)),
        known=known,
    )


async def _questions(
    host: Host, peer: PeerId, network: Network, clock: Callable[[], float]
) -> tuple[float | None, int | None]:
    best, known = None, None
    try:
        async with asking(host, peer, network=network.genesis, clock=clock) as asker:
            best = min([(await asker.about()).round_trip for _ in range(ROUND_TRIPS)])
            known = len((await asker.others()).records)
    except (LinkClosed, PeerProtocolError):
        pass
    return best, known


async def _spoken(host: Host, peer: PeerId) -> list[str]:
    """Which protocols it agrees to, asked one by one: the way for a node that does not identify itself."""
    found = []
    for protocol in (*sorted(codecs()), CIRCUIT_RELAY):
        try:
            with trio.move_on_after(PATIENCE):
                (await host.open_stream(peer, protocol)).reset()
                found.append(protocol)
        except LinkClosed:
            pass
    return found


async def _identify(host: Host, peer: PeerId) -> Identified | None:
    with trio.move_on_after(PATIENCE):
        try:
            stream = await host.open_stream(peer, IDENTIFY)
            try:
                return read_identify(await stream.receive())
            finally:
                stream.reset()
        except (LinkClosed, PeerProtocolError):
            pass
    return None


def read_identify(message: bytes) -> Identified:
    """Read the parts of an identify message that people want.

    Raises:
        DecodeError: no such message.
    """
    found: dict[int, list[bytes]] = {}
    for number, value in _protobuf(message):
        found.setdefault(number, []).append(value)
    try:
        observed = str(Multiaddr(found[4][-1])) if 4 in found else ""
    except Exception:  # noqa: BLE001 - the border to multiaddr, whose codecs raise whatever they like
        observed = ""
    return Identified(
        agent=found.get(6, [b""])[-1].decode(errors="replace"),
        protocols=tuple(each.decode(errors="replace") for each in found.get(3, [])),
        observed=observed,
    )


def _protobuf(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a protobuf message; others are skipped."""
    at = 0

    def varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            if at >= len(message) or shift > 63:
                raise DecodeError("identify: a protobuf message that ends too early")
            number |= (message[at] & 0x7F) << shift
            shift += 7
            at += 1
            if message[at - 1] < 0x80:
                return number

    while at < len(message):
        key = varint()
        match key & 7:
            case 0:
                varint()
            case 2:
                size = varint()
                if at + size > len(message):
                    raise DecodeError("identify: a protobuf field that ends too early")
                yield key >> 3, message[at : at + size]
                at += size
            case kind:
                raise DecodeError(f"identify: a protobuf field of kind {kind}")


# --- for people and for programs --------------------------------------------------------------------------------------


def in_words(probed: Probed, now: float) -> list[tuple[str, str]]:
    """Names and sentences, one a line; empty ones say nothing."""
    met, about, identified = probed.met, probed.met.about, probed.identified
    record = about.record if about is not None else None
    roles = [_ROLES[each] for each in roles_of(met.link.switches)]
    ours = [each for each in probed.protocols if each.startswith("/rr/")]
    others = [each for each in probed.protocols if not each.startswith("/rr/")]
    trip = "" if probed.round_trip is None else f", round trip {probed.round_trip * 1000:.1f} ms"
    told = record is not None and bool(record.channels)
    capacity = sum(each for _, each in about.channels) if about is not None else 0
    sizes = f", {capacity:,} sat together" if capacity else ", their capacity is not told"
    relays = CIRCUIT_RELAY in probed.protocols
    return [
        ("node", to_text(met.link.peer)),
        ("address", probed.address),
        ("answers", f"yes: dial {met.dialled_in * 1000:.0f} ms{trip}"),
        ("program", met.link.agent or "it does not say"),
        ("operator", f"{record.operator} (its own word)" if record and record.operator else "not declared"),
        ("does for others", "; ".join(roles) or "nothing: a client"),
        ("protocols", ", ".join(ours)),
        ("of libp2p", ", ".join(others)),
        ("connections", "relays those of others (circuit relay)" if relays else "does not relay those of others"),
        ("clock", clock_in_words(about.clock) if about is not None else ""),
        ("record", f"signed {show.duration(max(0, int(now) - record.made))} ago" if record else f"none: {met.problem}"),
        ("announces", ", ".join(record.addresses) if record else ""),
        ("channels", f"{record.channels} told{sizes}" if record and told else "tells of none"),
        ("other servers", "" if probed.known is None else f"knows {probed.known}"),
        ("sees us as", identified.observed if identified else ""),
    ]


def as_document(probed: Probed) -> dict[str, Any]:
    """The same for programs."""
    met, about = probed.met, probed.met.about
    document: dict[str, Any] = {
        "peer_id": to_text(met.link.peer),
        "address": probed.address,
        "dial_ms": round(met.dialled_in * 1000, 1),
        "round_trip_ms": None if probed.round_trip is None else round(probed.round_trip * 1000, 2),
        "agent": met.link.agent,
        "roles": list(roles_of(met.link.switches)),
        "protocols": list(probed.protocols),
        "relays_connections": CIRCUIT_RELAY in probed.protocols,
        "identify": None if probed.identified is None else dataclasses.asdict(probed.identified),
        "known_servers": probed.known,
        "record": None,
        "problem": met.problem,
    }
    if about is not None:
        record = about.record
        document["clock_ahead_s"] = round(about.clock, 1)
        document["record"] = {
            "made_unix": record.made,
            "agent": record.agent,
            "operator": record.operator,
            "roles": list(roles_of(record.switches)),
            "addresses": list(record.addresses),
            "protocols": list(record.protocols),
            "channels": [{"peer_id": to_text(peer), "capacity_sat": size} for peer, size in about.channels],
        }
    return document


def main(
    address: Annotated[str, typer.Argument(help="e.g. /ip4/192.0.2.7/tcp/9780/p2p/16Uiu2HA...")],
    network: Annotated[str, typer.Option(help="regtest, signet, testnet4 or mainnet.")] = "regtest",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Look at one node from outside, under a throw-away identity."""
    chosen = common.network_of(network)

    async def look() -> Probed:
        host = common.throw_away(chosen)
        async with host.running():
            return await probe(host, address, chosen)

    found = common.run(look)
    if as_json:
        print(json.dumps(as_document(found), indent=2, ensure_ascii=False))
    else:
        show.pairs(in_words(found, time.time()))


if __name__ == "__main__":
    typer.run(main)
