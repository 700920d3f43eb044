"""The money engine's configuration: one frozen value, every maximum with its reason (R6)."""

from dataclasses import dataclass, field

from protocols.channel.events import ChannelConfig
from protocols.errors import MisuseError
from protocols.payment.events import ForwardPolicy
from protocols.units import BlockDelta, Sat


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Attributes:
    channel: what we ask of a channel and grant to it.
    forward: bounds for HTLCs that pass through, and for those that end here.
    slack: least number of blocks that we add as a payer to what the offer needs (R5), so that blocks found while
        HTLCs travel break nothing.
    slack_span: how many different slacks there are; the random part hides how far away the payee is.
    max_attempts: HTLCs that one payment may lock one after the other; each failed one may have cost hours.
    chain_reserve: confirmed satoshi that must be there per live channel before an HTLC is offered or taken (DESIGN 6).
    steps_per_coin: deadline-bound transactions that one confirmed coin can carry one after the other before it is too late:
        three blocks for each within `settle_margin`.
    max_channels: channels that live at once; each costs memory, disk and a look per block.
    max_channels_per_peer: likewise of one peer, so that one peer cannot use up `max_channels`.
    max_opening_per_peer: of these, channels that a peer opens and has not got confirmed: they cost it nothing yet.
    max_payments: payments of ours under way at once.
    max_promises: payments that we wait for at once; strangers' initializations make promises, too.
    needs_cover: a channel takes on nothing new before enough watchers hold what its neighbour revoked (DESIGN 7).
    cover_patience: seconds that an HTLC or a payment waits for that; a watcher may take as long over one answer.
    history: ended payments and promises kept in memory for readers; the disk keeps all.
    """

    channel: ChannelConfig = field(default_factory=ChannelConfig)
    forward: ForwardPolicy = field(default_factory=ForwardPolicy)
    slack: BlockDelta = BlockDelta(3)
    slack_span: int = 6
    max_attempts: int = 10
    chain_reserve: Sat = Sat(10_000)
    steps_per_coin: int = 6
    max_channels: int = 1000
    max_channels_per_peer: int = 32
    max_opening_per_peer: int = 4
    max_payments: int = 1000
    max_promises: int = 10_000
    needs_cover: bool = False
    cover_patience: int = 60
    history: int = 1000

    def __post_init__(self) -> None:
        if self.slack < 3 or self.slack_span < 1:
            raise MisuseError(
                f"slack of {self.slack} blocks in {self.slack_span} variants; at least 3 and 1 wanted (R5)"
            )
        if self.max_attempts < 1 or self.history < 0 or self.chain_reserve < 0:
            raise MisuseError("attempts, history and reserve must not be negative, and one attempt must be allowed")
