"""`/rr/info/1` over memory hosts: what is given away and what never is, limits, and answers that cannot be believed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from services_kit import START, Net, channel, ended, now

from bootstrap.networks import REGTEST
from protocols.channel.state import Channel, Htlc, Phase
from protocols.errors import PeerProtocolError
from protocols.ids import PaymentHash, PeerId
from protocols.node_record import NodeRecord, Refusal, digest_of, sign
from protocols.onchain import ec
from protocols.units import AssetId, BlockHeight, Msat, Sat, UnixTime
from protocols.wire.info import (
    CODEC,
    PROTOCOL,
    GetOthers,
    GetRecord,
    Others,
    Record,
    RefusalCode,
    Refused,
    Signed,
    Stop,
    ToldChannel,
)
from rrnode.config.settings import InfoSettings, NodeSettings, RoleSettings, Settings
from rrnode.errors import LinkClosed
from rrnode.host.memory import MemoryHost
from rrnode.services.asking import MOST_PAGES, asking
from rrnode.services.info import IDLE, RENEW_AFTER, InfoServer, OwnRecord

NETWORK = REGTEST.genesis


def clock() -> float:
    return START + trio.current_time()


class Server:
    """A node that says something about itself, host 0; its channels are a list."""

    def __init__(self, net: Net, host: MemoryHost, info: InfoSettings, operator: str = "Ann") -> None:
        self.host = host
        self.channels: list[Channel] = []
        self.known: list[Signed] = []
        settings = Settings(
            data_dir=Path("/nowhere"),
            node=NodeSettings(operator=operator),
            roles=RoleSettings(route=True, chain=True),
            info=info,
        )
        self.own = OwnRecord(
            settings=settings,
            secret=net.secret(0),
            agent="rrnode/9",
            host=host,
            channels=lambda: self.channels,
            now=now,
        )
        InfoServer(host=host, own=self.own, others=self._page, now=now)

    def _page(self, after: bytes, most: int) -> tuple[tuple[Signed, ...], bool]:
        found = [each for each in self.known if each.content[33:66] > after]
        return tuple(found[:most]), len(found) > most


@pytest.fixture
async def serve(net: Net) -> Callable[..., Any]:
    async def make(info: InfoSettings | None = None, **named: Any) -> Server:
        return Server(net, await net.host(0, switches=3), info or InfoSettings(), **named)

    return make


async def ask(net: Net, server: MemoryHost, *, number: int = 5, channels: bool = True) -> Any:
    mine = await net.host(number)
    await net.link(mine, server)
    async with asking(mine, server.peer_id, network=NETWORK, clock=clock) as asker:
        return await asker.about(channels=channels)


async def test_by_default_a_node_tells_its_roles_agent_and_addresses_and_no_channel(net, serve, autojump_clock):
    server = await serve()
    peer = await net.host(1, switches=1)
    await net.link(peer, server.host)
    server.channels.append(channel(1, peer.peer_id))
    about = await ask(net, server.host)
    assert about.record == NodeRecord(
        node=server.host.peer_id,
        network=NETWORK,
        made=about.record.made,
        switches=3,
        agent="rrnode/9",
        operator="Ann",
        addresses=("/memory/1",),
        protocols=("/rr/info/1", "/rr/link/1"),
    )
    assert about.channels == ()
    assert about.round_trip == pytest.approx(0.02, abs=0.001)
    assert abs(about.clock) <= 0.5


async def test_what_the_owner_keeps_back_is_not_in_the_record(net, serve, autojump_clock):
    server = await serve(InfoSettings(agent=False, roles=False, addresses=False), operator="")
    about = await ask(net, server.host)
    assert about.record == NodeRecord(node=server.host.peer_id, network=NETWORK, made=about.record.made)


async def test_channels_are_told_as_far_as_the_owner_chose_and_only_those_with_neighbours_that_route(
    net, serve, autojump_clock
):
    server = await serve(InfoSettings(channels="capacity"))
    router, client, away = await net.host(1, switches=1), await net.host(2), await net.host(3, switches=1)
    await net.link(router, server.host)
    await net.link(client, server.host)
    server.channels += [
        channel(1, router.peer_id),
        replace(channel(2, router.peer_id), capacity=Sat(5_000_000)),
        channel(3, router.peer_id, Phase.CONFIRMING),
        channel(4, router.peer_id, Phase.CLOSED),
        channel(5, client.peer_id),
        channel(6, away.peer_id),
    ]
    told = ((router.peer_id, Sat(5_000_000)), (router.peer_id, Sat(1_000_000)))
    about = await ask(net, server.host)
    assert (about.channels, about.record.channels_digest) == (told, digest_of(told))
    assert (await ask(net, server.host, number=6, channels=False)).channels == ()
    net.stop(router)  # what was told once is told on: who is linked now is nobody's business
    await trio.sleep(5)
    assert (await ask(net, server.host, number=7)).signed == about.signed


async def test_who_tells_peers_only_tells_no_capacity_nor_how_many_channels(net, serve, autojump_clock):
    server = await serve(InfoSettings(channels="peers"))
    router = await net.host(1, switches=1)
    await net.link(router, server.host)
    server.channels += [channel(1, router.peer_id), channel(2, router.peer_id)]
    assert (await ask(net, server.host)).channels == ((router.peer_id, Sat(0)),)


@pytest.mark.parametrize("told", ["peers", "capacity"])
async def test_balances_never_leave_not_even_by_the_date_of_a_record(net, serve, told, autojump_clock):
    """The same bytes whatever moves in the channel, and however long ago it moved."""
    server = await serve(InfoSettings(channels=told))
    router = await net.host(1, switches=1)
    await net.link(router, server.host)
    before = channel(1, router.peer_id)
    server.channels.append(before)
    first = server.own.current()
    htlc = Htlc(id=0, ours=True, amount=Msat(777), payment_hash=PaymentHash(bytes(32)), expiry=BlockHeight(9))
    for moved in (
        replace(before, our_balance=Msat(1), their_balance=Msat(10**9 - 1)),
        replace(before, htlcs=(htlc,), our_number=17),
        replace(before, connected=True, reestablished=True, deep=True),
    ):
        server.channels[0] = moved
        await trio.sleep(10)
        assert server.own.current() == first


async def test_a_record_is_made_anew_when_it_says_something_else_and_each_hour(net, serve, autojump_clock):
    server = await serve(InfoSettings(channels="capacity"))
    router = await net.host(1, switches=1)
    await net.link(router, server.host)

    def made() -> int:
        return int.from_bytes(server.own.current()[0].content[66:74], "big")

    first = made()
    assert first == now()
    server.channels.append(channel(1, router.peer_id))
    assert made() == first  # two of one second could not be told apart
    await trio.sleep(2)
    second = made()
    assert second == now() == first + 2
    await trio.sleep(RENEW_AFTER - 1)
    assert made() == second
    await trio.sleep(1)
    assert made() == second + RENEW_AFTER


async def test_pages_of_other_records_come_in_order_and_each_is_checked(net, serve, autojump_clock):
    server = await serve()
    secrets = sorted((bytes([n]) * 32 for n in range(1, 71)), key=ec.point_of)
    records = [NodeRecord(node=PeerId(ec.point_of(each)), network=NETWORK, made=now()) for each in secrets]
    good = [sign(record, secret) for record, secret in zip(records, secrets, strict=True)]
    server.known = list(good)
    server.known[3] = Signed(good[3].content, good[4].signature)
    server.known[40] = sign(replace(records[40], made=UnixTime(now() + 10_000)), secrets[40])
    server.known[41] = sign(replace(records[41], made=UnixTime(now() - 10**6)), secrets[41])
    server.known[42] = sign(replace(records[42], network=AssetId(bytes(32))), secrets[42])
    mine = await net.host(5)
    await net.link(mine, server.host)
    async with asking(mine, server.host.peer_id, network=NETWORK, clock=clock) as asker:
        heard = await asker.others()
    assert [record.node for record, _ in heard.records] == [
        each.node for number, each in enumerate(records) if number not in (3, 40, 41, 42)
    ]
    assert heard.refused == {
        Refusal.WRONG_KEY: 1,
        Refusal.FROM_THE_FUTURE: 1,
        Refusal.TOO_OLD: 1,
        Refusal.OTHER_NETWORK: 1,
    }


async def test_a_page_of_records_that_count_for_nothing_here_does_not_hide_those_behind_it(net, serve, autojump_clock):
    """An honest server may hold what we refuse: its clock is ahead of ours, or it reads a later version."""
    server = await serve()
    secrets = sorted((bytes([n]) * 32 for n in range(1, 71)), key=ec.point_of)
    server.known = [
        sign(
            NodeRecord(node=PeerId(ec.point_of(each)), network=NETWORK, made=UnixTime(now() + 40 * (number < 40))), each
        )
        for number, each in enumerate(secrets)
    ]
    mine = await net.host(5)
    await net.link(mine, server.host)
    async with asking(mine, server.host.peer_id, network=NETWORK, clock=clock) as asker:
        heard = await asker.others()
    assert heard.refused == {Refusal.FROM_THE_FUTURE: 40}
    assert [record.node for record, _ in heard.records] == [ec.point_of(each) for each in secrets[40:]]


async def test_requests_beyond_the_limit_are_refused_and_told_so(net, serve, autojump_clock):
    server = await serve()
    mine = await net.host(5)
    await net.link(mine, server.host)
    stream = await mine.open_stream(server.host.peer_id, PROTOCOL)
    answers = []
    for number in range(60):
        await stream.send(CODEC.encode(GetOthers(number, bytes(33))))
        answers.append(CODEC.decode(await stream.receive()))
    refused = [each for each in answers if isinstance(each, Refused)]
    assert 15 <= len(refused) <= 20
    assert {each.code for each in refused} == {RefusalCode.TOO_FAST}
    await trio.sleep(10)
    await stream.send(CODEC.encode(GetRecord(99, False)))
    assert isinstance(CODEC.decode(await stream.receive()), Record)


async def test_a_flood_from_all_addresses_of_one_network_takes_nobody_elses_turn(net, serve, autojump_clock):
    server = await serve()
    flooder, newcomer = await net.host(5), await net.host(6)
    for each in (flooder, newcomer):
        await net.link(each, server.host)

    async def burst(host: MemoryHost) -> list[Any]:
        stream = await host.open_stream(server.host.peer_id, PROTOCOL)
        for number in range(40):
            await stream.send(CODEC.encode(GetOthers(number, bytes(33))))
        return [CODEC.decode(await stream.receive()) for _ in range(40)]

    for number in range(100):
        server.host._links[flooder.peer_id].connection.remote_address = f"/ip6/2001:db8:0:{number:x}::1/tcp/1"
        flood = await burst(flooder)
    assert isinstance(flood[-1], Refused)
    assert [type(each) for each in await burst(newcomer)] == [Others] * 40


async def test_many_channels_cost_as_much_as_many_requests(net, serve, autojump_clock):
    server = await serve(InfoSettings(channels="capacity"))
    router = await net.host(1, switches=1)
    await net.link(router, server.host)
    server.channels += [replace(channel(1, router.peer_id), capacity=Sat(number)) for number in range(1, 1500)]
    mine = await net.host(5)
    await net.link(mine, server.host)
    async with asking(mine, server.host.peer_id, network=NETWORK, clock=clock) as asker:
        answers = [await asker.about(channels=True) for _ in range(3)]
        with pytest.raises(LinkClosed, match="channels count for several requests"):
            await asker.about(channels=True)
    assert [len(each.channels) for each in answers] == [1000] * 3
    assert answers[0].channels[0][1] == 1499


async def test_a_stream_on_which_nothing_is_asked_ends_with_a_word(net, serve, autojump_clock):
    server = await serve()
    mine = await net.host(5)
    await net.link(mine, server.host)
    stream = await mine.open_stream(server.host.peer_id, PROTOCOL)
    began = trio.current_time()
    assert CODEC.decode(await stream.receive()) == Stop(RefusalCode.SHUTTING_DOWN, "nothing was asked for a minute")
    assert trio.current_time() - began == pytest.approx(IDLE, abs=1)
    await ended(stream)


async def test_an_answer_sent_as_a_request_ends_the_stream_and_is_counted(net, serve, autojump_clock):
    server = await serve()
    mine = await net.host(5)
    await net.link(mine, server.host)
    stream = await mine.open_stream(server.host.peer_id, PROTOCOL)
    await stream.send(CODEC.encode(Others(1, (), False)))
    await ended(stream)
    assert server.host.counters.bad_messages == 1


# --- servers that lie -----------------------------------------------------------------------------------------------


async def liar(net: Net, answer: Callable[[Any], Any]) -> Any:
    """Ask host 0, which answers as `answer` says."""
    host = await net.host(0)

    async def handler(stream: Any) -> None:
        while True:
            said = answer(CODEC.decode(await stream.receive()))
            if said is None:
                await trio.sleep_forever()
            await stream.send(CODEC.encode(said))

    host.handle(PROTOCOL, handler)
    mine = await net.host(5)
    await net.link(mine, host)
    return asking(mine, host.peer_id, network=NETWORK, clock=clock)


def own(net: Net, **changed: Any) -> Signed:
    record = NodeRecord(node=PeerId(ec.point_of(net.secret(0))), network=NETWORK, made=now())
    return sign(replace(record, **changed), net.secret(0))


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        (lambda net, ask: Record(ask.request, 0, Signed(bytes(113), bytes(64)), ()), "it is no record"),
        (lambda net, ask: Record(ask.request, 0, own(net, made=UnixTime(now() + 99)), ()), "dated in the future"),
        (lambda net, ask: Record(ask.request, 0, own(net, made=UnixTime(0)), ()), "older than a week"),
        (
            lambda net, ask: Record(
                ask.request,
                0,
                sign(NodeRecord(node=PeerId(ec.point_of(b"\x09" * 32)), network=NETWORK, made=now()), b"\x09" * 32),
                (),
            ),
            "another node's record",
        ),
        (
            lambda net, ask: Record(ask.request, 0, own(net), (ToldChannel(b"\x02" * 33, 1),)),
            "channels are not those that it signed",
        ),
        (lambda net, ask: Record(ask.request + 1, 0, own(net), ()), "not asked for"),
        (lambda net, ask: Others(ask.request, (), False), "Others where Record was wanted"),
        (lambda net, ask: GetRecord(ask.request, False), "not asked for"),
    ],
)
async def test_a_lie_about_itself_is_named(net, lie, sentence, autojump_clock):
    async with await liar(net, lambda request: lie(net, request)) as asker:
        with pytest.raises(PeerProtocolError, match=sentence):
            await asker.about(channels=True)


async def test_a_node_that_does_not_answer_is_given_up(net, autojump_clock):
    async with await liar(net, lambda request: None) as asker:
        with pytest.raises(LinkClosed, match="no answer on /rr/info/1 within 10 s"):
            await asker.about()


async def test_an_endless_list_ends(net, autojump_clock):
    """First with ever new keys, then with the same page over and over."""
    secrets = sorted((n.to_bytes(32, "big") for n in range(1, 400)), key=ec.point_of)
    endless = iter(secrets)
    asked = []

    def next_page(request: Any) -> Others:
        asked.append(request)
        secret = next(endless)
        record = NodeRecord(node=PeerId(ec.point_of(secret)), network=NETWORK, made=now())
        return Others(request.request, (sign(record, secret),), True)

    async with await liar(net, next_page) as asker:
        heard = await asker.others()
    assert (len(heard.records), len(asked)) == (MOST_PAGES, MOST_PAGES)


async def test_a_list_that_goes_round_is_named(net, autojump_clock):
    record = NodeRecord(node=PeerId(ec.point_of(b"\x09" * 32)), network=NETWORK, made=now())
    page = (sign(record, b"\x09" * 32),)
    async with await liar(net, lambda request: Others(request.request, page, True)) as asker:
        with pytest.raises(PeerProtocolError, match="not in the order of their keys"):
            await asker.others()
