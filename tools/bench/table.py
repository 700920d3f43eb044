"""The frame of the bench: figures with their floors, a register of what can be measured, and one table.

A figure alone says little on an unknown machine; its ratio to a floor measured a moment before on the same machine says
where the time goes. A module of this package registers what it measures:

    @bench("engine", about="offers through the routing engine")
    def engine() -> Iterator[Row]:
        yield Row(what="...", figure=..., unit="offers/s", floor=..., floor_is="...")

Async functions run under Trio. `long=True` keeps a bench out of the default run; it is run by name or with --all.
"""

import gc
import importlib
import inspect
import os
import pkgutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import trio
from rich.console import Console
from rich.table import Table

import tools.bench


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure.

    Attributes:
        what: what was measured, with its size.
        figure: in `unit`; a unit that ends in "/s" is a rate (more is better), any other a cost (less is better).
        floor: the same unit, the least that this could cost here, measured in this run; None where there is none.
        floor_is: what the floor is.
        aim: what the design asks of the figure, in `unit`, or None.
    """

    what: str
    figure: float
    unit: str
    floor: float | None = None
    floor_is: str = ""
    aim: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times the floor's cost this is; 1 is as good as it can get."""
        if not self.floor or not self.figure:
            return None
        return self.floor / self.figure if self.unit.endswith("/s") else self.figure / self.floor

    @property
    def reached(self) -> bool | None:
        """Whether the figure keeps its aim."""
        if self.aim is None:
            return None
        return self.figure >= self.aim if self.unit.endswith("/s") else self.figure <= self.aim


Rows = Iterable[Row] | AsyncIterator[Row] | Awaitable[Iterable[Row]]


@dataclass(frozen=True, slots=True)
class Bench:
    """Something that can be measured by name."""

    name: str
    about: str
    long: bool
    run: Callable[[], Rows]


_benches: dict[str, Bench] = {}


def bench(name: str, *, about: str, long: bool = False) -> Callable[[Callable[[], Rows]], Callable[[], Rows]]:
    """Register a function that yields or returns rows, plain or async."""

    def register(function: Callable[[], Rows]) -> Callable[[], Rows]:
        if name in _benches:
            raise ValueError(f"two benches are called {name}")
        _benches[name] = Bench(name, about, long, function)
        return function

    return register


def benches() -> dict[str, Bench]:
    """Everything that the modules of this package registered, in the order of modules."""
    for each in sorted(pkgutil.iter_modules(tools.bench.__path__), key=lambda module: module.name):
        if each.name != "__main__" and not each.name.endswith("_worker"):  # those are processes of their own
            importlib.import_module(f"tools.bench.{each.name}")
    return dict(_benches)


def rows_of(each: Bench) -> Iterator[Row]:
    """Run one bench."""
    found = each.run()
    if isinstance(found, AsyncIterator):
        yield from trio.run(_gather, found)
    elif inspect.isawaitable(found):
        yield from trio.run(_wait, found)
    else:
        assert not isinstance(found, Awaitable)
        yield from found


async def _gather(rows: AsyncIterator[Row]) -> list[Row]:
    return [row async for row in rows]


async def _wait(rows: Awaitable[Iterable[Row]]) -> list[Row]:
    return list(await rows)


def seconds_of(work: Callable[[], object], *, rounds: int = 3) -> float:
    """The fastest of a few rounds, with the collector at rest: what the work costs when nothing else disturbs it."""
    best = float("inf")
    for _ in range(rounds):
        gc.collect()
        gc.disable()
        try:
            start = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - start)
        finally:
            gc.enable()
    return best


def resident_bytes() -> int:
    """Memory that this process has; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def render(rows: Iterable[Row], console: Console) -> None:
    """One table for people."""
    table = Table(title="rrnode bench: each figure against a floor measured in the same run", title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_column("floor", justify="right")
    table.add_column("x floor", justify="right")
    table.add_column("aim", justify="right")
    table.add_column("the floor is")
    for row in rows:
        table.add_row(
            row.what,
            _number(row.figure, row.unit),
            "" if row.floor is None else _number(row.floor, row.unit),
            "" if row.ratio is None else f"{row.ratio:.1f}",
            "" if row.aim is None else f"{_number(row.aim, row.unit)} {'kept' if row.reached else 'MISSED'}",
            row.floor_is,
        )
    console.print(table)


def _number(value: float, unit: str) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}"
