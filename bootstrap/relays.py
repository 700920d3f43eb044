"""The relays that ship with this software, per network (`relays.toml`); there may be none, and then it says so."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from bootstrap.networks import NETWORKS, Network

_ADDRESS = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/[^/\s]+/tcp/\d{1,5}/p2p/16Uiu2[1-9A-HJ-NP-Za-km-z]{47}")
_MOST = 64  # relays per network: a list longer than a person can vouch for is a mistake


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """Attributes:
    address: multiaddr ending in `/p2p/<peer id>`.
    operator: who runs it, as they say; relays of one operator count as one (DESIGN 2).
    """

    address: str
    operator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayList:
    """What ships for one network. `note` is a sentence for people where `relays` is empty."""

    relays: tuple[Relay, ...]
    note: str = ""


def parse_relays(text: str) -> dict[str, RelayList]:
    """The lists of a `relays.toml`, by the network's name.

    Raises:
        ValueError: malformed, an unknown network, an address of another form, or one that stands there twice.
    """
    document = tomllib.loads(text)
    unknown = set(document) - set(NETWORKS)
    if unknown:
        raise ValueError(f"relays for unknown networks: {', '.join(sorted(unknown))}")
    return {name: _list_of(name, table) for name, table in document.items()}


def _list_of(network: str, table: object) -> RelayList:
    if not isinstance(table, dict) or set(table) - {"note", "relays"}:
        raise ValueError(f"[{network}] may hold note and relays, and nothing else")
    note, entries = table.get("note", ""), table.get("relays", [])
    if not isinstance(note, str) or not isinstance(entries, list) or len(entries) > _MOST:
        raise ValueError(f"[{network}] wants a text as note and a list of at most {_MOST} relays")
    relays = tuple(_relay(network, entry) for entry in entries)
    if len({relay.address for relay in relays}) != len(relays):
        raise ValueError(f"[{network}] names an address twice")
    return RelayList(relays=relays, note=note)


def _relay(network: str, entry: object) -> Relay:
    if not isinstance(entry, dict) or set(entry) != {"address", "operator"}:
        raise ValueError(f"[{network}] a relay wants an address and an operator, came: {entry!r:.80}")
    address, operator = entry["address"], entry["operator"]
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        raise ValueError(f"[{network}] {address!r:.120} is not /ip4/<ip>/tcp/<port>/p2p/<peer id> or alike")
    if not isinstance(operator, str) or not operator.strip():
        raise ValueError(f"[{network}] {address} names no operator")
    return Relay(address=address, operator=operator.strip())


@cache
def _shipped() -> dict[str, RelayList]:
    return parse_relays(files("bootstrap").joinpath("relays.toml").read_text(encoding="utf-8"))


def shipped_relays(network: Network) -> RelayList:
    """What ships for this network."""
    return _shipped().get(network.name, RelayList(relays=()))
