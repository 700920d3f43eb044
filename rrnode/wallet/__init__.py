"""The node's coins on the chain."""

from rrnode.wallet.ledger import BlockPlace, Coin
from rrnode.wallet.purse import Balance
from rrnode.wallet.sync import catch_up, rescan
from rrnode.wallet.wallet import Sent, Wallet

__all__ = ["Balance", "BlockPlace", "Coin", "Sent", "Wallet", "catch_up", "rescan"]
