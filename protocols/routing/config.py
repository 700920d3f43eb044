"""The routing engine's configuration: one frozen value, every maximum with its reason (R6).

Source: DESIGN 5 (R1 to R15), ROUTING-NUMBERS.
"""

from dataclasses import dataclass, field

from protocols.errors import MisuseError
from protocols.routing.pricing import AssetFee, FeePolicy, NeighbourFee, Rate
from protocols.units import BlockDelta


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetConfig:
    """What a neighbour may send (R7). Rates are per second, bursts are `burst_seconds` of the rate.

    Attributes:
        floor: offers a second that anybody may send: a newcomer's flood of an ordinary payment passes, and at 10
            microseconds an offer it costs half a percent of a processor.
        per_payment: offers a second added by each completed payment on record.
        most: offers a second that the best record earns; one neighbour never has more than a tenth of the engine.
        burst_seconds: how many seconds of silence may be saved up.
        half_life: seconds after which a completed payment counts half.
        requests: subscription requests a second.
    """

    floor: int = 500
    per_payment: int = 10
    most: int = 10_000
    burst_seconds: int = 10
    half_life: int = 24 * 3600
    requests: int = 50

    def __post_init__(self) -> None:
        if not 0 < self.floor <= self.most:
            raise MisuseError(f"budget floor of {self.floor} offers a second, 1 to {self.most} wanted")
        if self.per_payment < 0 or self.burst_seconds < 1 or self.half_life < 1 or self.requests < 1:
            raise MisuseError("a budget's rates and times must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingConfig:
    """Attributes:
    routes: whether we carry other people's payments; a client only floods its own hashes and collects offers.
    fee, asset_fees, neighbour_fees, rates: what we ask (R2); a neighbour's own fee comes before the asset's.
    delta: blocks that each HTLC must outlive the next one by, added to every offer we pass on (R5).
    max_lock_blocks: what an offer may need in all; beyond it money could be frozen for longer than two weeks.
    kept_per_hash: offers kept per hash and asset (R4); enough for three retries. At least 2, so that a neighbour whose
        own offer is the best can still be quoted another.
    max_improvements: how often one neighbour may better its price for one hash (R12). About 8 are usual in a network
        of Lightning's size (ROUTING-NUMBERS), so this stops nothing but cycles.
    max_offers: offers in the table; 400 to 800 bytes each (`tools.bench`), so at most 53 MB.
    max_floods: our own hashes that we ask for at a time.
    max_wanted: hashes that we want to pay at a time.
    max_lifetime: seconds; what expires later is kept only so long, or one neighbour's offers would stay for ever.
    clock_skew: seconds that clocks may differ (DESIGN 4).
    max_waiting: offers per neighbour kept aside until a channel can carry them; covers a channel that is just being
        re-established, and HTLCs that pass.
    catch_up: newest hashes told to a neighbour that comes up; older payments have been made by then.
    max_filters: filters per subscriber (R13).
    max_filters_total: filters of all subscribers; some 400 bytes each, so about 100 MB.
    max_prefix_bits: a longer prefix names a single hash; each length in use costs one look-up per offer.
    feeds: whether somebody may follow the full feed; costs an effect per bundle.
    judges: whether `Engine.judged` says what became of each offer.
    """

    routes: bool = True
    fee: FeePolicy = field(default_factory=FeePolicy)
    asset_fees: tuple[AssetFee, ...] = ()
    neighbour_fees: tuple[NeighbourFee, ...] = ()
    rates: tuple[Rate, ...] = ()
    delta: BlockDelta = BlockDelta(40)
    max_lock_blocks: BlockDelta = BlockDelta(2016)
    kept_per_hash: int = 4
    max_improvements: int = 32
    max_offers: int = 65_536
    max_floods: int = 4096
    max_wanted: int = 4096
    max_lifetime: int = 3600
    clock_skew: int = 30
    max_waiting: int = 64
    catch_up: int = 1024
    max_filters: int = 1024
    max_filters_total: int = 262_144
    max_prefix_bits: int = 64
    feeds: bool = False
    judges: bool = False
    budget: BudgetConfig = field(default_factory=BudgetConfig)

    def __post_init__(self) -> None:
        if self.kept_per_hash < 2:
            raise MisuseError(f"{self.kept_per_hash} offers kept per hash, at least 2 wanted")
        if not 0 < self.delta <= self.max_lock_blocks <= 0xFFFF:
            raise MisuseError(f"delta {self.delta} and at most {self.max_lock_blocks} blocks: wanted 0 < delta <= most")
