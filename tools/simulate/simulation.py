"""Payments through a world, one after the other or as they come; what became of each."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tools.simulate.graph import Graph
from tools.simulate.paying import Habits, Result, Run
from tools.simulate.workload import Order
from tools.simulate.world import Traffic, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """What one node did."""

    name: str
    channels: int
    forwards: int
    earned: int
    sent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything that a simulation found.

    Attributes:
        results: in the order of the workload.
        carriers: every node, in the order of the graph.
        dropped: offers not taken or not passed on, by reason.
        virtual_s: how long it took, by the nodes' clocks.
        stopped: whether it was interrupted; then `results` holds only what had ended.
    """

    graph: Graph
    results: tuple[Result, ...]
    carriers: tuple[Carrier, ...]
    traffic: Traffic
    dropped: dict[str, int]
    virtual_s: int
    stopped: bool = False


def simulate(
    graph: Graph,
    orders: Iterable[Order],
    *,
    seed: str,
    habits: Habits | None = None,
    delays: tuple[int, int] = (20, 100),
    progress: Callable[[], None] = lambda: None,
    ready: Callable[[], None] = lambda: None,
) -> Outcome:
    """Make the payments and wait until nothing happens any more.

    Args:
        graph: with a balance in every channel.
        seed: the same one gives the same outcome.
        progress: called when a payment has ended.
        ready: called when all nodes stand.
    """
    rng = random.Random(f"{seed} world")
    world = World(graph, rng, delays)
    habits = habits or Habits()
    ready()
    runs: list[Run] = []
    stopped = False
    try:
        for order in orders:
            run = Run(world, order, habits, rng, progress)
            runs.append(run)
            if order.at_ms is not None:
                world.run(until=order.at_ms * 1000)
            run.start()
            if order.at_ms is None:
                world.run()
        world.run()
    except KeyboardInterrupt:
        stopped = True
    results = tuple(run.result() for run in runs if run.over)
    channels = Counter(name for edge in graph.edges for name in edge.ends)
    dropped: Counter[str] = Counter()
    for station in world.stations.values():
        dropped.update({reason.name.lower(): count for reason, count in station.routing.dropped().items()})
    return Outcome(
        graph=graph,
        results=results,
        carriers=tuple(
            Carrier(name=s.name, channels=channels[s.name], forwards=s.forwards, earned=s.earned, sent=s.sent)
            for s in world.stations.values()
        ),
        traffic=world.traffic,
        dropped=dict(sorted(dropped.items())),
        virtual_s=world.milliseconds // 1000,
        stopped=stopped,
    )
