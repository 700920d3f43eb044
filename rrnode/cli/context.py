"""What every command needs: where the node lives, how to say something, how to fail."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from rrnode.control.client import ControlClient

_PIPE_WIDTH = 1000  # characters

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document for programs.", is_eager=True)]


@dataclass(slots=True)
class Session:
    """One run of the command line.

    Attributes:
        data_dir: the node's directory.
        network: as given with `--network`, "" when not.
        as_json: whether failures are JSON too; set by the command that runs.
    """

    data_dir: Path = Path()
    network: str = ""
    debug: bool = False
    as_json: bool = False

    def client(self) -> "ControlClient":
        """The running node."""
        from rrnode.control.client import ControlClient

        return ControlClient(self.data_dir)


def session(context: typer.Context, as_json: bool = False) -> Session:
    """The session of a command; notes whether it speaks JSON."""
    found = context.find_object(Session)
    assert found is not None
    found.as_json = as_json
    return found


def console() -> "Console":
    """Standard output, for people; into a pipe, lines are never broken."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def progress() -> "Console":
    """Standard error: what happens meanwhile; never part of a result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One plain line of result; never interpreted as markup."""
    sys.stdout.write(text + "\n")


def emit(document: Any) -> None:
    """The result for programs: one JSON document. In ASCII: JSON escapes no control character above U+001F, such as U+009B,
    which begins a terminal's escape sequence, and the texts may be a stranger's."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    sys.stdout.flush()
