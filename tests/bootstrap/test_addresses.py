"""The first part of a multiaddr, and the networks of one owner."""

import ipaddress

import pytest

from bootstrap.addresses import block_of, first_part, number_of


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("/ip4/192.0.2.7/tcp/1/p2p/x", ("ip4", "192.0.2.7")),
        ("/dns4/Relay.Example/tcp/1", ("dns4", "Relay.Example")),
        ("/memory/3", ("memory", "3")),
        ("/ip4", ("ip4", "")),
        ("", ("", "")),
    ],
)
def test_first_part_of_a_multiaddr(address: str, part: tuple[str, str]) -> None:
    assert first_part(address) == part


def test_number_has_no_zone_and_is_ipv4_however_it_is_written() -> None:
    assert number_of("192.0.2.7") == number_of("::ffff:192.0.2.7") == ipaddress.IPv4Address("192.0.2.7")
    assert number_of("fe80::7%eth0") == ipaddress.IPv6Address("fe80::7")
    assert [number_of(each) for each in ("relay.example", "", "1.2.3")] == [None] * 3


def test_one_owner_has_a_16_of_ipv4_and_a_32_of_ipv6() -> None:
    assert block_of(ipaddress.IPv4Address("192.0.2.7")) == "192.0.0.0/16"
    assert block_of(ipaddress.IPv6Address("2001:db8:1:2::3")) == "2001:db8::/32"
