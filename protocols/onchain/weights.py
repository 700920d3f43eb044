"""Weights known before signing: what resolving an output will cost. Source: BOLT 3 and 5, appendices "Expected Weights".

Signatures are counted with 72 bytes and a hash type: low-S signatures are never longer.
"""

from collections.abc import Collection

from protocols.units import FeeRate, Sat, fee_for, weight_to_vbytes

HTLC_OUTPUT_WEIGHT = 172  # what one more HTLC adds to a commitment
HTLC_TIMEOUT_WEIGHT = 664  # one input, one output, nothing added
HTLC_SUCCESS_WEIGHT = 704
FEE_INPUT_WEIGHT = (
    4 * 41 + 109
)  # a P2WPKH coin added to pay: outpoint, empty script, sequence; stack of signature and key
CHANGE_OUTPUT_WEIGHT = 4 * 34  # change to a P2WSH or P2TR at most 43 bytes; our wallet's P2WPKH takes 31
ANCHOR_CHILD_WEIGHT = (
    4 * (4 + 1 + 41 + 1 + 31 + 4) + 2 + 1 + FEE_INPUT_WEIGHT
)  # spends the anchor and one coin, one change
TO_LOCAL_PENALTY_WITNESS = 160  # bytes, by the revocation key (BOLT 5, appendix A)
OFFERED_HTLC_PENALTY_WITNESS = 243
RECEIVED_HTLC_PENALTY_WITNESS = 249
CLAIM_BASE_WEIGHT = 4 * (4 + 1 + 1 + 4) + 2  # a transaction of at most 252 inputs and outputs, without them
PAIR_WEIGHT = 4 * (41 + 31)  # an input and a P2WPKH output, without the witness
ANCHOR_INPUT_WEIGHT = 4 * 41 + 1
MAX_STANDARD_V3_WEIGHT = 40_000  # BIP 431: 10,000 virtual bytes
JOINED_HTLCS = 48  # HTLC transactions that fit into one of that size, with a dozen coins for its fee
OTHER_OUTPUTS = 3  # of a commitment: to_local, to_remote and the anchor
MAX_STANDARD_V3_CHILD_WEIGHT = 4_000  # of a transaction with an unconfirmed parent
_SWEEP_BASE_WEIGHT = 4 * (4 + 1 + 41 + 1 + 31 + 4) + 2  # one input, one P2WPKH output, marker and flag


def sweep_vbytes(witness: int) -> int:
    """Virtual bytes of a sweep with one input, whose witness takes `witness` bytes, to one P2WPKH output."""
    return weight_to_vbytes(_SWEEP_BASE_WEIGHT + witness)


def close_steps(received: int, expiring: Collection[int], at_once: int) -> int:
    """Transactions bound to a deadline that resolve a commitment of ours with HTLC outputs (DESIGN 6).

    The commitment with its child, what claims the received HTLCs, and what takes back those offered: HTLC transactions of
    one nLockTime can be one, as far as their outputs lie near each other. Outputs are sorted by amount (BOLT 3), so whoever
    chooses the amounts decides whether those of one expiry do.

    Args:
        received: HTLCs with an output.
        expiring: how many with an output we offered, for each of their expiries.
        at_once: most expiries that can be due at the same time.
    """
    if not received and not expiring:
        return 0
    groups = -(-(received + sum(expiring) + OTHER_OUTPUTS) // JOINED_HTLCS)
    due = sorted(expiring, reverse=True)[:at_once]
    return 1 + min(received, groups) + sum(min(count, groups) for count in due)


def claim_vbytes(witness: int) -> int:
    """Virtual bytes of a bounty hunter's claim of one pair, whose witness takes so many bytes, with an output of its own."""
    return weight_to_vbytes(CLAIM_BASE_WEIGHT + PAIR_WEIGHT + witness + 4 * 43)


def close_reserve(htlcs: int, feerate: FeeRate) -> Sat:
    """Confirmed coins that carry a commitment with this many HTLC outputs of ours through its resolution (DESIGN 6).

    The commitment and its child, and per HTLC one HTLC transaction with an added input and change.
    """
    commitment = 4 * (4 + 1 + 41 + 3 + 43 + 31 + 13 + 4) + 224 + HTLC_OUTPUT_WEIGHT * htlcs + ANCHOR_CHILD_WEIGHT
    each = HTLC_SUCCESS_WEIGHT + FEE_INPUT_WEIGHT + CHANGE_OUTPUT_WEIGHT
    return fee_for(weight_to_vbytes(commitment + each * htlcs), feerate)
