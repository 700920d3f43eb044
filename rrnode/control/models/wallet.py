"""Coins on the chain, and blocks made on demand."""

from rrnode.control.models.base import Model


class WalletBalance(Model):
    """Coins on the chain. `reserved_sat` is the part of `confirmed_sat` kept to pay for closing channels (DESIGN 6)."""

    confirmed_sat: int
    unconfirmed_sat: int
    reserved_sat: int
    spendable_sat: int


class WalletAddress(Model):
    address: str


class WalletSent(Model):
    txid: str
    amount_sat: int
    fee_sat: int


class Mined(Model):
    """Hashes of the blocks made on demand (regtest only), oldest first."""

    block_hashes: tuple[str, ...]
    height: int
