"""The funding output: what the wallet pays to, and its check when the peer funded it. Source: BOLT 3, "Funding Transaction Output"."""

from protocols.errors import DecodeError
from protocols.onchain import scripts, tx
from protocols.onchain.keys import BasePoints
from protocols.units import Sat

COINBASE_MATURITY = 100  # confirmations before a block's reward can be spent


def funding_output_script(ours: BasePoints, theirs: BasePoints) -> bytes:
    """Output script (P2WSH) of the 2 of 2 that holds the channel."""
    return scripts.p2wsh(scripts.funding_script(ours.funding_pubkey, theirs.funding_pubkey))


def pays_funding(transaction: bytes, index: int, script: bytes, capacity: Sat) -> bool:
    """Whether this output of a transaction is the channel's funding output, value and script exactly."""
    try:
        outputs = tx.parse(transaction).outputs
    except DecodeError:
        return False
    return 0 <= index < len(outputs) and outputs[index] == tx.TxOutput(capacity, script)


def is_block_reward(transaction: bytes) -> bool:
    """Whether a transaction, which `pays_funding` read, is a coinbase: no commitment spends it before `COINBASE_MATURITY`."""
    inputs = tx.parse(transaction).inputs
    return len(inputs) == 1 and (inputs[0].txid, inputs[0].index) == (bytes(32), 0xFFFFFFFF)
