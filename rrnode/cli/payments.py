"""`rrnode contact|request|pay|give-up|receive|payments|mail|routes`: paying and being paid."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from rrnode.cli import show
from rrnode.cli.amounts import msat, parse_ms, parse_msat, parse_seconds
from rrnode.cli.context import JsonFlag, emit, progress, say, session
from rrnode.errors import UserError


def register(app: typer.Typer) -> None:
    """Add these commands to the top level."""
    for command in (contact, request, pay, receive, payments, mail, routes):
        app.command()(command)
    app.command("give-up")(give_up)


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
    asleep: Annotated[
        str | None, typer.Option(help="How long to wait for a payee that is away: 30m, 2d; 0: not at all.")
    ] = None,
    out_of_band: Annotated[
        bool, typer.Option("--out-of-band", help="Print a text that you give to the payee: rrnode receive TEXT.")
    ] = False,
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
        "asleep_s": None if asleep is None else 0 if asleep.strip() == "0" else parse_seconds(asleep),
    }
    with session(context, as_json).client() as node, node.events() as events:
        started = node.post("/payments/by-hand" if out_of_band else "/payments", order)
        payment_hash = started["payment_hash"]
        if out_of_band and not as_json:
            say(started["text"])
            _qr(started["text"])
            say(f"Give this to the payee before {show.when(started['expires_unix'])}: rrnode receive TEXT")
        if not wait:
            emit(started) if as_json else say(payment_hash)
            return
        if out_of_band and as_json:
            emit(started)
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


def give_up(
    context: typer.Context,
    payment_hash: Annotated[str, typer.Argument(help="Of a payment of yours, as rrnode payments shows it.")],
    as_json: JsonFlag = False,
) -> None:
    """Give up a payment that still waits for offers or for its payee to wake; nothing of it is locked."""
    with session(context, as_json).client() as node:
        done = node.delete(f"/payments/{payment_hash}")
    emit(done) if as_json else say("Given up; nothing was paid.")


def receive(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="What the payer's rrnode pay --out-of-band printed.")],
    wait: Annotated[bool, typer.Option(help="Return when the payment is in, or its time is over.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Take a payment that its payer has handed to you as a text."""
    with session(context, as_json).client() as node, node.events() as events:
        found = node.post("/receive", {"text": text.strip()})
        if not as_json:
            until = show.when(found["expires_unix"])
            show.pairs([("amount", msat(found["amount_msat"])), ("memo", found["memo"]), ("until", until)])
        paid = _came_in(events, found["payment_hash"]) if wait else None
    if as_json:
        emit(found if paid is None else {**found, "received_msat": paid})
    elif paid is not None:
        say(f"Received {msat(paid)}.")


def _came_in(events: Iterator[dict[str, Any]], payment_hash: str) -> int:
    """What came in for a payment, in millisatoshi."""
    for event in events:
        if event.get("payment_hash") != payment_hash:
            continue
        if event["kind"] == "received":
            return int(event["amount_msat"])
        if event["kind"] == "missed":
            raise UserError(f"nothing came in: {show.clean(event['reason'])}", "ask the payer to pay again")
    raise UserError("the node stopped before the payment came in", "start it again, then see: rrnode payments")


def mail(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show your mailboxes, what you missed while you were away, and what waits here for others."""
    with session(context, as_json).client() as node:
        found = node.get("/mail")
    emit(found) if as_json else show.mail(found)


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
            ("told", payment["delivery"] if payment["phase"] != "collecting" else ""),
            ("waits for", payment["delivery"] if payment["phase"] == "collecting" else ""),
            ("reason", payment["reason"]),
        ]
    )


def routes(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the routing table: offers by payment hash, and the neighbours they come from."""
    with session(context, as_json).client() as node:
        found = node.get("/routes")
    emit(found) if as_json else show.routes(found)
