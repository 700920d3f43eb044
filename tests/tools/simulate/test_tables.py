"""Channel lists and workloads: what is read from a good file, and that a bad line is named, whatever is wrong with it."""

import gzip

import pytest

from protocols.routing.pricing import FeePolicy
from protocols.units import BlockDelta, Msat
from tools.simulate.graph import Direction, Edge
from tools.simulate.tables import BadTable, read_channels, read_orders
from tools.simulate.workload import Order

HEAD = "source,target,capacity_sat,base_fee_msat,proportional_fee_ppm,cltv_delta,htlc_max_msat,channel_id,balance_sat\n"
GOOD = "b,a,1000,1,2,40,900000,7,400\na,b,1000,3,4,144,,7,600\n"


def read(tmp_path, text, name="list.csv"):
    path = tmp_path / name
    path.write_text(text)
    return read_channels(path)


def way(base, ppm, delta, most):
    return Direction(fee=FeePolicy(base_msat=Msat(base), ppm=ppm), delta=BlockDelta(delta), most=Msat(most))


def test_both_ways_of_a_channel_become_one(tmp_path):
    graph = read(tmp_path, HEAD + GOOD)
    assert graph.nodes == ("a", "b")
    assert graph.edges == (
        Edge(ends=("a", "b"), capacity=1000, ways=(way(3, 4, 144, 10**6), way(1, 2, 40, 900_000)), balance=600_000),
    )


def test_a_channel_with_one_way_carries_nothing_back_and_has_no_balance_until_it_is_drawn(tmp_path):
    (edge,) = read(
        tmp_path, "target,source,cltv_delta,capacity_sat,base_fee_msat,proportional_fee_ppm\nb,a,9,5,0,1\n"
    ).edges
    assert edge == Edge(ends=("a", "b"), capacity=5, ways=(way(0, 1, 9, 5000), None), balance=None)


def test_a_compressed_list_reads_like_a_plain_one(tmp_path):
    path = tmp_path / "list.csv.gz"
    path.write_bytes(gzip.compress((HEAD + GOOD).encode()))
    assert read_channels(path) == read(tmp_path, HEAD + GOOD)


def test_two_nodes_may_share_several_channels(tmp_path):
    graph = read(tmp_path, HEAD + GOOD + "a,b,50,0,0,40,,8,\n")
    assert [edge.capacity for edge in graph.edges] == [1000, 50]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("a,a,1,0,0,40,,,", "a channel of a with itself"),
        (",b,1,0,0,40,,,", "no source"),
        ("a,c,many,0,0,40,,,", "capacity_sat is 'many', a whole number wanted"),
        ("a,c,0,0,0,40,,,", "capacity_sat is 0, 1 to 2100000000000000 wanted"),
        ("a,c,1,-1,0,40,,,", "base_fee_msat is -1, 0 to 4294967295 wanted"),
        ("a,c,1,0,0.5,40,,,", "proportional_fee_ppm is '0.5', a whole number wanted"),
        ("a,c,1,0,0,65536,,,", "cltv_delta is 65536, 0 to 65535 wanted"),
        ("a,c,1,0,0,40,x,,", "htlc_max_msat is 'x', a whole number wanted"),
        ("a,c,1,0,0,40,,,2", "balance_sat is 2, 0 to 1 wanted"),
        ("a,c,1,0,0", "cltv_delta is '', a whole number wanted"),
        ("a,c,1,0,0,40,,,,,", "more cells than the header has"),
        ("a,b,1000,0,0,40,,7,", "this way of this channel stands above already; give each a channel_id"),
        ("a,b,9,0,0,40,,7,", "capacity_sat is 9, the other way said 1000"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, wanted):
    with pytest.raises(BadTable) as error:
        read(tmp_path, HEAD + GOOD + line + "\n")
    assert str(error.value) == f"{tmp_path / 'list.csv'}, line 4: {wanted}"


def test_balances_that_do_not_add_up_are_named(tmp_path):
    with pytest.raises(BadTable, match="line 3: balance_sat is 500, not what the other way leaves"):
        read(tmp_path, HEAD + GOOD.replace(",600\n", ",500\n"))


def test_a_list_without_a_column_says_which(tmp_path):
    with pytest.raises(BadTable, match=r"line 1: no column cltv_delta; wanted are source, target, .*, cltv_delta$"):
        read(tmp_path, HEAD.replace("cltv_delta", "delay") + GOOD)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", HEAD.encode(), gzip.compress(HEAD.encode())])
def test_a_file_that_is_no_list_is_refused(tmp_path, content):
    for name in ("list.csv", "list.csv.gz"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(BadTable, match=name):
            read_channels(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadTable, match=r"none\.csv"):
        read_channels(tmp_path / "none.csv")


# --- workloads --------------------------------------------------------------------------------------------------------


def test_a_workload_is_read_in_its_order(tmp_path):
    path = tmp_path / "work.csv"
    path.write_text("payer,payee,amount_sat,at_s\na,b,5,0\nb,a,7,2\n")
    assert read_orders(path, "ab".__contains__) == (
        Order(payer="a", payee="b", amount=5000, at_ms=0),
        Order(payer="b", payee="a", amount=7000, at_ms=2000),
    )
    path.write_text("payer,payee,amount_sat\na,b,5\n")
    assert read_orders(path, "ab".__contains__) == (Order(payer="a", payee="b", amount=5000, at_ms=None),)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("a,c,5,3", "c is no node of the graph"),
        ("a,a,5,3", "a pays itself"),
        ("a,b,0,3", "amount_sat is 0, 1 to 2100000000000000 wanted"),
        ("a,b,5,", "at_s stands in some lines and not in others"),
        ("a,b,5,1", "at_s is 1, less than in the line above"),
    ],
)
def test_a_bad_payment_is_named(tmp_path, line, wanted):
    path = tmp_path / "work.csv"
    path.write_text(f"payer,payee,amount_sat,at_s\na,b,5,2\n{line}\n")
    with pytest.raises(BadTable) as error:
        read_orders(path, "ab".__contains__)
    assert str(error.value) == f"{path}, line 3: {wanted}"
