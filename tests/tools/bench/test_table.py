"""The bench's frame: ratios the right way round, names found, async rows gathered. No figure is ever asserted."""

import io

import pytest
from rich.console import Console

from tools.bench.table import Bench, Row, bench, benches, render, rows_of


def test_a_ratio_says_how_many_times_the_floors_cost_it_is():
    assert Row(what="x", figure=50, unit="offers/s", floor=100).ratio == 2
    assert Row(what="x", figure=200, unit="bytes", floor=100).ratio == 2
    assert Row(what="x", figure=200, unit="bytes").ratio is None


def test_an_aim_is_kept_by_more_of_a_rate_and_less_of_a_cost():
    assert Row(what="x", figure=50, unit="offers/s", aim=40).reached is True
    assert Row(what="x", figure=50, unit="ms", aim=40).reached is False
    assert Row(what="x", figure=50, unit="ms").reached is None


def test_rows_come_from_plain_and_from_async_functions():
    row = Row(what="x", figure=1, unit="ms")

    def plain():
        yield row

    async def async_rows():
        yield row

    async def awaited():
        return [row]

    for run in (plain, async_rows, awaited):
        assert list(rows_of(Bench("x", "", False, run))) == [row]


def test_what_is_registered_is_found_and_no_name_is_taken_twice():
    known = benches()
    assert {"routing", "routing-memory"} <= set(known)
    with pytest.raises(ValueError, match="two benches are called routing"):
        bench("routing", about="again")(list)


def test_the_table_says_figure_floor_and_ratio():
    console = Console(width=160, record=True, file=io.StringIO())
    render([Row(what="x", figure=123456, unit="offers/s", floor=246912, floor_is="y", aim=10)], console)
    text = console.export_text()
    assert all(part in text for part in ("123,456 offers/s", "246,912 offers/s", "2.0", "kept", "y"))
