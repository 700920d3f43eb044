"""What the broadcaster asks of the wallet, and what it is ready to pay (DESIGN 6).

`FeeWallet` is implemented by the wallet; the broadcaster adds its coins to commitments' children and HTLC transactions.
"""

from dataclasses import dataclass
from typing import Protocol

from protocols.onchain.coins import FeeCoin
from protocols.units import FeeRate, Sat, fee_for

__all__ = ["FeeCoin", "FeePolicy", "FeeWallet"]

UNHURRIED = 144  # blocks within which everything shall confirm, however far its deadline


class FeeWallet(Protocol):
    """Confirmed coins for fees. The same coin is never given to two purposes that are both alive."""

    async def reserve_coins(self, purpose: bytes, at_least: Sat) -> tuple[FeeCoin, ...]:
        """Set aside confirmed coins worth at least so much for this purpose, and give all that are set aside for it.

        Repeated calls with the same purpose give the same coins, in the same order, more appended when `at_least` grew;
        coins that were spent meanwhile are replaced. Few coins, each with room for the fee to grow where there is one.
        Fewer than asked, or none, when the wallet does not have that much.
        """

    async def release_coins(self, purpose: bytes) -> None:
        """The purpose is fulfilled or void: its coins are free again. Idempotent."""

    async def fee_purposes(self) -> tuple[bytes, ...]:
        """The purposes that coins are set aside for, also those of an earlier life of this node."""

    async def change_script(self, purpose: bytes) -> bytes:
        """Where what is left goes: a script of the wallet's own, the same one for the same purpose."""

    async def sign(self, transaction: bytes, coins: tuple[FeeCoin, ...], spent: tuple[tuple[Sat, bytes], ...]) -> bytes:
        """Sign the inputs that spend `coins` (all outputs: SIGHASH_ALL); other inputs' witnesses stay as they are.

        Args:
            transaction: serialized, with whatever witnesses the other inputs have.
            spent: value and script of every input's output, in the order of the inputs.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class FeePolicy:
    """How much a deadline is worth.

    Attributes:
        floor: relay floor, and what a replacement must add, satoshi per 1000 virtual bytes.
        hurry: from so many blocks before its deadline on, a feerate grows whatever the estimate says.
        doubling: every so many of those blocks it doubles.
        stake_share: of the value at stake, the most that goes to fees: one part in so many.
        step_percent: a replacement is sent when it pays at least so much more, so that not every block brings one.
    """

    floor: FeeRate = FeeRate(1000)
    hurry: int = 18
    doubling: int = 3
    stake_share: int = 2
    step_percent: int = 10

    def blocks_to_ask_for(self, blocks_left: int, within: int = UNHURRIED) -> int:
        """Within how many blocks the estimate shall be: early, never the very last moment, and `within` at the latest."""
        return min(max(blocks_left // 2, 1), within)

    def feerate(self, estimate: FeeRate, blocks_left: int) -> FeeRate:
        """What to pay with so many blocks left until the deadline (0 or less: it is over, and still worth trying).

        In the last `hurry` blocks it doubles every `doubling`: 1 sat/vB in an empty mempool ends at 64.
        """
        rate = max(estimate, self.floor)
        passed = min(max(self.hurry - blocks_left, 0), self.hurry)
        whole, part = divmod(passed, self.doubling)
        return FeeRate((rate << whole) * (self.doubling + part) // self.doubling)

    def fee(self, vbytes: int, rate: FeeRate, stake: Sat) -> Sat:
        """Fee of a transaction of this size at this rate, within the share of what is at stake, and relayed at least."""
        most = max(Sat(stake // self.stake_share), fee_for(vbytes, self.floor))
        return min(fee_for(vbytes, rate), most)

    def is_worth(self, vbytes: int, rate: FeeRate, stake: Sat) -> bool:
        """Whether a fee at this rate is within the share of what is at stake."""
        return fee_for(vbytes, rate) <= stake // self.stake_share

    def worth_replacing(self, old_fee: Sat, old_vbytes: int, new_fee: Sat, new_vbytes: int) -> bool:
        """Whether the new one pays enough more, per byte and in sum, to be taken for the old one and to be worth it."""
        enough = new_fee >= old_fee + fee_for(new_vbytes, self.floor)
        return enough and new_fee * old_vbytes * 100 >= old_fee * new_vbytes * (100 + self.step_percent)
