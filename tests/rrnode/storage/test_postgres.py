"""The same store on a real PostgreSQL: set `RRNODE_TEST_POSTGRES` to the URL of an empty database that may be wiped
(`postgresql+psycopg://user:password@host/database`). Skips without it.
"""

import os
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine

from protocols.channel.events import Flush, StoreChannel, StoreRevoked
from protocols.ids import PeerId, Txid
from protocols.payment.events import DropForward, PayPhase, StoreForward, StorePayment, StorePromise
from protocols.units import Msat, UnixTime
from rrnode.errors import StorageFailed
from rrnode.storage import KnownAddress, SetAside, Store, WalletChanges, WalletTransaction


@pytest.fixture
def url() -> str:
    url = os.environ.get("RRNODE_TEST_POSTGRES", "")
    if not url:
        pytest.skip("no PostgreSQL: set RRNODE_TEST_POSTGRES to the URL of an empty database that may be wiped")
    engine = create_engine(url)
    everything = MetaData()
    everything.reflect(engine)
    everything.drop_all(engine)
    engine.dispose()
    return url


def test_everything_committed_is_there_after_opening_again(url: str, kit: Any, line: Any) -> None:
    store = Store.open(url, node_id=kit.node, network="regtest")
    revoked = StoreRevoked(channel_id=kit.channel_id(1), number=0, txid=Txid(b"t" * 32), record=b"r")
    store.commit(
        [
            StoreChannel(channel=kit.channel(1)),
            revoked,
            StorePayment(payment=kit.payment(1, PayPhase.PAID)),
            StorePromise(promise=kit.promise(2)),
            StoreForward(forward=kit.forward(3)),
            StoreForward(forward=kit.forward(4)),
        ],
        [line(Flush(), 0)],
        cursor=(3, b"c" * 32),
    )
    store.commit(
        [
            StoreChannel(channel=kit.channel(9), replaces=kit.channel_id(1)),
            DropForward(incoming=kit.ref(3), earned=Msat(5)),
        ],
        [line(Flush(), 1)],
        cursor=(4, b"d" * 32),
    )
    coin = SetAside(txid=Txid(b"1" * 32), index=2**32 - 1, holder=b"a", place=0)
    tx = WalletTransaction(
        txid=coin.txid,
        raw=b"raw",
        height=None,
        block_hash=b"",
        block_time=UnixTime(0),
        first_seen=UnixTime(1),
    )
    store.write_wallet(
        WalletChanges(
            transactions=(tx,), set_aside=(coin,), next_receiving=4, free_indexes=(1,), change_for=((b"a", 2),)
        )
    )
    known = KnownAddress(peer=kit.peer, address="/ip4/1.2.3.4/tcp/1/p2p/x", wanted=True, last_ok=UnixTime(0))
    store.remember_address(known)
    store.close()
    store = Store.open(url, node_id=kit.node, network="regtest")
    loaded = store.load()
    assert loaded.cursor == (4, b"d" * 32)
    assert loaded.snapshot.channels == (kit.channel(9),)
    assert loaded.snapshot.payments == (kit.payment(1, PayPhase.PAID),)
    assert loaded.snapshot.promises == (kit.promise(2),)
    assert loaded.snapshot.forwards == (kit.forward(4),)
    assert store.forward_totals() == (1, Msat(5))
    assert len(list(store.load_journal())) == 2
    assert len(store.revoked_states(kit.channel_id(9))) == 1
    wallet = store.load_wallet()
    assert (wallet.transactions, wallet.set_aside, wallet.next_receiving) == ((tx,), (coin,), 4)
    assert store.addresses() == (known,)
    with pytest.raises(StorageFailed, match="unique"):
        store.commit([StoreRevoked(channel_id=kit.channel_id(9), number=0, txid=Txid(b"u" * 32), record=b"")])
    store.close()


def test_a_reader_cannot_write(url: str, kit: Any) -> None:
    Store.open(url, node_id=kit.node, network="regtest").close()
    reader = Store.open_read_only(url, node_id=kit.node, network="regtest")
    assert reader.load().cursor is None
    with pytest.raises(StorageFailed, match="read-only"):
        reader.commit([StorePayment(payment=kit.payment(1))])
    reader.close()


def test_a_server_that_is_not_there_is_said() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StorageFailed, match="postgresql"):
        Store.open("postgresql+psycopg://nobody@127.0.0.1:1/none", node_id=PeerId(b"x"), network="regtest")
