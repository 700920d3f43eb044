"""Joining over memory hosts: by listed relays, by what they tell, by what is remembered; when relays lie, vanish, or none
answers. Each relay is a host with an info server and a table of its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from services_kit import START, Net, now, until

from bootstrap.join import JoinPolicy
from bootstrap.networks import REGTEST
from bootstrap.relays import Relay
from protocols.ids import PeerId
from protocols.node_record import MAX_AGE, NodeRecord, sign
from protocols.onchain import ec
from protocols.units import UnixTime
from protocols.wire.info import CODEC, PROTOCOL, GetOthers, GetRecord, Others, Record, Signed
from rrnode.config.settings import NodeSettings, RoleSettings, Settings
from rrnode.host.memory import MemoryHost
from rrnode.host.peer_text import split_address, to_text
from rrnode.services.acquaintances import FILE_NAME, Acquaintances, load, save
from rrnode.services.info import InfoServer, OwnRecord
from rrnode.services.joining import Joiner

NETWORK = REGTEST.genesis


def clock() -> float:
    return START + trio.current_time()


class Node:
    """A host, what it says, whom it knows, and how it joins."""

    def __init__(self, net: Net, number: int, host: MemoryHost, path: Path, operator: str = "") -> None:
        self.net, self.host, self.path = net, host, path
        self.told: list[str] = []
        self.reached: list[str] = []
        path.mkdir(exist_ok=True)
        settings = Settings(data_dir=path, node=NodeSettings(operator=operator), roles=RoleSettings(route=True))
        self.acquaintances = Acquaintances(
            host=host, network=NETWORK, anywhere=True, clock=clock, path=path / FILE_NAME
        )
        own = OwnRecord(
            settings=settings, secret=net.secret(number), agent="rrnode/9", host=host, channels=tuple, now=now
        )
        InfoServer(host=host, own=own, others=self.acquaintances.page, now=now)
        self._scope, self._gone = trio.CancelScope(), trio.Event()
        net.nursery.start_soon(self._live)

    async def _live(self) -> None:
        with self._scope:
            await self.acquaintances.run()
        self._gone.set()

    async def stop(self) -> None:
        """An orderly end: what it knows is on disk."""
        self._scope.cancel()
        await self._gone.wait()
        self.net.stop(self.host)
        await until(lambda: not self.host.connected())

    @property
    def relay(self) -> Relay:
        where = tuple(split_address(each)[0] for each in self.host.addresses())
        return Relay(identity=to_text(self.host.peer_id), addresses=where, operator="")

    def join(self, *listed: Relay, learn: bool = True, enough: int = 2) -> Joiner:
        joiner = Joiner(
            host=self.host,
            listed=listed,
            acquaintances=self.acquaintances if learn else None,
            entropy=bytes(32),
            tell=self.told.append,
            reached=self.reached.append,
            policy=JoinPolicy(enough=enough),
        )
        self.net.spawn(joiner)
        return joiner

    def knows(self, *others: "Node") -> bool:
        return {each.record.node for each in self.acquaintances.known} >= {each.host.peer_id for each in others}

    def linked(self, *others: "Node") -> bool:
        return set(self.host.connected()) >= {each.host.peer_id for each in others}


@pytest.fixture
async def make(net: Net, tmp_path: Path) -> Callable[..., Any]:
    async def node(number: int, *, routes: bool = True, **named: Any) -> Node:
        host = await net.host(number, switches=int(routes))
        return Node(net, number, host, tmp_path / str(number), **named)

    return node


async def test_a_server_that_joins_is_told_of_to_the_next_one_that_joins(make, autojump_clock):
    relay, first, second = await make(1), await make(2), await make(3)
    first.join(relay.relay)
    await until(lambda: relay.knows(first) and first.knows(relay))
    second.join(relay.relay)
    await until(lambda: second.linked(relay, first))
    assert second.knows(relay, first)
    assert (first.told, second.told) == ([], [])


async def test_a_client_learns_and_is_not_told_of(make, autojump_clock):
    relay, server, client = await make(1), await make(2), await make(3, routes=False)
    server.join(relay.relay)
    await until(lambda: relay.knows(server))
    client.join(relay.relay)
    await until(lambda: client.linked(relay, server))
    await trio.sleep(100)
    assert not relay.knows(client)
    assert not server.knows(client)


async def test_who_does_not_want_to_learn_dials_listed_relays_only(make, autojump_clock):
    relay, server, node = await make(1), await make(2), await make(3)
    server.join(relay.relay)
    await until(lambda: relay.knows(server))
    node.join(relay.relay, learn=False)
    await until(lambda: node.linked(relay))
    await trio.sleep(1000)
    assert set(node.host.connected()) == {relay.host.peer_id}


async def test_without_a_listed_relay_nobody_is_dialled_whoever_is_known(net, make, autojump_clock):
    one, two, three = await make(1), await make(2), await make(3)
    await net.link(one.host, two.host)
    await net.link(two.host, three.host)
    await until(lambda: two.knows(one, three) and one.knows(two))
    joiner = one.join()
    await trio.sleep(1000)
    assert joiner.plan.known == ()
    assert set(one.host.connected()) == {two.host.peer_id}
    assert one.told == []


async def test_when_none_answers_the_owner_is_told_once_and_the_node_joins_when_one_is_back(net, make, autojump_clock):
    gone = [Relay(identity=to_text(PeerId(ec.point_of(bytes([9]) * 32))), addresses=("/memory/77",), operator="")]
    relay, node = await make(1), await make(2)
    net.network.part(relay.host.peer_id, node.host.peer_id)
    node.join(*gone, relay.relay)
    await until(lambda: bool(node.told))
    await trio.sleep(1000)
    (sentence,) = node.told
    assert sentence.startswith("none of the 2 relays that were tried answers; the last one: /memory/")
    assert sentence.endswith("connection refused")
    net.network.heal()
    await until(lambda: node.linked(relay), 1000)
    net.network.part(relay.host.peer_id, node.host.peer_id)
    await until(lambda: len(node.told) == 2, 1000)


async def test_a_lost_relay_is_dialled_again_and_its_loss_alone_is_no_alarm(net, make, autojump_clock):
    relay, node = await make(1), await make(2)
    node.join(relay.relay)
    for _ in range(3):
        await until(lambda: node.linked(relay))
        net.network.cut(relay.host.peer_id, node.host.peer_id)
        await until(lambda: not node.linked(relay))
    await until(lambda: node.linked(relay))
    assert node.told == []
    assert len(node.reached) >= 4  # where it answered is told each time: it may have become a neighbour meanwhile
    assert {*node.reached} == {*relay.host.addresses()}


async def test_another_server_stands_in_for_a_relay_that_is_gone(net, make, autojump_clock):
    relay, servers, node = await make(1), [await make(2), await make(3)], await make(4)
    for each in servers:
        each.join(relay.relay)
    await until(lambda: relay.knows(*servers))
    node.join(relay.relay, enough=1)
    await until(lambda: node.knows(*servers))
    net.stop(relay.host)
    await until(lambda: any(node.linked(each) for each in servers), 1000)


async def test_good_relays_are_remembered_on_disk_and_tried_without_any_list(make, autojump_clock):
    relay, server, node = await make(1), await make(2), await make(3)
    server.join(relay.relay)
    await until(lambda: relay.knows(server))
    node.join(relay.relay)
    await until(lambda: node.knows(relay, server) and all(each.met for each in node.acquaintances.known))
    await node.stop()
    again = await make(3)
    assert again.acquaintances.known == node.acquaintances.known
    assert all(each.met for each in again.acquaintances.known)
    again.join()
    await until(lambda: again.linked(relay, server))


async def test_a_relay_that_lies_about_others_makes_nobody_known_and_is_counted(net, make, autojump_clock):
    node, host = await make(1), await net.host(2, switches=1)
    stranger = NodeRecord(
        node=PeerId(ec.point_of(b"\x09" * 32)),
        network=NETWORK,
        made=now(),
        switches=1,
        addresses=("/memory/78",),
    )
    mine = NodeRecord(node=host.peer_id, network=NETWORK, made=now(), switches=1, addresses=("/memory/2",))
    forged = Signed(sign(stranger, b"\x09" * 32).content, bytes(64))

    async def lie(stream: Any) -> None:
        while True:
            match CODEC.decode(await stream.receive()):
                case GetRecord(request=number):
                    await stream.send(CODEC.encode(Record(number, now(), sign(mine, net.secret(2)), ())))
                case GetOthers(request=number):
                    await stream.send(CODEC.encode(Others(number, (forged,), False)))

    host.handle(PROTOCOL, lie)
    node.join(Relay(identity=to_text(host.peer_id), addresses=("/memory/2",), operator=""))
    await until(lambda: node.acquaintances.refused.total() == 1)
    assert [each.record.node for each in node.acquaintances.known] == [host.peer_id]


async def test_a_relay_that_says_nothing_is_a_relay_all_the_same(net, make, autojump_clock):
    node, host = await make(1), await net.host(2)
    node.join(Relay(identity=to_text(host.peer_id), addresses=host_addresses(host), operator=""))
    await until(lambda: host.peer_id in node.host.connected())
    await trio.sleep(100)
    assert host.peer_id in node.host.connected()
    assert node.acquaintances.known == ()


def host_addresses(host: MemoryHost) -> tuple[str, ...]:
    return tuple(split_address(each)[0] for each in host.addresses())


# --- the file -------------------------------------------------------------------------------------------------------


def known_of(node: Node) -> Any:
    return node.acquaintances.known


async def test_records_too_old_or_altered_are_not_loaded(make, net, autojump_clock):
    one, two = await make(1), await make(2)
    await net.link(one.host, two.host)
    await until(lambda: one.knows(two))
    path = one.path / "again.json"
    save(path, known_of(one))
    assert path.stat().st_mode & 0o777 == 0o600
    assert load(path, NETWORK, now()) == known_of(one)
    assert load(path, NETWORK, UnixTime(now() + MAX_AGE + 10)) == ()
    saved = json.loads(path.read_text())
    saved["servers"][0]["content"] = "01" + saved["servers"][0]["content"][2:-2] + "00"
    path.write_text(json.dumps(saved))
    assert load(path, NETWORK, now()) == ()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"servers": 1}', '{"servers": [{}]}', '{"servers": [{"content": 1}]}']
)
async def test_a_file_that_cannot_be_read_is_begun_anew(tmp_path, text):
    path = tmp_path / FILE_NAME
    path.write_text(text)
    assert load(path, NETWORK, UnixTime(1)) == ()
