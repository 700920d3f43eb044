"""The payee: whose initialization to act on, which HTLC to claim (R5, R8, R11, R14; THEORY, steps 1 and 2)."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

from protocols.channel.events import HtlcReceived
from protocols.errors import MisuseError
from protocols.ids import PaymentHash, Preimage
from protocols.payment.config import EngineConfig
from protocols.payment.draw import draw
from protocols.payment.events import ForwardPolicy, Kind, Promise, PromiseMade, PromisePhase
from protocols.payment.initialization import Initialization
from protocols.payment.payer import in_words, slack
from protocols.routing.events import FloodRequested
from protocols.units import Amount, AssetId, BlockDelta, BlockHeight, UnixTime
from protocols.wire.channel import FailureCode
from protocols.wire.init import DeliveryCode

# --- HTLCs ----------------------------------------------------------------------------------------------------------


def refuse_htlc(
    promise: Promise, htlc: HtlcReceived, asset: AssetId, *, policy: ForwardPolicy, tip: BlockHeight, now: UnixTime
) -> FailureCode | None:
    """Why an HTLC that carries a promised hash is not claimed; None: claim it.

    Args:
        asset: what the HTLC is of.
    """
    if promise.phase is PromisePhase.CLAIMED:
        return (
            FailureCode.ALREADY_PAID
        )  # once only, or whoever learned the secret on the way takes the second one (R11)
    if promise.phase is PromisePhase.EXPIRED or promise.expiry + policy.offer_grace < now:
        return FailureCode.OFFER_EXPIRED
    if asset != promise.amount.asset:
        return FailureCode.UNKNOWN_HASH
    if htlc.amount < promise.amount.msat:
        return FailureCode.AMOUNT_TOO_LOW
    if htlc.expiry < tip + policy.final_lock:
        return FailureCode.EXPIRY_TOO_SOON
    return None


# --- initializations ------------------------------------------------------------------------------------------------

LONGEST_WAIT = 15 * 86_400  # seconds that an initialization may live: a fortnight in a mailbox, and clocks that differ
LONGEST_PROMISE = 3600  # seconds that we wait for its payment once we ask for offers, so that promises do not pile up


class Judgement(Enum):
    """What to do with an initialization that was opened."""

    FLOOD = "ask the network for offers"
    REPEATED = "its nonce was seen: it was acted on already"
    REFUSED = "it will not be acted on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """When refused, `code` (one of `DeliveryCode`) and `reason`, a sentence, are for the payer."""

    judgement: Judgement
    code: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPolicy:
    """What strangers' initializations may cost (R14): each is a flood, which spends our record with our neighbours.

    Attributes:
        per_sender: initializations from one sender per `window` seconds.
        total: from all together per `window`.
        window: seconds.
        nonces: remembered; at least what `total` lets through while we wait for a payment. One that is repeated after
            that, and was never paid, is one more.
        senders: remembered; more are treated as one.
    """

    per_sender: int = 10
    total: int = 120
    window: int = 60
    nonces: int = 10_000
    senders: int = 1_000


class Budget:
    """Counts strangers' initializations. Soft state: lost at a restart, where a repeated nonce costs one more flood."""

    def __init__(self, policy: BudgetPolicy | None = None) -> None:
        self.policy = policy or BudgetPolicy()
        self._nonces: OrderedDict[bytes, UnixTime] = OrderedDict()
        self._spent: OrderedDict[bytes, list[UnixTime]] = OrderedDict()
        self._all: list[UnixTime] = []

    def admit(self, nonce: bytes, sender: bytes, now: UnixTime) -> Verdict:
        """Whether one more may be acted on, and count it if so.

        Args:
            nonce: 16 bytes.
            sender: whatever tells senders apart: an address, or the server that handed it down.
        """
        if nonce in self._nonces:
            return Verdict(judgement=Judgement.REPEATED)
        since = now - self.policy.window
        self._all = [at for at in self._all if at > since]
        spent = [at for at in self._spent.pop(sender, []) if at > since]
        if spent:
            self._spent[sender] = spent
        if len(spent) >= self.policy.per_sender:
            return _refused("this sender has sent too many initializations; wait a minute", DeliveryCode.TOO_MANY)
        if len(self._all) >= self.policy.total:
            return _refused("the payee is asked for too many payments at once; wait a minute", DeliveryCode.TOO_MANY)
        self._all.append(now)
        self._nonces[nonce] = now
        self._spent[sender] = [*spent, now]
        while len(self._nonces) > self.policy.nonces:
            self._nonces.popitem(last=False)
        while len(self._spent) > self.policy.senders:
            self._spent.popitem(last=False)
        return Verdict(judgement=Judgement.FLOOD)

    def forget(self, nonce: bytes) -> None:
        """It was not acted on after all: when it comes again it is no repeat."""
        self._nonces.pop(nonce, None)


def hash_of(init: Initialization) -> PaymentHash:
    """The hash that an initialization is about."""
    if init.kind is Kind.REQUEST:
        return PaymentHash(init.secret)
    return PaymentHash(hashlib.sha256(init.secret).digest())


def judge(init: Initialization, promise: Promise | None, *, asset: AssetId, most: int, now: UnixTime) -> Verdict:
    """Whether an initialization is one that we could be paid by; ask `Budget.admit` afterwards.

    Args:
        promise: what we hold for its hash (`hash_of`), if anything.
        asset: our coin.
        most: the largest HTLC that any neighbour could offer us now, millisatoshi.
    """
    if init.expiry <= now:
        return _refused("the payment has expired")
    if init.expiry > now + LONGEST_WAIT:
        return _refused(f"the payment would wait longer than {LONGEST_WAIT // 86_400} days")
    if init.amount.asset != asset:
        return _refused("the payee takes another coin")
    if init.kind is Kind.REQUEST:
        if promise is None or promise.kind is not Kind.REQUEST:
            return _refused("the payee knows no such request")
        if init.amount != promise.amount:
            return _refused("the amount is not the request's")
    elif promise is not None and (promise.kind is not Kind.PUSH or init.amount != promise.amount):
        return _refused("the payee waits for another payment with this secret")
    if promise is not None:
        if promise.phase is PromisePhase.CLAIMED:
            return _refused("this payment has been made already")
        if promise.phase is PromisePhase.EXPIRED or promise.expiry <= now:
            return _refused("the request has expired")
    if init.amount.msat > most:
        return _refused(f"no channel of the payee can take {in_words(init.amount.msat)} now", DeliveryCode.TOO_LARGE)
    return Verdict(judgement=Judgement.FLOOD)


def lock_blocks(config: EngineConfig, entropy: bytes) -> BlockDelta:
    """What our offers ask the last HTLC to live: our own need, and a random slack (R5)."""
    return BlockDelta(config.forward.final_lock + slack(config, entropy, b"payee"))


def promise_of(init: Initialization, *, config: EngineConfig, entropy: bytes, now: UnixTime) -> PromiseMade:
    """The promise that a *push* initialization asks for, unless there is one already; its secret is the preimage.

    It ends with the initialization, but not later than `LONGEST_PROMISE` from now, whatever that says.
    """
    if init.kind is not Kind.PUSH:
        raise MisuseError("the promise for a request was made with the request")
    return PromiseMade(
        payment_hash=hash_of(init),
        preimage=Preimage(init.secret),
        kind=Kind.PUSH,
        amount=init.amount,
        expiry=UnixTime(min(init.expiry, now + LONGEST_PROMISE)),
        lock_blocks=lock_blocks(config, entropy),
        memo=init.memo,
    )


def flood_of(
    promise: Promise | PromiseMade,
    ceiling: Amount,
    expiry: UnixTime,
    *,
    entropy: bytes,
    now: UnixTime,
    least_hops: int = 8,
) -> FloodRequested:
    """The first routing message for a promise: the hop budget starts at a random value (R8).

    Args:
        ceiling: the payer's, as it was told to us, its random margin included.
        expiry: of the initialization; the offers end with it or with the promise.
    """
    return FloodRequested(
        payment_hash=promise.payment_hash,
        amount=promise.amount,
        lock_blocks=promise.lock_blocks,
        hops=least_hops + draw(entropy, b"hops" + promise.payment_hash, 5),
        ceiling=ceiling,
        expiry=min(expiry, promise.expiry),
        now=now,
    )


def _refused(reason: str, code: int = DeliveryCode.REFUSED) -> Verdict:
    return Verdict(judgement=Judgement.REFUSED, code=code, reason=reason)
