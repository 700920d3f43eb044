"""`python -m tools.trace HASH`: one payment as one's own nodes saw it: a page of text, JSON, or a sequence picture."""

from pathlib import Path
from typing import Annotated

import typer

from rrnode.cli.context import emit
from rrnode.control.text import parse_payment_hash
from rrnode.errors import UserError
from tools import own
from tools.trace.gather import ask_all
from tools.trace.page import document, page
from tools.trace.picture import as_svg
from tools.trace.story import story_of

MOST_NODES = 32  # more would make no page


def main(
    payment: Annotated[str, typer.Argument(metavar="HASH", help="The payment hash, 64 hex digits.")],
    datadir: Annotated[
        list[Path] | None,
        typer.Option(envvar="RRNODE_DATADIR", help="A node's directory; may be repeated [default: as rrnode has it]."),
    ] = None,
    network: Annotated[str, typer.Option(envvar="RRNODE_NETWORK", help="For the default of --datadir.")] = "regtest",
    svg: Annotated[Path | None, typer.Option(help="Draw a picture into this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Tell one payment's story from one or several nodes of one's own: offers, locks, failures, settlement.

    A node that runs is asked for what it remembers; what it keeps on disk is read beside it. Of a node that does not run
    only the disk is left: what happened to money, to the second.
    """
    with own.explained(as_json=as_json):
        directories = [own.data_dir(each, network) for each in datadir or ()] or [own.data_dir(None, network)]
        if len(directories) > MOST_NODES:
            raise UserError(f"{len(directories)} nodes were named, at most {MOST_NODES} fit on a page")
        payment_hash = parse_payment_hash(payment.lower())
        story = story_of(payment_hash.hex(), ask_all(directories, payment_hash))
        if as_json:
            emit(document(story))
        else:
            for line in page(story):
                print(line)
        if svg is not None and story.happenings:
            svg.write_text(as_svg(story), encoding="utf-8")
            own.say(f"wrote {svg}")
    if not story.happenings:
        raise typer.Exit(own.FAILED)


if __name__ == "__main__":
    typer.run(main)
