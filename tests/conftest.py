"""Fixtures that tests of several areas share: a chain of our own, and a real Bitcoin Core where there is one."""

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

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
