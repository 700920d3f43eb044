"""Fixtures that tests of several areas share: a chain of our own, and a real Bitcoin Core where there is one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rrnode.chain.kernel import KernelChain
from tools.build_bitcoind import HOW_TO_GET_ONE, find_bitcoind


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
