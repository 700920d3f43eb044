"""A payment's story as one page of text, and as a JSON document."""

import dataclasses
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from protocols.payment.payer import in_words
from protocols.units import Msat
from rrnode.control.convert import payment_info, promise_info
from rrnode.services.limits import printable
from tools.trace.story import Happening, Story

_ROUGH = "~"  # before a time that is known to the second only


def page(story: Story) -> Iterator[str]:
    """The lines of the page."""
    yield f"payment {story.payment_hash}"
    yield from _summary(story)
    yield ""
    width = max(len(each.name) for each in story.nodes)
    for seen in story.nodes:
        state = "runs" if seen.runs else "from its disk" if seen.peer_id else "not asked"
        yield f"  {seen.name:{width}}  {seen.peer_id or '(unknown)'}  {state}"
        if seen.problem:
            yield f"  {'':{width}}  {printable(seen.problem)}"
        if seen.left_out:
            yield f"  {'':{width}}  {seen.left_out} more notes were not kept"
    if not story.happenings:
        yield "none of these nodes knows this payment"
        return
    began = story.happenings[0].at_ms
    yield ""
    yield f"from {datetime.fromtimestamp(began / 1000).astimezone():%Y-%m-%d %H:%M:%S %Z}, seconds since then"
    places = [where(each) for each in story.happenings]
    width = max(map(len, places))
    for each, place in zip(story.happenings, places, strict=True):
        yield f"{time_of(each, began):>10}  {place:{width}}  {what(each)}".rstrip()
    if any(not each.exact for each in story.happenings):
        yield f"{_ROUGH}: from a database, which knows the second only, and nothing of offers"


def _summary(story: Story) -> Iterator[str]:
    """How it ended, as the payer, else the payee, has it."""
    names = {seen.peer_id: seen.name for seen in story.nodes}
    for seen in story.nodes:
        if seen.payment is not None:
            paid = payment_info(seen.payment)
            to = names.get(paid.payee, paid.payee)
            yield f"{paid.kind} of {in_words(Msat(paid.amount_msat))} from {seen.name} to {to}: {paid.phase}"
            if paid.sent_msat is not None and paid.fee_msat is not None:
                yield f"{in_words(Msat(paid.sent_msat))} left {seen.name}, {in_words(Msat(paid.fee_msat))} of it are fees"
            if paid.reason:
                yield printable(paid.reason)
            return
    for seen in story.nodes:
        if seen.promise is not None:
            promised = promise_info(seen.promise)
            yield f"{promised.kind} of {in_words(Msat(promised.amount_msat))} to {seen.name}: {promised.phase}"
            return


def time_of(happening: Happening, began: int) -> str:
    """Seconds since the beginning, marked when they are rough."""
    return f"{'' if happening.exact else _ROUGH}{(happening.at_ms - began) / 1000:+.3f}"


def where(happening: Happening) -> str:
    """At which node, or from which to which."""
    return f"{happening.node} -> {happening.to}" if happening.to else happening.node


def what(happening: Happening) -> str:
    """What happened, in words."""
    amount = "" if happening.amount is None else in_words(Msat(happening.amount))
    blocks, text = happening.blocks, printable(happening.text)
    because = f": {text}" if text else ""
    match happening.kind:
        case "want":
            return "wants to pay" + (f" {amount}" if amount else "") + (f", {text}" if text else "")
        case "promised":
            return f"will take {amount}"
        case "ask":
            return f"asks the network for {amount}, {text}"
        case "subscribe":
            return "subscribes"
        case "offer" if happening.to:
            return f"send me {amount}, {blocks} blocks{_verdict(happening)}{because}"
        case "offer":
            return f"no longer holds the offer of {happening.other} for {amount}{because}"
        case "again":
            return f"looks again at the offer of {happening.other} for {amount}{_verdict(happening)}{because}"
        case "stands":
            return f"could lock {amount} to {happening.other}" if happening.other else f"has nothing to lock{because}"
        case "lock":
            until = f" until block {blocks}" if blocks is not None else ""
            return f"locks{f' {amount}' if amount else ''}{until}"
        case "settle":
            return "claims it with the preimage"
        case "fail":
            return f"gives it back{because}"
        case "paid":
            return "has paid" + (f" {amount}" if amount else "")
        case "failed":
            return f"has not paid{because}"
        case "claimed":
            return f"has received {amount}"
        case "expired":
            return "takes it no more: its time is over"
        case "forwarded":
            return f"has earned {amount}" if happening.amount else "has carried nothing"
    return happening.kind + because


def _verdict(happening: Happening) -> str:
    """What the receiver of an offer did with it."""
    if happening.kept is None:
        return ""
    if not happening.kept:
        return " - dropped"
    return " - kept" + (", not passed on to all" if happening.text else "")


def document(story: Story) -> dict[str, Any]:
    """The same for programs: amounts in millisatoshi, times in unix milliseconds."""
    payments = [payment_info(seen.payment).model_dump() for seen in story.nodes if seen.payment is not None]
    promises = [promise_info(seen.promise).model_dump() for seen in story.nodes if seen.promise is not None]
    return {
        "payment_hash": story.payment_hash,
        "payment": payments[0] if payments else None,
        "promise": promises[0] if promises else None,
        "nodes": [
            {
                "name": seen.name,
                "peer_id": seen.peer_id,
                "network": seen.network,
                "runs": seen.runs,
                "left_out": seen.left_out,
                "problem": seen.problem,
            }
            for seen in story.nodes
        ],
        "happenings": [{**_renamed(dataclasses.asdict(each)), "words": what(each)} for each in story.happenings],
    }


def _renamed(fields: dict[str, Any]) -> dict[str, Any]:
    return {"amount_msat" if name == "amount" else name: value for name, value in fields.items()}
