"""`rrnode chain serve|mine`: an embedded regtest chain for several nodes, and blocks on demand."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrnode.cli.context import JsonFlag, emit, say, session
from rrnode.errors import UserError

if TYPE_CHECKING:
    from rrnode.cli.context import Session

app = typer.Typer(no_args_is_help=True, help="Regtest: serve an embedded chain, make blocks.")
_ANSWER_WITHIN = 120.0  # seconds; a thousand blocks take a while


@app.command()
def serve(
    datadir: Annotated[Path, typer.Option(help="Where the chain is kept; made when it does not exist.")],
    port: Annotated[int, typer.Option(help="Port on this machine; 0 chooses one.", min=0, max=65535)] = 18443,
    cookie: Annotated[Path | None, typer.Option(help="Cookie file [default: .cookie in that directory].")] = None,
    mine_every: Annotated[
        float | None, typer.Option(help="Seconds between blocks made by themselves.", min=0.05)
    ] = None,
    feerate: Annotated[
        int, typer.Option(help="The estimate it gives, satoshi per 1000 virtual bytes.", min=1000)
    ] = 1000,
) -> None:
    """Serve a regtest chain to nodes and to `chain mine --rpc`, as a Bitcoin Core would. Ctrl-C ends it."""
    from rrnode.chain import serve as chain

    chain.serve(datadir=datadir, port=port, cookie=cookie, mine_every=mine_every, feerate=feerate)


@app.command()
def mine(
    context: typer.Context,
    blocks: Annotated[int, typer.Argument(help="How many.", min=1, max=1000)] = 1,
    to: Annotated[str | None, typer.Option(help="Address for the coins [default: the node's wallet].")] = None,
    rpc: Annotated[str | None, typer.Option(help="Ask this chain directly instead of the node; needs --to.")] = None,
    cookie: Annotated[Path | None, typer.Option(help="The cookie file for --rpc.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make blocks (regtest only)."""
    now = session(context, as_json)
    found = _by_rpc(rpc, cookie, blocks, to) if rpc else _by_node(now, blocks, to)
    if as_json:
        emit(found)
    else:
        say(f"{len(found['block_hashes'])} blocks; the chain is at block {found['height']:,}.")


def _by_node(now: "Session", blocks: int, to: str | None) -> Any:
    with now.client() as node:
        return node.post("/chain/mine", {"blocks": blocks, "address": to})


def _by_rpc(url: str, cookie: Path | None, blocks: int, to: str | None) -> Any:
    if not to:
        raise UserError("--rpc needs an address for the coins", "give one with --to (rrnode wallet address prints one)")
    hashes = rpc_call(url, cookie, "generatetoaddress", [blocks, to])
    return {"block_hashes": hashes, "height": rpc_call(url, cookie, "getblockcount", [])}


def rpc_call(url: str, cookie: Path | None, method: str, parameters: list[Any]) -> Any:
    """One call of Bitcoin Core's JSON-RPC.

    Raises:
        UserError: not reachable, not allowed, or refused with Core's own words.
    """
    import httpx

    auth = None
    if cookie is not None:
        try:
            user, _, password = cookie.expanduser().read_text().strip().partition(":")
        except OSError as error:
            raise UserError(
                f"the cookie file {cookie} cannot be read: {error.strerror}", "does the chain run?"
            ) from None
        auth = (user, password)
    try:
        answer = httpx.post(
            url,
            json={"jsonrpc": "1.0", "id": "rrnode", "method": method, "params": parameters},
            auth=auth,
            timeout=_ANSWER_WITHIN,
            trust_env=False,
        )
    except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise UserError(f"no chain answers at {url} ({error})", "start one with: rrnode chain serve") from None
    if answer.status_code in (401, 403):
        raise UserError(f"the chain at {url} wants a password", "give its cookie file with --cookie")
    try:
        document = answer.json()
        problem = document["error"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"what answers at {url} is no Bitcoin Core RPC", "check the address") from None
    if problem:
        raise UserError(f"the chain refused {method}: {problem.get('message', problem)}", "check the arguments")
    return document["result"]
