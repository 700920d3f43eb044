"""Fixtures of chain tests: the kit, and one rig per kind of backend."""

import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest
import trio


def _load_kit() -> ModuleType:
    name = "chain_kit"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("chain_kit.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def kit() -> ModuleType:
    """Builders and rigs: `chain_kit.py`."""
    return _load_kit()


@pytest.fixture(params=["kernel", "served", pytest.param("core", marks=pytest.mark.bitcoind), "remote"])
async def rig(request: pytest.FixtureRequest, kit: ModuleType, tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator:
    """Every kind of backend, running on an empty regtest."""
    if request.param == "core":
        made = kit.CoreRig(tmp_path, nursery, program=request.getfixturevalue("bitcoind_binary"))
    else:
        made = kit.RIGS[request.param](tmp_path, nursery)
    await made.start()
    yield made
    await made.stop()
