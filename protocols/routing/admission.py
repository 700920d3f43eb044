"""What is let in: a budget per neighbour that its completed payments raise, and the rules one offer must keep.

Source: THEORY, "watching thy neighbour"; R5, R7, R8. All numbers are integers, so a replay finds the same ones.
"""

from protocols.routing.config import BudgetConfig, RoutingConfig
from protocols.routing.views import Drop
from protocols.units import UnixTime
from protocols.wire.routing import RoutingMessage

_CREDIT = 1 << 16  # one completed payment; halves sixteen times before it is nothing


class Record:
    """What one neighbour has done for us, and what that allows it.

    A payment that failed takes back what one that was made gave, never below nothing: most offers end in no payment,
    and the floor stays.
    """

    __slots__ = ("_at", "_budget", "_credit", "_requests", "_since", "_tokens", "failed", "paid", "received", "taken")

    def __init__(self, config: BudgetConfig, now: UnixTime) -> None:
        self._budget = config
        self._credit = 0
        self._since = now  # when the credit was last halved
        self._at = now  # when the tokens were last filled up
        self._tokens = config.floor * config.burst_seconds
        self._requests = config.requests * config.burst_seconds
        self.paid = 0
        self.failed = 0
        self.received = 0
        self.taken = 0

    def ended(self, paid: bool, now: UnixTime) -> None:
        """An HTLC over one of the neighbour's offers ended."""
        self._decay(now)
        if paid:
            self.paid += 1
            self._credit += _CREDIT
        else:
            self.failed += 1
            self._credit = max(0, self._credit - _CREDIT)

    def rate(self, now: UnixTime) -> int:
        """Offers a second that the record allows; never below the floor."""
        self._decay(now)
        config = self._budget
        return min(config.most, config.floor + config.per_payment * self._credit // _CREDIT)

    def spend(self, offers: int, now: UnixTime) -> int:
        """Ask to send so many offers; how many of them are allowed. The rest are cut before any state is made."""
        self._fill(now)
        self.received += offers
        allowed = min(offers, self._tokens)
        self._tokens -= allowed
        return allowed

    def spend_request(self, now: UnixTime) -> bool:
        """Ask to make one subscription request."""
        self._fill(now)
        if self._requests == 0:
            return False
        self._requests -= 1
        return True

    def _fill(self, now: UnixTime) -> None:
        passed = now - self._at
        if passed > 0:  # a clock that went back fills nothing
            config = self._budget
            rate = self.rate(now)
            self._tokens = min(rate * config.burst_seconds, self._tokens + rate * passed)
            self._requests = min(config.requests * config.burst_seconds, self._requests + config.requests * passed)
        self._at = now

    def _decay(self, now: UnixTime) -> None:
        halvings = (now - self._since) // self._budget.half_life
        if halvings > 0:
            self._credit >>= min(halvings, 64)
            self._since = UnixTime(self._since + halvings * self._budget.half_life)


def refusal(message: RoutingMessage, config: RoutingConfig, now: UnixTime) -> Drop | None:
    """Why this offer would be refused whoever made it, or None."""
    if message.expiry + config.clock_skew < now:
        return Drop.EXPIRED
    if message.lock_blocks > config.max_lock_blocks:
        return Drop.LOCK_TOO_LONG
    if message.amount_msat > message.ceiling_msat and message.asset == message.ceiling_asset:
        return Drop.ABOVE_CEILING
    if message.amount_msat == 0:
        return Drop.ZERO
    return None
