"""One payment looked up in a database: its rows and its lines of the journal, and nothing of others; nothing is written."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocols.channel.events import Flush, MessageReceived, TipChanged
from protocols.payment.carrying import CARRY
from protocols.payment.events import (
    DropForward,
    LockRequested,
    OffersFound,
    StoreForward,
    StorePayment,
    StorePromise,
)
from protocols.units import Msat
from protocols.wire.channel import RevokeAndAck, UpdateAddHtlc, UpdateFailHtlc, UpdateFulfillHtlc
from rrnode.errors import StorageFailed
from rrnode.storage import Store, history
from rrnode.storage.history import History, PaymentHistory

Opened = Callable[..., Store]


@pytest.fixture
def look(path: Path) -> Iterator[Callable[[], History]]:
    """Opens the database of this test to look into it."""
    found: list[History] = []

    def open_it() -> History:
        found.append(History.open(path))
        return found[-1]

    yield open_it
    for each in found:
        each.close()


def came(kit: Any, message: Any) -> MessageReceived:
    return MessageReceived(peer=kit.peer, message=message)


def test_a_payment_is_found_with_the_lines_of_its_htlcs(
    opened: Opened, look: Callable[[], History], kit: Any, line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_PAGE", 3)
    payment = kit.payment(1)
    payment = replace(payment, attempts=(replace(payment.attempts[0], htlc_id=7),))
    one, other = kit.channel_id(1), kit.channel_id(2)
    fail, settle = UpdateFailHtlc(one, 7, 6), UpdateFulfillHtlc(one, 7, b"q" * 32)
    events = [
        LockRequested(payment_hash=kit.hash(1)),
        OffersFound(reference=b"pay" + kit.hash(1), offers=()),
        OffersFound(reference=b"pay" + kit.hash(2), offers=()),
        Flush(),
        came(kit, UpdateFailHtlc(one, 8, 6)),
        came(kit, UpdateFailHtlc(other, 7, 6)),
        came(kit, RevokeAndAck(one, b"s" * 32, kit.peer)),
        came(kit, fail),
        TipChanged(),
        came(kit, settle),
    ]
    opened().commit(
        [StorePayment(payment=payment), StorePayment(payment=kit.payment(2))],
        [line(event, n) for n, event in enumerate(events)],
    )
    found = look().of(kit.hash(1))
    assert (found.payment, found.promise, found.forwards, found.ended) == (payment, None, (), ())
    assert [(row.seq, row.event, row.facts) for row in found.lines] == [
        (seq, events[seq - 1], kit.facts(seq - 1)) for seq in (1, 2, 8, 10)
    ]


def test_what_passed_through_is_found_live_and_ended(
    opened: Opened, look: Callable[[], History], kit: Any, line: Any
) -> None:
    store = opened()
    live, over = kit.forward(1), kit.forward(2, payment_hash=kit.hash(1), tried=(), preimage=b"q" * 32)
    added = came(kit, UpdateAddHtlc(kit.channel_id(1), 1, 9_000, kit.hash(1), 900))
    asked = OffersFound(reference=CARRY + kit.channel_id(1) + (1).to_bytes(8, "big"), offers=())
    foreign = OffersFound(reference=CARRY + kit.channel_id(1) + (2).to_bytes(8, "big"), offers=())
    store.commit(
        [StoreForward(forward=each) for each in (live, over, kit.forward(3))],
        [line(added, 0), line(asked, 1), line(foreign, 2)],
    )
    store.commit([DropForward(incoming=over.incoming, earned=Msat(5))], [line(Flush(), 9)])
    found = look().of(kit.hash(1))
    assert found.forwards == (live,)
    assert [(each.forward, each.earned, each.at) for each in found.ended] == [(over, 5, kit.facts(9).now)]
    assert [row.event for row in found.lines] == [added, asked]


def test_a_promise_is_found_and_an_unknown_hash_is_nothing(
    opened: Opened, look: Callable[[], History], kit: Any
) -> None:
    opened().commit([StorePromise(promise=kit.promise(4))])
    looking = look()
    assert looking.of(kit.hash(4)).promise == kit.promise(4)
    assert looking.of(kit.hash(5)) == PaymentHistory(payment=None, promise=None, forwards=(), ended=(), lines=())
    assert (looking.node_id, looking.network) == (kit.node, "regtest")


def test_the_lines_of_one_payment_are_bounded(
    opened: Opened, look: Callable[[], History], kit: Any, line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_LINES", 3)
    opened().commit([], [line(LockRequested(payment_hash=kit.hash(1)), n) for n in range(5)])
    assert [row.seq for row in look().of(kit.hash(1)).lines] == [1, 2, 3]


def test_it_looks_beside_a_running_node_and_holds_nothing_up(
    opened: Opened, look: Callable[[], History], kit: Any
) -> None:
    store = opened()
    store.commit([StorePayment(payment=kit.payment(1))])
    looking = look()
    assert looking.of(kit.hash(1)).payment == kit.payment(1)
    store.commit([StorePayment(payment=kit.payment(2))])
    assert looking.of(kit.hash(2)).payment == kit.payment(2)


def test_what_is_no_database_of_a_node_is_refused(opened: Opened, look: Callable[[], History], path: Path) -> None:
    with pytest.raises(StorageFailed, match="cannot be opened"):
        look()
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StorageFailed, match="no database"):
        look()
    path.unlink()
    opened().close()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM meta")
    with pytest.raises(StorageFailed, match="belongs to no node yet"):
        look()
