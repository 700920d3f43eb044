"""HTLC transactions: the other side's signatures are checked, and the whole transaction is valid alone and with added fee inputs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from protocols.errors import MisuseError
from protocols.ids import Preimage, Txid
from protocols.onchain import ec, scripts, tx
from protocols.onchain.commitment import BuiltCommitment, CommitmentSpec
from protocols.onchain.htlc import htlc_transaction, sign_htlcs, verify_htlcs
from protocols.onchain.tx import TxInput, TxOutput
from protocols.units import Sat
from rrnode.chain.verify import check_transaction

Build = Callable[..., BuiltCommitment]
Spec = Callable[..., CommitmentSpec]


@pytest.fixture(scope="module")
def built(build: Build, spec_of: Spec) -> BuiltCommitment:
    return build(spec_of((True, 5_000_500, 500), (False, 7_000_000, 510), (True, 9_000_000, 520)))


def transaction_of(sides: Any, built: BuiltCommitment, place: int, preimage: Any, **options: Any) -> bytes:
    index, htlc = built.htlc_outputs[place]
    return htlc_transaction(
        built,
        index,
        their_signature=sign_htlcs(built, sides.bob.htlc_secret)[place],
        htlc_basepoint_secret=sides.alice.htlc_secret,
        preimage=None if htlc.offered else preimage(htlc.id),
        **options,
    )


def coin(built: BuiltCommitment, place: int) -> tuple[int, bytes]:
    each = built.outputs[built.htlc_outputs[place][0]]
    return each.value, each.script


@pytest.mark.parametrize("place", [0, 1, 2])
def test_htlc_transaction_is_valid_and_pays_everything_to_the_delayed_key(
    sides: Any, built: BuiltCommitment, preimage: Any, place: int
) -> None:
    raw = transaction_of(sides, built, place, preimage)
    index, htlc = built.htlc_outputs[place]
    assert check_transaction(raw, [coin(built, place)]) is None
    parsed = tx.parse(raw)
    assert parsed.version == 3
    assert parsed.locktime == (htlc.expiry if htlc.offered else 0)
    assert (parsed.inputs[0].txid, parsed.inputs[0].index) == (built.txid, index)
    assert parsed.outputs == (TxOutput(Sat(htlc.amount // 1000), built.htlc_output_script),)
    assert built.htlc_output_script == scripts.p2wsh(built.htlc_output_witness_script)


@pytest.mark.parametrize("place", [0, 1])
def test_fee_inputs_and_change_may_be_added_but_the_pair_not_touched(
    sides: Any, built: BuiltCommitment, preimage: Any, place: int
) -> None:
    parsed = tx.parse(transaction_of(sides, built, place, preimage))
    secret = b"\x05" * 32
    key = ec.point_of(secret)
    funds = TxOutput(Sat(20_000), scripts.p2wpkh(key))
    made = replace(
        parsed,
        inputs=(*parsed.inputs, TxInput(Txid(b"\x09" * 32), 0, 0xFFFFFFFD)),
        outputs=(*parsed.outputs, TxOutput(Sat(18_000), scripts.p2wpkh(key))),
    )
    digest = tx.input_digest(made, 1, scripts.p2wpkh_code(funds.script), funds.value)
    witness = (ec.to_der(ec.sign(secret, digest)) + b"\x01", key)
    whole = replace(made, inputs=(made.inputs[0], replace(made.inputs[1], witness=witness)))
    spent = [coin(built, place), (funds.value, funds.script)]
    assert check_transaction(whole.serialize(), spent) is None
    stolen = replace(whole, outputs=(TxOutput(Sat(1_000), built.htlc_output_script), *whole.outputs[1:]))
    assert check_transaction(stolen.serialize(), spent) == "input 0: its witness does not satisfy the script"


def test_signed_with_all_nothing_can_be_added(sides: Any, built: BuiltCommitment, preimage: Any) -> None:
    raw = transaction_of(sides, built, 0, preimage, sighash=tx.SIGHASH_ALL)
    assert check_transaction(raw, [coin(built, 0)]) is None
    parsed = tx.parse(raw)
    grown = replace(parsed, outputs=(*parsed.outputs, TxOutput(Sat(0), scripts.ANCHOR_SCRIPT)))
    assert check_transaction(grown.serialize(), [coin(built, 0)]) is not None


def test_wrong_preimage_does_not_claim(sides: Any, built: BuiltCommitment) -> None:
    raw = transaction_of(sides, built, 1, lambda _: Preimage(b"\x01" * 32))
    assert check_transaction(raw, [coin(built, 1)]) == "input 0: its witness does not satisfy the script"


def test_signatures_must_be_complete_in_order_and_of_the_htlc_key(sides: Any, built: BuiltCommitment) -> None:
    good = sign_htlcs(built, sides.bob.htlc_secret)
    assert verify_htlcs(built, good)
    assert not verify_htlcs(built, good[:-1])
    assert not verify_htlcs(built, (*good, good[0]))
    assert not verify_htlcs(built, (good[1], good[0], good[2]))
    assert not verify_htlcs(built, sign_htlcs(built, sides.alice.htlc_secret))


def test_commitment_without_htlc_outputs_wants_no_signatures(sides: Any, build: Build, spec_of: Spec) -> None:
    built = build(spec_of((True, 100_000, 500)))
    assert sign_htlcs(built, sides.bob.htlc_secret) == ()
    assert verify_htlcs(built, ())
    assert not verify_htlcs(built, (bytes(64),))


def test_misuse_is_refused(sides: Any, built: BuiltCommitment) -> None:
    timeout, success = built.htlc_outputs[0][0], built.htlc_outputs[1][0]
    options = {"their_signature": bytes(64), "htlc_basepoint_secret": sides.alice.htlc_secret}
    with pytest.raises(MisuseError, match="preimage belongs to"):
        htlc_transaction(built, timeout, preimage=Preimage(bytes(32)), **options)
    with pytest.raises(MisuseError, match="preimage belongs to"):
        htlc_transaction(built, success, **options)
    with pytest.raises(MisuseError, match="output 0 is anchor"):
        htlc_transaction(built, 0, **options)
