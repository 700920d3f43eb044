"""Whole networks of engines joined by a queue with random delays: the flood finds the optimum to the msat, and ends.

The optimum is found apart, by a search that knows every balance (ROUTING-NUMBERS: "exact: the plain flood's final offer
equals a balance-knowing Dijkstra to the msat"). The example network is THEORY's, in its sane reading.
"""

import heapq
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.ids import PaymentHash, PeerId
from protocols.routing.config import RoutingConfig
from protocols.routing.engine import Engine
from protocols.routing.events import (
    BundleReceived,
    FloodRequested,
    Liquidity,
    LiquidityChanged,
    NeighbourUp,
    OfferArrived,
    OffersWanted,
    PushOffers,
    SendOffers,
    Subscribed,
)
from protocols.routing.pricing import FeePolicy, Rate
from protocols.units import Amount, AssetId, BlockDelta, Msat, UnixTime

NOW = UnixTime(1_700_000_000)
COIN = AssetId(b"\xc0" * 32)
GOLD = AssetId(b"\x60" * 32)
HASH = PaymentHash(b"\x11" * 32)


def peer(name) -> PeerId:
    return PeerId(b"\x02" + str(name).encode().rjust(32, b"."))


class Network:
    """Engines and the messages between them.

    Args:
        nodes: name to (base fee, ppm, whether it routes, rates).
        channels: (one, other, what one can send, what the other can send, asset).
        delay: seconds that a message takes between two nodes.
    """

    def __init__(self, nodes, channels, delay, **config):
        self.engines = {
            name: Engine(
                RoutingConfig(fee=FeePolicy(base_msat=base, ppm=ppm), routes=routes, rates=rates, **config), peer(name)
            )
            for name, (base, ppm, routes, rates) in nodes.items()
        }
        self.names = {peer(name): name for name in nodes}
        self.delay = delay
        self.queue = []
        self.sent = 0
        self.time = 0.0
        self.arrived = {name: [] for name in nodes}
        balances = {}
        for one, other, ours, theirs, asset in channels:
            balances.setdefault((one, other), []).append(Liquidity(asset=asset, ours=ours, theirs=theirs))
            balances.setdefault((other, one), []).append(Liquidity(asset=asset, ours=theirs, theirs=ours))
        for (one, other), each in balances.items():
            self.tell(one, LiquidityChanged(neighbour=peer(other), liquidity=tuple(each), now=NOW))
        for one, other in balances:
            self.tell(one, NeighbourUp(neighbour=peer(other), routes=nodes[other][2], now=NOW))

    def tell(self, name, event):
        for effect in self.engines[name].handle(event):
            match effect:
                case SendOffers(neighbour=to) | PushOffers(subscriber=to):
                    self.sent += len(effect.offers)
                    arrival = self.time + self.delay(name, self.names[to])
                    heapq.heappush(self.queue, (arrival, self.sent, name, self.names[to], effect.offers))
                case OfferArrived():
                    self.arrived[name].append(
                        (round(self.time, 3), self.names[effect.neighbour], effect.offer.amount_msat)
                    )

    def run(self, limit=200_000):
        while self.queue:
            assert self.sent < limit, "the flood does not end"
            self.time, _, one, other, offers = heapq.heappop(self.queue)
            self.tell(other, BundleReceived(neighbour=peer(one), offers=offers, now=NOW))

    def ask(self, payee, amount, asset=COIN, hops=100, ceiling=10**15):
        self.tell(
            payee,
            FloodRequested(
                payment_hash=HASH,
                amount=Amount(Msat(amount), asset),
                lock_blocks=BlockDelta(9),
                hops=hops,
                ceiling=Amount(Msat(ceiling), asset),
                expiry=UnixTime(NOW + 600),
                now=NOW,
            ),
        )

    def best(self, payer, asset=COIN):
        found = self.engines[payer].offers(HASH, None, asset, NOW)
        return found[0].amount.msat if found else None


def optimum(fees, channels, payee, payer, amount):
    """The least that must reach some neighbour of the payer, by a search from the payee that knows all balances."""
    able = {}
    for one, other, ours, theirs, _ in channels:
        able.setdefault(other, []).append((one, ours))  # `one` can send `ours` to `other`
        able.setdefault(one, []).append((other, theirs))
    best = {payee: amount}
    todo = [(amount, payee)]
    paid = None
    while todo:
        needed, node = heapq.heappop(todo)
        if needed > best[node]:
            continue
        for upstream, balance in able.get(node, ()):
            if balance < needed:
                continue
            if upstream == payer:
                paid = needed if paid is None else min(paid, needed)
                continue
            base, ppm = fees[upstream]
            quote = needed + base + -(-needed * ppm // 1_000_000)
            if quote < best.get(upstream, quote + 1):
                best[upstream] = quote
                heapq.heappush(todo, (quote, upstream))
    return paid


@st.composite
def graphs(draw):
    size = draw(st.integers(3, 9))
    pairs = [(one, other) for one in range(size) for other in range(one + 1, size)]
    chosen = draw(st.lists(st.sampled_from(pairs), min_size=size - 1, max_size=2 * size, unique=True))
    balance = st.integers(0, 30_000)
    channels = [(one, other, draw(balance), draw(balance), COIN) for one, other in chosen]
    fees = {node: (draw(st.integers(0, 500)), draw(st.sampled_from([0, 100, 3333, 20_000]))) for node in range(size)}
    return fees, channels, draw(st.integers(1, 20_000)), draw(st.integers(0, 2**32))


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_the_plain_flood_finds_the_optimum_to_the_msat_and_ends(graph):
    fees, channels, amount, seed = graph
    delays = random.Random(seed)
    nodes = {node: (base, ppm, True, ()) for node, (base, ppm) in fees.items()}
    network = Network(nodes, channels, lambda *_: delays.uniform(0.02, 0.1), max_improvements=200)
    payee, payer = 0, len(fees) - 1
    network.ask(payee, amount)
    network.run()
    assert network.best(payer) == optimum(fees, channels, payee, payer, amount)


def test_a_cycle_of_exchange_rates_that_gains_on_each_round_still_ends():
    """ROUTING-NUMBERS, "Hazard": each conversion promises a gain of a tenth, so each round is "cheaper" (R12)."""
    gain = (
        Rate(downstream=COIN, upstream=GOLD, numerator=9, denominator=10),
        Rate(downstream=GOLD, upstream=COIN, numerator=9, denominator=10),
    )
    nodes = dict.fromkeys("ABCDE", (0, 0, True, gain))
    pairs = [(one, other) for one in "ABCDE" for other in "ABCDE" if one < other]
    channels = [(one, other, 10**9, 10**9, asset) for one, other in pairs for asset in (COIN, GOLD)]
    delays = random.Random(5)
    network = Network(nodes, channels, lambda *_: delays.uniform(0.02, 0.1), max_improvements=8)
    network.ask("E", 10**8, hops=255)
    network.run(limit=20_000)
    assert network.best("A") is not None
    bound = len(pairs) * 2 * 2 * len("ABCDE") * 2 * 9
    assert network.sent <= bound


def test_the_hop_budget_bounds_how_far_a_flood_goes():
    nodes = dict.fromkeys(range(10), (1, 0, True, ()))
    channels = [(node, node + 1, 10**9, 10**9, COIN) for node in range(9)]
    network = Network(nodes, channels, lambda *_: 0.05)
    network.ask(0, 1000, hops=3)
    network.run()
    assert [network.best(node) for node in range(1, 10)] == [1000, 1001, 1002, 1003, None, None, None, None, None]


@pytest.fixture
def example():
    """THEORY's network: A---B---D---E with C joined to B and D; A and E are clients. B-D is dear, C is slow and cheap."""
    nodes = {
        "A": (0, 0, False, ()),
        "B": (1000, 100, True, ()),
        "C": (100, 10, True, ()),
        "D": (500, 50, True, ()),
        "E": (0, 0, False, ()),
    }
    rich = 10**10
    pairs = ["AB", "BD", "BC", "CD", "DE"]
    return nodes, [(one, other, rich, rich, COIN) for one, other in pairs]


def subscribe(network):
    network.tell("A", OffersWanted(payment_hash=HASH, expiry=UnixTime(NOW + 60), now=NOW))
    network.tell(
        "B",
        Subscribed(subscriber=peer("A"), request=1, hashes=(HASH,), prefixes=(), until=UnixTime(NOW + 60), now=NOW),
    )


def test_the_example_network_brings_each_offer_to_the_subscribed_payer(example):
    """E asks D; D quotes B and C; C quotes B; B pushes to A, which subscribed by the hash. The way over C is dearer by C's
    fee here, so the first offer stands, and B keeps the way over C for a second try."""
    network = Network(*example, lambda *_: 0.05)
    subscribe(network)
    network.ask("E", 10_000_000)
    network.run()
    at_d = 10_000_000
    at_b = at_d + 500 + 500
    at_a = at_b + 1000 + 1001  # 100 ppm of 10,001,000 is 1000.1
    assert network.arrived["A"] == [(0.15, "B", at_a)]
    over_c = at_b + 100 + 101
    found = network.engines["B"].offers(HASH, peer("A"), COIN, NOW)
    assert [(network.names[each.neighbour], each.amount.msat) for each in found] == [("D", at_b), ("C", over_c)]


def test_in_the_example_network_a_cheaper_way_that_comes_later_improves_the_offer(example):
    """D cannot be brought the amount by B directly: a dearer node X joins B and D, and C's offer comes after X's."""
    nodes, channels = example
    nodes["X"] = (50_000, 0, True, ())
    channels = [each for each in channels if each[:2] != ("B", "D")]
    channels += [("B", "X", 10**10, 10**10, COIN), ("X", "D", 10**10, 10**10, COIN)]
    slow = {("D", "C"): 0.3}
    network = Network(nodes, channels, lambda *pair: slow.get(pair, 0.05))
    subscribe(network)
    network.ask("E", 10_000_000)
    network.run()
    at_b = 10_000_000 + 500 + 500
    over_x, over_c = at_b + 50_000, at_b + 100 + 101
    at_a = [amount + 1000 + -(-amount * 100 // 1_000_000) for amount in (over_x, over_c)]
    assert network.arrived["A"] == [(0.2, "B", at_a[0]), (0.45, "B", at_a[1])]


def test_paying_the_server_itself_is_the_same_one_link_shorter(example):
    network = Network(*example, lambda *_: 0.05)
    subscribe(network)
    network.ask("D", 10_000_000)
    network.run()
    assert network.arrived["A"] == [(0.1, "B", 10_000_000 + 1000 + 1000)]


def test_two_assets_in_one_network_are_converted_by_the_node_that_has_both():
    """A pays in gold, E is paid in coin; B has channels in both: (in + fee) x 3/7, rounded up."""
    rates = (Rate(downstream=COIN, upstream=GOLD, numerator=3, denominator=7),)
    nodes = {"A": (0, 0, False, ()), "B": (10, 0, True, rates), "E": (0, 0, False, ())}
    channels = [("A", "B", 10**6, 10**6, GOLD), ("B", "E", 10**6, 10**6, COIN)]
    network = Network(nodes, channels, lambda *_: 0.05)
    subscribe(network)
    network.ask("E", 1000)
    network.run()
    assert network.best("A", GOLD) == 433
    assert network.best("A", COIN) is None
