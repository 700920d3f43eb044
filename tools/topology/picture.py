"""A graph as a picture (SVG) that a person can read: who is connected with whom stands close, the same graph looks the same.

The layout is Fruchterman and Reingold's (1991): all nodes push each other away, lines pull together, and the whole cools
down. Its beginning is drawn from the nodes' ids, so that nothing depends on chance.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

from tools.topology.graph import Edge, Graph, Node

WIDTH, HEIGHT, MARGIN = 1200, 900, 90
LEGEND = 150  # kept free below
MOST_DRAWN = 150  # nodes: more would be a black spot; those with the most channels are drawn
MOST_NAMED = 40  # likewise; the others are named when the pointer is over them
MOST_HEARSAY = 60  # nodes: among more, the thin lines of who told of whom hide everything else
_LONGEST_NAME = 24  # characters
_WORK = 3_000_000  # pairs looked at: some seconds

_FILL = {"reachable": "#2f6fb0", "unreachable": "#ffffff", "not dialled": "#ffffff", "by channels": "#d9d9d9"}
_LINE = {"reachable": "#1d4a78", "unreachable": "#b03a2e", "not dialled": "#8a8a8a", "by channels": "#8a8a8a"}
Point = tuple[float, float]


def as_svg(graph: Graph, title: str) -> str:
    """The picture, a whole SVG document."""
    nodes = _drawn(graph)
    shown = {each.id for each in nodes}
    edges = [each for each in graph.edges if each.one in shown and each.other in shown]
    hearsay = sorted(
        {
            (min(each.id, other), max(each.id, other))
            for each in nodes
            for other in each.knows
            if other in shown and other != each.id
        }
        - {(each.one, each.other) for each in edges}
    )
    places = layout([each.id for each in nodes], [(each.one, each.other) for each in edges], hearsay)
    scale = min(1.0, math.sqrt(MOST_NAMED / max(1, len(nodes))))
    sizes = {each.id: scale * _size(each.id, edges) for each in nodes}
    named = set(sorted(sizes, key=lambda each: -sizes[each])[:MOST_NAMED])
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT + LEGEND}"'
        f' viewBox="0 0 {WIDTH} {HEIGHT + LEGEND}" font-family="Helvetica, Arial, sans-serif">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="30" y="42" font-size="22" fill="#222222">{escape(title)}</text>',
        *(_thin_line(places[one], places[other]) for one, other in hearsay if len(nodes) <= MOST_HEARSAY),
        *(_channel_line(each, places) for each in edges),
        *(_circle(each, places[each.id], sizes[each.id]) for each in nodes),
        *(_label(each, places[each.id], sizes[each.id]) for each in nodes if each.id in named),
        *_legend(len(graph.nodes) - len(nodes)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def layout(
    names: Sequence[str], strong: Sequence[tuple[str, str]], weak: Sequence[tuple[str, str]]
) -> dict[str, Point]:
    """A place for each node within the picture. Strong lines pull more than weak ones."""
    if not names:
        return {}
    rounds = max(20, min(300, _WORK // max(1, len(names) ** 2)))
    spring = 1 / math.sqrt(len(names))
    place = {name: _first_place(name) for name in names}
    pulls = [(one, other, 1.0) for one, other in strong] + [(one, other, 0.15) for one, other in weak]
    for turn in range(rounds):
        heat = 0.1 * (1 - turn / rounds) + 0.001
        force = {name: (0.12 * (0.5 - x), 0.12 * (0.5 - y)) for name, (x, y) in place.items()}  # nobody drifts away
        for number, one in enumerate(names):
            for other in names[number + 1 :]:
                dx, dy, distance = _between(place[one], place[other])
                push = spring * spring / distance / distance
                _add(force, one, dx * push, dy * push)
                _add(force, other, -dx * push, -dy * push)
        for one, other, strength in pulls:
            dx, dy, distance = _between(place[one], place[other])
            pull = strength * distance / spring
            _add(force, one, -dx * pull, -dy * pull)
            _add(force, other, dx * pull, dy * pull)
        for name, (dx, dy) in force.items():
            length = math.hypot(dx, dy) or 1e-9
            step = min(length, heat) / length
            x, y = place[name]
            place[name] = (x + dx * step, y + dy * step)
    return _fitted(place)


# --- inside -----------------------------------------------------------------------------------------------------------


def _drawn(graph: Graph) -> list[Node]:
    lines: dict[str, int] = {}
    for edge in graph.edges:
        for each in (edge.one, edge.other):
            lines[each] = lines.get(each, 0) + 1
    order = sorted(graph.nodes, key=lambda each: (-lines.get(each.id, 0), each.state != "reachable", each.id))
    return sorted(order[:MOST_DRAWN], key=lambda each: each.id)


def _first_place(name: str) -> Point:
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32, int.from_bytes(digest[4:8], "big") / 2**32


def _between(one: Point, other: Point) -> tuple[float, float, float]:
    dx, dy = one[0] - other[0], one[1] - other[1]
    return dx, dy, max(math.hypot(dx, dy), 1e-3)


def _add(force: dict[str, Point], name: str, dx: float, dy: float) -> None:
    x, y = force[name]
    force[name] = (x + dx, y + dy)


def _fitted(place: Mapping[str, Point]) -> dict[str, Point]:
    xs, ys = [x for x, _ in place.values()], [y for _, y in place.values()]
    wide, high = max(xs) - min(xs) or 1.0, max(ys) - min(ys) or 1.0
    return {
        name: (
            MARGIN + (x - min(xs)) / wide * (WIDTH - 2 * MARGIN) if len(place) > 1 else WIDTH / 2,
            MARGIN + (y - min(ys)) / high * (HEIGHT - 2 * MARGIN) if len(place) > 1 else HEIGHT / 2,
        )
        for name, (x, y) in place.items()
    }


def _size(name: str, edges: Sequence[Edge]) -> float:
    """Radius of a node, by its channels."""
    count = sum(edge.channels for edge in edges if name in (edge.one, edge.other))
    return min(26.0, 9.0 + 3.0 * math.sqrt(count))


def _thin_line(one: Point, other: Point) -> str:
    return (
        f'<line x1="{one[0]:.1f}" y1="{one[1]:.1f}" x2="{other[0]:.1f}" y2="{other[1]:.1f}"'
        ' stroke="#d5d5d5" stroke-width="1"/>'
    )


def _channel_line(edge: Edge, places: Mapping[str, Point]) -> str:
    one, other = places[edge.one], places[edge.other]
    width = 1.5 if not edge.capacity_sat else min(9.0, max(1.5, 1.2 * (math.log10(edge.capacity_sat) - 3)))
    dashes = "" if len(edge.told_by) == 2 else ' stroke-dasharray="7 5"'
    told = f"{edge.capacity_sat:,} sat" if edge.capacity_sat else "capacity not told"
    many = f"{edge.channels} channels, " if edge.channels > 1 else ""
    return (
        f'<line x1="{one[0]:.1f}" y1="{one[1]:.1f}" x2="{other[0]:.1f}" y2="{other[1]:.1f}" stroke="#e08a1e"'
        f' stroke-width="{width:.1f}" stroke-linecap="round"{dashes}><title>{many}{told}</title></line>'
    )


def _circle(node: Node, place: Point, size: float) -> str:
    x, y = place
    about = f"{node.id}\n{node.name}; {node.state}; {node.program} {node.version}; {', '.join(node.roles) or 'client'}"
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" fill={quoteattr(_FILL[node.state])}'
        f' stroke={quoteattr(_LINE[node.state])} stroke-width="2.5"><title>{escape(about)}</title></circle>'
    )


def _label(node: Node, place: Point, size: float) -> str:
    x, y = place
    name = node.name if len(node.name) <= _LONGEST_NAME else node.name[: _LONGEST_NAME - 7] + node.name[-7:]
    return (
        f'<text x="{x:.1f}" y="{y + size + 17:.1f}" font-size="15" text-anchor="middle" fill="#222222" stroke="#ffffff"'
        f' stroke-width="4" paint-order="stroke">{escape(name)}</text>'
    )


def _legend(left_out: int) -> Iterator[str]:
    y = HEIGHT + 30
    entries = (
        ("reachable", "answered when dialled"),
        ("unreachable", "did not answer"),
        ("not dialled", "heard of, not dialled"),
        ("by channels", "known by others' channels only"),
    )
    for number, (state, words) in enumerate(entries):
        x = 40 + number * 280
        yield (
            f'<circle cx="{x}" cy="{y}" r="9" fill={quoteattr(_FILL[state])} stroke={quoteattr(_LINE[state])} stroke-width="2.5"/>'
        )
        yield f'<text x="{x + 18}" y="{y + 5}" font-size="15" fill="#222222">{escape(words)}</text>'
    lines = (
        ('stroke="#e08a1e" stroke-width="5"', "channels, told by both (thicker: more capacity)"),
        ('stroke="#e08a1e" stroke-width="5" stroke-dasharray="7 5"', "told by one only"),
        ('stroke="#d5d5d5" stroke-width="2"', "one told of the other"),
    )
    for number, (style, words) in enumerate(lines):
        x, below = (30, 500, 780)[number], y + 45
        yield f'<line x1="{x}" y1="{below}" x2="{x + 36}" y2="{below}" {style}/>'
        yield f'<text x="{x + 48}" y="{below + 5}" font-size="15" fill="#222222">{escape(words)}</text>'
    if left_out:
        words = f"{left_out} nodes with fewer channels are not drawn"
        yield f'<text x="30" y="{y + 90}" font-size="15" fill="#222222">{words}</text>'
