"""A report for people: two tables."""

from typing import Any

from rich.console import Console
from rich.table import Table


def show(found: dict[str, Any], console: Console) -> None:
    """Print it."""
    graph, payments, fees = found["graph"], found["payments"], found["fees_ppm"]
    messages, carried = found["messages"], found["carrying"]
    console.print(
        f"{graph['nodes']:,} nodes, {graph['channels']:,} channels, {payments['ordered']:,} payments in "
        f"{payments['virtual_s']:,} s of virtual time"
    )
    console.print(
        f"feasible on one path: {payments['feasible']:,}, of these below the ceiling: {payments['below_the_ceiling']:,}; "
        f"paid: {payments['paid']:,} ({_percent(payments['paid_of_feasible'])} of feasible), at the first try "
        f"{payments['paid_at_first_try']:,}"
    )
    if payments["came_back"]:
        console.print("locks that came back: " + _counted(payments["came_back"]))
    console.print(_spreads(found))
    console.print(
        f"exactly the oracle's price: {_percent(fees['exactly_the_least'])}; all fees together are "
        f"{_number(fees['all_fees_over_least'])} times the oracle's"
    )
    console.print(
        f"bytes a payment: {messages['offer_bytes_per_payment']:,.0f} of offers, "
        f"{messages['channel_bytes_per_payment']:,.0f} of channel updates (in "
        f"{messages['channel_messages_per_payment']:,.0f} messages); the busiest node sends "
        f"{messages['offers_of_the_busiest_node_per_payment']:,.0f} offers a payment"
    )
    if messages["dropped_offers"]:
        console.print("offers not taken or not passed on: " + _counted(messages["dropped_offers"]))
    console.print(_busiest(carried))
    for name in ("best connected", "busiest"):
        top = carried[f"{name.replace(' ', '_')}_1_percent"]
        console.print(
            f"the {name} 1 % of nodes ({top['nodes']}), with {_percent(top['share_of_channel_ends'])} of all channel ends, "
            f"had a hand in {_percent(top['share_of_payments'])} of the payments that somebody carried, did "
            f"{_percent(top['share_of_forwards'])} of the carrying and took {_percent(top['share_of_fees'])} of the fees"
        )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())


def _spreads(found: dict[str, Any]) -> Table:
    table = Table("", "mean", "least", "median", "95 %", "most")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = (
        ("offers sent for a payment", found["messages"]["offers"]),
        ("channels on the way", found["payments"]["channels_on_the_way"]),
        ("first offer, ms", found["milliseconds"]["first_offer"]),
        ("best offer, ms", found["milliseconds"]["best_offer"]),
        ("paid, ms", found["milliseconds"]["paid"]),
        ("fee, ppm", found["fees_ppm"]["paid"]),
        ("the oracle's fee, ppm", found["fees_ppm"]["least"]),
        ("above the oracle, ppm", found["fees_ppm"]["excess"]),
        ("first offer above the oracle, ppm", found["fees_ppm"]["excess_of_the_first_offer"]),
    )
    for name, spread in rows:
        table.add_row(name, *(_number(value) for value in spread.values()))
    return table


def _busiest(carried: dict[str, Any]) -> Table:
    table = Table("who carries most", "channels", "payments carried", "earned, sat", "offers sent")
    for column in table.columns[1:]:
        column.justify = "right"
    for each in carried["busiest"]:
        earned = each["earned"] / 1000
        table.add_row(
            each["name"], f"{each['channels']:,}", f"{each['forwards']:,}", f"{earned:,.1f}", f"{each['sent']:,}"
        )
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
