"""`python -m tools.replay FILE`: run a recording again, and name the first difference."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bootstrap.networks import NETWORKS
from protocols.channel.engine import KeyRing
from rrnode.errors import UserError
from rrnode.keys import SeedFile, key_ring
from rrnode.recording import BadRecording, Header, read
from rrnode.version import VERSION
from tools.replay.replay import replay


def main(
    file: Annotated[Path, typer.Argument(help="A recording: recordings/*.rec of a node's data directory.")],
    data_dir: Annotated[
        Path | None, typer.Option(help="The node's data directory: its seed signs again what the money engine signed.")
    ] = None,
) -> None:
    """Feed a node's recording (`node.record_mb`) to the same engines of this version.

    Ends with 0 when everything is the same, with 1 at the first difference, with 2 when the file cannot be read. Reads
    only; nothing is sent and nothing published.
    """
    try:
        with file.open("rb") as opened:
            frames = read(opened)
            header = next(frames)
            assert isinstance(header, Header)
            done = replay(frames, _keys(data_dir, header.network))
    except (BadRecording, UserError, OSError) as error:
        print(f"{file}: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    print(f"recorded by version {header.version} on {header.network}, run again by version {VERSION}")
    print(
        ", ".join(f"{count:,} calls of the {engine} engine" for engine, count in sorted(done.calls.items()))
        or "no calls"
    )
    if done.skipped:
        print(f"{done.skipped:,} calls of the money engine were left out: they need the node's keys, see --data-dir")
    if done.difference is not None:
        print(done.difference)
        raise typer.Exit(1)
    print("everything is the same")


def _keys(data_dir: Path | None, network: str) -> KeyRing | None:
    if data_dir is None:
        return None
    if network not in NETWORKS:
        raise BadRecording(f"recorded on {network}, which this version does not know")
    return key_ring(SeedFile(data_dir).read(), NETWORKS[network])


if __name__ == "__main__":
    typer.run(main)
