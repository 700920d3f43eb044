"""The payments that we make, from the order to their end (R9, R10, R11; THEORY, step 5). What to choose is in `payer`."""

from dataclasses import replace

from protocols.channel.events import HtlcFulfilled, Refusal
from protocols.channel.state import Phase, is_usable
from protocols.facts import Facts
from protocols.ids import PaymentHash, PeerId
from protocols.payment import payer
from protocols.payment.desk import Desk
from protocols.payment.events import (
    Attempt,
    FindOffers,
    LockRequested,
    OffersFound,
    OfferUsed,
    PayAbandoned,
    Payment,
    PaymentChanged,
    PayPhase,
    PayRequested,
    RequestRefused,
    StorePayment,
)
from protocols.units import BlockHeight, Msat
from protocols.wire.channel import FailureCode

PAY = b"pay"  # what the reference of a payer's FindOffers begins with; the hash follows
_AGAIN = b"again"  # and this, where an earlier HTLC came back


class Paying:
    """One payment after the other; at most one HTLC is live for each."""

    def __init__(self, desk: Desk, us: PeerId) -> None:
        self._desk, self._us = desk, us
        self._unattended: set[PaymentHash] = set()  # locked before a restart: nobody collects offers for them any more

    def requested(self, order: PayRequested, facts: Facts) -> None:
        """Begin to collect offers, or say why not."""
        reason = self._objection(order, facts)
        if reason:
            self._desk.out.append(RequestRefused(payment_hash=order.payment_hash, reason=reason))
            return
        self._keep(
            Payment(
                payment_hash=order.payment_hash,
                kind=order.kind,
                payee=order.payee,
                amount=order.amount,
                ceiling=order.ceiling,
                preimage=order.preimage,
                phase=PayPhase.COLLECTING,
                created=facts.now,
                expiry=order.expiry,
                memo=order.memo,
            )
        )

    def _objection(self, order: PayRequested, facts: Facts) -> str:
        ledger, payment_hash = self._desk.ledger, order.payment_hash
        if order.payee == self._us or payment_hash in ledger.promises:
            return "This is a request of this node's own; it cannot pay itself."
        if payment_hash in ledger.settled:
            return "This was paid already: whoever saw the receipt on the way could take a second payment (R11)."
        if ledger.is_live(payment_hash):
            return "A payment with this hash is under way already."
        if wrong := payer.objection(order, now=facts.now):
            return wrong
        if ledger.paying >= self._desk.config.max_payments:
            return f"{ledger.paying} payments are under way already; wait until some have ended."
        asset, book = order.ceiling.asset, self._desk.book
        # An amount in another asset says nothing about what must leave us; some channel must be usable all the same.
        least = order.amount.msat if order.amount.asset == asset else Msat(1)
        usable = [is_usable(channel) for channel in book if channel.phase is Phase.OPEN and channel.asset == asset]
        if any(usable) and not book.may_hold(least):
            return book.why_not
        if any(usable) and book.all_late(asset):
            return f"Nothing can be paid now: {Refusal.UNCOVERED.value}"
        return payer.too_much(least, most=book.most(asset, ours=True), usable=usable)

    def look_again(self, payment_hash: PaymentHash) -> None:
        """Watchers hold more now, or are late: a payment that found only channels that wait for them is tried once more."""
        payment = self._desk.ledger.payments.get(payment_hash)
        if payment is not None and payment.phase is PayPhase.COLLECTING:
            self._ask(payment)

    def satisfied(self, order: LockRequested) -> None:
        """Stop collecting (R9): ask what stands."""
        payment = self._desk.ledger.payments.get(order.payment_hash)
        if payment is not None and payment.phase is PayPhase.COLLECTING:
            self._ask(payment)

    def _ask(self, payment: Payment, *, again: bool = False) -> None:
        self._desk.out.append(
            FindOffers(
                reference=PAY + payment.payment_hash + (_AGAIN if again else b""),
                payment_hash=payment.payment_hash,
                upstream=None,
                asset=payment.ceiling.asset,
            )
        )

    def abandoned(self, order: PayAbandoned, facts: Facts) -> None:
        """End it while nothing is locked."""
        payment = self._desk.ledger.payments.get(order.payment_hash)
        if payment is None:
            self._desk.out.append(RequestRefused(payment_hash=order.payment_hash, reason="There is no such payment."))
        elif payment.phase is PayPhase.COLLECTING:
            waits = self._desk.cover.is_asking(payment.payment_hash)
            self._end(payment, payer.could_not_lock(Refusal.NOT_COVERED_YET) if waits else order.reason, facts)
        else:
            reason = f"The payment is {payment.phase.value}: it can no longer be given up."
            self._desk.out.append(RequestRefused(payment_hash=order.payment_hash, reason=reason))

    def offers(self, found: OffersFound, facts: Facts) -> None:
        """The answer to our question: lock the cheapest offer that can be locked, or end the payment.

        After an HTLC that came back nothing ends at once: `LockRequested` or `PayAbandoned` decides (R9).
        """
        reference = found.reference[len(PAY) :]
        payment = self._desk.ledger.payments.get(PaymentHash(reference[:32]))
        if payment is None or payment.phase is not PayPhase.COLLECTING:
            return
        if payment.expiry <= facts.now:
            self._end(payment, payer.expired(payment), facts)
            return
        refusals: list[Refusal] = []
        choice = payer.choose(payment, found.offers, config=self._desk.config, now=facts.now, entropy=facts.entropy)
        may_try = len(payment.attempts) < self._desk.config.max_attempts
        for offer, blocks in choice.offers if may_try else ():
            expiry = BlockHeight(facts.tip + blocks)
            answer = self._desk.offer_to(offer, found.reference, payment.payment_hash, expiry, facts)
            if isinstance(answer, Refusal):
                refusals.append(answer)
                continue
            attempt = Attempt(
                channel_id=answer.channel_id,
                htlc_id=answer.htlc_id,
                neighbour=offer.neighbour,
                amount=offer.amount.msat,
                expiry=expiry,
            )
            self._keep(replace(payment, phase=PayPhase.LOCKED, attempts=(*payment.attempts, attempt)))
            return
        if may_try and reference.endswith(_AGAIN) and len(reference) > 32:
            return  # whoever failed may quote anew, and dearer: the payer waits again, and says when it is satisfied
        if Refusal.NOT_COVERED_YET in refusals:
            self._desk.cover.ask_again(payment.payment_hash)
            return
        self._end(payment, payer.why_nothing(payment, choice, refusals), facts)

    def came_back(self, payment: Payment, code: FailureCode) -> None:
        """The locked HTLC is irrevocably gone (R10): lock to what stands, or collect offers again."""
        *earlier, last = payment.attempts
        payment = replace(payment, phase=PayPhase.COLLECTING, attempts=(*earlier, replace(last, failure=code)))
        self._keep(payment)
        self._desk.out.append(
            OfferUsed(payment_hash=payment.payment_hash, downstream=last.neighbour, paid=False, amount=last.amount)
        )
        self._ask(payment, again=payment.payment_hash not in self._unattended)

    def paid(self, payment: Payment, told: HtlcFulfilled, facts: Facts) -> None:
        """The preimage came: the receipt, where the secret is the payee's."""
        paid = replace(payment, phase=PayPhase.PAID, preimage=told.preimage, ended=facts.now)
        self._keep(paid)
        last = paid.attempts[-1]
        self._desk.out.append(
            OfferUsed(payment_hash=paid.payment_hash, downstream=last.neighbour, paid=True, amount=last.amount)
        )

    def _end(self, payment: Payment, reason: str, facts: Facts) -> None:
        self._keep(replace(payment, phase=PayPhase.FAILED, ended=facts.now, reason=reason))

    def _keep(self, payment: Payment) -> None:
        if payment.phase in (PayPhase.PAID, PayPhase.FAILED):
            self._unattended.discard(payment.payment_hash)
        self._desk.ledger.keep_payment(payment)
        self._desk.out += [StorePayment(payment=payment), PaymentChanged(payment=payment)]

    def expire(self, facts: Facts) -> None:
        """End payments whose time is over while nothing is locked."""
        for payment in self._desk.ledger.overdue_payments(facts.now - self._desk.config.forward.offer_grace):
            self._end(payment, payer.expired(payment), facts)

    def resume(self, payment: Payment, facts: Facts) -> None:
        """What stood on disk: collecting cannot be gone on with, as offers are soft state; a locked HTLC will end."""
        if payment.phase is PayPhase.COLLECTING:
            reason = "The node was stopped while it collected offers. Nothing was locked; pay again."
            self._end(payment, reason, facts)
        elif payment.phase is PayPhase.LOCKED:
            self._unattended.add(payment.payment_hash)
