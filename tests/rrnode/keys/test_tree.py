"""One seed, many keys: where they hang, that they differ, and that the wallet of BDK owns what channels pay to."""

import bdkpython as bdk
import pytest

from bootstrap.networks import MAINNET, REGTEST, SIGNET, Network
from protocols.onchain.scripts import p2wpkh
from rrnode.errors import UserError
from rrnode.keys import KeyTree, key_ring
from rrnode.keys.bip32 import HARDENED, SecretNode, seed_of_words

WORDS = " ".join(["abandon"] * 23 + ["art"])
OTHER = " ".join(["zoo"] * 23 + ["vote"])


@pytest.mark.parametrize("network", [REGTEST, SIGNET, MAINNET])
@pytest.mark.parametrize("index", [0, 1, 2, 500])
def test_the_payment_basepoint_is_the_key_of_bdks_address(network: Network, index: int) -> None:
    tree = KeyTree(WORDS, network)
    receiving, change = tree.descriptors()
    for descriptor, is_change in ((receiving, False), (change, True)):
        address = descriptor.derive_address(index, tree.bdk_network())
        assert bytes(address.script_pubkey().to_bytes()) == p2wpkh(tree.wallet_key(index, change=is_change))
    assert tree.channel_keys(index).payment_basepoint == tree.wallet_key(index)


def test_the_address_of_the_bip_84_style_path_is_known() -> None:
    """The first address of the all-`abandon` seed of 24 words on mainnet, as other wallets show it."""
    tree = KeyTree(WORDS, MAINNET)
    address = tree.descriptors()[0].derive_address(0, bdk.Network.BITCOIN)
    root = SecretNode.master(seed_of_words(WORDS))
    assert tree.wallet_key(0) == root.derive("m/84'/0'/0'/0/0").public().key
    assert str(address).startswith("bc1q")


def test_identity_and_channel_seeds_hang_where_the_page_says() -> None:
    tree, root = KeyTree(WORDS, REGTEST), SecretNode.master(seed_of_words(WORDS))
    assert tree.identity_secret() == root.derive("m/29298'/1'/0'").secret
    assert tree.node_id() == root.derive("m/29298'/1'/0'").public().key
    assert tree.wallet_secret(3, change=True) == root.derive("m/84'/1'/0'/1/3").secret


def test_every_channel_has_keys_of_its_own() -> None:
    tree = KeyTree(WORDS, REGTEST)
    keys = [tree.channel_keys(index) for index in range(20)]
    secrets = [
        secret
        for each in keys
        for secret in (
            each.funding_secret,
            each.revocation_secret,
            each.delayed_payment_secret,
            each.htlc_secret,
            each.shachain_seed,
        )
    ]
    assert len(set(secrets)) == len(secrets)


def test_the_same_words_give_the_same_keys_and_others_give_others() -> None:
    assert key_ring(WORDS, REGTEST)(7) == KeyTree(WORDS, REGTEST).channel_keys(7)
    assert key_ring(WORDS, REGTEST)(7) != key_ring(OTHER, REGTEST)(7)
    assert KeyTree(WORDS, REGTEST).node_id() != KeyTree(OTHER, REGTEST).node_id()


def test_mainnet_shares_no_key_with_test_networks() -> None:
    main, test = KeyTree(WORDS, MAINNET), KeyTree(WORDS, SIGNET)
    assert main.node_id() != test.node_id()
    assert main.channel_keys(0) != test.channel_keys(0)
    assert main.wallet_key(0) != test.wallet_key(0)


@pytest.mark.parametrize("index", [-1, HARDENED])
def test_a_key_index_out_of_range_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="0 to 2147483647 wanted"):
        KeyTree(WORDS, REGTEST).channel_keys(index)


def test_wrong_words_are_refused_before_anything_is_derived() -> None:
    with pytest.raises(UserError, match="checksum"):
        KeyTree(" ".join(["abandon"] * 24), REGTEST)


def test_a_tree_shows_no_secret() -> None:
    shown = repr(KeyTree(WORDS, REGTEST))
    assert "abandon" not in shown
    assert KeyTree(WORDS, REGTEST).identity_secret().hex() not in shown


def test_keys_asked_for_again_are_not_derived_again() -> None:
    tree = KeyTree(WORDS, REGTEST)
    assert tree.channel_keys(5) is tree.channel_keys(5)
    assert tree.key_ring()(5) is tree.channel_keys(5)
