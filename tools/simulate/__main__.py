"""`python -m tools.simulate [CHANNELS.csv]`: payments through thousands of real engines, under virtual time."""

import gc
import json
import random
import resource
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from protocols.payment.payer import WaitPolicy
from protocols.units import MAX_SAT, Msat, Sat, to_msat
from tools.simulate import graph as graphs
from tools.simulate.gallery import pictures as pictures_of
from tools.simulate.paying import Habits
from tools.simulate.report import report
from tools.simulate.show import show
from tools.simulate.simulation import Outcome, simulate
from tools.simulate.tables import BadTable, read_channels, read_orders
from tools.simulate.workload import NoPair, Order, Plan
from tools.simulate.workload import orders as orders_of


class Shape(StrEnum):
    """Of a generated graph."""

    SMALL_WORLD = "small-world"
    HUBS = "hubs"


class Balances(StrEnum):
    """How balances are drawn."""

    UNIFORM = "uniform"
    DRAINED = "drained"


class Pairs(StrEnum):
    """Who pays whom."""

    ABLE = "able"
    UNIFORM = "uniform"
    WEIGHTED = "weighted"


def main(
    channels: Annotated[
        Path | None, typer.Argument(help="A channel list, CSV or CSV.gz; none: a graph is made.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=3, max=100_000, help="Of the graph that is made.")] = 1000,
    degree: Annotated[int, typer.Option(min=2, max=1000, help="Channels that each node has in it, on average.")] = 8,
    shape: Annotated[Shape, typer.Option(help="What it is like.")] = Shape.SMALL_WORLD,
    rewired: Annotated[
        float, typer.Option(min=0, max=1, help="Share of a small world's links that are not local.")
    ] = 0.1,
    core: Annotated[bool, typer.Option(help="Keep only the part in which everybody reaches everybody.")] = False,
    balances: Annotated[Balances, typer.Option(help="Where a channel's money lies, unless the list says.")] = (
        Balances.UNIFORM
    ),
    payments: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many.")] = 100,
    amount: Annotated[
        str, typer.Option(help="Satoshi, or LEAST:MOST, drawn evenly over orders of magnitude.")
    ] = "100000",
    pairs: Annotated[Pairs, typer.Option(help="able: any two that have a channel for the amount.")] = Pairs.ABLE,
    rate: Annotated[float, typer.Option(min=0, help="Payments a second, at random; 0: one after the other.")] = 0.0,
    orders: Annotated[Path | None, typer.Option(help="Payments from a file, CSV or CSV.gz, instead of drawn.")] = None,
    delay: Annotated[str, typer.Option(help="One way over a link, milliseconds; FROM:TO, drawn per link.")] = "20:100",
    quiet_ms: Annotated[int, typer.Option(min=0, help="A payer locks when nothing better came for so long.")] = 700,
    maximum_ms: Annotated[int, typer.Option(min=1, help="A payer waits for offers no longer.")] = 10_000,
    max_fee_ppm: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="A payer pays no more, beside 20 sat.")
    ] = 20_000,
    seed: Annotated[str, typer.Option(help="The same seed gives the same result.")] = "1",
    pictures: Annotated[
        Path | None, typer.Option(help="A directory for pictures (SVG); made if it is not there.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Everything, each payment included, as one JSON object.")
    ] = False,
) -> None:
    """Make payments in a network of thousands of nodes that run the real engines, and say what it took.

    What is real and what is modelled: tools/simulate/README.md. Ctrl-C ends it and reports what there is so far.
    """
    notes = Console(stderr=True)
    started = time.process_time()
    asked: dict[str, Any] = {
        "channels": channels.name if channels else f"{shape.value}, {nodes} nodes, degree {degree}, {rewired} rewired",
        "core": core,
        "balances": balances.value,
        "payments": orders.name if orders else f"{payments} of {amount} sat, pairs {pairs.value}, {rate} a second",
        "delay_ms": delay,
        "wait_ms": [quiet_ms, maximum_ms],
        "max_fee_ppm": max_fee_ppm,
        "seed": seed,
    }
    try:
        delays = _range(delay, "--delay", 0, 3_600_000)
        smallest, largest = _range(amount, "--amount", 1, MAX_SAT)
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
        graph = read_channels(channels) if channels is not None else _made(nodes, degree, rewired, shape, seed)
        graph = graphs.core(graph) if core else graph
        graph = graphs.drawn(graph, balances.value, random.Random(f"{seed} balances"))
        plan = Plan(
            count=payments,
            smallest=to_msat(Sat(smallest)),
            largest=to_msat(Sat(largest)),
            pairs=pairs.value,
            rate=rate,
        )
        drawn = random.Random(f"{seed} payments")
        work = read_orders(orders, set(graph.nodes).__contains__) if orders else tuple(orders_of(graph, plan, drawn))
        wait = WaitPolicy(quiet=quiet_ms, maximum=maximum_ms)
        habits = Habits(wait=wait, max_fee_ppm=max_fee_ppm, max_fee_base=Msat(20_000))
        outcome = _run(graph, work, seed, habits, delays, notes)
        if pictures is not None:
            for name, text in pictures_of(outcome).items():
                (pictures / name).write_text(text, encoding="utf-8")
    except (BadTable, NoPair, OSError) as error:
        notes.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    found = report(outcome, asked)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        show(found, Console(width=None if sys.stdout.isatty() else 140))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    notes.print(f"{time.process_time() - started:.1f} s of processor time, at most {peak} MB of memory", style="dim")
    if outcome.stopped:
        notes.print(
            f"stopped after {len(outcome.results):,} of {len(work):,} payments; what was under way is counted in bytes only"
        )
        raise typer.Exit(130)


def _range(text: str, option: str, low: int, high: int) -> tuple[int, int]:
    least, _, most = text.partition(":")
    try:
        found = int(least), int(most or least)
    except ValueError:
        found = (-1, -1)
    if not low <= found[0] <= found[1] <= high:
        raise BadTable(f"{option} is {text!r}; wanted is a whole number or FROM:TO, {low} to {high}")
    return found


def _made(nodes: int, degree: int, rewired: float, shape: Shape, seed: str) -> graphs.Graph:
    rng = random.Random(f"{seed} graph")
    if shape is Shape.HUBS:
        return graphs.with_hubs(nodes, degree, rng)
    return graphs.small_world(nodes, degree, rewired, rng)


def _run(
    graph: graphs.Graph,
    work: tuple[Order, ...],
    seed: str,
    habits: Habits,
    delays: tuple[int, int],
    notes: Console,
) -> Outcome:
    """With a bar on a terminal."""
    columns = (TextColumn("payments"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as bar:
        task = bar.add_task("payments", total=len(work))
        # What stands at the start stays: the collector need not look at a hundred thousand channels again and again.
        return simulate(
            graph, work, seed=seed, habits=habits, delays=delays, progress=lambda: bar.advance(task), ready=gc.freeze
        )


if __name__ == "__main__":
    typer.run(main)
