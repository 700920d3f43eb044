"""The oracle against somebody who walks every path: on small random graphs both find the same least amount."""

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from protocols.routing.pricing import FeePolicy, Pricer
from protocols.units import AssetId, Msat
from tools.simulate.oracle import Oracle

COIN = AssetId(bytes(32))
NAMES = "ABCDE"
PAIRS = [(one, other) for one in NAMES for other in NAMES if one < other]


def walked(rooms, asks, payer, payee, amount):
    """The least over all paths without a loop, each priced by the engine's own pricer."""
    found = []
    between = [name for name in NAMES if name not in (payer, payee)]
    for length in range(len(between) + 1):
        for way in permutations(between, length):
            path = [payer, *way, payee]
            asked = amount
            for sender, receiver in zip(path[-2::-1], path[:0:-1], strict=True):
                if receiver not in rooms[sender]:
                    break
                if receiver != payee:
                    asked = Pricer(asks[receiver][sender]).quote(asked, COIN, COIN)
                if asked > rooms[sender][receiver]:
                    break
            else:
                found.append(asked)
    return min(found, default=None)


@given(st.data())
def test_the_oracle_finds_what_a_walk_over_every_path_finds(data):
    rooms = {name: {} for name in NAMES}
    asks = {name: {} for name in NAMES}
    fee = st.builds(
        lambda base, ppm: FeePolicy(base_msat=Msat(base), ppm=ppm), st.integers(0, 50), st.integers(0, 10**5)
    )
    for one, other in data.draw(st.lists(st.sampled_from(PAIRS), unique=True)):
        for a, b in ((one, other), (other, one)):
            rooms[a][b] = Msat(data.draw(st.integers(0, 2000)))
            asks[a][b] = data.draw(fee)
    found = Oracle(rooms, asks).cheapest("A", "E", Msat(1000))
    assert found == walked(rooms, asks, "A", "E", 1000)
