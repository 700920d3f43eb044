"""Paying: from a string that the user pasted to a settled payment, and the strings of our own (THEORY, "The protocol";
R9, R14). Being paid is `rrnode.services.receiving`.

The money engine decides and stores; this service tells the network what is wanted, waits as the policy says, and turns
what happens into progress that a person can follow. It holds nothing that a restart would miss.
"""

import contextlib
import hashlib
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import structlog
import trio

from protocols.errors import DecodeError
from protocols.ids import PaymentHash, PeerId, Preimage
from protocols.payment import by_hand, payer, request
from protocols.payment.config import EngineConfig
from protocols.payment.engine import Engine as MoneyEngine
from protocols.payment.events import (
    Kind,
    LockRequested,
    PayAbandoned,
    Payment,
    PaymentChanged,
    PayPhase,
    PayRequested,
    Promise,
    PromiseMade,
)
from protocols.payment.payee import lock_blocks
from protocols.routing.events import OfferArrived, OffersNoLongerWanted, OffersWanted, RoutingEvent
from protocols.units import MAX_MSAT, Amount, AssetId, Msat, UnixTime
from rrnode.config.settings import Settings
from rrnode.control import models as m
from rrnode.control.bus import EventBus
from rrnode.control.convert import offer_seen
from rrnode.control.text import peer_text
from rrnode.errors import StorageFailed, UserError
from rrnode.services.bringing import LIVES, Bringing, Stage, Step, sealed_for
from rrnode.services.receiving import refused
from rrnode.services.subscriptions import SubscriptionClient

log = structlog.get_logger(__name__)

ANEW_WITHIN_MS = 3000  # how long a payment that came back waits for a neighbour to quote anew
TOLD_WITHIN_MS = 75_000  # the longest that it takes to try all servers of a payee, and then their mailboxes
NOT_HEARD_OF = "The payee was not heard of in time. Nothing was paid; try again when it is there."
MOST_DELIVERIES = 1000  # of which it is remembered how the payee was told, for the owner: as many as payments are shown


@dataclass(slots=True)
class _Run:
    """A payment under way in this process.

    Attributes:
        offers, arrived: None in it says that something else has changed.
        patience: milliseconds after its start until which no offer is no reason to give up: the payee is not told yet.
        begun: likewise, when the wait for the first offer began.
    """

    payment: Payment
    started: float
    offers: trio.MemorySendChannel[OfferArrived | None]
    arrived: trio.MemoryReceiveChannel[OfferArrived | None]
    patience: int = 0
    begun: int = 0
    cheapest: Msat | None = None
    undelivered: str = ""
    locking: bool = False
    news: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)

    def after_ms(self) -> int:
        return int((trio.current_time() - self.started) * 1000)

    def nudge(self) -> None:
        """Whoever waits for offers shall look again."""
        with contextlib.suppress(trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            self.offers.send_nowait(None)


class Paying:
    """Payments that we make.

    Args:
        engine: to read from; it is changed only through `ask`.
        ask: `Dispatcher.ask`.
        tell: gives an event to the routing engine.
        subscriptions: our subscriptions at routing servers.
        bringing: brings initializations to payees.
        secret: our node key.
        servers: where payers can reach us, for our contact.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        config: EngineConfig,
        engine: MoneyEngine,
        us: PeerId,
        secret: bytes,
        bus: EventBus,
        ask: Callable[[Any], Awaitable[list[Any]]],
        tell: Callable[[RoutingEvent], None],
        subscriptions: SubscriptionClient,
        bringing: Bringing,
        servers: Callable[[], tuple[str, ...]],
        now: Callable[[], UnixTime],
        prefixes: dict[str, str],
    ) -> None:
        self._settings, self._config, self._engine = settings, config, engine
        self._us, self._secret, self._bus = us, secret, bus
        self._ask, self._tell, self._subscriptions = ask, tell, subscriptions
        self._bringing, self._servers, self._now, self._prefixes = bringing, servers, now, prefixes
        self._asset: AssetId = settings.network.genesis
        self._deliveries: OrderedDict[PaymentHash, str] = OrderedDict()
        self._runs: dict[PaymentHash, _Run] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Serve until cancelled. Payments that a restart caught before anything was locked end here."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for payment in self._engine.payments():
                if payment.phase is PayPhase.COLLECTING:
                    reason = "The node was restarted before anything was locked; nothing was paid. Pay again."
                    with contextlib.suppress(StorageFailed):  # the node has halted and says so itself
                        await self._ask(PayAbandoned(payment_hash=payment.payment_hash, reason=reason))
            await trio.sleep_forever()

    # --- strings ------------------------------------------------------------------------------------------------------

    def contact(self) -> request.Contact:
        """Who we are and where we can be reached. Raises UserError while we can be reached nowhere."""
        servers = self._servers()
        if not servers:
            raise UserError(
                "nobody could reach this node yet: it listens nowhere and is linked to no routing server with which it "
                "has a channel",
                "connect to a routing server and have a channel with it",
            )
        return request.Contact(payee=self._us, servers=servers[:8])

    def contact_text(self) -> str:
        """Our contact string."""
        return request.encode_contact(self.contact(), prefix=self._settings.network.prefix)

    async def make_request(self, amount: Msat, memo: str, seconds: int) -> tuple[str, Promise]:
        """Make, store and sign a payment request of ours.

        Raises:
            UserError: it cannot be taken; says why.
        """
        contact = self.contact()
        preimage = Preimage(os.urandom(32))
        payment_hash = PaymentHash(hashlib.sha256(preimage).digest())
        expiry = UnixTime(self._now() + seconds)
        made = PromiseMade(
            payment_hash=payment_hash,
            preimage=preimage,
            kind=Kind.REQUEST,
            amount=Amount(amount, self._asset),
            expiry=expiry,
            lock_blocks=lock_blocks(self._config, os.urandom(32)),
            memo=memo,
        )
        refused(await self._ask(made))
        promise = self._engine.promise(payment_hash)
        assert promise is not None
        asked = request.Request(
            contact=contact, payment_hash=payment_hash, amount=promise.amount, expiry=expiry, memo=memo
        )
        return request.encode_request(asked, prefix=self._settings.network.prefix, secret=self._secret), promise

    # --- paying -------------------------------------------------------------------------------------------------------

    async def pay(self, order: m.PayOrder) -> PaymentHash:
        """Check, store and start a payment. Raises UserError with the sentence the user should see."""
        return (await self._begin(order, by_hand=False)).payment_hash

    async def pay_by_hand(self, order: m.PayOrder) -> tuple[Payment, str]:
        """Likewise, but our user gives the initialization to the payee: gives its text. Raises UserError."""
        payment = await self._begin(order, by_hand=True)
        sealed = sealed_for(payment, payment.expiry)
        return payment, by_hand.encode(payment.payee, sealed, prefix=self._settings.network.prefix)

    async def give_up(self, payment_hash: PaymentHash) -> None:
        """End a payment of which nothing is locked. Raises UserError when that cannot be."""
        reason = "It was given up by its owner. Nothing was paid."
        refused(await self._ask(PayAbandoned(payment_hash=payment_hash, reason=reason)))

    def delivery(self, payment_hash: PaymentHash) -> str:
        """How the payee was told of a payment, as far as this process knows."""
        return self._deliveries.get(payment_hash, "")

    async def _begin(self, order: m.PayOrder, *, by_hand: bool) -> Payment:
        try:
            target = request.decode(
                order.target.strip(),
                network=self._settings.network.name,
                prefixes=self._prefixes,
                now=self._now(),
            )
        except DecodeError as error:
            raise UserError(str(error)) from None
        asleep = self._settings.wait.asleep_s if order.asleep_s is None else order.asleep_s
        lives = max(LIVES, asleep)
        if isinstance(target, request.Request):
            contact, memo = target.contact, target.memo
            if order.amount_msat is not None and order.amount_msat != target.amount.msat:
                raise UserError(
                    f"the request asks for {target.amount.msat} msat, not {order.amount_msat}", "leave the amount out"
                )
            amount, preimage, payment_hash = target.amount, None, target.payment_hash
            expiry = min(target.expiry, self._now() + lives)
        else:
            contact, memo = target, order.memo
            if order.amount_msat is None:
                raise UserError("a contact names no amount", "give one: rrnode pay CONTACT AMOUNT")
            amount = Amount(Msat(order.amount_msat), self._asset)
            preimage = Preimage(os.urandom(32))
            payment_hash = PaymentHash(hashlib.sha256(preimage).digest())
            expiry = self._now() + lives
        if contact.payee == self._us:
            raise UserError("that is this node's own; a payment to oneself would only pay fees")
        paid = PayRequested(
            payment_hash=payment_hash,
            kind=Kind.REQUEST if preimage is None else Kind.PUSH,
            payee=contact.payee,
            amount=amount,
            ceiling=self._ceiling(order, amount),
            preimage=preimage,
            expiry=UnixTime(expiry),
            memo=memo,
        )
        send, receive = trio.open_memory_channel[OfferArrived | None](256)
        run = _Run(payment=_planned(paid, self._now()), started=trio.current_time(), offers=send, arrived=receive)
        if (other := self._runs.get(payment_hash)) is not None and not other.ended.is_set():
            raise UserError("this payment is under way already", "follow it with: rrnode payments")
        if self._nursery is None:
            raise UserError("this node is not ready to pay yet", "try again in a moment")
        self._runs[payment_hash] = run
        try:
            with trio.CancelScope(shield=True):  # whoever asked may hang up: a payment on disk must have its driver
                refused(await self._ask(paid))
        except BaseException:
            del self._runs[payment_hash]
            raise
        self._nursery.start_soon(self._drive, run, None if by_hand else contact, order, asleep > 0)
        return run.payment

    def _ceiling(self, order: m.PayOrder, amount: Amount) -> Amount:
        if order.ceiling_msat is not None and order.max_fee_msat is not None:
            raise UserError("a ceiling and a maximum fee were both given", "give one of them")
        if order.ceiling_msat is not None:
            return Amount(Msat(order.ceiling_msat), amount.asset)
        fee = self._settings.max_fee_for(amount.msat) if order.max_fee_msat is None else Msat(order.max_fee_msat)
        return Amount(Msat(min(MAX_MSAT, amount.msat + fee)), amount.asset)

    def _policy(self, order: m.PayOrder) -> payer.WaitPolicy:
        wait = self._settings.wait

        def chosen(asked: int | None, default: int) -> int:
            return default if asked is None else asked

        return payer.WaitPolicy(
            quiet=chosen(order.quiet_ms, wait.quiet_ms),
            maximum=chosen(order.maximum_ms, wait.maximum_ms),
            good_enough=chosen(order.good_enough_ppm, wait.good_enough_ppm),
        )

    async def _drive(self, run: _Run, contact: request.Contact | None, order: m.PayOrder, patient: bool) -> None:
        """`contact`: whom to tell of the payment; None: our user does."""
        payment = run.payment
        payment_hash = payment.payment_hash
        try:
            self._subscriptions.want(payment_hash, payment.expiry)
            self._tell(OffersWanted(payment_hash=payment_hash, expiry=payment.expiry, now=self._now()))
            async with trio.open_nursery() as nursery:
                if contact is None:
                    self._step(run, Step(stage=Stage.ASLEEP, words="the payee to receive what you hand over"))
                else:
                    run.patience = TOLD_WITHIN_MS if patient else 0
                    self._say_waiting(run, "the payee to answer")
                    tell = partial(self._step, run)
                    nursery.start_soon(partial(self._bringing.bring, payment, contact, patient=patient, tell=tell))
                policy = self._policy(order)
                while not run.ended.is_set():
                    decision = await self._collect(run, policy)
                    if isinstance(decision, payer.GiveUp):
                        await self._ask(PayAbandoned(payment_hash=payment_hash, reason=self._why(run, decision)))
                        await self._while_locked(run)  # one that waited for watchers may have been locked just before
                    else:
                        await self._lock(run)
                    policy = replace(policy, maximum=min(policy.maximum, ANEW_WITHIN_MS))
                nursery.cancel_scope.cancel()
        finally:
            if self._runs.get(payment_hash) is run:
                del self._runs[payment_hash]
                self._subscriptions.forget(payment_hash)
                self._tell(OffersNoLongerWanted(payment_hash=payment_hash, now=self._now()))

    async def _lock(self, run: _Run) -> None:
        """Lock what stands; returns when the payment has ended, or came back and may be quoted anew (R10)."""
        run.locking = True
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                run.arrived.receive_nowait()  # told already: only what comes from now on is news after a failure
        self._say_waiting(run, "the lock to be taken")
        await self._ask(LockRequested(payment_hash=run.payment.payment_hash))
        self._say_waiting(run, "the settlement")
        await self._while_locked(run)
        if not run.ended.is_set():
            self._say_waiting(run, "another offer")

    @staticmethod
    async def _while_locked(run: _Run) -> None:
        while run.payment.phase is PayPhase.LOCKED:
            await run.news.wait()

    @staticmethod
    def _why(run: _Run, decision: payer.GiveUp) -> str:
        if run.payment.attempts:
            return payer.why_nothing(run.payment, payer.Choice(offers=()), ())
        return run.undelivered or decision.reason

    def _step(self, run: _Run, step: Step) -> None:
        """The initialization got somewhere."""
        self._deliveries[run.payment.payment_hash] = step.words
        while len(self._deliveries) > MOST_DELIVERIES:
            self._deliveries.popitem(last=False)
        if run.ended.is_set() or run.locking:
            return  # offers were faster than the answer
        run.patience, run.begun, run.undelivered = 0, run.after_ms(), ""
        match step.stage:
            case Stage.TOLD:
                self._say_waiting(run, "offers")
            case Stage.ASLEEP:
                run.patience = run.begun + 1000 * (run.payment.expiry - self._now())
                run.undelivered = NOT_HEARD_OF
                self._say_waiting(run, step.words)
            case Stage.LOST:
                run.undelivered = step.words
                run.offers.close()
        run.nudge()

    async def _collect(self, run: _Run, policy: payer.WaitPolicy) -> payer.Lock | payer.GiveUp:
        """Gather offers until the policy is satisfied (R9). Those of a payee that is not told yet are waited for as long
        as that takes."""
        payment = run.payment
        collection = payer.Collection(
            amount=payment.amount, ceiling=payment.ceiling, policy=policy, started=run.after_ms()
        )
        while not run.ended.is_set():
            if not collection.seen:
                collection = replace(collection, started=max(collection.started, run.begun))
            decision = collection.decide(run.after_ms())
            if isinstance(decision, payer.GiveUp) and not collection.seen and run.after_ms() < run.patience:
                decision = payer.WaitUntil(at=run.patience)
            if not isinstance(decision, payer.WaitUntil):
                return decision
            with trio.move_on_after((decision.at - run.after_ms()) / 1000):
                try:
                    arrived = await run.arrived.receive()
                except trio.EndOfChannel:
                    if collection.best is None:
                        return payer.GiveUp(reason=run.undelivered)
                    return payer.Lock()
                if arrived is None:
                    continue
                if run.patience:  # it woke, or is about to answer: from here on it is a payment like any other
                    collection = replace(collection, started=run.after_ms())
                    run.patience, run.undelivered = 0, ""
                offered = Amount(Msat(arrived.offer.amount_msat), AssetId(arrived.offer.asset))
                collection = collection.offer(offered, run.after_ms())
        return payer.GiveUp(reason=run.payment.reason)

    def offer_arrived(self, arrived: OfferArrived) -> None:
        """The routing engine has an offer for a hash that we want to pay; never waits."""
        run = self._runs.get(PaymentHash(arrived.offer.payment_hash))
        if run is None:
            return
        amount = Msat(arrived.offer.amount_msat)
        cheapest = run.cheapest is None or amount < run.cheapest
        if cheapest:
            run.cheapest = amount
        self._bus.publish(offer_seen(arrived, run.payment, cheapest=cheapest, after_ms=run.after_ms()))
        with contextlib.suppress(trio.WouldBlock, trio.ClosedResourceError):
            run.offers.send_nowait(arrived)  # the table holds it all the same; this channel only times the waiting

    def _say_waiting(self, run: _Run, what: str) -> None:
        self._bus.publish(m.Waiting(payment_hash=run.payment.payment_hash.hex(), what=what, after_ms=run.after_ms()))

    def payment_changed(self, effect: PaymentChanged) -> None:
        """Tell followers what became of a payment that we make."""
        payment = effect.payment
        run = self._runs.get(payment.payment_hash)
        before = run.payment if run is not None else payment
        after_ms = run.after_ms() if run is not None else 0
        hash_text = payment.payment_hash.hex()
        for number, attempt in enumerate(payment.attempts, start=1):
            known = before.attempts[number - 1] if number <= len(before.attempts) else None
            if known is None:
                self._bus.publish(
                    m.Locked(
                        payment_hash=hash_text,
                        attempt=number,
                        neighbour=peer_text(attempt.neighbour),
                        channel_id=attempt.channel_id.hex(),
                        amount_msat=attempt.amount,
                        fee_msat=attempt.amount - payment.amount.msat,
                        expiry_height=attempt.expiry,
                        after_ms=after_ms,
                    )
                )
            if attempt.failure is not None and (known is None or known.failure is None):
                self._bus.publish(
                    m.AttemptFailed(
                        payment_hash=hash_text,
                        attempt=number,
                        neighbour=peer_text(attempt.neighbour),
                        reason=payer.failure_words(attempt.failure),
                        after_ms=after_ms,
                    )
                )
        if run is not None:
            run.payment = payment
            run.news.set()
            run.news = trio.Event()
        match payment.phase:
            case PayPhase.PAID if before.phase is not PayPhase.PAID or run is None:
                sent = payment.attempts[-1].amount
                self._bus.publish(
                    m.Settled(
                        payment_hash=hash_text,
                        amount_msat=payment.amount.msat,
                        sent_msat=sent,
                        fee_msat=sent - payment.amount.msat,
                        preimage=payment.preimage.hex() if payment.preimage else "",
                        after_ms=after_ms,
                    )
                )
            case PayPhase.FAILED if before.phase is not PayPhase.FAILED or run is None:
                self._bus.publish(m.PaymentFailed(payment_hash=hash_text, reason=payment.reason, after_ms=after_ms))
        if run is not None and payment.phase in (PayPhase.PAID, PayPhase.FAILED):
            run.ended.set()
            run.nudge()


def _planned(order: PayRequested, now: UnixTime) -> Payment:
    return Payment(
        payment_hash=order.payment_hash,
        kind=order.kind,
        payee=order.payee,
        amount=order.amount,
        ceiling=order.ceiling,
        preimage=order.preimage,
        phase=PayPhase.COLLECTING,
        created=now,
        expiry=order.expiry,
        memo=order.memo,
    )
