"""What a node of `tools.simulate.network` has stored, encoded as the real storage encodes it (DESIGN 6, "Commit, then perform")."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from protocols.channel.events import (
    ForgetChannel,
    StoreChannel,
    StoreRevoked,
)
from protocols.channel.state import Channel
from protocols.ids import ChannelId, PaymentHash
from protocols.payment.events import (
    DropForward,
    Forward,
    HtlcRef,
    Payment,
    Promise,
    PromisePhase,
    Snapshot,
    StoreForward,
    StorePayment,
    StorePromise,
)

STORES = (StoreChannel, StoreRevoked, ForgetChannel, StorePayment, StorePromise, StoreForward, DropForward)
_encode = msgspec.msgpack.encode


@dataclass(slots=True)
class Disk:
    """What a node has stored, encoded as the real storage encodes it."""

    channels: dict[ChannelId, bytes] = field(default_factory=dict)
    payments: dict[PaymentHash, bytes] = field(default_factory=dict)
    promises: dict[PaymentHash, bytes] = field(default_factory=dict)
    forwards: dict[HtlcRef, bytes] = field(default_factory=dict)
    settled: set[PaymentHash] = field(default_factory=set)
    revoked: int = 0
    earned: int = 0
    writes: int = 0

    def write(self, stores: Iterable[Any]) -> None:
        """One transaction."""
        for effect in stores:
            self.writes += 1
            match effect:
                case StoreChannel(channel=channel, replaces=old):
                    if old is not None:
                        self.channels.pop(old, None)
                    self.channels[channel.channel_id] = _encode(channel)
                case ForgetChannel(channel_id=channel_id):
                    self.channels.pop(channel_id, None)
                case StoreRevoked():
                    self.revoked += 1
                case StorePayment(payment=payment):
                    self.payments[payment.payment_hash] = _encode(payment)
                    if payment.phase.name == "PAID":
                        self.settled.add(payment.payment_hash)
                case StorePromise(promise=promise):
                    self.promises[promise.payment_hash] = _encode(promise)
                    if promise.phase is PromisePhase.CLAIMED:
                        self.settled.add(promise.payment_hash)
                case StoreForward(forward=forward):
                    self.forwards[forward.incoming] = _encode(forward)
                case DropForward(incoming=incoming, earned=earned):
                    self.forwards.pop(incoming)
                    self.earned += earned

    def read(self) -> Snapshot:
        """What an engine starts from."""

        def all_of(kind: Any, rows: dict[Any, bytes]) -> tuple[Any, ...]:
            decoder = msgspec.msgpack.Decoder(kind)
            return tuple(decoder.decode(row) for row in rows.values())

        return Snapshot(
            channels=all_of(Channel, self.channels),
            payments=all_of(Payment, self.payments),
            promises=all_of(Promise, self.promises),
            forwards=all_of(Forward, self.forwards),
            settled_hashes=frozenset(self.settled),
        )
