"""`python -m tools.bench [names]`: measure, and print one table."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from tools.bench.table import Row, benches, render, rows_of


def main(
    names: Annotated[list[str] | None, typer.Argument(help="What to measure; default: all that is quick.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also what takes long.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Say what can be measured, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per figure.")] = False,
) -> None:
    """Measure speed and memory; each figure comes with a floor measured in the same run."""
    known = benches()
    if listed:
        for each in known.values():
            print(f"{each.name:20} {each.about}{' (long)' if each.long else ''}")
        return
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        print(f"no bench is called {unknown[0]}; `python -m tools.bench --list` names them", file=sys.stderr)
        raise typer.Exit(2)
    chosen = [known[name] for name in names] if names else [each for each in known.values() if every or not each.long]
    notes = Console(stderr=True)
    rows: list[Row] = []
    for each in chosen:
        notes.print(f"measuring {each.name}: {each.about}", style="dim")
        rows += rows_of(each)
    if as_json:
        for row in rows:
            print(json.dumps(asdict(row) | {"ratio": row.ratio}))
    else:
        console = Console(width=None if sys.stdout.isatty() else 160)
        render(rows, console)
        console.print("What limits each, as profiled: tools/bench/README.md")


if __name__ == "__main__":
    typer.run(main)
