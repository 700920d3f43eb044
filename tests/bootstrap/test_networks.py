"""The networks' constants fit each other."""

import pytest

from bootstrap.networks import NETWORKS
from protocols.light.headers import HeaderChain, parse_header
from protocols.light.work import target_of


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_network_begins_with_the_block_whose_hash_is_its_coins_id(network):
    header = parse_header(network.checkpoint.header)
    assert (network.checkpoint.height, header.hash) == (0, network.genesis)
    assert int.from_bytes(header.hash, "little") <= target_of(header.bits) <= network.pow_rules.limit
    assert HeaderChain(network.pow_rules, network.checkpoint).tip == header
