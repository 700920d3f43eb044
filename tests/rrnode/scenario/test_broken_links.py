"""Links that break in the middle of a payment, whole nodes over the memory host: at each message of the dance, on each
channel. Whatever was under way is gone on with when the link is back; nobody pays twice (R10)."""

import pytest
import trio
from scenario_kit import CALM, Actor, FeeSettings, World, example_network, on_sending
from trio.testing import MockClock

from protocols.payment.events import PayPhase
from protocols.wire.channel import (
    CommitmentSigned,
    RevokeAndAck,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFulfillHtlc,
)
from rrnode.control import models as m
from rrnode.control.text import peer_text

PATIENCE = 100.0  # seconds of leaping time: a back-off may come in between
CAPACITY = 1_000_000_000  # millisatoshi


@pytest.fixture
async def line(net: World) -> dict[str, Actor]:
    """A---B---C, everybody routes."""
    net.hosts = CALM
    actors = {name: await net.add(name) for name in "ABC"}
    await net.mine(101)
    await net.channel(actors["A"], actors["B"])
    await net.channel(actors["B"], actors["C"])
    return actors


MESSAGES = (UpdateAddHtlc, CommitmentSigned, RevokeAndAck, UpdateFulfillHtlc)
CUTS = [
    (who, to, kind)
    for who, to in ("AB", "BA", "BC", "CB")
    for kind in MESSAGES
    if not (kind is UpdateAddHtlc and who + to in ("BA", "CB")) and not (kind is UpdateFulfillHtlc and who + to in ("AB", "BC"))
]  # fmt: skip


@pytest.mark.parametrize(("who", "to", "kind"), CUTS, ids=[f"{who}{to}-{kind.__name__}" for who, to, kind in CUTS])
async def test_a_link_that_breaks_at_any_message_of_a_payment_is_healed_and_the_payment_ends(
    leaping_clock: MockClock, net: World, line: dict[str, Actor], who: str, to: str, kind: type
) -> None:
    a, b, c = (line[name] for name in "ABC")
    one, other = line[who], line[to]
    cuts: list[None] = []

    def cut() -> None:
        cuts.append(None)
        net.network.cut(one.keys.node_id(), other.keys.node_id())

    contact = (await c.owner.contact()).contact
    on_sending(one, kind, cut, to=other)
    payment = await a.pay(contact, 5_000_000)
    for here, there in ((a, b), (b, a), (b, c), (c, b)):
        at_rest = lambda here=here, there=there: here.usable(there) and not here.channel_with(there).htlcs  # noqa: E731
        await here.until("the channel to rest", at_rest, PATIENCE)
    assert cuts, "this message never went out"
    paid = payment.phase is PayPhase.PAID
    if kind is not UpdateAddHtlc:
        assert paid, payment.reason
    sent = payment.attempts[-1].amount if paid else 0
    got = 5_000_000 if paid else 0
    assert (a.holds(b), b.holds(a)) == (CAPACITY - sent, sent)
    assert (b.holds(c), c.holds(b)) == (CAPACITY - got, got)
    assert net.total() == 2 * CAPACITY


def _dear(name: str, actors: dict[str, Actor]) -> FeeSettings:
    if name != "D":
        return FeeSettings()
    return FeeSettings(neighbours=(f"{peer_text(actors['B'].keys.node_id())} 20000 0",))


@pytest.mark.parametrize("kind", [UpdateFailHtlc, CommitmentSigned, RevokeAndAck])
async def test_a_failure_that_is_not_irrevocable_lets_the_payer_try_nothing_else(
    leaping_clock: MockClock, net: World, kind: type
) -> None:
    """B pays E by C, which fails it; the link B-C breaks at each step of the failure. While it is broken B must wait."""
    net.hosts = CALM
    actors = await example_network(net, _dear)
    b, c, d, e = (actors[name] for name in "BCDE")
    us, them = b.keys.node_id(), c.keys.node_id()
    network = net.network

    def arm() -> None:
        """C has decided to fail: from here on its next message of this kind is the one that gets lost."""
        if kind is UpdateFailHtlc:
            network.part(us, them)
        else:
            on_sending(c, kind, lambda: network.part(us, them), to=b)

    contact = (await e.owner.contact()).contact
    payment_hash = await b.owner.pay(m.PayOrder(target=contact, amount_msat=7_000_000, quiet_ms=1500))
    await _two_offers(b, payment_hash)
    network.part(them, d.keys.node_id())
    fails = c.node.channels.send

    def watching(peer: bytes, message: object) -> None:
        if isinstance(message, UpdateFailHtlc) and peer == us:
            if kind is not UpdateFailHtlc:
                fails(peer, message)
            c.node.channels.send = fails
            arm()
        else:
            fails(peer, message)

    c.node.channels.send = watching
    parted = lambda: not b.channel_with(c).connected  # noqa: E731
    await b.until("the cut", parted, PATIENCE)
    await trio.sleep(30)
    payment = b.node.money.payment(payment_hash)
    assert payment is not None
    assert payment.phase is PayPhase.LOCKED
    assert [each.failure for each in payment.attempts] == [None], "the first HTLC could still be claimed"
    assert not b.channel_with(d).htlcs
    network._parted.discard(frozenset((us, them)))
    ended = await b.ended(payment_hash)
    assert ended.phase is PayPhase.PAID, ended.reason
    assert [(each.neighbour, each.failure is None) for each in ended.attempts] == [
        (them, False),
        (d.keys.node_id(), True),
    ]
    network.heal()
    await net.settled()
    assert (e.holds(d), c.holds(b)) == (7_000_000, 0)
    assert net.total() == 5 * CAPACITY


async def _two_offers(actor: Actor, payment_hash: bytes) -> None:
    def count() -> int:
        routes = actor.node.routing.engine.routes(actor.node.now())
        return sum(len(route.offers) for route in routes if route.payment_hash == payment_hash)

    with trio.fail_after(PATIENCE):
        while count() < 2:  # noqa: ASYNC110 (soft state: nobody tells of it)
            await trio.sleep(0.01)
