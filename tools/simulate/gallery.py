"""The pictures of one simulation: prices, times, messages, and who carries."""

from tools.simulate.picture import Chart, Curve, draw, shares
from tools.simulate.report import busiest, excess_ppm
from tools.simulate.simulation import Outcome


def pictures(outcome: Outcome) -> dict[str, str]:
    """SVG texts by file name; a picture that would be empty is left out."""
    results = outcome.results
    paid = [each for each in results if each.locked is not None and each.least is not None]
    found: dict[str, Chart] = {}
    if paid:
        first = [
            max(0.0, (each.first - each.least) * 1e6 / each.amount)
            for each in paid
            if each.first is not None and each.least is not None
        ]
        found["fees.svg"] = Chart(
            title="What payers pay above the cheapest path there is",
            x_label="parts per million of the amount (0 stands at the left edge)",
            y_label="share of payments at or below",
            curves=(
                Curve(name="what was locked", points=shares([max(0.0, excess_ppm(each)) for each in paid])),
                Curve(name="the first offer", points=shares(first)),
            ),
            logarithmic=True,
        )
        times = (
            ("first offer", [float(each.first_ms) for each in paid if each.first_ms is not None]),
            ("best offer", [float(each.best_ms) for each in paid if each.best_ms is not None]),
            ("paid", [float(each.ended_ms) for each in paid]),
        )
        found["times.svg"] = Chart(
            title="How long a payment takes",
            x_label="milliseconds of virtual time since the order",
            y_label="share of payments at or below",
            curves=tuple(Curve(name=name, points=shares(values)) for name, values in times),
        )
    if results:
        found["messages.svg"] = Chart(
            title="Offers that all nodes together send for one payment",
            x_label="offers",
            y_label="share of payments at or below",
            curves=(Curve(name="offers", points=shares([float(each.offers) for each in results])),),
        )
    if any(each.forwards for each in outcome.carriers):
        found["carrying.svg"] = _carrying(outcome)
    return {name: draw(chart) for name, chart in found.items()}


def _carrying(outcome: Outcome) -> Chart:
    """Lorenz's curve from the busy end: what share of all carrying the busiest x percent of nodes do."""
    ranked = busiest(outcome)
    return Chart(
        title="Who carries",
        x_label="percent of nodes, the busiest first",
        y_label="share of all",
        curves=tuple(
            Curve(name=name, points=_summed(values), stepped=False)
            for name, values in (
                ("payments carried", [each.forwards for each in ranked]),
                ("fees earned", [each.earned for each in ranked]),
                ("channel ends", [each.channels for each in ranked]),
            )
        ),
        logarithmic=True,
        mark=(1.0, "1 % of nodes"),
    )


def _summed(values: list[int]) -> tuple[tuple[float, float], ...]:
    whole, so_far, points = sum(values) or 1, 0, []
    for place, value in enumerate(values, start=1):
        so_far += value
        points.append((100 * place / len(values), so_far / whole))
    return tuple(points)
