"""What a mailbox keeps: quotas of payees, networks and the whole, pushing out, what is told of it, a disk that is full. On
real SQLite files."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocols.ids import PeerId
from protocols.units import UnixTime
from protocols.wire.init import DeliveryCode
from rrnode.errors import StorageFailed
from rrnode.storage import mails
from rrnode.storage.mails import PUSHED_OUT, Ended, KeptMail, MailLimits, MailStore, NoRoom, Page, Waiting

NODE = PeerId(b"\x02" + b"n" * 32)
ALICE, BOB = PeerId(b"\x02" + b"a" * 32), PeerId(b"\x03" + b"b" * 32)
NOW = UnixTime(1_700_000_000)
LIMITS = MailLimits(seconds=1000, per_payee=8, total=40)  # so 2 of one network for one payee, and 2 in all
WAITING = Waiting(until=UnixTime(NOW + 1000))
TAKEN = Ended(code=0, reason="")

Opened = Callable[..., MailStore]


def sealed(number: int) -> bytes:
    return number.to_bytes(512, "big")


def digest(number: int) -> bytes:
    return hashlib.sha256(sealed(number)).digest()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Opens (again) the mailboxes of this test."""
    stores: list[MailStore] = []

    def open_it(limits: MailLimits = LIMITS) -> MailStore:
        if stores:
            stores[-1].close()
        stores.append(MailStore.open(tmp_path / "mail.sqlite", node_id=NODE, network="regtest", limits=limits))
        return stores[-1]

    yield open_it
    for store in stores:
        store.close()


def fill(store: MailStore, payee: PeerId, networks: str, first: int = 1) -> list[Waiting | Ended | NoRoom]:
    """One mail from each of these networks, numbered on from `first`."""
    return [store.put(payee, sealed(first + place), network, NOW) for place, network in enumerate(networks)]


def waiting(store: MailStore, payee: PeerId) -> list[int]:
    """The numbers that were given to `sealed`."""
    return [int.from_bytes(each.sealed, "big") for each in store.fetch(payee, 0, 1000).mails]


def test_what_was_kept_is_there_after_a_restart_for_its_payee_alone(opened: Opened) -> None:
    store = opened()
    assert fill(store, ALICE, "ab") == [WAITING] * 2
    assert store.put(BOB, sealed(3), "a", UnixTime(NOW + 5)) == Waiting(until=UnixTime(NOW + 1005))
    store = opened()
    first = KeptMail(number=1, stored=NOW, sealed=sealed(1))
    second = KeptMail(number=2, stored=NOW, sealed=sealed(2))
    assert store.fetch(ALICE, 0, 10) == Page(mails=(first, second))
    assert store.fetch(ALICE, 0, 1) == Page(mails=(first,), more=True)
    assert store.fetch(ALICE, 1, 1) == Page(mails=(second,))
    assert waiting(store, BOB) == [3]
    assert store.waiting == 3


def test_the_same_is_kept_once_and_what_became_of_it_is_told(opened: Opened) -> None:
    store = opened()
    assert fill(store, ALICE, "a") + fill(store, ALICE, "b") == [WAITING] * 2
    assert waiting(store, ALICE) == [1]
    assert store.status(ALICE, digest(1)) == WAITING
    assert store.status(ALICE, digest(2)) is None
    assert store.status(BOB, digest(1)) is None
    refused = Ended(code=DeliveryCode.REFUSED, reason="no such request")
    store.acknowledge(ALICE, [(1, refused)], 0, 0)
    for reopen in (lambda: store, opened):
        again = reopen()
        assert (again.status(ALICE, digest(1)), again.fetch(ALICE, 0, 10), again.waiting) == (refused, Page(), 0)
        assert fill(again, ALICE, "a") == [refused]


def test_nobody_acknowledges_anothers_mail_or_twice(opened: Opened) -> None:
    store = opened()
    fill(store, ALICE, "a")
    store.acknowledge(BOB, [(1, TAKEN)], 0, 0)
    assert waiting(store, ALICE) == [1]
    store.acknowledge(ALICE, [(1, TAKEN), (77, TAKEN)], 0, 0)
    store.acknowledge(ALICE, [(1, Ended(code=4, reason="changed my mind"))], 0, 0)
    assert store.status(ALICE, digest(1)) == TAKEN
    assert store.waiting == 0


def test_one_network_has_its_share_of_a_mailbox_and_of_the_whole(opened: Opened) -> None:
    store = opened()
    assert fill(store, ALICE, "aaa") == [WAITING, WAITING, NoRoom.NETWORK]
    assert fill(store, BOB, "a") == [NoRoom.NETWORK]
    assert fill(store, BOB, "b", 4) == [WAITING]
    assert [store.fetch(each, 0, 0).turned_away for each in (ALICE, BOB)] == [1, 1]


def test_in_a_full_mailbox_who_stuffs_it_pushes_out_its_own(opened: Opened) -> None:
    store = opened(MailLimits(seconds=1000, per_payee=8, total=1000))
    assert fill(store, ALICE, "aabbccdd") == [WAITING] * 8
    assert store.put(ALICE, sealed(9), "e", NOW) == WAITING
    assert waiting(store, ALICE) == [1, 3, 4, 5, 6, 7, 8, 9]
    assert store.status(ALICE, digest(2)) == Ended(code=DeliveryCode.FULL, reason=PUSHED_OUT)
    assert store.fetch(ALICE, 0, 0).turned_away == 1
    assert fill(store, ALICE, "fgh", 10) == [WAITING] * 3  # the other stuffers' seconds go
    assert waiting(store, ALICE) == [1, 3, 5, 7, 9, 10, 11, 12]
    assert fill(store, ALICE, "iiaa", 13) == [NoRoom.MAILBOX] * 4
    assert waiting(store, ALICE) == [1, 3, 5, 7, 9, 10, 11, 12], "the only one of a network stays"
    assert store.fetch(ALICE, 0, 0).turned_away == 8
    assert store.waiting == 8


def test_a_full_server_makes_room_likewise(opened: Opened) -> None:
    store = opened(MailLimits(seconds=1000, per_payee=100, total=40))
    payees = [PeerId(b"\x02" + bytes([number]) * 32) for number in range(40)]
    for number, payee in enumerate(payees):
        assert store.put(payee, sealed(number), str(number // 2), NOW) == WAITING
    assert store.put(ALICE, sealed(100), "x", NOW) == WAITING
    assert store.waiting == 40
    lost = [payee for payee in payees if store.fetch(payee, 0, 0).turned_away]
    assert [waiting(store, payee) for payee in lost] == [[]]
    assert store.put(ALICE, sealed(101), "x", NOW) == NoRoom.SERVER
    store = opened(MailLimits(seconds=1000, per_payee=100, total=40))
    assert (store.waiting, store.put(ALICE, sealed(101), "x", NOW)) == (40, NoRoom.SERVER)


def test_a_payee_is_told_what_it_missed_until_it_says_that_it_knows(opened: Opened) -> None:
    store = opened()
    fill(store, ALICE, "aaa")
    assert store.drop_past(UnixTime(NOW + 999)) == 0
    assert store.drop_past(UnixTime(NOW + 1000)) == 2
    for reopen in (lambda: store, opened):
        again = reopen()
        assert again.fetch(ALICE, 0, 10) == Page(turned_away=1, expired=2)
        assert again.status(ALICE, digest(1)) is None
    store = opened()
    store.acknowledge(ALICE, [], 1, 1)
    assert store.fetch(ALICE, 0, 10) == Page(expired=1)
    store.acknowledge(ALICE, [], 9, 9)
    assert store.fetch(ALICE, 0, 10) == Page()
    assert store.waiting == 0


def test_what_is_remembered_of_the_past_is_bounded_and_ends(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mails, "_PAGE", 3)
    store = opened()
    for number in range(1, 30):
        fill(store, ALICE, "a", number)
        store.acknowledge(ALICE, [(number, TAKEN)], 0, 0)
    known = [number for number in range(1, 30) if store.status(ALICE, digest(number)) is not None]
    assert known == list(range(22, 30))
    assert store.drop_past(UnixTime(NOW + 1000)) == 0
    assert not any(store.status(ALICE, digest(number)) for number in range(1, 30))
    with store._database.reading() as connection:
        for table in ("mails", "mailboxes"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0


def test_a_full_disk_keeps_nothing_new_and_loses_nothing_and_goes_on_once_there_is_room(opened: Opened) -> None:
    store = opened(MailLimits(seconds=1000, per_payee=1000, total=1000))
    fill(store, ALICE, "ab")
    with store._database.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    kept = 2
    with pytest.raises(StorageFailed, match="disk is full"):  # noqa: PT012 (which one fails depends on the page size)
        for number in range(3, 100):
            store.put(ALICE, sealed(number), str(number), NOW)
            kept += 1
    assert store.waiting == kept
    assert len(waiting(store, ALICE)) == kept
    with store._database.reading() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 100000")
    assert store.put(ALICE, sealed(500), "z", NOW) == WAITING
    assert store.waiting == kept + 1
