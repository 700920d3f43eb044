"""Receipts: valid for exactly what was signed, and for nothing else."""

import hashlib

import pytest

from protocols.errors import DecodeError
from protocols.ids import PeerId
from protocols.onchain import ec
from protocols.units import AssetId, BlockHeight
from protocols.watch import receipt

SECRET = b"\x41" * 32
WATCHER, CLIENT = (PeerId(ec.point_of(bytes([mark]) * 32)) for mark in (0x41, 0x42))
NETWORK, UNTIL = AssetId(b"\x06" * 32), BlockHeight(850_000)
KEPT = tuple((bytes([place]) * 16, hashlib.sha256(bytes([place])).digest()) for place in range(3))


def test_receipt_is_the_watchers_over_the_layout_that_is_written_down() -> None:
    signature = receipt.sign(SECRET, NETWORK, CLIENT, UNTIL, KEPT)
    assert receipt.is_valid(signature, WATCHER, NETWORK, CLIENT, UNTIL, KEPT)
    listed = hashlib.sha256(b"".join(hint + digest for hint, digest in KEPT)).digest()
    content = b"\x01" + NETWORK + CLIENT + (850_000).to_bytes(4, "big") + b"\x00\x03" + listed
    tag = hashlib.sha256(b"rr watch receipt").digest()
    assert ec.verify(WATCHER, hashlib.sha256(tag + tag + content).digest(), signature)


def test_receipt_for_anything_else_is_not_valid() -> None:
    signature = receipt.sign(SECRET, NETWORK, CLIENT, UNTIL, KEPT)
    for wrong in (
        (signature[:-1] + bytes([signature[-1] ^ 1]), WATCHER, NETWORK, CLIENT, UNTIL, KEPT),
        (signature[:63], WATCHER, NETWORK, CLIENT, UNTIL, KEPT),
        (signature, CLIENT, NETWORK, CLIENT, UNTIL, KEPT),
        (signature, WATCHER, AssetId(bytes(32)), CLIENT, UNTIL, KEPT),
        (signature, WATCHER, NETWORK, WATCHER, UNTIL, KEPT),
        (signature, WATCHER, NETWORK, CLIENT, BlockHeight(UNTIL + 1), KEPT),
        (signature, WATCHER, NETWORK, CLIENT, UNTIL, KEPT[:2]),
        (signature, WATCHER, NETWORK, CLIENT, UNTIL, KEPT[::-1]),
        (signature, WATCHER, NETWORK, CLIENT, UNTIL, ()),
    ):
        assert not receipt.is_valid(*wrong)
    with pytest.raises(DecodeError):
        receipt.is_valid(signature, PeerId(b"\x02" + b"\xff" * 32), NETWORK, CLIENT, UNTIL, KEPT)
