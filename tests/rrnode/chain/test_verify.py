"""The second opinion: libbitcoinkernel's word on whole transactions, and a reason for everything else."""

from dataclasses import replace

from protocols.ids import Txid
from protocols.onchain import ec, scripts, tx
from protocols.onchain.tx import Tx, TxInput, TxOutput
from protocols.units import Sat
from rrnode.chain.verify import check_input, check_transaction

SECRET = b"\x06" * 32
KEY = ec.point_of(SECRET)
COINS = [(70_000, scripts.p2wpkh(KEY)), (30_000, scripts.p2wpkh(KEY))]


def signed(made: Tx) -> Tx:
    inputs = []
    for place, each in enumerate(made.inputs):
        value, script = COINS[place]
        digest = tx.input_digest(made, place, scripts.p2wpkh_code(script), Sat(value))
        inputs.append(replace(each, witness=(ec.to_der(ec.sign(SECRET, digest)) + b"\x01", KEY)))
    return replace(made, inputs=tuple(inputs))


PLAIN = Tx(
    2,
    (TxInput(Txid(b"\x01" * 32), 0, 0xFFFFFFFD), TxInput(Txid(b"\x02" * 32), 1, 0xFFFFFFFD)),
    (TxOutput(Sat(99_000), scripts.ANCHOR_SCRIPT),),
    0,
)


def test_valid_transaction_has_no_reason_against_it() -> None:
    assert check_transaction(signed(PLAIN).serialize(), COINS) is None


def test_every_input_is_checked() -> None:
    good = signed(PLAIN)
    for place in (0, 1):
        other = 1 - place
        inputs = list(good.inputs)
        inputs[place] = replace(inputs[place], witness=inputs[other].witness)
        bad = replace(good, inputs=tuple(inputs)).serialize()
        assert check_transaction(bad, COINS) == f"input {place}: its witness does not satisfy the script"


def test_impossible_transactions_are_named() -> None:
    good = signed(PLAIN)
    raw = good.serialize()
    assert check_transaction(raw, COINS[:1]) == "2 inputs, but 1 spent outputs are given"
    assert (check_transaction(raw[:-1], COINS) or "").startswith("no transaction: ")
    assert (check_transaction(b"", []) or "").startswith("no transaction: ")
    rich = signed(replace(PLAIN, outputs=(TxOutput(Sat(100_001), scripts.ANCHOR_SCRIPT),)))
    assert check_transaction(rich.serialize(), COINS) == "it pays 100001 sat and spends 100000 sat"
    twice = replace(good, inputs=(good.inputs[0], good.inputs[0]))
    assert check_transaction(twice.serialize(), COINS) == "it spends an output twice"
    absurd = signed(replace(PLAIN, outputs=(TxOutput(Sat(21_000_001 * 10**8), b"\x51"),)))
    assert check_transaction(absurd.serialize(), COINS) == "an output's value is out of range"
    empty = replace(good, outputs=())
    assert check_transaction(empty.serialize(), COINS) is not None


def test_wrong_value_of_a_spent_output_is_noticed() -> None:
    wrong = [(COINS[0][0] + 1, COINS[0][1]), COINS[1]]
    assert check_transaction(signed(PLAIN).serialize(), wrong) == "input 0: its witness does not satisfy the script"


def test_one_input_is_checked_without_knowing_what_the_others_spend() -> None:
    good = signed(PLAIN)
    raw = good.serialize()
    assert [check_input(raw, place, *COINS[place]) for place in (0, 1)] == [None, None]
    unsatisfied = "input 0: its witness does not satisfy the script"
    assert check_input(raw, 0, COINS[0][0] + 1, COINS[0][1]) == unsatisfied
    assert check_input(raw, 0, COINS[1][0], COINS[1][1]) == unsatisfied
    swapped = replace(good, inputs=(replace(good.inputs[0], witness=good.inputs[1].witness), good.inputs[1]))
    assert check_input(swapped.serialize(), 0, *COINS[0]) == unsatisfied
    assert check_input(swapped.serialize(), 1, *COINS[1]) is None
    assert check_input(raw[:-1], 0, *COINS[0]) is not None
    assert (
        check_input(raw, 0, 70_000, b"\x51\x20" + bytes(32))
        == "input 0: a spend of taproot cannot be checked by itself"
    )


def test_a_keyless_anchor_may_be_spent_by_anybody() -> None:
    spend = replace(PLAIN, version=3, inputs=(PLAIN.inputs[0],)).serialize()
    assert check_input(spend, 0, 240, scripts.ANCHOR_SCRIPT) is None
