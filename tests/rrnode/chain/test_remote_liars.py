"""A client with three helpers of which one or two mean ill: what it is told all the same, and what its owner sees.

Each helper serves the same embedded regtest over a memory network; `lie` replaces answers before they leave. `told` is what
the follower says to the channels, `status` what `rrnode helpers` shows.
"""

import itertools
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import pytest
import trio

from bootstrap.networks import REGTEST
from protocols.channel import events as channel_events
from protocols.channel.events import Outpoint, OutputSpent, Purpose, TipChanged, TxConfirmed, WatchOutpoint, WatchTx
from protocols.ids import ChannelId
from protocols.light.headers import Checkpoint, parse_header, split_headers
from protocols.units import FeeRate
from protocols.wire import chain as wire
from protocols.wire.chain import (
    PROTOCOL,
    Feerate,
    GetFeerate,
    GetHeaders,
    GetMatches,
    GetMempool,
    GetOutput,
    Headers,
    Matches,
    Mempool,
    Output,
    Proven,
    ProvenWhole,
    Publish,
    Published,
    RefusalCode,
    Refused,
)
from rrnode.chain import header_sync, remote_publish
from rrnode.chain.base import NO_INTERESTS, Verdict
from rrnode.chain.broadcaster import Broadcaster
from rrnode.chain.follower import Follower
from rrnode.chain.header_sync import NEWS_EVERY
from rrnode.chain.kernel import KernelChain
from rrnode.chain.parse import parse_transaction
from rrnode.chain.remote import RemoteChain, RemotePolicy
from rrnode.chain.remote_blocks import BLOCKS_KEPT, RemoteBlocks
from rrnode.errors import ChainUnavailable
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.services.chainfacts import ChainFactsServer

NOBODY = bytes(32)
CHANNEL = ChannelId(b"\x05" * 32)


class Server(ChainFactsServer):
    """An honest server, whose answers `lie` may replace."""

    lie: Any = None

    async def _facts(self, client, request):
        answer = await super()._facts(client, request)
        return answer if self.lie is None else await self.lie(request, answer)


@dataclass
class Scene:
    kit: Any
    chain: KernelChain
    nursery: trio.Nursery
    network: MemoryNetwork = field(default_factory=lambda: MemoryNetwork(delay=0.01))
    hosts: list[MemoryHost] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)

    async def begin(self, chains, *, headers_file=None, checkpoint=None, **policy):
        """A helper per chain, and the client linked to all of them."""
        for number, chain in enumerate(chains):
            host = await self.host(bytes([0x61 + number]) * 32)
            server = Server(host=host, chain=chain, look_every=0.1)
            self.nursery.start_soon(server.run)
            self.hosts.append(host)
            self.servers.append(server)
        self.client = await self.host(b"\x51" * 32)
        self.addresses = [host.addresses()[0] for host in self.hosts]
        kept = {"headers_file": headers_file, "checkpoint": checkpoint}
        self.remote = RemoteChain(self.client, self.addresses, REGTEST, policy=RemotePolicy(**policy), **kept)
        await self.nursery.start(self._run, self.remote.running())

    async def host(self, secret):
        made = MemoryHost(secret, network=self.network, genesis=REGTEST.genesis, listen=("/memory/0",))
        await self.nursery.start(self._run, made.running())
        return made

    async def _run(self, running, task_status):
        async with running:
            task_status.started()
            await trio.sleep_forever()

    async def link(self, number):
        await self.client.dial(self.hosts[number].addresses()[0])

    def part(self, number):
        self.network.part(self.client.peer_id, self.hosts[number].peer_id)

    async def heal(self, number):
        self.network.heal()
        await self.link(number)

    async def follow(self):
        """A follower that has caught up."""
        await self.settled()
        self.follower = Follower(self.remote, mempool=False)
        await self.follower.start()
        await self.told()

    async def told(self, seconds=40):
        """Every fact that is told while nothing happens."""
        facts = []
        with trio.move_on_after(seconds):
            while True:
                facts += (await self.follower.next()).facts
        return facts

    def status(self, number):
        return self.remote.helpers()[number]

    async def until(self, condition):
        with trio.fail_after(120):
            while not condition():  # noqa: ASYNC110 - on a clock that jumps a wait costs nothing
                await trio.sleep(0.05)

    async def settled(self):
        """Everybody knows the tip."""
        await self.until(
            lambda: (
                self.remote._headers.tip.hash == self.chain.index.tip.hash
                and all(is_fine(each) and not each.lag for each in self.remote.helpers())
            )
        )

    async def confirmed_coin(self):
        """An open output in a block, to be watched."""
        (source,) = await self.kit.funded(self.chain, 1)
        tx = self.kit.pay([source], 1000)
        await self.chain.publish((tx.raw,))
        await self.chain.mine(1, self.kit.LOCKED)
        return tx

    def watch_spend(self, tx):
        height = self.chain.index.tip.height
        order = WatchOutpoint(outpoint=point(tx), script=tx.outputs[0].script, from_height=height)
        self.follower.watch_outpoint(order)


def point(tx):
    return Outpoint(txid=tx.txid, index=0)


def is_fine(status):
    """Nothing is held against a helper, and it can be asked."""
    return not status.trouble and not status.lies and not status.related


def shown(tx):
    return tx.txid[::-1].hex()


@pytest.fixture
async def scene(kernel_chain, kit, nursery):
    made = Scene(kit, kernel_chain, nursery)
    await kernel_chain.mine(1, kit.LOCKED)
    return made


@pytest.fixture
async def three(scene):
    """Three helpers on one chain; nobody lies yet."""
    await scene.begin([scene.chain] * 3)
    await scene.settled()
    return scene


def withholding(kind):
    """Answers of this kind are empty."""

    async def lie(request, answer):
        if isinstance(answer, Matches) and kind is Matches:
            return Matches(answer.request, answer.block_hash, (), ())
        return Mempool(answer.request, ()) if isinstance(answer, Mempool) and kind is Mempool else answer

    return lie


def silent(kind):
    """Requests of this kind are never answered."""

    async def lie(request, answer):
        if isinstance(request, kind):
            await trio.sleep_forever()
        return answer

    return lie


async def test_one_honest_helper_is_enough_to_see_a_spend_that_two_withhold(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    three.watch_spend(coin)
    await three.told()
    three.servers[0].lie = three.servers[2].lie = withholding(Matches)
    spend = kit.pay([kit.coin(coin)], 1000)
    await three.chain.publish((spend.raw,))
    await three.chain.mine(1, kit.LOCKED)
    facts = await three.told()
    height = three.chain.index.tip.height
    assert facts[-2:] == [OutputSpent(outpoint=point(coin), transaction=spend.raw, height=height), TipChanged()]
    words = f"it kept silent about {shown(spend)} in block {height}"
    assert [(each.lies, each.last_lie) for each in three.remote.helpers()] == [(1, words), (0, ""), (1, words)]
    assert [is_fine(each) for each in three.remote.helpers()] == [False, True, False]


async def test_silence_of_a_helper_related_to_a_neighbour_counts_for_nothing(three, kit, autojump_clock):
    await three.follow()
    related = {three.hosts[each].peer_id: "it is the same node as the channel neighbour" for each in (0, 2)}
    three.remote.set_related(related)
    assert three.remote.doubt is not None
    assert three.remote.doubt.startswith("1 of 3 helpers can be relied on, 2 wanted: ")
    assert three.remote.doubt.count("it is the same node as the channel neighbour") == 2
    assert [(is_fine(each), each.looks_out) for each in three.remote.helpers()] == [
        (False, True),
        (True, True),
        (False, True),
    ]
    three.remote.set_related({})
    assert three.remote.doubt is None


async def test_what_a_related_helper_proves_is_believed_all_the_same(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    three.watch_spend(coin)
    await three.told()
    three.remote.set_related({three.hosts[1].peer_id: "it is the same node as the channel neighbour"})
    three.servers[0].lie = three.servers[2].lie = withholding(Matches)
    spend = kit.pay([kit.coin(coin)], 1000)
    await three.chain.publish((spend.raw,))
    await three.chain.mine(1, kit.LOCKED)
    facts = await three.told()
    height = three.chain.index.tip.height
    assert OutputSpent(outpoint=point(coin), transaction=spend.raw, height=height) in facts
    assert [each.lies for each in three.remote.helpers()] == [1, 0, 1]


async def test_the_silence_of_a_caught_liar_counts_for_nothing_any_more(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    three.watch_spend(coin)
    three.servers[0].lie = three.servers[2].lie = withholding(Matches)
    await three.told()
    await three.chain.publish((kit.pay([kit.coin(coin)], 1000).raw,))
    await three.chain.mine(1, kit.LOCKED)
    assert three.follower.trouble is None
    await three.told()
    await three.chain.mine(1, kit.LOCKED)
    assert await three.told() == [TipChanged()]  # the honest one is still heard
    assert three.follower.tip == await three.chain.tip()
    assert three.follower.trouble.startswith("1 of 3 helpers can be relied on, 2 wanted: ")
    assert three.follower.trouble.count("lied: it kept silent about") == 2


async def test_an_unconfirmed_spend_that_two_withhold_is_seen(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    three.watch_spend(coin)
    await three.told()
    three.servers[0].lie = three.servers[1].lie = withholding(Mempool)
    spend = kit.pay([kit.coin(coin)], 1000)
    await three.chain.publish((spend.raw,))
    assert await three.told() == [OutputSpent(outpoint=point(coin), transaction=spend.raw, height=None)]
    assert all(is_fine(each) for each in three.remote.helpers())  # mempools may differ: nobody is called a liar


async def test_a_helper_that_was_away_is_heard_when_it_is_back(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    three.watch_spend(coin)
    await three.told()
    three.servers[0].lie = three.servers[1].lie = withholding(Matches)
    three.part(2)
    spend = kit.pay([kit.coin(coin)], 1000)
    await three.chain.publish((spend.raw,))
    await three.chain.mine(1, kit.LOCKED)
    height = three.chain.index.tip.height
    assert OutputSpent(outpoint=point(coin), transaction=spend.raw, height=height) not in await three.told()
    await three.chain.mine(3, kit.LOCKED)
    assert three.status(2).trouble.startswith("not connected")
    await three.heal(2)
    facts = await three.told()
    assert OutputSpent(outpoint=point(coin), transaction=spend.raw, height=height) in facts
    words = f"it kept silent about {shown(spend)} in block {height}"
    assert [each.last_lie for each in three.remote.helpers()] == [words, words, ""]


async def spent_while_an_honest_one_is_away(scene, kit, coin):
    """Two withhold this spend in blocks; gives the fact that the third will make known."""
    scene.servers[0].lie = scene.servers[1].lie = withholding(Matches)
    scene.part(2)
    spend = kit.pay([kit.coin(coin)], 1000)
    await scene.chain.publish((spend.raw,))
    await scene.chain.mine(1, kit.LOCKED)
    return OutputSpent(outpoint=point(coin), transaction=spend.raw, height=scene.chain.index.tip.height)


async def test_what_is_told_late_is_read_though_the_follower_began_above_it(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.settled()
    from_height = three.chain.index.tip.height
    spent = await spent_while_an_honest_one_is_away(three, kit, coin)
    await three.chain.mine(3, kit.LOCKED)
    await three.until(lambda: three.remote._headers.tip.hash == three.chain.index.tip.hash)
    three.follower = Follower(three.remote, mempool=False)
    await three.follower.start()  # as after a restart
    order = WatchOutpoint(outpoint=point(coin), script=coin.outputs[0].script, from_height=from_height)
    three.follower.watch_outpoint(order)
    assert await three.told() == []
    await three.heal(2)
    assert spent in await three.told()
    assert await three.told() == []


async def test_blocks_that_too_few_answered_for_are_asked_about_however_old_they_are(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    three.watch_spend(coin)
    await three.told()
    three.part(1)
    spent = await spent_while_an_honest_one_is_away(three, kit, coin)
    await three.chain.mine(BLOCKS_KEPT + 20, kit.LOCKED)
    assert spent not in await three.told()
    assert three.follower.trouble.startswith("1 of 3 helpers can be relied on, 2 wanted: ")
    await three.heal(1)
    three.part(2)
    assert await three.told() == []  # it withholds, too
    assert three.follower.trouble is None  # two answered for every block
    three.remote._helpers.all[1].lied("something else")  # so what it said of those blocks does not hold either
    await three.heal(2)
    assert spent in await three.told()
    words = f"it kept silent about {shown(parse_transaction(spent.transaction))} in block {spent.height}"
    assert [each.last_lie for each in three.remote.helpers()] == [words, "something else", ""]
    assert await three.told() == []


async def test_what_is_told_late_is_not_lost_when_the_one_that_tells_is_lost(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    three.watch_spend(coin)
    await three.told()
    spent = await spent_while_an_honest_one_is_away(three, kit, coin)
    await three.told()
    await three.chain.mine(1, kit.LOCKED)
    await three.told()
    tip = three.chain.index.tip.hash

    async def lie(request, answer):
        if isinstance(request, GetMatches) and request.block_hash == tip:
            three.part(2)
            await trio.sleep_forever()
        return answer

    three.servers[2].lie = lie  # it tells of the first block, and then the line breaks
    await three.heal(2)
    await three.until(lambda: not three.status(2).connected)
    assert spent in await three.told()


async def test_what_a_reading_for_another_watch_shows_late_is_told(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    other = await three.confirmed_coin()
    await three.follow()
    three.watch_spend(coin)
    await three.told()
    from_height = three.chain.index.tip.height
    spent = await spent_while_an_honest_one_is_away(three, kit, coin)
    await three.chain.mine(1, kit.LOCKED)
    await three.told()
    held = RemoteBlocks.ask_late
    three.remote._blocks.ask_late = _nothing_late  # the reading for the other watch comes first
    await three.heal(2)
    await three.settled()
    three.follower.watch_tx(WatchTx(txid=other.txid[::-1], script=kit.OPEN, from_height=from_height))
    facts = await three.told()
    three.remote._blocks.ask_late = partial(held, three.remote._blocks)
    assert spent in facts + await three.told()


async def _nothing_late(_helper, _relied_on):
    return None


async def test_an_output_that_liars_call_unspent_is_asked_about_when_an_honest_helper_is_back(
    three, kit, autojump_clock
):
    coin = await three.confirmed_coin()
    await three.follow()
    from_height = three.chain.index.tip.height
    before = [await server._proofs.output(coin.txid, 0) for server in three.servers[:2]]

    def lie(made):
        async def unspent(request, answer):
            if isinstance(request, GetOutput):
                return Output(request.request, made[0], made[1], (made[2],))
            return await withholding(Matches)(request, answer)

        return unspent

    spent = await spent_while_an_honest_one_is_away(three, kit, coin)
    three.servers[0].lie, three.servers[1].lie = map(lie, before)
    await three.chain.mine(3, kit.LOCKED)
    await three.told()
    order = WatchOutpoint(outpoint=point(coin), script=coin.outputs[0].script, from_height=from_height)
    three.follower.watch_outpoint(order)
    assert await three.told() == []
    await three.heal(2)
    assert spent in await three.told()


def inventing(tx, branch=(NOBODY,), place=1):
    """This transaction is shown as part of every block that is asked for."""

    async def lie(request, answer):
        if isinstance(request, GetMatches):
            proven = Proven(0, branch, tx.raw), ProvenWhole(place, branch, tx.raw, ())
            return Matches(request.request, request.block_hash, proven[:1], proven[1:])
        return answer

    return lie


async def test_an_invented_spend_or_confirmation_is_not_told(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    three.watch_spend(coin)
    invented = kit.pay([kit.coin(coin)], 1000)
    three.follower.watch_tx(WatchTx(txid=invented.txid, script=kit.OPEN, from_height=three.chain.index.tip.height))
    await three.told()
    three.servers[1].lie = inventing(invented)
    await three.chain.mine(1, kit.LOCKED)
    assert await three.told() == [TipChanged()]
    height = three.chain.index.tip.height
    status = three.status(1)
    assert status.last_lie == f"it showed transaction {shown(invented)} as part of block {height}, which it is not"
    assert [each.lies > 0 for each in three.remote.helpers()] == [False, True, False]


def replaced(answer, change):
    """The answer with the bytes of its transaction changed; the id stays, and so does the proof that it is in the block."""
    (spend,) = answer.transactions
    changed = msgspec.structs.replace(spend, transaction=change(spend.transaction))
    return msgspec.structs.replace(answer, transactions=(changed,))


def forge_the_witness(answer, kit):
    return replaced(answer, lambda raw: raw.replace(kit.OPEN_SCRIPT + bytes(4), b"\x00" + bytes(4)))


def leave_out_the_witness(answer, kit):
    return replaced(answer, lambda raw: raw[:4] + raw[6 : -6 - len(kit.OPEN_SCRIPT)] + raw[-4:])


def leave_out_the_coinbase(answer, _kit):
    return msgspec.structs.replace(answer, coinbase=())


def take_another_for_the_coinbase(answer, _kit):
    (spend,) = answer.transactions
    return msgspec.structs.replace(answer, coinbase=(Proven(spend.index, spend.branch, spend.transaction),))


def strip_the_coinbase(answer, _kit):
    """Without the reserved value that is its witness."""
    (first,) = answer.coinbase
    raw = first.transaction
    bare = raw[:4] + raw[6:-38] + raw[-4:]
    return msgspec.structs.replace(answer, coinbase=(msgspec.structs.replace(first, transaction=bare),))


def shorten_the_branch(answer, _kit):
    (spend,) = answer.transactions
    return msgspec.structs.replace(answer, transactions=(msgspec.structs.replace(spend, witness_branch=()),))


FORGERIES = [
    forge_the_witness,
    leave_out_the_witness,
    leave_out_the_coinbase,
    take_another_for_the_coinbase,
    strip_the_coinbase,
    shorten_the_branch,
]


@pytest.mark.parametrize("forge", FORGERIES)
async def test_a_spend_in_a_block_is_told_with_the_witnesses_that_it_has_there(three, kit, forge, autojump_clock):
    """A transaction's id does not bind its witness, and in the witness are preimages. Nobody knows the spent output."""
    coin = await three.confirmed_coin()
    await three.follow()
    from_height = three.chain.index.tip.height
    spend = kit.pay([kit.coin(coin)], 1000)
    await three.chain.publish((spend.raw,))
    await three.chain.mine(1, kit.LOCKED)
    height = three.chain.index.tip.height
    await three.told()

    async def lie(request, answer):
        if isinstance(answer, Matches) and answer.transactions:
            await trio.sleep(1)  # whoever answers last must not win
            return forge(answer, kit)
        return answer

    three.servers[2].lie = lie
    order = WatchOutpoint(outpoint=point(coin), script=coin.outputs[0].script, from_height=from_height)
    three.follower.watch_outpoint(order)
    spent = [fact for fact in await three.told() if isinstance(fact, OutputSpent)]
    assert spent[-1] == OutputSpent(outpoint=point(coin), transaction=spend.raw, height=height)
    assert [each.lies > 0 for each in three.remote.helpers()] == [False, False, True]
    words = three.status(2).last_lie
    unproven = f"it showed transaction {shown(spend)} in block {height} with witnesses not proven there"
    headless = f"it showed transactions of block {height} without the one that commits to their witnesses"
    assert words in (unproven, headless)


async def test_real_transactions_that_were_not_asked_for_are_refused(three, kit, autojump_clock):
    await three.follow()
    (block,) = await three.chain.mine(1, kit.LOCKED)
    coinbase = kit.parse_block(await three.chain.block(block)).transactions[0]
    three.servers[0].lie = inventing(coinbase, branch=(), place=0)
    assert await three.told() == [TipChanged()]
    words = f"it sent transactions of block {three.chain.index.tip.height} that it was not asked for"
    assert [each.last_lie for each in three.remote.helpers()] == [words, "", ""]


async def test_an_unconfirmed_spend_that_nobody_signed_is_not_told(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    three.watch_spend(coin)
    await three.told()
    whole = kit.pay([kit.coin(coin)], 1000)
    forged = kit.parse_transaction(whole.raw.replace(kit.OPEN_SCRIPT + bytes(4), b"\x00" + bytes(4)))
    assert forged.txid == whole.txid

    async def lie(request, answer):
        return Mempool(answer.request, (forged.raw,)) if isinstance(request, GetMempool) else answer

    three.servers[2].lie = lie
    await three.chain.mine(1, kit.LOCKED)
    assert await three.told() == [TipChanged()]
    words = f"it showed an unconfirmed spend that is not signed for: {shown(forged)}, input 0"
    assert three.status(2).last_lie.startswith(words)
    assert not three.status(0).lies


async def test_an_unconfirmed_spend_of_what_nobody_can_show_is_not_told(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    never = kit.pay([kit.coin(coin)], 1000)  # made by nobody: neither in a block nor in a mempool
    three.watch_spend(never)
    spend = kit.pay([kit.coin(never)], 1000)

    async def lie(request, answer):
        return Mempool(answer.request, (spend.raw,)) if isinstance(request, GetMempool) else answer

    three.servers[0].lie = lie
    assert await three.told() == []
    await three.chain.mine(1, kit.LOCKED)
    assert await three.told() == [TipChanged()]
    assert all(is_fine(each) for each in three.remote.helpers())  # for all we know it may be so


async def test_a_lighter_fork_is_not_followed_and_its_server_does_not_count(scene, kit, tmp_path, autojump_clock):
    other = KernelChain(tmp_path / "other")
    await scene.nursery.start(scene._run, other.running())
    await other.mine(3, kit.OPEN)
    await scene.chain.mine(6, kit.LOCKED)
    await scene.begin([scene.chain, other, scene.chain])
    await scene.until(
        lambda: scene.status(1).trouble.startswith("is on") and [scene.status(n).lag for n in (0, 2)] == [0, 0]
    )
    status = scene.status(1)
    assert status.trouble == "is on a fork with no more work than ours, from block 0 on"
    assert (status.lag, status.lies) == (4, 0)
    assert await scene.remote.tip() == await scene.chain.tip()
    assert await scene.remote.transactions(await scene.chain.tip(), NO_INTERESTS) == ()
    await other.mine(10, kit.OPEN)  # on regtest work is free: who has more is followed
    await scene.until(lambda: scene.remote._headers.tip.hash == other.index.tip.hash and not scene.status(1).trouble)
    assert scene.remote.doubt.startswith("1 of 3 helpers can be relied on, 2 wanted: ")


async def test_a_fork_in_vain_is_not_read_over_and_over(scene, kit, tmp_path, monkeypatch, autojump_clock):
    monkeypatch.setattr(header_sync, "VAIN_HEADER", 10.0)
    other = KernelChain(tmp_path / "other")
    await scene.nursery.start(scene._run, other.running())
    await other.mine(3, kit.OPEN)
    await scene.chain.mine(6, kit.LOCKED)
    await scene.begin([scene.chain, other, scene.chain])
    await scene.until(lambda: scene.status(1).trouble.startswith("is on"))
    began, asked = trio.current_time(), []

    async def note(request, answer):
        asked.append(trio.current_time() - began)
        return answer

    scene.servers[1].lie = note
    scene.network.cut(scene.client.peer_id, scene.hosts[1].peer_id)  # nor when it comes anew
    await scene.until(lambda: not scene.status(1).connected)
    await scene.until(lambda: scene.status(1).connected)
    (client,) = scene.servers[1]._clients.values()
    while trio.current_time() < began + 100:
        client.tell_news()
        await trio.sleep(0.5)
    assert asked[0] >= 30
    assert len(asked) < 10


async def test_headers_without_work_are_a_lie_and_move_nothing(three, kit, autojump_clock):
    await three.chain.mine(1, kit.LOCKED)
    await three.settled()
    tip = await three.remote.tip()

    async def lie(request, answer):
        if isinstance(answer, Headers) and answer.headers:
            *good, last = split_headers(answer.headers)
            nonce = next(n for n in range(1000) if not _has_work(last[:76] + n.to_bytes(4, "little")))
            return Headers(answer.request, answer.tip_height, b"".join(good) + last[:76] + nonce.to_bytes(4, "little"))
        return answer

    three.servers[0].lie = lie
    three.part(0)
    three.part(1)
    three.part(2)
    await three.chain.mine(1, kit.LOCKED)
    await three.heal(0)
    await three.until(lambda: three.status(0).lies > 0)
    assert three.status(0).last_lie == f"header {tip.height + 1} has too little work"
    assert three.remote._headers.height == tip.height
    await three.link(1)
    await three.link(2)
    await three.until(lambda: three.remote._headers.height == tip.height + 1)


async def test_when_our_clock_is_wrong_nobody_is_called_a_liar(scene, kit, autojump_clock):
    hosts = [await scene.host(bytes([0x61 + number]) * 32) for number in range(2)]
    for host in hosts:
        scene.nursery.start_soon(Server(host=host, chain=scene.chain, look_every=0.1).run)
    now = [0.0]
    addresses = [host.addresses()[0] for host in hosts]
    remote = RemoteChain(await scene.host(b"\x51" * 32), addresses, REGTEST, clock=lambda: now[0])
    with pytest.raises(
        ChainUnavailable, match="header 1 is more than two hours ahead of our clock: check that it is right"
    ):
        async with remote.running():
            pass
    assert [each.lies for each in remote.helpers()] == [0, 0]
    now[0] = scene.chain.index.tip.time
    async with remote.running():
        assert remote.doubt is None


def _has_work(raw):
    return int.from_bytes(parse_header(raw).hash, "little") < 1 << 255


@pytest.mark.parametrize("estimate", [0, 1, 10**12])
async def test_one_fee_estimate_at_either_end_changes_nothing(three, estimate, autojump_clock):
    for server, honest in zip(three.servers, (5000, 6000, 7000), strict=True):
        server.lie = _estimating(honest)
    assert await three.remote.feerate(6) == 6000
    three.servers[1].lie = _estimating(estimate)
    chosen = 5000 if estimate < 5000 else 7000
    assert await three.remote.feerate(6) == chosen
    status = three.status(1)
    assert status.last_disagreement == f"its fee estimate is {estimate} sat/kvB, {chosen} is taken"
    for server in three.servers:
        server.lie = _estimating(estimate)
    assert await three.remote.feerate(6) == (1000 if estimate < 1000 else RemotePolicy().feerate_cap)


async def test_the_fee_estimates_of_caught_liars_are_not_taken_while_another_answers(three, kit, autojump_clock):
    three.servers[0].lie = three.servers[2].lie = inventing(kit.pay([(bytes(36), 5000, kit.OPEN)], 1000))
    await three.follow()
    await three.chain.mine(1, kit.LOCKED)
    await three.told()
    assert [each.lies > 0 for each in three.remote.helpers()] == [True, False, True]
    for server, rate in zip(three.servers, (10**6, 5000, 10**6), strict=True):
        server.lie = _estimating(rate)
    await three.until(lambda: not any(each.trouble for each in three.remote.helpers()))
    assert await three.remote.feerate(6) == 5000
    three.part(1)
    await three.until(lambda: not three.status(1).connected)
    assert await three.remote.feerate(6) == RemotePolicy().feerate_cap


def _estimating(rate):
    async def lie(request, answer):
        return Feerate(request.request, FeeRate(rate)) if isinstance(request, GetFeerate) else answer

    return lie


async def test_a_helper_that_lags_is_told_apart_and_not_waited_for(three, kit, autojump_clock):
    await three.follow()
    stale = three.chain.index.tip

    async def lie(request, answer):
        if isinstance(request, GetHeaders):
            return Headers(request.request, stale.height, b"")
        if isinstance(request, GetMatches):
            return Refused(request.request, RefusalCode.UNKNOWN_BLOCK, "no such block in my best chain")
        return answer

    three.servers[1].lie = lie
    await three.chain.mine(4, kit.LOCKED)
    began = trio.current_time()
    facts = []
    while not facts:
        facts += (await three.follower.next()).facts
    assert facts == [TipChanged()]
    assert trio.current_time() - began < 10
    await three.told()
    status = three.status(1)
    assert (status.lag, status.lies) == (4, 0)
    assert three.follower.tip == await three.chain.tip()


async def test_a_silent_helper_costs_its_deadline_once_and_is_noted(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    three.watch_spend(coin)
    await three.told()
    three.servers[0].lie = silent(GetMatches)
    spend = kit.pay([kit.coin(coin)], 1000)
    await three.chain.publish((spend.raw,))
    await three.chain.mine(1, kit.LOCKED)
    facts = await three.told()
    height = three.chain.index.tip.height
    assert OutputSpent(outpoint=point(coin), transaction=spend.raw, height=height) in facts
    assert three.status(0).silences >= 1
    assert three.status(0).lies == 0
    began = trio.current_time()
    await three.chain.mine(16, kit.LOCKED)
    while three.follower.tip != three.chain.index.tip:
        await three.follower.next()
    assert trio.current_time() - began < 40  # not ten seconds for each of them
    three.servers[0].lie = None
    await three.settled()  # its stream was opened anew, for the old one is stuck


async def test_a_helper_that_answers_just_in_time_holds_up_little(three, kit, autojump_clock):
    """Every publication asks a dozen questions: ten seconds for each would let deadlines pass."""
    coin = await three.confirmed_coin()
    await three.follow()
    three.watch_spend(coin)
    await three.told()

    async def late(request, answer):
        if not isinstance(request, GetHeaders):
            await trio.sleep(9)
        return answer

    three.servers[0].lie = late
    began = trio.current_time()
    for _ in range(30):
        await three.remote.feerate(6)
    assert await three.remote.publish((kit.pay([kit.coin(coin)], 1000).raw,))
    await three.chain.mine(16, kit.LOCKED)
    while three.follower.tip != three.chain.index.tip:
        await three.follower.next()
    assert trio.current_time() - began < 60
    assert (three.status(0).silences, three.status(0).lies) == (0, 0)


async def test_what_a_helper_knows_that_is_not_waited_for_is_told_late(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    three.watch_spend(coin)
    await three.told()

    async def late(request, answer):
        if not isinstance(request, GetHeaders):
            await trio.sleep(5)
        return answer

    three.servers[0].lie = late
    for _ in range(5):
        await three.remote.feerate(6)
    three.servers[1].lie = three.servers[2].lie = withholding(Matches)
    spend = kit.pay([kit.coin(coin)], 1000)
    await three.chain.publish((spend.raw,))
    await three.chain.mine(1, kit.LOCKED)
    height = three.chain.index.tip.height
    await three.chain.mine(1, kit.LOCKED)
    told = OutputSpent(outpoint=point(coin), transaction=spend.raw, height=height)
    assert told in await three.told()


async def test_when_too_few_answer_nothing_is_taken_for_granted(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    three.watch_spend(coin)
    await three.told()
    three.part(0)
    three.part(1)
    await three.chain.mine(1, kit.LOCKED)
    assert await three.told() == [TipChanged()]
    assert three.follower.trouble.startswith("1 of 3 helpers can be relied on, 2 wanted: ")
    assert three.follower.trouble.count("not connected") == 2
    assert await three.remote.surely_unspent(coin.txid, 0) is None
    await three.heal(0)
    height = three.chain.index.tip.height
    await three.until(lambda: is_fine(three.status(0)))
    assert three.follower.trouble == f"fewer than 2 reliable helpers were asked about block {height} so far"
    assert await three.told() == []
    assert three.follower.trouble is None
    for number in range(3):
        three.part(number)
    assert await three.told() == []
    assert three.follower.trouble.startswith("none of our helpers can be asked: ")


async def test_doubt_about_a_block_ends_with_the_block(three, kit, autojump_clock):
    await three.follow()
    three.part(0)
    three.part(1)
    (block,) = await three.chain.mine(1, kit.LOCKED)
    assert await three.told() == [TipChanged()]
    await three.chain.invalidate(block)
    assert TipChanged() in await three.told()
    await three.heal(0)
    await three.told()
    assert three.follower.tip == await three.chain.tip()
    assert three.follower.trouble is None


async def test_one_that_refuses_to_publish_hinders_nobody(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.settled()

    async def lie(request, answer):
        return Published(request.request, 2, "min relay fee not met") if isinstance(request, Publish) else answer

    three.servers[0].lie = lie
    tx = kit.pay([kit.coin(coin)], 1000)
    result = await three.remote.publish((tx.raw,))
    assert result.verdict in (Verdict.ACCEPTED, Verdict.KNOWN)
    assert await three.chain.mempool() == (tx.txid,)
    words = "it refused to publish what others took: min relay fee not met"
    assert [each.last_disagreement for each in three.remote.helpers()] == [words, "", ""]
    three.servers[1].lie = three.servers[2].lie = lie
    bad = await three.remote.publish((kit.pay([kit.coin(tx)], 1000).raw,))
    assert (bad.verdict, bad.reason) == (Verdict.REFUSED, "min relay fee not met")


async def test_what_liars_only_say_they_published_is_published_when_an_honest_helper_is_back(
    scene, kit, autojump_clock
):
    coin = await scene.confirmed_coin()
    await scene.begin([scene.chain] * 3)
    await scene.settled()
    tx = kit.pay([kit.coin(coin)], 1000)
    servers, published = scene.servers, []

    async def swallowing(client, request):
        if isinstance(request, Publish):
            published.append(request)
            return Published(request.request, 0, "")
        return await ChainFactsServer._facts(servers[0], client, request)

    servers[0]._facts = servers[1]._facts = swallowing
    scene.part(2)
    assert (await scene.remote.publish((tx.raw,))).verdict is Verdict.ACCEPTED
    assert (len(published), await scene.chain.mempool()) == (2, ())
    await scene.heal(2)
    await scene.settled()
    await scene.chain.mine(1, kit.LOCKED)
    await scene.until(lambda: tuple(scene.chain.mempool_now.entries) == (tx.txid,))


class Swallowing:
    """Two helpers that take what is published for themselves, and say that their mempool has it."""

    def __init__(self, scene):
        self.has = {}
        for server in scene.servers[:2]:
            server._facts = partial(self._facts, server)

    async def _facts(self, server, client, request):
        if isinstance(request, Publish):
            self.has |= {parse_transaction(raw).txid: raw for raw in request.transactions}
            return Published(request.request, 0, "")
        if isinstance(request, GetMempool):
            return Mempool(request.request, tuple(self.has.values()))
        return await ChainFactsServer._facts(server, client, request)

    def forge(self, txid):
        """Break the witness of the last input; nothing that the client watches is spent by it."""
        raw = self.has[txid]
        self.has[txid] = raw[:-40] + bytes([raw[-40] ^ 1]) + raw[-39:]


async def wanted_block_after_block(scene, kit, wallet, order, blocks):
    """What the broadcaster does while the engine orders a publication at every block; each time on a new start."""
    for _ in range(blocks):
        await scene.chain.mine(1, kit.LOCKED)
        await scene.until(lambda: scene.remote._headers.tip.hash == scene.chain.index.tip.hash)
        broadcaster = Broadcaster(scene.remote, wallet)
        broadcaster.take(order)
        await broadcaster.carry_out()


@pytest.fixture
def once(monkeypatch):
    """What is published through helpers is not given to them again by itself."""
    monkeypatch.setattr(remote_publish, "AGAIN_FOR", -1)


async def test_a_transaction_that_liars_say_is_in_their_mempool_is_published_all_the_same(
    scene, kit, once, autojump_clock
):
    wallet = kit.KeyWallet()
    coin = await scene.confirmed_coin()
    await scene.begin([scene.chain] * 3)
    await scene.settled()
    liars, tx = Swallowing(scene), kit.pay([kit.coin(coin)], 1000)
    liars.has[tx.txid] = tx.raw
    scene.part(2)
    order = channel_events.Publish(channel_id=CHANNEL, transaction=tx.raw, purpose=Purpose.SWEEP)
    await wanted_block_after_block(scene, kit, wallet, order, 2)
    await scene.heal(2)
    await scene.settled()
    await wanted_block_after_block(scene, kit, wallet, order, 1)
    assert await scene.chain.mempool() == (tx.txid,)
    await scene.chain.mine(1, kit.LOCKED)
    await wanted_block_after_block(scene, kit, wallet, order, 1)
    assert await scene.chain.mempool() == ()


@pytest.mark.parametrize("forged", [False, True])
async def test_a_close_that_liars_say_is_in_their_mempool_is_published_all_the_same(
    scene, kit, forged, once, autojump_clock
):
    wallet = kit.KeyWallet()
    await kit.with_coins(scene.chain, wallet, 200_000)
    (source,) = await kit.funded(scene.chain, 1)
    parent = kit.commitment(source)
    await scene.begin([scene.chain] * 3)
    await scene.settled()
    liars = Swallowing(scene)
    scene.part(2)
    deadline = scene.chain.index.tip.height + 144
    order = channel_events.PublishWithChild(
        channel_id=CHANNEL, transaction=parent.raw, anchor_index=1, deadline=deadline
    )
    await wanted_block_after_block(scene, kit, wallet, order, 2)
    (child,) = liars.has.keys() - {parent.txid}
    if forged:
        liars.forge(child)
    await scene.heal(2)
    await scene.settled()
    await wanted_block_after_block(scene, kit, wallet, order, 1)
    assert set(await scene.chain.mempool()) == {parent.txid, child}


async def test_a_claim_that_liars_say_is_in_their_mempool_is_published_all_the_same(scene, kit, once, autojump_clock):
    wallet = kit.KeyWallet()
    await kit.with_coins(scene.chain, wallet, 200_000)
    coin = await scene.confirmed_coin()
    await scene.begin([scene.chain] * 3)
    await scene.settled()
    liars = Swallowing(scene)
    scene.part(2)
    value = coin.outputs[0].value
    htlc = kit.build([kit.coin(coin)], [(value, kit.OPEN)], version=3, sequence=0)
    order = channel_events.PublishWithInputs(
        channel_id=CHANNEL,
        transaction=htlc.raw,
        purpose=Purpose.HTLC_SUCCESS,
        spent_value=value,
        deadline=scene.chain.index.tip.height + 100,
    )
    await wanted_block_after_block(scene, kit, wallet, order, 2)
    (claim,) = liars.has
    await scene.heal(2)
    await scene.settled()
    await wanted_block_after_block(scene, kit, wallet, order, 1)
    assert await scene.chain.mempool() == (claim,)


async def test_what_is_in_a_block_is_published_no_more(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    seen = []

    async def note(request, answer):
        if isinstance(request, Publish):
            seen.append(three.chain.index.tip.height)
        return answer

    three.servers[0].lie = note
    tx = kit.pay([kit.coin(coin)], 1000)
    await three.remote.publish((tx.raw,))
    at = three.chain.index.tip.height
    for _ in range(4):
        await three.chain.mine(1, kit.LOCKED)
        await three.told()
    assert seen in ([at], [at, at + 1])  # at most once more, when its block came


async def test_a_helper_that_cries_news_all_the_time_keeps_nobody_busy(three, kit, autojump_clock):
    await three.follow()
    asked = []

    async def note(request, answer):
        asked.append(request)
        return answer

    three.servers[0].lie = note
    (client,) = three.servers[1]._clients.values()
    began = trio.current_time()
    while trio.current_time() < began + 10:
        client.tell_news()
        with trio.move_on_after(0.01):
            await three.follower.next()
    assert len(asked) < 60


async def test_a_block_after_a_quiet_time_is_known_at_once(three, kit, autojump_clock):
    await trio.sleep(10)
    known, began = await three.remote.tip(), trio.current_time()
    await three.chain.mine(1, kit.LOCKED)
    while three.remote._headers.tip.hash == known.hash:
        await three.remote._changed.wait()
    assert trio.current_time() - began < NEWS_EVERY / 2  # the news, a question, its answer: 0.03 s


async def test_with_no_helper_at_all_publishing_says_so(three, kit, autojump_clock):
    for number in range(3):
        three.part(number)
    with pytest.raises(ChainUnavailable, match="no helper takes a transaction: they are not connected"):
        await three.remote.publish((kit.pay([kit.coin(await three.confirmed_coin())], 1000).raw,))


async def test_a_spend_that_is_only_claimed_hides_no_output(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    state = await three.remote.confirmed_output(coin.txid, 0)
    assert state == await three.chain.confirmed_output(coin.txid, 0)
    assert await three.remote.surely_unspent(coin.txid, 0) == state

    async def lie(request, answer):
        return Output(request.request, NOBODY, NOBODY, ()) if isinstance(request, GetOutput) else answer

    three.servers[0].lie = lie
    assert await three.remote.confirmed_output(coin.txid, 0) == state
    assert await three.remote.surely_unspent(coin.txid, 0) is None  # so the follower reads the blocks
    words = f"it says, without proof, that output 0 of {shown(coin)} is not unspent"
    assert [each.last_disagreement for each in three.remote.helpers()] == [words, "", ""]
    three.watch_spend(coin)
    assert await three.told() == []


async def test_an_output_that_was_never_made_is_not_invented(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.settled()
    honest = await three.remote.confirmed_output(coin.txid, 0)
    never = kit.pay([kit.coin(coin)], 1000)
    tip = three.chain.index.tip.hash

    async def lie(request, answer):
        if isinstance(request, GetOutput):
            return Output(request.request, tip, tip, (Proven(1, (NOBODY,), never.raw),))
        return answer

    three.servers[1].lie = lie
    assert await three.remote.confirmed_output(never.txid, 0) is None
    assert three.status(1).last_lie.startswith(f"it showed transaction {shown(never)} as part of block")
    await three.until(lambda: three.status(1).connected)
    assert await three.remote.confirmed_output(coin.txid, 0) == honest


async def test_answers_to_other_questions_and_none_at_all_change_nothing(three, kit, autojump_clock):
    """Lawful messages where they do not belong, and bytes that only look like what was asked for."""
    coin = await three.confirmed_coin()
    await three.follow()
    three.watch_spend(coin)
    await three.told()
    odd = itertools.cycle(
        [
            lambda n: Feerate(n, 5),
            lambda n: Headers(n, 10**6, b"\x07" * 160),
            lambda n: Headers(n, 3, bytes(79)),
            lambda n: Matches(n, NOBODY, (), ()),
            lambda n: Matches(n, NOBODY, (Proven(0, (), bytes(60)),), (ProvenWhole(0, (), bytes(60), ()),)),
            lambda n: Mempool(n, (bytes(60),)),
            lambda n: Output(n, NOBODY, NOBODY, (Proven(7, (NOBODY,) * 15, bytes(100)),)),
            lambda n: Published(n, 0, ""),
            lambda n: Refused(n, 99, "\x1b[2J"),
            lambda n: Refused(n + 1000, 1, "an answer to nothing"),
            lambda n: wire.Watching(n, 0),
            lambda n: wire.News(1, bytes(80)),
            lambda n: wire.Piece(2, 2, b"x"),
            lambda n: wire.Stop(7, "\x1b[2J good bye"),
            lambda n: GetMempool(n),
        ]
    )

    async def lie(request, answer):
        return next(odd)(request.request)

    three.servers[0].lie = lie
    spend = kit.pay([kit.coin(coin)], 1000)
    await three.chain.publish((spend.raw,))
    for _ in range(6):
        await three.chain.mine(1, kit.LOCKED)
        await three.told(15)
        await three.remote.feerate(6)
        await three.remote.confirmed_output(coin.txid, 0)
        await three.remote.publish((spend.raw,))
    assert await three.remote.confirmed_output(coin.txid, 0) is None
    assert three.follower.tip == await three.chain.tip()
    assert three.client.counters.handler_errors == 0
    assert three.follower.trouble is None
    assert "\x1b" not in repr(three.status(0)).replace("\\x1b", "\x1b")
    assert not three.status(1).lies


async def test_why_a_helper_is_away_is_said(three, kit, autojump_clock):
    three.servers[0]._most = 0
    three.network.cut(three.client.peer_id, three.hosts[0].peer_id)
    three.hosts[1]._handlers.pop(PROTOCOL)
    three.network.cut(three.client.peer_id, three.hosts[1].peer_id)
    three.part(2)
    await trio.sleep(30)
    full, none, away = (each.trouble for each in three.remote.helpers())
    assert full == "it said: this node serves all the clients it can"
    assert none == "linked, but it does not serve the chain"
    assert away.startswith("not connected: ")


async def test_a_start_without_any_helper_says_so_and_with_one_makes_do(scene, kit, autojump_clock):
    hosts = [await scene.host(bytes([0x61 + number]) * 32) for number in range(3)]
    client = await scene.host(b"\x51" * 32)
    remote = RemoteChain(client, [host.addresses()[0] for host in hosts], REGTEST)
    with pytest.raises(ChainUnavailable, match="none of our helpers can be asked: "):
        async with remote.running():
            pass
    scene.nursery.start_soon(Server(host=hosts[1], chain=scene.chain).run)
    remote = RemoteChain(client, [host.addresses()[0] for host in hosts], REGTEST)
    async with remote.running():
        assert await remote.tip() == await scene.chain.tip()
        assert remote.doubt.startswith("1 of 3 helpers can be relied on, 2 wanted: ")


async def test_a_confirmation_told_by_one_is_told(three, kit, autojump_clock):
    coin = await three.confirmed_coin()
    await three.follow()
    tx = kit.pay([kit.coin(coin)], 1000)
    three.follower.watch_tx(WatchTx(txid=tx.txid, script=kit.OPEN, from_height=three.chain.index.tip.height))
    await three.told()
    three.servers[0].lie = three.servers[1].lie = withholding(Matches)
    await three.remote.publish((tx.raw,))
    await three.chain.mine(1, kit.LOCKED)
    height = three.chain.index.tip.height
    assert (await three.told())[-2:] == [
        TxConfirmed(txid=tx.txid, height=height, transaction=tx.raw),
        TipChanged(),
    ]


async def test_a_next_start_asks_only_for_headers_that_are_not_kept(scene, kit, tmp_path, autojump_clock):
    await scene.chain.mine(20, kit.LOCKED)
    file = tmp_path / "headers"
    await scene.begin([scene.chain] * 3, headers_file=file)
    await scene.settled()
    await scene.chain.mine(2, kit.LOCKED)
    await scene.settled()
    tip = await scene.chain.tip()
    asked = []

    async def note(request, answer):
        if isinstance(request, GetHeaders):
            asked.append(request.locator[0])
        return answer

    for server in scene.servers:
        server.lie = note
    remote = RemoteChain(await scene.host(b"\x52" * 32), scene.addresses, REGTEST, headers_file=file)
    async with remote.running():
        assert await remote.tip() == tip
        assert set(asked) == {tip.hash}


async def test_a_client_begins_at_the_block_that_its_owner_names(scene, kit, autojump_clock):
    await scene.chain.mine(150, kit.LOCKED)
    (header,) = await scene.chain.headers(144, 1)
    await scene.begin([scene.chain] * 3, checkpoint=Checkpoint(height=144, header=header))
    await scene.settled()
    assert await scene.remote.tip() == await scene.chain.tip()
    with pytest.raises(ChainUnavailable, match="block 143 is below the checkpoint at 144; name an older one"):
        await scene.remote.block_at(143)


async def test_a_branch_that_was_lost_soon_after_the_checkpoint_is_left_at_the_checkpoint(scene, kit, autojump_clock):
    await scene.chain.mine(150, kit.LOCKED)
    (header,) = await scene.chain.headers(144, 1)
    await scene.begin([scene.chain] * 3, checkpoint=Checkpoint(height=144, header=header))
    await scene.settled()
    follower = Follower(scene.remote, cursor=(149, b"\x07" * 32), mempool=False)
    await follower.start()
    assert follower.tip == await scene.chain.block_at(144)


async def test_a_checkpoint_with_too_low_a_height_is_noticed(scene, kit, autojump_clock):
    """Every deadline would seem to be later than it is."""
    await scene.chain.mine(300, kit.LOCKED)
    (header,) = await scene.chain.headers(288, 1)
    why = "at block 301, which is 157 for us: check the height in chain.checkpoint"
    with pytest.raises(ChainUnavailable, match=why):
        await scene.begin([scene.chain] * 3, checkpoint=Checkpoint(height=144, header=header))
