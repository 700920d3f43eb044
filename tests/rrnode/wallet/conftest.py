"""Wallets over an embedded chain: seeds, a store, a funded wallet, and the feeding that a node's follower does."""

import importlib.util
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bootstrap.networks import REGTEST
from protocols.units import Sat
from rrnode.chain.base import Verdict
from rrnode.chain.kernel import KernelChain
from rrnode.chain.parse import Tx, parse_block, parse_transaction
from rrnode.keys import KeyTree
from rrnode.storage import Store
from rrnode.wallet import Wallet, catch_up

WORDS = " ".join(["abandon"] * 23 + ["art"])
OTHER_WORDS = " ".join(["zoo"] * 23 + ["vote"])


def _chain_kit() -> ModuleType:
    name = "chain_kit"
    if name not in sys.modules:
        place = Path(__file__).parents[1] / "chain" / "chain_kit.py"
        spec = importlib.util.spec_from_file_location(name, place)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def kit() -> ModuleType:
    """Coins that anybody can spend and transactions on them: `chain_kit.py` of the chain's tests."""
    return _chain_kit()


@pytest.fixture
def keys() -> KeyTree:
    return KeyTree(WORDS, REGTEST)


@pytest.fixture
def other_keys() -> KeyTree:
    return KeyTree(OTHER_WORDS, REGTEST)


@pytest.fixture
def store(tmp_path: Path, keys: KeyTree) -> Iterator[Store]:
    store = Store.open(tmp_path / "rrnode.sqlite", node_id=keys.node_id(), network="regtest")
    yield store
    store.close()


@dataclass
class World:
    """An embedded chain with a purse of coins that anybody can spend."""

    chain: KernelChain
    kit: Any
    purse: list[tuple[bytes, int, bytes]]

    async def give(self, *outputs: tuple[bytes, int], confirm: bool = True) -> Tx:
        """Pay (script, value) outputs out of the purse; one transaction, mined unless told otherwise."""
        coin = self.purse.pop(0)
        pays = [(value, script) for script, value in outputs]
        rest = coin[1] - sum(value for value, _ in pays) - 1000
        tx = self.kit.build([coin], [*pays, (rest, self.kit.OPEN)])
        self.purse.append(self.kit.coin(tx, len(pays)))
        await self.publish(tx.raw)
        if confirm:
            await self.mine()
        return tx

    async def publish(self, *raw: bytes) -> None:
        result = await self.chain.publish(raw)
        assert result.verdict is Verdict.ACCEPTED, result

    async def mine(self, blocks: int = 1) -> bytes:
        """Mine; gives the hash of the first block."""
        return (await self.chain.mine(blocks, self.kit.LOCKED))[0]

    async def block(self, block_hash: bytes) -> tuple[Tx, ...]:
        return parse_block(await self.chain.block(block_hash)).transactions

    async def feed(self, wallet: Wallet) -> None:
        """What a follower tells: new blocks, reorganisations, the whole mempool."""
        await catch_up(wallet, self.chain)
        present = await self.chain.mempool()
        found = [await self.chain.mempool_transaction(txid) for txid in present]
        wallet.take_mempool([parse_transaction(raw) for raw in found if raw is not None])
        wallet.mempool_is(frozenset(present))
        wallet.flush()


@pytest.fixture
async def world(kit: ModuleType, tmp_path: Path) -> AsyncIterator[World]:
    chain = KernelChain(tmp_path / "regtest")
    async with chain.running():
        yield World(chain, kit, await kit.funded(chain, 3))


@pytest.fixture
def wallet(keys: KeyTree, store: Store) -> Wallet:
    """The wallet in the store, not yet fed."""
    return Wallet.open(keys, store, now=lambda: 1_700_000_000)


@pytest.fixture
def reopened(keys: KeyTree, store: Store) -> Callable[[], Wallet]:
    """The wallet as a restarted node finds it."""
    return lambda: Wallet.open(keys, store, now=lambda: 1_700_000_001)


@pytest.fixture
async def rich(wallet: Wallet, world: World) -> Wallet:
    """A wallet with confirmed coins of 1,000,000, 500,000 and 200,000 sat."""
    await world.feed(wallet)
    scripts = [wallet.script_at(wallet.reserve_key_index()) for _ in range(3)]
    await world.give(*zip(scripts, (1_000_000, 500_000, 200_000), strict=True))
    await world.feed(wallet)
    assert wallet.balance().confirmed == Sat(1_700_000)
    return wallet
