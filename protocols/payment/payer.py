"""The payer: how long to collect offers, which one to lock, what to say when nothing works (R5, R8, R9; THEORY, step 5).

Pure functions and values over what `protocols.payment.engine` and the runtime know; neither clock nor channel is here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from protocols.channel.events import Refusal
from protocols.payment.config import EngineConfig
from protocols.payment.draw import draw
from protocols.payment.events import Kind, Payment, PayRequested
from protocols.routing.events import KeptOffer
from protocols.units import MAX_MSAT, MSAT_PER_SAT, PPM, Amount, BlockDelta, Msat, UnixTime
from protocols.wire.channel import FailureCode


def in_words(amount: Msat) -> str:
    """An exact amount for people: `1,234.5 sat`."""
    whole, rest = divmod(amount, MSAT_PER_SAT)
    return f"{whole:,}" + (f".{rest:03d}".rstrip("0") if rest else "") + " sat"


# --- when to stop waiting (R9) --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitPolicy:
    """When the payer is satisfied. Times in milliseconds.

    Attributes:
        quiet: lock when nothing better came for so long.
        maximum: lock, or give up, after so long.
        good_enough: lock at once when the fees are at most this, parts per million of the amount. 0: when they are 0.
    """

    quiet: int = 700
    maximum: int = 10_000
    good_enough: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """Stop waiting and lock the best offer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Stop waiting: there is nothing to lock. `reason` is a sentence for the user."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitUntil:
    """Ask again at this time, or when an offer comes."""

    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """The offers for one payment as they come in; times are milliseconds of any steady clock.

    Attributes:
        seen: offers that came.
        best: the cheapest that we would pay.
        too_dear: the cheapest above the ceiling.
        improved: when `best` became what it is.
    """

    amount: Amount
    ceiling: Amount
    policy: WaitPolicy
    started: int
    seen: int = 0
    best: Amount | None = None
    too_dear: Amount | None = None
    improved: int = 0

    def offer(self, amount: Amount, now: int) -> "Collection":
        """The collection with one more offer, which asks for `amount`. Other assets than the ceiling's cannot be paid."""
        seen = self.seen + 1
        if amount.asset != self.ceiling.asset:
            return replace(self, seen=seen)
        if amount > self.ceiling:
            dearest = amount if self.too_dear is None or amount < self.too_dear else self.too_dear
            return replace(self, seen=seen, too_dear=dearest)
        if self.best is None or amount < self.best:
            return replace(self, seen=seen, best=amount, improved=now)
        return replace(self, seen=seen)

    def decide(self, now: int) -> Lock | GiveUp | WaitUntil:
        """Whether to go on waiting."""
        end = self.started + self.policy.maximum
        if self.best is None:
            return WaitUntil(at=end) if now < end else GiveUp(reason=self._nothing())
        quiet = self.improved + self.policy.quiet
        if self._good_enough(self.best) or now >= min(quiet, end):
            return Lock()
        return WaitUntil(at=min(quiet, end))

    def words(self, now: int) -> str:
        """What is being waited for, for people."""
        left = max(0, self.started + self.policy.maximum - now)
        if self.best is None:
            asks = f"; the cheapest asks {in_words(self.too_dear.msat)}, above the ceiling" if self.too_dear else ""
            return f"waiting for an offer, at most {left / 1000:.1f} s more{asks}"
        quiet = max(0, min(self.improved + self.policy.quiet - now, left))
        return f"best {in_words(self.best.msat)} of {self.seen}; waiting {quiet / 1000:.1f} s for a cheaper one"

    def _good_enough(self, best: Amount) -> bool:
        if best.asset != self.amount.asset:
            return False
        return (best.msat - self.amount.msat) * PPM <= self.amount.msat * self.policy.good_enough

    def _nothing(self) -> str:
        if self.too_dear is not None:
            return above_ceiling(self.too_dear, self.ceiling)
        if self.seen:
            return "All offers were in a coin that this node has no channel in."
        return no_offer(self.amount)


# --- ceiling (R8) ---------------------------------------------------------------------------------------------------


def published_ceiling(ceiling: Amount, amount: Amount, entropy: bytes) -> Amount:
    """The ceiling that the payee is told: ours with a random margin on top, so that it neither is the starting amount nor
    shows what we would pay."""
    room = ceiling.msat - amount.msat if ceiling.asset == amount.asset else 0
    span = max(room, ceiling.msat // 50, MSAT_PER_SAT)
    return Amount(Msat(min(MAX_MSAT, ceiling.msat + 1 + draw(entropy, b"ceiling", span))), ceiling.asset)


# --- which offer to lock --------------------------------------------------------------------------------------------


def slack(config: EngineConfig, entropy: bytes, label: bytes) -> BlockDelta:
    """Blocks added to what an offer, or a payee, needs: at least `config.slack`, and random (R5)."""
    return BlockDelta(config.slack + draw(entropy, b"slack" + label, config.slack_span))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the payer may lock, cheapest first, each with the blocks its HTLC shall live; and why the rest is left out."""

    offers: tuple[tuple[KeptOffer, BlockDelta], ...]
    too_dear: Amount | None = None
    too_long: int = 0
    tried: int = 0


def choose(
    payment: Payment, offers: Sequence[KeptOffer], *, config: EngineConfig, now: UnixTime, entropy: bytes
) -> Choice:
    """Offers that stand, fit the ceiling and the longest lock, and were not tried at this price before."""
    tried = {(attempt.neighbour, attempt.amount) for attempt in payment.attempts}
    fitting: list[tuple[KeptOffer, BlockDelta]] = []
    too_dear: Amount | None = None
    too_long = again = 0
    blocks = slack(config, entropy, payment.payment_hash)
    for offer in offers:
        if offer.expiry < now or offer.amount.asset != payment.ceiling.asset:
            continue
        if offer.amount > payment.ceiling:
            too_dear = offer.amount if too_dear is None or offer.amount < too_dear else too_dear
        elif offer.lock_blocks + config.slack > config.forward.max_lock:
            too_long += 1
        elif (offer.neighbour, offer.amount.msat) in tried:
            again += 1
        else:
            fitting.append((offer, BlockDelta(min(offer.lock_blocks + blocks, config.forward.max_lock))))
    fitting.sort(key=lambda pair: (pair[0].amount.msat, pair[0].lock_blocks))  # stable: then first seen (R4)
    return Choice(offers=tuple(fitting), too_dear=too_dear, too_long=too_long, tried=again)


# --- what to say ----------------------------------------------------------------------------------------------------


def no_offer(amount: Amount) -> str:
    """Nobody offered to bring the payment on."""
    return (
        f"No offer came: no chain of channels can carry {in_words(amount.msat)} to the payee now, or the payee is away. "
        "Try a smaller amount, or try again later."
    )


def above_ceiling(asked: Amount, ceiling: Amount) -> str:
    """Offers came, but all too dear."""
    return (
        f"The cheapest offer asks {in_words(asked.msat)}, the most to be paid is {in_words(ceiling.msat)}. "
        "Allow a higher fee, or try again later."
    )


def expired(payment: Payment) -> str:
    """Time ran out while nothing was locked."""
    tried = f" after {len(payment.attempts)} attempts that came back" if payment.attempts else ""
    return f"The payment expired{tried} before anything could be locked. Nothing was paid; ask for a new request."


def why_nothing(payment: Payment, choice: Choice, refused: Sequence[Refusal]) -> str:
    """The sentence for a payment that ends because nothing can be locked (any more)."""
    failures = [attempt.failure for attempt in payment.attempts if attempt.failure is not None]
    if failures:
        times = "once" if len(failures) == 1 else f"{len(failures)} times"
        return (
            f"The payment was tried {times} and came back (last: {failure_words(failures[-1])}); no other offer stands. "
            "Nothing was paid. Try again later."
        )
    if refused:
        return could_not_lock(refused[-1])
    if choice.too_dear is not None:
        return above_ceiling(choice.too_dear, payment.ceiling)
    if choice.too_long:
        return "Every offer would lock the money for longer than this node allows. Raise locks.max_lock, or try later."
    return (
        "What was offered no longer stands: it expired, was withdrawn, or the link to the neighbour that made it was lost. "
        "Nothing was paid. Try again."
    )


def could_not_lock(refusal: Refusal) -> str:
    """The sentence for an offer that no channel of ours takes."""
    return f"An offer came, but it could not be locked: {refusal.value}. Nothing was paid. Try again later."


def failure_words(code: FailureCode) -> str:
    """A failure code for people."""
    return _FAILURES[code]


_FAILURES = {
    FailureCode.UNKNOWN_HASH: "the neighbour no longer knew the offer",
    FailureCode.AMOUNT_TOO_LOW: "the amount was below what was asked",
    FailureCode.EXPIRY_TOO_SOON: "too few blocks were left",
    FailureCode.EXPIRY_TOO_FAR: "the lock would have been too long",
    FailureCode.DUPLICATE_HASH: "a payment with this hash was on its way already",
    FailureCode.DOWNSTREAM_FAILED: "a channel further on could not carry it",
    FailureCode.OFFER_EXPIRED: "the offer had expired",
    FailureCode.NODE_BUSY: "a node was busy",
    FailureCode.CHANNEL_CLOSING: "a channel is closing",
    FailureCode.TIMED_OUT: "it was not claimed in time",
    FailureCode.ALREADY_PAID: "the payee has been paid already",
    FailureCode.INTERNAL: "a node failed",
}


# --- may this be paid at all ----------------------------------------------------------------------------------------


def objection(order: PayRequested, *, now: UnixTime) -> str:
    """Why an order cannot be right, whatever our channels hold: a sentence, or "" when it can."""
    if order.kind is Kind.PUSH and order.preimage is None:
        return "A push payment needs its secret."
    if order.amount.msat <= 0:
        return "The amount must be above 0."
    if order.expiry <= now:
        return "The request has expired; ask the payee for a new one."
    if order.amount.asset == order.ceiling.asset and order.ceiling < order.amount:
        return f"The most to be paid ({in_words(order.ceiling.msat)}) is below the amount itself."
    return ""


def too_much(amount: Msat, *, most: Msat, usable: Sequence[bool]) -> str:
    """Why our channels cannot carry an amount: a sentence, or "".

    Args:
        most: the largest HTLC that any channel could offer now.
        usable: of each channel that is open at all, whether its neighbour is there.
    """
    if amount <= most:
        return ""
    if not usable:
        return "This node has no open channel to pay from; open one with: rrnode channel open"
    if not any(usable):
        return "No neighbour that this node has a channel with is connected now; see: rrnode peers"
    return (
        f"The largest payment that a channel of this node can carry now is {in_words(most)}; pay less, or open another."
    )
