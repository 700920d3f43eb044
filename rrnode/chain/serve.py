"""`rrnode chain serve`: an embedded regtest for other processes, until it is told to stop.

Also `python -m rrnode.chain.serve --datadir DIR`. Reached like a Bitcoin Core on regtest: its address and its cookie file.
"""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import trio
import typer

from bootstrap.networks import REGTEST
from protocols.units import FeeRate
from rrnode.chain.kernel import RELAY_FLOOR, KernelChain
from rrnode.chain.rpc_server import serving
from rrnode.errors import ChainUnavailable, leaves

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that libp2p brings name it so

ANSWER_LEAVES = 0.2  # seconds for the answer to `stop` to reach whoever asked


async def serve_chain(
    directory: Path,
    *,
    port: int,
    cookie: Path,
    mine_every: float | None = None,
    feerate: FeeRate = RELAY_FLOOR,
    task_status: "TaskStatus[int]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, or until a client asks to stop; the port is told when others may connect.

    Raises:
        ChainUnavailable: the directory is in use or unusable.
        OSError: the port is in use, or the cookie cannot be written.
    """
    chain = KernelChain(directory, feerate=feerate, mine_every=mine_every)
    stopping = trio.Event()
    async with chain.running(), serving(chain, port=port, cookie=cookie, stopping=stopping) as chosen:
        task_status.started(chosen)
        await stopping.wait()
        await trio.sleep(ANSWER_LEAVES)


async def _until_signal(directory: Path, port: int, cookie: Path, mine_every: float | None, feerate: FeeRate) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def serve(task_status: "TaskStatus[int]") -> None:
                await serve_chain(
                    directory, port=port, cookie=cookie, mine_every=mine_every, feerate=feerate, task_status=task_status
                )
                nursery.cancel_scope.cancel()

            chosen = await nursery.start(serve)
            print(f"a regtest is served at http://127.0.0.1:{chosen}, its cookie is in {cookie}", flush=True)
            async for _ in signals:
                nursery.cancel_scope.cancel()
                return


def serve(
    datadir: Annotated[Path, typer.Option(help="Where the chain is kept; made when it does not exist.")],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 chooses one.")] = REGTEST.rpc_port,
    cookie: Annotated[Path | None, typer.Option(help="Cookie file; default: `.cookie` in the data directory.")] = None,
    mine_every: Annotated[
        float | None, typer.Option(help="Seconds between blocks made by themselves.", min=0.05)
    ] = None,
    feerate: Annotated[
        int, typer.Option(help="The estimate it gives, sat per 1000 vB.", min=RELAY_FLOOR)
    ] = RELAY_FLOOR,
) -> None:
    """Serve a regtest of our own to other processes, as a Bitcoin Core would (SIGINT or SIGTERM ends it)."""
    try:
        trio.run(_until_signal, datadir, port, cookie or datadir / ".cookie", mine_every, FeeRate(feerate))
    except* ChainUnavailable as group:
        print(next(leaves(group)), file=sys.stderr)
        sys.exit(1)
    except* OSError as group:
        print(f"port {port} or the cookie file cannot be had: {next(leaves(group))}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(serve)
