"""The crawl over memory hosts: everybody is found, and it ends however long liars go on. Nodes are hosts that answer by hand."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import trio

from bootstrap.networks import REGTEST, SIGNET, Network
from protocols.errors import DecodeError
from protocols.ids import PeerId
from protocols.node_record import NodeRecord, Refusal, digest_of, sign
from protocols.onchain import ec
from protocols.units import Sat, UnixTime
from protocols.wire.info import CODEC, PROTOCOL, GetOthers, GetRecord, Others, Record, Signed, ToldChannel
from rrnode.host.base import HostConfig
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.host.peer_text import to_text
from tools.topology.crawl import Crawl, Limits

NOW = UnixTime(1_800_000_000)
Answer = Callable[[GetOthers], Any]


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def peer(number: int) -> PeerId:
    return PeerId(ec.point_of(key(number)))


def text(number: int) -> str:
    return to_text(peer(number))


def record(
    number: int,
    *,
    at: str = "",
    channels: tuple[tuple[PeerId, Sat], ...] = (),
    claims: tuple[str, ...] = (),
    made: int = NOW,
    network: Network = REGTEST,
) -> Signed:
    return sign(
        NodeRecord(
            node=peer(number),
            network=network.genesis,
            made=UnixTime(made),
            switches=1,
            agent="rrnode/9",
            operator=f"op{number}",
            addresses=(*claims, at or f"/memory/{number}"),
            channels=len(channels),
            channels_digest=digest_of(channels),
        ),
        key(number),
    )


def page(signed: list[Signed]) -> Answer:
    """All of these, page by page as it should be."""
    ordered = sorted(signed, key=lambda each: each.content[33:66])

    def answer(request: GetOthers) -> Others:
        rest = [each for each in ordered if each.content[33:66] > request.after]
        return Others(request.request, tuple(rest[:32]), len(rest) > 32)

    return answer


class Town:
    """A memory network with nodes on it, and a crawler."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery, self.network = nursery, MemoryNetwork(delay=0.01)
        self.chain = REGTEST

    async def node(
        self,
        number: int,
        others: Answer | None = None,
        *,
        channels: tuple[tuple[PeerId, Sat], ...] = (),
        at: str = "",
    ) -> str:
        host = MemoryHost(
            key(number),
            network=self.network,
            genesis=self.chain.genesis,
            switches=1,
            agent="rrnode/9",
            listen=(at or f"/memory/{number}",),
        )

        async def serve(stream: Any) -> None:
            while True:
                match CODEC.decode(await stream.receive()):
                    case GetRecord(request=asked):
                        told = tuple(ToldChannel(*each) for each in channels)
                        answer = Record(asked, NOW, record(number, channels=channels, network=self.chain), told)
                        await stream.send(CODEC.encode(answer))
                    case GetOthers() as request:
                        said = (others or page([]))(request)
                        if said is None:
                            await trio.sleep_forever()
                        await stream.send(CODEC.encode(said))

        host.handle(PROTOCOL, serve)
        await self.nursery.start(self._run, host)
        return host.addresses()[0]

    async def _run(self, host: MemoryHost, task_status: Any) -> None:
        async with host.running():
            task_status.started()
            await trio.sleep_forever()

    async def crawl(self, *roots: str, **limits: Any) -> tuple[Crawl, float]:
        """A whole crawl, and how long it took."""
        host = MemoryHost(key(999), network=self.network, genesis=self.chain.genesis, config=HostConfig(dial_timeout=5))
        began = trio.current_time()
        async with host.running():
            made = Crawl(host, self.chain, limits=Limits(**limits), clock=lambda: NOW + 0.5)
            await made.run(roots)
        return made, trio.current_time() - began


@pytest.fixture
async def town() -> Any:
    async with trio.open_nursery() as nursery:
        yield Town(nursery)
        nursery.cancel_scope.cancel()


async def test_everybody_is_found_from_one_address_also_in_a_circle(town: Town, autojump_clock: Any) -> None:
    for number in range(1, 6):
        await town.node(number, page([record(number % 5 + 1)]), channels=((peer(7), Sat(100 * number)),))
    crawl, _ = await town.crawl(f"/memory/1/p2p/{text(1)}")
    assert set(crawl.nodes) == {peer(number) for number in range(1, 6)}
    for number in range(1, 6):
        seen = crawl.nodes[peer(number)]
        assert (seen.met is not None, seen.problem) == (True, "")
        assert seen.record is not None
        assert seen.record.operator == f"op{number}"
        assert seen.channels == ((peer(7), Sat(100 * number)),)
        assert seen.knows == {peer(number % 5 + 1)}
    assert (crawl.ended, crawl.waiting) == ("", 0)


async def test_a_node_that_is_gone_is_told_with_what_others_say_of_it(town: Town, autojump_clock: Any) -> None:
    await town.node(1, page([record(2)]))
    crawl, _ = await town.crawl(f"/memory/1/p2p/{text(1)}")
    gone = crawl.nodes[peer(2)]
    assert (gone.dialled, gone.met, gone.problem) == (True, None, "/memory/2: connection refused")
    assert gone.record is not None
    assert gone.record.agent == "rrnode/9"


async def test_records_that_count_for_nothing_are_counted_and_nobody_is_dialled_for_them(
    town: Town, autojump_clock: Any
) -> None:
    await town.node(2)
    forged = Signed(record(2).content, bytes(64))
    late = record(3, made=NOW + 365 * 86_400)
    await town.node(1, page([forged, late]))
    crawl, _ = await town.crawl(f"/memory/1/p2p/{text(1)}")
    assert set(crawl.nodes) == {peer(1)}
    assert crawl.refused == {Refusal.WRONG_KEY: 1, Refusal.FROM_THE_FUTURE: 1}


async def test_an_endless_liar_ends_with_the_number_of_nodes(town: Town, autojump_clock: Any) -> None:
    """Every node that it invents is there, and invents three more."""
    numbers = count(1000)

    def answer(request: GetOthers) -> Others:
        fresh = [next(numbers) for _ in range(3)]
        for number in fresh:
            town.nursery.start_soon(town.node, number, answer)
        return page([record(number) for number in fresh])(request)

    await town.node(1, answer)
    crawl, _ = await town.crawl(f"/memory/1/p2p/{text(1)}", nodes=20, heard=1000)
    assert crawl.ended == "20 nodes were dialled"
    assert sum(each.dialled for each in crawl.nodes.values()) == 20
    assert sum(each.met is not None for each in crawl.nodes.values()) >= 18
    assert crawl.waiting == len(crawl.nodes) - 20 > 20


async def test_what_is_heard_of_has_a_most(town: Town, autojump_clock: Any) -> None:
    many = [record(number) for number in range(100, 300)]
    await town.node(1, page(many))
    await town.node(2, page([record(3)]))
    await town.node(3)
    crawl, _ = await town.crawl(f"/memory/1/p2p/{text(1)}", f"/memory/2/p2p/{text(2)}", heard=40, nodes=100)
    assert len(crawl.nodes) == 2 + 10 + 1  # a quarter from each network
    assert crawl.dropped == 190
    assert crawl.nodes[peer(3)].met is not None


async def test_many_identities_at_one_place_are_sought_a_few_times_and_push_nobody_out(
    town: Town, autojump_clock: Any
) -> None:
    """A liar claims that a hundred nodes live where an honest one does; another node tells of the honest one."""
    lies = [record(number, at="/memory/3") for number in range(100, 200)]
    await town.node(1, page(lies))
    await town.node(2, page([record(3)]))
    await town.node(3)
    crawl, _ = await town.crawl(f"/memory/1/p2p/{text(1)}", f"/memory/2/p2p/{text(2)}", at_one_place=4)
    assert sum(each.dialled for number in range(100, 200) for each in [crawl.nodes[peer(number)]]) == 4
    assert crawl.nodes[peer(3)].met is not None


async def test_tellers_that_claim_to_be_elsewhere_share_what_the_network_where_they_answer_may_tell(
    town: Town, autojump_clock: Any
) -> None:
    """A liar's nodes, all in one network, each give an address in a network of its own first, where nobody answers."""
    liars = [
        record(number, claims=(f"/ip4/10.{number}.0.1/tcp/1",), at=f"/memory/50/{number}") for number in range(2, 8)
    ]
    await town.node(1, page(liars))
    for number in range(2, 8):
        invented = [record(100 * number + each, at=f"/memory/{each}") for each in range(40)]
        await town.node(number, page(invented), at=f"/memory/50/{number}")
    crawl, _ = await town.crawl(f"/memory/1/p2p/{text(1)}", heard=80, nodes=100)
    invented_ones = [each for each in crawl.nodes.values() if each.peer not in {peer(number) for number in range(1, 8)}]
    assert len(invented_ones) == 20
    assert crawl.dropped == 6 * 40 - 20


async def test_a_node_that_never_answers_costs_its_time_and_no_more(town: Town, autojump_clock: Any) -> None:
    await town.node(1, lambda request: None)
    crawl, took = await town.crawl(f"/memory/1/p2p/{text(1)}", each=3)
    assert crawl.nodes[peer(1)].problem == "not all was answered within 3 s"
    assert crawl.nodes[peer(1)].met is not None
    assert took < 10


async def test_a_crawl_ends_in_time_with_what_it_has(town: Town, autojump_clock: Any) -> None:
    await town.node(1, page([record(2)]))
    await town.node(2, lambda request: None)
    crawl, took = await town.crawl(f"/memory/1/p2p/{text(1)}", seconds=5, each=9)
    assert (crawl.ended, took < 15) == ("5 s were over", True)
    assert crawl.nodes[peer(1)].met is not None


async def test_nobodys_word_makes_the_crawler_dial_inside_our_own_network(town: Town, autojump_clock: Any) -> None:
    town.chain = SIGNET
    inside = record(5, at="/ip4/192.168.0.1/tcp/22", network=SIGNET)
    await town.node(1, page([inside]))
    crawl, _ = await town.crawl(f"/memory/1/p2p/{text(1)}")
    told_of = crawl.nodes[peer(5)]
    assert (told_of.dialled, told_of.problem) == (False, "it gives no address that could be dialled")


async def test_what_is_no_address_is_named(town: Town) -> None:
    with pytest.raises(DecodeError, match="is not of the form"):
        await town.crawl("127.0.0.1:9780")
