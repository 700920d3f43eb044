"""The funding output: same script for both sides, and found exactly or not at all."""

from typing import Any

from protocols.onchain import scripts
from protocols.onchain.funding import funding_output_script, pays_funding
from protocols.onchain.tx import Tx, TxInput, TxOutput
from protocols.units import Sat


def test_both_sides_name_the_same_output(sides: Any) -> None:
    script = funding_output_script(sides.alice.points, sides.bob.points)
    assert script == funding_output_script(sides.bob.points, sides.alice.points)
    keys = (sides.alice.points.funding_pubkey, sides.bob.points.funding_pubkey)
    assert script == scripts.p2wsh(scripts.funding_script(*keys))


def test_only_the_exact_output_counts(sides: Any) -> None:
    script = funding_output_script(sides.alice.points, sides.bob.points)
    made = Tx(
        2, (TxInput(sides.txid, 0, 0),), (TxOutput(Sat(5), b"\x51"), TxOutput(Sat(70_000), script)), 0
    ).serialize()
    assert pays_funding(made, 1, script, Sat(70_000))
    assert not pays_funding(made, 0, script, Sat(70_000))
    assert not pays_funding(made, 2, script, Sat(70_000))
    assert not pays_funding(made, -1, script, Sat(70_000))
    assert not pays_funding(made, 1, script, Sat(69_999))
    assert not pays_funding(made, 1, b"\x51", Sat(70_000))
    assert not pays_funding(made[:-1], 1, script, Sat(70_000))
