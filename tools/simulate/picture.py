"""Curves as SVG, written by hand: a picture needs lines and letters, and no library for them.

Every distribution is drawn as the share of values at or below x (its cumulative curve): nothing is hidden by the width of
bins, medians can be read off, and several curves fit one picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 30, 56, 64
_COLOURS = ("#0b6e99", "#c2571a", "#4a7a2a", "#7a3e8e")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points in the order of x; `stepped`: each y holds until the next x, and the last one to the right edge."""

    name: str
    points: tuple[tuple[float, float], ...]
    stepped: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A picture with one or more curves. y runs from 0 to 1.

    Attributes:
        logarithmic: x in powers of ten; values at or below the smallest positive power stand at the left edge.
        mark: an x to draw a line at, with its label.
    """

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    logarithmic: bool = False
    mark: tuple[float, str] | None = None


def shares(values: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """The share of values at or below each of them."""
    found = sorted(values)
    return tuple((value, (place + 1) / len(found)) for place, value in enumerate(found))


class _Axis:
    """Where an x stands."""

    def __init__(self, values: Sequence[float], *, logarithmic: bool) -> None:
        self._logarithmic = logarithmic
        if logarithmic:
            positive = [value for value in values if value > 0] or [1.0]
            self.low = float(math.floor(math.log10(min(positive)) + 1e-9))
            self.high = max(self.low + 1.0, math.ceil(math.log10(max(positive)) - 1e-9))
            self.ticks = [10.0**power for power in range(int(self.low), int(self.high) + 1)]
        else:
            step = _nice(max([*values, 0.0]) / 5)
            count = max(1, math.ceil(max([*values, 0.0]) / step - 1e-9))
            self.low, self.high = 0.0, count * step
            self.ticks = [step * each for each in range(count + 1)]

    def at(self, x: float) -> float:
        place = math.log10(max(x, 10.0**self.low)) if self._logarithmic else x
        share = (place - self.low) / (self.high - self.low)
        return LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)


def _nice(step: float) -> float:
    """The next round number: 1, 2 or 5 times a power of ten."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(round(each * power, 12) for each in (1, 2, 5, 10) if each * power >= step * (1 - 1e-9))


def draw(chart: Chart) -> str:
    """The picture as SVG text."""
    values = [x for curve in chart.curves for x, _ in curve.points]
    axis = _Axis(values, logarithmic=chart.logarithmic)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect x="0" y="0" width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 24, chart.title, size=16),
    ]
    parts += _grid(chart, axis)
    if chart.mark is not None:
        x = axis.at(chart.mark[0])
        parts += [_line(x, TOP, x, HEIGHT - BOTTOM, "#333333", dashed=True), _text(x + 6, TOP + 14, chart.mark[1])]
    for number, curve in enumerate(chart.curves):
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(_polyline(_path(curve, axis), colour))
        x = LEFT + 190 * number
        parts += [_line(x, TOP - 12, x + 18, TOP - 12, colour, width=3), _text(x + 24, TOP - 8, curve.name)]
    return "\n".join([*parts, "</svg>", ""])


def _grid(chart: Chart, axis: _Axis) -> list[str]:
    parts = []
    for tenth in range(0, 11, 2):
        y = _height(tenth / 10)
        parts += [_line(LEFT, y, WIDTH - RIGHT, y, "#dddddd"), _text(LEFT - 8, y + 4, f"{10 * tenth} %", anchor="end")]
    for tick in axis.ticks:
        x = axis.at(tick)
        parts += [
            _line(x, TOP, x, HEIGHT - BOTTOM, "#dddddd"),
            _text(x, HEIGHT - BOTTOM + 18, f"{tick:,.10g}", anchor="middle"),
        ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts += [
        _text(middle, HEIGHT - 18, chart.x_label, anchor="middle"),
        _text(18, (TOP + HEIGHT - BOTTOM) / 2, chart.y_label, anchor="middle", turned=True),
    ]
    return parts


def _height(y: float) -> float:
    return HEIGHT - BOTTOM - y * (HEIGHT - BOTTOM - TOP)


def _path(curve: Curve, axis: _Axis) -> list[tuple[float, float]]:
    """Corners, those that would fall on the same place left out."""
    corners: list[tuple[float, float]] = []
    last = 0.0
    for x, y in curve.points:
        place = axis.at(x)
        if curve.stepped:
            corners.append((place, _height(last)))
        corners.append((place, _height(y)))
        last = y
    if curve.stepped and corners:
        corners.append((WIDTH - RIGHT, _height(last)))
    rounded = [(round(x, 1), round(y, 1)) for x, y in corners]
    return [each for place, each in enumerate(rounded) if place == 0 or each != rounded[place - 1]]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, width: int = 1, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"{dashes}/>'


def _polyline(points: Sequence[tuple[float, float]], colour: str) -> str:
    text = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _text(x: float, y: float, text: str, *, size: int = 13, anchor: str = "start", turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#222222"{turn}>'
        f"{escape(text)}</text>"
    )
