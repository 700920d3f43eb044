"""Amounts and times as people type and read them; whole numbers throughout, never binary fractions.

`1500`, `1500sat`, `1500.25 sat`, `1500250msat`, `0.001btc`: satoshi when no unit is given. What cannot be expressed
exactly is refused, not rounded.
"""

import re

from protocols.units import MAX_MSAT
from rrnode.errors import UserError

_FORM = re.compile(r"(?P<whole>\d[\d_]*)(?:\.(?P<part>\d+))?\s*(?P<unit>[a-z]*)", re.ASCII)
_DIGITS = {"msat": 0, "sat": 3, "": 3, "sats": 3, "btc": 11}  # decimal places of the unit in millisatoshi
_EXAMPLES = "amounts look like 1500 (satoshi), 1500.5sat, 1500500msat or 0.001btc"
_TIME = re.compile(r"(?P<number>\d{1,9})\s*(?P<unit>ms|s|m|h|d)?", re.ASCII)
_MS = {"ms": 1, "s": 1000, None: 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_msat(text: str) -> int:
    """An amount in millisatoshi, 1 to 21 million bitcoin.

    Raises:
        UserError: malformed, zero or negative, finer than a millisatoshi, or more than exists.
    """
    shown = f"{text[:40]!r}"
    if text.strip().startswith("-"):
        raise UserError(f"{shown} is less than nothing", _EXAMPLES)
    form = _FORM.fullmatch(text.strip().lower()) if len(text) <= 64 else None
    if form is None:
        raise UserError(f"{shown} is not an amount", _EXAMPLES)
    if form["unit"] not in _DIGITS:
        raise UserError(f"{form['unit']!r} in {shown} is not a unit known here", _EXAMPLES)
    places: int = _DIGITS[form["unit"]]
    part = (form["part"] or "").rstrip("0")
    if len(part) > places:
        raise UserError(f"{shown} is finer than a millisatoshi, the smallest amount there is", _EXAMPLES)
    amount = int(form["whole"].replace("_", "")) * int(10**places) + int(part.ljust(places, "0") or "0")
    if amount == 0:
        raise UserError("the amount is zero", _EXAMPLES)
    if amount > MAX_MSAT:
        raise UserError(f"{shown} is more than all bitcoin there will ever be", _EXAMPLES)
    return amount


def parse_sat(text: str) -> int:
    """An amount on the chain: whole satoshi. Raises UserError."""
    amount = parse_msat(text)
    if amount % 1000:
        raise UserError(f"{text[:40]!r} is not a whole number of satoshi, as the chain wants", "leave the fraction out")
    return amount // 1000


def parse_ms(text: str) -> int:
    """A time in milliseconds: `500ms`, `30` or `30s`, `10m`, `1h`, `2d`. Raises UserError."""
    form = _TIME.fullmatch(text.strip().lower())
    if form is None:
        raise UserError(f"{text[:40]!r} is not a length of time", "times look like 500ms, 30s, 10m, 1h or 2d")
    return int(form["number"]) * _MS[form["unit"]]


def parse_seconds(text: str) -> int:
    """A time in whole seconds. Raises UserError."""
    milliseconds = parse_ms(text)
    if milliseconds % 1000:
        raise UserError(f"{text[:40]!r} is not a whole number of seconds", "times look like 30s, 10m, 1h or 2d")
    return milliseconds // 1000


def msat(amount: int) -> str:
    """An amount for people: satoshi with thousands marked, up to three decimals, exact (`1,500.25 sat`)."""
    sign = "-" if amount < 0 else ""
    whole, part = divmod(abs(amount), 1000)
    decimals = f".{part:03d}".rstrip("0") if part else ""
    return f"{sign}{whole:,}{decimals} sat"


def sat(amount: int) -> str:
    """A whole amount for people."""
    return f"{amount:,} sat"


def seconds(milliseconds: int) -> str:
    """A length of time in a progress line."""
    return f"{milliseconds / 1000:.2f} s"
