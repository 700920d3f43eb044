"""The key tree against the vectors of BIP 32 and BIP 39, and against what BDK derives from the same words."""

import bdkpython as bdk
import pytest
from coincurve import PrivateKey

from rrnode.keys.bip32 import HARDENED, SecretNode, seed_of_words

# BIP 32, test vectors 1 to 3: seed, then (path, chain code, private key, public key) read out of the xprv and xpub.
SEED_1 = bytes(range(16))
SEED_2 = bytes.fromhex(
    "fffcf9f6f3f0edeae7e4e1dedbd8d5d2cfccc9c6c3c0bdbab7b4b1aeaba8a5a29f9c999693908d8a8784817e7b7875726f6c696663605d5a5754514e4b484542"
)
SEED_3 = bytes.fromhex(
    "4b381541583be4423346c643850da4b320e46a87ae3d2a4e6da11eba819cd4acba45d239319ac14f863b8d5ab5a0d0c64d2e8a1e7d1457df2e5a3c51c73235be"
)
XPRVS = [
    (SEED_1, "m", "xprv9s21ZrQH143K3QTDL4LXw2F7HEK3wJUD2nW2nRk4stbPy6cq3jPPqjiChkVvvNKmPGJxWUtg6LnF5kejMRNNU3TGtRBeJgk33yuGBxrMPHi"),
    (SEED_1, "m/0'", "xprv9uHRZZhk6KAJC1avXpDAp4MDc3sQKNxDiPvvkX8Br5ngLNv1TxvUxt4cV1rGL5hj6KCesnDYUhd7oWgT11eZG7XnxHrnYeSvkzY7d2bhkJ7"),
    (SEED_1, "m/0'/1", "xprv9wTYmMFdV23N2TdNG573QoEsfRrWKQgWeibmLntzniatZvR9BmLnvSxqu53Kw1UmYPxLgboyZQaXwTCg8MSY3H2EU4pWcQDnRnrVA1xe8fs"),
    (SEED_1, "m/0'/1/2'/2/1000000000", "xprvA41z7zogVVwxVSgdKUHDy1SKmdb533PjDz7J6N6mV6uS3ze1ai8FHa8kmHScGpWmj4WggLyQjgPie1rFSruoUihUZREPSL39UNdE3BBDu76"),
    (SEED_2, "m/0/2147483647'/1/2147483646'/2", "xprvA2nrNbFZABcdryreWet9Ea4LvTJcGsqrMzxHx98MMrotbir7yrKCEXw7nadnHM8Dq38EGfSh6dqA9QWTyefMLEcBYJUuekgW4BYPJcr9E7j"),
    (SEED_3, "m/0'", "xprv9uPDJpEQgRQfDcW7BkF7eTya6RPxXeJCqCJGHuCJ4GiRVLzkTXBAJMu2qaMWPrS7AANYqdq6vcBcBUdJCVVFceUvJFjaPdGZ2y9WACViL4L"),
]  # fmt: skip


def taken_apart(xprv: str) -> tuple[bytes, bytes]:
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    number = 0
    for letter in xprv:
        number = number * 58 + alphabet.index(letter)
    raw = number.to_bytes(82, "big")
    return raw[13:45], raw[46:78]  # chain code, secret


@pytest.mark.parametrize(("seed", "path", "xprv"), XPRVS)
def test_a_path_leads_to_the_key_of_the_vector(seed: bytes, path: str, xprv: str) -> None:
    node = SecretNode.master(seed).derive(path)
    assert (node.chain, node.secret) == taken_apart(xprv)


def test_a_public_child_is_the_public_half_of_the_secret_child() -> None:
    parent = SecretNode.master(SEED_2).derive("m/84'/0'/0'")
    for index in (0, 1, 77, HARDENED - 1):
        assert parent.public().child(index) == parent.child(index).public()


@pytest.mark.parametrize("index", [-1, HARDENED, HARDENED + 5])
def test_a_public_key_has_no_hardened_child(index: int) -> None:
    with pytest.raises(ValueError, match="0 to 2147483647 wanted"):
        SecretNode.master(SEED_1).public().child(index)


def test_words_make_the_seed_of_the_bip_39_vector() -> None:
    words = "legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth title"
    assert seed_of_words(words, "TREZOR").hex() == (
        "bc09fca1804f7e69da93c2f2028eb238c227f2e9dda30cd63699232578480a4021b146ad717fbb7e451ce9eb835f43620bf5c514db0f8add49f5d121449d3e87"
    )


def test_the_same_words_make_the_same_root_as_in_bdk() -> None:
    words = " ".join(["abandon"] * 23 + ["art"])
    theirs = bdk.DescriptorSecretKey(bdk.NetworkKind.TEST, bdk.Mnemonic.from_string(words), None)
    mine = SecretNode.master(seed_of_words(words))
    assert bytes(theirs.secret_bytes()) == mine.secret
    path = "m/29298'/1'/1'/7'"
    assert bytes(theirs.derive(bdk.DerivationPath(path)).secret_bytes()) == mine.derive(path).secret


def test_a_secret_node_does_not_show_its_secret() -> None:
    node = SecretNode.master(SEED_1)
    assert node.secret.hex() not in repr(node)
    assert repr(node.secret) not in repr(node)
    assert PrivateKey(node.secret).public_key.format() == node.public().key
