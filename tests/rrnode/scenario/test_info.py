"""Whole nodes: what a stranger is told of a node while payments pass through it, and a node that finds its way back by
the servers that it remembers."""

import time
from dataclasses import replace

from scenario_kit import Actor, World, eventually

from bootstrap.networks import REGTEST
from protocols.node_record import digest_of
from protocols.payment.events import PayPhase
from protocols.units import Sat, UnixTime
from protocols.wire.info import CODEC, Record, ToldChannel
from rrnode.config.settings import InfoSettings
from rrnode.services.acquaintances import FILE_NAME, load, save
from rrnode.services.asking import About, asking, meet


async def asked(net: World, node: Actor) -> About:
    """What a stranger is told."""
    async with net.throw_away() as stranger:
        met = await meet(stranger, node.address, network=REGTEST.genesis, clock=time.time, channels=True)
    assert met.about is not None, met.problem
    return met.about


async def test_a_payment_changes_nothing_of_what_a_node_tells_about_itself_and_its_channels(net: World) -> None:
    told = InfoSettings(channels="capacity")
    a, b, c = await net.add("A"), await net.add("B", info=told), await net.add("C")
    client = await net.add("E", routes=False)
    await net.mine(101)
    await net.channel(a, b, 1_000_000, push_msat=300_000_000)
    await net.channel(b, c, 2_000_000)
    await client.owner.connect(b.address)
    await net.channel(b, client, 500_000)
    before = await asked(net, b)
    expected = ((c.keys.node_id(), Sat(2_000_000)), (a.keys.node_id(), Sat(1_000_000)))
    assert (before.channels, before.record.channels_digest) == (expected, digest_of(expected))
    held = [b.holds(a), b.holds(c)]
    payment = await a.pay((await c.owner.contact()).contact, 123_456_000)
    assert payment.phase is PayPhase.PAID, payment.reason
    await net.settled()
    assert [b.holds(a), b.holds(c)] != held
    after = await asked(net, b)

    def as_bytes(about: About) -> bytes:
        return CODEC.encode(Record(0, 0, about.signed, tuple(ToldChannel(*each) for each in about.channels)))

    assert as_bytes(after) == as_bytes(before)
    assert (await asked(net, a)).channels == ()


async def test_nodes_that_route_know_each_other_and_a_node_comes_back_by_those_it_met(net: World) -> None:
    relay, server, client = await net.add("A"), await net.add("B"), await net.add("E", routes=False)
    await server.owner.connect(relay.address)

    def knows(one: Actor, *others: Actor) -> bool:
        found = {each.record.node for each in one.node.acquaintances.known}
        return found == {each.keys.node_id() for each in others}

    await eventually("the servers to know each other", lambda: knows(relay, server) and knows(server, relay))
    async with net.throw_away() as stranger:
        peer = await stranger.dial(relay.address)
        async with asking(stranger, peer, network=REGTEST.genesis, clock=time.time) as asker:
            heard = await asker.others()
    assert [record.node for record, _ in heard.records] == [server.keys.node_id()]

    known = relay.node.acquaintances.known + server.node.acquaintances.known
    met = tuple(replace(each, met=each.record.made) for each in known if each.record.node == relay.keys.node_id())
    await client.stop()
    save(client.settings.data_dir / FILE_NAME, met)
    await client.start()
    both = {relay.keys.node_id(), server.keys.node_id()}
    await eventually("the client to join", lambda: set(client.node.host.connected()) == both)
    await client.stop()
    remembered = load(client.settings.data_dir / FILE_NAME, REGTEST.genesis, UnixTime(int(time.time())))
    assert {each.record.node for each in remembered if each.met} == both
