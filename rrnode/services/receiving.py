"""Being paid: from a sealed initialization, however it came, to the offers that go out for it, and what came of none
(THEORY, "The protocol"; R14).

The money engine decides and stores; this service asks the network. What was missed is told and kept for its owner, in
memory alone: strangers' mail leaves nothing on the node's own disk but the promises of what may be paid.
"""

import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from protocols.errors import DecodeError
from protocols.ids import PaymentHash, PeerId
from protocols.payment import by_hand
from protocols.payment.config import EngineConfig
from protocols.payment.engine import Engine as MoneyEngine
from protocols.payment.events import Promise, PromiseChanged, PromiseMade, PromisePhase, RequestRefused
from protocols.payment.initialization import Initialization, unseal
from protocols.payment.payee import Budget, Judgement, flood_of, hash_of, judge, promise_of
from protocols.routing.events import FloodEnded, RoutingEvent
from protocols.units import AssetId, UnixTime
from protocols.wire.init import DeliveryCode, Mail
from rrnode.control import models as m
from rrnode.control.bus import EventBus
from rrnode.control.text import peer_text
from rrnode.errors import StorageFailed, UserError

log = structlog.get_logger(__name__)

MOST_MISSED = 200  # kept for the owner; older ones are in the log


class NotTaken(Exception):
    """Why an initialization is not taken: one of `DeliveryCode`, and a sentence."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


def refused(effects: list[Any]) -> None:
    """Raise UserError when the money engine has refused what it was asked."""
    for effect in effects:
        if isinstance(effect, RequestRefused):
            raise UserError(effect.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlocked:
    """What the text of a payer that was handed over is about."""

    init: Initialization
    promise: Promise | PromiseMade


class Receiving:
    """Payments that we take.

    Args:
        engine: to read from; it is changed only through `ask`.
        ask: `Dispatcher.ask`.
        tell: gives an event to the routing engine.
        secret: our node key.
        network: name of the one that this node works on; `prefixes` are those of all, by name.
    """

    def __init__(
        self,
        *,
        config: EngineConfig,
        engine: MoneyEngine,
        us: PeerId,
        secret: bytes,
        asset: AssetId,
        bus: EventBus,
        ask: Callable[[Any], Awaitable[list[Any]]],
        tell: Callable[[RoutingEvent], None],
        now: Callable[[], UnixTime],
        network: str,
        prefixes: Mapping[str, str],
    ) -> None:
        self._config, self._engine, self._us, self._secret, self._asset = config, engine, us, secret, asset
        self._bus, self._ask, self._tell, self._now = bus, ask, tell, now
        self._network, self._prefixes = network, prefixes
        self._budget = Budget()
        self._followed: dict[
            PaymentHash, str
        ] = {}  # whose end is told even if nothing comes, and how they came; bounded as promises are
        self.missed: deque[m.Missed] = deque(maxlen=MOST_MISSED)

    # --- the ways that one comes --------------------------------------------------------------------------------------

    async def take(self, sealed: bytes, sender: bytes) -> tuple[int, str]:
        """Read an initialization that a payer or a server brought, and ask the network for offers.

        Args:
            sender: whatever tells senders apart, for the budget.

        Returns:
            One of `DeliveryCode`, or 0 for taken; and a sentence for the payer.
        """
        try:
            await self._act(self._read(sealed), sender)
        except NotTaken as refusal:
            return refusal.code, refusal.reason[:256]
        return 0, ""

    async def take_mail(self, server: PeerId, mail: Mail, last: bool) -> tuple[int, str]:
        """Likewise, of one that waited in our mailbox. What can no longer be paid is noted as missed, unless it was paid.

        Args:
            last: whether what is too large for our channels now does not come again.
        """
        where = f"in the mailbox at {peer_text(server)}"
        try:
            init = self._read(mail.sealed)
        except NotTaken as refusal:
            return refusal.code, refusal.reason
        try:
            await self._act(init, mail.sealed[:33])  # the server counted its senders
        except NotTaken as refusal:
            later = refusal.code == DeliveryCode.TOO_MANY or (refusal.code == DeliveryCode.TOO_LARGE and not last)
            if not later and not self._has_come(init):
                self._note_missed(refusal.reason, where=where, init=init, stored=mail.stored)
            return refusal.code, refusal.reason[:256]
        self._follow(hash_of(init), where)
        return 0, ""

    async def receive(self, text: str) -> Unlocked:
        """Take one that the payer handed over itself. Raises UserError with the sentence the user should see."""
        try:
            payee, sealed = by_hand.decode(text, network=self._network, prefixes=self._prefixes)
        except DecodeError as error:
            raise UserError(str(error)) from None
        if payee != self._us:
            raise UserError(f"this payment is for another node, {peer_text(payee)}", "give it to its owner")
        try:
            init = self._read(sealed)
            found = Unlocked(init=init, promise=await self._act(init, None))
        except NotTaken as refusal:
            raise UserError(refusal.reason, "ask the payer to pay again, or wait a moment") from None
        self._follow(found.promise.payment_hash, "handed over by its payer")
        return found

    # --- what becomes of it -------------------------------------------------------------------------------------------

    def _has_come(self, init: Initialization) -> bool:
        """Whether its payment is in already: of several mailboxes that keep a copy, one is the last to be emptied."""
        promise = self._engine.promise(hash_of(init))
        return promise is not None and promise.phase is PromisePhase.CLAIMED

    def _follow(self, payment_hash: PaymentHash, how: str) -> None:
        promise = self._engine.promise(payment_hash)
        if promise is not None and promise.phase is PromisePhase.WAITING:
            self._followed[payment_hash] = how

    def _read(self, sealed: bytes) -> Initialization:
        try:
            return unseal(sealed, self._secret)
        except DecodeError:
            raise NotTaken(DeliveryCode.BAD_REQUEST, "the payee cannot read it") from None

    async def _act(self, init: Initialization, sender: bytes | None) -> Promise | PromiseMade:
        """Ask for offers. `sender`: None when our owner has brought it, who needs no budget. Raises NotTaken."""
        now = self._now()
        promise = self._engine.promise(hash_of(init))
        most = self._engine.most_receivable(self._asset)
        verdict = judge(init, promise, asset=self._asset, most=most, now=now)
        if verdict.judgement is Judgement.FLOOD and sender is not None:
            verdict = self._budget.admit(init.nonce, sender, now)
        if verdict.judgement is Judgement.REFUSED:
            raise NotTaken(verdict.code, verdict.reason)
        made = promise or promise_of(init, config=self._config, entropy=os.urandom(32), now=now)
        if verdict.judgement is Judgement.REPEATED:
            return made
        # Offers bind nobody: they leave while the promise is on its way to the disk, which a payer would wait for. What is
        # locked before that queues behind the promise, and after a crash in between it is failed back.
        self._tell(flood_of(made, init.ceiling, init.expiry, entropy=os.urandom(32), now=self._now()))
        if isinstance(made, PromiseMade):
            try:
                await self._keep(made)
            except NotTaken:
                self._budget.forget(init.nonce)  # or the next try of a mailbox would count as taken, and be lost
                raise
        return made

    async def _keep(self, made: PromiseMade) -> None:
        """Store a promise that is asked for already; if it cannot be stored, stop asking. Raises NotTaken."""
        try:
            refused(await self._ask(made))
        except UserError as error:
            self._tell(FloodEnded(payment_hash=made.payment_hash, now=self._now()))
            raise NotTaken(DeliveryCode.REFUSED, str(error)) from None
        except StorageFailed:
            self._tell(FloodEnded(payment_hash=made.payment_hash, now=self._now()))
            raise NotTaken(DeliveryCode.TOO_MANY, "the payee's node takes on nothing new at the moment") from None

    def promise_changed(self, effect: PromiseChanged) -> None:
        """Tell followers, and stop asking once the payment is in or its time is over."""
        promise = effect.promise
        if promise.phase is PromisePhase.WAITING:
            return
        self._tell(FloodEnded(payment_hash=promise.payment_hash, now=self._now()))
        where = self._followed.pop(promise.payment_hash, "")
        if promise.phase is PromisePhase.CLAIMED:
            self._bus.publish(
                m.Received(payment_hash=promise.payment_hash.hex(), amount_msat=promise.received, memo=promise.memo)
            )
        elif where:
            self._missed(
                m.Missed(
                    reason="the network was asked for offers, but the payer locked nothing before it expired",
                    where=where,
                    payment_hash=promise.payment_hash.hex(),
                    amount_msat=promise.amount.msat,
                    memo=promise.memo,
                )
            )

    # --- what was missed ----------------------------------------------------------------------------------------------

    def mail_missed(self, server: PeerId, turned_away: int, expired: int) -> None:
        """A mailbox of ours tells how many found no room in it, and how many it kept in vain."""
        where = f"in the mailbox at {peer_text(server)}"
        if turned_away:
            self._missed(m.Missed(reason="the mailbox was full", where=where, count=turned_away))
        if expired:
            self._missed(m.Missed(reason="kept for its time, and never fetched", where=where, count=expired))

    def _note_missed(self, reason: str, *, where: str, init: Initialization, stored: int) -> None:
        self._missed(
            m.Missed(
                reason=reason,
                where=where,
                payment_hash=hash_of(init).hex(),
                amount_msat=init.amount.msat if init.amount.asset == self._asset else None,
                memo=init.memo,
                stored_unix=stored,
            )
        )

    def _missed(self, event: m.Missed) -> None:
        log.info("payments to us were missed", reason=event.reason, where=event.where, count=event.count)
        kept = self._bus.publish(event)
        assert isinstance(kept, m.Missed)
        self.missed.append(kept)
