"""What is live: payments, promises and forwards, found by hash and by HTLC, with the hashes that were ever settled (R11)."""

import heapq
from collections import OrderedDict

from protocols.ids import ChannelId, PaymentHash
from protocols.payment.events import Forward, HtlcRef, Payment, PayPhase, Promise, PromisePhase, Snapshot

_LIVE = frozenset({PayPhase.COLLECTING, PayPhase.LOCKED})


class Ledger:
    """Indexes over frozen records. The engine decides and stores; nothing here has an opinion.

    Args:
        history: how many ended payments, promises, and promises that came to nothing, are kept for readers; the last for
            themselves, as strangers make them and must not push out what was paid.

    Attributes:
        settled: hashes whose preimage was released by us or to us as payer. It only grows, by some 100 bytes for each
            payment that we ever made or took ourselves; what only passed through is not in it.
        settling: per channel, forwards whose incoming HTLC was settled and has not left the channel.
        paying: payments under way. waiting: promises not yet claimed or expired.
    """

    def __init__(self, snapshot: Snapshot, *, history: int) -> None:
        self._history = history
        self.payments: dict[PaymentHash, Payment] = {}
        self.promises: dict[PaymentHash, Promise] = {}
        self.forwards: dict[HtlcRef, Forward] = {}
        self.settled = set(snapshot.settled_hashes)
        self.settling: dict[ChannelId, dict[HtlcRef, None]] = {}
        self.paying = self.waiting = 0
        self._passing: dict[PaymentHash, HtlcRef] = {}
        self._owners: dict[HtlcRef, HtlcRef | PaymentHash] = {}
        self._ended_payments: OrderedDict[PaymentHash, None] = OrderedDict()
        self._ended_promises: OrderedDict[PaymentHash, None] = OrderedDict()
        self._unpaid: OrderedDict[PaymentHash, None] = OrderedDict()
        self._due: list[tuple[int, bytes]] = []  # promises by expiry
        self._due_payments: list[tuple[int, bytes]] = []
        for payment in snapshot.payments:
            self.keep_payment(payment)
        for promise in snapshot.promises:
            self.keep_promise(promise)
        for forward in snapshot.forwards:
            self.keep_forward(forward)

    def is_live(self, payment_hash: PaymentHash) -> bool:
        """Whether an HTLC with this hash passes through here, or we are paying with it (R11)."""
        payment = self.payments.get(payment_hash)
        return payment_hash in self._passing or (payment is not None and payment.phase in _LIVE)

    # --- payments ---------------------------------------------------------------------------------------------------

    def keep_payment(self, payment: Payment) -> None:
        """Put a payment in, or its newer state."""
        payment_hash, before = payment.payment_hash, self.payments.get(payment.payment_hash)
        was_live = before is not None and before.phase in _LIVE
        if before is not None and not was_live and payment.phase in _LIVE:
            del self.payments[payment_hash]  # tried again: the newest stands last
            self._ended_payments.pop(payment_hash, None)
        self.payments[payment_hash] = payment
        self.paying += (payment.phase in _LIVE) - was_live
        if payment.phase in _LIVE:
            if not was_live:
                heapq.heappush(self._due_payments, (payment.expiry, payment_hash))
            if payment.phase is PayPhase.LOCKED and payment.attempts:
                last = payment.attempts[-1]
                if last.htlc_id is not None and last.failure is None:
                    self._owners[HtlcRef(channel_id=last.channel_id, htlc_id=last.htlc_id)] = payment_hash
            return
        if payment.phase is PayPhase.PAID:
            self.settled.add(payment_hash)
        self._ended_payments[payment_hash] = None
        while len(self._ended_payments) > self._history:
            del self.payments[self._ended_payments.popitem(last=False)[0]]

    def overdue_payments(self, now: int) -> list[Payment]:
        """Payments that expired before `now` with nothing locked; each is given once."""
        overdue: list[Payment] = []
        while self._due_payments and self._due_payments[0][0] < now:
            payment = self.payments.get(PaymentHash(heapq.heappop(self._due_payments)[1]))
            if payment is not None and payment.phase is PayPhase.COLLECTING and payment.expiry < now:
                overdue.append(payment)
        return overdue

    # --- promises ---------------------------------------------------------------------------------------------------

    def keep_promise(self, promise: Promise) -> None:
        """Put a promise in, or its newer state."""
        payment_hash, before = promise.payment_hash, self.promises.get(promise.payment_hash)
        waits, waited = (
            promise.phase is PromisePhase.WAITING,
            before is not None and before.phase is PromisePhase.WAITING,
        )
        self.promises[payment_hash] = promise
        self.waiting += waits - waited
        if waits:
            if not waited:
                heapq.heappush(self._due, (promise.expiry, payment_hash))
            return
        if promise.phase is PromisePhase.CLAIMED:
            self.settled.add(payment_hash)
        ended = self._unpaid if promise.came_to_nothing else self._ended_promises
        ended[payment_hash] = None
        while len(ended) > self._history:
            del self.promises[ended.popitem(last=False)[0]]

    def overdue_promises(self, now: int) -> list[Promise]:
        """Promises that expired before `now` unclaimed; each is given once."""
        overdue: list[Promise] = []
        while self._due and self._due[0][0] < now:
            promise = self.promises.get(PaymentHash(heapq.heappop(self._due)[1]))
            if promise is not None and promise.phase is PromisePhase.WAITING:
                overdue.append(promise)
        return overdue

    # --- forwards ---------------------------------------------------------------------------------------------------

    def keep_forward(self, forward: Forward) -> None:
        """Put a forward in, or its newer state."""
        incoming = forward.incoming
        self.forwards[incoming] = forward
        self._passing[forward.payment_hash] = incoming
        if forward.preimage is not None:
            self.settling.setdefault(incoming.channel_id, {})[incoming] = None
        elif forward.outgoing is not None:
            self._owners[forward.outgoing] = incoming

    def drop_forward(self, forward: Forward) -> None:
        """Forget one that has ended."""
        incoming = forward.incoming
        del self.forwards[incoming]
        if self._passing.get(forward.payment_hash) == incoming:
            del self._passing[forward.payment_hash]
        if here := self.settling.get(incoming.channel_id):
            here.pop(incoming, None)
            if not here:
                del self.settling[incoming.channel_id]

    def settled_on(self, channel_id: ChannelId) -> list[Forward]:
        """Forwards settled upstream over this channel that have not ended."""
        return [self.forwards[incoming] for incoming in self.settling.get(channel_id, ())]

    # --- HTLCs of ours ----------------------------------------------------------------------------------------------

    def owner_of(self, outgoing: HtlcRef) -> Payment | Forward | None:
        """What a live HTLC of ours was offered for."""
        owner = self._owners.get(outgoing)
        if owner is None:
            return None
        return self.forwards.get(owner) if isinstance(owner, HtlcRef) else self.payments.get(owner)

    def release(self, outgoing: HtlcRef) -> None:
        """It has ended."""
        self._owners.pop(outgoing, None)
