"""A network of real money and routing engines in one process, wired by queues; for tests, and to measure engines alone.

Nodes (`node`) can go down before a commit (the batch is lost) or after it (what was to be sent is lost), and start again
from their disk (`disk`).
"""

import hashlib
from collections import deque
from dataclasses import replace
from typing import Any

from protocols.channel.events import (
    ChannelConfig,
    LinkDown,
    LinkUp,
    MessageReceived,
    OpenRequested,
    Outpoint,
    OutputSpent,
    TipChanged,
    TxConfirmed,
)
from protocols.ids import ChannelId, PaymentHash, PeerId, Preimage, Txid
from protocols.payment.config import EngineConfig
from protocols.payment.events import (
    ChainReserveChanged,
    Kind,
    LockRequested,
    PayRequested,
    PromiseMade,
)
from protocols.routing.events import (
    BundleReceived,
    FloodRequested,
    NeighbourDown,
    NeighbourUp,
    OffersWanted,
)
from protocols.routing.pricing import FeePolicy
from protocols.units import MAX_MSAT, Amount, BlockDelta, Msat, Sat, UnixTime
from protocols.wire.channel import CODEC, OpenChannel
from tools.simulate.chain import Chain
from tools.simulate.node import COIN, Node, WentDown

START = UnixTime(1_700_000_000)


def default_config() -> EngineConfig:
    """Short delays, so that few blocks are needed."""
    return EngineConfig(channel=ChannelConfig(funding_depth=1, to_self_delay=BlockDelta(6), buried_depth=3))


def preimage_of(number: int) -> Preimage:
    """A preimage for tests."""
    return Preimage(hashlib.sha256(b"preimage %d" % number).digest())


def hash_of(preimage: Preimage) -> PaymentHash:
    """Its payment hash."""
    return PaymentHash(hashlib.sha256(preimage).digest())


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
