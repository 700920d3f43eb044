"""The direct calls into libsecp256k1, held to coincurve's own classes."""

import pytest
from coincurve import PrivateKey, PublicKey
from hypothesis import assume, given
from hypothesis import strategies as st

from protocols.errors import DecodeError, MisuseError
from protocols.onchain import ec

scalars = st.integers(1, ec.ORDER - 1).map(lambda value: value.to_bytes(32, "big"))
digests = st.binary(min_size=32, max_size=32)


@given(secret=scalars, digest=digests)
def test_signature_is_that_of_coincurve_in_another_form(secret: bytes, digest: bytes) -> None:
    signature = ec.sign(secret, digest)
    assert len(signature) == 64
    assert ec.to_der(signature) == PrivateKey(secret).sign(digest, hasher=None)
    assert ec.verify(ec.point_of(secret), digest, signature)


@given(secret=scalars, digest=digests, place=st.integers(0, 511))
def test_one_changed_bit_makes_a_signature_invalid(secret: bytes, digest: bytes, place: int) -> None:
    signature = bytearray(ec.sign(secret, digest))
    signature[place // 8] ^= 1 << place % 8
    assert not ec.verify(ec.point_of(secret), digest, bytes(signature))


@given(first=scalars, second=scalars, a=scalars, b=scalars)
def test_points_and_secrets_are_combined_alike(first: bytes, second: bytes, a: bytes, b: bytes) -> None:
    one, other, times, more = (int.from_bytes(each, "big") for each in (first, second, a, b))
    assume((one + times) % ec.ORDER and (one * times + other * more) % ec.ORDER)  # the sum is a point
    key = PublicKey.from_secret(first)
    assert ec.add_to_point(key.format(), a) == key.add(a).format()
    assert ec.point_of(ec.add_secrets(first, a)) == ec.add_to_point(ec.point_of(first), a)
    combined = ec.combine_multiples(ec.point_of(first), a, ec.point_of(second), b)
    assert combined == PublicKey.combine_keys([key.multiply(a), PublicKey.from_secret(second).multiply(b)]).format()
    assert ec.point_of(ec.combine_secrets(first, a, second, b)) == combined


def test_high_s_signature_is_refused() -> None:
    secret, digest = b"\x01" * 32, b"\x02" * 32
    signature = ec.sign(secret, digest)
    high = (ec.ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    assert ec.verify(ec.point_of(secret), digest, signature)
    assert not ec.verify(ec.point_of(secret), digest, signature[:32] + high)


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), b"\xff" * 64, bytes(65)])
def test_nonsense_is_no_signature(signature: bytes) -> None:
    assert not ec.verify(ec.point_of(b"\x01" * 32), bytes(32), signature)


@pytest.mark.parametrize("key", [b"", bytes(33), b"\x02" + bytes(32), b"\x05" + b"\x01" * 32, b"\x02" + b"\xff" * 32])
def test_bytes_off_the_curve_are_no_point(key: bytes) -> None:
    assert not ec.is_point(key)
    with pytest.raises(DecodeError):
        ec.verify(key, bytes(32), ec.sign(b"\x01" * 32, bytes(32)))


def test_degenerate_derivations_are_refused() -> None:
    one, minus_one = (1).to_bytes(32, "big"), (ec.ORDER - 1).to_bytes(32, "big")
    with pytest.raises(MisuseError, match="ends at zero"):
        ec.add_secrets(one, minus_one)
    with pytest.raises(DecodeError, match="infinity"):
        ec.add_to_point(ec.point_of(one), minus_one)
    with pytest.raises(DecodeError, match="infinity"):
        ec.combine_multiples(ec.point_of(one), one, ec.point_of(one), minus_one)
    with pytest.raises(DecodeError, match="infinity"):
        ec.combine_multiples(ec.point_of(one), bytes(32), ec.point_of(one), one)
    for bad in (bytes(32), b"\xff" * 32):
        with pytest.raises(MisuseError):
            ec.sign(bad, bytes(32))
        with pytest.raises(MisuseError):
            ec.point_of(bad)
    with pytest.raises(MisuseError, match="digest of 31"):
        ec.sign(one, bytes(31))
    with pytest.raises(MisuseError, match="64 wanted"):
        ec.to_der(bytes(63))
