"""The command line: `rrnode ...`, a client of the control API."""

from rrnode.cli.app import main

__all__ = ["main"]
