"""Sealed initializations: only the payee can read them, all look alike, and damage is noticed."""

import hashlib
from dataclasses import replace

import pytest
from coincurve import PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import DecodeError, MisuseError
from protocols.onchain import ec
from protocols.payment.events import Kind
from protocols.payment.initialization import _FIXED, Initialization, _key, seal, unseal
from protocols.units import MAX_MSAT, Amount, AssetId, Msat, UnixTime
from protocols.wire.init import SEALED_SIZE

PAYEE_SECRET = hashlib.sha256(b"payee").digest()
PAYEE = ec.point_of(PAYEE_SECRET)
EPHEMERAL = hashlib.sha256(b"ephemeral").digest()
COIN = AssetId(b"\xc0" * 32)
INIT = Initialization(
    nonce=b"\x01" * 16,
    kind=Kind.PUSH,
    secret=b"\x02" * 32,
    amount=Amount(Msat(5000), COIN),
    ceiling=Amount(Msat(6000), COIN),
    expiry=UnixTime(1_700_000_000),
    memo="thanks",
)


@given(
    kind=st.sampled_from(Kind),
    nonce=st.binary(min_size=16, max_size=16),
    secret=st.binary(min_size=32, max_size=32),
    amounts=st.tuples(st.integers(1, MAX_MSAT), st.integers(1, MAX_MSAT)),
    expiry=st.integers(0, 2**63),
    memo=st.text(max_size=50),
)
def test_the_payee_reads_what_was_sealed(kind, nonce, secret, amounts, expiry, memo):
    init = Initialization(
        nonce=nonce,
        kind=kind,
        secret=secret,
        amount=Amount(Msat(amounts[0]), COIN),
        ceiling=Amount(Msat(amounts[1]), AssetId(b"\x60" * 32)),
        expiry=UnixTime(expiry),
        memo=memo,
    )
    sealed = seal(init, PAYEE, EPHEMERAL)
    assert len(sealed) == SEALED_SIZE
    assert unseal(sealed, PAYEE_SECRET) == init


def test_the_bytes_are_as_the_module_says():
    """The whole layout, written out by hand."""
    plain = (
        b"\x01\x00" + b"\x01" * 16 + b"\x02" * 32 + (5000).to_bytes(8, "big") + COIN + (6000).to_bytes(8, "big") + COIN
        + (1_700_000_000).to_bytes(8, "big") + b"\x06thanks"
    )  # fmt: skip
    public = ec.point_of(EPHEMERAL)
    key = _key(PrivateKey(PAYEE_SECRET).ecdh(public), public + PAYEE)
    sealed = public + ChaCha20Poly1305(key).encrypt(bytes(12), plain.ljust(463, b"\0"), public + PAYEE)
    assert seal(INIT, PAYEE, EPHEMERAL) == sealed


def test_nobody_else_reads_it():
    with pytest.raises(DecodeError, match="damaged or not for this node"):
        unseal(seal(INIT, PAYEE, EPHEMERAL), EPHEMERAL)


@given(st.integers(0, SEALED_SIZE * 8 - 1))
def test_any_changed_bit_is_noticed(bit):
    sealed = bytearray(seal(INIT, PAYEE, EPHEMERAL))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DecodeError):
        unseal(bytes(sealed), PAYEE_SECRET)


@given(st.binary(max_size=600) | st.binary(min_size=SEALED_SIZE, max_size=SEALED_SIZE))
def test_garbage_gets_a_decode_error_and_nothing_else(raw):
    with pytest.raises(DecodeError):
        unseal(raw, PAYEE_SECRET)


def test_a_fresh_key_makes_the_same_initialization_look_different_throughout():
    one, other = seal(INIT, PAYEE, EPHEMERAL), seal(INIT, PAYEE, hashlib.sha256(EPHEMERAL).digest())
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 20


def sealed_plain(plain):
    public = ec.point_of(EPHEMERAL)
    key = _key(PrivateKey(EPHEMERAL).ecdh(PAYEE), public + PAYEE)
    return public + ChaCha20Poly1305(key).encrypt(bytes(12), plain.ljust(463, b"\0"), public + PAYEE)


def fixed(version=1, kind=0, amount=5000, ceiling=6000, size=0):
    return _FIXED.pack(version, kind, bytes(16), bytes(32), amount, COIN, ceiling, COIN, 1_700_000_000, size)


@pytest.mark.parametrize(
    ("plain", "sentence"),
    [
        (fixed(version=2), "version 2"),
        (fixed(kind=2), "kind 2"),
        (fixed(amount=0), "of 0 msat"),
        (fixed(ceiling=MAX_MSAT + 1), f"ceiling of {MAX_MSAT + 1} msat"),
        (fixed() + b"\x01", "more in it"),
        (fixed(size=2) + b"\xff\xff", "not UTF-8"),
    ],
)
def test_what_was_sealed_in_another_form_is_refused(plain, sentence):
    with pytest.raises(DecodeError, match=sentence):
        unseal(sealed_plain(plain), PAYEE_SECRET)


def test_wrong_fields_are_our_own_bug():
    with pytest.raises(MisuseError, match="nonce of 3"):
        seal(replace(INIT, nonce=b"abc"), PAYEE, EPHEMERAL)
    with pytest.raises(MisuseError, match="memo of 201"):
        seal(replace(INIT, memo="x" * 201), PAYEE, EPHEMERAL)
    with pytest.raises(DecodeError, match="no key can be agreed"):
        seal(INIT, b"\x02" + b"\xff" * 32, EPHEMERAL)
