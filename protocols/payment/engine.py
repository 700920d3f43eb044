"""The money engine: every channel, payment, promise and forward of the node, so that what belongs together is stored together.

Source: DESIGN 3, 5 (R4, R5, R9 to R11, R14) and 6. Events in, effects out; `Facts` carry clock, tip and entropy.
"""

from protocols.channel.engine import KeyRing
from protocols.channel.events import ChannelEffect, ChannelEvent
from protocols.channel.state import Channel
from protocols.facts import Facts
from protocols.ids import ChannelId, PaymentHash, PeerId
from protocols.payment.config import EngineConfig
from protocols.payment.events import Forward, Payment, PaymentEffect, PaymentEvent, Promise, Snapshot
from protocols.routing.events import Liquidity
from protocols.units import AssetId

Event = ChannelEvent | PaymentEvent
Effect = ChannelEffect | PaymentEffect


class Engine:
    """Owns all money of a node that is not on the chain.

    Args:
        us: our node key.
        asset: the coin of the chain that new channels live on.
        keys: the secrets of each of our channels.
        snapshot: what was on disk.
        config: bounds and policies.
    """

    def __init__(
        self,
        *,
        us: PeerId,
        asset: AssetId,
        keys: KeyRing,
        snapshot: Snapshot | None = None,
        config: EngineConfig | None = None,
    ) -> None:
        self.us, self.asset, self.keys = us, asset, keys
        self.config = config or EngineConfig()

    def handle(self, event: Event, facts: Facts) -> list[Effect]:
        """Take one event. Effects are to be done in this order, those to disk (`Store...`, `Drop...`, `Forget...`)
        committed before any other of the batch is performed."""
        raise NotImplementedError

    def resume(self, facts: Facts) -> list[Effect]:
        """Once, after loading and before any event: what the state on disk still owes the world."""
        raise NotImplementedError

    # --- readers ----------------------------------------------------------------------------------------------------

    def channels(self) -> tuple[Channel, ...]:
        """Every channel that is not forgotten, oldest first."""
        raise NotImplementedError

    def channel(self, channel_id: ChannelId) -> Channel | None: ...

    def payments(self) -> tuple[Payment, ...]:
        """Payments that we make: all that live, and the newest ended ones; oldest first."""
        raise NotImplementedError

    def payment(self, payment_hash: PaymentHash) -> Payment | None: ...

    def promises(self) -> tuple[Promise, ...]:
        """Payments that we take; likewise."""
        raise NotImplementedError

    def promise(self, payment_hash: PaymentHash) -> Promise | None: ...

    def forwards(self) -> tuple[Forward, ...]:
        """Forwards whose HTLCs are not both gone."""
        raise NotImplementedError

    def liquidity(self, peer: PeerId) -> tuple[Liquidity, ...]:
        """What the channels with a neighbour can carry now: the largest single HTLC each way, per asset."""
        raise NotImplementedError
