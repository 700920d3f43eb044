"""`/rr/init/1`: take what payers send, as the payee or as a server of payees that cannot be dialled (DESIGN 4, R14).

A payee without a public address attaches to its servers; a server hands what arrives for it down that stream, or gives it
to its mailbox, which the payee empties over the same stream. At servers that are relays it also holds a reservation.
The payer's side is `rrnode.services.delivery`.
"""

import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import structlog
import trio

from protocols.errors import PeerProtocolError
from protocols.ids import PeerId
from protocols.payment.request import MAX_ADDRESS
from protocols.wire.init import (
    CODEC,
    PROTOCOL,
    Acknowledge,
    Acknowledged,
    Attach,
    Attached,
    Deliver,
    Delivered,
    DeliveryCode,
    Failed,
    Fetch,
    Handed,
    Inquire,
    Kept,
    Mails,
    Store,
    Taken,
)
from rrnode.errors import LinkClosed
from rrnode.host.base import FrameStream, Host
from rrnode.host.peer_text import join_address, through, to_text
from rrnode.services.collecting import Collector
from rrnode.services.limits import Allowance, Shares, one_network, one_sender, printable
from rrnode.services.mailbox import TOO_FAST, Mailbox
from rrnode.services.sessions import Sessions

log = structlog.get_logger(__name__)

Take = Callable[[bytes, bytes], Awaitable[tuple[int, str]]]

ANSWER_WITHIN = 10.0  # seconds that a payee has to take what was handed to it
NOTHING_KEPT = Failed(DeliveryCode.NO_MAILBOX, "this server has no mailbox for that payee")
CROWDED = Failed(DeliveryCode.TOO_MANY, "too many initializations for this payee from your network; wait a minute")
_ANOTHER_TIME = (DeliveryCode.NOT_HERE, DeliveryCode.NO_ANSWER, DeliveryCode.TOO_MANY)  # reasons to keep it
RESERVE_AGAIN = 600.0  # seconds until a server that relays nothing to us is asked again
MOST_CHARACTERS = 800  # of a contact's addresses, one of them relayed: a request holds a memo, too
LEAST_HELD = 30.0  # seconds between reservations at one server, however short it says that they hold
MOST_PENDING = 16  # initializations handed to one payee and not yet answered


@dataclass(slots=True)
class _Payee:
    """A client's open link: what was handed down and who waits for the answer."""

    stream: FrameStream
    next_number: int = 0
    pending: dict[int, trio.MemorySendChannel[Taken]] = field(default_factory=dict)


class InitializationService:
    """Attach, hand down, keep.

    Args:
        host: the links.
        take: reads a sealed initialization meant for us, from a sender told apart by the second argument, and begins to
            flood; gives one of `DeliveryCode`, or 0, and a sentence.
        attaches_to: whether this peer is a server of ours, at which we want to be reachable.
        hands_to: whether this peer is a client of ours, to which we hand what arrives.
        mailbox: keeps for clients that are away; None: this server keeps nothing.
        collector: empties our mailbox at a server that has one for us.
    """

    def __init__(
        self,
        *,
        host: Host,
        take: Take,
        attaches_to: Callable[[PeerId], bool],
        hands_to: Callable[[PeerId], bool],
        collector: Collector,
        mailbox: Mailbox | None = None,
    ) -> None:
        self._host, self._take, self._hands_to = host, take, hands_to
        self._collector, self.mailbox = collector, mailbox
        self._payees: dict[PeerId, _Payee] = {}
        self._strangers = Shares(per_sender=1, per_network=20, total=200, own=0.5, burst=20)
        self._curious = Shares(per_sender=1, per_network=20, total=200, own=0.5, burst=20)
        # Of the 120 a minute that a payee takes from all together (`BudgetPolicy`), a network gets 90 at first, then 60. All
        # together are bounded above.
        self._visitors = Allowance(per_key=1, burst=30, total=10_000)
        self.attachments = Sessions(
            host=host, protocol=PROTOCOL, session=self._attached, needed=attaches_to, serves=None
        )
        self.standing: set[PeerId] = set()  # servers that said Attached
        self.relays: set[PeerId] = set()  # of these, those that hold a reservation for us
        host.handle(PROTOCOL, self._serve, relayed=True)

    async def run(self) -> None:
        """Keep attached to our servers, and the mailbox in order, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.attachments.run)
            if self.mailbox is not None:
                nursery.start_soon(self.mailbox.run)

    def reachable_at(self, places: Callable[[PeerId], Iterable[str]]) -> tuple[str, ...]:
        """Addresses at which a payer can leave an initialization for us, while we cannot be dialled: of our servers, and last,
        as it is long and a contact has to fit on a screen, one through a server to ourselves.

        Args:
            places: transport parts of the addresses of a server, the best first.
        """
        handed = [join_address(where, server) for server in sorted(self.standing) for where in places(server)]
        relayed = [through(where, server) for server in sorted(self.relays) for where in places(server)]
        last = [join_address(where, self._host.peer_id) for where in relayed[:1]]
        room = MOST_CHARACTERS - sum(len(address) for address in handed)
        return (*handed, *(address for address in last if len(address) <= min(room, MAX_ADDRESS)))

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
            async with trio.open_nursery() as nursery:
                answers, asked = trio.open_memory_channel[Mails | Acknowledged | Failed](1)
                nursery.start_soon(self._collector.run, stream, asked)
                nursery.start_soon(self._stay_reachable, stream.peer)
                await self._listen(stream, answers)
        finally:
            self.standing.discard(stream.peer)

    async def _stay_reachable(self, server: PeerId) -> None:
        """Hold a reservation at a server that is a relay, while we are attached to it."""
        try:
            while True:
                try:
                    held = await self._host.reserve(server)
                except LinkClosed as error:
                    self.relays.discard(server)
                    log.debug("a server relays nothing to us", peer=to_text(server), reason=printable(str(error)))
                    await trio.sleep(RESERVE_AGAIN)
                else:
                    self.relays.add(server)
                    await trio.sleep(max(held * random.uniform(0.4, 0.6), LEAST_HELD))
        finally:
            self.relays.discard(server)

    async def _listen(
        self, stream: FrameStream, answers: trio.MemorySendChannel[Mails | Acknowledged | Failed]
    ) -> None:
        while True:
            match CODEC.decode(await stream.receive()):
                case Handed(number=number, sealed=sealed):
                    code, reason = await self._take(sealed, sealed[:33])  # the server counts its senders
                    await stream.send(CODEC.encode(Taken(number, code, reason)))
                case Mails() | Acknowledged() | Failed() as answer:
                    try:
                        answers.send_nowait(answer)
                    except trio.WouldBlock:
                        raise PeerProtocolError(f"{type(answer).__name__} that nobody asked for") from None
                case other:
                    raise PeerProtocolError(f"{type(other).__name__} on an attached stream")

    # --- server -----------------------------------------------------------------------------------------------------

    async def _serve(self, stream: FrameStream) -> None:
        with trio.move_on_after(ANSWER_WITHIN) as patience:
            frame = await stream.receive()
        if patience.cancelled_caught:
            return
        match CODEC.decode(frame):
            case Deliver(payee=payee, sealed=sealed):
                await stream.send(CODEC.encode(await self._pass_on(stream, PeerId(payee), sealed)))
            case Store(payee=payee, sealed=sealed):
                await stream.send(CODEC.encode(await self._keep(stream, PeerId(payee), sealed)))
            case Inquire() as question:
                await stream.send(CODEC.encode(await self._tell(stream, question)))
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
                    case Fetch() | Acknowledge() as request:
                        answer = (
                            NOTHING_KEPT if self.mailbox is None else await self.mailbox.answer(stream.peer, request)
                        )
                        await stream.send(CODEC.encode(answer))
                    case other:
                        raise PeerProtocolError(f"{type(other).__name__} from an attached payee")
        finally:
            if self._payees.get(stream.peer) is payee:
                del self._payees[stream.peer]
            for waiting in payee.pending.values():
                waiting.close()  # the payer is told now, not when its time is over

    async def _pass_on(self, stream: FrameStream, payee: PeerId, sealed: bytes) -> Delivered | Failed:
        if not self._strangers.take(stream.remote_address, stream.peer):
            return TOO_FAST
        if payee != self._host.peer_id:
            return await self._hand_down(stream, payee, sealed)
        if not self._visits(stream, payee):
            return CROWDED
        code, reason = await self._take(sealed, one_sender(stream.remote_address, stream.peer))
        return Failed(code, reason) if code else Delivered()

    def _visits(self, stream: FrameStream, payee: PeerId) -> bool:
        """Whether the sender's network may bring this payee, which is there, one more."""
        return self._visitors.take((one_network(stream.remote_address, stream.peer), payee))

    async def _hand_down(self, stream: FrameStream, payee: PeerId, sealed: bytes) -> Delivered | Failed:
        there = self._payees.get(payee)
        if there is None:
            return Failed(DeliveryCode.NOT_HERE, "the payee is not connected to this server")
        if not self._visits(stream, payee):
            return CROWDED
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

    async def _keep(self, stream: FrameStream, payee: PeerId, sealed: bytes) -> Delivered | Kept | Failed:
        if self.mailbox is None or not self._hands_to(payee):
            return NOTHING_KEPT
        if not self._strangers.take(stream.remote_address, stream.peer):
            return TOO_FAST
        answer = await self._hand_down(stream, payee, sealed)  # it may have come meanwhile
        if isinstance(answer, Failed) and answer.code in _ANOTHER_TIME:
            return await self.mailbox.keep(payee, sealed, stream.remote_address, stream.peer)
        return answer

    async def _tell(self, stream: FrameStream, question: Inquire) -> Delivered | Kept | Failed:
        if self.mailbox is None:
            return NOTHING_KEPT
        if not self._curious.take(stream.remote_address, stream.peer):
            return TOO_FAST
        return await self.mailbox.inquire(question)
