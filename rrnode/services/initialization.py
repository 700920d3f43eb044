"""`/rr/init/1`: bring a sealed payment initialization to the payee, wherever it hides (DESIGN 4, R14).

Three parts: a payee without a public address attaches to its routing servers; a server hands what arrives for it down
that stream; a payer delivers under a throw-away identity, so that neither server nor payee learns who pays.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import structlog
import trio

from protocols.errors import PeerProtocolError
from protocols.ids import PeerId
from protocols.wire.init import (
    CODEC,
    PROTOCOL,
    Attach,
    Attached,
    Deliver,
    Delivered,
    DeliveryCode,
    Failed,
    Handed,
    Taken,
)
from rrnode.errors import LinkClosed, Unreachable
from rrnode.host.base import FrameStream, Host
from rrnode.host.peer_text import to_text
from rrnode.services.limits import Allowance, one_sender, printable
from rrnode.services.sessions import Sessions

log = structlog.get_logger(__name__)

ANSWER_WITHIN = 10.0  # seconds that a payee has to take what was handed to it
DELIVER_WITHIN = 15.0  # seconds that a payer gives one server
NEXT_SERVER_AFTER = 2.0  # seconds of silence after which the next server is tried beside it
MOST_PENDING = 16  # initializations handed to one payee and not yet answered


class NotTaken(Exception):
    """Why an initialization is not taken: one of `DeliveryCode`, and a sentence."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


@dataclass(slots=True)
class _Payee:
    """A client's open link: what was handed down and who waits for the answer."""

    stream: FrameStream
    next_number: int = 0
    pending: dict[int, trio.MemorySendChannel[Taken]] = field(default_factory=dict)


class InitializationService:
    """Attach, hand down, deliver.

    Args:
        host: the links.
        take: reads a sealed initialization meant for us, from a sender told apart by the second argument, and begins to
            flood; raises NotTaken.
        attaches_to: whether this peer is a routing server of ours, at which we want to be reachable.
        hands_to: whether this peer is a client of ours, to which we hand what arrives.
        throw_away: a running host with a fresh identity and no listening port.
    """

    def __init__(
        self,
        *,
        host: Host,
        take: Callable[[bytes, bytes], Awaitable[None]],
        attaches_to: Callable[[PeerId], bool],
        hands_to: Callable[[PeerId], bool],
        throw_away: Callable[[], AbstractAsyncContextManager[Host]],
    ) -> None:
        self._host, self._take = host, take
        self._hands_to, self._throw_away = hands_to, throw_away
        self._payees: dict[PeerId, _Payee] = {}
        self._strangers = Allowance(per_key=1.0, burst=20, total=200)
        self.attachments = Sessions(
            host=host, protocol=PROTOCOL, session=self._attached, needed=attaches_to, serves=None
        )
        self.standing: set[PeerId] = set()  # servers that said Attached
        host.handle(PROTOCOL, self._serve)

    async def run(self) -> None:
        """Keep attached to our servers until cancelled."""
        await self.attachments.run()

    # --- payee ------------------------------------------------------------------------------------------------------

    async def _attached(self, stream: FrameStream) -> None:
        await stream.send(CODEC.encode(Attach()))
        with trio.move_on_after(ANSWER_WITHIN) as patience:
            frame = await stream.receive()
        if patience.cancelled_caught:
            raise PeerProtocolError(f"no answer to Attach within {ANSWER_WITHIN:.0f} s")
        first = CODEC.decode(frame)
        if isinstance(first, Failed):
            reason = printable(first.reason)
            log.info("a routing server takes no initializations for us", peer=to_text(stream.peer), reason=reason)
            return
        if not isinstance(first, Attached):
            raise PeerProtocolError(f"{type(first).__name__} as the answer to Attach")
        self.standing.add(stream.peer)
        try:
            while True:
                match CODEC.decode(await stream.receive()):
                    case Handed(number=number, sealed=sealed):
                        code, reason = await self._taken(sealed, sealed[:33])  # the server counts its senders
                        await stream.send(CODEC.encode(Taken(number, code, reason)))
                    case other:
                        raise PeerProtocolError(f"{type(other).__name__} on an attached stream")
        finally:
            self.standing.discard(stream.peer)

    async def _taken(self, sealed: bytes, sender: bytes) -> tuple[int, str]:
        try:
            await self._take(sealed, sender)
        except NotTaken as refusal:
            return refusal.code, refusal.reason[:256]
        return 0, ""

    # --- server -----------------------------------------------------------------------------------------------------

    async def _serve(self, stream: FrameStream) -> None:
        with trio.move_on_after(ANSWER_WITHIN) as patience:
            frame = await stream.receive()
        if patience.cancelled_caught:
            return
        match CODEC.decode(frame):
            case Deliver(payee=payee, sealed=sealed):
                await stream.send(CODEC.encode(await self._pass_on(stream, PeerId(payee), sealed)))
            case Attach():
                await self._hold(stream)
            case other:
                raise PeerProtocolError(f"{type(other).__name__} as the first message")

    async def _hold(self, stream: FrameStream) -> None:
        if not self._hands_to(stream.peer):
            await stream.send(CODEC.encode(Failed(DeliveryCode.BAD_REQUEST, "only clients with a channel may attach")))
            return
        payee = self._payees[stream.peer] = _Payee(stream)
        try:
            await stream.send(CODEC.encode(Attached()))
            while True:
                match CODEC.decode(await stream.receive()):
                    case Taken(number=number) as taken:
                        if waiting := payee.pending.pop(number, None):
                            waiting.send_nowait(taken)
                    case other:
                        raise PeerProtocolError(f"{type(other).__name__} from an attached payee")
        finally:
            if self._payees.get(stream.peer) is payee:
                del self._payees[stream.peer]
            for waiting in payee.pending.values():
                waiting.close()  # the payer is told now, not when its time is over

    async def _pass_on(self, stream: FrameStream, payee: PeerId, sealed: bytes) -> Delivered | Failed:
        sender = one_sender(stream.remote_address, stream.peer)
        if not self._strangers.take(sender):
            return Failed(DeliveryCode.TOO_MANY, "too many initializations; try again in a few seconds")
        if payee == self._host.peer_id:
            code, reason = await self._taken(sealed, sender)
            return Failed(code, reason) if code else Delivered()
        there = self._payees.get(payee)
        if there is None:
            return Failed(DeliveryCode.NOT_HERE, "the payee is not connected to this server")
        if len(there.pending) >= MOST_PENDING:
            return Failed(DeliveryCode.TOO_MANY, "the payee has too many initializations to answer")
        number = there.next_number = (there.next_number + 1) & 0xFFFF_FFFF
        send, receive = trio.open_memory_channel[Taken](1)
        there.pending[number] = send
        try:
            with trio.fail_after(ANSWER_WITHIN - 1):
                await there.stream.send(CODEC.encode(Handed(number, sealed)))
                taken = await receive.receive()
        except (trio.TooSlowError, LinkClosed, trio.EndOfChannel):
            return Failed(DeliveryCode.NO_ANSWER, "the payee is connected but did not answer")
        finally:
            there.pending.pop(number, None)
        return Failed(taken.code, printable(taken.reason)) if taken.code else Delivered()

    # --- payer ------------------------------------------------------------------------------------------------------

    async def deliver(self, payee: PeerId, servers: Sequence[str], sealed: bytes) -> None:
        """Bring a sealed initialization to the payee by one of the addresses in its contact, in any order; one that is
        silent for a while is not waited for before the next is tried. The payee takes it once.

        Raises:
            Unreachable: no address worked; the message says what each one answered.
        """
        said: list[str] = []
        async with self._throw_away() as host:
            if await self._deliver_somewhere(host, payee, random.sample(list(servers), len(servers)), sealed, said):
                return
        raise Unreachable("; ".join(said) or "the payee's contact names no server")

    async def _deliver_somewhere(
        self, host: Host, payee: PeerId, servers: Sequence[str], sealed: bytes, said: list[str]
    ) -> bool:
        delivered = False

        async def attempt(address: str, ended: trio.Event) -> None:
            nonlocal delivered
            try:
                answer = await self._deliver_at(host, address, payee, sealed)
            except (Unreachable, LinkClosed) as error:
                said.append(printable(str(error)))
            except PeerProtocolError as error:
                said.append(printable(f"{address} answered nonsense ({error})"))
            else:
                if answer is None:
                    delivered = True
                    nursery.cancel_scope.cancel()
                else:
                    said.append(printable(answer.reason) or f"{address} refused it, code {answer.code}")
            ended.set()

        async with trio.open_nursery() as nursery:
            for address in servers:
                ended = trio.Event()
                nursery.start_soon(attempt, address, ended)
                with trio.move_on_after(NEXT_SERVER_AFTER):
                    await ended.wait()
        return delivered

    async def _deliver_at(self, host: Host, address: str, payee: PeerId, sealed: bytes) -> Failed | None:
        try:
            with trio.fail_after(DELIVER_WITHIN):
                server = await host.dial(address)
                stream = await host.open_stream(server, PROTOCOL)
                try:
                    await stream.send(CODEC.encode(Deliver(payee, sealed)))
                    match CODEC.decode(await stream.receive()):
                        case Delivered():
                            return None
                        case Failed() as failed:
                            return failed
                        case other:
                            raise PeerProtocolError(f"{type(other).__name__} as the answer to Deliver")
                finally:
                    stream.reset()
        except trio.TooSlowError:
            raise Unreachable(f"{address} did not answer within {DELIVER_WITHIN:.0f} s") from None
