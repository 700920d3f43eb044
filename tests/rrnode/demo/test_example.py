"""The example network keeps the rule that nobody guards themselves (DESIGN 2), without starting it: its tables are read.

The network itself runs in `make demo`, which checks its own sums.
"""

from ipaddress import ip_network

import pytest

from rrnode.demo.example import CHANNELS, COINS, HELPERS, LINKS, MINER, SERVERS, address_of, worth
from rrnode.demo.network import free_port
from rrnode.errors import UserError

NODES = {end for channel in CHANNELS for end in channel} | set(SERVERS)


def neighbours_of(name):
    return {end for channel in CHANNELS if name in channel for end in channel} - {name}


def test_each_client_has_three_helpers_that_serve_the_chain_and_are_no_neighbours_of_it():
    assert set(HELPERS) == NODES - set(SERVERS)
    for client, helpers in HELPERS.items():
        assert len(set(helpers)) == 3
        assert not neighbours_of(client) & set(helpers)
        assert all("chain" in SERVERS[helper] for helper in helpers)


def test_servers_listen_in_networks_of_their_own():
    assert len({ip_network(f"{address_of(name)}/16", strict=False) for name in SERVERS}) == len(SERVERS) == 5


def test_clients_are_never_dialled():
    assert {other for _, other in LINKS} <= set(SERVERS)


def test_who_ends_a_channel_has_a_coin_to_pay_for_it():
    for name, coins in COINS.items():
        assert name != MINER
        assert coins >= len(neighbours_of(name))


def test_what_a_node_is_worth_is_the_sum_over_its_channels():
    held = {
        ("A", "B"): {"left": 7, "right": 1, "flight": 5},
        ("B", "D"): {"left": 20, "right": 300, "flight": 0},
    }
    assert worth(held) == {"A": 7, "B": 21, "C": 0, "D": 300, "E": 0}


def test_an_address_that_this_machine_has_not_is_named_with_what_to_do():
    with pytest.raises(UserError, match=r"nothing can listen on 192\.0\.2\.1") as refused:
        free_port("192.0.2.1")
    assert "alias 192.0.2.1" in str(refused.value.hint)
