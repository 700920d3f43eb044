"""`/rr/watch/1` as a watcher serves it, over memory hosts and a real store: clients that behave, and floods of rubbish."""

import hashlib
from collections.abc import AsyncIterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import trio
from services_kit import GENESIS, Net, ended, until
from trio.testing import MockClock

from protocols.ids import PeerId
from protocols.units import AssetId, BlockDelta, BlockHeight
from protocols.watch import receipt
from protocols.wire.watch import (
    CODEC,
    PROTOCOL,
    HandOver,
    Held,
    Holdings,
    List,
    Receipt,
    RefusalCode,
    Refused,
    Renew,
    SealedRemedy,
    Stop,
    Terms,
    Withdraw,
    Withdrawn,
)
from rrnode.host.base import FrameStream
from rrnode.host.memory import MemoryHost
from rrnode.host.peer_text import peer_of
from rrnode.services import watching
from rrnode.services.watching import WatchServer
from rrnode.storage.remedies import Quotas, RemedyStore

SECRET = b"\x41" * 32
TIP, KEEP, ROOM = BlockHeight(500), BlockDelta(1000), 5 * 310 + 200
EACH = 310  # bytes on disk
FIRST = bytes(16)


def remedy(number: int, size: int = 184) -> SealedRemedy:
    return SealedRemedy(hashlib.sha256(bytes([number])).digest()[:16], bytes([number]) * size)


def listed(*numbers: int) -> list[receipt.Kept]:
    return [(each.hint, hashlib.sha256(each.sealed).digest()) for each in map(remedy, numbers)]


@pytest.fixture
def leaping_clock() -> MockClock:
    return MockClock(autojump_threshold=0.02)


class Scene:
    """A watcher, and clients that talk to it by hand."""

    def __init__(self, net: Net, host: MemoryHost, store: RemedyStore) -> None:
        self.net, self.host, self.store = net, host, store
        self.tip = TIP
        self.server = WatchServer(
            host=host,
            store=store,
            secret=SECRET,
            network=AssetId(GENESIS),
            height=lambda: self.tip,
            keep=KEEP,
            most=2,
        )

    async def client(self, number: int) -> tuple[PeerId, FrameStream]:
        host = await self.net.host(number)
        await self.net.link(host, self.host)
        return host.peer_id, await host.open_stream(self.host.peer_id, PROTOCOL)


@pytest.fixture
async def scene(net: Net, tmp_path: Path) -> AsyncIterator[Scene]:
    host = await net.host(0)
    store = RemedyStore.open(
        tmp_path / "watch.sqlite",
        node_id=host.peer_id,
        network="regtest",
        quotas=Quotas(total=10 * ROOM, client=ROOM, network=10 * ROOM),
    )
    made = Scene(net, host, store)
    net.spawn(made.server)
    yield made
    store.close()


async def hear(stream: FrameStream) -> Any:
    with trio.fail_after(20):
        return CODEC.decode(await stream.receive())


async def ask(stream: FrameStream, request: Any) -> Any:
    await stream.send(CODEC.encode(request))
    return await hear(stream)


async def test_remedies_are_taken_against_a_receipt_that_proves_it(scene: Scene) -> None:
    client, stream = await scene.client(1)
    assert await hear(stream) == Terms(TIP, KEEP, ROOM, 0)
    answer = await ask(stream, HandOver(7, 900, (remedy(1), remedy(2))))
    signed = receipt.sign(SECRET, AssetId(GENESIS), client, BlockHeight(900), listed(1, 2))
    assert answer == Receipt(7, 900, 2 * EACH, signed)
    assert [*scene.store.find(remedy(1).hint)] == [remedy(1).sealed]


async def test_the_same_again_has_the_same_effect_as_once(scene: Scene) -> None:
    _, stream = await scene.client(1)
    await hear(stream)
    request = HandOver(7, 900, (remedy(1),))
    assert await ask(stream, request) == await ask(stream, request)


async def test_after_a_break_everything_is_still_there(scene: Scene) -> None:
    _, stream = await scene.client(1)
    await hear(stream)
    await ask(stream, HandOver(1, 900, (remedy(1), remedy(2))))
    stream.reset()
    host = next(iter(scene.net._scopes.keys() - {scene.host}))
    again = await host.open_stream(scene.host.peer_id, PROTOCOL)
    assert await hear(again) == Terms(TIP, KEEP, ROOM, 2 * EACH)
    held = tuple(Held(hint, digest, 900) for hint, digest in sorted(listed(1, 2)))
    assert await ask(again, List(2, FIRST)) == Holdings(2, held, False)


async def test_nothing_is_kept_for_longer_than_the_terms_say(scene: Scene) -> None:
    _, stream = await scene.client(1)
    await hear(stream)
    answer = await ask(stream, HandOver(1, 2**32 - 1, (remedy(1),)))
    assert answer.until == TIP + KEEP
    scene.tip = BlockHeight(TIP + KEEP)
    scene.server.tip_changed()
    renewed = await ask(stream, Renew(2, scene.tip + 50, (remedy(1).hint,)))
    assert (renewed.request, renewed.until, renewed.used_bytes) == (2, scene.tip + 50, EACH)
    scene.tip = BlockHeight(scene.tip + 51)
    scene.server.tip_changed()
    await until(lambda: scene.store.used_bytes == 0)
    missing = await ask(stream, Renew(3, scene.tip + 50, (remedy(1).hint,)))
    assert (missing.request, missing.code) == (3, RefusalCode.NOT_HELD)


async def test_a_client_is_granted_more_the_longer_it_has_been_coming_back(scene: Scene) -> None:
    scene.server._keep = BlockDelta(10_000)
    _, stream = await scene.client(1)
    assert (await hear(stream)).most_blocks == watching.KEPT_AT_FIRST
    most = 2**32 - 1
    assert (await ask(stream, HandOver(1, most, (remedy(1),)))).until == TIP + watching.KEPT_AT_FIRST
    granted = []
    for age in (1008, 1009, 4999, 5001):
        scene.tip = BlockHeight(TIP + age)
        granted.append((await ask(stream, Renew(2, most, (remedy(1).hint,)))).until - scene.tip)
    assert granted == [2016, 2018, 9998, 10_000]
    _, other = await scene.client(2)
    assert (await hear(other)).most_blocks == watching.KEPT_AT_FIRST


@pytest.mark.parametrize(
    ("quotas", "code", "reason"),
    [
        (Quotas(total=9999, client=309, network=9999), RefusalCode.OVER_QUOTA, "this client's bytes are used up"),
        (
            Quotas(total=9999, client=9999, network=309),
            RefusalCode.FULL,
            "the room for clients of this network is used up",
        ),
        (Quotas(total=309, client=9999, network=9999), RefusalCode.FULL, "the watcher's own room is used up"),
        (
            Quotas(total=400, client=9999, network=9999),
            RefusalCode.FULL,
            "what room is left is for clients that have been here for longer",
        ),
        (
            Quotas(total=9999, client=9999, network=9999, free=1),
            RefusalCode.FULL,
            "the watcher's disk is nearly full",
        ),
    ],
)
async def test_a_refusal_says_which_room_is_used_up(scene: Scene, quotas: Quotas, code: int, reason: str) -> None:
    scene.store.quotas, scene.store._free = quotas, lambda: 0
    _, stream = await scene.client(1)
    await hear(stream)
    assert await ask(stream, HandOver(1, 900, (remedy(1),))) == Refused(1, code, reason)


async def test_what_is_withdrawn_makes_room(scene: Scene) -> None:
    _, stream = await scene.client(1)
    await hear(stream)
    await ask(stream, HandOver(1, 900, tuple(map(remedy, range(5)))))
    assert (await ask(stream, HandOver(2, 900, (remedy(9),)))).code == RefusalCode.OVER_QUOTA
    assert await ask(stream, Withdraw(3, (remedy(1).hint, remedy(77).hint))) == Withdrawn(3, 4 * EACH)
    assert isinstance(await ask(stream, HandOver(4, 900, (remedy(9),))), Receipt)


@pytest.mark.parametrize(
    "request_",
    [
        HandOver(1, TIP - 1, (remedy(1),)),
        HandOver(1, 900, (remedy(1), remedy(1))),
        HandOver(1, 900, (remedy(2), remedy(1, 185))),
        Renew(1, 900, (remedy(1).hint, remedy(1).hint)),
    ],
)
async def test_bad_request_is_refused_whole_and_the_stream_goes_on(scene: Scene, request_: Any) -> None:
    _, stream = await scene.client(1)
    await hear(stream)
    answer = await ask(stream, request_)
    assert (answer.request, answer.code) == (1, RefusalCode.BAD_REQUEST)
    assert await ask(stream, List(2, FIRST)) == Holdings(2, (), False)


async def test_a_flood_of_small_requests_is_cut_before_it_reaches_the_disk(scene: Scene) -> None:
    _, stream = await scene.client(1)
    await hear(stream)
    answers = [await ask(stream, HandOver(number, 900, (remedy(1),))) for number in range(150)]
    refused = [each for each in answers if isinstance(each, Refused)]
    assert {each.code for each in refused} == {RefusalCode.TOO_FAST}
    assert len(refused) >= 150 - watching.REQUESTS_AT_ONCE - 40


async def test_a_flood_from_many_addresses_leaves_a_client_of_another_network_its_turn(
    leaping_clock: MockClock, scene: Scene
) -> None:
    addresses = cycle(f"/ip6/2001:db8:{number:x}::1/tcp/5" for number in range(2000))
    stranger = scene.host.peer_id

    async def flood() -> None:
        for _ in range(4000):  # of others who came before
            scene.server._requests.take(next(addresses), stranger)
        while True:
            for _ in range(10):
                scene.server._requests.take(next(addresses), stranger)
            await trio.sleep(0.004)  # the total earns one in 0.005

    _, stream = await scene.client(1)
    await hear(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        answers = [await ask(stream, HandOver(number, 900, (remedy(1),))) for number in range(8)]
        nursery.cancel_scope.cancel()
    assert [type(each) for each in answers] == [Receipt] * 8


async def test_a_full_disk_is_told_and_the_stream_goes_on(scene: Scene) -> None:
    _, stream = await scene.client(1)
    await hear(stream)
    scene.store.quotas = Quotas(total=10**6, client=10**6, network=10**6)
    with scene.store.database.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    large = tuple(remedy(number, 3227) for number in range(10))
    answer = await ask(stream, HandOver(1, 900, large))
    assert (answer.request, answer.code) == (1, RefusalCode.FULL)
    with scene.store.database.reading() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 100}")
    assert isinstance(await ask(stream, HandOver(2, 900, large)), Receipt)


async def test_one_client_too_many_drives_out_the_one_that_asked_for_nothing_longest(scene: Scene) -> None:
    (_, first), (_, second) = await scene.client(1), await scene.client(2)
    assert isinstance(await hear(first), Terms)
    assert isinstance(await hear(second), Terms)
    await ask(first, List(1, FIRST))
    _, third = await scene.client(3)
    assert isinstance(await hear(third), Terms)
    await ended(second)
    assert isinstance(await ask(first, List(2, FIRST)), Holdings)


async def test_strangers_of_one_network_cannot_drive_out_all_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    strangers = [peer_of(scene.net.secret(number)) for number in (2, 3, 4, 5)]
    monkeypatch.setattr(watching, "one_network", lambda _address, peer: peer in strangers)
    scene.server._most = 2 * watching.SHARE_OF_ONE_NETWORK
    _, first = await scene.client(1)
    await hear(first)
    for number in (2, 3, 4, 5):
        _, stream = await scene.client(number)
        assert isinstance(await hear(stream), Terms if number in (2, 3) else Stop)
    assert isinstance(await ask(first, List(1, FIRST)), Holdings)


@pytest.mark.parametrize("message", [Withdrawn(1, 0), Receipt(1, 1, 1, bytes(64)), None])
async def test_what_is_no_request_ends_the_stream_and_nothing_else(scene: Scene, message: Any) -> None:
    _, stream = await scene.client(1)
    await hear(stream)
    await stream.send(b"\x93\x01rubbish" if message is None else CODEC.encode(message))
    await ended(stream)
    assert scene.host.counters.handler_errors == 0
    _, other = await scene.client(2)
    assert isinstance(await hear(other), Terms)


async def test_a_client_that_says_stop_is_let_go(scene: Scene) -> None:
    _, stream = await scene.client(1)
    await hear(stream)
    await stream.send(CODEC.encode(Stop(0, "bye")))
    await ended(stream)
    await until(lambda: len(scene.server) == 0)
