"""Sweeps: valid, at the feerate asked for, and none where nothing would be left."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from protocols.onchain import sweep, tx
from protocols.onchain.commitment import BuiltCommitment, CommitmentSpec, OutputKind
from protocols.onchain.keys import derive_privkey, payout_script
from protocols.onchain.sweep import Claim
from protocols.units import FeeRate, Sat
from rrnode.chain.verify import check_transaction


@pytest.fixture
def to_local(sides: Any, build: Callable[..., BuiltCommitment], spec_of: Callable[..., CommitmentSpec]) -> Any:
    built = build(spec_of())
    index = next(place for place, each in enumerate(built.outputs) if each.kind is OutputKind.TO_BROADCASTER)
    output, points = built.outputs[index], sides.alice.points
    claim = Claim(
        txid=built.txid,
        index=index,
        value=output.value,
        witness_script=output.witness_script,
        secret=derive_privkey(sides.alice.delayed_payment_secret, points.delayed_payment, built.point),
        tail=(b"",),
        sequence=144,
    )
    return claim, (output.value, output.script), payout_script(points.payment)


@pytest.mark.parametrize("feerate", [1_000, 2_500, 100_000])
def test_sweep_is_valid_and_reaches_its_feerate(to_local: Any, feerate: int) -> None:
    claim, coin, target = to_local
    raw = sweep.build(claim, target, FeeRate(feerate))
    assert raw is not None
    assert check_transaction(raw, [coin]) is None
    parsed = tx.parse(raw)
    assert [each.script for each in parsed.outputs] == [target]
    assert (parsed.version, parsed.inputs[0].sequence) == (2, 144)
    fee, vbytes = claim.value - parsed.outputs[0].value, -(-tx.weight(raw) // 4)
    assert vbytes * feerate <= fee * 1000 <= (vbytes + 2) * feerate + 1000


def test_sweep_before_its_delay_is_not_valid(to_local: Any) -> None:
    claim, coin, target = to_local
    early = sweep.build(replace(claim, sequence=143), target, FeeRate(1_000))
    assert early is not None
    assert check_transaction(early, [coin]) is not None


def test_value_that_fees_would_eat_is_not_swept(to_local: Any) -> None:
    claim, _, target = to_local
    small = replace(claim, value=Sat(1_000))
    highest = sweep.highest_feerate(small, target)
    assert sweep.build(small, target, highest) is not None
    assert sweep.build(small, target, FeeRate(highest + 10)) is None
    assert sweep.highest_feerate(replace(claim, value=Sat(294)), target) == 0
    assert sweep.highest_feerate(replace(claim, value=Sat(100)), target) == 0


def test_claim_without_a_fee_leaves_room_for_inputs_that_pay(to_local: Any) -> None:
    claim, coin, target = to_local
    raw = sweep.build_pair(claim, target)
    assert raw is not None
    assert check_transaction(raw, [coin]) is None
    parsed = tx.parse(raw)
    assert parsed.outputs == (tx.TxOutput(claim.value, target),)
    assert parsed.inputs[0].witness[0][-1] == tx.SIGHASH_SINGLE_ANYONECANPAY
    assert sweep.build_pair(replace(claim, value=Sat(293)), target) is None
