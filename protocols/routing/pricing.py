"""What we ask for carrying a payment: fee, conversion and rounding, in whole numbers only.

Source: THEORY, step 3: `amount out = (amount in + fee) x rate`, rounded up, so that the node never loses by rounding
(R2). A rate is a ratio of two integers; no floating point number ever touches an amount.
"""

from dataclasses import dataclass
from fractions import Fraction

from protocols.errors import MisuseError
from protocols.ids import PeerId
from protocols.units import MAX_MSAT, PPM, AssetId, Msat


@dataclass(frozen=True, slots=True, kw_only=True)
class FeePolicy:
    """What carrying one payment costs, taken in the asset that leaves us.

    Attributes:
        base_msat: for any amount.
        ppm: millionths of the amount on top; 0 to 1,000,000.
    """

    base_msat: Msat = Msat(1000)
    ppm: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.base_msat <= MAX_MSAT:
            raise MisuseError(f"base fee of {self.base_msat} msat, 0 to {MAX_MSAT} wanted")
        if not 0 <= self.ppm <= PPM:
            raise MisuseError(f"fee of {self.ppm} ppm, 0 to {PPM} wanted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What we want of `upstream` for one msat of `downstream`: `numerator / denominator`, exactly.

    The way back is a rate of its own: the spread between the two is what converting earns.
    """

    downstream: AssetId
    upstream: AssetId
    numerator: int
    denominator: int

    def __post_init__(self) -> None:
        if self.numerator <= 0 or self.denominator <= 0:
            raise MisuseError(f"rate of {self.numerator}/{self.denominator}, both above 0 wanted")
        if self.downstream == self.upstream:
            raise MisuseError("a rate between an asset and itself; that one is 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetFee:
    """A fee for one asset, where the general one does not fit its unit."""

    asset: AssetId
    fee: FeePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourFee:
    """What one neighbour pays for being carried on, whatever the asset, in place of the general fee."""

    neighbour: PeerId
    fee: FeePolicy


class Pricer:
    """Quotes for one node's fees and rates."""

    __slots__ = ("_fee", "_fees", "_own", "_rates", "_terms")

    def __init__(
        self,
        fee: FeePolicy,
        asset_fees: tuple[AssetFee, ...] = (),
        rates: tuple[Rate, ...] = (),
        neighbour_fees: tuple[NeighbourFee, ...] = (),
    ) -> None:
        self._fee = fee
        self._own = {each.neighbour: each.fee for each in neighbour_fees}
        self._fees = {each.asset: each.fee for each in asset_fees}
        self._rates = {(rate.downstream, rate.upstream): Fraction(rate.numerator, rate.denominator) for rate in rates}
        if (
            len(self._rates) != len(rates)
            or len(self._fees) != len(asset_fees)
            or len(self._own) != len(neighbour_fees)
        ):
            raise MisuseError("two rates for one pair of assets, or two fees for one asset or neighbour")
        self._terms: dict[tuple[AssetId, AssetId, PeerId | None], tuple[int, int, int] | None] = {}

    def tariff(self, payer: PeerId | None) -> PeerId | None:
        """Whose fee this neighbour pays: its own (the neighbour itself), or the general one (None)."""
        return payer if payer in self._own else None

    def terms(
        self, downstream: AssetId, upstream: AssetId, tariff: PeerId | None = None
    ) -> tuple[int, int, int] | None:
        """`(per_msat, flat, divisor)` with quote = ceil((amount * per_msat + flat) / divisor); None: we do not convert.

        Args:
            tariff: as `tariff` gave it for whoever is quoted.
        """
        key = (downstream, upstream, tariff)
        try:
            return self._terms[key]
        except KeyError:
            pass
        found = None
        rate = Fraction(1) if downstream == upstream else self._rates.get((downstream, upstream))
        if rate is not None:
            fee = self._fees.get(downstream, self._fee) if tariff is None else self._own[tariff]
            found = (
                (PPM + fee.ppm) * rate.numerator,
                fee.base_msat * PPM * rate.numerator,
                PPM * rate.denominator,
            )
            self._terms[key] = found  # only pairs that we convert, so the memory is bounded by the configuration
        return found

    def quote(self, amount: Msat, downstream: AssetId, upstream: AssetId, payer: PeerId | None = None) -> Msat | None:
        """The least we may be sent in `upstream` to bring on `amount` of `downstream` and keep our whole fee (R2).

        Returns None where we do not convert between the two, or where the quote would be above all money there is.
        """
        terms = self.terms(downstream, upstream, self.tariff(payer))
        if terms is None:
            return None
        per_msat, flat, divisor = terms
        quote = -(-(amount * per_msat + flat) // divisor)
        return Msat(quote) if quote <= MAX_MSAT else None
