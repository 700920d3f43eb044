"""Short hands for simulations: graphs from one line per channel."""

import pytest

from protocols.routing.pricing import FeePolicy
from protocols.units import BlockDelta, Msat, Sat, to_msat
from tools.simulate.graph import Direction, Edge, Graph


def edge(one, other, *, capacity=1_000_000, balance=None, fees=((1000, 100), (1000, 100)), delta=40):
    """A channel; capacity and the first one's balance (half of it) in satoshi, fees as (base msat, ppm) each way."""
    ways = tuple(
        None
        if fee is None
        else Direction(
            fee=FeePolicy(base_msat=Msat(fee[0]), ppm=fee[1]), delta=BlockDelta(delta), most=to_msat(capacity)
        )
        for fee in fees
    )
    held = to_msat(Sat(capacity // 2 if balance is None else balance))
    return Edge(ends=(one, other), capacity=Sat(capacity), ways=ways, balance=held)


class Kit:
    """What tests of this folder share."""

    edge = staticmethod(edge)

    @staticmethod
    def graph(*edges):
        return Graph.of(edges)

    @staticmethod
    def example(**changes):
        """The example network of THEORY."""
        return Graph.of(edge(*pair, **changes) for pair in ("AB", "BC", "BD", "CD", "DE"))


@pytest.fixture(scope="session")
def kit():
    return Kit
