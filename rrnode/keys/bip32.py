"""Hierarchical deterministic keys: one seed, a tree of secp256k1 keys.

Source: BIP 32 (the tree), BIP 39 (words to seed). BDK derives the wallet's keys itself; this module derives the keys that
BDK cannot hand out as bare bytes, and tests hold the two against each other.
"""

import hashlib
import hmac
from dataclasses import dataclass

from coincurve import PrivateKey, PublicKey

HARDENED = 1 << 31
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def seed_of_words(words: str, passphrase: str = "") -> bytes:
    """The 64-byte seed of a BIP 39 sentence. The words are not checked here (`rrnode.keys.words` does)."""
    sentence = " ".join(words.split())
    return hashlib.pbkdf2_hmac("sha512", sentence.encode(), b"mnemonic" + passphrase.encode(), 2048)


def _hmac(chain: bytes, data: bytes) -> tuple[int, bytes]:
    digest = hmac.digest(chain, data, "sha512")
    return int.from_bytes(digest[:32], "big"), digest[32:]


@dataclass(frozen=True, slots=True)
class PublicNode:
    """The public half of a node: enough to derive every unhardened public key below it.

    Attributes:
        key: 33 bytes, compressed.
        chain: 32 bytes, the chain code.
    """

    key: bytes
    chain: bytes

    def child(self, index: int) -> "PublicNode":
        """The unhardened child `index` (0 to 2^31 - 1). Raises ValueError for a hardened one."""
        if not 0 <= index < HARDENED:
            raise ValueError(f"a public key has no child {index}: 0 to {HARDENED - 1} wanted")
        tweak, chain = _hmac(self.chain, self.key + index.to_bytes(4, "big"))
        if tweak >= _ORDER:  # one chance in 2^127; BIP 32 says to take the next index
            raise ValueError(f"index {index} has no key")
        return PublicNode(PublicKey(self.key).add(tweak.to_bytes(32, "big")).format(), chain)


@dataclass(frozen=True, slots=True, repr=False)
class SecretNode:
    """A node of the tree with its secret.

    Attributes:
        secret: 32 bytes, big endian.
        chain: 32 bytes, the chain code.
    """

    secret: bytes
    chain: bytes

    @classmethod
    def master(cls, seed: bytes) -> "SecretNode":
        """The root of the tree for a seed of 16 to 64 bytes."""
        number, chain = _hmac(b"Bitcoin seed", seed)
        if not 0 < number < _ORDER:
            raise ValueError("this seed has no master key; make another one")
        return cls(number.to_bytes(32, "big"), chain)

    def child(self, index: int) -> "SecretNode":
        """Child `index`; from 2^31 (`HARDENED`) on it is hardened."""
        if index >= HARDENED:
            data = b"\0" + self.secret + index.to_bytes(4, "big")
        else:
            data = self.public().key + index.to_bytes(4, "big")
        tweak, chain = _hmac(self.chain, data)
        number = (tweak + int.from_bytes(self.secret, "big")) % _ORDER
        if tweak >= _ORDER or number == 0:
            raise ValueError(f"index {index} has no key")
        return SecretNode(number.to_bytes(32, "big"), chain)

    def derive(self, path: str) -> "SecretNode":
        """Follow a path such as `m/84'/1'/0'/0/5`; `'` marks a hardened step."""
        node = self
        for step in path.split("/"):
            if step in ("m", ""):
                continue
            hardened = step.endswith(("'", "h"))
            index = int(step.rstrip("'h"))
            node = node.child(index + HARDENED if hardened else index)
        return node

    def public(self) -> PublicNode:
        """The public half."""
        return PublicNode(PrivateKey(self.secret).public_key.format(), self.chain)
