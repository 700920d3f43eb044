"""What a crawl becomes: a graph with channels told by one or both, JSON, GraphML and a picture, whatever names contain."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import pytest
import trio

from bootstrap.networks import REGTEST
from protocols.ids import PeerId
from protocols.node_record import NodeRecord
from protocols.onchain import ec
from protocols.units import Sat, UnixTime
from protocols.wire.info import Signed
from rrnode.host.base import PeerConnected
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.host.peer_text import to_text
from rrnode.services.asking import About, Meeting
from tools.topology.crawl import Crawl, Seen
from tools.topology.graph import MOST_BY_CHANNELS, Edge, Node, as_document, as_graphml, graph_of, show_tables
from tools.topology.picture import HEIGHT, MARGIN, MOST_DRAWN, MOST_NAMED, WIDTH, as_svg, layout

ROOT = Path(__file__).parents[3]
PEERS = sorted(PeerId(ec.point_of(number.to_bytes(32, "big"))) for number in range(1, 6))
IDS = [to_text(each) for each in PEERS]
EVIL = 'Ann "&<\x1b\x00\ud83c'.encode("utf-8", "replace").decode()


def seen(peer: PeerId, *channels: tuple[PeerId, Sat], operator: str = "", knows: tuple[PeerId, ...] = ()) -> Seen:
    record = NodeRecord(
        node=peer, network=REGTEST.genesis, made=UnixTime(1), operator=operator, addresses=("/memory/1",)
    )
    about = About(record=record, signed=Signed(b"", b""), channels=channels, clock=0.0, round_trip=0.1)
    link = PeerConnected(peer=peer, inbound=False, switches=3, agent="rrnode/0.1", address="")
    return Seen(
        peer=peer,
        addresses=("/memory/1/p2p/x",),
        dialled=True,
        met=Meeting(link=link, dialled_in=0.1, about=about),
        record=record,
        knows=set(knows),
    )


@pytest.fixture
def crawl() -> Crawl:
    """Nodes 0 and 1 tell of two channels with each other, 1 of one with 2, which is gone, 0 of one with 3."""
    made = Crawl(MemoryHost(b"\x09" * 32, network=MemoryNetwork(), genesis=REGTEST.genesis), REGTEST)
    a, b, c, d, _ = PEERS
    gone = Seen(peer=c, addresses=("/memory/3/p2p/x",), dialled=True, problem="connection refused")
    for each in (
        seen(a, (b, Sat(1000)), (b, Sat(500)), (d, Sat(0)), operator=EVIL, knows=(b, c)),
        seen(b, (a, Sat(500)), (a, Sat(1000)), (c, Sat(10**6))),
        gone,
    ):
        made.nodes[each.peer] = each
    made.dropped = 3
    made.ended = "interrupted"
    return made


def test_channels_are_told_by_one_or_by_both(crawl: Crawl) -> None:
    graph = graph_of(crawl)
    ids = {each: to_text(each) for each in PEERS}
    a, b, c, d, _ = (ids[each] for each in PEERS)

    def edge(one: str, other: str, channels: int, capacity: int, *told_by: str) -> Edge:
        one, other = sorted((one, other))
        return Edge(one=one, other=other, channels=channels, capacity_sat=capacity, told_by=tuple(sorted(told_by)))

    assert set(graph.edges) == {edge(a, b, 2, 1500, a, b), edge(b, c, 1, 10**6, b), edge(a, d, 1, 0, a)}
    nodes = {each.id: each for each in graph.nodes}
    assert {each.id: each.state for each in graph.nodes} == {
        a: "reachable",
        b: "reachable",
        c: "unreachable",
        d: "by channels",
    }
    assert nodes[a] == Node(
        id=a,
        state="reachable",
        program="rrnode",
        version="0.1",
        operator='Ann "&<··?',
        roles=("route", "chain"),
        addresses=("/memory/1/p2p/x",),
        channels=3,
        clock="agrees with ours within a second",
        knows=tuple(sorted((b, c))),
    )


def test_tables_are_printed_harmlessly(crawl: Crawl, capsys: pytest.CaptureFixture[str]) -> None:
    show_tables(graph_of(crawl), crawl)
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "nodes      2 reachable, 1 unreachable, 1 by channels" in said
    assert "programs   2 rrnode" in said
    assert "channels   4 between 3 pairs of nodes, 1 told by both; 1,001,500 sat together as far as told" in said
    assert "ended      interrupted; 0 nodes were not dialled" in said


def test_the_document_is_json(crawl: Crawl) -> None:
    document = json.loads(json.dumps(as_document(graph_of(crawl), crawl)))
    assert (len(document["nodes"]), len(document["channels"]), document["dropped_records"]) == (4, 3, 3)


def test_graphml_is_well_formed_and_whole(crawl: Crawl) -> None:
    root = xml.fromstring(as_graphml(graph_of(crawl)))
    space = "{http://graphml.graphdrawing.org/xmlns}"
    assert len(root.findall(f".//{space}node")) == 4
    edges = root.findall(f".//{space}edge")
    capacities = [edge.findtext(f"{space}data[@key='edge_capacity_sat']") for edge in edges]
    assert sorted(map(int, capacities)) == [0, 1500, 10**6]  # type: ignore[arg-type]
    declared = {key.get("id") for key in root.findall(f"{space}key")}
    assert {data.get("key") for data in root.iter(f"{space}data")} == declared


def test_the_picture_shows_every_node_within_its_frame_and_is_the_same_each_time(crawl: Crawl) -> None:
    text = as_svg(graph_of(crawl), "a <title>")
    assert as_svg(graph_of(crawl), "a <title>") == text
    root = xml.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    circles = [each for each in root.iter(f"{space}circle") if each.find(f"{space}title") is not None]
    assert len(circles) == 4
    for each in circles:
        assert MARGIN - 1 <= float(each.get("cx", "")) <= WIDTH - MARGIN + 1
        assert MARGIN - 1 <= float(each.get("cy", "")) <= HEIGHT - MARGIN + 1
    words = [each.text for each in root.iter(f"{space}text")]
    assert f'Ann "&<··? …{IDS[0][-4:]}' in words


def test_nodes_do_not_lie_on_each_other_and_neighbours_stand_closer_than_strangers() -> None:
    names = [str(number) for number in range(20)]
    strong = [(str(number), str(number + 1)) for number in range(19)]
    place = layout(names, strong, ())
    pairs = {
        (one, other): ((place[one][0] - place[other][0]) ** 2 + (place[one][1] - place[other][1]) ** 2) ** 0.5
        for one in names
        for other in names
        if one < other
    }
    assert min(pairs.values()) > 20
    near = [pairs[min(each), max(each)] for each in strong]
    assert max(near) < sum(pairs.values()) / len(pairs)


def test_a_large_graph_is_drawn_in_part_and_says_so() -> None:
    made = Crawl(MemoryHost(b"\x09" * 32, network=MemoryNetwork(), genesis=REGTEST.genesis), REGTEST)
    for number in range(MOST_DRAWN + 7):
        peer = PeerId(b"\x02" + number.to_bytes(32, "big"))
        made.nodes[peer] = Seen(peer=peer, addresses=("/x",))
    text = as_svg(graph_of(made), "many")
    assert "7 nodes with fewer channels are not drawn" in text
    assert text.count("<circle") == MOST_DRAWN + 4  # and four in the legend
    assert text.count('text-anchor="middle"') == MOST_NAMED


def test_an_empty_graph_has_a_picture() -> None:
    made = Crawl(MemoryHost(b"\x09" * 32, network=MemoryNetwork(), genesis=REGTEST.genesis), REGTEST)
    xml.fromstring(as_svg(graph_of(made), "nobody"))


# --- the program --------------------------------------------------------------------------------------------------


def test_nodes_that_a_liar_invents_in_its_channels_are_shown_up_to_a_most_and_push_nobody_out(crawl: Crawl) -> None:
    invented = [PeerId(b"\x02" + number.to_bytes(32, "big")) for number in range(MOST_BY_CHANNELS + 500)]
    crawl.nodes = {PEERS[4]: seen(PEERS[4], *((each, Sat(1)) for each in invented)), **crawl.nodes}
    graph = graph_of(crawl)
    strangers = {each.id for each in graph.nodes if each.state == "by channels"}
    assert (len(strangers), IDS[3] in strangers) == (MOST_BY_CHANNELS, True)
    assert graph.left_out == 501
    assert as_document(graph, crawl)["channels_left_out"] == 501


@pytest.fixture
async def silent() -> AsyncIterator[trio.SocketListener]:
    """Takes connections on loopback and says nothing."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        yield listener


async def started(*arguments: str) -> trio.Process:
    command = [sys.executable, "-m", "tools.topology", *arguments]
    return await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)


async def test_ctrl_c_ends_the_crawl_with_what_was_found(silent: trio.SocketListener) -> None:
    address = f"/ip4/127.0.0.1/tcp/{silent.socket.getsockname()[1]}/p2p/{IDS[0]}"
    process = await started(address, "--json")
    try:
        with trio.fail_after(60):
            connection = await silent.accept()
            process.send_signal(signal.SIGINT)
            assert process.stdout is not None
            said = b""
            async for piece in process.stdout:
                said += piece
            assert await process.wait() == 130
            await connection.aclose()
    finally:
        process.kill()
    document = json.loads(said)
    assert document["ended"] == "interrupted"
    assert [each["id"] for each in document["nodes"]] == [IDS[0]]


async def test_where_nobody_answers_it_says_so_and_still_writes_files(tmp_path: Path) -> None:
    files: dict[str, Any] = {name: tmp_path / name for name in ("graphml", "svg")}
    process = await started(
        f"/ip4/127.0.0.1/tcp/1/p2p/{IDS[0]}",
        *(word for name, path in files.items() for word in (f"--{name}", str(path))),
    )
    try:
        with trio.fail_after(60):
            assert process.stderr is not None
            said = b""
            async for piece in process.stderr:
                said += piece
            assert await process.wait() == 1
    finally:
        process.kill()
    assert said.splitlines()[-1] == b"none of these answered"
    for path in files.values():
        xml.fromstring(path.read_text())
