"""One payment from the order to its end, driven as the running node drives it (`rrnode.services.paying`), in virtual time."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from protocols.ids import PaymentHash, Preimage
from protocols.payment import payer
from protocols.payment.events import (
    Kind,
    LockRequested,
    PayAbandoned,
    Payment,
    PayPhase,
    PayRequested,
    RequestRefused,
)
from protocols.payment.initialization import Initialization
from protocols.payment.payee import Judgement, flood_of, judge, promise_of
from protocols.routing.events import OfferArrived, OffersNoLongerWanted, OffersWanted
from protocols.units import MAX_MSAT, PPM, Amount, Msat, UnixTime
from rrnode.services.bringing import LIVES
from rrnode.services.paying import ANEW_WITHIN_MS
from tools.simulate.station import COIN
from tools.simulate.workload import Order
from tools.simulate.world import Watching, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How payers pay; the defaults are those of the node's configuration.

    Attributes:
        wait: when they are satisfied (R9).
        max_fee_ppm, max_fee_base: the most they pay in fees.
    """

    wait: payer.WaitPolicy = payer.WaitPolicy()
    max_fee_ppm: int = 20_000
    max_fee_base: Msat = Msat(20_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one payment. Amounts in millisatoshi, times in milliseconds of virtual time since the order.

    Attributes:
        least: what the oracle would have locked when the order was given; None: no single path could carry it.
        ceiling: the most that the payer would have locked.
        locked: what was; None: it failed.
        first, first_ms; best, best_ms: the first offer, and the cheapest, and when they came; None: none did.
        ended_ms: when the preimage, or the last hope, was there.
        tries: HTLCs locked by the payer, one after the other; `failures` says why each came back that did.
        carriers: nodes that carried it, the payee's neighbour first.
        offers: routing messages sent for it, by everybody.
        reason: why it failed.
    """

    payer: str
    payee: str
    amount: int
    least: int | None
    ceiling: int
    locked: int | None
    first: int | None
    first_ms: int | None
    best: int | None
    best_ms: int | None
    ended_ms: int
    tries: int
    failures: tuple[str, ...]
    carriers: tuple[str, ...]
    offers: int
    reason: str


class Run:
    """A payment under way.

    Args:
        ended: told when it is over. Its offers may go on travelling.
    """

    def __init__(
        self, world: World, order: Order, habits: Habits, rng: random.Random, ended: Callable[[], None]
    ) -> None:
        self._world, self._order, self._habits, self._rng, self._ended = world, order, habits, rng, ended
        self._payer, self._payee = world[order.payer], world[order.payee]
        self._preimage = Preimage(rng.randbytes(32))
        self._hash = PaymentHash(hashlib.sha256(self._preimage).digest())
        self._amount = Amount(order.amount, COIN)
        fee = habits.max_fee_base + order.amount * habits.max_fee_ppm // PPM
        self._ceiling = Amount(Msat(min(MAX_MSAT, order.amount + fee)), COIN)
        self._started = self._expiry = 0
        self._least: Msat | None = None
        self._watching = Watching(self._offer, self._changed)
        self._collection: payer.Collection | None = None
        self._wakes: int | None = None
        self._payment: Payment | None = None
        self._first: tuple[int, int] | None = None
        self._best: tuple[int, int] | None = None
        self._reason = ""
        self._ended_ms = 0
        self.over = False

    def start(self) -> None:
        """The order is given."""
        world, order = self._world, self._order
        self._started = world.milliseconds
        self._expiry = world.now + LIVES
        self._least = world.oracle.cheapest(self._payer.id, self._payee.id, order.amount)
        world.watch(self._hash, self._watching)
        wanted = PayRequested(
            payment_hash=self._hash,
            kind=Kind.PUSH,
            payee=self._payee.id,
            amount=self._amount,
            ceiling=self._ceiling,
            preimage=self._preimage,
            expiry=UnixTime(self._expiry),
        )
        refused = [each for each in self._payer.give(wanted) if isinstance(each, RequestRefused)]
        if refused:
            self._end(refused[0].reason)
            return
        self._collect(self._habits.wait)
        self._payer.tell(OffersWanted(payment_hash=self._hash, expiry=UnixTime(self._expiry), now=world.now))
        world.after(world.delay(), self._initialized)

    # --- the payee ----------------------------------------------------------------------------------------------------

    def _initialized(self) -> None:
        world, payee = self._world, self._payee
        init = Initialization(
            nonce=self._rng.randbytes(16),
            kind=Kind.PUSH,
            secret=self._preimage,
            amount=self._amount,
            ceiling=payer.published_ceiling(self._ceiling, self._amount, self._rng.randbytes(32)),
            expiry=UnixTime(self._expiry),
        )
        verdict = judge(init, None, asset=COIN, most=payee.money.most_receivable(COIN), now=world.now)
        if verdict.judgement is not Judgement.FLOOD:
            world.after(world.delay(), self._undelivered, verdict.reason)
            return
        made = promise_of(init, config=payee.money.config, entropy=self._rng.randbytes(32), now=world.now)
        payee.give(made)
        payee.tell(flood_of(made, init.ceiling, init.expiry, entropy=self._rng.randbytes(32), now=world.now))

    def _undelivered(self, reason: str) -> None:
        if not self.over:
            self._payer.give(PayAbandoned(payment_hash=self._hash, reason=f"The payee refuses: {reason}"))

    # --- the payer ----------------------------------------------------------------------------------------------------

    def _after_ms(self) -> int:
        return self._world.milliseconds - self._started

    def _collect(self, wait: payer.WaitPolicy) -> None:
        self._collection = payer.Collection(
            amount=self._amount, ceiling=self._ceiling, policy=wait, started=self._after_ms()
        )
        self._decide()

    def _offer(self, arrived: OfferArrived) -> None:
        now, amount = self._after_ms(), arrived.offer.amount_msat
        self._first = self._first or (amount, now)
        if self._best is None or amount < self._best[0]:
            self._best = amount, now
        if self._collection is not None:
            self._collection = self._collection.offer(Amount(Msat(amount), COIN), now)
            self._decide()

    def _wake(self, at: int) -> None:
        if self._wakes == at:
            self._wakes = None
            self._decide()

    def _decide(self) -> None:
        if self._collection is None:
            return
        match self._collection.decide(self._after_ms()):
            case payer.WaitUntil(at=at):
                if self._wakes != at:
                    self._wakes = at
                    self._world.after((at - self._after_ms()) * 1000, self._wake, at)
            case payer.Lock():
                self._collection = None
                self._payer.give(LockRequested(payment_hash=self._hash))
            case payer.GiveUp(reason=reason):
                self._collection = None
                if self._payment is not None and self._payment.attempts:
                    reason = payer.why_nothing(self._payment, payer.Choice(offers=()), ())
                self._payer.give(PayAbandoned(payment_hash=self._hash, reason=reason))

    def _changed(self, payment: Payment) -> None:
        self._payment = payment
        match payment.phase:
            case PayPhase.COLLECTING if payment.attempts and self._collection is None:  # it came back (R10)
                wait = self._habits.wait
                self._collect(replace(wait, maximum=min(wait.maximum, ANEW_WITHIN_MS)))
            case PayPhase.PAID | PayPhase.FAILED:
                self._end(payment.reason)

    def _end(self, reason: str) -> None:
        self._collection, self._reason, self.over = None, reason, True
        self._ended_ms = self._after_ms()
        self._payer.tell(OffersNoLongerWanted(payment_hash=self._hash, now=self._world.now))
        self._ended()

    def result(self) -> Result:
        """What became of it, once it is over."""
        payment = self._payment
        attempts = payment.attempts if payment is not None else ()
        paid = payment is not None and payment.phase is PayPhase.PAID
        first, best = self._first or (None, None), self._best or (None, None)
        return Result(
            payer=self._order.payer,
            payee=self._order.payee,
            amount=self._order.amount,
            least=self._least,
            ceiling=self._ceiling.msat,
            locked=attempts[-1].amount if paid else None,
            first=first[0],
            first_ms=first[1],
            best=best[0],
            best_ms=best[1],
            ended_ms=self._ended_ms,
            tries=len(attempts),
            failures=tuple(each.failure.name.lower() for each in attempts if each.failure is not None),
            carriers=tuple(self._watching.carriers) if paid else (),
            offers=self._watching.offers,
            reason=self._reason,
        )
