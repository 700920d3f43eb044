"""What the broadcaster asks of the wallet, and what it is ready to pay (DESIGN 6).

`FeeWallet` is implemented by the wallet; the broadcaster adds its coins to commitments' children and HTLC transactions.
"""

from dataclasses import dataclass
from typing import Protocol

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


class FeeWallet(Protocol):
    """Confirmed coins for fees. The same coin is never given to two purposes that are both alive."""

    async def reserve_coins(self, purpose: bytes, at_least: Sat) -> tuple[FeeCoin, ...]:
        """Set aside confirmed coins worth at least so much for this purpose, and give all that are set aside for it.

        Repeated calls with the same purpose give the same coins, in the same order, more appended when `at_least` grew;
        coins that were spent meanwhile are replaced. Few and large coins first. Fewer than asked, or none, when the
        wallet does not have that much.
        """

    async def release_coins(self, purpose: bytes) -> None:
        """The purpose is fulfilled or void: its coins are free again. Idempotent."""

    async def change_script(self, purpose: bytes) -> bytes:
        """Where what is left goes: a script of the wallet's own, the same one for the same purpose."""

    async def sign(self, transaction: bytes, coins: tuple[FeeCoin, ...], spent: tuple[tuple[Sat, bytes], ...]) -> bytes:
        """Sign the inputs that spend `coins` (all outputs: SIGHASH_ALL); other inputs' witnesses stay as they are.

        Args:
            transaction: serialized, with whatever witnesses the other inputs have.
            spent: value and script of every input's output, in the order of the inputs.
        """
