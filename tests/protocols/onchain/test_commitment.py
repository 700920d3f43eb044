"""Commitments: what is trimmed, what the anchor takes, the order of outputs, signatures of either side, the size limit, and
that libbitcoinkernel takes the untampered transaction and no other."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import DecodeError, MisuseError
from protocols.onchain import commitment, scripts, tx, weights
from protocols.onchain.commitment import BuiltCommitment, CommitmentSpec, OutputKind
from protocols.onchain.htlc import sign_htlcs, verify_htlcs
from protocols.units import Msat
from protocols.wire.channel import MAX_HTLCS
from rrnode.chain.verify import check_transaction

Build = Callable[..., BuiltCommitment]
Spec = Callable[..., CommitmentSpec]
ANCHOR, TO_LOCAL, TO_REMOTE, HTLC = (
    OutputKind.ANCHOR,
    OutputKind.TO_BROADCASTER,
    OutputKind.TO_COUNTERSIGNATORY,
    OutputKind.HTLC,
)


def shape(built: BuiltCommitment) -> list[tuple[OutputKind, int]]:
    return [(each.kind, each.value) for each in built.outputs]


def test_both_balances_and_an_empty_anchor(build: Build, spec_of: Spec) -> None:
    built = build(spec_of())
    assert shape(built) == [(ANCHOR, 0), (TO_REMOTE, 3_000_000), (TO_LOCAL, 7_000_000)]
    assert built.anchor_index == 0
    assert built.htlc_outputs == ()
    parsed = tx.parse(built.base)
    assert parsed.version == 3
    assert parsed.outputs[0] == tx.TxOutput(commitment.Sat(0), scripts.ANCHOR_SCRIPT)
    assert built.txid == parsed.txid()


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (0, [(ANCHOR, 0), (TO_LOCAL, 10_000_000)]),
        (353_999, [(ANCHOR, 240), (TO_LOCAL, 9_999_646)]),  # 353.999 sat trimmed: 240 to the anchor, 114 are fee
        (354_000, [(ANCHOR, 0), (TO_REMOTE, 354), (TO_LOCAL, 9_999_646)]),
        (239_999, [(ANCHOR, 240), (TO_LOCAL, 9_999_760)]),
        (239_000, [(ANCHOR, 239), (TO_LOCAL, 9_999_761)]),
        (500_001, [(ANCHOR, 1), (TO_REMOTE, 500), (TO_LOCAL, 9_999_499)]),
        (10_000_000_000, [(ANCHOR, 0), (TO_REMOTE, 10_000_000)]),
    ],
)
def test_trimmed_amounts_and_remainders_go_to_the_anchor_up_to_its_maximum(
    build: Build, spec_of: Spec, theirs: int, expected: Any
) -> None:
    assert shape(build(spec_of(theirs=theirs))) == expected


def test_htlc_at_the_dust_limit_has_an_output_and_below_has_none(build: Build, spec_of: Spec) -> None:
    built = build(spec_of((True, 354_000, 500), (False, 353_999, 500), (True, 353_999, 501)))
    assert shape(built) == [(ANCHOR, 240), (HTLC, 354), (TO_REMOTE, 3_000_000), (TO_LOCAL, 6_998_938)]
    assert [htlc.id for _, htlc in built.htlc_outputs] == [0]
    assert commitment.is_trimmed(Msat(353_999), commitment.Sat(354))
    assert not commitment.is_trimmed(Msat(354_000), commitment.Sat(354))


def test_outputs_are_ordered_by_value_script_and_expiry(build: Build, spec_of: Spec) -> None:
    spec = spec_of((True, 5_000_000, 900), (True, 5_000_000, 800), (False, 4_000_000, 700), (False, 6_000_000, 1))
    same_hash = replace(
        spec, htlcs=(spec.htlcs[0], replace(spec.htlcs[1], payment_hash=spec.htlcs[0].payment_hash), *spec.htlcs[2:])
    )
    built = build(same_hash)
    assert [(htlc.id, htlc.expiry) for _, htlc in built.htlc_outputs] == [(2, 700), (1, 800), (0, 900), (3, 1)]
    values = [(each.value, each.script) for each in built.outputs]
    assert values == sorted(values)


def test_amounts_that_do_not_add_up_are_our_own_mistake(build: Build, spec_of: Spec) -> None:
    good = spec_of()
    with pytest.raises(MisuseError, match="on a capacity of 10000000 sat"):
        build(replace(good, to_broadcaster=Msat(good.to_broadcaster + 1)))
    with pytest.raises(MisuseError, match="on a capacity"):
        build(replace(good, to_broadcaster=Msat(-1), to_countersignatory=Msat(10_000_000_001)))


def test_point_off_the_curve_is_the_peers_mistake(sides: Any, spec_of: Spec) -> None:
    with pytest.raises(DecodeError):
        commitment.build(sides.params(), spec_of(), b"\x02" + b"\xff" * 32)


@given(number=st.integers(0, (1 << 48) - 1))
def test_number_is_hidden_and_found_again_by_both(sides: Any, number: int) -> None:
    alices, bobs = sides.params(), sides.params(alice_broadcasts=False)
    sequence, locktime = commitment.obscured_fields(alices, number)
    assert sequence >> 24 == 0x80
    assert locktime >> 24 == 0x20
    assert (sequence, locktime) == commitment.obscured_fields(bobs, number)
    assert commitment.commitment_number(bobs, sequence, locktime) == number


def test_other_spends_carry_no_number(sides: Any) -> None:
    assert commitment.commitment_number(sides.params(), 0xFFFFFFFD, 0x20000000) is None
    assert commitment.commitment_number(sides.params(), 0x80000000, 700_000) is None


@pytest.mark.parametrize("alice_broadcasts", [True, False])
def test_signed_commitment_is_valid_and_a_tampered_one_is_not(
    sides: Any, build: Build, spec_of: Spec, funding_coin: Any, alice_broadcasts: bool
) -> None:
    built = build(spec_of((True, 5_000_000, 500), (False, 7_000_000, 510)), alice_broadcasts=alice_broadcasts)
    own, other = (sides.alice, sides.bob) if alice_broadcasts else (sides.bob, sides.alice)
    theirs = commitment.sign(built, other.funding_secret)
    assert commitment.verify(built, theirs)
    assert not commitment.verify(built, commitment.sign(built, own.funding_secret))
    whole = commitment.finalize(built, commitment.sign(built, own.funding_secret), theirs)
    assert check_transaction(whole, [funding_coin]) is None
    assert tx.weight(whole) <= built.weight
    parsed = tx.parse(whole)
    richer = replace(parsed.outputs[-1], value=parsed.outputs[-1].value - 1)
    for tampered in (
        replace(parsed, outputs=(*parsed.outputs[:-1], richer)),
        replace(parsed, locktime=parsed.locktime ^ 1),
        replace(parsed, inputs=(replace(parsed.inputs[0], sequence=parsed.inputs[0].sequence ^ 1),)),
    ):
        assert check_transaction(tampered.serialize(), [funding_coin]) is not None


def test_signature_of_another_state_is_refused(sides: Any, build: Build, spec_of: Spec) -> None:
    signature = commitment.sign(build(spec_of()), sides.bob.funding_secret)
    assert not commitment.verify(build(spec_of(theirs=2_999_999_999)), signature)
    assert not commitment.verify(build(spec_of(number=8)), signature)


def test_largest_commitment_is_still_relayed(sides: Any, build: Build, spec_of: Spec, funding_coin: Any) -> None:
    htlcs = [(place % 2 == 0, 1_000_000 + place, 500 + place) for place in range(2 * MAX_HTLCS)]
    built = build(spec_of(*htlcs, theirs=1_000_000_000))
    assert len(built.outputs) == 2 * MAX_HTLCS + 3
    assert built.weight <= weights.MAX_STANDARD_V3_WEIGHT
    theirs = commitment.sign(built, sides.bob.funding_secret)
    whole = commitment.finalize(built, commitment.sign(built, sides.alice.funding_secret), theirs)
    assert check_transaction(whole, [funding_coin]) is None
    assert tx.weight(whole) <= built.weight
    signatures = sign_htlcs(built, sides.bob.htlc_secret)
    assert len(signatures) == 2 * MAX_HTLCS
    assert verify_htlcs(built, signatures)


def test_one_more_htlc_each_way_would_not_be_relayed(build: Build, spec_of: Spec) -> None:
    htlcs = [(place % 2 == 0, 1_000_000 + place, 500) for place in range(2 * MAX_HTLCS + 2)]
    assert build(spec_of(*htlcs, theirs=1_000_000_000)).weight > weights.MAX_STANDARD_V3_WEIGHT


@given(
    theirs=st.integers(0, 5_000_000_000),
    htlcs=st.lists(st.tuples(st.booleans(), st.integers(1, 100_000_000), st.integers(1, 2**31 - 1)), max_size=12),
)
def test_value_is_never_made_and_at_most_dust_goes_to_fees(
    build: Build, spec_of: Spec, theirs: int, htlcs: Any
) -> None:
    built = build(spec_of(*htlcs, theirs=theirs))
    paid = sum(each.value for each in built.outputs)
    assert paid <= 10_000_000
    anchor = built.outputs[built.anchor_index]
    assert anchor.value == 240 or paid == 10_000_000
    trimmed = [each for each in built.spec.htlcs if each.amount < 354_000]
    assert len(built.htlc_outputs) == len(htlcs) - len(trimmed)
    kept = {each.kind for each in built.outputs}
    assert (TO_LOCAL in kept) == (built.spec.to_broadcaster >= 354_000)
    assert (TO_REMOTE in kept) == (theirs >= 354_000)
