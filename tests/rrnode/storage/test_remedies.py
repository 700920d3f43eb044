"""What a watcher keeps: quotas, expiry, rubbish under a stranger's hint, a disk that is full. On real SQLite files."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from protocols.ids import PeerId
from protocols.units import BlockHeight
from protocols.watch.remedy import SEALED_SIZES
from rrnode.errors import StorageFailed
from rrnode.storage import remedies
from rrnode.storage.remedies import KNOWN_AFTER, HeldRemedy, Known, NoRoom, Quotas, RemedyStore, on_disk

NODE = PeerId(b"\x02" + b"n" * 32)
ALICE, BOB = PeerId(b"\x02" + b"a" * 32), PeerId(b"\x03" + b"b" * 32)
UNTIL = BlockHeight(1000)
SIZE = 184
EACH = 310  # what one counts for: on disk, not on the wire
TIP = BlockHeight(5000)
HERE, THERE = "192.0.0.0/16", "203.0.0.0/16"

Opened = Callable[..., RemedyStore]


def hint(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()[:16]


def sealed(number: int, size: int = SIZE) -> bytes:
    return (hint(number) * (size // 16 + 1))[:size]


def some(*numbers: int) -> dict[bytes, bytes]:
    return {hint(number): sealed(number) for number in numbers}


def put(
    store: RemedyStore,
    client: PeerId,
    until: BlockHeight,
    remedies: dict[bytes, bytes],
    *,
    tip: int = TIP,
    network: str = HERE,
) -> int | NoRoom:
    return store.put(client, until, remedies, tip=BlockHeight(tip), network=network)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Opens (again) the watcher's store of this test."""
    stores: list[RemedyStore] = []

    def open_it(*, free: int = 0, total: int = 10**6, client: int = 10**5, network: int = 10**6) -> RemedyStore:
        if stores:
            stores[-1].close()
        stores.append(
            RemedyStore.open(
                tmp_path / "watch.sqlite",
                node_id=NODE,
                network="regtest",
                quotas=Quotas(total=total, client=client, network=network, free=free),
                directory=tmp_path,
            )
        )
        return stores[-1]

    yield open_it
    for store in stores:
        store.close()


def test_what_was_taken_is_found_by_hint_also_after_a_restart(opened: Opened) -> None:
    store = opened()
    assert put(store, ALICE, UNTIL, some(1, 2)) == 2 * EACH
    for _ in range(2):
        store.fill_filter()
        assert [*store.find(hint(1))] == [sealed(1)]
        assert [*store.find(hint(3))] == []
        assert (store.used_by(ALICE), store.used_by(BOB), store.used_bytes) == (2 * EACH, 0, 2 * EACH)
        store = opened()


def test_what_comes_while_the_filter_is_filled_is_in_it(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened()
    put(store, ALICE, UNTIL, some(1, 2, 3))
    made = remedies.HintFilter

    def meanwhile(expected: int) -> remedies.HintFilter:
        fresh = made(expected)
        add = fresh.add

        def adding(one: bytes) -> None:
            fresh.add = add  # type: ignore[method-assign]
            put(store, BOB, UNTIL, some(9))
            add(one)

        fresh.add = adding  # type: ignore[method-assign]
        return fresh

    monkeypatch.setattr(remedies, "HintFilter", meanwhile)
    store.fill_filter()
    assert [*store.find(hint(9))] == [sealed(9)]


def test_filter_holds_every_page_of_every_client(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedies, "_PAGE", 2)
    store = opened()
    put(store, ALICE, UNTIL, some(1, 2, 3, 4, 5))
    put(store, BOB, UNTIL, some(5, 6))
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
        put(store, ALICE, UNTIL, some(*numbers))
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
    put(store, ALICE, UNTIL, some(1))
    assert put(store, BOB, UNTIL, {hint(1): b"r" * 437}) == on_disk(437)
    assert put(store, BOB, UNTIL, {hint(1): b"s" * SIZE}) == EACH
    assert [*store.find(hint(1))] == [sealed(1), b"s" * SIZE]
    assert store.used_bytes == 2 * EACH


def test_rubbish_under_a_hint_is_read_a_few_at_a_time_and_hides_nothing(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remedies, "_PIECE", 2)
    store = opened()
    for number in range(5):
        put(store, PeerId(b"\x02" + bytes([number]) * 32), UNTIL, {hint(1): bytes([number]) * SIZE})
    assert [*store.find(hint(1))] == [bytes([number]) * SIZE for number in range(5)]


def test_above_a_quota_nothing_at_all_is_taken(opened: Opened) -> None:
    store = opened(total=4 * EACH, client=2 * EACH)
    assert put(store, ALICE, UNTIL, some(1, 2, 3)) is NoRoom.CLIENT
    assert put(store, ALICE, UNTIL, some(1, 2)) == 2 * EACH
    assert put(store, ALICE, UNTIL, some(1, 2)) == 2 * EACH  # the same again takes no more room
    assert put(store, BOB, UNTIL, some(4, 5)) is NoRoom.NEWCOMER
    assert put(store, BOB, UNTIL, some(4)) == EACH
    assert [*store.find(hint(3)), *store.find(hint(5))] == []


def test_the_last_quarter_of_the_room_is_for_clients_that_have_been_here_for_long(opened: Opened) -> None:
    store = opened(total=4 * EACH)
    put(store, ALICE, UNTIL, some(1))
    assert put(store, BOB, UNTIL, some(2, 3), tip=TIP + KNOWN_AFTER) == 2 * EACH
    assert put(store, ALICE, UNTIL, some(4), tip=TIP + KNOWN_AFTER - 1) is NoRoom.NEWCOMER
    assert put(store, BOB, UNTIL, some(4), tip=TIP + KNOWN_AFTER) is NoRoom.NEWCOMER
    assert put(store, ALICE, UNTIL, some(4), tip=TIP + KNOWN_AFTER) == 2 * EACH
    assert put(store, ALICE, UNTIL, some(5), tip=TIP + KNOWN_AFTER) is NoRoom.ALL


def test_newcomers_leave_known_clients_of_their_network_a_quarter_of_its_room(opened: Opened) -> None:
    store = opened(network=4 * EACH)
    put(store, ALICE, UNTIL, some(1))
    assert put(store, BOB, UNTIL, some(2, 3), tip=TIP + KNOWN_AFTER) == 2 * EACH
    assert put(store, BOB, UNTIL, some(4), tip=TIP + KNOWN_AFTER) is NoRoom.NEWCOMER
    assert put(store, BOB, UNTIL, some(2), tip=TIP + KNOWN_AFTER) == 2 * EACH
    assert put(store, ALICE, UNTIL, some(4), tip=TIP + KNOWN_AFTER) == 2 * EACH
    assert put(store, ALICE, UNTIL, some(5), tip=TIP + KNOWN_AFTER) is NoRoom.NETWORK


def test_a_client_that_had_nothing_left_begins_anew(opened: Opened) -> None:
    store = opened(total=4 * EACH)
    put(store, ALICE, UNTIL, some(1))
    assert store.known(ALICE) == Known(number=1, used=EACH, since=TIP, network=HERE)
    store.withdraw(ALICE, [hint(1)])
    assert store.known(ALICE) is None
    put(store, ALICE, UNTIL, some(1), tip=TIP + 7, network=THERE)
    assert store.known(ALICE) == Known(number=2, used=EACH, since=TIP + 7, network=THERE)


def test_all_keys_of_a_network_share_its_room_and_leave_that_of_others(opened: Opened) -> None:
    store = opened(network=4 * EACH)
    strangers = [PeerId(b"\x02" + bytes([number]) * 32) for number in range(4)]
    taken = [put(store, each, UNTIL, some(1), network=HERE) for each in strangers]
    assert taken == [EACH, EACH, EACH, NoRoom.NEWCOMER]
    assert put(store, ALICE, UNTIL, some(1), network=THERE) == EACH
    assert (
        put(store, strangers[0], UNTIL, some(2), network=THERE) is NoRoom.NEWCOMER
    )  # it counts where it came from first
    store.withdraw(strangers[0], [hint(1)])
    assert put(store, strangers[3], BlockHeight(10), some(1), network=HERE) == EACH
    store = opened(network=4 * EACH)
    assert put(store, BOB, UNTIL, some(1), network=HERE) is NoRoom.NEWCOMER
    store.drop_past(BlockHeight(11))
    assert put(store, BOB, UNTIL, some(1), network=HERE) == EACH


def test_of_networks_that_have_nothing_left_nothing_is_left(opened: Opened) -> None:
    store = opened()
    put(store, ALICE, BlockHeight(10), some(1), network=HERE)
    put(store, BOB, UNTIL, some(1), network=THERE)
    store.withdraw(BOB, [hint(1)])
    store.drop_past(BlockHeight(11))
    with store.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM watch_networks").scalar() == 0


def unplugged(_: Path) -> None:
    raise OSError("no such device")


def test_below_the_floor_of_free_space_nothing_more_is_taken_and_all_else_goes_on(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [1000]
    monkeypatch.setattr(remedies.shutil, "disk_usage", lambda _: SimpleNamespace(free=left[0]))
    store = opened(free=1000)
    assert put(store, ALICE, UNTIL, some(1)) == EACH
    left[0] = 999
    assert put(store, ALICE, UNTIL, some(2)) is NoRoom.DISK
    with monkeypatch.context() as gone:
        gone.setattr(remedies.shutil, "disk_usage", unplugged)
        assert put(store, ALICE, UNTIL, some(2)) is NoRoom.DISK
    assert put(store, ALICE, UNTIL, some(1)) == EACH  # takes no more room
    assert store.renew(ALICE, BlockHeight(2000), [hint(1)]) is not None
    assert store.withdraw(ALICE, [hint(1)]) == 0


@pytest.mark.parametrize("size", SEALED_SIZES)
def test_what_is_counted_is_what_the_disk_takes(opened: Opened, tmp_path: Path, size: int) -> None:
    store, count = opened(total=10**9, client=10**9, network=10**9), max(100, 1_000_000 // size)

    def taken() -> int:
        store.close()
        return sum(each.stat().st_size for each in tmp_path.glob("watch.sqlite*"))

    before = taken()
    store = opened(total=10**9, client=10**9, network=10**9)
    for start in range(0, count, 100):
        put(store, ALICE, UNTIL, {hint(each): sealed(each, size) for each in range(start, start + 100)})
    counted = store.used_bytes
    assert 0.7 * counted < taken() - before < 1.05 * counted


def test_it_is_dropped_when_its_height_is_past_and_not_before(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedies, "_PAGE", 2)
    store = opened()
    put(store, ALICE, BlockHeight(10), some(1, 2, 3))
    put(store, ALICE, BlockHeight(11), some(4))
    assert store.drop_past(BlockHeight(10)) == 0
    assert store.drop_past(BlockHeight(11)) == 3
    assert (store.used_by(ALICE), store.used_bytes) == (EACH, EACH)
    assert store.drop_past(BlockHeight(12)) == 1
    assert opened().used_bytes == 0


def test_renewing_moves_the_height_on_and_never_back(opened: Opened) -> None:
    store = opened()
    put(store, ALICE, BlockHeight(10), some(1, 2))
    digests = [hashlib.sha256(sealed(number)).digest() for number in (2, 1)]
    assert store.renew(ALICE, BlockHeight(20), [hint(2), hint(1)]) == digests
    assert store.renew(ALICE, BlockHeight(15), [hint(2)]) == digests[:1]
    assert store.renew(ALICE, BlockHeight(30), [hint(1), hint(7)]) is None
    assert store.renew(BOB, BlockHeight(30), [hint(1)]) is None
    assert {each.until for each in store.held(ALICE, remedies.NO_HINT, 10)[0]} == {20}


def test_listing_goes_on_where_it_left_off(opened: Opened) -> None:
    store = opened()
    put(store, ALICE, UNTIL, some(1, 2, 3))
    put(store, BOB, UNTIL, some(4))
    mine = sorted(hint(number) for number in (1, 2, 3))
    first, more = store.held(ALICE, remedies.NO_HINT, 2)
    rest, end = store.held(ALICE, first[-1].hint, 2)
    assert (more, end) == (True, False)
    digests = {hint(number): hashlib.sha256(sealed(number)).digest() for number in (1, 2, 3)}
    assert first + rest == [HeldRemedy(hint=each, digest=digests[each], until=UNTIL) for each in mine]


def test_what_is_withdrawn_is_gone_and_frees_its_room(opened: Opened) -> None:
    store = opened()
    put(store, ALICE, UNTIL, some(1, 2))
    put(store, BOB, UNTIL, some(1))
    assert store.withdraw(ALICE, [hint(1), hint(8)]) == EACH
    assert store.withdraw(ALICE, [hint(2)]) == 0
    assert [*store.find(hint(1))] == [sealed(1)]
    assert store.withdraw(BOB, [hint(1)]) == 0
    with store.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM watch_clients").scalar() == 0


def test_a_full_disk_refuses_new_ones_keeps_the_old_and_is_forgotten_when_there_is_room_again(opened: Opened) -> None:
    store = opened(client=10**6)
    put(store, ALICE, UNTIL, some(1))
    with store.database.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    many = {hint(number): sealed(number, 995) for number in range(10, 80)}
    with pytest.raises(StorageFailed, match="the disk is full"):
        put(store, ALICE, UNTIL, many)
    assert (store.used_by(ALICE), store.used_bytes) == (EACH, EACH)
    assert [*store.find(hint(1))] == [sealed(1)]
    with store.database.reading() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 200}")
    assert put(store, ALICE, UNTIL, many) == EACH + 70 * on_disk(995)
