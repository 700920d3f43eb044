"""What a simulation found, as plain numbers: the same outcome gives the same report, to the byte."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from protocols.units import PPM
from tools.simulate.paying import Result
from tools.simulate.simulation import Carrier, Outcome


def report(outcome: Outcome, asked: dict[str, Any]) -> dict[str, Any]:
    """All of it.

    Args:
        asked: what was asked for, repeated at the head.
    """
    results = outcome.results
    paid = [each for each in results if each.locked is not None]
    feasible = [each for each in results if each.least is not None]
    affordable = [each for each in feasible if each.least is not None and each.least <= each.ceiling]
    count = max(1, len(results))
    traffic = outcome.traffic
    return {
        "asked": asked,
        "graph": {
            "nodes": len(outcome.graph.nodes),
            "channels": len(outcome.graph.edges),
            "capacity_sat": sum(edge.capacity for edge in outcome.graph.edges),
        },
        "payments": {
            "ordered": len(results),
            "feasible": len(feasible),
            "below_the_ceiling": len(affordable),
            "paid": len(paid),
            "paid_of_feasible": _share(len(paid), len(feasible)),
            "paid_at_first_try": sum(each.tries == 1 for each in paid),
            "came_back": dict(sorted(Counter(code for each in results for code in each.failures).items())),
            "channels_on_the_way": spread(len(each.carriers) + 1 for each in paid),
            "virtual_s": outcome.virtual_s,
            "stopped": outcome.stopped,
        },
        "fees_ppm": _fees(paid),
        "messages": {
            "offers": spread(each.offers for each in results),
            "offers_where_feasible": spread(each.offers for each in feasible),
            "offer_bytes_per_payment": round(traffic.offer_bytes / count, 1),
            "offers_of_the_busiest_node_per_payment": round(
                max((c.sent for c in outcome.carriers), default=0) / count, 1
            ),
            "channel_messages_per_payment": round(traffic.updates / count, 1),
            "channel_bytes_per_payment": round(traffic.update_bytes / count, 1),
            "dropped_offers": outcome.dropped,
        },
        "milliseconds": {
            "first_offer": spread(each.first_ms for each in results if each.first_ms is not None),
            "best_offer": spread(each.best_ms for each in results if each.best_ms is not None),
            "paid": spread(each.ended_ms for each in paid),
        },
        "carrying": carrying(outcome),
        "each": [asdict(each) for each in results],
    }


def _fees(paid: Sequence[Result]) -> dict[str, Any]:
    """Fees over the amount, parts per million. Excess: what was locked above what the oracle would have locked."""
    known = [(each, each.locked, each.least) for each in paid if each.least is not None and each.locked is not None]
    least = sum(cheapest - each.amount for each, _, cheapest in known)
    return {
        "paid": spread((locked - each.amount) * PPM / each.amount for each, locked, _ in known),
        "least": spread((cheapest - each.amount) * PPM / each.amount for each, _, cheapest in known),
        "excess": spread(excess_ppm(each) for each, _, _ in known),
        "excess_of_the_first_offer": spread(
            (each.first - cheapest) * PPM / each.amount for each, _, cheapest in known if each.first is not None
        ),
        "exactly_the_least": _share(sum(locked == cheapest for _, locked, cheapest in known), len(known)),
        "all_fees_over_least": _share(sum(locked - each.amount for each, locked, _ in known), least),
    }


def excess_ppm(result: Result) -> float:
    """What was locked above the oracle's path, parts per million of the amount; 0 where either is missing."""
    if result.locked is None or result.least is None:
        return 0.0
    return (result.locked - result.least) * PPM / result.amount


def carrying(outcome: Outcome) -> dict[str, Any]:
    """Who carries: the user's third consideration is that a few nodes carry most payments.

    Whoever is ranked by what it carried is found busy in any small sample; by its channels, nobody is chosen afterwards.
    """
    ranked = busiest(outcome)
    connected = sorted(ranked, key=lambda each: (-each.channels, each.name))
    return {
        "payments_with_a_node_between": sum(bool(each.carriers) for each in outcome.results),
        "forwards": sum(each.forwards for each in ranked),
        "nodes_that_carried": sum(each.forwards > 0 for each in ranked),
        "busiest_1_percent": _top(outcome, ranked),
        "best_connected_1_percent": _top(outcome, connected),
        "busiest": [asdict(each) for each in ranked[:10]],
    }


def _top(outcome: Outcome, ranked: Sequence[Carrier]) -> dict[str, Any]:
    """What the first hundredth of these nodes had a hand in."""
    top = ranked[: math.ceil(len(ranked) / 100)]
    names = {each.name for each in top}
    carried = [each for each in outcome.results if each.carriers]
    return {
        "nodes": len(top),
        "share_of_payments": _share(sum(not names.isdisjoint(each.carriers) for each in carried), len(carried)),
        "share_of_forwards": _share(sum(each.forwards for each in top), sum(each.forwards for each in ranked)),
        "share_of_fees": _share(sum(each.earned for each in top), sum(each.earned for each in ranked)),
        "share_of_channel_ends": _share(sum(each.channels for each in top), 2 * len(outcome.graph.edges)),
    }


def busiest(outcome: Outcome) -> list[Carrier]:
    """All nodes, those that carried most first."""
    return sorted(outcome.carriers, key=lambda each: (-each.forwards, -each.channels, each.name))


def spread(values: Iterable[float]) -> dict[str, float | None]:
    """Mean and quantiles (nearest rank); all None where there is no value."""
    found = sorted(values)
    if not found:
        return dict.fromkeys(("mean", "least", "median", "p95", "most"))
    return {
        "mean": round(math.fsum(found) / len(found), 3),
        "least": round(found[0], 3),
        "median": round(_quantile(found, 50), 3),
        "p95": round(_quantile(found, 95), 3),
        "most": round(found[-1], 3),
    }


def _quantile(found: Sequence[float], percent: int) -> float:
    return found[max(0, -(-len(found) * percent // 100) - 1)]


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
