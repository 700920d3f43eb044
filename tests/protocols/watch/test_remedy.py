"""A remedy as bytes: sizes, round trips, sealing, and what damaged, foreign or senseless bytes give: a DecodeError, cheaply."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import DecodeError, MisuseError
from protocols.ids import Txid
from protocols.units import BlockDelta, BlockHeight, FeeRate, Sat
from protocols.watch import pairs, remedy
from protocols.watch.policy import BountyConfig
from protocols.watch.remedy import PLAIN_SIZES, SEALED_SIZES, BalancePair, HtlcPair, Remedy, hint_of, seal, unseal

NONCE = bytes(range(12))
TXID = Txid(b"\x44" * 32)


def many(breaches: Any, count: int) -> Any:
    htlcs = tuple((place % 2 == 0, 30_000 + place, 500) for place in range(count))
    return breaches.Breach(bob=2_000_000, htlcs=htlcs, capacity=100_000_000)


@pytest.mark.parametrize(
    ("htlcs", "size"),
    [(0, 184), (1, 437), (2, 437), (3, 995), (8, 995), (9, 3_227), (32, 3_227), (33, 21_455), (228, 21_455)],
)
def test_bytes_per_revoked_state(breaches: Any, htlcs: int, size: int) -> None:
    """Padding, nonce and tag included; a state without HTLCs takes 200 bytes with the hint that it is filed under."""
    breach = many(breaches, htlcs)
    made = breach.remedy(BountyConfig(feerate=FeeRate(1_000)))
    assert len(made.htlcs) == htlcs
    sealed = seal(made, breach.txid, NONCE)
    assert len(sealed) == size
    if htlcs == 0:
        assert len(sealed) + len(hint_of(breach.txid)) == 200
    assert unseal(sealed, breach.txid) == made


def test_watcher_that_sees_the_breach_opens_what_claims_it(breaches: Any) -> None:
    breach = breaches.Breach(htlcs=((True, 400_000, 500), (False, 500_000, 700_000)))
    sealed = seal(breach.remedy(), breach.txid, NONCE)
    seen = breach.parsed
    assert hint_of(seen.txid()) == hashlib.sha256(breach.txid).digest()[:16]
    assert pairs.check(unseal(sealed, seen.txid()), seen) == breach.pairs()
    assert len(breach.pairs()) == 3


def test_two_seals_of_one_remedy_share_nothing_but_their_size(breaches: Any) -> None:
    breach = breaches.Breach()
    first, second = (seal(breach.remedy(), breach.txid, bytes([place]) * 12) for place in (1, 2))
    assert len(first) == len(second)
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 16


_points = st.binary(min_size=32, max_size=32).flatmap(lambda x: st.sampled_from([b"\x02" + x, b"\x03" + x]))
_signatures = st.binary(min_size=64, max_size=64)
_bounties = st.integers(0, 2**32 - 1).map(Sat)
_balances = st.builds(
    BalancePair,
    index=st.integers(0, 255),
    bounty=_bounties,
    signature=_signatures,
    delayed_pubkey=_points,
    to_self_delay=st.integers(0, 2**16 - 1).map(BlockDelta),
)
_htlcs = st.builds(
    HtlcPair,
    index=st.integers(0, 255),
    bounty=_bounties,
    signature=_signatures,
    lock=st.binary(min_size=20, max_size=20),
    expiry=st.integers(0, 2**32 - 1).map(BlockHeight),
)


@st.composite
def remedies(draw: st.DrawFn) -> Remedy:
    htlcs = tuple(draw(st.lists(_htlcs, max_size=10)))
    return Remedy(
        payout=draw(st.binary(min_size=20, max_size=20)),
        revocation_pubkey=draw(_points),
        balance=draw(_balances if not htlcs else st.none() | _balances),
        htlc_keys=(draw(_points), draw(_points)) if htlcs else (),
        htlcs=htlcs,
    )


@settings(max_examples=100, deadline=None)
@given(made=remedies(), nonce=st.binary(min_size=12, max_size=12), txid=st.binary(min_size=32, max_size=32))
def test_each_remedy_comes_back_as_it_went(made: Remedy, nonce: bytes, txid: bytes) -> None:
    plain = remedy.encode(made)
    assert len(plain) in PLAIN_SIZES
    assert remedy.decode(plain) == made
    sealed = seal(made, Txid(txid), nonce)
    assert len(sealed) in SEALED_SIZES
    assert sealed.startswith(nonce)
    assert unseal(sealed, Txid(txid)) == made


@settings(max_examples=200, deadline=None)
@given(plain=st.sampled_from(PLAIN_SIZES[:3]).flatmap(lambda size: st.binary(min_size=size, max_size=size)), flags=...)
def test_rubbish_is_no_remedy_or_holds_nothing(breaches: Any, plain: bytes, flags: bool) -> None:
    """The cheat can seal what it likes: what comes out is refused, or gives no pair."""
    if flags:
        plain = bytes([0x10 | plain[0] & 0x0F]) + plain[1:]
    try:
        read = remedy.decode(plain)
    except DecodeError:
        return
    assert pairs.check(read, breaches.Breach(htlcs=((True, 400_000, 500),)).parsed) == ()


@settings(max_examples=100, deadline=None)
@given(sealed=st.binary(max_size=500) | st.sampled_from(SEALED_SIZES).map(bytes))
def test_what_nobody_sealed_is_a_decode_error(sealed: bytes) -> None:
    with pytest.raises(DecodeError, match="sealed remedy"):
        unseal(sealed, TXID)


def test_remedy_sealed_for_another_transaction_is_a_decode_error(breaches: Any) -> None:
    breach = breaches.Breach()
    with pytest.raises(DecodeError, match="for another transaction"):
        unseal(seal(breach.remedy(), breach.txid, NONCE), breaches.Breach(number=5).txid)


def test_each_damaged_bit_and_each_truncation_is_a_decode_error(breaches: Any) -> None:
    breach = breaches.Breach()
    sealed = seal(breach.remedy(), breach.txid, NONCE)
    for place in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place] ^= 1 << place % 8
        for wrong in (bytes(damaged), sealed[:place], sealed + bytes(place + 1)):
            with pytest.raises(DecodeError):
                unseal(wrong, breach.txid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: bytes([0x28]) + plain[1:], "flags 28"),  # another version
        (lambda plain: bytes([0x10]) + plain[1:], "flags 10"),  # neither balance nor HTLCs
        (lambda plain: bytes([0x14]) + plain[1:], "1 to 228 wanted|more in it|breaks off"),
        (lambda plain: plain[:-1] + b"\x01", "more in it"),
        (lambda plain: plain + b"\x00", "409 bytes|410 bytes"),
    ],
)
def test_plain_bytes_of_no_known_form_are_refused(breaches: Any, change: Any, message: str) -> None:
    plain = remedy.encode(breaches.Breach(htlcs=((True, 400_000, 500),)).remedy())
    with pytest.raises(DecodeError, match=message):
        remedy.decode(change(plain))


@pytest.mark.parametrize("count", [0, 3, 228, 229, 255])
def test_a_count_of_htlcs_that_are_not_there_is_refused(breaches: Any, count: int) -> None:
    plain = bytearray(remedy.encode(breaches.Breach(htlcs=((True, 400_000, 500),)).remedy()))
    assert plain[222] == 1
    plain[222] = count
    with pytest.raises(DecodeError, match=r"1 to 228 wanted|breaks off"):
        remedy.decode(bytes(plain))


def test_remedy_without_a_form_is_our_own_bug(breaches: Any) -> None:
    made = breaches.Breach(htlcs=((True, 400_000, 500),)).remedy()
    with pytest.raises(MisuseError, match="229 HTLCs"):
        remedy.encode(replace(made, htlcs=made.htlcs * 229))
    with pytest.raises(MisuseError, match="0 HTLCs and no balance"):
        remedy.encode(replace(made, htlcs=(), balance=None))
    for nonce in (b"", bytes(11), bytes(13)):
        with pytest.raises(MisuseError, match="12 wanted"):
            seal(made, TXID, nonce)
