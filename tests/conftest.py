"""Fixtures that tests of several areas share: a chain of our own, a real Bitcoin Core where there is one, a fake node."""

import importlib.util
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog

from rrnode import log
from rrnode.chain.kernel import KernelChain
from tools.build_bitcoind import HOW_TO_GET_ONE, find_bitcoind


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """What runs in this process may set up logging, with a stream of its test: nothing of it is left to the next one."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in log._CHATTY}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def bitcoind_binary() -> Path:
    """A Bitcoin Core to start; skips with a reason where there is none. Mark such tests `bitcoind`."""
    found = find_bitcoind()
    if found is None:
        pytest.skip(HOW_TO_GET_ONE)
    return found


@pytest.fixture
async def kernel_chain(tmp_path: Path) -> AsyncIterator[KernelChain]:
    """An embedded regtest, running, with its first block only."""
    chain = KernelChain(tmp_path / "regtest")
    async with chain.running():
        yield chain


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The kit of whoever asks a node by its control API: `rrnode/control/fake_node.py`."""
    name = "fake_node"
    if name not in sys.modules:
        path = Path(__file__).parent / "rrnode" / "control" / "fake_node.py"
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
