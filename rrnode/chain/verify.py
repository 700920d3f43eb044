"""A second opinion on every transaction that leaves: Bitcoin Core's own script engine, by libbitcoinkernel.

Source: DESIGN 11. All consensus flags are on. What is not checked: that the spent outputs exist, and relay policy.
"""

from collections.abc import Sequence

import pbk
from pbk.script import PrecomputedTransactionData

from protocols.errors import DecodeError
from protocols.onchain import tx
from protocols.units import MAX_SAT


def check_transaction(transaction: bytes, spent_outputs: Sequence[tuple[int, bytes]]) -> str | None:
    """Whether every input of a transaction may spend what it spends.

    Args:
        transaction: serialized with witnesses.
        spent_outputs: (value in satoshi, script) of what each input spends, in the order of the inputs.

    Returns:
        None when it is valid, else the reason, for a log or an alarm.
    """
    try:
        parsed = tx.parse(transaction)
        spending = pbk.Transaction(transaction)
    except (DecodeError, RuntimeError) as error:
        return f"no transaction: {error}"
    inputs, outputs = parsed.inputs, parsed.outputs
    if len(inputs) != len(spent_outputs):
        return f"{len(inputs)} inputs, but {len(spent_outputs)} spent outputs are given"
    if not inputs or not outputs:
        return "it has no input or no output"
    if len({(each.txid, each.index) for each in inputs}) != len(inputs):
        return "it spends an output twice"
    if any(not 0 <= each.value <= MAX_SAT for each in outputs):
        return "an output's value is out of range"
    paid, spent = sum(each.value for each in outputs), sum(value for value, _ in spent_outputs)
    if paid > spent:
        return f"it pays {paid} sat and spends {spent} sat"
    coins = [pbk.TransactionOutput(pbk.ScriptPubkey(script), value) for value, script in spent_outputs]
    precomputed = PrecomputedTransactionData(spending, coins)
    for place, (value, script) in enumerate(spent_outputs):
        try:
            valid = pbk.ScriptPubkey(script).verify(
                value, spending, precomputed, place, pbk.ScriptVerificationFlags.ALL
            )
        except pbk.ScriptVerifyException as error:
            return f"input {place}: {error}"
        if not valid:
            return f"input {place}: its witness does not satisfy the script"
    return None


def is_taproot(script: bytes) -> bool:
    """Whether this is a taproot output, whose spend is signed over all outputs that its transaction spends."""
    return len(script) == 34 and script[0] == 0x51


def check_input(transaction: bytes, place: int, value: int, script: bytes) -> str | None:
    """Whether one input may spend what it spends, when the outputs that the others spend are not known.

    Args:
        place: of the input; a taproot output is refused.

    Returns:
        None when it may, else the reason.
    """
    if is_taproot(script):
        return f"input {place}: a spend of taproot cannot be checked by itself"
    try:
        spending = pbk.Transaction(transaction)
        precomputed = PrecomputedTransactionData(spending, [])
        flags = pbk.ScriptVerificationFlags.ALL & ~pbk.ScriptVerificationFlags.TAPROOT
        valid = pbk.ScriptPubkey(script).verify(value, spending, precomputed, place, flags)
    except (RuntimeError, pbk.ScriptVerifyException) as error:
        return f"input {place}: {error}"
    return None if valid else f"input {place}: its witness does not satisfy the script"
