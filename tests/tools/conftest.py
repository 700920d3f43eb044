"""Fixtures of the tools' tests: the control tests' fake node on a real socket."""

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
    """The kit: `rrnode/control/fake_node.py`."""
    name = "fake_node"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "rrnode" / "control" / "fake_node.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Where the node of this test lives; a short path, which does not exist yet."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path) / "n"


@pytest.fixture
async def node(fake: ModuleType, data_dir: Path) -> AsyncIterator[Any]:
    """A running fake node in `data_dir`."""
    async with fake.serving(data_dir) as running:
        yield running
