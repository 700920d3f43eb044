"""Coins that pay for other people's and our own zero-fee transactions. Source: DESIGN 6 (the on-chain reserve)."""

from dataclasses import dataclass

from protocols.ids import Txid
from protocols.units import Sat


@dataclass(frozen=True, slots=True, kw_only=True)
class FeeCoin:
    """A confirmed coin of the wallet's, spendable with one signature.

    Attributes:
        script: its output script (P2WPKH: spending it takes 68 virtual bytes).
    """

    txid: Txid
    index: int
    value: Sat
    script: bytes
