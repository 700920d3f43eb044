"""How the demo looks: plain sentences, amounts to the millisatoshi, names instead of keys."""

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table

from rrnode.control.client import Json


def sat(msat: int) -> str:
    """An amount in satoshi with all three digits of its millisatoshi."""
    sign = "-" if msat < 0 else ""
    whole, rest = divmod(abs(msat), 1000)
    return f"{sign}{whole:,}.{rest:03d}"


class Screen:
    """Writes the story; `names` maps peer ids to the letters of the example network."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.names: dict[str, str] = {}

    def name(self, peer_id: str) -> str:
        """The letter of a node."""
        return self.names.get(peer_id, peer_id[:12] + "…")

    def title(self, text: str) -> None:
        """A part of the story begins."""
        self.console.print()
        self.console.rule(f"[bold]{text}", align="left")

    def say(self, text: str) -> None:
        """A sentence."""
        self.console.print(text, highlight=False)

    def event(self, event: Json) -> None:
        """A line of a payment's progress."""
        at = f"[dim]{event.get('after_ms', 0):>6} ms[/]"
        match event["kind"]:
            case "offer":
                best = " [green]cheapest so far[/]" if event["cheapest"] else " [dim]dearer, kept in reserve[/]"
                fee = event["fee_msat"]
                text = (
                    f"offer from {self.name(event['neighbour'])}: send me {sat(event['amount_msat'])} sat "
                    f"(fee {sat(fee)}, {event['fee_ppm']} ppm, lock {event['lock_blocks']} blocks){best}"
                )
            case "waiting":
                text = f"[dim]waiting for {event['what']}[/]"
            case "locked":
                text = (
                    f"[bold]locked[/] {sat(event['amount_msat'])} sat to {self.name(event['neighbour'])} "
                    f"until block {event['expiry_height']} (try {event['attempt']})"
                )
            case "attempt_failed":
                text = f"[yellow]came back[/] from {self.name(event['neighbour'])}: {event['reason']}"
            case "settled":
                text = (
                    f"[bold green]settled[/]: {sat(event['amount_msat'])} sat arrived, fee {sat(event['fee_msat'])}; "
                    f"receipt {event['preimage'][:16]}…"
                )
            case "payment_failed":
                text = f"[bold red]failed[/]: {event['reason']}"
            case _:
                return
        self.console.print(f"  {at}  {text}", highlight=False)

    def balances(self, rows: Iterable[tuple[str, str, Mapping[str, int]]]) -> None:
        """A table: channel, its two ends, and what each end holds, millisatoshi."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("channel")
        for column in ("left holds", "right holds", "in flight", "together"):
            table.add_column(column, justify="right")
        for left, right, held in rows:
            together = held["left"] + held["right"] + held["flight"]
            table.add_row(f"{left}-{right}", sat(held["left"]), sat(held["right"]), sat(held["flight"]), sat(together))
        self.console.print(table)

    def holds(self, text: str) -> None:
        """A claim that was checked."""
        self.console.print(f"  [green]holds[/]  {text}", highlight=False)

    def purses(self, rows: Mapping[str, tuple[int, int, int]]) -> None:
        """A table: who, and what it had before, would have by an honest close, and has after the cheat, satoshi."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("satoshi")
        for column in ("before", "by closing honestly", "after the cheat", "difference"):
            table.add_column(column, justify="right")
        for name, (before, honest, after) in rows.items():
            table.add_row(name, f"{before:,}", f"{honest:,}", f"{after:,}", f"{after - honest:+,}")
        self.console.print(table)
