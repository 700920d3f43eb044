"""Where each order of the money engine goes once it is committed: to a queue, a task or a follower; nothing here waits
for a peer or the chain (DESIGN 3, 6).
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from protocols.channel.events import (
    Alarm,
    BuildFunding,
    ChannelChanged,
    Publish,
    PublishWithChild,
    PublishWithInputs,
    ReleaseFunding,
    SendMessage,
    WatchOutpoint,
    WatchTx,
)
from protocols.channel.state import Phase
from protocols.ids import ChannelId
from protocols.payment.engine import Engine as MoneyEngine
from protocols.payment.events import NeighbourLiquidity, OfferUsed, PaymentChanged, PromiseChanged
from protocols.routing.events import LiquidityChanged, PaymentEnded
from protocols.units import UnixTime
from protocols.wire.channel import Error
from rrnode.chain.broadcaster import Broadcaster
from rrnode.chain.follower import Follower
from rrnode.control import models as m
from rrnode.control.convert import channel_event
from rrnode.control.text import parse_payment_hash
from rrnode.parts.handling import Passed, Revoked, UnusedKeys
from rrnode.parts.news import News
from rrnode.services.channels import ChannelService
from rrnode.services.covering import CoverClient
from rrnode.services.funding import Funding
from rrnode.services.neighbours import Neighbours
from rrnode.services.openings import Openings
from rrnode.services.paying import Paying
from rrnode.services.receiving import Receiving
from rrnode.services.routing import RoutingService
from rrnode.traces import Traces


class Spawn(Protocol):
    """Starts a task that ends with the node."""

    def __call__(self, work: Callable[..., Awaitable[Any]], *args: Any) -> None: ...


class Performing:
    """Hands every effect over."""

    def __init__(
        self,
        *,
        engine: MoneyEngine,
        news: News,
        traces: Traces,
        openings: Openings,
        neighbours: Neighbours,
        channels: ChannelService,
        funding: Funding,
        broadcaster: Broadcaster,
        follower: Follower,
        routing: RoutingService,
        covering: CoverClient,
        paying: Paying,
        receiving: Receiving,
        spawn: Spawn,
        now: Callable[[], UnixTime],
    ) -> None:
        self._engine, self._news, self._traces = engine, news, traces
        self._openings, self._neighbours = openings, neighbours
        self._channels, self._funding, self._broadcaster, self._follower = channels, funding, broadcaster, follower
        self._routing, self._covering, self._paying, self._receiving = routing, covering, paying, receiving
        self._spawn, self._now = spawn, now

    def perform(self, effect: Any) -> None:
        """Hand one effect over; never waits."""
        match effect:
            case SendMessage():
                if isinstance(effect.message, Error):
                    self._openings.failed(ChannelId(effect.message.channel_id), effect.message.text)
                self._traces.message(effect.peer, effect.message, ours=True)
                self._channels.send(effect.peer, effect.message)
            case ChannelChanged():
                self._channel_changed(effect.channel_id)
            case NeighbourLiquidity():
                self._routing.tell(
                    LiquidityChanged(neighbour=effect.neighbour, liquidity=effect.liquidity, now=self._now())
                )
            case OfferUsed():
                self._routing.tell(
                    PaymentEnded(
                        payment_hash=effect.payment_hash,
                        downstream=effect.downstream,
                        paid=effect.paid,
                        now=self._now(),
                        amount=effect.amount,
                        upstream=effect.upstream,
                    )
                )
            case Passed():
                if isinstance(effect.event, m.Forwarded):
                    self._traces.forwarded(parse_payment_hash(effect.event.payment_hash), effect.event.earned_msat)
                self._news.bus.publish(effect.event)
            case Revoked():
                self._covering.wake()
            case UnusedKeys():
                self._spawn(self._funding.give_back_keys, effect.key_index)
            case PaymentChanged():
                self._traces.payment(effect.payment)
                self._paying.payment_changed(effect)
            case PromiseChanged():
                self._traces.promise(effect.promise)
                self._receiving.promise_changed(effect)
            case BuildFunding():
                self._spawn(self._funding.build, effect)
            case ReleaseFunding():
                self._spawn(self._funding.release, effect.channel_id)
            case Publish() | PublishWithChild() | PublishWithInputs():
                self._broadcaster.take(effect)
            case WatchTx():
                self._follower.watch_tx(effect)
            case WatchOutpoint():
                self._follower.watch_outpoint(effect)
            case Alarm():
                self._openings.failed(effect.channel_id, effect.text)
                self._news.alarm(f"channel {effect.channel_id.hex()[:16]}: {effect.text}", effect.channel_id)

    def _channel_changed(self, channel_id: ChannelId) -> None:
        self._neighbours.changed(channel_id)
        channel = self._engine.channel(channel_id)
        if channel is not None:
            self._news.bus.publish(channel_event(channel))
            if channel.phase is Phase.CLOSED:
                self._covering.wake()  # its remedies are withdrawn
        self._news.notify()
