"""The control API: HTTP over a Unix socket that only the node's owner may open (DESIGN 3).

A thin layer: text in, `NodeService` asked, models out. Every failure is one body, `{"error": sentence, "try": hint}`:
400 what the user asked cannot be, 404 it is not there, 413 and 422 the request itself is wrong, 503 the machine
(chain, disk), 500 a fault of ours, whose details go to the log and not to the caller.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import trio
from fastapi import FastAPI, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rrnode.control import models as m
from rrnode.control.page import render
from rrnode.control.service import NodeService
from rrnode.control.streams import Lines, serve_events
from rrnode.control.text import parse_channel_id, parse_payment_hash, parse_peer, parse_txid
from rrnode.errors import ChainUnavailable, NotThere, StorageFailed, UserError
from rrnode.version import VERSION

MAX_BODY = 64 * 1024  # bytes; the longest order is a payment request string of a few kilobytes

_After = Annotated[int | None, Query(ge=0, description="begin with the kept events above this number; 0: all kept")]
_Protocols = Annotated[tuple[str, ...], Query(max_length=32, description="protocol ids; none: all")]
_Endpoint = Callable[..., Awaitable[Any]]


class _BoundedBody:
    """ASGI middleware: a request body above `MAX_BODY` is refused while it comes in, not after."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b"")) if message["type"] == "http.request" else 0
            if seen > MAX_BODY:
                raise HTTPException(413, f"the request has more than {MAX_BODY} bytes")
            return message

        await self._app(scope, bounded if scope["type"] == "http" else receive, send)


def _failure(status: int, error: str, hint: str = "") -> JSONResponse:
    return JSONResponse({"error": error, "try": hint}, status_code=status)


def _validation_sentence(error: RequestValidationError) -> str:
    """The first thing wrong with a request, as a sentence; what came is shown shortened."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    came = f" (came: {first['input']!r:.80})" if first.get("type") != "missing" and place else ""
    return f"{place or 'the request'}: {first['msg'].lower()}{came}"


def _handle_errors(app: FastAPI) -> None:
    async def user_error(_request: Request, error: Exception) -> Response:
        return _failure(404 if isinstance(error, NotThere) else 400, str(error), getattr(error, "hint", ""))

    async def machine_error(_request: Request, error: Exception) -> Response:
        hint = (
            "check that the chain backend runs and is reachable; the node goes on when it is back"
            if isinstance(error, ChainUnavailable)
            else "check the disk (space, rights), then restart the node; nothing that was agreed is lost"
        )
        return _failure(503, str(error), hint)

    async def bad_request(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _failure(422, _validation_sentence(error), "see rrnode api for what each order takes")

    async def no_such_path(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentence = "there is no such operation" if error.status_code == 404 else str(error.detail).lower()
        return _failure(error.status_code, sentence, "see rrnode api for what there is")

    async def our_fault(request: Request, _error: Exception) -> Response:
        return _failure(
            500,
            f"the node failed at {request.method} {request.url.path} by a fault of its own; nothing was closed for it",
            "look at its log, and report it",
        )  # the server logs the exception with its traceback

    app.add_exception_handler(UserError, user_error)
    app.add_exception_handler(ChainUnavailable, machine_error)
    app.add_exception_handler(StorageFailed, machine_error)
    app.add_exception_handler(RequestValidationError, bad_request)
    app.add_exception_handler(HTTPException, no_such_path)
    app.add_exception_handler(Exception, our_fault)


def create_app(service: NodeService, stopping: trio.Event) -> FastAPI:
    """The application for one node; event streams end when `stopping` is set."""
    app = FastAPI(
        title="rrnode control API",
        version=VERSION,
        description="Local control of one node. Amounts carry their unit in their name; failures are one sentence.",
        docs_url=None,  # the usual page loads its scripts from the internet
        redoc_url=None,
        responses={"4XX": {"model": m.Failure}, "5XX": {"model": m.Failure}},
    )
    app.add_middleware(_BoundedBody)
    _handle_errors(app)
    _node_routes(app, service)
    _channel_routes(app, service)
    _watch_routes(app, service)
    _payment_routes(app, service)
    _chain_routes(app, service)

    @app.get("/v1/events", tags=["node"], response_class=Response, summary="Follow events, one JSON document a line")
    async def events(after: _After = None) -> Response:
        return Lines(service.events(after=after), stopping)

    @app.websocket("/v1/events")
    async def events_socket(socket: WebSocket, after: _After = None) -> None:
        await serve_events(socket, service, stopping, after)

    @app.get("/v1/frames", tags=["node"], response_class=Response, summary="See frames as they pass, one a line")
    async def frames(
        protocol: _Protocols = (), peer: str = "", payment_hash: str = "", secrets: bool = False
    ) -> Response:
        wanted = m.FrameFilter(protocols=protocol, peer=peer, payment_hash=payment_hash, secrets=secrets)
        return Lines(service.frames(wanted), stopping)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render(app.openapi()))

    return app


def _node_routes(app: FastAPI, service: NodeService) -> None:
    @app.get("/v1/status", tags=["node"], summary="The state of the whole node")
    async def status() -> m.Status:
        return await service.status()

    @app.post("/v1/stop", tags=["node"], summary="Begin an orderly end")
    async def stop() -> m.Done:
        await service.stop()
        return m.Done()

    @app.get("/v1/peers", tags=["peers"], summary="Peers linked, kept, or neighbours")
    async def peers() -> tuple[m.PeerInfo, ...]:
        return await service.peers()

    @app.get("/v1/helpers", tags=["peers"], summary="Helpers that tell us the chain, and how each stands")
    async def helpers() -> tuple[m.HelperInfo, ...]:
        return await service.helpers()

    @app.post("/v1/peers", tags=["peers"], summary="Connect to an address and keep it")
    async def connect(order: m.ConnectOrder) -> m.PeerInfo:
        return await service.connect(order.address)

    @app.delete("/v1/peers/{peer}", tags=["peers"], summary="End the link and stop redialling")
    async def disconnect(peer: str) -> m.Done:
        await service.disconnect(parse_peer(peer))
        return m.Done()


def _channel_routes(app: FastAPI, service: NodeService) -> None:
    @app.get("/v1/channels", tags=["channels"], summary="All channels")
    async def channels() -> tuple[m.ChannelInfo, ...]:
        return await service.channels()

    @app.post("/v1/channels", tags=["channels"], summary="Fund and open a channel")
    async def channel_open(order: m.OpenOrder) -> m.ChannelInfo:
        if order.push_msat > order.capacity_sat * 1000:
            raise UserError(
                f"{order.push_msat} msat are to be pushed over a channel of {order.capacity_sat * 1000} msat",
                "push less, or open a larger channel",
            )
        return await service.channel_open(order.peer, order.capacity_sat, order.push_msat)

    @app.post("/v1/channels/{channel_id}/close", tags=["channels"], summary="Close together, or by force")
    async def channel_close(channel_id: str, order: m.CloseOrder) -> m.ChannelInfo:
        return await service.channel_close(parse_channel_id(channel_id), order.force)


def _watch_routes(app: FastAPI, service: NodeService) -> None:
    @app.get("/v1/cover", tags=["watchers"], summary="Which watcher holds what of each channel")
    async def cover() -> m.Cover:
        return await service.cover()

    @app.get("/v1/audit", tags=["watchers"], summary="Whose collusion could rob this node of which channel")
    async def audit() -> m.Audit:
        return await service.audit()

    @app.get("/v1/bounties", tags=["watchers"], summary="Breaches that this node hunts or hunted, newest first")
    async def bounties() -> tuple[m.BountyInfo, ...]:
        return await service.bounties()

    @app.get("/v1/bounties/{txid}", tags=["watchers"], summary="One of them")
    async def bounty(txid: str) -> m.BountyInfo:
        return await service.bounty(parse_txid(txid))


def _payment_routes(app: FastAPI, service: NodeService) -> None:
    @app.get("/v1/contact", tags=["payments"], summary="Our contact string, for payers")
    async def contact() -> m.ContactInfo:
        return await service.contact()

    @app.post("/v1/requests", tags=["payments"], summary="Make a payment request")
    async def request(order: m.RequestOrder) -> m.RequestInfo:
        return await service.request(order.amount_msat, order.memo, order.expiry_s)

    @app.post("/v1/payments", tags=["payments"], status_code=202, summary="Start a payment")
    async def pay(order: m.PayOrder) -> m.PaymentStarted:
        if order.ceiling_msat is not None and order.max_fee_msat is not None:
            raise UserError("a ceiling and a maximum fee were both given", "give one of them")
        return m.PaymentStarted(payment_hash=(await service.pay(order)).hex())

    @app.post("/v1/payments/by-hand", tags=["payments"], status_code=202, summary="Start one whose payee you tell")
    async def pay_by_hand(order: m.PayOrder) -> m.HandedOver:
        return await service.pay_by_hand(order)

    @app.delete("/v1/payments/{payment_hash}", tags=["payments"], summary="Give up one of which nothing is locked")
    async def give_up(payment_hash: str) -> m.Done:
        await service.give_up(parse_payment_hash(payment_hash))
        return m.Done()

    @app.post("/v1/receive", tags=["payments"], summary="Take what a payer handed over as a text")
    async def receive(order: m.ReceiveOrder) -> m.Handed:
        return await service.receive(order.text)

    @app.get("/v1/mail", tags=["payments"], summary="Mailboxes, and what was missed")
    async def mail() -> m.MailInfo:
        return await service.mail()

    @app.get("/v1/payments", tags=["payments"], summary="Payments we make, newest first")
    async def payments() -> tuple[m.PaymentInfo, ...]:
        return await service.payments()

    @app.get("/v1/payments/{payment_hash}", tags=["payments"], summary="One payment we make")
    async def payment(payment_hash: str) -> m.PaymentInfo:
        return await service.payment(parse_payment_hash(payment_hash))

    @app.get("/v1/traces/{payment_hash}", tags=["payments"], summary="What this node saw of a payment, whosever it is")
    async def trace(payment_hash: str) -> m.Trace:
        return await service.trace(parse_payment_hash(payment_hash))

    @app.get("/v1/promises", tags=["payments"], summary="Payments we take, newest first")
    async def promises() -> tuple[m.PromiseInfo, ...]:
        return await service.promises()

    @app.get("/v1/routes", tags=["payments"], summary="The routing table")
    async def routes() -> m.Routes:
        return await service.routes()


def _chain_routes(app: FastAPI, service: NodeService) -> None:
    @app.post("/v1/wallet/addresses", tags=["wallet"], summary="A fresh address")
    async def wallet_address() -> m.WalletAddress:
        return m.WalletAddress(address=await service.wallet_address())

    @app.get("/v1/wallet/balance", tags=["wallet"], summary="Coins on the chain")
    async def wallet_balance() -> m.WalletBalance:
        return await service.wallet_balance()

    @app.post("/v1/wallet/send", tags=["wallet"], summary="Send coins on the chain")
    async def wallet_send(order: m.SendOrder) -> m.WalletSent:
        return await service.wallet_send(order.address, order.amount_sat, order.feerate_sat_per_kvb)

    @app.post("/v1/chain/mine", tags=["chain"], summary="Make blocks (regtest only)")
    async def mine(order: m.MineOrder) -> m.Mined:
        return await service.mine(order.blocks, order.address)
