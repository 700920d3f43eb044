"""Who seems to belong together: nobody is guarded by the one who could rob them (DESIGN 2, "Nobody guards themselves").

Only what can be seen counts: the key, networks of addresses, and who is said to run it. One who means to hide it can; that
is why several watchers are better than one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from bootstrap.addresses import Number, block_of, first_part, number_of
from protocols.ids import PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a peer; what several sources know is joined with `|`.

    Attributes:
        operators: names of who runs it.
        networks: as `network_of` gives them.
    """

    peer: PeerId
    operators: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()

    def __or__(self, other: "Known") -> "Known":
        assert self.peer == other.peer, "two peers are not one"
        return Known(
            peer=self.peer, operators=self.operators | other.operators, networks=self.networks | other.networks
        )


def known(peer: PeerId, *, addresses: Iterable[str] = (), operators: Iterable[str] = ()) -> Known:
    """What a source knows of a peer.

    Args:
        addresses: multiaddrs at which it can be reached, or that it came from.
        operators: names; upper and lower case, and spaces, make no difference.
    """
    networks = frozenset(network for each in addresses if (network := network_of(each)))
    names = frozenset(name for each in operators if (name := " ".join(each.casefold().split())))
    return Known(peer=peer, operators=names, networks=networks)


def relation(one: Known, other: Known) -> str:
    """Why two peers count as related, as the beginning of a sentence that goes on with "as"; "" when nothing speaks for it."""
    if one.peer == other.peer:
        return "is the same node"
    if operators := one.operators & other.operators:
        return f"has the same operator ({min(operators)})"
    if networks := one.networks & other.networks:
        return f"is in the same network ({min(networks)})"
    return ""


def groups(everybody: Iterable[Known]) -> tuple[frozenset[PeerId], ...]:
    """Those who are related, directly or through others among them, together; each peer is in exactly one group."""
    found: list[list[Known]] = []
    for each in everybody:
        mine = [group for group in found if any(relation(each, member) for member in group)]
        found = [group for group in found if group not in mine]
        found.append([each, *(member for group in mine for member in group)])
    return tuple(frozenset(member.peer for member in group) for group in found)


@lru_cache(maxsize=8192)  # taking one apart costs 20 times as much as looking it up
def network_of(address: str) -> str:
    """The /16 of an IPv4 address or the /32 of an IPv6 one that a multiaddr begins with; a host name as it is; "" else."""
    kind, value = first_part(address)
    if kind in ("dns", "dns4", "dns6", "dnsaddr"):
        return value.lower().rstrip(".")
    number = _number(address)
    return "" if number is None else block_of(number)


def tells_who(address: str) -> bool:
    """Whether the address that somebody came from says anything of them: what comes from this machine itself (a relay, an
    onion service) cannot be told apart."""
    number = _number(address)
    return number is not None and not number.is_loopback


def _number(address: str) -> Number | None:
    kind, value = first_part(address)
    return number_of(value) if kind in ("ip4", "ip6") else None
