"""The server of `/rr/chain/1` over an embedded regtest and memory hosts: each answer with its proof, news, limits, and
clients that mean ill. The client here writes messages by hand.
"""

import pytest
import trio
from services_kit import ended, until

from protocols.light.headers import parse_header, split_headers
from protocols.light.merkle import proves
from protocols.light.witness import binds, commitment_of
from protocols.wire import chain as wire
from protocols.wire.chain import (
    CODEC,
    PROTOCOL,
    Feerate,
    GetFeerate,
    GetHeaders,
    GetMatches,
    GetMempool,
    GetOutput,
    Headers,
    Joiner,
    Matches,
    Mempool,
    News,
    Output,
    Publish,
    Published,
    RefusalCode,
    Refused,
    Stop,
    Unwatch,
    Watch,
    Watching,
    payloads,
)
from rrnode.chain.parse import parse_block, parse_transaction
from rrnode.services import chainfacts
from rrnode.services.chainfacts import MOST_WATCHED, ChainFactsServer
from rrnode.services.limits import Shares

NOTHING = bytes(32)


class Client:
    """Our end of a stream, message by message."""

    def __init__(self, stream):
        self.stream, self.news = stream, []
        self._joiner = Joiner(wire.ANSWER_PIECES)

    async def tell(self, message):
        for frame in payloads(message, 255):
            await self.stream.send(frame)

    async def hear(self):
        while (message := self._joiner.take(await self.stream.receive())) is None:
            pass
        return message

    async def ask(self, request):
        """The answer; news that come in between are kept."""
        await self.tell(request)
        while isinstance(message := await self.hear(), News):
            self.news.append(message)
        assert message.request == request.request
        return message

    async def hear_news(self):
        return self.news.pop(0) if self.news else await self.hear()


class Scene:
    def __init__(self, net, chain, host, server):
        self.net, self.chain, self.host, self.server = net, chain, host, server

    async def client(self, number=1):
        mine = await self.net.host(number)
        await self.net.link(mine, self.host)
        return Client(await mine.open_stream(self.host.peer_id, PROTOCOL))


@pytest.fixture
async def scene(net, kernel_chain):
    host = await net.host(0)
    server = ChainFactsServer(host=host, chain=kernel_chain, most=3)
    net.spawn(server)
    return Scene(net, kernel_chain, host, server)


async def test_headers_come_after_the_first_block_that_is_known(scene, kit, autojump_clock):
    hashes = await scene.chain.mine(5, kit.LOCKED)
    client = await scene.client()
    genesis = await scene.chain.genesis()
    answer = await client.ask(GetHeaders(1, (b"\x07" * 32, hashes[1], genesis)))
    assert (answer.tip_height, [parse_header(raw).hash for raw in split_headers(answer.headers)]) == (
        5,
        list(hashes[2:]),
    )
    assert await client.ask(GetHeaders(2, (hashes[4],))) == Headers(2, 5, b"")
    refused = await client.ask(GetHeaders(3, (b"\x07" * 32,)))
    assert refused == Refused(3, RefusalCode.UNKNOWN_BLOCK, "none of these blocks is in my best chain")


async def test_headers_that_a_reorganisation_tore_apart_are_not_sent(scene, kit, autojump_clock):
    await scene.chain.mine(5, kit.LOCKED)
    whole = await scene.chain.headers(0, 6)

    async def torn(first, count):
        return (whole[1], whole[3])

    client = await scene.client()
    scene.chain.headers = torn
    answer = await client.ask(GetHeaders(1, (await scene.chain.genesis(),)))
    assert answer == Refused(1, RefusalCode.UNAVAILABLE, "the helper's own chain does not answer")


async def test_more_headers_than_an_answer_holds_come_with_the_next_question(scene, kit, monkeypatch, autojump_clock):
    monkeypatch.setattr("rrnode.chain.proofs.MAX_HEADERS", 3)
    hashes = await scene.chain.mine(5, kit.LOCKED)
    client = await scene.client()
    answer = await client.ask(GetHeaders(1, (await scene.chain.genesis(),)))
    assert [parse_header(raw).hash for raw in split_headers(answer.headers)] == list(hashes[:3])
    answer = await client.ask(GetHeaders(2, (hashes[2],)))
    assert [parse_header(raw).hash for raw in split_headers(answer.headers)] == list(hashes[3:])


async def test_what_concerns_the_client_comes_with_proof_and_nothing_else_does(scene, kit, autojump_clock):
    source, other, third = await kit.funded(scene.chain, 3)
    spend, paid, alien = kit.pay([source], 1000), kit.build([other], [(5000, kit.LOCKED)]), kit.pay([third], 1000)
    for tx in (spend, paid, alien):
        await scene.chain.publish((tx.raw,))
    (block,) = await scene.chain.mine(1, kit.OPEN)
    client = await scene.client()
    assert await client.ask(GetMatches(1, block)) == Matches(1, block, (), ())
    assert await client.ask(Watch(2, (source[0],), (), ())) == Watching(2, MOST_WATCHED - 1)
    assert await client.ask(Watch(3, (source[0],), (paid.txid,), (kit.LOCKED,))) == Watching(3, MOST_WATCHED - 3)
    answer = await client.ask(GetMatches(4, block))
    assert {parse_transaction(each.transaction).txid for each in answer.transactions} == {spend.txid, paid.txid}
    root = parse_block(await scene.chain.block(block)).header.merkle_root
    for each in answer.transactions:
        tx = parse_transaction(each.transaction)
        assert proves(tx.txid, tx.base_size, each.index, each.branch, root)
    (first,) = answer.coinbase
    coinbase = parse_transaction(first.transaction)
    assert proves(coinbase.txid, coinbase.base_size, 0, first.branch, root)
    commitment = commitment_of([output.script for output in coinbase.outputs])
    for each in answer.transactions:
        wtxid = parse_transaction(each.transaction).wtxid
        assert binds(commitment, coinbase.witnesses[0][0], wtxid, each.index, each.witness_branch)
    assert await client.ask(Unwatch(5, (source[0],), (paid.txid, NOTHING), (kit.LOCKED,))) == Watching(5, MOST_WATCHED)
    assert await client.ask(GetMatches(6, block)) == Matches(6, block, (), ())
    unknown = await client.ask(GetMatches(7, b"\x07" * 32))
    assert unknown == Refused(7, RefusalCode.UNKNOWN_BLOCK, "no such block in my best chain")
    await scene.chain.invalidate(block)
    assert (await client.ask(GetMatches(8, block))).code == RefusalCode.UNKNOWN_BLOCK


async def test_the_mempool_is_looked_through_for_outputs_and_transactions(scene, kit, autojump_clock):
    source, other, third = await kit.funded(scene.chain, 3)
    spend, known, alien = (kit.pay([each], 1000) for each in (source, other, third))
    for tx in (spend, known, alien):
        await scene.chain.publish((tx.raw,))
    client = await scene.client()
    assert await client.ask(GetMempool(1)) == Mempool(1, ())
    await client.ask(Watch(2, (source[0],), (known.txid, NOTHING), (kit.OPEN,)))
    assert set((await client.ask(GetMempool(3))).transactions) == {spend.raw, known.raw}
    await client.ask(Watch(4, (), tuple(bytes([n]) * 32 for n in range(1, 150)), ()))  # asked for another way
    assert set((await client.ask(GetMempool(5))).transactions) == {spend.raw, known.raw}
    await scene.chain.mine(1, kit.LOCKED)
    assert await client.ask(GetMempool(6)) == Mempool(6, ())


async def test_an_unspent_output_comes_with_the_proof_of_its_making(scene, kit, autojump_clock):
    source, _ = await kit.funded(scene.chain, 2)
    client = await scene.client()
    tip, first = (await scene.chain.tip()).hash, await scene.chain.block_at(1)
    answer = await client.ask(GetOutput(1, source[0][:32], 0))
    assert (answer.tip, answer.block_hash, len(answer.created)) == (tip, first.hash, 1)
    made = parse_transaction(answer.created[0].transaction)
    assert (made.txid, made.outputs[0].value) == (source[0][:32], source[1])
    await scene.chain.publish((kit.pay([source], 1000).raw,))
    assert await client.ask(GetOutput(1, source[0][:32], 0)) == answer  # whatever the mempool does
    await scene.chain.mine(1, kit.LOCKED)
    tip = (await scene.chain.tip()).hash
    assert await client.ask(GetOutput(2, source[0][:32], 0)) == Output(2, tip, NOTHING, ())
    assert await client.ask(GetOutput(3, NOTHING, 7)) == Output(3, tip, NOTHING, ())


async def test_transactions_and_packages_are_published(scene, kit, autojump_clock):
    source, fees, other = await kit.funded(scene.chain, 3)
    client = await scene.client()
    tx = kit.pay([source], 1000)
    assert await client.ask(Publish(1, (tx.raw,))) == Published(1, 0, "")
    assert await client.ask(Publish(2, (tx.raw,))) == Published(2, 1, "")
    parent = kit.commitment(other)
    refused = await client.ask(Publish(3, (parent.raw,)))
    assert (refused.verdict, refused.reason[:21]) == (2, "min relay fee not met")
    child = kit.pay([kit.coin(parent, 1), fees], 2000, version=3)
    assert await client.ask(Publish(4, (parent.raw, child.raw))) == Published(4, 0, "")
    assert set(await scene.chain.mempool()) == {tx.txid, parent.txid, child.txid}
    assert (await client.ask(Publish(5, (bytes(100),)))).verdict == 2
    assert (await client.ask(Publish(6, (bytes(300_000), bytes(300_000))))).verdict == 2  # in pieces
    assert await client.ask(GetFeerate(7, 6)) == Feerate(7, 1000)


async def test_an_answer_larger_than_a_frame_comes_in_pieces(scene, kit, autojump_clock):
    (source,) = await kit.funded(scene.chain, 1)
    large = kit.build([source], [(30_000, kit.OPEN)] * 2200)
    await scene.chain.publish((large.raw,))
    (block,) = await scene.chain.mine(1, kit.LOCKED)
    client = await scene.client()
    await client.ask(Watch(1, (source[0],), (), ()))
    answer = await client.ask(GetMatches(2, block))
    assert [each.transaction for each in answer.transactions] == [large.raw]


async def test_a_client_is_told_the_tip_when_it_comes_and_what_is_new_afterwards(scene, kit, autojump_clock):
    source, _ = await kit.funded(scene.chain, 2)
    await until(lambda: scene.server._best is not None and scene.server._best[0].height == 102)
    client = await scene.client()
    first = await client.hear_news()
    assert (first.tip_height, parse_header(first.header).hash) == (102, (await scene.chain.tip()).hash)
    await client.ask(Watch(1, (source[0],), (), ()))
    (block,) = await scene.chain.mine(1, kit.LOCKED)
    assert (await client.hear_news()).header == parse_block(await scene.chain.block(block)).header.raw
    await scene.chain.publish((kit.pay([source], 1000).raw,))
    assert (await client.hear_news()).tip_height == 103
    assert len((await client.ask(GetMempool(2))).transactions) == 1
    await scene.chain.invalidate(block)
    assert (await client.hear_news()).tip_height == 104
    with trio.move_on_after(60) as silence:
        await client.hear_news()
    assert silence.cancelled_caught  # nothing happened, nothing is told


async def test_blocks_in_a_row_are_told_at_once_each(scene, kit, autojump_clock):
    client = await scene.client()
    await until(lambda: scene.server._best is not None)
    while (await client.hear_news()).tip_height < scene.chain.index.tip.height:
        pass
    for _ in range(3):
        began = trio.current_time()
        (block,) = await scene.chain.mine(1, kit.LOCKED)
        assert (await client.hear_news()).header == parse_block(await scene.chain.block(block)).header.raw
        assert trio.current_time() - began <= chainfacts.TIP_EVERY + 0.01


async def test_what_nobody_watches_is_no_news(scene, kit, autojump_clock):
    source, other = await kit.funded(scene.chain, 2)
    client = await scene.client()
    await client.ask(Watch(1, (source[0],), (), ()))
    while (await client.hear_news()).tip_height < 102:
        pass
    await scene.chain.publish((kit.pay([other], 1000).raw,))
    with trio.move_on_after(60) as silence:
        await client.hear_news()
    assert silence.cancelled_caught


async def test_a_client_may_watch_so_much_and_no_more(scene, monkeypatch, autojump_clock):
    monkeypatch.setattr(chainfacts, "MOST_WATCHED", 5)
    monkeypatch.setattr(chainfacts, "MOST_WATCHED_IN_ALL", 7)
    monkeypatch.setattr(chainfacts, "OWN_ROOM", 1)
    one, two = await scene.client(1), await scene.client(2)
    ids = [bytes([n]) * 32 for n in range(9)]
    assert await one.ask(Watch(1, (), tuple(ids[:4]), (b"\x51",))) == Watching(1, 0)
    reason = "at most 5 things are watched for one client, 7 in all"
    assert await one.ask(Watch(2, (), (ids[4],), ())) == Refused(2, RefusalCode.TOO_MANY, reason)
    assert await one.ask(Watch(3, (), tuple(ids[:4]), ())) == Watching(3, 0)  # again is no more
    assert await two.ask(Watch(1, (), tuple(ids[:3]), ())) == Refused(1, RefusalCode.TOO_MANY, reason)
    assert await two.ask(Watch(2, (), tuple(ids[:2]), ())) == Watching(2, 0)
    await one.stream.aclose()
    await until(lambda: len(scene.server) == 1)
    assert await two.ask(Watch(3, (), (ids[5],), ())) == Watching(3, 2)


async def test_greedy_clients_leave_each_other_some_room(scene, monkeypatch, autojump_clock):
    monkeypatch.setattr(chainfacts, "MOST_WATCHED", 5)
    monkeypatch.setattr(chainfacts, "MOST_WATCHED_IN_ALL", 5)
    monkeypatch.setattr(chainfacts, "OWN_ROOM", 2)
    greedy, modest = await scene.client(1), await scene.client(2)
    ids = tuple(bytes([n]) * 32 for n in range(5))
    assert await greedy.ask(Watch(1, (), ids, ())) == Watching(1, 0)
    assert await modest.ask(Watch(1, (), ids[:2], ())) == Watching(1, 0)
    assert isinstance(await modest.ask(Watch(2, (), ids[2:3], ())), Refused)


async def test_who_publishes_too_much_is_refused_and_may_later(scene, autojump_clock):
    client = await scene.client()
    answers = [await client.ask(Publish(n, (bytes(60),))) for n in range(260)]
    refused = [each for each in answers if isinstance(each, Refused)]
    assert len(refused) >= 5
    assert refused[0] == Refused(
        refused[0].request, RefusalCode.TOO_FAST, "too many publications by you or your network"
    )
    await trio.sleep(1)
    assert isinstance(await client.ask(Publish(99, (bytes(60),))), Published)


async def test_a_client_too_many_is_told_so(scene, autojump_clock):
    for number in (1, 2, 3):
        await scene.client(number)
    await until(lambda: len(scene.server) == 3)
    late = await scene.client(4)
    assert await late.hear() == Stop(RefusalCode.TOO_MANY, "this node serves all the clients it can")
    await ended(late.stream)


@pytest.mark.parametrize("limit", ["MOST_OF_SENDER", "MOST_OF_NETWORK"])
async def test_one_sender_or_network_does_not_take_all_the_places(scene, limit, monkeypatch, autojump_clock):
    monkeypatch.setattr(chainfacts, limit, 2)
    alike = {"MOST_OF_SENDER": "one_sender", "MOST_OF_NETWORK": "one_network"}[limit]
    monkeypatch.setattr(chainfacts, alike, lambda _address, peer: peer in strangers)
    strangers = [(await scene.net.host(number)).peer_id for number in (1, 2, 3)]
    for number in (1, 2):
        await scene.client(number)
    await until(lambda: len(scene.server) == 2)
    third = await scene.client(3)
    assert await third.hear() == Stop(RefusalCode.TOO_MANY, "this node serves enough clients of your network")
    known = await scene.client(4)
    assert isinstance(await known.ask(GetFeerate(1, 6)), Feerate)


async def test_who_asks_too_much_is_answered_later(scene, autojump_clock):
    client, other = await scene.client(1), await scene.client(2)
    scene.server._questions = Shares(per_sender=1, per_network=10, total=10, own=0, burst=2)
    began = trio.current_time()
    for number in range(6):
        assert isinstance(await client.ask(GetOutput(number, NOTHING, 0)), Output)
    assert 3.9 < trio.current_time() - began < 4.5  # two at once, and one a second
    began = trio.current_time()
    assert isinstance(await other.ask(GetOutput(1, NOTHING, 0)), Output)
    assert trio.current_time() - began < 0.2


async def test_headers_and_fees_are_questions_too(scene, autojump_clock):
    """A run of headers costs Bitcoin Core four thousand requests and us 160 kB, and can be asked for without end."""
    client = await scene.client()
    genesis = await scene.chain.genesis()
    for question in (lambda number: GetHeaders(number, (genesis,)), lambda number: GetFeerate(number, 2)):
        scene.server._questions = Shares(per_sender=1, per_network=10, total=10, own=0, burst=2)
        began = trio.current_time()
        for number in range(1, 6):
            await client.ask(question(number))
        assert trio.current_time() - began > 2


async def test_to_see_what_is_new_no_transaction_is_fetched(scene, kit, autojump_clock):
    source, other = await kit.funded(scene.chain, 2)
    spend, paid = kit.pay([source], 1000), kit.pay([other], 1000)
    fetched = []
    whole = scene.chain.mempool_transaction

    async def note(txid):
        fetched.append(txid)
        return await whole(txid)

    scene.chain.mempool_transaction = note
    one, two = await scene.client(1), await scene.client(2)
    await one.ask(Watch(1, (source[0],), (spend.txid,), ()))
    await two.ask(Watch(1, (), (paid.txid, NOTHING), ()))
    for client in (one, two):
        while (await client.hear_news()).tip_height < 102:
            pass
    await scene.chain.publish((paid.raw,))
    assert (await two.hear_news()).tip_height == 102
    assert fetched == []
    assert (await two.ask(GetMempool(2))).transactions == (paid.raw,)
    await scene.chain.publish((spend.raw,))
    assert (await one.hear_news()).tip_height == 102
    assert (await one.ask(GetMempool(2))).transactions == (spend.raw,)
    assert fetched == [paid.txid, spend.txid]


async def test_a_newer_stream_of_the_same_client_takes_the_place_of_the_older(scene, autojump_clock):
    mine = await scene.net.host(1)
    await scene.net.link(mine, scene.host)
    first = Client(await mine.open_stream(scene.host.peer_id, PROTOCOL))
    await first.ask(Watch(1, (), (NOTHING,), ()))
    second = Client(await mine.open_stream(scene.host.peer_id, PROTOCOL))
    assert await second.ask(Watch(1, (), (), ())) == Watching(1, MOST_WATCHED)
    await ended(first.stream)
    assert len(scene.server) == 1


@pytest.mark.parametrize("what", [CODEC.encode(Feerate(1, 1000)), b"\xc1", CODEC.encode(wire.Piece(2, 2, b"x"))])
async def test_what_is_no_request_ends_the_stream_and_nothing_else(scene, what, autojump_clock):
    bad, good = await scene.client(1), await scene.client(2)
    await bad.stream.send(what)
    await ended(bad.stream)
    await until(lambda: len(scene.server) == 1)
    assert scene.host.counters.bad_messages == 1
    assert scene.host.counters.handler_errors == 0
    assert isinstance(await good.ask(GetFeerate(1, 6)), Feerate)


async def test_a_client_that_does_not_read_holds_up_only_itself(scene, kit, autojump_clock):
    deaf, good = await scene.client(1), await scene.client(2)
    (source,) = await kit.funded(scene.chain, 1)
    await scene.chain.publish((kit.build([source], [(30_000, kit.OPEN)] * 2200).raw,))
    (block,) = await scene.chain.mine(1, kit.LOCKED)
    await deaf.tell(Watch(0, (source[0],), (), ()))
    with trio.move_on_after(60):
        for number in range(1, 2000):
            await deaf.tell(GetMatches(number, block))
    assert isinstance(await good.ask(GetFeerate(1, 6)), Feerate)
    await scene.chain.mine(1, kit.LOCKED)
    await until(lambda: scene.server._best[0].height == 103)


async def test_while_its_chain_is_away_a_helper_says_so_without_saying_why(net, kernel_chain, kit, autojump_clock):
    host = await net.host(0)
    server = ChainFactsServer(host=host, chain=kernel_chain)
    net.spawn(server)
    client = await Scene(net, kernel_chain, host, server).client()
    kernel_chain._open = False
    refused = await client.ask(GetFeerate(1, 6))
    assert refused == Refused(1, RefusalCode.UNAVAILABLE, "the helper's own chain does not answer")
    kernel_chain._open = True
    assert isinstance(await client.ask(GetFeerate(2, 6)), Feerate)
    await kernel_chain.mine(1, kit.LOCKED)
    await until(lambda: server._best is not None and server._best[0].height == 1)
