"""Weight constants against transactions that were really built."""

from collections.abc import Callable
from typing import Any

from protocols.onchain import tx, weights
from protocols.onchain.commitment import BuiltCommitment, CommitmentSpec
from protocols.onchain.htlc import htlc_transaction, sign_htlcs
from protocols.units import FeeRate


def test_htlc_transactions_weigh_at_most_what_is_counted(
    sides: Any, build: Callable[..., BuiltCommitment], spec_of: Callable[..., CommitmentSpec], preimage: Any
) -> None:
    built = build(spec_of((True, 5_000_000, 700_000), (False, 7_000_000, 700_000)))
    signatures = sign_htlcs(built, sides.bob.htlc_secret)
    for place, expected in ((0, weights.HTLC_TIMEOUT_WEIGHT), (1, weights.HTLC_SUCCESS_WEIGHT)):
        index, htlc = built.htlc_outputs[place]
        raw = htlc_transaction(
            built,
            index,
            their_signature=signatures[place],
            htlc_basepoint_secret=sides.alice.htlc_secret,
            preimage=None if htlc.offered else preimage(htlc.id),
        )
        assert expected - 8 <= tx.weight(raw) <= expected


def test_each_htlc_adds_its_weight_to_a_commitment(
    build: Callable[..., BuiltCommitment], spec_of: Callable[..., CommitmentSpec]
) -> None:
    one, two = build(spec_of((True, 5_000_000, 500))), build(spec_of((True, 5_000_000, 500), (False, 5_000_000, 500)))
    assert two.weight - one.weight == weights.HTLC_OUTPUT_WEIGHT


def test_reserve_grows_with_htlcs_and_feerate() -> None:
    assert weights.close_reserve(0, FeeRate(1_000)) > 0
    one, many = weights.close_reserve(1, FeeRate(1_000)), weights.close_reserve(10, FeeRate(1_000))
    assert weights.close_reserve(0, FeeRate(1_000)) < one < many
    assert 2 * many - 2 <= weights.close_reserve(10, FeeRate(2_000)) <= 2 * many


def test_steps_of_a_close_are_the_transactions_that_deadlines_wait_for() -> None:
    assert weights.close_steps(0, [], 18) == 0
    assert weights.close_steps(1, [], 18) == 2
    assert weights.close_steps(45, [], 18) == 2
    assert weights.close_steps(46, [], 18) == 3  # with the other outputs they may lie in two groups
    assert weights.close_steps(0, [1] * 7, 18) == 8
    assert weights.close_steps(0, [7], 18) == 2
    assert weights.close_steps(0, [9] * 10 + [1], 18) == 1 + 20 + 1  # amounts may spread an expiry over both groups
    assert weights.close_steps(0, [1] * 10 + [9] * 10, 11) == 1 + 30 + 1
    assert weights.close_steps(114, [114], 18) == 1 + 5 + 5  # each of five groups may hold some of both kinds
    assert weights.close_steps(1, [1], 18) == 3
