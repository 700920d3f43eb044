"""The dialer over the memory network: whom it dials, when, and when it leaves off. The clock jumps."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
import trio.testing

from protocols.errors import DecodeError
from protocols.ids import PeerId
from rrnode.errors import Unreachable
from rrnode.host.dialer import MAX_ADDRESSES, Dialer, DialerConfig, PeerAddress, Source, VolatileBook
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.host.peer_text import peer_of, to_text


def secret(number: int) -> bytes:
    return number.to_bytes(32, "big")


class Watched(MemoryHost):
    """Notes every dial and its time."""

    def __init__(self, number: int, network: MemoryNetwork, *, listen: bool = True) -> None:
        super().__init__(secret(number), network=network, genesis=bytes(32), listen=("/memory/0",) if listen else ())
        self.dials: list[tuple[float, str]] = []

    async def dial(self, address: str) -> PeerId:
        self.dials.append((trio.current_time(), address))
        return await super().dial(address)


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
def us(network: MemoryNetwork) -> Watched:
    return Watched(1, network, listen=False)


@pytest.fixture
def them(network: MemoryNetwork) -> Watched:
    return Watched(2, network)


@asynccontextmanager
async def dialling(us: Watched, book: VolatileBook | None = None, seed: int = 1) -> AsyncIterator[Dialer]:
    dialer = Dialer(us, book or VolatileBook(), randomness=random.Random(seed))
    async with us.running(), trio.open_nursery() as nursery:
        await nursery.start(dialer.run)
        yield dialer
        nursery.cancel_scope.cancel()


async def settle(seconds: float = 0.5) -> None:
    await trio.sleep(seconds)
    await trio.testing.wait_all_tasks_blocked()


async def test_a_wanted_peer_is_dialled_at_once(us, them, autojump_clock) -> None:
    async with them.running(), dialling(us) as dialer:
        peer = dialer.name(them.addresses()[0], Source.USER)
        await settle()
        assert us.dials == []  # known is not wanted
        dialer.want(peer)
        await settle()
        assert list(us.connected()) == [peer]
        assert len(us.dials) == 1
        (status,) = dialer.status()
        assert (status.connected, status.failures, status.next_try, status.last_error) == (True, 0, None, None)


async def test_a_peer_that_was_wanted_before_the_start_is_dialled(us, them, autojump_clock) -> None:
    async with them.running():
        book = VolatileBook([PeerAddress(peer=them.peer_id, where=_where(them), source=Source.RELAYS)])
        dialer = Dialer(us, book, randomness=random.Random(1))
        dialer.want(them.peer_id)
        async with us.running(), trio.open_nursery() as nursery:
            await nursery.start(dialer.run)
            await settle()
            assert list(us.connected()) == [them.peer_id]
            nursery.cancel_scope.cancel()


async def test_a_stable_link_that_is_lost_is_redialled_at_once(us, them, network, autojump_clock) -> None:
    async with them.running(), dialling(us) as dialer:
        dialer.want(dialer.name(them.addresses()[0], Source.USER))
        await settle(100)
        lost_at = trio.current_time()
        network.cut(us.peer_id, them.peer_id)
        await settle()
        assert list(us.connected()) == [them.peer_id]
        assert us.dials[-1][0] - lost_at < 0.01


async def test_delays_double_up_to_a_minute_with_jitter(us, network, autojump_clock) -> None:
    nobody = f"/memory/77/p2p/{_text(9)}"
    async with dialling(us) as dialer:
        dialer.want(dialer.name(nobody, Source.USER))
        await settle(1000)
        times = [at for at, _ in us.dials]
        delays = [after - before for before, after in pairwise(times)]
        ceilings = [min(60.0, 2.0**count) for count in range(len(delays))]
        assert len(delays) > 15
        assert all(ceiling / 2 <= delay <= ceiling for delay, ceiling in zip(delays, ceilings, strict=True))
        assert len({round(delay, 6) for delay in delays[6:]}) > 5
        (status,) = dialer.status()
        assert not status.connected
        assert status.last_error == "/memory/77: connection refused"
        assert status.next_try is not None
        assert 0 <= status.next_try <= 60
        assert status.failures == len(times)


async def test_two_clients_do_not_come_back_in_the_same_moment(network, autojump_clock) -> None:
    nobody = f"/memory/77/p2p/{_text(9)}"
    clients = [Watched(number, network, listen=False) for number in (3, 4)]
    async with dialling(clients[0], seed=3) as one, dialling(clients[1], seed=4) as other:
        for dialer in (one, other):
            dialer.want(dialer.name(nobody, Source.USER))
        await settle(30)
        times = [[at for at, _ in client.dials] for client in clients]
        assert times[0][0] == times[1][0]
        assert not set(times[0][1:]) & set(times[1][1:])


async def test_wanting_again_wakes_it_at_once(us, them, autojump_clock) -> None:
    async with dialling(us) as dialer:
        async with them.running():
            address = them.addresses()[0]
        dialer.want(dialer.name(address, Source.USER))
        await settle(300)
        before = len(us.dials)
        them._listen = (_of(address),)
        async with them.running():
            dialer.want(them.peer_id)
            await settle(0.1)
            assert list(us.connected()) == [them.peer_id]
            assert len(us.dials) == before + 1


async def test_a_new_address_wakes_it_at_once(us, them, autojump_clock) -> None:
    async with them.running(), dialling(us) as dialer:
        dialer.want(them.peer_id)
        await settle(10)
        assert us.dials == []
        assert dialer.status()[0].last_error == "no address is known; it has to dial us"
        dialer.name(them.addresses()[0], Source.RECORD)
        await settle(0.1)
        assert list(us.connected()) == [them.peer_id]


async def test_a_link_that_never_lasts_is_backed_off_from(us, them, network, autojump_clock) -> None:
    async with them.running(), dialling(us) as dialer, trio.open_nursery() as nursery:

        async def hang_up() -> None:
            async with them.events() as events:
                async for _ in events:
                    network.cut(us.peer_id, them.peer_id)

        nursery.start_soon(hang_up)
        await trio.testing.wait_all_tasks_blocked()
        dialer.want(dialer.name(them.addresses()[0], Source.USER))
        await settle(300)
        assert 5 < len(us.dials) < 20
        nursery.cancel_scope.cancel()


async def test_a_link_that_lasts_some_seconds_each_time_is_backed_off_from(us, them, network, autojump_clock) -> None:
    async with them.running(), dialling(us) as dialer:
        dialer.want(dialer.name(them.addresses()[0], Source.USER))
        for _ in range(60):
            await settle(5)
            network.cut(us.peer_id, them.peer_id)
        assert 5 < len(us.dials) < 20


async def test_a_link_that_is_gone_when_the_dial_returns_is_backed_off_from(us, them, network, autojump_clock) -> None:
    async def dial_and_lose(address: str) -> PeerId:
        us.dials.append((trio.current_time(), address))
        peer = await MemoryHost.dial(us, address)
        network.cut(us.peer_id, peer)
        await trio.testing.wait_all_tasks_blocked()
        return peer

    us.dial = dial_and_lose
    async with them.running(), dialling(us) as dialer:
        dialer.want(dialer.name(them.addresses()[0], Source.USER))
        await settle(100)
        assert 4 < len(us.dials) < 12
        assert dialer.status()[0].last_error == "the link was lost again at once"


async def test_a_stable_link_makes_earlier_failures_forgotten(us, them, autojump_clock) -> None:
    async with dialling(us) as dialer:
        async with them.running():
            address = them.addresses()[0]
        them._listen = (_of(address),)
        dialer.want(dialer.name(address, Source.USER))
        await settle(500)
        assert dialer.status()[0].failures > 8
        async with them.running():
            await settle(200)
            assert list(us.connected()) == [them.peer_id]
        before = len(us.dials)
        await settle(10)
        assert len(us.dials) - before >= 3  # at once, then after 1, 2, 4 seconds
        assert dialer.status()[0].failures < 6


async def test_every_address_is_tried_in_random_order(us, them, autojump_clock) -> None:
    async with them.running(), dialling(us) as dialer:
        dead = [f"/memory/{number}/p2p/{_text(2)}" for number in range(70, 75)]
        for address in [*dead, them.addresses()[0]]:
            dialer.name(address, Source.USER)
        dialer.want(them.peer_id)
        await settle(5)
        assert list(us.connected()) == [them.peer_id]
        tried = [address for _, address in us.dials]
        assert set(tried) <= {*dead, them.addresses()[0]}
        assert tried != sorted(tried)


async def test_an_unwanted_peer_is_left_alone(us, autojump_clock) -> None:
    nobody = f"/memory/77/p2p/{_text(9)}"
    async with dialling(us) as dialer:
        peer = dialer.name(nobody, Source.USER)
        dialer.want(peer)
        await settle(10)
        assert dialer.wanted == {peer}
        dialer.unwant(peer)
        dialer.unwant(peer)
        before = len(us.dials)
        await settle(1000)
        assert len(us.dials) == before
        assert dialer.wanted == frozenset()
        assert dialer.status() == ()


async def test_a_peer_that_dials_us_is_not_dialled(network, them, autojump_clock) -> None:
    us = Watched(1, network)
    async with them.running(), dialling(us) as dialer:
        await them.dial(us.addresses()[0])
        dialer.name(them.addresses()[0], Source.USER)
        dialer.want(them.peer_id)
        await settle(100)
        assert us.dials == []
        assert dialer.status()[0].connected


async def test_connecting_learns_an_address_only_when_it_answers(us, them, autojump_clock) -> None:
    book = VolatileBook()
    async with them.running(), dialling(us, book) as dialer:
        with pytest.raises(Unreachable):
            await dialer.connect(f"/memory/77/p2p/{_text(9)}")
        assert book.load() == ()
        assert await dialer.connect(them.addresses()[0]) == them.peer_id
        known = PeerAddress(peer=them.peer_id, where=_where(them), source=Source.USER)
        assert book.load() == (known,)
        assert dialer.addresses_of(them.peer_id) == (known,)
        assert known.text == them.addresses()[0]


async def test_what_the_user_named_stays_and_the_book_is_bounded(us, autojump_clock) -> None:
    book = VolatileBook()
    async with dialling(us, book) as dialer:
        dialer.name(f"/memory/1/p2p/{_text(9)}", Source.USER)
        dialer.name(f"/memory/1/p2p/{_text(9)}", Source.RECORD)
        for number in range(2, 40):
            dialer.name(f"/memory/{number}/p2p/{_text(9)}", Source.RECORD)
        known = dialer.addresses_of(peer_of(secret(9)))
        assert len(known) == len(tuple(book.load())) == MAX_ADDRESSES
        assert (known[0].where, known[0].source) == ("/memory/1", Source.USER)
        assert known[-1].where == "/memory/39"
        with pytest.raises(DecodeError):
            dialer.name("/memory/1", Source.USER)


async def test_no_more_than_so_many_peers_are_dialled_at_once(us, network, autojump_clock) -> None:
    network.delay = 1.0
    dialer = Dialer(us, VolatileBook(), randomness=random.Random(1), config=DialerConfig(at_once=3))
    async with us.running(), trio.open_nursery() as nursery:
        await nursery.start(dialer.run)
        for number in range(10, 20):
            dialer.want(dialer.name(f"/memory/{number}/p2p/{_text(number)}", Source.USER))
        await settle(0.5)
        assert len(us.dials) == 3
        assert sum(status.dialling for status in dialer.status()) == 3
        nursery.cancel_scope.cancel()


def _text(number: int) -> str:
    return to_text(peer_of(secret(number)))


def _where(host: MemoryHost) -> str:
    return _of(host.addresses()[0])


def _of(address: str) -> str:
    return address.rpartition("/p2p/")[0]
