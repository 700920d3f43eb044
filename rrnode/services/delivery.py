"""`/rr/init/1`, the payer's side: bring a sealed initialization to the payee under a throw-away identity, so that neither
server nor payee learns who pays (DESIGN 4, R14)."""

import hashlib
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum

import trio

from protocols.errors import DecodeError, PeerProtocolError
from protocols.ids import PeerId
from protocols.wire.init import CODEC, PROTOCOL, Deliver, Delivered, DeliveryCode, Failed, Inquire, Kept, Store
from rrnode.errors import LinkClosed, Unreachable
from rrnode.host.base import Host
from rrnode.host.peer_text import is_relayed, split_address
from rrnode.services.limits import printable

DELIVER_WITHIN = 15.0  # seconds that a payer gives one server
NEXT_SERVER_AFTER = 2.0  # seconds of silence after which the next server is tried beside it
MOST_MAILBOXES = 3  # that keep the same: one that the payee wakes up to is enough, and each is asked for room
_FROM_THE_PAYEE = (DeliveryCode.REFUSED, DeliveryCode.BAD_REQUEST, DeliveryCode.TOO_LARGE)

Message = Deliver | Store | Inquire
Answer = Delivered | Kept | Failed


class Way(Enum):
    """How an initialization came to the payee."""

    DIRECT = "delivered to the payee itself"
    RELAYED = "delivered to the payee itself, through a server that saw nothing of it"
    PASSED_DOWN = "passed down to the payee by a server of its"


class PayeeRefuses(Unreachable):
    """It came to the payee, which will not take the payment: nothing else need be tried. Said by the payee itself, or by
    every server that knows: one that lies cannot keep a payment from going by the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAt:
    """One mailbox that keeps it. `until`: unix seconds, by that server's clock."""

    address: str
    until: int


class Deliveries:
    """Brings initializations to payees.

    Args:
        throw_away: a running host with a fresh identity and no listening port.
    """

    def __init__(self, throw_away: Callable[[], AbstractAsyncContextManager[Host]]) -> None:
        self._throw_away = throw_away

    async def deliver(self, payee: PeerId, servers: Sequence[str], sealed: bytes) -> Way:
        """Bring it to the payee by one of the addresses in its contact: its own first, then those of its servers, in any
        order, last its own through a relay; one that is silent for a while is not waited for before the next is tried. The
        payee takes it once.

        Raises:
            PayeeRefuses: the payee has it and will not take the payment.
            Unreachable: no address worked; the message says what each one answered.
        """
        round_ = _Round(Deliver(payee, sealed))
        async with self._throw_away() as host:
            await round_.run(host, _in_order(payee, servers))
        if round_.delivered_at is not None:
            return _way(payee, round_.delivered_at)
        raise round_.failure()

    async def store(self, payee: PeerId, servers: Sequence[str], sealed: bytes) -> Way | tuple[KeptAt, ...]:
        """Have it kept by some of the payee's servers, or passed down, should the payee be there by now; a server may lie, so
        that one says so counts only while none keeps it.

        Raises:
            PayeeRefuses, Unreachable: as `deliver`.
        """
        round_ = _Round(Store(payee, sealed), enough=MOST_MAILBOXES)
        async with self._throw_away() as host:
            await round_.run(host, [each for each in _in_order(payee, servers) if not _is_own(payee, each)])
        if round_.kept:
            return tuple(round_.kept)
        if round_.delivered_at is not None:
            return _way(payee, round_.delivered_at)
        raise round_.failure()

    async def inquire(self, payee: PeerId, address: str, sealed: bytes) -> Answer:
        """What became of what this mailbox kept. Raises Unreachable when it does not say."""
        async with self._throw_away() as host:
            try:
                return await _ask(host, address, Inquire(payee, hashlib.sha256(sealed).digest()))
            except (LinkClosed, PeerProtocolError) as error:
                raise Unreachable(printable(str(error))) from None


class _Round:
    """One message to several servers, until enough have taken it."""

    def __init__(self, message: Deliver | Store, *, enough: int = 1) -> None:
        self._message, self._enough = message, enough
        self.delivered_at: str | None = None
        self.kept: list[KeptAt] = []
        self._refused, self._others = False, False  # whether some said that the payee refuses, and some something else
        self._said: list[str] = []

    async def run(self, host: Host, servers: Sequence[str]) -> None:
        async with trio.open_nursery() as nursery:
            for address in servers:
                ended = trio.Event()
                nursery.start_soon(self._attempt, host, address, ended, nursery.cancel_scope)
                with trio.move_on_after(NEXT_SERVER_AFTER):
                    await ended.wait()

    async def _attempt(self, host: Host, address: str, ended: trio.Event, all_: trio.CancelScope) -> None:
        try:
            match await _ask(host, address, self._message):
                case Delivered():
                    self.delivered_at = address
                    if isinstance(self._message, Deliver):
                        all_.cancel()
                case Kept(until=until):
                    self.kept.append(KeptAt(address=address, until=until))
                    if len(self.kept) >= self._enough:
                        all_.cancel()
                case Failed(code=code, reason=reason):
                    self._said.append(printable(reason) or f"{address} refused it, code {code}")
                    if code not in _FROM_THE_PAYEE:
                        self._others = True
                    elif _is_own(PeerId(self._message.payee), address):
                        self._refused, self._others = True, False
                        all_.cancel()
                    else:
                        self._refused = True
        except (Unreachable, LinkClosed) as error:
            self._said.append(printable(str(error)))
        except PeerProtocolError as error:
            self._said.append(printable(f"{address} answered nonsense ({error})"))
        ended.set()

    def failure(self) -> Unreachable:
        sentence = "; ".join(dict.fromkeys(self._said)) or "the payee's contact names no server"
        return PayeeRefuses(sentence) if self._refused and not self._others else Unreachable(sentence)


async def _ask(host: Host, address: str, message: Message) -> Answer:
    try:
        with trio.fail_after(DELIVER_WITHIN):
            server = await host.dial(address)
            stream = await host.open_stream(server, PROTOCOL)
            try:
                await stream.send(CODEC.encode(message))
                answer = CODEC.decode(await stream.receive())
            finally:
                stream.reset()
    except trio.TooSlowError:
        raise Unreachable(f"{address} did not answer within {DELIVER_WITHIN:.0f} s") from None
    if isinstance(answer, Delivered | Failed) or (isinstance(answer, Kept) and not isinstance(message, Deliver)):
        return answer
    raise PeerProtocolError(f"{type(answer).__name__} as the answer to {type(message).__name__}")


_ORDER = (Way.DIRECT, Way.PASSED_DOWN, Way.RELAYED)


def _in_order(payee: PeerId, servers: Sequence[str]) -> list[str]:
    """In random order, but the payee's own addresses before those of others, who would learn that it is paid. A relay learns
    as much as a server that passes it down, and is slower."""
    shuffled = random.sample(list(servers), len(servers))
    return sorted(shuffled, key=lambda address: _ORDER.index(_way(payee, address)))


def _is_own(payee: PeerId, address: str) -> bool:
    try:
        return split_address(address)[1] == payee
    except DecodeError:
        return False


def _way(payee: PeerId, address: str) -> Way:
    if not _is_own(payee, address):
        return Way.PASSED_DOWN
    return Way.RELAYED if is_relayed(split_address(address)[0]) else Way.DIRECT
