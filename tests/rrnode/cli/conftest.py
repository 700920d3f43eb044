"""Fixtures of the command line's tests: the control tests' fake node, and commands run as a user would."""

import importlib.util
import io
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
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


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The kit: `../control/fake_node.py`."""
    name = "fake_node"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "control" / "fake_node.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Where the node of this test lives, or is to be made; a short path, which does not exist yet."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path) / "n"


@pytest.fixture
async def node(fake: ModuleType, data_dir: Path) -> AsyncIterator[Any]:
    """A running fake node in `data_dir`."""
    async with fake.serving(data_dir) as running:
        yield running


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
