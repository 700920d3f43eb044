"""What a multiaddr says of the machine that it leads to, and of who may own it: its first part (DESIGN 2)."""

import ipaddress

Number = ipaddress.IPv4Address | ipaddress.IPv6Address

_SAME = {4: 16, 6: 32}  # bits of an address that one operator's machines are taken to share


def first_part(address: str) -> tuple[str, str]:
    """Kind and value of what it begins with, such as `ip4` and `192.0.2.7`."""
    kind, _, rest = address.lstrip("/").partition("/")
    return kind, rest.partition("/")[0]


def number_of(value: str) -> Number | None:
    """The IP address in a text, without its zone; None when it is none.

    An IPv4 address that is written as IPv6 is IPv4: else it would share its /32 with all others, and none with itself.
    """
    try:
        number = ipaddress.ip_address(value.split("%")[0])
    except ValueError:
        return None
    return getattr(number, "ipv4_mapped", None) or number


def block_of(number: Number) -> str:
    """The /16 of an IPv4 address, the /32 of an IPv6 one."""
    return str(ipaddress.ip_network((number, _SAME[number.version]), strict=False))
