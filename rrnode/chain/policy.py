"""Rules of Bitcoin Core's mempool that concern one transaction by itself, with its words for refusing.

Source: Bitcoin Core's relay policy (standardness, dust), BIP 431 (version 3), BIP 68, 113 (locks), P2A. Only the templates
that nodes of this kind use are standard here; what is refused here is refused there.
"""

from collections.abc import Sequence

from protocols.units import MAX_SAT, FeeRate
from rrnode.chain.index import ChainIndex, Unspent
from rrnode.chain.parse import Output, Tx

PAY_TO_ANCHOR = bytes.fromhex("51024e73")
MAX_WEIGHT = 400_000
MIN_BASE_SIZE = 65
TRUC_VERSION = 3
TRUC_MAX_VSIZE = 10_000
TRUC_CHILD_MAX_VSIZE = 1_000
DUST_FEERATE = 3  # satoshi per virtual byte
COINBASE_MATURITY = 100
MEDIAN_TIME_FROM = 500_000_000  # lock times below are heights

_MAX_STACK_ITEMS, _MAX_STACK_ITEM, _MAX_WITNESS_SCRIPT = 100, 80, 3_600
_MAX_SCRIPT_SIG = 1_650
_SEQUENCE_FINAL, _SEQUENCE_DISABLED, _SEQUENCE_TIME, _SEQUENCE_MASK = 0xFFFFFFFF, 1 << 31, 1 << 22, 0xFFFF


class Refused(Exception):
    """The mempool will not have it.

    Attributes:
        reason: Bitcoin Core's word, e.g. `min relay fee not met`.
        detail: more of the same, for people.
        reconsider: it might be taken together with a child that pays for it.
    """

    def __init__(self, reason: str, detail: str = "", *, reconsider: bool = False) -> None:
        super().__init__(f"{reason}, {detail}" if detail else reason)
        self.reason, self.detail, self.reconsider = reason, detail, reconsider


def is_witness_program(script: bytes) -> bool:
    """OP_0 or OP_1..OP_16, then one push of 2 to 40 bytes (BIP 141)."""
    return 4 <= len(script) <= 42 and (script[0] == 0 or 0x51 <= script[0] <= 0x60) and script[1] == len(script) - 2


def dust_threshold(output: Output) -> int:
    """Outputs of this script below so many satoshi are dust."""
    if output.script[:1] == b"\x6a":
        return 0
    size = 8 + (1 if len(output.script) < 0xFD else 3) + len(output.script)
    return DUST_FEERATE * (size + (67 if is_witness_program(output.script) else 148))


def dust_outputs(transaction: Tx) -> tuple[int, ...]:
    """Indexes of the outputs that are dust."""
    return tuple(n for n, output in enumerate(transaction.outputs) if output.value < dust_threshold(output))


def _standard_output(script: bytes) -> bool:
    if script[:1] == b"\x6a":
        return len(script) <= MAX_WEIGHT // 4
    if script[:1] == b"\x00":
        return len(script) in (22, 34) and is_witness_program(script)
    key_hash = len(script) == 25 and script[:3] == b"\x76\xa9\x14" and script[23:] == b"\x88\xac"
    script_hash = len(script) == 23 and script[:2] == b"\xa9\x14" and script[22:] == b"\x87"
    return key_hash or script_hash or is_witness_program(script)


def _standard_input(coin: Unspent, witness: tuple[bytes, ...]) -> str:
    """Why this input is not standard, empty when it is."""
    if coin.script[:1] == b"\x6a" or not _standard_output(coin.script):
        return "bad-txns-nonstandard-inputs"
    if coin.script == PAY_TO_ANCHOR:
        return "bad-witness-nonstandard" if witness else ""
    if coin.script[:2] == b"\x00\x20" and witness:
        *items, script = witness
        too_long = len(script) > _MAX_WITNESS_SCRIPT or any(len(item) > _MAX_STACK_ITEM for item in items)
        if too_long or len(items) > _MAX_STACK_ITEMS:
            return "bad-witness-nonstandard"
    return ""


def check_alone(transaction: Tx) -> None:
    """What can be said of a transaction without knowing the chain. Raises Refused."""
    if not transaction.outputs:
        raise Refused("bad-txns-vout-empty")
    if any(not 0 <= output.value <= MAX_SAT for output in transaction.outputs):
        raise Refused("bad-txns-vout-toolarge")
    if sum(output.value for output in transaction.outputs) > MAX_SAT:
        raise Refused("bad-txns-txouttotal-toolarge")
    if len(set(transaction.prevouts)) != len(transaction.prevouts):
        raise Refused("bad-txns-inputs-duplicate")
    if transaction.is_coinbase:
        raise Refused("coinbase")
    if transaction.version not in (1, 2, 3):
        raise Refused("version")
    if transaction.weight > MAX_WEIGHT:
        raise Refused("tx-size")
    if any(len(script) > _MAX_SCRIPT_SIG for script in transaction.script_sigs):
        raise Refused("scriptsig-size")
    if not all(_standard_output(output.script) for output in transaction.outputs):
        raise Refused("scriptpubkey")
    if len(dust_outputs(transaction)) > 1:
        raise Refused("dust")
    if transaction.base_size < MIN_BASE_SIZE:
        raise Refused("tx-size-small")


def check_final(transaction: Tx, index: ChainIndex) -> None:
    """nLockTime must allow the next block (BIP 113). Raises Refused."""
    if transaction.lock_time == 0 or all(sequence == _SEQUENCE_FINAL for sequence in transaction.sequences):
        return
    by_height = transaction.lock_time < MEDIAN_TIME_FROM
    reached = index.tip.height + 1 if by_height else index.median_time(index.tip.height)
    if transaction.lock_time >= reached:
        raise Refused("non-final")


def check_sequence_locks(transaction: Tx, coins: Sequence[Unspent], index: ChainIndex) -> None:
    """Relative locks must allow the next block (BIP 68); coins of the mempool count as of the next block. Raises Refused."""
    if transaction.version < 2:
        return
    next_height = index.tip.height + 1
    for sequence, coin in zip(transaction.sequences, coins, strict=True):
        if sequence & _SEQUENCE_DISABLED:
            continue
        length = sequence & _SEQUENCE_MASK
        if sequence & _SEQUENCE_TIME:
            since = index.median_time(max(coin.height - 1, 0))
            if since + (length << 9) > index.median_time(index.tip.height):
                raise Refused("non-BIP68-final")
        elif coin.height + length > next_height:
            raise Refused("non-BIP68-final")


def check_inputs(transaction: Tx, coins: Sequence[Unspent], index: ChainIndex) -> int:
    """Maturity, values and standard inputs; gives the fee in satoshi. Raises Refused."""
    for coin in coins:
        if coin.coinbase and index.tip.height + 1 - coin.height < COINBASE_MATURITY:
            depth = index.tip.height + 1 - coin.height
            raise Refused("bad-txns-premature-spend-of-coinbase", f"tried to spend coinbase at depth {depth}")
    fee = sum(coin.value for coin in coins) - sum(output.value for output in transaction.outputs)
    if fee < 0:
        raise Refused("bad-txns-in-belowout")
    for coin, witness in zip(coins, transaction.witnesses, strict=True):
        if reason := _standard_input(coin, witness):
            raise Refused(reason)
    return fee


def check_dust_pays_nothing(transaction: Tx, fee: int) -> None:
    """Dust is for anchors that a child must spend at once: its transaction has to pay nothing. Raises Refused."""
    if fee and dust_outputs(transaction):
        raise Refused("dust", "tx with dust output must be 0-fee")


def check_feerate(fee: int, vsize: int, floor: FeeRate) -> None:
    """The relay floor, for a transaction or a whole package. Raises Refused."""
    needed = -(-floor * vsize // 1000)
    if fee < needed:
        raise Refused("min relay fee not met", f"{fee} < {needed}", reconsider=True)
