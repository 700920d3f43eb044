"""A network of real money and routing engines in one process, wired by queues; for tests, and to measure engines alone.

A node does what the runtime does: it handles a batch of events, answers the money engine's questions from its routing
table, adds one `Flush`, writes every store of the batch to its disk, and only then performs the rest. It can go down
before a commit (the batch is lost) or after it (what was to be sent is lost), and start again from its disk.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from protocols.channel.events import (
    BuildFunding,
    ChannelConfig,
    Flush,
    ForgetChannel,
    FundingBuilt,
    LinkDown,
    LinkUp,
    MessageReceived,
    OpenRequested,
    Outpoint,
    OutputSpent,
    Publish,
    PublishWithChild,
    PublishWithInputs,
    SendMessage,
    StoreChannel,
    StoreRevoked,
    TipChanged,
    TxConfirmed,
    WatchOutpoint,
    WatchTx,
)
from protocols.channel.state import Channel, balances
from protocols.facts import Facts
from protocols.ids import ChannelId, PaymentHash, PeerId, Preimage, Txid
from protocols.onchain.ec import point_of
from protocols.onchain.keys import ChannelKeys
from protocols.onchain.tx import Tx, TxInput, TxOutput
from protocols.payment.config import EngineConfig
from protocols.payment.engine import Effect, Engine
from protocols.payment.events import (
    ChainReserveChanged,
    DropForward,
    FindOffers,
    Forward,
    HtlcRef,
    Kind,
    LockRequested,
    NeighbourLiquidity,
    OffersFound,
    OfferUsed,
    Payment,
    PaymentChanged,
    PayPhase,
    PayRequested,
    Promise,
    PromiseMade,
    PromisePhase,
    Snapshot,
    StoreForward,
    StorePayment,
    StorePromise,
)
from protocols.routing.config import RoutingConfig
from protocols.routing.engine import Engine as RoutingEngine
from protocols.routing.events import (
    BundleReceived,
    FloodRequested,
    KeptOffer,
    LiquidityChanged,
    NeighbourDown,
    NeighbourUp,
    OfferArrived,
    OffersWanted,
    PaymentEnded,
    PushOffers,
    RoutingEvent,
    SendOffers,
)
from protocols.routing.pricing import FeePolicy
from protocols.units import MAX_MSAT, Amount, AssetId, BlockDelta, FeeRate, Msat, Sat, UnixTime
from protocols.wire.channel import CODEC, OpenChannel
from tools.simulate.chain import Chain

COIN = AssetId(bytes(range(32)))
START = UnixTime(1_700_000_000)
STORES = (StoreChannel, StoreRevoked, ForgetChannel, StorePayment, StorePromise, StoreForward, DropForward)
_encode = msgspec.msgpack.encode


def default_config() -> EngineConfig:
    """Short delays, so that few blocks are needed."""
    return EngineConfig(channel=ChannelConfig(funding_depth=1, to_self_delay=BlockDelta(6), buried_depth=3))


def preimage_of(number: int) -> Preimage:
    """A preimage for tests."""
    return Preimage(hashlib.sha256(b"preimage %d" % number).digest())


def hash_of(preimage: Preimage) -> PaymentHash:
    """Its payment hash."""
    return PaymentHash(hashlib.sha256(preimage).digest())


class WentDown(Exception):
    """The node is gone; start it again with `Network.restart`."""


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


class Network:
    """Nodes by name, links between them, one chain, one clock that stands still unless it is moved."""

    def __init__(
        self, *names: str, config: EngineConfig | None = None, fees: dict[str, FeePolicy] | None = None
    ) -> None:
        self.now, self.chain = START, Chain()
        self.nodes = {
            name: Node(self, name, config or default_config(), (fees or {}).get(name, FeePolicy())) for name in names
        }
        self.by_id = {node.id: node for node in self.nodes.values()}
        self.down: set[PeerId] = set()
        self.links: set[frozenset[PeerId]] = set()
        self.wires: dict[tuple[PeerId, PeerId], deque[bytes]] = {}
        self._deaf: set[PeerId] = set()
        self._later: deque[tuple[Node, Any]] = deque()
        self._bundles: deque[tuple[PeerId, PeerId, BundleReceived]] = deque()
        for node in self.nodes.values():
            node.batch(ChainReserveChanged(confirmed_sat=node.reserve, coins=100))

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    # --- links --------------------------------------------------------------------------------------------------------

    def connect(self, one: str, other: str) -> None:
        """A new stream between two nodes; both routing neighbours, too."""
        a, b = self[one], self[other]
        self.links.add(frozenset((a.id, b.id)))
        for node, peer in ((a, b), (b, a)):
            self.wires[node.id, peer.id] = deque()
        for node, peer in ((a, b), (b, a)):
            self._try(node, LinkUp(peer=peer.id))
            node.route(NeighbourUp(neighbour=peer.id, routes=True, now=self.now))

    def cut(self, one: str, other: str) -> None:
        """The stream ends; what was under way is lost."""
        a, b = self[one], self[other]
        self.links.discard(frozenset((a.id, b.id)))
        for node, peer in ((a, b), (b, a)):
            self.wires.pop((node.id, peer.id), None)
        for node, peer in ((a, b), (b, a)):
            if node.id not in self.down:
                self._try(node, LinkDown(peer=peer.id))
                node.route(NeighbourDown(neighbour=peer.id, now=self.now))

    def linked(self, one: str, other: str) -> bool:
        """Whether the stream between two nodes stands."""
        return frozenset((self[one].id, self[other].id)) in self.links

    def send(self, sender: Node, peer: PeerId, message: bytes) -> None:
        """Put a message on the wire, if there is one."""
        wire = self.wires.get((sender.id, peer))
        if wire is not None:
            wire.append(message)

    def bundle(self, sender: Node, peer: PeerId, bundle: BundleReceived) -> None:
        """Offers on their way."""
        if frozenset((sender.id, peer)) in self.links:
            self._bundles.append((sender.id, peer, bundle))

    def later(self, node: Node, event: Any) -> None:
        """An event that the node's own runtime will give it."""
        self._later.append((node, event))

    def _try(self, node: Node, *events: Any) -> None:
        if node.id in self.down:
            return
        try:
            node.batch(*events)
        except WentDown:
            self._gone(node)

    def _gone(self, node: Node) -> None:
        self.down.add(node.id)
        for link in [link for link in self.links if node.id in link]:
            one, other = (self.by_id[each].name for each in link)
            self.cut(one, other)

    def whole(self, *links: tuple[str, str]) -> None:
        """Everybody is up, these links stand, and everything has been said."""
        for name, node in self.nodes.items():
            node.crash = ""
            if node.id in self.down:
                self.restart(name)
        for one, other in links:
            if not self.linked(one, other):
                self.connect(one, other)
        self.quiet()

    def quiet_without_offers_to(self, name: str) -> None:
        """Like `quiet`, but no offer reaches this node: it goes on with those it has."""
        self._deaf.add(self[name].id)
        self.quiet()
        self._deaf.clear()

    def spread(self) -> None:
        """Deliver offers only; money waits on its wires."""
        while self._bundles:
            sender, receiver, bundle = self._bundles.popleft()
            if receiver not in self._deaf and frozenset((sender, receiver)) in self.links:
                self.by_id[receiver].route(bundle)

    def restart(self, name: str) -> None:
        """Start a node that went down from its disk; its links come back with `connect`."""
        node = self[name]
        if node.id not in self.down:
            self._gone(node)
        self.down.discard(node.id)
        node.start()

    # --- running ------------------------------------------------------------------------------------------------------

    def deliver(self, sender: PeerId, receiver: PeerId, count: int | None = None) -> None:
        """Hand what waits on one wire, or the first `count` messages of it, to the receiver in one batch."""
        wire, node = self.wires.get((sender, receiver)), self.by_id[receiver]
        if not wire or node.id in self.down:
            return
        events = []
        for _ in range(len(wire) if count is None else min(count, len(wire))):
            message = CODEC.decode(wire.popleft())
            key_index = node.fresh_key() if isinstance(message, OpenChannel) else None
            events.append(MessageReceived(peer=sender, message=message, key_index=key_index))
        self._try(node, *events)

    def waiting(self) -> list[tuple[PeerId, PeerId]]:
        """Wires with something on them."""
        return [wire for wire, messages in self.wires.items() if messages]

    def quiet(self, *, at_a_time: int | None = None) -> None:
        """Deliver everything, or so many messages of a wire at a time, until nobody says anything any more."""
        for _ in range(10_000):
            if self._later:
                self._try(*self._later.popleft())
            elif self._bundles:
                self.spread()
            elif waiting := self.waiting():
                for wire in waiting:
                    self.deliver(*wire, count=at_a_time)
            else:
                return
        raise AssertionError("the network never falls silent")

    # --- the chain ----------------------------------------------------------------------------------------------------

    def publish(self, transaction: bytes) -> None:
        """To the mempool; whoever watches an output that it spends is told."""
        if self.chain.publish(transaction):
            for node in self.nodes.values():
                for watched in list(node.watched):
                    if isinstance(watched, Outpoint):
                        self.look(node, watched)

    def look(self, node: Node, watched: Txid | Outpoint) -> None:
        """Tell a node what the chain says about something that it watches."""
        if isinstance(watched, Outpoint):
            if (spender := self.chain.spender(watched)) is not None:
                self.later(node, OutputSpent(outpoint=watched, transaction=spender[0], height=spender[1]))
        elif watched in self.chain.confirmed:
            height, transaction = self.chain.confirmed[watched]
            self.later(node, TxConfirmed(txid=watched, height=height, transaction=transaction))

    def mine(self, blocks: int = 1) -> None:
        """Blocks, one after the other; everybody hears of each."""
        for _ in range(blocks):
            self.chain.mine()
            for node in self.nodes.values():
                if node.id not in self.down:
                    for watched in list(node.watched):
                        self.look(node, watched)
                    self.later(node, TipChanged())
            self.quiet()

    # --- money --------------------------------------------------------------------------------------------------------

    def channel(self, one: str, other: str, capacity: int = 1_000_000, push: int = 500_000_000) -> None:
        """Link two nodes and open a channel between them; `one` funds it and pushes (msat)."""
        if not self.linked(one, other):
            self.connect(one, other)
        a, b = self[one], self[other]
        temporary = ChannelId(hashlib.sha256(f"{one} {other} {len(a.done)}".encode()).digest())
        order = OpenRequested(
            temporary_id=temporary, peer=b.id, key_index=a.fresh_key(), capacity=Sat(capacity), push=Msat(push)
        )
        a.batch(order)
        self.quiet()
        self.mine()
        self.quiet()

    def promise(self, payee: str, number: int, amount: int, *, seconds: int = 600) -> PaymentHash:
        """The payee waits for a payment and floods the network for it."""
        node, preimage = self[payee], preimage_of(number)
        payment_hash, value = hash_of(preimage), Amount(Msat(amount), COIN)
        made = PromiseMade(
            payment_hash=payment_hash,
            preimage=preimage,
            kind=Kind.REQUEST,
            amount=value,
            expiry=UnixTime(self.now + seconds),
            lock_blocks=BlockDelta(node.config.forward.final_lock + 3),
        )
        self.give(payee, made)
        if node.id in self.down:
            return payment_hash
        node.route(
            FloodRequested(
                payment_hash=payment_hash,
                amount=value,
                lock_blocks=made.lock_blocks,
                hops=8,
                ceiling=Amount(Msat(min(MAX_MSAT, 2 * amount)), COIN),
                expiry=made.expiry,
                now=self.now,
            )
        )
        return payment_hash

    def pay(self, payer: str, payee: str, number: int, amount: int, *, ceiling: int | None = None) -> PaymentHash:
        """Everything up to the lock: promise, offers, choice. Run `quiet` to see it end."""
        node = self[payer]
        payment_hash = hash_of(preimage_of(number))
        node.route(OffersWanted(payment_hash=payment_hash, expiry=UnixTime(self.now + 600), now=self.now))
        self.promise(payee, number, amount)
        self.spread()
        self.order(payer, payee, number, amount, ceiling=ceiling)
        self.give(payer, LockRequested(payment_hash=payment_hash))
        return payment_hash

    def order(self, payer: str, payee: str, number: int, amount: int, *, ceiling: int | None = None) -> None:
        """The payer's user wants to pay."""
        order = PayRequested(
            payment_hash=hash_of(preimage_of(number)),
            kind=Kind.REQUEST,
            payee=self[payee].id,
            amount=Amount(Msat(amount), COIN),
            ceiling=Amount(Msat(ceiling if ceiling is not None else amount + 10_000 + amount // 10), COIN),
            preimage=None,
            expiry=UnixTime(self.now + 600),
        )
        self.give(payer, order)

    def give(self, name: str, *events: Any) -> None:
        """Give a node events, in one batch; nothing happens if it is down."""
        self._try(self[name], *events)

    def wealth(self) -> dict[str, int]:
        """What each node has in channels, millisatoshi."""
        return {name: node.wealth for name, node in self.nodes.items()}


def with_policy(config: EngineConfig, **changes: Any) -> EngineConfig:
    """The configuration with another forward policy."""
    return replace(config, forward=replace(config.forward, **changes))
