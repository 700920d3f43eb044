"""Graphs that are made, balances that are drawn, and the part that hangs together."""

import random

import pytest

from tools.simulate.graph import core, drawn, small_world, with_hubs


def degrees(graph):
    found = dict.fromkeys(graph.nodes, 0)
    for edge in graph.edges:
        for name in edge.ends:
            found[name] += 1
    return sorted(found.values(), reverse=True)


def test_a_small_world_without_rewiring_is_a_ring_of_equals():
    graph = small_world(20, 4, 0.0, random.Random(1))
    assert degrees(graph) == [4] * 20


@pytest.mark.parametrize("make", [lambda rng: small_world(100, 6, 0.2, rng), lambda rng: with_hubs(100, 6, rng)])
def test_the_same_seed_makes_the_same_graph_and_another_one_another(make):
    assert make(random.Random(1)) == make(random.Random(1))
    assert make(random.Random(1)) != make(random.Random(2))


def test_hubs_have_far_more_channels_than_others():
    found = degrees(with_hubs(500, 6, random.Random(1)))
    assert found[0] > 8 * found[250]


def test_nobody_has_a_channel_with_themselves_or_two_with_the_same():
    for graph in (small_world(50, 6, 0.9, random.Random(3)), with_hubs(50, 6, random.Random(3))):
        pairs = [frozenset(edge.ends) for edge in graph.edges]
        assert {len(pair) for pair in pairs} == {2}
        assert len(set(pairs)) == len(pairs)


def test_uniform_balances_lie_anywhere():
    graph = drawn(small_world(200, 6, 0.1, random.Random(1)), "uniform", random.Random(2))
    shares = sorted(edge.balance / (edge.capacity * 1000) for edge in graph.edges)
    assert shares[0] >= 0
    assert shares[-1] <= 1
    assert 0.45 < shares[len(shares) // 2] < 0.55


def test_drained_balances_lie_at_the_ends_and_mostly_where_sending_is_dearer(kit):
    graph = kit.graph(*(kit.edge(f"a{n}", f"b{n}", fees=((0, 1), (0, 900))) for n in range(500)))
    emptied = kit.graph(*(type(e)(ends=e.ends, capacity=e.capacity, ways=e.ways) for e in graph.edges))
    shares = [edge.balance / (edge.capacity * 1000) for edge in drawn(emptied, "drained", random.Random(1)).edges]
    assert 0.75 < sum(share < 0.5 for share in shares) / 500 < 0.85  # the second one's way is dearer
    assert sum(min(share, 1 - share) < 0.3 for share in shares) / 500 > 0.9


def test_a_balance_that_is_known_is_kept(kit):
    graph = kit.graph(kit.edge("a", "b", balance=7))
    assert drawn(graph, "drained", random.Random(1)) == graph


def test_the_core_is_where_everybody_reaches_everybody(kit):
    one_way = ((0, 0), None)
    graph = kit.graph(
        kit.edge("a", "b"),
        kit.edge("b", "c", fees=one_way),
        kit.edge("c", "a", fees=one_way),
        kit.edge("c", "d", fees=one_way),  # nothing comes back from d
        kit.edge("x", "y"),
    )
    assert sorted(core(graph).nodes) == ["a", "b", "c"]
    assert len(core(graph).edges) == 3
