"""One seed for wallet, node identity and channel keys."""

from rrnode.keys.seedfile import SeedFile
from rrnode.keys.tree import KeyRing, KeyTree, key_ring
from rrnode.keys.words import check_words, new_words

__all__ = ["KeyRing", "KeyTree", "SeedFile", "check_words", "key_ring", "new_words"]
