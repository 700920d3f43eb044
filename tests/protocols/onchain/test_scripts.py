"""Script forms against BOLT 3's text by way of python-bitcoinlib, and what a peer may ask to be paid on."""

import hashlib

import pytest
from bitcoin.core.contrib.ripemd160 import ripemd160 as slow_ripemd160
from bitcoin.core.script import (
    OP_2,
    OP_CHECKLOCKTIMEVERIFY,
    OP_CHECKMULTISIG,
    OP_CHECKSEQUENCEVERIFY,
    OP_CHECKSIG,
    OP_DROP,
    OP_DUP,
    OP_ELSE,
    OP_ENDIF,
    OP_EQUAL,
    OP_EQUALVERIFY,
    OP_HASH160,
    OP_IF,
    OP_NOTIF,
    OP_SIZE,
    OP_SWAP,
    CScript,
)

from protocols.errors import MisuseError
from protocols.onchain import scripts
from protocols.units import BlockDelta, BlockHeight

A, B, C = (bytes([2]) + bytes([value]) * 32 for value in (1, 2, 3))
HASH = hashlib.sha256(b"payment").digest()


@pytest.mark.parametrize("value", [0, 1, 16, 17, 127, 128, 144, 255, 256, 32767, 32768, 500_000, 2**31 - 1, 2**32 - 1])
def test_numbers_are_pushed_minimally(value: int) -> None:
    assert scripts.number(value) == CScript([value])


def test_negative_number_is_our_own_mistake() -> None:
    with pytest.raises(MisuseError, match="script number -1"):
        scripts.number(-1)


def test_funding_script_orders_the_keys() -> None:
    assert scripts.funding_script(B, A) == scripts.funding_script(A, B)
    assert scripts.funding_script(A, B) == CScript([OP_2, A, B, OP_2, OP_CHECKMULTISIG])


@pytest.mark.parametrize("delay", [1, 16, 17, 144, 2016, 65535])
def test_to_local_script_is_that_of_bolt_3(delay: int) -> None:
    expected = CScript([OP_IF, A, OP_ELSE, delay, OP_CHECKSEQUENCEVERIFY, OP_DROP, B, OP_ENDIF, OP_CHECKSIG])
    assert scripts.to_local_script(A, BlockDelta(delay), B) == expected


def test_htlc_scripts_are_those_of_bolt_3_without_the_delay_of_one_block() -> None:
    revocation_hash, hashed = scripts.hash160(C), scripts.ripemd160(HASH)
    start = [
        OP_DUP,
        OP_HASH160,
        revocation_hash,
        OP_EQUAL,
        OP_IF,
        OP_CHECKSIG,
        OP_ELSE,
        A,
        OP_SWAP,
        OP_SIZE,
        32,
        OP_EQUAL,
    ]
    two_of_two = [OP_2, OP_SWAP, B, OP_2, OP_CHECKMULTISIG]
    claim = [OP_HASH160, hashed, OP_EQUALVERIFY]
    offered = CScript([*start, OP_NOTIF, OP_DROP, *two_of_two, OP_ELSE, *claim, OP_CHECKSIG, OP_ENDIF, OP_ENDIF])
    assert scripts.offered_htlc_script(revocation_hash, A, B, HASH) == offered
    assert len(offered) == 133
    for expiry in (5, 127, 128, 920_150):
        refund = [OP_DROP, expiry, OP_CHECKLOCKTIMEVERIFY, OP_DROP, OP_CHECKSIG]
        received = CScript([*start, OP_IF, *claim, *two_of_two, OP_ELSE, *refund, OP_ENDIF, OP_ENDIF])
        assert scripts.received_htlc_script(revocation_hash, A, B, HASH, BlockHeight(expiry)) == received


def test_ripemd_does_not_depend_on_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = bytes.fromhex("9c1185a5c5e9fc54612808977ee8f548b2258d31")  # of the empty string
    assert scripts.ripemd160(b"") == slow_ripemd160(b"") == expected
    monkeypatch.setattr(scripts, "_HAS_RIPEMD", False)
    assert scripts.ripemd160.__wrapped__(b"") == expected
    assert scripts.hash160(A) == slow_ripemd160(hashlib.sha256(A).digest())


@pytest.mark.parametrize(
    ("script", "allowed", "dust"),
    [
        (b"\x00\x14" + bytes(20), True, 294),
        (b"\x00\x20" + bytes(32), True, 330),
        (b"\x51\x20" + bytes(32), True, 354),
        (b"\x51\x28" + bytes(40), True, 354),
        (b"\x60\x14" + bytes(20), True, 354),
        (b"\x00\x15" + bytes(21), False, None),
        (b"\x51\x13" + bytes(19), False, None),
        (b"\x51\x29" + bytes(41), False, None),
        (b"\x61\x20" + bytes(32), False, None),
        (b"\x50\x20" + bytes(32), False, None),
        (b"\x6a\x20" + bytes(32), False, None),
        (b"\x51\x20" + bytes(31), False, None),
        (b"\xa9\x14" + bytes(20) + b"\x87", False, None),
        (b"\x76\xa9\x14" + bytes(20) + b"\x88\xac", False, None),
        (scripts.ANCHOR_SCRIPT, False, None),
        (b"", False, None),
    ],
)
def test_only_segwit_outputs_may_be_asked_for(script: bytes, allowed: bool, dust: int | None) -> None:
    assert scripts.is_shutdown_script(script) is allowed
    if dust is not None:
        assert scripts.dust_threshold(script) == dust
