"""Whole nodes for scenario tests; see `scenario_kit`."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from trio.testing import MockClock

sys.path.insert(0, str(Path(__file__).parent))

from scenario_kit import Actor, World, example_network, world


@pytest.fixture
def leaping_clock() -> MockClock:
    """Trio's time leaps to the next deadline whenever nothing happened for a moment: back-offs cost nothing, while a
    commit in a worker thread, which looks like idleness, still gets its real time."""
    return MockClock(autojump_threshold=0.02)


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[World]:
    """A memory network and a chain, no node yet."""
    async with world(tmp_path) as made:
        yield made


@pytest.fixture
async def example(net: World) -> dict[str, Actor]:
    """The example network: A and E are clients, B, C and D route; five channels of a million satoshi."""
    return await example_network(net)
