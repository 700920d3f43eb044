"""The simple close: who may leave out whose output (BOLT 2), and that each variant is a valid transaction."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import MisuseError
from protocols.onchain import closing, scripts, tx
from protocols.onchain.closing import ClosingTerms, Variant
from protocols.onchain.keys import payout_script
from protocols.units import FeeRate, Msat, Sat
from rrnode.chain.verify import check_transaction

CLOSER, CLOSEE, BOTH = Variant.CLOSER_ONLY, Variant.CLOSEE_ONLY, Variant.BOTH
Terms = Callable[..., ClosingTerms]


@pytest.fixture(scope="session")
def terms_of(sides: Any) -> Terms:
    def make(closer: int, closee: int, fee: int = 500) -> ClosingTerms:
        return ClosingTerms(
            funding_txid=sides.txid,
            funding_index=sides.index,
            capacity=Sat(10_000_000),
            closer_pubkey=sides.alice.points.funding_pubkey,
            closee_pubkey=sides.bob.points.funding_pubkey,
            closer_balance=Msat(closer * 1000 + 7),
            closee_balance=Msat(closee * 1000 + 7),
            closer_script=payout_script(sides.alice.payment_basepoint),  # dust below 294 sat
            closee_script=scripts.p2wsh(b"closee"),  # dust below 330 sat
            fee=Sat(fee),
            locktime=120,
        )

    return make


@pytest.mark.parametrize(
    ("closer", "closee", "fee", "expected"),
    [
        (600_000, 400_000, 500, (CLOSER, BOTH)),
        (500_000, 500_000, 500, (CLOSER, BOTH)),
        (600_000, 330, 500, (CLOSER, BOTH)),
        (600_000, 329, 500, (CLOSER,)),
        (600_000, 0, 500, (CLOSER,)),
        (400_000, 600_000, 500, (BOTH,)),
        (794, 600_000, 500, (BOTH,)),
        (793, 600_000, 500, (CLOSEE,)),
        (500, 600_000, 500, (CLOSEE,)),
        (499, 600_000, 500, ()),  # cannot pay the fee
        (600, 600, 500, ()),  # its own output would be dust, and equals may not leave themselves out
        (700, 329, 500, ()),  # both dust
        (310, 320, 0, ()),  # the lesser side may not leave the other out
    ],
)
def test_closer_signs_what_bolt_2_asks_for(
    terms_of: Terms, closer: int, closee: int, fee: int, expected: tuple[Variant, ...]
) -> None:
    assert closing.variants_to_sign(terms_of(closer, closee, fee)) == expected


@pytest.mark.parametrize(
    ("closer", "closee", "offered", "expected"),
    [
        (600_000, 400_000, {CLOSER, BOTH}, BOTH),
        (600_000, 400_000, {CLOSER}, None),  # would leave the closee's coins out
        (600_000, 329, {CLOSER}, CLOSER),
        (600_000, 329, {BOTH}, None),
        (500, 600_000, {CLOSEE}, CLOSEE),
        (400_000, 600_000, {BOTH, CLOSEE}, BOTH),
        (400_000, 600_000, set(), None),
        (499, 600_000, {CLOSEE}, None),  # the fee is more than the closer has
    ],
)
def test_closee_never_signs_itself_away(
    terms_of: Terms, closer: int, closee: int, offered: set[Variant], expected: Variant | None
) -> None:
    assert closing.variant_to_accept(terms_of(closer, closee), offered) == expected


@given(closer=st.integers(0, 10_000_000), fee=st.integers(0, 5_000))
def test_what_the_closer_signs_the_closee_accepts(terms_of: Terms, closer: int, fee: int) -> None:
    terms = terms_of(closer, 10_000_000 - closer, fee)
    signed = closing.variants_to_sign(terms)
    if signed:
        assert closing.variant_to_accept(terms, signed) == signed[-1]


@pytest.mark.parametrize("variant", list(Variant))
def test_each_variant_is_valid_when_both_signed(
    sides: Any, terms_of: Terms, funding_coin: Any, variant: Variant
) -> None:
    terms = terms_of(6_000_000, 3_999_999)
    built = closing.build(terms, variant)
    alices = closing.sign(built, sides.alice.funding_secret)
    bobs = closing.sign(built, sides.bob.funding_secret)
    assert closing.verify(built, terms.closee_pubkey, bobs)
    assert not closing.verify(built, terms.closer_pubkey, bobs)
    whole = closing.finalize(built, alices, bobs)
    assert check_transaction(whole, [funding_coin]) is None
    assert check_transaction(closing.finalize(built, bobs, alices), [funding_coin]) is not None
    parsed = tx.parse(whole)
    closer = tx.TxOutput(Sat(5_999_500), terms.closer_script)
    closee = tx.TxOutput(Sat(3_999_999), terms.closee_script)
    assert (parsed.version, parsed.locktime, parsed.inputs[0].sequence) == (2, 120, 0xFFFFFFFD)
    assert parsed.outputs == {CLOSER: (closer,), CLOSEE: (closee,), BOTH: (closee, closer)}[variant]
    assert parsed.txid() == built.txid


def test_fee_above_the_balance_is_not_built(terms_of: Terms) -> None:
    with pytest.raises(MisuseError, match="closing fee of 500 sat"):
        closing.build(terms_of(499, 600_000), CLOSEE)


def test_estimated_fee_reaches_the_feerate(sides: Any, terms_of: Terms) -> None:
    terms = terms_of(6_000_000, 3_000_000)
    built = closing.build(terms, BOTH)
    signatures = [closing.sign(built, keys.funding_secret) for keys in (sides.alice, sides.bob)]
    vbytes = -(-tx.weight(closing.finalize(built, *signatures)) // 4)
    fee = closing.closing_fee(terms.closer_script, terms.closee_script, FeeRate(2_000))
    assert 2 * vbytes <= fee <= 2 * (vbytes + 2)
