"""Quantities that must not be mixed up: amounts on and off chain, heights and deltas, amounts with their asset.

Source: BOLT 2 (millisatoshi amounts), BOLT 3 (what can exist on chain), THEORY (amounts carry their asset).
"""

from dataclasses import dataclass
from typing import NewType

from protocols.errors import MisuseError

Msat = NewType("Msat", int)  # off chain, thousandths of a satoshi (BOLT 2)
Sat = NewType("Sat", int)  # on chain
BlockHeight = NewType("BlockHeight", int)  # absolute
BlockDelta = NewType("BlockDelta", int)  # relative
UnixTime = NewType("UnixTime", int)  # seconds, UTC
FeeRate = NewType("FeeRate", int)  # satoshi per 1000 virtual bytes

MSAT_PER_SAT = 1000
MAX_SAT = Sat(21_000_000 * 100_000_000)
MAX_MSAT = Msat(MAX_SAT * MSAT_PER_SAT)  # fits a signed 64-bit integer
PPM = 1_000_000  # parts per million, of fees and shares


def floor_to_sat(amount: Msat) -> Sat:
    """Drop the part that cannot exist on chain; it goes to the shared anchor (BOLT 3)."""
    return Sat(amount // MSAT_PER_SAT)


def to_msat(amount: Sat) -> Msat:
    """The same value off chain, exactly."""
    return Msat(amount * MSAT_PER_SAT)


def weight_to_vbytes(weight: int) -> int:
    """Virtual bytes of a transaction of this weight, rounded up (BIP 141)."""
    return -(-weight // 4)


def fee_for(vbytes: int, feerate: FeeRate) -> Sat:
    """Fee of a transaction of this size, rounded up so that the rate is reached."""
    return Sat(-(-vbytes * feerate // 1000))


AssetId = NewType(
    "AssetId", bytes
)  # 32 bytes: the genesis block hash of the chain whose coin this is (BOLT 7 chain_hash)


@dataclass(frozen=True, slots=True, order=False)
class Amount:
    """An amount off chain together with its asset; adding or comparing two assets is an error.

    Attributes:
        msat: thousandths of the asset's smallest on-chain unit, 0 to `MAX_MSAT`.
        asset: what it is an amount of.
    """

    msat: Msat
    asset: AssetId

    def _same(self, other: "Amount") -> Msat:
        if not isinstance(other, Amount):
            raise MisuseError(f"an amount meets {type(other).__name__}, which has no asset")
        if other.asset != self.asset:
            raise MisuseError(f"two assets mixed: {self.asset.hex()[:8]} and {other.asset.hex()[:8]}")
        return other.msat

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(Msat(self.msat + self._same(other)), self.asset)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(Msat(self.msat - self._same(other)), self.asset)

    def __lt__(self, other: "Amount") -> bool:
        return self.msat < self._same(other)

    def __le__(self, other: "Amount") -> bool:
        return self.msat <= self._same(other)

    def __gt__(self, other: "Amount") -> bool:
        return self.msat > self._same(other)

    def __ge__(self, other: "Amount") -> bool:
        return self.msat >= self._same(other)
