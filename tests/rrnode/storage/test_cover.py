"""What a client knows of its watchers: what each lacks, what is due, what is proven. On a real store."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from protocols.channel.events import StoreChannel, StoreRevoked
from protocols.ids import PeerId, Txid
from protocols.units import BlockHeight, Sat
from rrnode.storage import Store, cover, schema
from rrnode.storage.cover import NEVER, CoverStore, Due, Extent, Handed, Proof

ONE, TWO = PeerId(b"\x02" + b"1" * 32), PeerId(b"\x02" + b"2" * 32)
STAKE = Sat(100)
Opened = Callable[..., Store]


def txid(number: int) -> Txid:
    return Txid(number.to_bytes(32, "big"))


def handed(number: int, until: int = 500, stake: int = STAKE) -> Handed:
    return Handed(number=number, digest=bytes([number]) * 32, until=BlockHeight(until), stake=Sat(stake))


def without(number: int, stake: int = STAKE) -> Handed:
    return Handed(number=number, digest=None, until=NEVER, stake=Sat(stake))


PROOF = Proof(until=BlockHeight(500), listed=b"l" * 48, signature=b"s" * 64)


class Scene:
    def __init__(self, opened: Opened, kit: Any) -> None:
        self.store = opened()
        self.channel = kit.channel_id(1)
        self.store.commit(
            [
                StoreChannel(channel=kit.channel(1)),
                *(
                    StoreRevoked(channel_id=self.channel, number=number, txid=txid(number), record=b"r")
                    for number in range(6)
                ),
            ]
        )
        self.cover: CoverStore = self.store.cover()
        self.one, self.two = self.cover.watcher(ONE), self.cover.watcher(TWO)

    def lacks(self, watcher: int, start: int = 0, end: int = 6, limit: int = 10, stake: int = STAKE) -> list[int]:
        found = self.cover.to_do(watcher, self.channel, stake=Sat(stake), start=start, end=end, limit=limit)
        return [each.number for each in found]


@pytest.fixture
def scene(opened: Opened, kit: Any) -> Scene:
    return Scene(opened, kit)


def test_each_watcher_has_one_number_for_ever(scene: Scene) -> None:
    assert scene.one != scene.two
    assert scene.store.cover().watcher(ONE) == scene.one


def test_only_what_is_on_disk_counts_as_revoked(scene: Scene, kit: Any) -> None:
    assert scene.cover.revoked(scene.channel) == 6
    assert scene.cover.revoked(kit.channel_id(2)) == 0


def test_a_watcher_lacks_what_it_was_not_handed_and_gets_the_newest_first(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.cover.note(scene.one, scene.channel, [handed(0), handed(3)], PROOF)
    assert scene.lacks(scene.one) == [5, 4, 2, 1]
    assert scene.lacks(scene.one, start=2, limit=2) == [5, 4]
    assert scene.lacks(scene.one, start=2, end=5) == [4, 2]
    assert scene.lacks(scene.two) == [5, 4, 3, 2, 1, 0]
    monkeypatch.setattr(cover, "WINDOW", 3)
    assert scene.lacks(scene.one) == [5, 4]


def test_a_state_without_a_remedy_is_looked_at_again_when_more_is_at_stake(scene: Scene) -> None:
    scene.cover.note(scene.one, scene.channel, [without(0), *(handed(number) for number in range(1, 6))], PROOF)
    assert scene.lacks(scene.one) == []
    assert scene.lacks(scene.one, stake=STAKE + 1) == [0]
    scene.cover.note(scene.one, scene.channel, [without(0, stake=STAKE + 1)], None)
    assert scene.lacks(scene.one, stake=STAKE + 1) == []


def test_what_ends_first_is_due_first_and_renewed_with_its_proof(scene: Scene) -> None:
    scene.cover.note(scene.one, scene.channel, [handed(0, 300), handed(1, 200), handed(2, 900), without(3)], PROOF)
    due = scene.cover.due(scene.one, BlockHeight(301), 10)
    assert [(each.number, each.txid, each.digest) for each in due] == [
        (1, txid(1), b"\x01" * 32),
        (0, txid(0), bytes(32)),
    ]
    assert scene.cover.due(scene.one, BlockHeight(301), 1) == due[:1]
    scene.cover.renewed(scene.one, due, replace(PROOF, until=BlockHeight(800)))
    assert scene.cover.due(scene.one, BlockHeight(301), 10) == ()
    extents = [scene.cover.extent(each, scene.channel, BlockHeight(0)) for each in (scene.one, scene.two)]
    assert extents == [
        Extent(states=3, newest=2, until=BlockHeight(800), lacks=2),
        Extent(states=0, newest=None, until=None, lacks=6),
    ]


def test_what_a_watcher_need_keep_no_longer_it_does_not_cover(scene: Scene) -> None:
    states = [*(handed(number) for number in range(4)), without(4), handed(5, 400)]
    scene.cover.note(scene.one, scene.channel, states, PROOF)
    extents = [scene.cover.extent(scene.one, scene.channel, BlockHeight(tip)) for tip in (400, 401, 501)]
    assert extents == [
        Extent(states=5, newest=5, until=BlockHeight(400), lacks=0),
        Extent(states=4, newest=3, until=BlockHeight(500), lacks=1),
        Extent(states=0, newest=None, until=None, lacks=5),
    ]


def test_what_a_watcher_dropped_it_lacks_again(scene: Scene) -> None:
    scene.cover.note(scene.one, scene.channel, [handed(number) for number in range(6)], PROOF)
    scene.cover.note(scene.two, scene.channel, [handed(number) for number in range(6)], PROOF)
    some: tuple[Due, ...] = scene.cover.of_channel(scene.one, scene.channel, 2)
    scene.cover.dropped(scene.one, some)
    assert sorted(scene.lacks(scene.one)) == [each.number for each in some]
    assert scene.lacks(scene.two) == []


def test_what_a_watcher_gave_receipts_for_is_read_page_by_page(scene: Scene) -> None:
    scene.cover.note(scene.one, scene.channel, [handed(0, 900), handed(1, 200), without(2), handed(3, 500)], PROOF)
    assert scene.cover.count(scene.one) == 3
    first = scene.cover.handed(scene.one, (0, -1), 2)
    assert [(each.number, each.txid, each.digest, each.until) for each in first] == [
        (0, txid(0), bytes(32), 900),
        (1, txid(1), b"\x01" * 32, 200),
    ]
    rest = scene.cover.handed(scene.one, (first[-1].channel_row, 1), 2)
    assert [each.number for each in rest] == [3]
    assert scene.cover.handed(scene.one, (rest[-1].channel_row, 3), 2) == ()
    assert (scene.cover.count(scene.two), scene.cover.handed(scene.two, (0, -1), 2)) == (0, ())


def test_a_watcher_holds_up_to_the_first_state_that_it_lacks(scene: Scene, kit: Any) -> None:
    def up_to(since: int | None, tip: int = 100) -> int:
        return scene.cover.held_up_to(scene.one, scene.channel, since, BlockHeight(tip))

    assert up_to(None) == 5
    scene.cover.note(scene.one, scene.channel, [handed(5, 300)], PROOF)
    assert (up_to(None), up_to(3), up_to(5), up_to(6)) == (6, 3, 6, 6)
    scene.cover.note(scene.one, scene.channel, [handed(3, 300), without(4)], PROOF)
    assert (up_to(3), up_to(2)) == (6, 2)
    assert (up_to(None, tip=300), up_to(None, tip=301)) == (6, 5)  # to the last block that it promised
    assert scene.cover.held_up_to(scene.two, scene.channel, 6, BlockHeight(100)) == 5  # it lost the newest
    assert scene.cover.held_up_to(scene.one, kit.channel_id(2), None, BlockHeight(100)) == 0


def test_receipts_are_kept_until_what_they_promise_is_past(scene: Scene) -> None:
    def kept() -> int:
        with scene.store._database.reading() as connection:
            return len(connection.execute(schema.watch_receipts.select()).all())

    scene.cover.note(scene.one, scene.channel, [handed(0)], PROOF)
    scene.cover.note(scene.one, scene.channel, [handed(1)], replace(PROOF, until=BlockHeight(501)))
    scene.cover.drop_receipts(BlockHeight(500))
    assert kept() == 2
    scene.cover.drop_receipts(BlockHeight(501))
    assert kept() == 1
