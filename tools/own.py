"""What the tools for one's own nodes share: where such a node lives, and how a failure is told."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from rrnode.cli.app import EXIT_FAILED as FAILED
from rrnode.cli.app import EXIT_INTERRUPTED as INTERRUPTED
from rrnode.cli.app import EXIT_NO_NODE as NO_NODE
from rrnode.cli.context import emit
from rrnode.control.client import NodeAway
from rrnode.datadir import default_data_dir
from rrnode.errors import StorageFailed, UserError
from rrnode.services.limits import printable

__all__ = ["FAILED", "INTERRUPTED", "NO_NODE", "data_dir", "explained", "say"]


def data_dir(given: Path | None, network: str) -> Path:
    """The directory of a node: the one named, or where `rrnode` itself would look."""
    return (given.expanduser() if given is not None else default_data_dir(network)).absolute()


@contextmanager
def explained(*, as_json: bool) -> Iterator[None]:
    """Tell what cannot be done in a sentence, and end the program with the exit code that says so."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except UserError as error:
        raise _told(str(error), error.hint, NO_NODE if isinstance(error, NodeAway) else FAILED, as_json) from None
    except StorageFailed as error:
        hint = "a node that runs is asked over its socket; see also: rrnode --datadir DIR status"
        raise _told(str(error), hint, FAILED, as_json) from None
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit is silent too
            raise typer.Exit(FAILED) from None
        named = f"{error.filename}: " if error.filename else ""
        raise _told(f"{named}{error.strerror}", "", FAILED, as_json) from None


def _told(sentence: str, hint: str, code: int, as_json: bool) -> typer.Exit:
    if as_json:
        emit({"error": sentence, "try": hint})
    else:
        sys.stderr.write(f"{printable(sentence)}\n" + (f"try: {hint}\n" if hint else ""))
    return typer.Exit(code)


def say(sentence: str) -> None:
    """Something beside the result, on standard error."""
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()
