"""One node of `tools.simulate.network`: its engines, its disk, and what it does with their orders.

It does what the runtime does: it handles a batch of events, answers the money engine's questions from its routing table,
adds one `Flush`, writes every store of the batch to its disk, and only then performs the rest.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from protocols.channel.events import (
    BuildFunding,
    Flush,
    FundingBuilt,
    Outpoint,
    Publish,
    PublishWithChild,
    PublishWithInputs,
    SendMessage,
    WatchOutpoint,
    WatchTx,
)
from protocols.channel.state import Channel, balances
from protocols.facts import Facts
from protocols.ids import PeerId, Txid
from protocols.onchain.ec import point_of
from protocols.onchain.keys import ChannelKeys
from protocols.onchain.tx import Tx, TxInput, TxOutput
from protocols.payment.config import EngineConfig
from protocols.payment.engine import Effect, Engine
from protocols.payment.events import (
    ChainReserveChanged,
    FindOffers,
    LockRequested,
    NeighbourLiquidity,
    OffersFound,
    OfferUsed,
    Payment,
    PaymentChanged,
    PayPhase,
)
from protocols.routing.config import RoutingConfig
from protocols.routing.engine import Engine as RoutingEngine
from protocols.routing.events import (
    BundleReceived,
    KeptOffer,
    LiquidityChanged,
    OfferArrived,
    PaymentEnded,
    PushOffers,
    RoutingEvent,
    SendOffers,
)
from protocols.routing.pricing import FeePolicy
from protocols.units import AssetId, FeeRate, Sat
from protocols.wire.channel import CODEC
from tools.simulate.disk import STORES, Disk

if TYPE_CHECKING:
    from tools.simulate.network import Network
COIN = AssetId(bytes(range(32)))


class WentDown(Exception):
    """The node is gone; start it again with `Network.restart`."""


class Node:
    """One node: its engines, its disk, what it has sent and done."""

    def __init__(self, network: "Network", name: str, config: EngineConfig, fee: FeePolicy) -> None:
        self.network, self.name, self.config = network, name, config
        self.id = PeerId(point_of(hashlib.sha256(f"{name} node".encode()).digest()))
        self.routing_config = RoutingConfig(fee=fee, delta=config.forward.lock_delta)
        self.disk = Disk()
        self.next_key = 0
        self._keys: dict[int, ChannelKeys] = {}
        self.draws = 0
        self.reserve: int | None = 10_000_000
        self.batches = 0
        self.journal: list[tuple[Any, Facts, list[Effect]]] | None = None  # a list: every event, facts and effects
        self.crash = ""  # "before" or "after" the commit ...
        self.crash_at = 0  # ... of this batch, or of the first after it
        self.done: list[Effect] = []
        self.arrived: list[OfferArrived] = []
        self.watched: dict[Txid | Outpoint, object] = {}
        self.held_back: Callable[[Any], bool] = lambda publication: False
        self.money = self._engine()
        self.routing = RoutingEngine(self.routing_config, self.id)

    def _engine(self) -> Engine:
        return Engine(us=self.id, asset=COIN, keys=self.keys, snapshot=self.disk.read(), config=self.config)

    def keys(self, index: int) -> ChannelKeys:
        """The key ring."""
        if index not in self._keys:
            seed = hashlib.sha256(f"{self.name} {index}".encode()).digest()
            self._keys[index] = ChannelKeys.from_seed(seed, point_of(hashlib.sha256(seed).digest()))
        return self._keys[index]

    def fresh_key(self) -> int:
        """A key index that was never used."""
        self.next_key += 1
        return self.next_key

    def facts(self) -> Facts:
        """As the runtime draws them for one event."""
        self.draws += 1
        entropy = hashlib.sha256(f"{self.name} entropy {self.draws}".encode()).digest()
        return Facts(now=self.network.now, tip=self.network.chain.height, feerate=FeeRate(1000), entropy=entropy)

    def batch(self, *events: Any) -> list[Effect]:
        """Handle events as the runtime does; gives all effects. Raises WentDown if the node was told to crash."""
        effects: list[Effect] = []
        for event in (*events, Flush()):
            self._unfold(self._handle(event), effects)
        self._finish(effects)
        return effects

    def start(self) -> list[Effect]:
        """After a restart."""
        self.crash = ""
        self.money = self._engine()
        self.routing = RoutingEngine(self.routing_config, self.id)
        self.watched.clear()
        effects: list[Effect] = []
        self._unfold(self.money.resume(self.facts()), effects)
        self._finish(effects)
        self.batch(ChainReserveChanged(confirmed_sat=self.reserve, coins=100))
        return effects

    def _handle(self, event: Any) -> list[Effect]:
        facts = self.facts()
        effects = self.money.handle(event, facts)
        if self.journal is not None:
            self.journal.append((event, facts, list(effects)))
        return effects

    def _unfold(self, given: Iterable[Effect], effects: list[Effect]) -> None:
        queue = deque(given)
        while queue:
            effect = queue.popleft()
            if isinstance(effect, FindOffers):
                found = OffersFound(reference=effect.reference, offers=self.find(effect))
                queue.extendleft(reversed(self._handle(found)))
            else:
                effects.append(effect)

    def find(self, question: FindOffers) -> tuple[KeptOffer, ...]:
        """The routing table's answer."""
        return self.routing.offers(question.payment_hash, question.upstream, question.asset, self.network.now)

    def _finish(self, effects: list[Effect]) -> None:
        crash = ""
        self.batches += 1
        if self.crash and self.batches >= self.crash_at:
            crash, self.crash = self.crash, ""
        if crash != "before":
            self.disk.write(effect for effect in effects if isinstance(effect, STORES))
        if crash:
            raise WentDown(self.name)
        self.done += effects
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        network = self.network
        match effect:
            case SendMessage(peer=peer, message=message):
                network.send(self, peer, CODEC.encode(message))
            case BuildFunding(channel_id=channel_id, script=script, amount=amount):
                network.later(
                    self, FundingBuilt(channel_id=channel_id, transaction=funding(script, amount), output_index=0)
                )
            case Publish(transaction=transaction) | PublishWithChild(transaction=transaction):
                if not self.held_back(effect):
                    network.publish(transaction)
            case PublishWithInputs(transaction=transaction):
                if not self.held_back(effect):
                    network.publish(transaction)
            case WatchTx(txid=txid):
                self.watched[txid] = None
                network.look(self, txid)
            case WatchOutpoint(outpoint=outpoint):
                self.watched[outpoint] = None
                network.look(self, outpoint)
            case NeighbourLiquidity(neighbour=neighbour, liquidity=liquidity):
                self.route(LiquidityChanged(neighbour=neighbour, liquidity=liquidity, now=network.now))
            case OfferUsed():
                self.route(
                    PaymentEnded(
                        payment_hash=effect.payment_hash,
                        downstream=effect.downstream,
                        paid=effect.paid,
                        now=network.now,
                        amount=effect.amount,
                        upstream=effect.upstream,
                    )
                )
            case PaymentChanged(payment=Payment(phase=PayPhase.COLLECTING, attempts=(_, *_)) as payment):
                network.later(self, LockRequested(payment_hash=payment.payment_hash))  # it came back: what stands now?
            case _:
                pass

    def route(self, event: RoutingEvent) -> None:
        """Give the routing engine an event; its messages arrive at once."""
        for effect in self.routing.handle(event):
            match effect:
                case SendOffers(neighbour=peer, offers=offers) | PushOffers(subscriber=peer, offers=offers):
                    self.network.bundle(
                        self, peer, BundleReceived(neighbour=self.id, offers=offers, now=self.network.now)
                    )
                case OfferArrived():
                    self.arrived.append(effect)
                case _:
                    pass

    @property
    def wealth(self) -> int:
        """Everything of ours in channels, millisatoshi, HTLCs that we offered included."""
        total = 0
        for channel in self.money.channels():
            held = balances(channel)
            total += held.ours + held.offered
        return total

    def channel_with(self, other: "Node") -> Channel:
        """The one channel between two nodes."""
        (channel,) = [each for each in self.money.channels() if each.peer == other.id]
        return channel


def funding(script: bytes, amount: Sat) -> bytes:
    """A transaction like the wallet's: a segwit input, the funding."""
    spent = TxInput(Txid(hashlib.sha256(script).digest()), 0, 0xFFFFFFFD, (b"\x30" * 71, b"\x02" * 33))
    return Tx(2, (spent,), (TxOutput(amount, script),), 0).serialize()
