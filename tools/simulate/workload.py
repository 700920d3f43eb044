"""Who pays whom, how much and when: drawn with the seed."""

import bisect
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from protocols.units import Msat
from tools.simulate.graph import Graph

TRIES = 10_000  # draws for one pair before the amount is said to fit nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One payment that somebody wants to make.

    Attributes:
        at_ms: milliseconds from the start; None: when the payment before has ended and its offers are gone.
    """

    payer: str
    payee: str
    amount: Msat
    at_ms: int | None


class NoPair(Exception):
    """No two nodes fit what is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to draw.

    Attributes:
        count: payments.
        smallest, largest: amounts; drawn so that each order of magnitude between them is as likely as any other.
        pairs: `uniform`: anybody pays anybody. `able`: the same among those with one channel each that can carry the
            amount, as drawn at the start. `weighted`: the more likely, the more capacity a node has.
        rate: payments a second, on average (Poisson); 0: one after the other.
    """

    count: int
    smallest: Msat
    largest: Msat
    pairs: str = "able"
    rate: float = 0.0


def orders(graph: Graph, plan: Plan, rng: random.Random) -> Iterator[Order]:
    """The payments of a plan.

    Raises:
        NoPair: the graph has none that fits.
    """
    names = list(graph.nodes)
    if len(names) < 2:
        raise NoPair("a graph with fewer than two nodes")
    out, into = _rooms(graph)
    weights = list(accumulate(_weights(graph)[name] for name in names)) if plan.pairs == "weighted" else None
    at = 0.0
    for _ in range(plan.count):
        amount = Msat(round(math.exp(rng.uniform(math.log(plan.smallest), math.log(plan.largest)))))
        for _ in range(TRIES):
            payer, payee = _drawn(names, weights, rng), _drawn(names, weights, rng)
            fits = plan.pairs != "able" or (out[payer] >= amount and into[payee] >= amount)
            if payer != payee and fits:
                break
        else:
            raise NoPair(f"no two nodes could pay {amount // 1000:,} sat to each other")
        at += rng.expovariate(plan.rate) if plan.rate else 0.0
        yield Order(payer=payer, payee=payee, amount=amount, at_ms=int(at * 1000) if plan.rate else None)


def _drawn(names: list[str], weights: list[int] | None, rng: random.Random) -> str:
    if weights is None:
        return names[rng.randrange(len(names))]
    return names[bisect.bisect_right(weights, rng.randrange(weights[-1]))]


def _rooms(graph: Graph) -> tuple[dict[str, int], dict[str, int]]:
    """The largest amount that each node could send, and receive, over one channel."""
    out, into = dict.fromkeys(graph.nodes, 0), dict.fromkeys(graph.nodes, 0)
    for edge in graph.edges:
        for source, target, way, balance in edge.sides():
            room = min(balance, way.most) if way is not None else 0
            out[source], into[target] = max(out[source], room), max(into[target], room)
    return out, into


def _weights(graph: Graph) -> dict[str, int]:
    held = dict.fromkeys(graph.nodes, 0)
    for edge in graph.edges:
        for name in edge.ends:
            held[name] += edge.capacity
    return held
