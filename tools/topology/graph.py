"""What a crawl found as a graph: nodes with what is known of them, channels with who tells of them; for people and programs."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any
from xml.etree import ElementTree as xml

from bootstrap.relays import roles_of
from protocols.ids import PeerId
from rrnode.cli import show
from rrnode.host.peer_text import to_text
from rrnode.services.asking import clock_in_words
from rrnode.services.limits import printable
from tools.topology.crawl import Crawl, Seen

MOST_BY_CHANNELS = 2_000  # nodes: each costs milliseconds to show, and one node may tell of a thousand that are not


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node; texts are harmless for a terminal.

    Attributes:
        state: "reachable", "unreachable", "not dialled", or "by channels": only others' channels tell of it.
        knows: ids of those whom it told of.
    """

    id: str
    state: str
    program: str = ""
    version: str = ""
    operator: str = ""
    roles: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    channels: int = 0
    clock: str = ""
    problem: str = ""
    knows: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For pictures: its operator, and enough of its id to tell it from others."""
        return f"{self.operator} …{self.id[-4:]}" if self.operator else f"…{self.id[-6:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """The channels of two nodes, `one` < `other`.

    Attributes:
        channels: how many, as the one says who tells of more.
        capacity_sat: all together, likewise; 0: not told.
        told_by: who tells of them; when it is one of two, the other does not confirm them.
    """

    one: str
    other: str
    channels: int
    capacity_sat: int
    told_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Everything, in the order of ids.

    Attributes:
        left_out: channels told of with nodes that nothing else is known of, beyond `MOST_BY_CHANNELS` such nodes.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    left_out: int = 0


def graph_of(crawl: Crawl) -> Graph:
    """The graph, as far as it is known."""
    told: dict[tuple[PeerId, PeerId], dict[PeerId, list[int]]] = {}
    only_told, left_out = _only_told(crawl), 0
    for seen in crawl.nodes.values():
        for peer, capacity in seen.channels:
            if peer not in crawl.nodes and peer not in only_told:
                left_out += 1
                continue
            pair = (min(seen.peer, peer), max(seen.peer, peer))
            told.setdefault(pair, {}).setdefault(seen.peer, []).append(capacity)
    edges = [_edge(pair, by) for pair, by in told.items()]
    nodes = [_node(seen) for seen in crawl.nodes.values()]
    nodes += [Node(id=to_text(peer), state="by channels") for peer in only_told]
    return Graph(
        nodes=tuple(sorted(nodes, key=lambda each: each.id)),
        edges=tuple(sorted(edges, key=lambda each: (each.one, each.other))),
        left_out=left_out,
    )


def _only_told(crawl: Crawl) -> set[PeerId]:
    """Nodes of which only others' channels tell; tellers take turns, so that who invents a thousand pushes out nobody's."""
    strangers = ([peer for peer, _ in seen.channels if peer not in crawl.nodes] for seen in crawl.nodes.values())
    turns = (peer for turn in zip_longest(*strangers) for peer in turn if peer is not None)
    return set(islice(dict.fromkeys(turns), MOST_BY_CHANNELS))


def _edge(pair: tuple[PeerId, PeerId], by: Mapping[PeerId, list[int]]) -> Edge:
    one, other = sorted(map(to_text, pair))
    return Edge(
        one=one,
        other=other,
        channels=max(map(len, by.values())),
        capacity_sat=max(map(sum, by.values())),
        told_by=tuple(sorted(map(to_text, by))),
    )


def _node(seen: Seen) -> Node:
    record, met = seen.record, seen.met
    agent = met.link.agent if met is not None else record.agent if record is not None else ""
    program, _, version = printable(agent).partition("/")
    return Node(
        id=to_text(seen.peer),
        state="reachable" if met is not None else "unreachable" if seen.dialled else "not dialled",
        program=program,
        version=version,
        operator=printable(record.operator) if record is not None else "",
        roles=roles_of(met.link.switches if met is not None else record.switches if record is not None else 0),
        addresses=seen.addresses,
        channels=len(seen.channels),
        clock=clock_in_words(met.about.clock) if met is not None and met.about is not None else "",
        problem=seen.problem,
        knows=tuple(sorted(map(to_text, seen.knows))),
    )


# --- for people -------------------------------------------------------------------------------------------------------


def show_tables(graph: Graph, crawl: Crawl) -> None:
    """Print what was found."""
    show.table(
        ("node", "state", "program", "operator", "roles", "channels told>", "knows>", "problem"),
        (
            (
                each.id,
                each.state,
                f"{each.program} {each.version}".strip(),
                each.operator,
                ", ".join(each.roles),
                str(each.channels) if each.state == "reachable" else "",
                str(len(each.knows)) if each.state == "reachable" else "",
                each.problem,
            )
            for each in graph.nodes
        ),
        empty="No node.",
    )
    print()
    if graph.edges:
        show.table(
            ("channels of", "and", "how many>", "capacity>", "told by"),
            (
                (
                    each.one,
                    each.other,
                    str(each.channels),
                    f"{each.capacity_sat:,} sat" if each.capacity_sat else "not told",
                    "both" if len(each.told_by) == 2 else f"…{each.told_by[0][-6:]} only",
                )
                for each in graph.edges
            ),
            empty="",
        )
        print()
    states = Counter(each.state for each in graph.nodes)
    reachable = [each for each in graph.nodes if each.state == "reachable"]
    show.pairs(
        [
            ("nodes", _counts(states)),
            ("programs", _counts(Counter(each.program or "not told" for each in reachable))),
            ("versions", _counts(Counter(each.version or "not told" for each in reachable))),
            ("operators", _counts(Counter(each.operator or "not declared" for each in reachable))),
            ("channels", _channels(graph.edges)),
            ("refused", "; ".join(f"{count} records: {why.value}" for why, count in crawl.refused.most_common())),
            ("left out", f"{crawl.dropped} records beyond what this crawl notes" if crawl.dropped else ""),
            ("not shown", f"{graph.left_out} channels with nodes that nobody else knows" if graph.left_out else ""),
            ("ended", f"{crawl.ended}; {crawl.waiting} nodes were not dialled" if crawl.ended else ""),
        ]
    )


def _counts(counter: Counter[str], most: int = 12) -> str:
    shown = [f"{count} {what}" for what, count in counter.most_common(most)]
    more = len(counter) - most
    return ", ".join(shown + ([f"{more} more kinds"] if more > 0 else []))


def _channels(edges: Iterable[Edge]) -> str:
    listed = list(edges)
    if not listed:
        return "none is told of"
    both = sum(len(each.told_by) == 2 for each in listed)
    total = sum(each.capacity_sat for each in listed)
    return (
        f"{sum(each.channels for each in listed)} between {len(listed)} pair{'s' * (len(listed) != 1)} of nodes, {both} told by both; "
        f"{total:,} sat together as far as told"
    )


# --- for programs -----------------------------------------------------------------------------------------------------


def as_document(graph: Graph, crawl: Crawl) -> dict[str, Any]:
    """One JSON document."""
    return {
        "nodes": [{name: _plain(getattr(each, name)) for name in Node.__dataclass_fields__} for each in graph.nodes],
        "channels": [{name: _plain(getattr(each, name)) for name in Edge.__dataclass_fields__} for each in graph.edges],
        "refused_records": {why.name.lower(): count for why, count in crawl.refused.items()},
        "dropped_records": crawl.dropped,
        "channels_left_out": graph.left_out,
        "not_dialled": crawl.waiting,
        "ended": crawl.ended,
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def as_graphml(graph: Graph) -> str:
    """GraphML (graphml.graphdrawing.org), undirected: an edge for each pair of nodes with channels."""
    root = xml.Element("graphml", xmlns="http://graphml.graphdrawing.org/xmlns")
    of_nodes = {"state": "string", "program": "string", "version": "string", "operator": "string", "roles": "string"}
    of_edges = {"channels": "int", "capacity_sat": "long", "told_by": "int"}
    for domain, names in (("node", of_nodes), ("edge", of_edges)):
        for name, kind in names.items():
            xml.SubElement(root, "key", {"id": f"{domain}_{name}", "for": domain, "attr.name": name, "attr.type": kind})
    drawn = xml.SubElement(root, "graph", id="channels", edgedefault="undirected")
    for each in graph.nodes:
        node = xml.SubElement(drawn, "node", id=each.id)
        for name in of_nodes:
            value = getattr(each, name)
            xml.SubElement(node, "data", key=f"node_{name}").text = " ".join(value) if name == "roles" else value
    for edge in graph.edges:
        line = xml.SubElement(drawn, "edge", source=edge.one, target=edge.other)
        for name in of_edges:
            number = len(edge.told_by) if name == "told_by" else getattr(edge, name)
            xml.SubElement(line, "data", key=f"edge_{name}").text = str(number)
    xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + xml.tostring(root, encoding="unicode") + "\n"
