"""Which keys hang where on the one seed: wallet, node identity, channels (DESIGN 3).

    m/84'/coin'/0'/0/i      wallet, receiving (BIP 84); also the payment basepoint of the channel with key_index i
    m/84'/coin'/0'/1/i      wallet, change
    m/29298'/coin'/0'       node identity: the libp2p key
    m/29298'/coin'/1'/i'    seed of the channel keys with key_index i (funding, revocation, delayed, HTLC, shachain)

29298 is 0x7272, "rr": a purpose of our own (BIP 43). `coin` is 0 on mainnet and 1 elsewhere (SLIP 44). Every own branch
is hardened, so no channel secret that a peer learns by revocation says anything about another key.
"""

from collections.abc import Callable
from functools import lru_cache

import bdkpython as bdk

from bootstrap.networks import MAINNET, Network
from protocols.ids import PeerId
from protocols.onchain.keys import ChannelKeys
from rrnode.keys.bip32 import HARDENED, SecretNode, seed_of_words
from rrnode.keys.words import check_words

PURPOSE = 0x7272
MAX_KEY_INDEX = HARDENED - 1
_CACHED_CHANNELS = 4096  # keys of live channels are asked for with every commitment; a few hundred bytes each

KeyRing = Callable[[int], ChannelKeys]

_BDK_NETWORKS = {
    "mainnet": bdk.Network.BITCOIN,
    "testnet4": bdk.Network.TESTNET4,
    "signet": bdk.Network.SIGNET,
    "regtest": bdk.Network.REGTEST,
}


class KeyTree:
    """All keys of one node, derived from its words.

    Args:
        words: 24 words, checked. Raises UserError when they are wrong.
        network: decides the coin type and the form of addresses.
    """

    def __init__(self, words: str, network: Network) -> None:
        self.network = network
        self._words = check_words(words)
        coin = 0 if network.name == MAINNET.name else 1
        root = SecretNode.master(seed_of_words(self._words))
        own = root.derive(f"{PURPOSE}'/{coin}'")
        self._account = root.derive(f"84'/{coin}'/0'")
        self._receiving, self._change = self._account.public().child(0), self._account.public().child(1)
        self._identity = own.derive("0'")
        self._channels = own.derive("1'")
        self._channel_keys = lru_cache(maxsize=_CACHED_CHANNELS)(self._derive_channel_keys)

    def __repr__(self) -> str:  # never a secret in a log line
        return f"KeyTree({self.node_id().hex()}, {self.network.name})"

    def identity_secret(self) -> bytes:
        """The node's libp2p secret: 32 bytes, secp256k1."""
        return self._identity.secret

    def node_id(self) -> PeerId:
        """The node's public identity: 33 bytes, compressed."""
        return PeerId(self._identity.public().key)

    def wallet_key(self, index: int, *, change: bool = False) -> bytes:
        """The 33-byte public key of a wallet address."""
        return (self._change if change else self._receiving).child(index).key

    def wallet_secret(self, index: int, *, change: bool = False) -> bytes:
        """The 32-byte secret of a wallet address."""
        return self._account.child(int(change)).child(index).secret

    def channel_keys(self, key_index: int) -> ChannelKeys:
        """The keys of the channel that uses this index. Raises ValueError outside 0 to 2^31 - 1."""
        return self._channel_keys(key_index)

    def key_ring(self) -> KeyRing:
        """`channel_keys` as the plain function that the engines take."""
        return self._channel_keys

    def _derive_channel_keys(self, key_index: int) -> ChannelKeys:
        if not 0 <= key_index <= MAX_KEY_INDEX:
            raise ValueError(f"key index {key_index}: 0 to {MAX_KEY_INDEX} wanted")
        seed = self._channels.child(key_index + HARDENED).secret
        return ChannelKeys.from_seed(seed, self.wallet_key(key_index))

    def bdk_network(self) -> bdk.Network:
        """The network as BDK names it."""
        return _BDK_NETWORKS[self.network.name]

    def descriptors(self) -> tuple[bdk.Descriptor, bdk.Descriptor]:
        """BIP 84 descriptors with their secret keys: receiving, change."""
        kind = bdk.NetworkKind.MAIN if self.network.name == MAINNET.name else bdk.NetworkKind.TEST
        secret = bdk.DescriptorSecretKey(kind, bdk.Mnemonic.from_string(self._words), None)
        return (
            bdk.Descriptor.new_bip84(secret, bdk.KeychainKind.EXTERNAL, kind),
            bdk.Descriptor.new_bip84(secret, bdk.KeychainKind.INTERNAL, kind),
        )


def key_ring(words: str, network: Network) -> KeyRing:
    """The function key_index -> ChannelKeys for these words."""
    return KeyTree(words, network).key_ring()
