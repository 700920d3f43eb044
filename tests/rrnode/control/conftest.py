"""Fixtures of the control API's tests: a fake node that behaves, served on a real Unix socket."""

import importlib.util
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The kit: `fake_node.py`."""
    name = "fake_node"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("fake_node.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A private directory whose path is short enough for a socket."""
    path = tmp_path / "n"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a short path, which others could reach: pytest's own are long and closed."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
async def node(fake: ModuleType, data_dir: Path) -> AsyncIterator[Any]:
    """A running fake node in `data_dir`."""
    async with fake.serving(data_dir) as running:
        yield running
