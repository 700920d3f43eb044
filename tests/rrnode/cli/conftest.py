"""Fixtures of the command line's tests: the control tests' fake node, and commands run as a user would."""

import io
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from rrnode.cli import main


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


Run = Callable[..., Awaitable[Result]]


@pytest.fixture
def run(data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run one command against `data_dir`; `stdin` is what a pipe would hold."""
    monkeypatch.delenv("RRNODE_DATADIR", raising=False)

    async def command(*arguments: str, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        with trio.fail_after(60):
            code = await trio.to_thread.run_sync(main, ["--datadir", str(data_dir), *arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return command
