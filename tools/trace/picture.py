"""A payment's story as a sequence picture (SVG): a line for each node, an arrow for whatever went from one to another."""

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from protocols.payment.payer import in_words
from protocols.units import Msat
from tools.trace.page import time_of, what, where
from tools.trace.story import Happening, Story

MOST_DRAWN = 160  # happenings: a picture of several screens; the text has all of them
_COLUMN, _ROW, _LEFT, _TOP, _BOTTOM = 240, 30, 150, 110, 50
_LONGEST_NAME, _LONGEST_LABEL = 24, 38  # characters that fit a column
_COLOURS = {"offer": "#2f6fb0", "subscribe": "#8a8a8a", "lock": "#e08a1e", "settle": "#2e8b57", "fail": "#b03a2e"}
_DROPPED = "#b5b5b5"
_GOOD, _BAD = "#2e8b57", "#b03a2e"


def as_svg(story: Story) -> str:
    """The picture, a whole SVG document."""
    drawn, left_out = _chosen(story.happenings)
    width = _LEFT + _COLUMN * max(2, len(story.columns)) + 40
    height = _TOP + _ROW * (len(drawn) + 1) + _BOTTOM + 30
    places = {name: _LEFT + _COLUMN * number + _COLUMN // 2 for number, name in enumerate(story.columns)}
    began = drawn[0].at_ms if drawn else 0
    title = f"payment {story.payment_hash}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        ' font-family="Helvetica, Arial, sans-serif">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
        ' orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="context-stroke"/></marker></defs>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        _text(20, 32, title, size=16),
        *(_lifeline(name, x, height - _BOTTOM) for name, x in places.items()),
        *(
            line
            for row, each in enumerate(drawn)
            for line in _drawn(each, _TOP + _ROW * (row + 1), places, began, rightmost=max(places.values()))
        ),
        *_legend(height - 18, left_out),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _chosen(happenings: Sequence[Happening]) -> tuple[list[Happening], int]:
    """What is drawn, in order, and how many offers are not: first those that were dropped, then the latest."""
    offers = [each for each in happenings if each.kind in ("offer", "subscribe")]
    room = max(0, MOST_DRAWN - (len(happenings) - len(offers)))
    ranked = sorted(range(len(offers)), key=lambda number: (offers[number].kept is False, number))
    out = {id(offers[number]) for number in ranked[room:]}
    return [each for each in happenings if id(each) not in out], len(out)


def _lifeline(name: str, x: int, bottom: int) -> str:
    shown = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    half = 8 + 4.6 * len(shown)
    return (
        f'<line x1="{x}" y1="{_TOP}" x2="{x}" y2="{bottom}" stroke="#c8c8c8" stroke-width="1.5"/>'
        f'<rect x="{x - half:.0f}" y="{_TOP - 46}" width="{2 * half:.0f}" height="32" rx="5" fill="#f2f5f8"'
        ' stroke="#1d4a78"/>' + _text(x, _TOP - 25, shown, size=15, anchor="middle")
    )


def _drawn(each: Happening, y: int, places: dict[str, int], began: int, *, rightmost: int) -> Iterator[str]:
    about = f"<title>{escape(f'{time_of(each, began)} s  {where(each)}: {what(each)}')}</title>"
    yield _text(_LEFT - 20, y + 4, f"{time_of(each, began)} s", size=12, anchor="end", colour="#777777")
    here = places[each.node]
    if not each.to:
        bad = each.kind in ("failed", "expired") or (each.kind == "forwarded" and not each.amount)
        colour = _BAD if bad else _GOOD if each.kind in _ENDS else "#444444"
        last = here == rightmost
        yield f'<g>{about}<circle cx="{here}" cy="{y}" r="4.5" fill="{colour}"/>'
        x, anchor = (here - 10, "end") if last else (here + 10, "start")
        yield _text(x, y + 4, _cut(what(each), 2 * _LONGEST_LABEL), size=12.5, anchor=anchor, colour=colour, halo=True)
        yield "</g>"
        return
    there = places[each.to]
    colour = _DROPPED if each.kept is False else _COLOURS[each.kind]
    dashes = ' stroke-dasharray="5 4"' if each.kept is False else ""
    thick = 1.6 if each.kind in ("offer", "subscribe") else 2.6
    gap = 4 if there > here else -4
    yield (
        f'<g>{about}<line x1="{here + gap}" y1="{y}" x2="{there - gap}" y2="{y}" stroke="{colour}"'
        f' stroke-width="{thick}"{dashes} marker-end="url(#head)"/>'
    )
    middle = (
        (here + there) / 2 if abs(there - here) == _COLUMN else here + (_COLUMN / 2 if there > here else -_COLUMN / 2)
    )
    ink = "#999999" if each.kept is False else "#222222"
    yield _text(middle, y - 5, _cut(_label(each), _LONGEST_LABEL), size=12, anchor="middle", colour=ink, halo=True)
    yield "</g>"


_ENDS = ("paid", "claimed", "forwarded")


def _label(each: Happening) -> str:
    """On an arrow: short, for the words are in its title."""
    amount = "" if each.amount is None else in_words(Msat(each.amount))
    match each.kind:
        case "offer":
            return f"{'dropped: ' if each.kept is False else ''}{amount}, {each.blocks} blocks"
        case "lock":
            return f"lock {amount}" + (f" until {each.blocks}" if each.blocks is not None else "")
        case "settle":
            return "preimage"
        case "fail":
            return f"back: {each.text}" if each.text else "back"
    return each.kind


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(
    x: float, y: float, text: str, *, size: float, anchor: str = "start", colour: str = "#222222", halo: bool = False
) -> str:
    around = ' stroke="#ffffff" stroke-width="3.5" paint-order="stroke"' if halo else ""
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size:g}" text-anchor={quoteattr(anchor)} fill="{colour}"{around}>'
        f"{escape(text)}</text>"
    )


def _legend(y: int, left_out: int) -> Iterator[str]:
    words = (
        ("offer", "offer: send me so much, and I bring it on"),
        ("lock", "money is locked"),
        ("settle", "it is claimed"),
        ("fail", "it comes back"),
    )
    x = 20
    for kind, sentence in words:
        yield f'<line x1="{x}" y1="{y - 4}" x2="{x + 26}" y2="{y - 4}" stroke="{_COLOURS[kind]}" stroke-width="3"/>'
        yield _text(x + 32, y, sentence, size=12, colour="#555555")
        x += 50 + 6 * len(sentence)
    if left_out:
        yield _text(20, 54, f"{left_out} offers are not drawn", size=12, colour="#555555")
