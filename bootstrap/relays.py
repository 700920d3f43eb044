"""The relays that ship with this software, per network (`relays.toml`); there may be none, and then it says so."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from bootstrap.networks import NETWORKS, Network

_IDENTITY = re.compile(r"16Uiu2[1-9A-HJ-NP-Za-km-z]{47}")
_ADDRESS = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/[^/\s]+/tcp/\d{1,5}")
_MOST = 64  # relays per network: a list longer than a person can vouch for is a mistake
_MOST_ADDRESSES = 6
ROLES = ("route", "chain", "watch", "mailbox")  # in the order of their bits in `Hello.switches`
SWITCH_ROUTE, SWITCH_MAILBOX = (1 << ROLES.index(role) for role in ("route", "mailbox"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """Attributes:
    identity: libp2p peer id, `16Uiu2...`.
    addresses: multiaddrs without `/p2p`, at least one.
    operator: who runs it, as they say; relays of one operator count as one (DESIGN 2). "" when they do not say.
    serves: its roles, as they say.
    """

    identity: str
    addresses: tuple[str, ...]
    operator: str
    serves: tuple[str, ...] = ()

    @property
    def dialled_at(self) -> tuple[str, ...]:
        """Its addresses with `/p2p`."""
        return tuple(f"{address}/p2p/{self.identity}" for address in self.addresses)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayList:
    """What ships for one network. `note` is a sentence for people where `relays` is empty."""

    relays: tuple[Relay, ...]
    note: str = ""


def roles_of(switches: int) -> tuple[str, ...]:
    """The roles behind the bits of `Hello.switches`."""
    return tuple(name for bit, name in enumerate(ROLES) if switches >> bit & 1)


def parse_relays(text: str) -> dict[str, RelayList]:
    """The lists of a `relays.toml`, by the network's name.

    Raises:
        ValueError: malformed, an unknown network, an address of another form, or a relay that stands there twice.
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
    if len({relay.identity for relay in relays}) != len(relays):
        raise ValueError(f"[{network}] names a relay twice")
    return RelayList(relays=relays, note=note)


def _relay(network: str, entry: object) -> Relay:
    wanted = "identity, addresses, operator, and perhaps serves"
    required = {"identity", "addresses", "operator"}
    if not isinstance(entry, dict) or not required <= set(entry) <= {*required, "serves"}:
        raise ValueError(f"[{network}] a relay wants {wanted}; came: {entry!r:.80}")
    identity, operator = entry["identity"], entry["operator"]
    if not isinstance(identity, str) or not _IDENTITY.fullmatch(identity):
        raise ValueError(f"[{network}] {identity!r:.80} is no peer id (they begin with 16Uiu2)")
    addresses = _texts(network, "addresses", entry["addresses"], 1, _MOST_ADDRESSES)
    for address in addresses:
        if not _ADDRESS.fullmatch(address):
            raise ValueError(f"[{network}] {address!r:.120} is not /ip4/<ip>/tcp/<port> or alike")
    if not isinstance(operator, str):
        raise ValueError(f"[{network}] {identity} wants a text as operator, empty when they do not say")
    serves = _texts(network, "serves", entry.get("serves", []), 0, len(ROLES))
    if unknown := set(serves) - set(ROLES):
        raise ValueError(f"[{network}] {identity} serves {', '.join(sorted(unknown))}; known are {', '.join(ROLES)}")
    return Relay(identity=identity, addresses=addresses, operator=operator.strip(), serves=serves)


def _texts(network: str, name: str, value: object, least: int, most: int) -> tuple[str, ...]:
    if (
        not isinstance(value, list)
        or not least <= len(value) <= most
        or not all(isinstance(each, str) for each in value)
    ):
        raise ValueError(f"[{network}] {name} wants a list of {least} to {most} texts, came: {value!r:.80}")
    return tuple(value)


def write_relays(network: str, relays: tuple[Relay, ...]) -> str:
    """A list of one network as the text of a `relays.toml`; `parse_relays` reads it."""
    out = [f"[{network}]\n"]
    for relay in relays:
        texts = {"identity": _quoted(relay.identity), "operator": _quoted(relay.operator)}
        lists = {"addresses": relay.addresses, "serves": relay.serves}
        texts |= {name: f"[{', '.join(map(_quoted, values))}]" for name, values in lists.items()}
        out.append(f"[[{network}.relays]]\n" + "".join(f"{name} = {value}\n" for name, value in texts.items()))
    return "\n".join(out)


def _quoted(text: str) -> str:
    """A TOML basic string."""
    return (
        '"'
        + "".join(each if each.isprintable() and each not in '"\\' else f"\\U{ord(each):08x}" for each in text)
        + '"'
    )


@cache
def _shipped() -> dict[str, RelayList]:
    return parse_relays(files("bootstrap").joinpath("relays.toml").read_text(encoding="utf-8"))


def shipped_relays(network: Network) -> RelayList:
    """What ships for this network."""
    return _shipped().get(network.name, RelayList(relays=()))
