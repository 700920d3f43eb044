"""Our end of a stream to a helper: what it is told that concerns us, and what happens when telling it is broken off."""

import pytest
import trio
from services_kit import until

from protocols.wire.chain import GetFeerate
from rrnode.chain.base import Interests
from rrnode.services import chainfacts
from rrnode.services.chainfacts import ChainFactsServer
from rrnode.services.helpers import Helpers


class Scene:
    """A server on one host, and a client on another that counts its streams."""

    def __init__(self, net, server, helpers):
        self.net, self.server, self.helpers = net, server, helpers
        (self.helper,) = helpers.all

    @property
    def watched(self):
        """What the server knows to concern us."""
        clients = tuple(self.server._clients.values())
        return clients[0].interests if clients else None


@pytest.fixture
async def scene(net, kernel_chain):
    host, mine = await net.host(0), await net.host(1)
    server = ChainFactsServer(host=host, chain=kernel_chain)

    async def idle(helper):
        helper.standing.trouble = ""

    helpers = Helpers(host=mine, peers=[host.peer_id], answer_within=10, beside=idle, changed=lambda: None)
    net.spawn(server, helpers)
    await net.link(mine, host)
    made = Scene(net, server, helpers)
    await until(lambda: made.helper.is_ready)
    return made


def ids(first, count):
    return frozenset(number.to_bytes(32, "big") for number in range(first, first + count))


async def test_it_is_told_what_is_new_in_as_many_messages_as_it_takes(scene, autojump_clock):
    wanted = Interests(txids=ids(0, 1000), scripts=frozenset({b"\x51"}), outpoints=frozenset({bytes(36)}))
    assert await scene.helper.watch(wanted)
    assert scene.watched == wanted == scene.helper.watched
    answers = scene.helper.standing.answers
    assert await scene.helper.watch(wanted)
    assert scene.helper.standing.answers == answers
    assert await scene.helper.watch(Interests(txids=ids(1000, 1)))
    assert scene.watched == wanted | Interests(txids=ids(1000, 1))


async def test_telling_it_that_is_broken_off_ends_the_stream(scene, autojump_clock):
    """Else it would be asked about blocks as if it knew, and be taken for a liar."""
    with trio.move_on_after(0.001):
        await scene.helper.watch(Interests(txids=ids(0, 5)))
    await until(lambda: not scene.helper.is_ready)
    await until(lambda: scene.helper.is_ready)
    assert scene.helper.watched == Interests()
    assert await scene.helper.watch(Interests(txids=ids(0, 5)))
    assert scene.watched == Interests(txids=ids(0, 5))


async def test_more_than_it_may_be_told_ends_the_stream(scene, monkeypatch, autojump_clock):
    monkeypatch.setattr(chainfacts, "MOST_WATCHED", 5)
    assert await scene.helper.watch(Interests(txids=ids(0, 5)))
    assert not await scene.helper.watch(Interests(txids=ids(5, 1)))
    await until(lambda: not scene.helper.is_ready)
    await until(lambda: scene.helper.is_ready)
    assert await scene.helper.watch(Interests(txids=ids(5, 5)))


async def test_questions_are_answered_each_by_its_own_answer(scene, autojump_clock):
    answers = []

    async def ask(number):
        answer = await scene.helper.ask(lambda request: GetFeerate(request, number))
        answers.append((number, answer.sat_per_kvb))

    async with trio.open_nursery() as nursery:
        for number in range(1, 60):
            nursery.start_soon(ask, number)
    assert sorted(answers) == [(number, 1000) for number in range(1, 60)]
    with trio.move_on_after(0.001):
        await ask(1)
    await ask(2)  # the answer to the one that was given up disturbs nobody
    assert answers[-1] == (2, 1000)
    assert scene.helper.is_ready


async def test_without_a_stream_there_is_no_answer(scene, autojump_clock):
    scene.helpers._sessions._needed = lambda peer: False
    scene.helper.drop()
    await until(lambda: not scene.helper.standing.connected)
    assert await scene.helper.ask(lambda number: GetFeerate(number, 6)) is None
    assert not await scene.helper.watch(Interests(txids=ids(0, 1)))
    assert (scene.helper.standing.silences, scene.helper.standing.trouble) == (0, "not connected")
