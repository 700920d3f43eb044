"""`rrnode contact|request|pay|payments|routes`: paying and being paid."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from rrnode.cli import show
from rrnode.cli.amounts import msat, parse_ms, parse_msat, parse_seconds
from rrnode.cli.context import JsonFlag, emit, progress, say, session
from rrnode.errors import UserError


def register(app: typer.Typer) -> None:
    """Add these commands to the top level."""
    for command in (contact, request, pay, payments, routes):
        app.command()(command)


def contact(
    context: typer.Context,
    qr: Annotated[bool, typer.Option("--qr", help="Also as a QR code.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Print your contact string: whoever has it can pay you any amount."""
    with session(context, as_json).client() as node:
        found = node.get("/contact")
    if as_json:
        emit(found)
        return
    say(found["contact"])
    if qr:
        _qr(found["contact"])


def request(
    context: typer.Context,
    amount: Annotated[str, typer.Argument(help="e.g. 1500 (satoshi), 1500.5sat, 1500500msat, 0.001btc.")],
    memo: Annotated[str, typer.Option(help="What it is for; the payer sees it.")] = "",
    expiry: Annotated[str, typer.Option(help="How long it can be paid: 10m, 1h, 2d.")] = "1h",
    qr: Annotated[bool, typer.Option(help="Print a QR code too.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Ask for a payment: prints a string for the payer. They get a receipt."""
    order = {"amount_msat": parse_msat(amount), "memo": memo, "expiry_s": parse_seconds(expiry)}
    with session(context, as_json).client() as node:
        found = node.post("/requests", order)
    if as_json:
        emit(found)
        return
    say(found["request"])
    if qr:
        _qr(found["request"])
    show.pairs(
        [
            ("amount", msat(found["amount_msat"])),
            ("memo", found["memo"]),
            ("until", show.when(found["expires_unix"])),
            ("payment hash", found["payment_hash"]),
        ]
    )


def _qr(text: str) -> None:
    """A QR code in the terminal. bech32 in capitals needs a smaller code (alphanumeric mode)."""
    import segno

    code = segno.make(text.upper(), error="l", micro=False)
    code.terminal(compact=True, border=2)


def pay(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="A request string, or a contact string with an amount.")],
    amount: Annotated[str | None, typer.Argument(help="For a contact: e.g. 1500 (satoshi).")] = None,
    ceiling: Annotated[str | None, typer.Option(help="The most to pay, fees included.")] = None,
    max_fee: Annotated[str | None, typer.Option(help="The most to pay in fees.")] = None,
    quiet: Annotated[str | None, typer.Option(help="Lock when no better offer came for so long, e.g. 500ms.")] = None,
    longest: Annotated[str | None, typer.Option("--max-wait", help="Never wait longer for offers, e.g. 5s.")] = None,
    good_enough: Annotated[
        int | None,
        typer.Option(help="Lock at once when fees are at most this, parts per million.", min=0, max=1_000_000),
    ] = None,
    memo: Annotated[str, typer.Option(help="A note for your own list.")] = "",
    wait: Annotated[bool, typer.Option(help="Return when the payment has ended.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Pay a request, or an amount to a contact. Shows each offer, the choice, and the receipt."""
    order = {
        "target": target.strip(),
        "amount_msat": None if amount is None else parse_msat(amount),
        "ceiling_msat": None if ceiling is None else parse_msat(ceiling),
        "max_fee_msat": None if max_fee is None else 0 if max_fee.strip() == "0" else parse_msat(max_fee),
        "quiet_ms": None if quiet is None else parse_ms(quiet),
        "maximum_ms": None if longest is None else parse_ms(longest),
        "good_enough_ppm": good_enough,
        "memo": memo,
    }
    with session(context, as_json).client() as node, node.events() as events:
        payment_hash = node.post("/payments", order)["payment_hash"]
        if not wait:
            emit({"payment_hash": payment_hash}) if as_json else say(payment_hash)
            return
        hint = _follow(events, payment_hash, quiet=as_json)
        payment = node.get(f"/payments/{payment_hash}")
    if as_json:
        emit(payment)
    if payment["phase"] == "paid":
        if not as_json:
            show.receipt(payment)
        return
    if as_json:
        raise typer.Exit(1)
    raise UserError(payment["reason"] or "the payment was not made", hint)


def _follow(events: Iterator[dict[str, Any]], payment_hash: str, *, quiet: bool) -> str:
    """Show a payment's progress until it ends; gives the hint of a failure."""
    console = progress()
    for event in events:
        if event.get("payment_hash") != payment_hash:
            continue
        line = None if quiet else show.progress_line(event)
        if line:
            console.print(line, markup=False)
        if event["kind"] == "settled":
            return ""
        if event["kind"] == "payment_failed":
            return str(event["hint"])
    raise UserError(
        "the node stopped in the middle of the payment",
        f"start it again, then see how it ended: rrnode payments --hash {payment_hash}",
    )


def payments(
    context: typer.Context,
    payment_hash: Annotated[str | None, typer.Option("--hash", help="Only this payment of yours.")] = None,
    limit: Annotated[int, typer.Option(help="The newest so many of each way.", min=1)] = 50,
    as_json: JsonFlag = False,
) -> None:
    """List payments made and taken, newest first."""
    with session(context, as_json).client() as node:
        if payment_hash is not None:
            found = node.get(f"/payments/{payment_hash}")
            emit(found) if as_json else _one(found)
            return
        sent, taken = node.get("/payments")[:limit], node.get("/promises")[:limit]
    if as_json:
        emit({"sent": sent, "received": taken})
    else:
        show.payments(sent, taken)


def _one(payment: dict[str, Any]) -> None:
    if payment["phase"] == "paid":
        show.receipt(payment)
        return
    show.pairs(
        [
            ("payment hash", payment["payment_hash"]),
            ("state", payment["phase"]),
            ("amount", msat(payment["amount_msat"])),
            ("at most", msat(payment["ceiling_msat"])),
            ("to", payment["payee"]),
            ("reason", payment["reason"]),
        ]
    )


def routes(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the routing table: offers by payment hash, and the neighbours they come from."""
    with session(context, as_json).client() as node:
        found = node.get("/routes")
    emit(found) if as_json else show.routes(found)
