"""The example network of the design document, whole nodes over the memory host and an embedded chain: who is paid what,
to the millisatoshi, also when a link breaks or a node dies on the way."""

import hashlib
from collections.abc import Callable

import pytest
import trio
from scenario_kit import PATIENCE, Actor, FeeSettings, World, example_network

from protocols.payment.events import Payment, PayPhase
from rrnode.control import models as m
from rrnode.control.text import peer_text
from rrnode.errors import UserError

Example = dict[str, Actor]
CAPACITY = 1_000_000_000  # msat of each channel


async def test_a_client_pays_a_client_and_every_node_keeps_its_fee(net: World, example: Example) -> None:
    a, b, d, e = (example[name] for name in "ABDE")
    contact = (await e.owner.contact()).contact
    payment = await a.pay(contact, 100_000_000)
    assert payment.phase is PayPhase.PAID
    await net.settled()
    # D and B ask 1,000 msat and 100 ppm each: D 11,000 on 100,000,000; B 11,002 (rounded up) on 100,011,000.
    assert payment.attempts[-1].amount == 100_000_000 + 11_000 + 11_002
    assert e.holds(d) == 100_000_000
    assert d.holds(e) == CAPACITY - 100_000_000
    assert d.holds(b) == 100_011_000
    assert b.holds(d) == CAPACITY - 100_011_000
    assert b.holds(a) == 100_022_002
    assert a.holds(b) == CAPACITY - 100_022_002
    assert net.total() == 5 * CAPACITY


async def test_a_request_ends_with_a_receipt_for_its_payer(net: World, example: Example) -> None:
    a, d = example["A"], example["D"]
    request = await d.owner.request(5_000_001, "one coffee", 600)
    payment = await a.pay(request.request)
    assert payment.phase is PayPhase.PAID
    assert payment.preimage is not None
    assert hashlib.sha256(payment.preimage).digest() == payment.payment_hash
    assert payment.memo == "one coffee"
    with pytest.raises(UserError, match=r"(paid|settled|used)"):
        await a.pay(request.request)
    await net.settled()
    assert net.total() == 5 * CAPACITY


async def test_a_client_gets_a_channel_over_the_link_that_it_dialled(example: Example) -> None:
    d, e = example["D"], example["E"]
    assert e.node.host.addresses() == ()
    assert d.node.host.connected()[e.keys.node_id()].inbound
    assert d.channel_with(e).we_fund
    assert not e.channel_with(d).we_fund
    assert e.usable(d)


def dear_for_b(base_msat: int, ppm: int) -> Callable[[str, Example], FeeSettings]:
    """D asks B for this much; everybody else for the default."""

    def fees(name: str, actors: Example) -> FeeSettings:
        if name != "D":
            return FeeSettings()
        return FeeSettings(neighbours=(f"{peer_text(actors['B'].keys.node_id())} {base_msat} {ppm}",))

    return fees


async def lock_after(payer: Actor, payee: Actor, table: Actor, change: Callable[[], None]) -> Payment:
    """Pay 7,000,000 msat; once `table` holds two offers for it, and before anything is locked, `change` happens."""
    contact = (await payee.owner.contact()).contact
    payment_hash = await payer.owner.pay(m.PayOrder(target=contact, amount_msat=7_000_000, quiet_ms=1500))
    with trio.fail_after(PATIENCE):
        while offers_at(table, payment_hash) < 2:  # noqa: ASYNC110 (soft state: nobody tells of it)
            await trio.sleep(0.01)
    assert payer.node.money.payment(payment_hash).phase is PayPhase.COLLECTING
    change()
    return await payer.ended(payment_hash)


def offers_at(actor: Actor, payment_hash: bytes) -> int:
    routes = actor.node.routing.engine.routes(actor.node.now())
    return sum(len(route.offers) for route in routes if route.payment_hash == payment_hash)


async def test_a_payment_that_comes_back_is_carried_by_the_payers_next_offer(net: World) -> None:
    """B pays E. C's way is the cheaper one, but C has lost D when the money comes: it fails back, and B takes D's (R10)."""
    actors = await example_network(net, dear_for_b(20_000, 0))
    b, c, d, e = (actors[name] for name in "BCDE")
    payment = await lock_after(b, e, b, lambda: net.network.part(c.keys.node_id(), d.keys.node_id()))
    assert payment.phase is PayPhase.PAID, payment.reason
    first, second = payment.attempts
    # D asks C 1,700 on 7,000,000, C asks 1,701 on that; D asks B 20,000.
    assert (first.neighbour, first.amount) == (c.keys.node_id(), 7_003_401)
    assert first.failure is not None
    assert (second.neighbour, second.amount, second.failure) == (d.keys.node_id(), 7_020_000, None)
    net.network.heal()
    await net.settled()
    assert (e.holds(d), d.holds(b), c.holds(b)) == (7_000_000, 7_020_000, 0)
    assert net.total() == 5 * CAPACITY


async def test_a_forwarder_that_lost_its_cheapest_neighbour_carries_by_its_next_offer(net: World) -> None:
    """A pays E. Both ways cost B the same, and D's is shorter; B has lost D when the money comes and sends it by C."""
    actors = await example_network(net, dear_for_b(3401, 0))
    a, b, c, d, e = (actors[name] for name in "ABCDE")
    payment = await lock_after(a, e, b, lambda: net.network.part(b.keys.node_id(), d.keys.node_id()))
    assert payment.phase is PayPhase.PAID, payment.reason
    (only,) = payment.attempts
    assert (only.neighbour, only.amount) == (b.keys.node_id(), 7_005_102)
    await e.until("no HTLC", lambda: not e.channel_with(d).htlcs)
    await c.until("no HTLC", lambda: not any(each.htlcs for each in c.node.money.channels()))
    assert (e.holds(d), d.holds(c), c.holds(b), d.holds(b)) == (7_000_000, 7_001_700, 7_003_401, 0)
    await b.until("B's books to say what it earned", lambda: b.node.store.forward_totals() == (1, 1_701))
    assert net.total() == 5 * CAPACITY
