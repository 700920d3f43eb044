"""One node in virtual time: the real routing and money engines, over channels without cryptography (`light`)."""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from protocols.channel.events import Flush, SendMessage
from protocols.channel.state import Channel
from protocols.facts import Facts
from protocols.ids import PaymentHash, PeerId
from protocols.onchain.keys import ChannelKeys
from protocols.payment.config import EngineConfig
from protocols.payment.engine import Effect, Engine
from protocols.payment.events import (
    ChainReserveChanged,
    FindOffers,
    Forward,
    ForwardPolicy,
    NeighbourLiquidity,
    OffersFound,
    OfferUsed,
    Payment,
    PaymentChanged,
    PromiseChanged,
    PromisePhase,
    Snapshot,
    StoreForward,
)
from protocols.routing.config import RoutingConfig
from protocols.routing.engine import Engine as RoutingEngine
from protocols.routing.events import (
    FloodEnded,
    LiquidityChanged,
    OfferArrived,
    PaymentEnded,
    RoutingEvent,
    SendOffers,
    SetTimer,
    TimerFired,
)
from protocols.routing.pricing import FeePolicy, NeighbourFee
from protocols.units import AssetId, BlockDelta, Msat, UnixTime
from protocols.wire.channel import ChannelMessage
from tools.simulate import light

COIN = AssetId(bytes(range(32)))
_PLENTY = ChainReserveChanged(confirmed_sat=10**15, coins=10**9)  # the chain's fees are not what is looked at


class Around(Protocol):
    """What a node needs of the world."""

    now: UnixTime

    def facts(self) -> Facts: ...

    def wake(self, at: UnixTime, call: Callable[[], None]) -> None: ...

    def offers(self, sender: "Station", effect: SendOffers) -> None: ...

    def update(self, sender: "Station", peer: PeerId, message: ChannelMessage) -> None: ...

    def arrived(self, effect: OfferArrived) -> None: ...

    def changed(self, payment: Payment) -> None: ...

    def carried(self, station: "Station", forward: Forward) -> None: ...


def id_of(name: str) -> PeerId:
    """The node's id: no key, only the form of one."""
    return PeerId(b"\x02" + hashlib.sha256(name.encode()).digest())


def _no_keys(index: int) -> ChannelKeys:
    raise AssertionError("channels without cryptography have no keys")


class Station:
    """One node.

    Args:
        channels: its open channels.
        asks: of each neighbour, what it pays for being carried on.
        delta: blocks between an incoming and an outgoing lock.

    Attributes:
        room: the largest HTLC that it could offer each neighbour now, as its engine told last.
        sent: offers sent.
        forwards: payments carried for others.
        earned: with them, millisatoshi.
    """

    __slots__ = ("_timer", "_world", "earned", "forwards", "id", "money", "name", "room", "routing", "sent")

    def __init__(
        self, world: Around, name: str, channels: Iterable[Channel], asks: dict[PeerId, FeePolicy], delta: BlockDelta
    ) -> None:
        self._world, self.name, self.id = world, name, id_of(name)
        self._timer: UnixTime | None = None
        self.room: dict[PeerId, Msat] = {}
        self.sent = self.forwards = self.earned = 0
        ((usual, _),) = Counter(asks.values()).most_common(1) or ((FeePolicy(), 0),)
        own = tuple(NeighbourFee(neighbour=peer, fee=fee) for peer, fee in asks.items() if fee != usual)
        self.routing = RoutingEngine(RoutingConfig(fee=usual, neighbour_fees=own, delta=delta), self.id)
        self.money = Engine(
            us=self.id,
            asset=COIN,
            keys=_no_keys,
            snapshot=Snapshot(channels=tuple(channels)),
            config=EngineConfig(forward=ForwardPolicy(lock_delta=delta)),
            rules=light,
        )

    def start(self) -> None:
        """Tell the routing engine what the channels can carry."""
        facts = self._world.facts()
        self._perform([*self.money.handle(_PLENTY, facts), *self.money.resume(facts)])

    def tell(self, event: RoutingEvent) -> None:
        """Give the routing engine an event and do what follows."""
        for effect in self.routing.handle(event):
            match effect:
                case SendOffers():
                    self.sent += len(effect.offers)
                    self._world.offers(self, effect)
                case OfferArrived():
                    self._world.arrived(effect)
                case SetTimer(at=at):
                    self._timer = at
                    self._world.wake(at, self._fire)
                case _:
                    raise AssertionError(f"nobody subscribes here: {effect}")

    def _fire(self) -> None:
        if self._timer is not None and self._timer <= self._world.now:
            self._timer = None
            self.tell(TimerFired(now=self._world.now))

    def give(self, event: Any) -> list[Effect]:
        """Give the money engine an event, as the runtime does: its questions answered, then one `Flush`."""
        effects: list[Effect] = []
        for each in (event, Flush()):
            queue = deque(self.money.handle(each, self._world.facts()))
            while queue:
                effect = queue.popleft()
                if isinstance(effect, FindOffers):
                    queue.extendleft(reversed(self.money.handle(self._answer(effect), self._world.facts())))
                else:
                    effects.append(effect)
        self._perform(effects)
        return effects

    def _answer(self, asked: FindOffers) -> OffersFound:
        offers = self.routing.offers(asked.payment_hash, asked.upstream, asked.asset, self._world.now)
        return OffersFound(reference=asked.reference, offers=offers)

    def _perform(self, effects: Iterable[Effect]) -> None:
        world = self._world
        payments: dict[PaymentHash, Payment] = {}
        for effect in effects:
            match effect:
                case SendMessage(peer=peer, message=message):
                    world.update(self, peer, message)
                case NeighbourLiquidity(neighbour=peer, liquidity=liquidity):
                    self.room[peer] = max((each.ours for each in liquidity), default=Msat(0))
                    self.tell(LiquidityChanged(neighbour=peer, liquidity=liquidity, now=world.now))
                case OfferUsed():
                    ended = PaymentEnded(
                        payment_hash=effect.payment_hash,
                        downstream=effect.downstream,
                        paid=effect.paid,
                        now=world.now,
                        amount=effect.amount,
                        upstream=effect.upstream,
                    )
                    self.tell(ended)
                case StoreForward(forward=forward) if forward.preimage is not None:
                    self.forwards += 1
                    self.earned += forward.incoming_amount - forward.outgoing_amount
                    world.carried(self, forward)
                case PromiseChanged(promise=promise) if promise.phase is not PromisePhase.WAITING:
                    self.tell(FloodEnded(payment_hash=promise.payment_hash, now=world.now))
                case PaymentChanged(payment=payment):
                    payments[payment.payment_hash] = payment
                case _:
                    pass
        for payment in payments.values():  # as they stand after the whole batch
            world.changed(payment)
