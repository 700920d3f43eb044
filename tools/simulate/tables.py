"""Channel lists and workloads from CSV files, plain or compressed with gzip; what is wrong is told with its line.

A channel list has one row per channel and way, in any order of columns; other columns are ignored:

    source, target          names, any text
    capacity_sat            of the channel
    base_fee_msat, proportional_fee_ppm     what `source` asks for carrying a payment over the channel to `target`
    cltv_delta              blocks that `source` wants between the two locks
    htlc_max_msat           the largest HTLC it offers; may be left out
    channel_id              the two ways of a channel share it; may be left out where no two nodes share two channels
    balance_sat             what `source` has in the channel; may be left out: drawn

A workload has one row per payment: `payer`, `payee`, `amount_sat`, and `at_s`, seconds from the start, which may be left
out (one after the other).
"""

import csv
import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from protocols.routing.pricing import FeePolicy
from protocols.units import MAX_SAT, MSAT_PER_SAT, PPM, BlockDelta, Msat, Sat, to_msat
from tools.simulate.graph import Direction, Edge, Graph
from tools.simulate.workload import Order

CHANNEL_COLUMNS = ("source", "target", "capacity_sat", "base_fee_msat", "proportional_fee_ppm", "cltv_delta")
ORDER_COLUMNS = ("payer", "payee", "amount_sat")
MAX_ROWS = 2_000_000  # thirty times today's Lightning network; about as many channels as fit 16 GB of memory
MAX_DAYS = 36_500


class BadTable(Exception):
    """A file that cannot be used; the message names file, line and what was wanted."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of a table; every getter raises BadTable."""

    place: str
    cells: dict[str, str | None]

    def text(self, column: str) -> str:
        value = (self.cells.get(column) or "").strip()
        if not value:
            raise BadTable(f"{self.place}: no {column}")
        return value

    def number(self, column: str, low: int, high: int, default: int | None = None) -> int:
        text = (self.cells.get(column) or "").strip()
        if not text and default is not None:
            return default
        try:
            value = int(text)
        except ValueError:
            raise BadTable(f"{self.place}: {column} is {text[:40]!r}, a whole number wanted") from None
        if not low <= value <= high:
            raise BadTable(f"{self.place}: {column} is {value}, {low} to {high} wanted")
        return value


def _rows(path: Path, wanted: tuple[str, ...]) -> Iterator[_Row]:
    """The lines of a table, its header checked."""

    def opened() -> IO[str]:
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="utf-8", newline="")
        return path.open(encoding="utf-8", newline="")

    try:
        with opened() as file:
            reader = csv.DictReader(file)
            missing = [name for name in wanted if name not in (reader.fieldnames or ())]
            if missing:
                raise BadTable(f"{path}, line 1: no column {missing[0]}; wanted are {', '.join(wanted)}")
            for count, cells in enumerate(reader, start=1):
                place = f"{path}, line {reader.line_num}"
                if count > MAX_ROWS:
                    raise BadTable(f"{place}: at most {MAX_ROWS} rows are read")
                if None in cells:
                    raise BadTable(f"{place}: more cells than the header has")
                yield _Row(place, cells)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise BadTable(f"{path}: {error}") from None


# --- channels ---------------------------------------------------------------------------------------------------------


def read_channels(path: Path) -> Graph:
    """The channels of a list.

    Raises:
        BadTable: the file cannot be read, or a line says something impossible.
    """
    found: dict[tuple[str, str, str], Edge] = {}
    for row in _rows(path, CHANNEL_COLUMNS):
        source, target = row.text("source"), row.text("target")
        if source == target:
            raise BadTable(f"{row.place}: a channel of {source} with itself")
        first, second = sorted((source, target))
        forward = source == first
        capacity = Sat(row.number("capacity_sat", 1, MAX_SAT))
        key = (first, second, (row.cells.get("channel_id") or "").strip())
        known = found.get(key) or Edge(ends=(first, second), capacity=capacity, ways=(None, None))
        if known.capacity != capacity:
            raise BadTable(f"{row.place}: capacity_sat is {capacity}, the other way said {known.capacity}")
        if known.ways[0 if forward else 1] is not None:
            raise BadTable(f"{row.place}: this way of this channel stands above already; give each a channel_id")
        way = _direction(row, capacity)
        ways = (way, known.ways[1]) if forward else (known.ways[0], way)
        balance = _balance(row, known, forward=forward)
        found[key] = replace(known, ways=ways, balance=balance)
    if not found:
        raise BadTable(f"{path}: no channels in it")
    return Graph.of(found.values())


def _direction(row: _Row, capacity: Sat) -> Direction:
    fee = FeePolicy(
        base_msat=Msat(row.number("base_fee_msat", 0, 2**32 - 1)),
        ppm=min(row.number("proportional_fee_ppm", 0, 2**32 - 1), PPM),  # the engine asks no more than the amount
    )
    whole = to_msat(capacity)
    most = row.number("htlc_max_msat", 0, 2**64 - 1, default=whole)
    return Direction(fee=fee, delta=BlockDelta(row.number("cltv_delta", 0, 2**16 - 1)), most=Msat(min(most, whole)))


def _balance(row: _Row, edge: Edge, *, forward: bool) -> Msat | None:
    text = (row.cells.get("balance_sat") or "").strip()
    if not text:
        return edge.balance
    own = to_msat(Sat(row.number("balance_sat", 0, edge.capacity)))
    first = own if forward else Msat(edge.capacity * MSAT_PER_SAT - own)
    if edge.balance is not None and edge.balance != first:
        raise BadTable(f"{row.place}: balance_sat is {own // MSAT_PER_SAT}, not what the other way leaves")
    return first


# --- payments ---------------------------------------------------------------------------------------------------------


def read_orders(path: Path, knows: Callable[[str], bool]) -> tuple[Order, ...]:
    """The payments of a workload, in its order.

    Args:
        knows: whether a name is a node of the graph.

    Raises:
        BadTable: as above, or a name that is no node.
    """
    orders: list[Order] = []
    for row in _rows(path, ORDER_COLUMNS):
        payer, payee = row.text("payer"), row.text("payee")
        for name in (payer, payee):
            if not knows(name):
                raise BadTable(f"{row.place}: {name} is no node of the graph")
        if payer == payee:
            raise BadTable(f"{row.place}: {payer} pays itself")
        at = row.number("at_s", 0, MAX_DAYS * 86_400, default=-1)
        if orders and (at < 0) != (orders[-1].at_ms is None):
            raise BadTable(f"{row.place}: at_s stands in some lines and not in others")
        if orders and at >= 0 and at * 1000 < (orders[-1].at_ms or 0):
            raise BadTable(f"{row.place}: at_s is {at}, less than in the line above")
        amount = to_msat(Sat(row.number("amount_sat", 1, MAX_SAT)))
        orders.append(Order(payer=payer, payee=payee, amount=amount, at_ms=at * 1000 if at >= 0 else None))
    if not orders:
        raise BadTable(f"{path}: no payments in it")
    return tuple(orders)
