"""Hosts on a memory network for tests of services, see `services_kit`; and the kit of the chain's tests."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "chain"))

import chain_kit
from services_kit import Net


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    """An empty network with a delay of 10 ms; whatever is started on it ends with the test."""
    async with trio.open_nursery() as nursery:
        yield Net(nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
def kit() -> ModuleType:
    """Coins that anybody can spend, and transactions on them: `chain_kit.py`."""
    return chain_kit
