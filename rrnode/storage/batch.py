"""Fold a batch of store effects: what was stored several times is written once, as it was last (DESIGN 10)."""

from dataclasses import dataclass, field
from typing import Any, assert_never

from protocols.channel.events import ForgetChannel, StoreChannel, StoreRevoked
from protocols.errors import MisuseError
from protocols.ids import ChannelId, PaymentHash
from protocols.payment.events import (
    DropForward,
    Forward,
    HtlcRef,
    Payment,
    Promise,
    StoreForward,
    StorePayment,
    StorePromise,
)

StoreEffect = StoreChannel | StoreRevoked | ForgetChannel | StorePayment | StorePromise | StoreForward | DropForward


@dataclass(slots=True)
class Batch:
    """What one transaction will write.

    Attributes:
        rows: the small number of each stored channel; kept up to date here.
        next_row: for the next new channel.
        channels: by row; None: to be deleted. promises: likewise, by hash.
        revoked: row and effect.
    """

    rows: dict[ChannelId, int]
    next_row: int
    channels: dict[int, Any] = field(default_factory=dict)
    revoked: list[tuple[int, StoreRevoked]] = field(default_factory=list)
    payments: dict[PaymentHash, Payment] = field(default_factory=dict)
    promises: dict[PaymentHash, Promise | None] = field(default_factory=dict)
    forwards: dict[HtlcRef, Forward] = field(default_factory=dict)
    dropped: list[DropForward] = field(default_factory=list)

    def take(self, effect: StoreEffect) -> None:
        """Take in one effect. Raises MisuseError when it contradicts what is stored."""
        match effect:
            case StoreChannel():
                self._channel(effect)
            case StoreRevoked():
                row = self.rows.get(effect.channel_id)
                if row is None:
                    raise MisuseError(f"a revoked state of channel {effect.channel_id.hex()}, which is not stored")
                self.revoked.append((row, effect))
            case ForgetChannel():
                row = self.rows.pop(effect.channel_id, None)
                if row is not None:
                    self.channels[row] = None
            case StorePayment():
                self.payments[effect.payment.payment_hash] = effect.payment
            case StorePromise():
                promise = effect.promise
                self.promises[promise.payment_hash] = None if promise.came_to_nothing else promise
            case StoreForward():
                self.forwards[effect.forward.incoming] = effect.forward
            case DropForward():
                self.dropped.append(effect)
            case _:
                assert_never(effect)

    def _channel(self, effect: StoreChannel) -> None:
        channel_id = effect.channel.channel_id
        if effect.replaces is not None and effect.replaces in self.rows:
            if channel_id in self.rows:
                raise MisuseError(f"channel {effect.replaces.hex()} takes the id of another, {channel_id.hex()}")
            self.rows[channel_id] = self.rows.pop(effect.replaces)
        elif channel_id not in self.rows:
            self.rows[channel_id] = self.next_row
            self.next_row += 1
        self.channels[self.rows[channel_id]] = effect.channel
