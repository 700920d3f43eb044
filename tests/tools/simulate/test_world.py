"""Payments through real engines in virtual time: prices against the oracle, money kept, failures, and who carried."""

import random

import pytest

from protocols.channel.state import balances
from protocols.units import Msat
from tools.simulate.graph import drawn, small_world
from tools.simulate.paying import Habits, Run
from tools.simulate.simulation import simulate
from tools.simulate.workload import NoPair, Order, Plan, orders
from tools.simulate.world import World

FLAT = ((1000, 0), (1000, 0))
AMOUNT = 20_000_000


def pay(payer, payee, amount=AMOUNT, at_ms=None):
    return Order(payer=payer, payee=payee, amount=Msat(amount), at_ms=at_ms)


def at_rest(world, capacity):
    """Nothing is in flight, both ends of every channel see the same, and no millisatoshi came or went."""
    held = 0
    for station in world.stations.values():
        assert station.money.forwards() == ()
        for channel in station.money.channels():
            theirs = world.stations[channel.peer].money.channel(channel.channel_id)
            assert channel.htlcs == ()
            assert (channel.our_balance, channel.their_balance) == (theirs.their_balance, theirs.our_balance)
            held += balances(channel).ours
    assert held == capacity


def test_the_example_network_pays_over_the_cheapest_way(kit):
    outcome = simulate(kit.example(fees=FLAT), [pay("A", "E")], seed="1")
    (result,) = outcome.results
    assert (result.locked, result.least, result.reason) == (AMOUNT + 2000, AMOUNT + 2000, "")
    assert result.carriers == ("D", "B")
    assert {each.name: (each.forwards, each.earned) for each in outcome.carriers} == {
        "A": (0, 0), "B": (1, 1000), "C": (0, 0), "D": (1, 1000), "E": (0, 0),
    }  # fmt: skip


def test_offers_take_the_time_of_the_links_and_money_the_time_of_its_dance(kit):
    (result,) = simulate(kit.example(fees=FLAT), [pay("A", "E")], seed="1", delays=(50, 50)).results
    # The initialization and three offers, 50 ms each; then 700 ms of quiet, three links with three trips each to lock and
    # one each for the preimage.
    assert (result.first_ms, result.best_ms, result.ended_ms) == (200, 200, 200 + 700 + 3 * 150 + 3 * 50)


def test_a_payment_that_no_path_can_carry_fails_and_moves_nothing(kit):
    graph = kit.graph(kit.edge("A", "B"), kit.edge("B", "C", balance=10_000))
    (result,) = simulate(graph, [pay("A", "C")], seed="1").results
    assert (result.least, result.locked, result.tries, result.carriers) == (None, None, 0, ())
    assert result.reason.startswith("The payee refuses: no channel of the payee can take 20,000 sat")


def test_a_payer_who_has_too_little_is_told_at_once(kit):
    (result,) = simulate(kit.example(balance=1000), [pay("A", "E")], seed="1").results
    assert (result.offers, result.ended_ms) == (0, 0)
    assert result.reason.startswith("The largest payment that a channel of this node can carry now is 1,000 sat")


def test_a_price_above_the_ceiling_is_not_paid(kit):
    habits = Habits(max_fee_ppm=0, max_fee_base=Msat(1999))
    (result,) = simulate(kit.example(fees=FLAT), [pay("A", "E")], seed="1", habits=habits).results
    assert (result.least, result.locked) == (AMOUNT + 2000, None)
    assert result.reason


def test_a_way_that_does_not_carry_is_never_used(kit):
    one_way = ((1000, 0), None)
    graph = kit.graph(kit.edge("A", "B"), kit.edge("C", "B", fees=one_way), kit.edge("A", "C"))
    (result,) = simulate(graph, [pay("B", "C")], seed="1").results
    assert result.carriers == ("A",)


def test_every_payment_of_a_small_world_costs_what_the_oracle_says():
    graph = drawn(small_world(40, 6, 0.2, random.Random(1)), "uniform", random.Random(2))
    plan = Plan(count=30, smallest=Msat(10**6), largest=Msat(10**9))
    outcome = simulate(graph, tuple(orders(graph, plan, random.Random(3))), seed="1")
    feasible = [each for each in outcome.results if each.least is not None and each.least <= each.ceiling]
    assert len(feasible) > 15
    assert [each.locked for each in feasible] == [each.least for each in feasible]


def test_many_payments_at_once_keep_every_millisatoshi():
    graph = drawn(small_world(30, 6, 0.2, random.Random(1)), "uniform", random.Random(2))
    world, rng = World(graph, random.Random(4)), random.Random(5)
    plan = Plan(count=60, smallest=Msat(10**7), largest=Msat(10**9), rate=20.0)
    runs = []
    for order in orders(graph, plan, random.Random(3)):
        world.run(until=order.at_ms * 1000)
        runs.append(Run(world, order, Habits(), rng, lambda: None))
        runs[-1].start()
    world.run()
    results = [run.result() for run in runs]
    assert all(run.over for run in runs)
    assert any(each.locked is None for each in results)
    assert sum(each.locked is not None for each in results) > 20
    assert any(each.tries > 1 for each in results)  # some met others on the way and came back
    at_rest(world, sum(edge.capacity for edge in graph.edges) * 1000)


def test_payments_that_come_as_they_like_and_one_after_the_other_are_both_counted(kit):
    graph = kit.example(fees=FLAT)
    together = simulate(graph, [pay("A", "E", at_ms=0), pay("E", "A", at_ms=10)], seed="1")
    apart = simulate(graph, [pay("A", "E"), pay("E", "A")], seed="1")
    assert [each.locked for each in together.results] == [each.locked for each in apart.results] == [AMOUNT + 2000] * 2
    assert together.virtual_s < apart.virtual_s


def test_an_interrupt_keeps_what_had_ended(kit):
    ended = []

    def interrupted():
        ended.append(None)
        if len(ended) == 3:
            raise KeyboardInterrupt

    outcome = simulate(kit.example(fees=FLAT), [pay("A", "E")] * 9, seed="1", progress=interrupted)
    assert outcome.stopped
    assert [each.locked for each in outcome.results] == [AMOUNT + 2000] * 3


def test_a_workload_that_nobody_could_pay_is_refused(kit):
    plan = Plan(count=1, smallest=Msat(10**12), largest=Msat(10**12))
    with pytest.raises(NoPair, match=r"no two nodes could pay 1,000,000,000 sat to each other"):
        list(orders(kit.example(), plan, random.Random(1)))


def test_weighted_pairs_prefer_those_with_much_capacity(kit):
    rich = [kit.edge("rich", f"p{n}", capacity=10_000_000) for n in range(4)]
    graph = kit.graph(*rich, *(kit.edge(f"p{n}", f"q{n}", capacity=100_000) for n in range(4)))
    plan = Plan(count=200, smallest=Msat(1000), largest=Msat(1000), pairs="weighted")
    found = list(orders(graph, plan, random.Random(1)))
    assert sum("rich" in (each.payer, each.payee) for each in found) > 100
    assert sum(each.payer.startswith("q") for each in found) < 10
