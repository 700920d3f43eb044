"""Short hands for routing tests: named peers, assets, messages with defaults, an engine with neighbours that are up."""

from types import SimpleNamespace

import pytest

from protocols.ids import PaymentHash, PeerId
from protocols.routing.config import BudgetConfig, RoutingConfig
from protocols.routing.engine import Engine
from protocols.routing.events import BundleReceived, FloodRequested, Liquidity, LiquidityChanged, NeighbourUp
from protocols.routing.pricing import FeePolicy
from protocols.units import Amount, AssetId, BlockDelta, Msat, UnixTime
from protocols.wire.routing import RoutingMessage

NOW = UnixTime(1_700_000_000)
COIN = AssetId(b"\xc0" * 32)
GOLD = AssetId(b"\x60" * 32)


def peer(name: str) -> PeerId:
    return PeerId(b"\x02" + name.encode().ljust(32, b"."))


def hash_(number: int) -> PaymentHash:
    return PaymentHash(number.to_bytes(32, "big"))


def message(number=1, amount=1000, asset=COIN, **fields) -> RoutingMessage:
    defaults = {
        "lock_blocks": 10,
        "hops_left": 5,
        "ceiling_msat": 10**12,
        "ceiling_asset": COIN,
        "expiry": NOW + 600,
    }
    return RoutingMessage(payment_hash=hash_(number), asset=asset, amount_msat=amount, **(defaults | fields))


def config(**fields) -> RoutingConfig:
    defaults = {"fee": FeePolicy(base_msat=Msat(10), ppm=0), "delta": BlockDelta(40)}
    return RoutingConfig(**(defaults | fields))


def engine(*names, us="us", ours=10**9, theirs=10**9, **fields) -> Engine:
    """An engine with these neighbours up, routing, and rich."""
    made = Engine(config(**fields), peer(us))
    for name in names:
        join(made, name, ours=ours, theirs=theirs)
    return made


def liquidity(name, ours=10**9, theirs=10**9, asset=COIN, now=NOW) -> LiquidityChanged:
    return LiquidityChanged(
        neighbour=peer(name),
        liquidity=(Liquidity(asset=asset, ours=Msat(ours), theirs=Msat(theirs)),),
        now=now,
    )


def join(made, name, ours=10**9, theirs=10**9, routes=True, asset=COIN) -> list:
    return made.handle(liquidity(name, ours, theirs, asset)) + made.handle(
        NeighbourUp(neighbour=peer(name), routes=routes, now=NOW)
    )


def bundle(name, *offers, now=NOW) -> BundleReceived:
    return BundleReceived(neighbour=peer(name), offers=offers, now=now)


def flood(number=1, amount=1000, asset=COIN, **fields) -> FloodRequested:
    defaults = {
        "lock_blocks": BlockDelta(10),
        "hops": 5,
        "ceiling": Amount(Msat(10**12), asset),
        "expiry": UnixTime(NOW + 600),
        "now": NOW,
    }
    return FloodRequested(payment_hash=hash_(number), amount=Amount(Msat(amount), asset), **(defaults | fields))


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    return SimpleNamespace(
        NOW=NOW,
        COIN=COIN,
        GOLD=GOLD,
        TIMER=UnixTime((NOW + 600) // 8 * 8 + 8 + 30),  # when an offer made by `message` is looked at again
        peer=peer,
        hash=hash_,
        message=message,
        config=config,
        engine=engine,
        liquidity=liquidity,
        join=join,
        bundle=bundle,
        flood=flood,
        BudgetConfig=BudgetConfig,
    )
