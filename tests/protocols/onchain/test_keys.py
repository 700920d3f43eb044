"""Key derivation against BOLT 3, appendix E, and a channel's keys from its seed."""

import msgspec
import pytest

from protocols.errors import MisuseError
from protocols.onchain import ec
from protocols.onchain.keys import (
    BasePoints,
    ChannelKeys,
    derive_privkey,
    derive_pubkey,
    derive_revocation_privkey,
    derive_revocation_pubkey,
    payout_script,
)

BASE_SECRET = bytes(range(32))
COMMITMENT_SECRET = bytes(range(31, -1, -1))
BASE_POINT = bytes.fromhex("036d6caac248af96f6afa7f904f550253a0f3ef3f5aa2fe6838a95b216691468e2")
COMMITMENT_POINT = bytes.fromhex("025f7117a78150fe2ef97db7cfc83bd57b2e2c0d0dd25eaf467a4a1c2a45ce1486")


def test_derived_keys_are_those_of_appendix_e() -> None:
    assert ec.point_of(BASE_SECRET) == BASE_POINT
    assert ec.point_of(COMMITMENT_SECRET) == COMMITMENT_POINT
    assert (
        derive_pubkey(BASE_POINT, COMMITMENT_POINT).hex()
        == "0235f2dbfaa89b57ec7b055afe29849ef7ddfeb1cefdb9ebdc43f5494984db29e5"
    )
    assert (
        derive_privkey(BASE_SECRET, BASE_POINT, COMMITMENT_POINT).hex()
        == "cbced912d3b21bf196a766651e436aff192362621ce317704ea2f75d87e7be0f"
    )
    assert (
        derive_revocation_pubkey(BASE_POINT, COMMITMENT_POINT).hex()
        == "02916e326636d19c33f13e8c0c3a03dd157f332f3e99c317c141dd865eb01f8ff0"
    )
    assert (
        derive_revocation_privkey(BASE_SECRET, COMMITMENT_SECRET).hex()
        == "d09ffff62ddb2297ab000cc85bcb4283fdeb6aa052affbc9dddcf33b61078110"
    )


def test_keys_of_one_seed_are_all_different_and_their_points_belong_to_them() -> None:
    keys = ChannelKeys.from_seed(b"\x07" * 32, BASE_POINT)
    points = keys.points
    assert points == BasePoints(
        funding_pubkey=ec.point_of(keys.funding_secret),
        revocation=ec.point_of(keys.revocation_secret),
        payment=BASE_POINT,
        delayed_payment=ec.point_of(keys.delayed_payment_secret),
        htlc=ec.point_of(keys.htlc_secret),
    )
    assert len({points.funding_pubkey, points.revocation, points.payment, points.delayed_payment, points.htlc}) == 5
    assert keys == ChannelKeys.from_seed(b"\x07" * 32, BASE_POINT)
    assert keys != ChannelKeys.from_seed(b"\x08" * 32, BASE_POINT)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(points), type=BasePoints) == points


def test_keys_of_a_seed_never_change() -> None:
    # Coins of real channels hang on this derivation: a change of these bytes loses them.
    keys = ChannelKeys.from_seed(b"\x07" * 32, BASE_POINT)
    assert [
        secret.hex()
        for secret in (
            keys.funding_secret,
            keys.revocation_secret,
            keys.delayed_payment_secret,
            keys.htlc_secret,
            keys.shachain_seed,
        )
    ] == [
        "9dc0091b1ddd8c877c7d42878c53a40f6c0a47cdbde8c40c51a2caad166f3c7c",
        "054311b0db0d239b96ce9c9791266107fe235b3cf317ad25b133e19f1ecda7b9",
        "6c15941201fc9d33d3321bd469d1fbfbf6858e793ccd09d9616df32ea5939cea",
        "c80ab2d328afd08917936b357bfe64147e2c14a3be2f543374342394a6e7e8fc",
        "b25eac546ca9b95ad62aa992c9a0212d5ef4d9894da8071f26c667e0cd488534",
    ]
    assert "secret" not in repr(keys)
    assert keys.per_commitment_point(0) == ec.point_of(keys.per_commitment_secret(0))
    assert keys.per_commitment_point(1) == ec.point_of(keys.per_commitment_secret(1))
    assert keys.per_commitment_point(0) != keys.per_commitment_point(1)


def test_seed_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(MisuseError, match="seed of 31"):
        ChannelKeys.from_seed(bytes(31), BASE_POINT)


def test_payout_script_is_the_p2wpkh_of_the_payment_basepoint() -> None:
    # BIP 173's example key.
    key = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
    assert payout_script(key).hex() == "0014751e76e8199196d454941c45d1b3a323f1433bd6"
