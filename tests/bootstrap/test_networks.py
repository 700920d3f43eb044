"""The networks' constants fit each other; checkpoints that people name are read."""

import pytest

from bootstrap.networks import NETWORKS, parse_checkpoint
from protocols.errors import DecodeError
from protocols.light.headers import HeaderChain, parse_header
from protocols.light.work import target_of


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_network_begins_with_the_block_whose_hash_is_its_coins_id(network):
    header = parse_header(network.checkpoint.header)
    assert (network.checkpoint.height, header.hash) == (0, network.genesis)
    assert int.from_bytes(header.hash, "little") <= target_of(header.bits) <= network.pow_rules.limit
    assert HeaderChain(network.pow_rules, network.checkpoint).tip == header


FIRST = NETWORKS["mainnet"].checkpoint.header.hex()


def test_a_checkpoint_is_read_as_people_write_it():
    checkpoint = parse_checkpoint(f"0 {FIRST}", NETWORKS["mainnet"])
    assert checkpoint == NETWORKS["mainnet"].checkpoint
    assert parse_checkpoint(f"4032 {FIRST}", NETWORKS["mainnet"]).height == 4032  # who names it vouches for it


@pytest.mark.parametrize(
    ("text", "network", "reason"),
    [
        ("", "mainnet", "a height and the 160 hexadecimal digits"),
        (f"0  {FIRST}", "mainnet", "a height and the 160 hexadecimal digits"),
        (f"-1 {FIRST}", "mainnet", "a height and the 160 hexadecimal digits"),
        (f"0 {FIRST[:-2]}", "mainnet", "a height and the 160 hexadecimal digits"),
        (f"0 {FIRST}\n", "mainnet", "a height and the 160 hexadecimal digits"),
        (f"2015 {FIRST}", "mainnet", "height 2015, a multiple of 2016 wanted"),
        (f"145 {FIRST}", "regtest", "height 145, a multiple of 144 wanted"),
        (f"2016 {FIRST[:-8]}00000000", "mainnet", "no header of mainnet: it has too little work"),
        (f"2016 {NETWORKS['regtest'].checkpoint.header.hex()}", "mainnet", "it has too little work"),
    ],
)
def test_what_is_no_checkpoint_is_refused(text, network, reason):
    with pytest.raises(DecodeError, match=reason):
        parse_checkpoint(text, NETWORKS[network])
