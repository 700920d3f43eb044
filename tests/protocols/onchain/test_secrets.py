"""Per-commitment secrets against BOLT 3, appendix D: generation, and storage of right and of wrong sequences."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import MisuseError
from protocols.onchain.secrets import MAX_NUMBER, SecretStore, secret_at

FF = b"\xff" * 32


@pytest.mark.parametrize(
    ("seed", "index", "secret"),
    [
        (bytes(32), 281474976710655, "02a40c85b6f28da08dfdbe0926c53fab2de6d28c10301f8f7c4073d5e42e3148"),
        (FF, 281474976710655, "7cc854b54e3e0dcdb010d7a3fee464a9687be6e8db3be6854c475621e007a5dc"),
        (FF, 0xAAAAAAAAAAA, "56f4008fb007ca9acf0e15b054d5c9fd12ee06cea347914ddbaed70d1c13a528"),
        (FF, 0x555555555555, "9015daaeb06dba4ccc05b91b2f73bd54405f2be9f217fbacd3c5ac2e62327d31"),
        (b"\x01" * 32, 1, "915c75942a26bb3a433a8ce2cb0427c29ec6c1775cfc78328b57f6ba7bfeaa9c"),
    ],
)
def test_generated_secret_is_that_of_appendix_d(seed: bytes, index: int, secret: str) -> None:
    assert secret_at(seed, MAX_NUMBER - index).hex() == secret


RIGHT = (
    "7cc854b54e3e0dcdb010d7a3fee464a9687be6e8db3be6854c475621e007a5dc",
    "c7518c8ae4660ed02894df8976fa1a3659c1a8b4b5bec0c4b872abeba4cb8964",
    "2273e227a5b7449b6e70f1fb4652864038b1cbf9cd7c043a7d6456b7fc275ad8",
    "27cddaa5624534cb6cb9d7da077cf2b22ab21e9b506fd4998a51d54502e99116",
    "c65716add7aa98ba7acb236352d665cab17345fe45b55fb879ff80e6bd0c41dd",
    "969660042a28f32d9be17344e09374b379962d03db1574df5a8a5a47e19ce3f2",
    "a5a64476122ca0925fb344bdc1854c1c0a59fc614298e50a33e331980a220f32",
    "05cde6323d949933f7f7b78776bcc1ea6d9b31447732e3802e1f7ac44b650e17",
)


def changed(**wrong: str) -> tuple[str, ...]:
    return tuple(wrong.get(f"s{place}", secret) for place, secret in enumerate(RIGHT, start=1))


@pytest.mark.parametrize(
    ("secrets", "accepted"),
    [
        (RIGHT, 8),
        (changed(s1="02a40c85b6f28da08dfdbe0926c53fab2de6d28c10301f8f7c4073d5e42e3148"), 1),
        (
            changed(
                s1="02a40c85b6f28da08dfdbe0926c53fab2de6d28c10301f8f7c4073d5e42e3148",
                s2="dddc3a8d14fddf2b68fa8c7fbad2748274937479dd0f8930d5ebb4ab6bd866a3",
            ),
            3,
        ),
        (changed(s3="c51a18b13e8527e579ec56365482c62f180b7d5760b46e9477dae59e87ed423a"), 3),
        (
            changed(
                s1="02a40c85b6f28da08dfdbe0926c53fab2de6d28c10301f8f7c4073d5e42e3148",
                s2="dddc3a8d14fddf2b68fa8c7fbad2748274937479dd0f8930d5ebb4ab6bd866a3",
                s3="c51a18b13e8527e579ec56365482c62f180b7d5760b46e9477dae59e87ed423a",
                s4="ba65d7b0ef55a3ba300d4e87af29868f394f8f138d78a7011669c79b37b936f4",
            ),
            7,
        ),
        (changed(s5="631373ad5f9ef654bb3dade742d09504c567edd24320d2fcd68e3cc47e2ff6a6"), 5),
        (
            changed(
                s5="631373ad5f9ef654bb3dade742d09504c567edd24320d2fcd68e3cc47e2ff6a6",
                s6="b7e76a83668bde38b373970155c868a653304308f9896692f904a23731224bb1",
            ),
            7,
        ),
        (changed(s7="e7971de736e01da8ed58b94c2fc216cb1dca9e326f3a96e7194fe8ea8af6c0a3"), 7),
        (changed(s8="a7efbc61aac46d34f77778bac22c8a20c6a46ca460addc49009bda875ec88fa4"), 7),
    ],
)
def test_store_takes_secrets_until_one_does_not_fit_as_in_appendix_d(secrets: tuple[str, ...], accepted: int) -> None:
    store: SecretStore = SecretStore()
    taken = 0
    for number, secret in enumerate(secrets):
        after = store.insert(number, bytes.fromhex(secret))
        if after is None:
            break
        store, taken = after, taken + 1
    assert taken == accepted


@given(seed=st.binary(min_size=32, max_size=32), count=st.integers(1, 150))
def test_every_stored_secret_is_found_again_and_the_next_is_not(seed: bytes, count: int) -> None:
    store: SecretStore | None = SecretStore()
    for number in range(count):
        assert store is not None
        store = store.insert(number, secret_at(seed, number))
    assert store is not None
    assert store.count == count
    assert [store.get(number) for number in range(count)] == [secret_at(seed, number) for number in range(count)]
    assert store.get(count) is None
    assert len(store.known) <= count.bit_length()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(store), type=SecretStore) == store


def test_gap_or_repetition_is_our_own_mistake() -> None:
    with pytest.raises(MisuseError, match="number 0 of 32 bytes wanted"):
        SecretStore().insert(1, FF)
    with pytest.raises(MisuseError, match="secret 0 of 3 bytes"):
        SecretStore().insert(0, b"abc")
    with pytest.raises(MisuseError, match="commitment number"):
        secret_at(FF, MAX_NUMBER + 1)


def test_secrets_of_far_apart_numbers_do_not_share_a_cache_entry_wrongly() -> None:
    by_hand = [secret_at(FF, number) for number in (0, 1023, 1024, 5000, 1 << 30)]
    assert len(set(by_hand)) == 5
    assert by_hand[0].hex() == RIGHT[0]
