"""`rrnode wallet address|balance|send|seed`: coins on the chain."""

from typing import Annotated

import typer

from rrnode.cli import show
from rrnode.cli.amounts import parse_sat, sat
from rrnode.cli.context import JsonFlag, emit, say, session
from rrnode.errors import UserError

app = typer.Typer(no_args_is_help=True, help="Coins on the chain: addresses, balance, sending, the seed.")


@app.command()
def address(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Print a fresh address to put coins into the wallet."""
    with session(context, as_json).client() as node:
        found = node.post("/wallet/addresses")
    emit(found) if as_json else say(found["address"])


@app.command()
def balance(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the coins on the chain."""
    with session(context, as_json).client() as node:
        found = node.get("/wallet/balance")
    if as_json:
        emit(found)
        return
    show.pairs(
        [
            ("confirmed", sat(found["confirmed_sat"])),
            ("unconfirmed", sat(found["unconfirmed_sat"]) if found["unconfirmed_sat"] else ""),
            ("kept for channels", sat(found["reserved_sat"]) if found["reserved_sat"] else ""),
            ("can be spent", sat(found["spendable_sat"])),
        ]
    )


@app.command()
def send(
    context: typer.Context,
    to: Annotated[str, typer.Argument(help="The address to pay.")],
    amount: Annotated[str, typer.Argument(help="e.g. 50000 (satoshi), 0.001btc, or all.")],
    feerate: Annotated[
        int | None, typer.Option(help="Satoshi per 1000 virtual bytes [default: estimated].", min=1000)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Send coins on the chain. What guards your channels is not touched."""
    order = {
        "address": to,
        "amount_sat": None if amount.strip().lower() == "all" else parse_sat(amount),
        "feerate_sat_per_kvb": feerate,
    }
    with session(context, as_json).client() as node:
        found = node.post("/wallet/send", order)
    if as_json:
        emit(found)
        return
    show.pairs([("sent", sat(found["amount_sat"])), ("fee", sat(found["fee_sat"])), ("transaction", found["txid"])])


@app.command()
def seed(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show the 24 words. Whoever sees them owns the coins; works while the node is stopped, too."""
    now = session(context, as_json)
    from rrnode.keys import SeedFile

    if not now.data_dir.exists():
        raise UserError(f"there is no node in {now.data_dir}", f"make one with: rrnode --datadir {now.data_dir} init")
    if not (yes or as_json or typer.confirm("Whoever sees the words owns the coins. Is nobody looking?", err=True)):
        raise typer.Abort
    words = SeedFile(now.data_dir).read().split()
    emit({"words": words}) if as_json else say(numbered(words))


def numbered(words: list[str]) -> str:
    """The words in four columns, numbered, to be copied to paper."""
    rows = -(-len(words) // 4)
    lines = []
    for row in range(rows):
        picked = [(index + 1, words[index]) for index in range(row, len(words), rows)]
        lines.append("   ".join(f"{number:>2} {word:<9}" for number, word in picked).rstrip())
    return "\n".join(lines)
