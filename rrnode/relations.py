"""Who seems to belong together: nobody is guarded by the one who could rob them (DESIGN 2, "Nobody guards themselves").

Only what can be seen counts: the key, and networks of addresses. One who means to hide it can; that is why several watchers
are better than one.
"""

import ipaddress
from collections.abc import Iterable

from protocols.ids import PeerId

_SAME = {4: 16, 6: 32}  # bits of an address that one operator's machines are taken to share


def relation(peer: PeerId, addresses: Iterable[str], other: PeerId, others: Iterable[str]) -> str:
    """Why two peers count as related, as the end of a sentence; "" when nothing speaks for it.

    Args:
        addresses, others: multiaddrs at which each can be reached.
    """
    if peer == other:
        return "is the same node"
    shared = {network for each in addresses if (network := network_of(each))} & {network_of(each) for each in others}
    return f"is in the same network, {min(shared)}" if shared else ""


def network_of(address: str) -> str:
    """The /16 of an IPv4 address or the /32 of an IPv6 one that a multiaddr begins with; a host name as it is; "" else."""
    kind, _, rest = address.removeprefix("/").partition("/")
    value = rest.split("/")[0]
    if kind in ("dns", "dns4", "dns6", "dnsaddr"):
        return value.lower()
    if kind not in ("ip4", "ip6"):
        return ""
    try:
        number = ipaddress.ip_address(value)
    except ValueError:
        return ""
    return str(ipaddress.ip_network((number, _SAME[number.version]), strict=False))
