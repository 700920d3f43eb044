"""`python -m tools.replay FILE`: run a recording again, and name the first difference."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from bootstrap.networks import NETWORKS
from protocols.channel.engine import KeyRing
from rrnode.errors import UserError
from rrnode.keys import SeedFile, key_ring
from rrnode.recording import FOLDER, MONEY, BadRecording, Header, read
from rrnode.services.limits import printable
from rrnode.version import VERSION
from tools.replay.replay import Replayed, replay


def main(
    file: Annotated[Path, typer.Argument(help="A recording: recordings/*.rec of a node's data directory.")],
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="The node's data directory: its seed signs again what the money engine signed, in its own recordings only."
        ),
    ] = None,
) -> None:
    """Feed a node's recording (`node.record_mb`) to the same engines of this version.

    Ends with 0 when everything is the same, with 1 at the first difference, with 2 when the file cannot be read. Reads
    only; nothing is sent and nothing published.
    """
    try:
        header, done = run_file(file, data_dir, _keys)
    except (BadRecording, UserError, OSError) as error:
        print(printable(f"{file}: {error}"), file=sys.stderr)
        raise typer.Exit(2) from None
    print(printable(f"recorded by version {header.version} on {header.network}, run again by version {VERSION}"))
    print(
        ", ".join(f"{count:,} calls of the {engine} engine" for engine, count in sorted(done.calls.items()))
        or "no calls"
    )
    if done.skipped:
        print(f"{done.skipped:,} calls of the money engine were left out: they need the node's keys, see --data-dir")
    if done.difference is not None:
        print(done.difference)
        if done.difference.engine == MONEY:
            print("show this to nobody: it may hold secrets and signatures of the node")
        raise typer.Exit(1)
    print("everything is the same")


def run_file(file: Path, data_dir: Path | None, ring: Callable[[Path, str], KeyRing]) -> tuple[Header, Replayed]:
    """Run one file; with a node's keys only if it is that node's own.

    Raises:
        BadRecording: it cannot be run. A stranger's file would have the node sign whatever states it names.
        OSError, UserError: it, or the seed, cannot be read.
    """
    if data_dir is not None and file.resolve().parent != (data_dir / FOLDER).resolve():
        raise BadRecording(f"not one of this node's own: with its keys only what is in {data_dir / FOLDER} is run")
    with file.open("rb") as opened:
        frames = read(opened)
        header = next(frames)
        assert isinstance(header, Header)
        return header, replay(frames, None if data_dir is None else ring(data_dir, header.network))


def _keys(data_dir: Path, network: str) -> KeyRing:
    if network not in NETWORKS:
        raise BadRecording(f"recorded on {network}, which this version does not know")
    return key_ring(SeedFile(data_dir).read(), NETWORKS[network])


if __name__ == "__main__":
    typer.run(main)
