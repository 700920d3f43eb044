"""The report's arithmetic on results made by hand, and pictures that are XML and say what they show."""

from xml.etree import ElementTree

import pytest

from tools.simulate.gallery import pictures
from tools.simulate.paying import Result
from tools.simulate.picture import Chart, Curve, draw, shares
from tools.simulate.report import report, spread
from tools.simulate.simulation import Carrier, Outcome
from tools.simulate.world import Traffic


def result(**changes):
    made = {
        "payer": "A", "payee": "E", "amount": 1_000_000, "least": 1_000_100, "ceiling": 1_100_000, "locked": 1_000_100,
        "first": 1_000_300, "first_ms": 100, "best": 1_000_100, "best_ms": 200, "ended_ms": 1000, "tries": 1, "failures": (),
        "carriers": ("D", "B"), "offers": 10, "reason": "",
    }  # fmt: skip
    return Result(**(made | changes))


@pytest.fixture
def outcome(kit):
    results = (
        result(),
        result(locked=1_000_200, best=1_000_200, carriers=("D", "C", "B"), tries=2, failures=("node_busy",), offers=30),
        result(least=None, locked=None, first=None, first_ms=None, best=None, best_ms=None, carriers=(), reason="no"),
    )
    carriers = tuple(
        Carrier(name=name, channels=channels, forwards=forwards, earned=forwards * 50, sent=forwards * 6)
        for name, channels, forwards in (("A", 1, 0), ("B", 3, 2), ("C", 4, 1), ("D", 3, 2), ("E", 1, 0))
    )
    traffic = Traffic(offers=50, bundles=40, offer_bytes=6000, updates=30, update_bytes=900)
    return Outcome(
        graph=kit.example(), results=results, carriers=carriers, traffic=traffic, dropped={"zero": 1}, virtual_s=9
    )


def test_what_was_paid_is_set_against_what_the_oracle_would_have_paid(outcome):
    found = report(outcome, {"seed": "1"})
    assert found["asked"] == {"seed": "1"}
    assert found["payments"] | {"channels_on_the_way": None} == {
        "ordered": 3, "feasible": 2, "below_the_ceiling": 2, "paid": 2, "paid_of_feasible": 1.0, "paid_at_first_try": 1, "came_back": {"node_busy": 1},
        "channels_on_the_way": None, "virtual_s": 9, "stopped": False,
    }  # fmt: skip
    fees = found["fees_ppm"]
    assert (fees["paid"]["mean"], fees["least"]["mean"], fees["excess"]["mean"]) == (150.0, 100.0, 50.0)
    assert fees["excess_of_the_first_offer"]["mean"] == 200.0
    assert (fees["exactly_the_least"], fees["all_fees_over_least"]) == (0.5, 1.5)
    assert found["messages"]["offers_of_the_busiest_node_per_payment"] == 4.0


def test_the_busiest_and_the_best_connected_are_ranked_apart(outcome):
    found = report(outcome, {})["carrying"]
    assert found["busiest_1_percent"] == {
        "nodes": 1, "share_of_payments": 1.0, "share_of_forwards": 0.4, "share_of_fees": 0.4,
        "share_of_channel_ends": 0.3,
    }  # fmt: skip
    assert found["best_connected_1_percent"] == {
        "nodes": 1, "share_of_payments": 0.5, "share_of_forwards": 0.2, "share_of_fees": 0.2,
        "share_of_channel_ends": 0.4,
    }  # fmt: skip
    assert [each["name"] for each in found["busiest"]] == ["B", "D", "C", "A", "E"]
    assert found["nodes_that_carried"] == 3


def test_a_spread_names_values_that_are_there():
    assert spread(range(1, 101)) == {"mean": 50.5, "least": 1, "median": 50, "p95": 95, "most": 100}
    assert spread([]) == dict.fromkeys(("mean", "least", "median", "p95", "most"))


def test_every_picture_is_xml_with_its_title_and_curves(outcome):
    found = pictures(outcome)
    assert sorted(found) == ["carrying.svg", "fees.svg", "messages.svg", "times.svg"]
    for text in found.values():
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.findall("{*}polyline")
    assert "What payers pay above the cheapest path there is" in found["fees.svg"]


def test_a_curve_ends_at_the_top_right_and_names_are_escaped():
    chart = Chart(title="a < b", x_label="x", y_label="y", curves=(Curve(name="&", points=shares([10, 5, 1])),))
    root = ElementTree.fromstring(draw(chart))
    texts = [each.text for each in root.findall("{*}text")]
    assert {"a < b", "&", "x", "y", "0", "10", "100 %"} <= set(texts)
    (line,) = root.findall("{*}polyline")
    points = [tuple(map(float, each.split(","))) for each in line.get("points").split()]
    assert points[-1] == (690.0, 56.0)
    assert points == sorted(points, key=lambda point: (point[0], -point[1]))


def test_nothing_paid_leaves_out_what_would_be_empty(kit, outcome):
    empty = Outcome(
        graph=kit.example(), results=(outcome.results[2],), carriers=(), traffic=Traffic(), dropped={}, virtual_s=0
    )
    assert sorted(pictures(empty)) == ["messages.svg"]
    assert report(empty, {})["fees_ppm"]["all_fees_over_least"] is None
