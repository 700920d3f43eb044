"""Channels as data: who shares one with whom, its price each way, and where its money lies; read, generated or drawn.

Source: BOLT 7 (a channel has a policy each way, and what stands in gossip says nothing of balances); Watts and Strogatz
1998 (small worlds); Barabási and Albert 1999 (hubs). Amounts are millisatoshi.
"""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from protocols.routing.pricing import FeePolicy
from protocols.units import PPM, BlockDelta, Msat, Sat, to_msat

TYPICAL = 100_000_000  # msat; at this amount two policies are compared: the middle of the amounts measured before


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """What one side asks for carrying a payment over the channel to the other (BOLT 7 `channel_update`).

    Attributes:
        most: the largest HTLC that it offers.
    """

    fee: FeePolicy
    delta: BlockDelta
    most: Msat

    @property
    def typical(self) -> int:
        """Its fee for a typical amount."""
        return self.fee.base_msat + TYPICAL * self.fee.ppm // PPM


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One channel.

    Attributes:
        ends: its two nodes.
        ways: the policy from the first to the second, and back; None: this way carries nothing.
        balance: what the first node has in it, millisatoshi; None until it is known or drawn.
    """

    ends: tuple[str, str]
    capacity: Sat
    ways: tuple[Direction | None, Direction | None]
    balance: Msat | None = None

    def sides(self) -> tuple[tuple[str, str, Direction | None, Msat], ...]:
        """Both ways: from whom, to whom, under which policy, and what the first of the two has (0 while unknown)."""
        (one, other), (there, back) = self.ends, self.ways
        held = self.balance or Msat(0)
        return (one, other, there, held), (other, one, back, Msat(to_msat(self.capacity) - held))


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Nodes in the order in which they were first named, and channels between them."""

    nodes: tuple[str, ...]
    edges: tuple[Edge, ...]

    @staticmethod
    def of(edges: Iterable[Edge]) -> "Graph":
        """The graph of these channels."""
        kept = tuple(edges)
        return Graph(nodes=tuple(dict.fromkeys(name for edge in kept for name in edge.ends)), edges=kept)


# --- generated --------------------------------------------------------------------------------------------------------


def small_world(nodes: int, degree: int, rewired: float, rng: random.Random) -> Graph:
    """A ring in which everybody has `degree` neighbours, a share of the links rewired to anybody (Watts and Strogatz)."""
    links: dict[tuple[int, int], None] = {}
    for step in range(1, degree // 2 + 1):
        for node in range(nodes):
            other = (node + step) % nodes
            if rng.random() < rewired:
                other = rng.randrange(nodes)
            pair = (min(node, other), max(node, other))
            if node != other:
                links[pair] = None
    return _furnished(links, nodes, rng)


def with_hubs(nodes: int, degree: int, rng: random.Random) -> Graph:
    """Each newcomer links to `degree / 2` of those there, the more likely the more links they have (Barabási and Albert)."""
    each = max(1, degree // 2)
    links: dict[tuple[int, int], None] = {(0, 1): None}
    ends = [0, 1]
    for node in range(2, nodes):
        chosen: dict[int, None] = {}
        while len(chosen) < min(each, node):
            chosen[rng.choice(ends)] = None
        for other in chosen:
            links[other, node] = None
            ends += (other, node)
    return _furnished(links, nodes, rng)


def _furnished(links: Iterable[tuple[int, int]], nodes: int, rng: random.Random) -> Graph:
    """Capacities log-normal around 2 million satoshi as on Lightning; a price per node: what it asks, it asks of everybody."""
    fees = [FeePolicy(base_msat=Msat(rng.choice((0, 1000))), ppm=rng.randrange(1, 1000)) for _ in range(nodes)]

    def way(asks: int, capacity: Sat) -> Direction:
        return Direction(fee=fees[asks], delta=BlockDelta(40), most=to_msat(capacity))

    edges = []
    for one, other in links:
        capacity = Sat(int(min(max(rng.lognormvariate(math.log(2_000_000), 1.0), 50_000), 500_000_000)))
        ways = (way(other, capacity), way(one, capacity))  # a node is paid by whoever sends it something to carry on
        edges.append(Edge(ends=(str(one), str(other)), capacity=capacity, ways=ways))
    return Graph.of(edges)


# --- balances ---------------------------------------------------------------------------------------------------------


def drawn(graph: Graph, model: str, rng: random.Random) -> Graph:
    """The graph with a balance in every channel that had none.

    Args:
        model: `uniform`: any split is as likely as any other. `drained`: exponential from either end (a tenth of the
            capacity on average), and with probability 0.8 the money lies where sending it on is dearer.
    """
    return replace(graph, edges=tuple(_filled(edge, model, rng) for edge in graph.edges))


def _filled(edge: Edge, model: str, rng: random.Random) -> Edge:
    if edge.balance is not None:
        return edge
    whole = to_msat(edge.capacity)
    if model == "uniform":
        return replace(edge, balance=Msat(rng.randrange(whole + 1)))
    little = Msat(min(whole, int(rng.expovariate(10.0) * whole)))
    first, second = (way.typical if way is not None else -1 for way in edge.ways)
    first_has_it = first > second or (first == second and rng.random() < 0.5)
    if rng.random() >= 0.8:
        first_has_it = not first_has_it
    return replace(edge, balance=Msat(whole - little) if first_has_it else little)


# --- what hangs together ----------------------------------------------------------------------------------------------


def core(graph: Graph) -> Graph:
    """The largest part in which everybody can reach everybody over the ways that carry (strongly connected)."""
    onward: dict[str, list[str]] = {name: [] for name in graph.nodes}
    back: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for edge in graph.edges:
        for source, target, way, _ in edge.sides():
            if way is not None:
                onward[source].append(target)
                back[target].append(source)
    largest: set[str] = set()
    assigned: set[str] = set()
    for name in reversed(_finished(onward)):  # Kosaraju: in this order, what reaches back is one part
        if name not in assigned:
            part = _reached(name, back, assigned)
            assigned |= part
            if len(part) > len(largest):
                largest = part
    return Graph.of(edge for edge in graph.edges if largest.issuperset(edge.ends))


def _finished(onward: dict[str, list[str]]) -> list[str]:
    """Nodes in the order in which a depth-first walk leaves them."""
    order: list[str] = []
    seen: set[str] = set()
    for start in onward:
        if start in seen:
            continue
        seen.add(start)
        walk = [(start, iter(onward[start]))]
        while walk:
            name, rest = walk[-1]
            following = next((each for each in rest if each not in seen), None)
            if following is None:
                order.append(name)
                walk.pop()
            else:
                seen.add(following)
                walk.append((following, iter(onward[following])))
    return order


def _reached(start: str, links: dict[str, list[str]], without: set[str]) -> set[str]:
    found, todo = {start}, [start]
    while todo:
        for other in links[todo.pop()]:
            if other not in found and other not in without:
                found.add(other)
                todo.append(other)
    return found
