"""`python -m tools.topology ADDR...`: crawl a network and show it as tables, JSON, GraphML and a picture."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import trio
import typer

from rrnode.cli.context import emit
from tools import common
from tools.topology.crawl import Crawl, Limits
from tools.topology.graph import as_document, as_graphml, graph_of, show_tables
from tools.topology.picture import as_svg

_USUAL = Limits()


def main(
    addresses: Annotated[
        list[str], typer.Argument(help="Where to begin, e.g. /ip4/192.0.2.7/tcp/9780/p2p/16Uiu2HA...")
    ],
    network: Annotated[str, typer.Option(help="regtest, signet, testnet4 or mainnet.")] = "regtest",
    nodes: Annotated[int, typer.Option(min=1, max=100_000, help="Dial at most so many.")] = _USUAL.nodes,
    seconds: Annotated[float, typer.Option(min=1, max=86_400, help="End after so long.")] = _USUAL.seconds,
    graphml: Annotated[Path | None, typer.Option(help="Write the graph to this file as GraphML.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Write a picture to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Ask nodes whom they know, and those in turn, under a throw-away identity. Ctrl-C ends it with what was found so far."""
    chosen = common.network_of(network)
    limits = Limits(nodes=nodes, heard=10 * nodes, seconds=seconds)

    async def crawl() -> Crawl:
        host = common.throw_away(chosen)
        made = Crawl(host, chosen, limits=limits)
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGINT) as interrupts:

                async def give_up() -> None:
                    async for _ in interrupts:
                        made.ended = "interrupted"
                        nursery.cancel_scope.cancel()

                nursery.start_soon(give_up)
                async with host.running():
                    await made.run(addresses)
                nursery.cancel_scope.cancel()
        return made

    found = common.run(crawl)
    graph = graph_of(found)
    reachable = sum(each.state == "reachable" for each in graph.nodes)
    title = f"{network}: {reachable} of {len(graph.nodes)} nodes answered, {len(graph.edges)} pairs have channels"
    for path, text in ((graphml, graphml and as_graphml(graph)), (svg, svg and as_svg(graph, title))):
        if path is not None:
            _write(path, str(text))
    if as_json:
        emit(as_document(graph, found))
    else:
        show_tables(graph, found)
    if found.ended == "interrupted":
        raise common.given_up("interrupted", code=common.INTERRUPTED)
    if not reachable:
        raise common.given_up("none of these answered")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise common.given_up(f"{path} could not be written: {error.strerror}") from None
    sys.stderr.write(f"wrote {path}\n")


if __name__ == "__main__":
    typer.run(main)
