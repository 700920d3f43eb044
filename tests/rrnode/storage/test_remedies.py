"""What a watcher keeps: quotas, expiry, rubbish under a stranger's hint, a disk that is full. On real SQLite files."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocols.ids import PeerId
from protocols.units import BlockHeight
from rrnode.errors import StorageFailed
from rrnode.storage import remedies
from rrnode.storage.remedies import HeldRemedy, NoRoom, RemedyStore

NODE = PeerId(b"\x02" + b"n" * 32)
ALICE, BOB = PeerId(b"\x02" + b"a" * 32), PeerId(b"\x03" + b"b" * 32)
UNTIL = BlockHeight(1000)
SIZE = 184
EACH = 16 + SIZE  # what one counts for

Opened = Callable[..., RemedyStore]


def hint(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()[:16]


def sealed(number: int, size: int = SIZE) -> bytes:
    return (hint(number) * (size // 16 + 1))[:size]


def some(*numbers: int) -> dict[bytes, bytes]:
    return {hint(number): sealed(number) for number in numbers}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Opens (again) the watcher's store of this test."""
    stores: list[RemedyStore] = []

    def open_it(*, most_bytes: int = 10**6, most_per_client: int = 10**5) -> RemedyStore:
        if stores:
            stores[-1].close()
        stores.append(
            RemedyStore.open(
                tmp_path / "watch.sqlite",
                node_id=NODE,
                network="regtest",
                most_bytes=most_bytes,
                most_per_client=most_per_client,
            )
        )
        return stores[-1]

    yield open_it
    for store in stores:
        store.close()


def test_what_was_taken_is_found_by_hint_also_after_a_restart(opened: Opened) -> None:
    store = opened()
    assert store.put(ALICE, UNTIL, some(1, 2)) == 2 * EACH
    for _ in range(2):
        store.fill_filter()
        assert [*store.find(hint(1))] == [sealed(1)]
        assert [*store.find(hint(3))] == []
        assert (store.used_by(ALICE), store.used_by(BOB), store.used_bytes) == (2 * EACH, 0, 2 * EACH)
        store = opened()


def test_what_comes_while_the_filter_is_filled_is_in_it(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened()
    store.put(ALICE, UNTIL, some(1, 2, 3))
    made = remedies.HintFilter

    def meanwhile(expected: int) -> remedies.HintFilter:
        fresh = made(expected)
        add = fresh.add

        def adding(one: bytes) -> None:
            fresh.add = add  # type: ignore[method-assign]
            store.put(BOB, UNTIL, some(9))
            add(one)

        fresh.add = adding  # type: ignore[method-assign]
        return fresh

    monkeypatch.setattr(remedies, "HintFilter", meanwhile)
    store.fill_filter()
    assert [*store.find(hint(9))] == [sealed(9)]


def test_filter_holds_every_page_of_every_client(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedies, "_PAGE", 2)
    store = opened()
    store.put(ALICE, UNTIL, some(1, 2, 3, 4, 5))
    store.put(BOB, UNTIL, some(5, 6))
    store.fill_filter()
    assert [number for number in range(1000) if store.may_have(hint(number))] == [1, 2, 3, 4, 5, 6]


def test_filling_reads_each_hint_once_however_many_one_client_has(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a page would cost what lies before it, and ten million hints the square."""
    monkeypatch.setattr(remedies, "_PAGE", 10)
    store = opened()
    steps = [0]

    def count() -> None:
        steps[0] += 1

    def filling(numbers: range) -> int:
        store.put(ALICE, UNTIL, some(*numbers))
        steps[0] = 0
        store.fill_filter()
        return steps[0]

    with store.database.reading() as connection:
        sqlite = connection.connection.dbapi_connection
    assert sqlite is not None
    sqlite.set_progress_handler(count, 1)
    first = filling(range(200))
    assert first > 200
    assert filling(range(200, 400)) < 2.1 * first


def test_a_client_replaces_its_own_and_nobody_elses(opened: Opened) -> None:
    store = opened()
    store.put(ALICE, UNTIL, some(1))
    assert store.put(BOB, UNTIL, {hint(1): b"r" * 437}) == 453
    assert store.put(BOB, UNTIL, {hint(1): b"s" * SIZE}) == EACH
    assert [*store.find(hint(1))] == [sealed(1), b"s" * SIZE]
    assert store.used_bytes == 2 * EACH


def test_rubbish_under_a_hint_is_read_a_few_at_a_time_and_hides_nothing(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remedies, "_PIECE", 2)
    store = opened()
    for number in range(5):
        store.put(PeerId(b"\x02" + bytes([number]) * 32), UNTIL, {hint(1): bytes([number]) * SIZE})
    assert [*store.find(hint(1))] == [bytes([number]) * SIZE for number in range(5)]


def test_above_a_quota_nothing_at_all_is_taken(opened: Opened) -> None:
    store = opened(most_bytes=3 * EACH, most_per_client=2 * EACH)
    assert store.put(ALICE, UNTIL, some(1, 2, 3)) is NoRoom.CLIENT
    assert store.put(ALICE, UNTIL, some(1, 2)) == 2 * EACH
    assert store.put(ALICE, UNTIL, some(1, 2)) == 2 * EACH  # the same again takes no more room
    assert store.put(BOB, UNTIL, some(4, 5)) is NoRoom.ALL
    assert store.put(BOB, UNTIL, some(4)) == EACH
    assert [*store.find(hint(3)), *store.find(hint(5))] == []


def test_it_is_dropped_when_its_height_is_past_and_not_before(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedies, "_PAGE", 2)
    store = opened()
    store.put(ALICE, BlockHeight(10), some(1, 2, 3))
    store.put(ALICE, BlockHeight(11), some(4))
    assert store.drop_past(BlockHeight(10)) == 0
    assert store.drop_past(BlockHeight(11)) == 3
    assert (store.used_by(ALICE), store.used_bytes) == (EACH, EACH)
    assert store.drop_past(BlockHeight(12)) == 1
    assert opened().used_bytes == 0


def test_renewing_moves_the_height_on_and_never_back(opened: Opened) -> None:
    store = opened()
    store.put(ALICE, BlockHeight(10), some(1, 2))
    digests = [hashlib.sha256(sealed(number)).digest() for number in (2, 1)]
    assert store.renew(ALICE, BlockHeight(20), [hint(2), hint(1)]) == digests
    assert store.renew(ALICE, BlockHeight(15), [hint(2)]) == digests[:1]
    assert store.renew(ALICE, BlockHeight(30), [hint(1), hint(7)]) is None
    assert store.renew(BOB, BlockHeight(30), [hint(1)]) is None
    assert {each.until for each in store.held(ALICE, remedies.NO_HINT, 10)[0]} == {20}


def test_listing_goes_on_where_it_left_off(opened: Opened) -> None:
    store = opened()
    store.put(ALICE, UNTIL, some(1, 2, 3))
    store.put(BOB, UNTIL, some(4))
    mine = sorted(hint(number) for number in (1, 2, 3))
    first, more = store.held(ALICE, remedies.NO_HINT, 2)
    rest, end = store.held(ALICE, first[-1].hint, 2)
    assert (more, end) == (True, False)
    digests = {hint(number): hashlib.sha256(sealed(number)).digest() for number in (1, 2, 3)}
    assert first + rest == [HeldRemedy(hint=each, digest=digests[each], until=UNTIL) for each in mine]


def test_what_is_withdrawn_is_gone_and_frees_its_room(opened: Opened) -> None:
    store = opened()
    store.put(ALICE, UNTIL, some(1, 2))
    store.put(BOB, UNTIL, some(1))
    assert store.withdraw(ALICE, [hint(1), hint(8)]) == EACH
    assert store.withdraw(ALICE, [hint(2)]) == 0
    assert [*store.find(hint(1))] == [sealed(1)]
    assert store.withdraw(BOB, [hint(1)]) == 0
    with store.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM watch_clients").scalar() == 0


def test_a_full_disk_refuses_new_ones_keeps_the_old_and_is_forgotten_when_there_is_room_again(opened: Opened) -> None:
    store = opened()
    store.put(ALICE, UNTIL, some(1))
    with store.database.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    many = {hint(number): sealed(number, 995) for number in range(10, 80)}
    with pytest.raises(StorageFailed, match="the disk is full"):
        store.put(ALICE, UNTIL, many)
    assert (store.used_by(ALICE), store.used_bytes) == (EACH, EACH)
    assert [*store.find(hint(1))] == [sealed(1)]
    with store.database.reading() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 100}")
    assert store.put(ALICE, UNTIL, many) == EACH + 70 * (16 + 995)
