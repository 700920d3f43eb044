"""The store: what is committed is there after opening again, exactly; what belongs together is there together."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocols.channel.events import (
    Flush,
    ForgetChannel,
    HtlcReceived,
    LinkUp,
    MessageReceived,
    OfferHtlc,
    OpenRequested,
    StoreChannel,
    StoreRevoked,
)
from protocols.channel.state import Phase
from protocols.errors import MisuseError
from protocols.ids import PeerId, Preimage, Txid
from protocols.payment.events import (
    DropForward,
    Kind,
    PayPhase,
    PromisePhase,
    Snapshot,
    StoreForward,
    StorePayment,
    StorePromise,
)
from protocols.units import BlockHeight, Msat, Sat, UnixTime
from protocols.wire.channel import CommitmentSigned
from rrnode.errors import StorageFailed
from rrnode.storage import (
    EndedForward,
    JournalRow,
    KnownAddress,
    RevokedState,
    SetAside,
    Store,
    WalletChanges,
    WalletState,
    WalletTransaction,
)

Opened = Callable[..., Store]


def test_a_new_store_is_empty(opened: Opened) -> None:
    loaded = opened().load()
    assert (loaded.snapshot, loaded.cursor) == (Snapshot(), None)


def test_everything_committed_is_there_after_opening_again(opened: Opened, kit: Any) -> None:
    channels = (kit.channel(1), kit.channel(2, htlcs=(), phase=Phase.CLOSED, their_commitment=None))
    payments = (kit.payment(1), kit.payment(2, PayPhase.PAID), kit.payment(3, PayPhase.FAILED))
    promises = (kit.promise(4), kit.promise(5, PromisePhase.CLAIMED))
    forwards = (kit.forward(1), kit.forward(2, outgoing=kit.ref(7), preimage=Preimage(b"z" * 32)))
    opened().commit(
        [
            *(StoreChannel(channel=each) for each in channels),
            *(StorePayment(payment=each) for each in payments),
            *(StorePromise(promise=each) for each in promises),
            *(StoreForward(forward=each) for each in forwards),
        ],
        cursor=(321, b"c" * 32),
    )
    loaded = opened().load()
    assert loaded.cursor == (321, b"c" * 32)
    assert loaded.snapshot == Snapshot(
        channels=channels,
        payments=payments,
        promises=promises,
        forwards=forwards,
        settled_hashes=frozenset({kit.hash(2), kit.hash(5)}),
    )


def test_a_payment_that_a_stranger_announced_and_never_made_leaves_nothing_on_the_disk(
    opened: Opened, kit: Any
) -> None:
    announced, asked, paid = kit.promise(1), replace(kit.promise(2), kind=Kind.REQUEST), kit.promise(3)
    announced, paid = replace(announced, kind=Kind.PUSH), replace(paid, kind=Kind.PUSH, phase=PromisePhase.CLAIMED)
    store = opened()
    store.commit([StorePromise(promise=each) for each in (announced, asked, paid)])
    expired = [replace(each, phase=PromisePhase.EXPIRED) for each in (announced, asked)]
    store.commit([StorePromise(promise=each) for each in expired])
    left = store.load().snapshot
    assert sorted(each.payment_hash for each in left.promises) == sorted([asked.payment_hash, paid.payment_hash])
    assert expired[1] in left.promises
    assert left.settled_hashes == {paid.payment_hash}


def test_the_last_of_several_states_in_a_batch_counts(opened: Opened, kit: Any) -> None:
    opened().commit(
        [
            StoreChannel(channel=kit.channel(1, number=1)),
            StorePayment(payment=kit.payment(1, PayPhase.COLLECTING)),
            StoreChannel(channel=kit.channel(1, number=2)),
            StorePayment(payment=kit.payment(1, PayPhase.LOCKED)),
        ]
    )
    store = opened()
    assert store.load().snapshot.channels == (kit.channel(1, number=2),)
    store.commit([StoreChannel(channel=kit.channel(1, number=3)), StorePayment(payment=kit.payment(1, PayPhase.PAID))])
    snapshot = opened().load().snapshot
    assert snapshot.channels == (kit.channel(1, number=3),)
    assert snapshot.payments == (kit.payment(1, PayPhase.PAID),)


def test_a_channel_keeps_its_revoked_states_when_its_temporary_id_ends(opened: Opened, kit: Any) -> None:
    store = opened()
    temporary, permanent = kit.channel_id(1), kit.channel_id(99)
    store.commit([StoreChannel(channel=kit.channel(1))])
    store.commit([StoreChannel(channel=kit.channel(99), replaces=temporary)])
    revoked = [
        StoreRevoked(channel_id=permanent, number=number, txid=Txid(bytes([number]) * 32), record=b"r%d" % number)
        for number in (0, 1)
    ]
    store.commit(revoked)
    store = opened()
    assert store.load().snapshot.channels == (kit.channel(99),)
    kept = (
        RevokedState(number=0, txid=Txid(b"\0" * 32), record=b"r0"),
        RevokedState(number=1, txid=Txid(b"\1" * 32), record=b"r1"),
    )
    assert store.revoked_states(permanent) == kept
    assert store.revoked_state(permanent, 1) == kept[1]
    assert store.revoked_state(permanent, 2) is None
    assert store.revoked_states(temporary) == ()


def test_opening_and_renaming_in_one_batch(opened: Opened, kit: Any) -> None:
    opened().commit(
        [
            StoreChannel(channel=kit.channel(1)),
            StoreChannel(channel=kit.channel(9), replaces=kit.channel_id(1)),
            StoreChannel(channel=kit.channel(9, number=4)),
        ]
    )
    assert opened().load().snapshot.channels == (kit.channel(9, number=4),)


def test_a_forgotten_channel_is_gone_and_its_id_may_come_again(opened: Opened, kit: Any) -> None:
    store = opened()
    store.commit([StoreChannel(channel=kit.channel(1)), StoreChannel(channel=kit.channel(2))])
    store.commit([ForgetChannel(channel_id=kit.channel_id(1)), ForgetChannel(channel_id=kit.channel_id(77))])
    assert opened().load().snapshot.channels == (kit.channel(2),)
    store = opened()
    store.commit([StoreChannel(channel=kit.channel(1, number=8))])
    assert set(opened().load().snapshot.channels) == {kit.channel(2), kit.channel(1, number=8)}


def test_a_channel_with_revoked_states_is_never_forgotten(opened: Opened, kit: Any) -> None:
    store = opened()
    revoked = StoreRevoked(channel_id=kit.channel_id(1), number=0, txid=Txid(b"t" * 32), record=b"")
    store.commit([StoreChannel(channel=kit.channel(1)), revoked])
    with pytest.raises(StorageFailed, match="FOREIGN KEY"):
        store.commit([ForgetChannel(channel_id=kit.channel_id(1))])
    assert opened().load().snapshot.channels == (kit.channel(1),)


def test_a_revoked_state_is_never_overwritten(opened: Opened, kit: Any) -> None:
    store = opened()
    first = StoreRevoked(channel_id=kit.channel_id(1), number=0, txid=Txid(b"t" * 32), record=b"first")
    store.commit([StoreChannel(channel=kit.channel(1)), first])
    with pytest.raises(StorageFailed, match="UNIQUE"):
        store.commit([StoreRevoked(channel_id=kit.channel_id(1), number=0, txid=Txid(b"u" * 32), record=b"second")])
    assert opened().revoked_state(kit.channel_id(1), 0) == RevokedState(number=0, txid=Txid(b"t" * 32), record=b"first")


def test_contradicting_effects_are_our_bug_and_nothing_of_the_batch_stays(opened: Opened, kit: Any) -> None:
    store = opened()
    store.commit([StoreChannel(channel=kit.channel(1)), StoreChannel(channel=kit.channel(2))])
    with pytest.raises(MisuseError, match="takes the id of another"):
        store.commit(
            [StorePayment(payment=kit.payment(1)), StoreChannel(channel=kit.channel(2), replaces=kit.channel_id(1))]
        )
    store = opened()
    with pytest.raises(MisuseError, match="not stored"):
        store.commit([StoreRevoked(channel_id=kit.channel_id(5), number=0, txid=Txid(b"t" * 32), record=b"")])
    snapshot = opened().load().snapshot
    assert (snapshot.channels, snapshot.payments) == ((kit.channel(1), kit.channel(2)), ())


def test_an_ended_forward_leaves_a_line_of_history(opened: Opened, kit: Any, line: Any) -> None:
    store = opened()
    store.commit([StoreForward(forward=kit.forward(1)), StoreForward(forward=kit.forward(2))])
    settled = kit.forward(1, preimage=Preimage(b"z" * 32))
    store.commit(
        [
            StoreForward(forward=settled),
            DropForward(incoming=kit.ref(1), earned=Msat(12)),
            StoreForward(forward=kit.forward(3)),
            DropForward(incoming=kit.ref(3), earned=Msat(0)),
            DropForward(incoming=kit.ref(55), earned=Msat(1)),  # never stored: nothing to keep
        ],
        [line(Flush(), 5)],
    )
    store = opened()
    assert store.load().snapshot.forwards == (kit.forward(2),)
    assert store.forward_history() == (
        EndedForward(at=UnixTime(1_700_000_005), forward=kit.forward(3), earned=Msat(0)),
        EndedForward(at=UnixTime(1_700_000_005), forward=settled, earned=Msat(12)),
    )
    assert store.forward_totals() == (1, Msat(12))
    store.commit([DropForward(incoming=kit.ref(2), earned=Msat(3))])
    assert opened().forward_totals() == (2, Msat(15))


def test_the_journal_gives_back_events_and_facts(opened: Opened, kit: Any, line: Any) -> None:
    events = [
        OpenRequested(temporary_id=kit.channel_id(1), peer=kit.peer, key_index=3, capacity=Sat(100_000), push=Msat(5)),
        MessageReceived(
            peer=kit.peer,
            message=CommitmentSigned(channel_id=b"c" * 32, signature=b"s" * 64, htlc_signatures=(b"h" * 64,)),
        ),
        OfferHtlc(
            channel_id=kit.channel_id(1),
            reference=b"ref",
            amount=Msat(10),
            payment_hash=kit.hash(1),
            expiry=BlockHeight(9),
        ),
        LinkUp(peer=kit.peer),
        Flush(),
    ]
    store = opened()
    store.commit([], [line(event, n) for n, event in enumerate(events)])
    store.commit([], [line(Flush(), 9)], cursor=(5, b"b" * 32))
    store = opened()
    rows = list(store.load_journal())
    wanted = [(event, kit.facts(n)) for n, event in enumerate(events)] + [(Flush(), kit.facts(9))]
    assert rows == [JournalRow(seq=seq, event=event, facts=facts) for seq, (event, facts) in enumerate(wanted, 1)]
    assert list(store.load_journal(after=2, limit=2)) == rows[2:4]
    store.commit([], [line(Flush(), 10)])
    assert [row.seq for row in store.load_journal(after=6)] == [7]


def test_the_journal_is_bounded(opened: Opened, line: Any) -> None:
    store = opened(journal_rows=100)
    for _ in range(30):
        store.commit([], [line(Flush(), 0)] * 100)
    kept = [row.seq for row in store.load_journal()]
    assert kept[-1] == 3000
    assert 100 <= len(kept) <= 100 + 1124
    assert kept == list(range(kept[0], 3001))


def test_effects_that_are_no_events_are_not_in_the_journal(opened: Opened, kit: Any, line: Any) -> None:
    store = opened()
    notice = HtlcReceived(
        channel_id=kit.channel_id(1), htlc_id=1, amount=Msat(1), payment_hash=kit.hash(1), expiry=BlockHeight(1)
    )
    store.commit([], [line(notice, 0)])
    with pytest.raises(
        StorageFailed, match="journal line 1 is an event HtlcReceived, which this version does not know"
    ):
        list(store.load_journal())


def test_the_cursor_moves_only_when_told(opened: Opened, kit: Any) -> None:
    store = opened()
    store.commit([], cursor=(10, b"a" * 32))
    store.commit([StorePayment(payment=kit.payment(1))])
    assert opened().load().cursor == (10, b"a" * 32)
    opened().commit([], cursor=(9, b"b" * 32))
    assert opened().load().cursor == (9, b"b" * 32)


def test_the_address_book(opened: Opened, kit: Any) -> None:
    other = PeerId(b"\x02" + b"o" * 32)
    known = KnownAddress(peer=kit.peer, address="/ip4/1.2.3.4/tcp/1/p2p/x", wanted=True, last_ok=UnixTime(0))
    second = KnownAddress(peer=kit.peer, address="/ip4/1.2.3.4/tcp/2/p2p/x", wanted=False, last_ok=UnixTime(7))
    third = KnownAddress(peer=other, address="/ip4/1.2.3.4/tcp/3/p2p/y", wanted=False, last_ok=UnixTime(7))
    store = opened()
    for each in (known, second, third):
        store.remember_address(each)
    reached = KnownAddress(peer=kit.peer, address=known.address, wanted=True, last_ok=UnixTime(99))
    store.remember_address(reached)
    assert set(opened().addresses()) == {reached, second, third}
    opened().forget_addresses(kit.peer)
    assert opened().addresses() == (third,)


def test_the_wallets_tables(opened: Opened) -> None:
    confirmed = WalletTransaction(
        txid=Txid(b"1" * 32),
        raw=b"raw1",
        height=BlockHeight(5),
        block_hash=b"h" * 32,
        block_time=UnixTime(50),
        first_seen=UnixTime(40),
    )
    waiting = WalletTransaction(
        txid=Txid(b"2" * 32),
        raw=b"raw2",
        height=None,
        block_hash=b"",
        block_time=UnixTime(0),
        first_seen=UnixTime(60),
    )
    first = SetAside(txid=Txid(b"1" * 32), index=0, holder=b"a", place=1)
    second = SetAside(txid=Txid(b"1" * 32), index=1, holder=b"a", place=0)
    third = SetAside(txid=Txid(b"2" * 32), index=0, holder=b"b", place=0)
    opened().write_wallet(
        WalletChanges(
            transactions=(confirmed, waiting),
            set_aside=(first, second, third),
            next_receiving=7,
            next_change=3,
            address=6,
            free_indexes=(2, 4),
            change_for=((b"a", 1), (b"b", 2)),
            cursor=(8, b"w" * 32),
        )
    )
    store = opened()
    assert store.load().cursor is None
    state = store.load_wallet()
    assert set(state.set_aside) == {first, second, third}
    assert [coin.place for coin in state.set_aside if coin.holder == b"a"] == [0, 1]
    assert state == WalletState(
        transactions=(confirmed, waiting),
        set_aside=state.set_aside,
        next_receiving=7,
        next_change=3,
        address=6,
        free_indexes=(2, 4),
        change_for=((b"a", 1), (b"b", 2)),
        cursor=(8, b"w" * 32),
    )
    store.write_wallet(
        WalletChanges(
            dropped=(waiting.txid,), released=(b"a",), released_coins=((third.txid, 0),), free_indexes=(), next_change=4
        )
    )
    assert opened().load_wallet() == WalletState(
        transactions=(confirmed,),
        next_receiving=7,
        next_change=4,
        address=6,
        change_for=((b"b", 2),),
        cursor=(8, b"w" * 32),
    )


def test_a_coin_is_never_set_aside_twice(opened: Opened) -> None:
    coin = Txid(b"1" * 32)
    opened().write_wallet(WalletChanges(set_aside=(SetAside(txid=coin, index=0, holder=b"a", place=0),)))
    with pytest.raises(StorageFailed, match="UNIQUE"):
        opened().write_wallet(WalletChanges(set_aside=(SetAside(txid=coin, index=0, holder=b"b", place=0),)))


def test_a_store_of_another_seed_or_network_is_refused(opened: Opened, kit: Any, path: Path) -> None:
    opened().close()
    with pytest.raises(StorageFailed, match="belongs to the network regtest, this node is set to signet"):
        Store.open(path, node_id=kit.node, network="signet")
    with pytest.raises(
        StorageFailed, match=f"belongs to node {kit.node.hex()}, the seed in use makes node {kit.peer.hex()}"
    ):
        Store.open(path, node_id=kit.peer, network="regtest")
    with pytest.raises(StorageFailed, match="belongs to node"):
        Store.open_read_only(path, node_id=kit.peer, network="regtest")
    opened()


def test_a_url_names_the_same_store_as_its_path(opened: Opened, kit: Any, path: Path) -> None:
    opened().commit([StorePayment(payment=kit.payment(1))])
    store = Store.open(f"sqlite:///{path}", node_id=kit.node, network="regtest")
    assert store.load().snapshot.payments == (kit.payment(1),)
    store.close()


def test_the_database_is_for_its_owner_only(opened: Opened, path: Path, kit: Any) -> None:
    before = os.umask(0)
    try:
        opened().commit([StorePayment(payment=kit.payment(1))])
        modes = {name: os.stat(path.parent / name).st_mode & 0o777 for name in os.listdir(path.parent)}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("rrnode.sqlite", "rrnode.sqlite-wal", "rrnode.sqlite-shm"), 384)


def test_a_reader_sees_what_a_running_node_committed_and_cannot_write(opened: Opened, kit: Any, path: Path) -> None:
    store = opened()
    store.commit([StoreChannel(channel=kit.channel(1))])
    reader = Store.open_read_only(path, node_id=kit.node, network="regtest")
    assert reader.load().snapshot.channels == (kit.channel(1),)
    store.commit([StoreChannel(channel=kit.channel(1, number=5))])
    assert reader.load().snapshot.channels == (kit.channel(1, number=5),)
    with pytest.raises(StorageFailed, match="cannot be written to"):
        reader.commit([StoreChannel(channel=kit.channel(2))])
    reader.close()
    store.commit([StoreChannel(channel=kit.channel(1, number=6))])


def test_a_reader_wants_a_store_that_is_there(kit: Any, path: Path) -> None:
    with pytest.raises(StorageFailed, match="cannot be opened"):
        Store.open_read_only(path, node_id=kit.node, network="regtest")
    assert not path.exists()
