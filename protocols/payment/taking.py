"""The payments that we take: promises, and the one HTLC that each is claimed by (R11, R14). What to claim is in `payee`."""

import hashlib
from dataclasses import replace

from protocols.channel.events import HtlcReceived
from protocols.errors import MisuseError
from protocols.facts import Facts
from protocols.payment import payee
from protocols.payment.desk import Desk
from protocols.payment.events import (
    HtlcRef,
    Promise,
    PromiseChanged,
    PromiseMade,
    PromisePhase,
    RequestRefused,
    StorePromise,
)
from protocols.units import AssetId
from protocols.wire.channel import FailureCode


class Taking:
    """One promise after the other; the preimage of each is released once."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def promised(self, made: PromiseMade, facts: Facts) -> None:
        ledger, reason = self._desk.ledger, ""
        if hashlib.sha256(made.preimage).digest() != made.payment_hash:
            raise MisuseError("a promise whose preimage is not of its hash")
        if made.payment_hash in ledger.promises or made.payment_hash in ledger.settled:
            reason = "There is a request with this hash already."
        elif ledger.is_live(made.payment_hash):
            reason = "A payment with this hash is passing through this node."
        elif made.amount.msat <= 0 or made.expiry <= facts.now:
            reason = "A request needs an amount above 0 and an expiry to come."
        elif ledger.waiting >= self._desk.config.max_promises:
            reason = f"{ledger.waiting} requests are waiting already; wait until some are paid or have expired."
        if reason:
            self._desk.out.append(RequestRefused(payment_hash=made.payment_hash, reason=reason))
            return
        self._keep(
            Promise(
                payment_hash=made.payment_hash,
                preimage=made.preimage,
                kind=made.kind,
                amount=made.amount,
                phase=PromisePhase.WAITING,
                created=facts.now,
                expiry=made.expiry,
                lock_blocks=made.lock_blocks,
                memo=made.memo,
            )
        )

    def _claim(self, promise: Promise, htlc: HtlcReceived, incoming: HtlcRef, facts: Facts) -> None:
        claimed = replace(promise, phase=PromisePhase.CLAIMED, received=htlc.amount, claimed_by=incoming)
        self._desk.out.append(StorePromise(promise=claimed))
        self._desk.ledger.keep_promise(claimed)
        self._desk.settle(incoming, promise.preimage, facts)
        self._desk.out.append(PromiseChanged(promise=claimed))

    def _keep(self, promise: Promise) -> None:
        self._desk.ledger.keep_promise(promise)
        self._desk.out += [StorePromise(promise=promise), PromiseChanged(promise=promise)]

    def received(
        self, promise: Promise, htlc: HtlcReceived, incoming: HtlcRef, asset: AssetId, facts: Facts
    ) -> FailureCode | None:
        """Claim an HTLC with a promised hash, or say why not."""
        policy = self._desk.config.forward
        code = payee.refuse_htlc(promise, htlc, asset, policy=policy, tip=facts.tip, now=facts.now)
        if code is None and not self._desk.book.may_hold(htlc.amount):
            code = FailureCode.NODE_BUSY
        if code is None:
            self._claim(promise, htlc, incoming, facts)
        return code

    def expire(self, facts: Facts) -> None:
        """End promises whose time is over."""
        for promise in self._desk.ledger.overdue_promises(facts.now - self._desk.config.forward.offer_grace):
            self._keep(replace(promise, phase=PromisePhase.EXPIRED))
