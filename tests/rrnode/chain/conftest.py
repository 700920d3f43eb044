"""Fixtures of chain tests: the kit, and one rig per kind of backend."""

import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

from rrnode.chain.kernel import KernelChain


def _load_kit(name: str) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def kit() -> ModuleType:
    """Builders and rigs: `chain_kit.py`."""
    return _load_kit("chain_kit")


@pytest.fixture
def close_kit() -> ModuleType:
    """HTLC transactions of a close: `close_kit.py`."""
    return _load_kit("close_kit")


@pytest.fixture
async def close(kernel_chain: KernelChain, kit: ModuleType, close_kit: ModuleType) -> Any:
    """A close with one coin of 400,000 satoshi; tests that need more add them."""
    wallet = kit.KeyWallet()
    await kit.with_coins(kernel_chain, wallet, 400_000)
    return close_kit.Close(kernel_chain, kit, wallet)


@pytest.fixture(params=["kernel", "served", pytest.param("core", marks=pytest.mark.bitcoind)])
async def rig(request: pytest.FixtureRequest, kit: ModuleType, tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator:
    """Every kind of backend, running on an empty regtest."""
    if request.param == "core":
        made = kit.CoreRig(tmp_path, nursery, program=request.getfixturevalue("bitcoind_binary"))
    else:
        made = kit.RIGS[request.param](tmp_path, nursery)
    await made.start()
    yield made
    await made.stop()
