"""The embedded regtest for other processes: the part of Bitcoin Core's JSON-RPC that `bitcoind` (the backend) uses.

Bound to loopback, HTTP basic authentication with a cookie file that only its owner may read, as Bitcoin Core does it.
Source: Bitcoin Core's RPC (names, parameters, error codes), JSON-RPC 1.0 and 2.0 with batches.
"""

import base64
import hmac
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio
from bitcoin import segwit_addr
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bootstrap.networks import REGTEST
from protocols.errors import DecodeError
from protocols.ids import Txid
from protocols.units import BlockHeight
from rrnode.chain import parse
from rrnode.chain.kernel import KernelChain
from rrnode.chain.mempool import Outcome
from rrnode.chain.scopes import background
from rrnode.errors import ChainUnavailable

COOKIE_USER = "__cookie__"
MAX_BODY = 2 * 1024 * 1024  # a package in hex is at most 808 kB
MAX_BATCH = 1_000  # requests in one body
MAX_MINED = 10_000  # blocks by one request
_EMULATED_VERSION = 290000  # the rules of the mempool are those of Bitcoin Core 29

_MISC, _TYPE, _NO_SUCH, _PARAMETER, _DECODE, _VERIFY, _REJECTED, _KNOWN = -1, -3, -5, -8, -22, -25, -26, -27
_PARSE, _INVALID_REQUEST, _NO_METHOD, _PARAMS, _INTERNAL = -32700, -32600, -32601, -32602, -32603

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode = msgspec.json.Decoder().decode

Json = Any  # what JSON can hold


class _RpcError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def _shown(raw: bytes) -> str:
    return raw[::-1].hex()


def _coins(value: int) -> Decimal:
    return Decimal(value).scaleb(-8)


def _hash(value: Json) -> bytes:
    if not isinstance(value, str) or len(value) != 64:
        raise _RpcError(_PARAMETER, "hash must be of length 64 in hex")
    return _hex(value, _PARAMETER)[::-1]


def _hex(value: Json, code: int = _DECODE) -> bytes:
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError) as error:
        raise _RpcError(code, "hexadecimal text wanted") from error


def _whole(value: Json, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _RpcError(_TYPE, f"JSON value of type {type(value).__name__} is not of expected type number")
    if not least <= value <= most:
        raise _RpcError(_PARAMETER, f"{value} is not between {least} and {most}")
    return value


def _transaction(value: Json) -> parse.Tx:
    try:
        return parse.parse_transaction(_hex(value))
    except DecodeError as error:
        raise _RpcError(_DECODE, f"TX decode failed. {error}") from error


def _script_of_address(value: Json) -> bytes:
    version, program = segwit_addr.decode(REGTEST.address_prefix, value) if isinstance(value, str) else (None, None)
    if version != 0 or program is None:
        raise _RpcError(_NO_SUCH, f"a segwit version 0 address beginning with {REGTEST.address_prefix}1 wanted")
    return bytes((0, len(program))) + bytes(program)


def _script_of_descriptor(value: Json) -> bytes:
    text = value.split("#")[0] if isinstance(value, str) else ""
    if text.startswith("raw(") and text.endswith(")"):
        return _hex(text[4:-1], _NO_SUCH)
    if text.startswith("addr(") and text.endswith(")"):
        return _script_of_address(text[5:-1])
    raise _RpcError(_NO_SUCH, "a descriptor raw(HEX) or addr(ADDRESS) wanted")


class _Methods:
    """One method per RPC; the name after `rpc_` is Bitcoin Core's."""

    def __init__(self, chain: KernelChain, stopping: trio.Event) -> None:
        self._stopping = stopping
        self._chain = chain

    async def call(self, name: Json, params: Json) -> Json:
        method = getattr(self, f"rpc_{name}", None) if isinstance(name, str) else None
        if method is None:
            raise _RpcError(_NO_METHOD, "Method not found")
        if params is not None and not isinstance(params, list):
            raise _RpcError(_PARAMS, "parameters by position wanted")
        try:
            return await method(*(params or ()))
        except TypeError as error:  # too few or too many: the signature says which
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:
                raise _RpcError(_PARAMS, str(error).replace("_Methods.rpc_", "")) from error
            raise
        except ChainUnavailable as error:
            raise _RpcError(_MISC, str(error)) from error

    async def rpc_getblockchaininfo(self) -> Json:
        tip = await self._chain.tip()
        return {
            "chain": "regtest",
            "blocks": tip.height,
            "headers": tip.height,
            "bestblockhash": _shown(tip.hash),
            "time": tip.time,
            "verificationprogress": 1,
            "initialblockdownload": False,
            "pruned": False,
        }

    async def rpc_getnetworkinfo(self) -> Json:
        return {"version": _EMULATED_VERSION, "subversion": "/rrnode-kernel/", "relayfee": Decimal("0.00001000")}

    async def rpc_getblockcount(self) -> Json:
        return (await self._chain.tip()).height

    async def rpc_getbestblockhash(self) -> Json:
        return _shown((await self._chain.tip()).hash)

    async def rpc_getblockhash(self, height: Json) -> Json:
        ref = await self._chain.block_at(BlockHeight(_whole(height, 0, 2**31)))
        if ref is None:
            raise _RpcError(_PARAMETER, "Block height out of range")
        return _shown(ref.hash)

    async def rpc_getblockheader(self, block_hash: Json, verbose: Json = True) -> Json:
        raw = await self._block(block_hash)
        header = parse.parse_header(raw)
        if verbose is False:
            return header.raw.hex()
        height, tip = self._chain.index.height_of(header.hash), await self._chain.tip()
        return {
            "hash": _shown(header.hash),
            "confirmations": -1 if height is None else tip.height - height + 1,
            "height": self._chain.height_of_any(header.hash),
            "time": header.time,
            "merkleroot": _shown(header.merkle_root),
            "previousblockhash": _shown(header.previous),
        }

    async def rpc_getblock(self, block_hash: Json, verbosity: Json = 1) -> Json:
        if verbosity not in (0, False):
            raise _RpcError(_PARAMETER, "only verbosity 0 is offered here")
        return (await self._block(block_hash)).hex()

    async def _block(self, block_hash: Json) -> bytes:
        try:
            return await self._chain.block(_hash(block_hash))
        except ChainUnavailable as error:
            raise _RpcError(_NO_SUCH, "Block not found") from error

    async def rpc_getrawmempool(self, verbose: Json = False, mempool_sequence: Json = False) -> Json:
        if verbose:
            raise _RpcError(_PARAMETER, "only ids are offered here")
        txids = [_shown(txid) for txid in await self._chain.mempool()]
        if not mempool_sequence:
            return txids
        return {"txids": txids, "mempool_sequence": self._chain.mempool_now.sequence}

    async def rpc_getmempoolinfo(self) -> Json:
        entries = self._chain.mempool_now.entries.values()
        return {
            "loaded": True,
            "size": len(entries),
            "bytes": sum(entry.tx.vsize for entry in entries),
            "total_fee": _coins(sum(entry.fee for entry in entries)),
            "mempoolminfee": Decimal("0.00001000"),
            "minrelaytxfee": Decimal("0.00001000"),
        }

    async def rpc_getmempoolentry(self, txid: Json) -> Json:
        entry = self._chain.mempool_now.entries.get(Txid(_hash(txid)))
        if entry is None:
            raise _RpcError(_NO_SUCH, "Transaction not in mempool")
        tx = entry.tx
        return {
            "vsize": tx.vsize,
            "weight": tx.weight,
            "wtxid": _shown(tx.wtxid),
            "fees": {"base": _coins(entry.fee)},
            "depends": [_shown(parent) for parent in entry.parents],
            "spentby": [_shown(child) for child in entry.children],
        }

    async def rpc_getrawtransaction(self, txid: Json, verbose: Json = False) -> Json:
        if verbose:
            raise _RpcError(_PARAMETER, "only hexadecimal text is offered here")
        raw = await self._chain.mempool_transaction(Txid(_hash(txid)))
        if raw is None:
            raise _RpcError(_NO_SUCH, "No such mempool transaction")
        return raw.hex()

    async def rpc_gettxspendingprevout(self, places: Json) -> Json:
        if not isinstance(places, list) or not all(isinstance(place, dict) for place in places):
            raise _RpcError(_PARAMETER, "a list of objects with txid and vout wanted")
        asked = [parse.outpoint(_hash(p.get("txid")), _whole(p.get("vout"), 0, 2**32 - 1)) for p in places]
        found = await self._chain.mempool_spenders(asked)
        return [
            {"txid": p["txid"], "vout": p["vout"]} | ({"spendingtxid": _shown(found[at])} if at in found else {})
            for p, at in zip(places, asked, strict=True)
        ]

    async def rpc_gettxout(self, txid: Json, number: Json, include_mempool: Json = True) -> Json:
        tip = await self._chain.tip()
        find = self._chain.unspent if include_mempool else self._chain.confirmed_output
        output = await find(Txid(_hash(txid)), _whole(number, 0, 2**32 - 1))
        if output is None:
            return None
        return {
            "bestblock": _shown(tip.hash),
            "confirmations": 0 if output.height is None else tip.height - output.height + 1,
            "value": _coins(output.value),
            "scriptPubKey": {"hex": output.script.hex()},
        }

    async def rpc_sendrawtransaction(self, text: Json, maxfeerate: Json = 0, maxburnamount: Json = 0) -> Json:
        tx = _transaction(text)
        outcome = self._chain.submit(tx)
        if not outcome.error:
            return _shown(tx.txid)
        if outcome.error.startswith("txn-already-known"):
            raise _RpcError(_KNOWN, "Transaction outputs already in utxo set")
        code = _VERIFY if outcome.error.startswith("bad-txns-inputs-missingorspent") else _REJECTED
        raise _RpcError(code, outcome.error)

    async def rpc_submitpackage(self, texts: Json, maxfeerate: Json = 0, maxburnamount: Json = 0) -> Json:
        if not isinstance(texts, list) or not 1 <= len(texts) <= 25:
            raise _RpcError(_PARAMETER, "Array must contain between 1 and 25 transactions.")
        package = self._chain.submit_package([_transaction(text) for text in texts])
        if not package.outcomes:
            raise _RpcError(_VERIFY, package.message)
        return {
            "package_msg": package.message,
            "tx-results": {_shown(o.tx.wtxid): self._member(o) for o in package.outcomes},
            "replaced-transactions": [_shown(txid) for txid in package.replaced],
        }

    def _member(self, outcome: Outcome) -> Json:
        member: dict[str, Json] = {"txid": _shown(outcome.tx.txid)}
        if outcome.error:
            return member | {"error": outcome.error}
        return member | {"vsize": outcome.tx.vsize, "fees": {"base": _coins(outcome.fee)}}

    async def rpc_estimatesmartfee(self, within: Json, mode: Json = "economical") -> Json:
        blocks = _whole(within, 1, 1008)
        return {"feerate": _coins(await self._chain.feerate(blocks)), "blocks": blocks}

    async def rpc_getzmqnotifications(self) -> Json:
        return []

    async def rpc_generatetoaddress(self, blocks: Json, address: Json) -> Json:
        return await self._mine(blocks, _script_of_address(address))

    async def rpc_generatetodescriptor(self, blocks: Json, descriptor: Json) -> Json:
        return await self._mine(blocks, _script_of_descriptor(descriptor))

    async def _mine(self, blocks: Json, script: bytes) -> Json:
        return [_shown(made) for made in await self._chain.mine(_whole(blocks, 0, MAX_MINED), script)]

    async def rpc_stop(self) -> Json:
        self._stopping.set()
        return "the chain is stopping"

    async def rpc_invalidateblock(self, block_hash: Json) -> Json:
        await self._block(block_hash)
        await self._chain.invalidate(_hash(block_hash))


async def _answer(methods: _Methods, request: Json) -> tuple[int, Json]:
    """HTTP status and body for one request (JSON-RPC 1.0 as Bitcoin Core speaks it)."""
    reference = request.get("id") if isinstance(request, dict) else None
    try:
        if not isinstance(request, dict):
            raise _RpcError(_INVALID_REQUEST, "Invalid Request object")
        result = await methods.call(request.get("method"), request.get("params"))
        return 200, {"result": result, "error": None, "id": reference}
    except _RpcError as error:
        status = {_INVALID_REQUEST: 400, _NO_METHOD: 404}.get(error.code, 500)
        return status, {"result": None, "error": {"code": error.code, "message": error.message}, "id": reference}


def application(chain: KernelChain, secret: str, stopping: trio.Event | None = None) -> Starlette:
    """The ASGI application; `secret` is the cookie's whole text, `user:password`."""
    methods = _Methods(chain, trio.Event() if stopping is None else stopping)
    expected = b"Basic " + base64.b64encode(secret.encode())

    async def endpoint(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, expected):
            return Response(status_code=401, headers={"WWW-Authenticate": 'Basic realm="jsonrpc"'})
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_BODY:
                return Response(status_code=413)
        status, answer = await _handle(methods, bytes(body))
        return Response(_encode(answer), status_code=status, media_type="application/json")

    return Starlette(routes=[Route("/", endpoint, methods=["POST"])])


async def _handle(methods: _Methods, body: bytes) -> tuple[int, Json]:
    try:
        request = _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return 500, {"result": None, "error": {"code": _PARSE, "message": "Parse error"}, "id": None}
    if not isinstance(request, list):
        return await _answer(methods, request)
    if not 1 <= len(request) <= MAX_BATCH:
        error = {"code": _INVALID_REQUEST, "message": f"a batch of {len(request)}, 1 to {MAX_BATCH} allowed"}
        return 400, {"result": None, "error": error, "id": None}
    return 200, [(await _answer(methods, one))[1] for one in request]


def _write_cookie(path: Path) -> str:
    secret = f"{COOKIE_USER}:{secrets.token_hex(32)}"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = path.with_name(f".{path.name}.new")
    staged.unlink(missing_ok=True)
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(secret)
    staged.replace(path)
    return secret


@asynccontextmanager
async def serving(
    chain: KernelChain, *, port: int, cookie: Path, stopping: trio.Event | None = None
) -> AsyncIterator[int]:
    """Serve a running chain on 127.0.0.1 while inside; gives the port (the one chosen, when 0 was asked for).

    Args:
        stopping: set when a client asks to `stop`; acting on it is the caller's part.

    Raises:
        OSError: the port is in use, or the cookie cannot be written.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
        chosen = int(listener.getsockname()[1])
        secret = _write_cookie(cookie)
    except OSError:
        listener.close()
        raise
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]  # closed by Hypercorn
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = 0.5
    config.keep_alive_timeout = 60.0
    app: Any = application(chain, secret, stopping)
    try:
        async with background() as nursery:
            await nursery.start(partial(hypercorn_serve, app, config))
            yield chosen
    finally:
        cookie.unlink(missing_ok=True)  # noqa: ASYNC240  # short, and must happen when cancelled too
