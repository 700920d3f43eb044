"""Whole nodes traced by `tools.trace`: while they run, from what they remember; afterwards, from what is on their disks."""

from collections.abc import Callable

import trio
from scenario_kit import PATIENCE, Actor, FeeSettings, World, example_network

from protocols.ids import PaymentHash
from protocols.payment.events import PayPhase
from protocols.routing.views import Drop
from rrnode.control import models as m
from rrnode.control.text import peer_text
from rrnode.storage.history import History
from tools.trace.gather import Seen, seen_by
from tools.trace.page import page, what, where
from tools.trace.picture import as_svg
from tools.trace.story import Story, story_of

Example = dict[str, Actor]


async def traced(actors: Example, payment_hash: PaymentHash, *, running: bool) -> Story:
    """The story of a payment, from these nodes or from their disks alone."""
    found: list[Seen] = []
    for actor in actors.values():
        history = History.open(actor.settings.data_dir / "db.sqlite")
        trace = await actor.owner.trace(payment_hash) if running else None
        found.append(seen_by(actor.name, trace, history, payment_hash))
        history.close()
    return story_of(payment_hash.hex(), found)


def told(story: Story, *kinds: str) -> list[str]:
    return [f"{where(each)}: {what(each)}" for each in story.happenings if each.kind in kinds]


def dear_for_b(base_msat: int) -> Callable[[str, Example], FeeSettings]:
    """D asks B for this much; everybody else for the default."""

    def fees(name: str, actors: Example) -> FeeSettings:
        dear = (f"{peer_text(actors['B'].keys.node_id())} {base_msat} 0",) if name == "D" else ()
        return FeeSettings(neighbours=dear)

    return fees


async def test_a_payment_is_told_from_the_first_wish_to_the_last_fee(net: World, example: Example) -> None:
    contact = (await example["E"].owner.contact()).contact
    payment = await example["A"].pay(contact, 100_000_000)
    await net.settled()
    story = await traced(example, payment.payment_hash, running=True)
    assert story.columns == ("A", "B", "C", "D", "E")
    assert told(story, "want", "subscribe") == ["A: wants to pay", "A -> B: subscribes"]
    assert sorted((where(each), each.amount, each.kept) for each in story.happenings if each.kind == "offer") == [
        ("B -> A", 100_022_002, True),
        ("C -> B", 100_022_002, True),
        ("D -> B", 100_011_000, True),
        ("D -> C", 100_011_000, True),
        ("E -> D", 100_000_000, True),
    ]
    ways = [(where(each), each.amount) for each in story.happenings if each.kind in ("lock", "settle")]
    assert ways == [
        ("A -> B", 100_022_002),
        ("B -> D", 100_011_000),
        ("D -> E", 100_000_000),
        ("E -> D", None),
        ("D -> B", None),
        ("B -> A", None),
    ]
    assert sorted(told(story, "paid", "claimed", "forwarded")) == [
        "A: has paid 100,022.002 sat",
        "B: has earned 11.002 sat",
        "D: has earned 11 sat",
        "E: has received 100,000 sat",
    ]
    assert all(each.exact for each in story.happenings)
    lines = list(page(story))
    assert lines[:3] == [
        f"payment {payment.payment_hash.hex()}",
        "push of 100,000 sat from A to E: paid",
        "100,022.002 sat left A, 22.002 sat of it are fees",
    ]
    assert len(as_svg(story).splitlines()) > len(story.happenings)


async def test_the_disks_of_nodes_tell_what_happened_to_the_money(net: World, example: Example) -> None:
    contact = (await example["E"].owner.contact()).contact
    payment = await example["A"].pay(contact, 100_000_000)
    await net.settled()
    for name in "BD":
        await example[name].until("its books", lambda name=name: example[name].node.store.forward_totals()[0] == 1)
    live = await traced(example, payment.payment_hash, running=True)
    for actor in example.values():
        await actor.stop()
    story = await traced(example, payment.payment_hash, running=False)
    assert told(story, "lock", "settle") == told(live, "lock", "settle")
    assert sorted(told(story, "paid", "claimed", "forwarded")) == sorted(told(live, "paid", "claimed", "forwarded"))
    assert told(story, "want") == ["A: wants to pay 100,000 sat, at most 102,020 sat"]
    assert told(story, "offer") == []
    assert not any(each.exact for each in story.happenings)


async def test_a_try_that_came_back_is_told_with_its_reason(net: World) -> None:
    """B pays E. C's way is the cheaper one, but C has lost D when the money comes."""

    actors = await example_network(net, dear_for_b(20_000))
    b, c, d, e = (actors[name] for name in "BCDE")
    contact = (await e.owner.contact()).contact
    payment_hash = await b.owner.pay(m.PayOrder(target=contact, amount_msat=7_000_000, quiet_ms=1500))
    with trio.fail_after(PATIENCE):
        while sum(note.kind == "offer" for note in b.node.traces.of(payment_hash)[0]) < 2:  # noqa: ASYNC110
            await trio.sleep(0.01)
    net.network.part(c.keys.node_id(), d.keys.node_id())
    payment = await b.ended(payment_hash)
    assert payment.phase is PayPhase.PAID, payment.reason
    net.network.heal()
    await net.settled()
    for running in (True, False):
        story = await traced({name: actors[name] for name in "BC"}, payment_hash, running=running)
        ways = [
            (where(each).replace(peer_text(d.keys.node_id())[-6:], "D"), each.kind, each.amount, each.text)
            for each in story.happenings
            if each.kind in ("lock", "settle", "fail")
        ]
        assert ways == [
            ("B -> C", "lock", 7_003_401, ""),
            ("C -> B", "fail", None, "the neighbour no longer knew the offer"),
            ("B -> …D", "lock", 7_020_000, ""),
            ("…D -> B", "settle", None, ""),
        ]
        assert "C: has nothing to lock: no offer stands" in told(story, "stands")


async def test_an_offer_that_is_too_dear_for_somebody_says_so(net: World) -> None:
    """D asks B for more than the payer would ever pay: it keeps E's offer, but B hears of it from C only."""
    actors = await example_network(net, dear_for_b(20_000_000))
    b, e = actors["B"], actors["E"]
    contact = (await e.owner.contact()).contact
    payment = await b.pay(contact, 7_000_000)
    assert payment.phase is PayPhase.PAID, payment.reason
    story = await traced(actors, payment.payment_hash, running=True)
    offers = [(where(each), each.kept, each.text) for each in story.happenings if each.kind == "offer"]
    assert sorted(offers) == [
        ("C -> B", True, ""),
        ("D -> C", True, ""),
        ("E -> D", True, Drop.ABOVE_CEILING.value),
    ]
    assert any("kept, not passed on to all: it costs more than" in line for line in page(story))
