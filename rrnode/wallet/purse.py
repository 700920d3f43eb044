"""What the coins are worth: which are there, promised, ripe or spendable, and how much is kept back (DESIGN 6)."""

from collections.abc import Callable
from dataclasses import dataclass

from protocols.units import BlockHeight, Sat
from rrnode.wallet.holdings import Holdings
from rrnode.wallet.ledger import Coin, Ledger

SMALLEST_FEE_COIN = Sat(5_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Coins, satoshi.

    Attributes:
        confirmed: in the best chain, unspent and mature; the next two are part of it.
        set_aside: promised to channel openings and fees under way.
        reserve: kept to pay for closing channels, as far as it is there.
        pending: seen but not confirmed, our own change included.
        immature: block rewards that cannot be spent yet.
        spendable: what `send` could spend now, fee included.
    """

    confirmed: Sat
    set_aside: Sat
    reserve: Sat
    pending: Sat
    immature: Sat
    spendable: Sat


class Purse:
    """Reads the account book and the promises; the caller holds the wallet's lock.

    Attributes:
        reserve: what is kept back to pay for closing channels.
        fee_coins: how many separate coins that should be in.
    """

    def __init__(self, ledger: Ledger, held: Holdings, tip: Callable[[], BlockHeight]) -> None:
        self.ledger, self.held, self.tip = ledger, held, tip
        self.reserve, self.fee_coins = Sat(0), 0

    def balance(self) -> Balance:
        """What there is, and what of it can be spent."""
        confirmed = set_aside = pending = immature = spendable = 0
        for coin in self.ledger.coins():
            if coin.height is None:
                pending += coin.value
            elif not self.is_mature(coin):
                immature += coin.value
            else:
                confirmed += coin.value
                if coin.outpoint in self.held:
                    set_aside += coin.value
        spendable = sum(coin.value for coin in self.spendable())
        reserve = min(self.reserve, confirmed - set_aside)
        return Balance(
            confirmed=Sat(confirmed),
            set_aside=Sat(set_aside),
            reserve=Sat(reserve),
            pending=Sat(pending),
            immature=Sat(immature),
            spendable=Sat(max(0, spendable - self.reserve)),
        )

    def for_fees(self) -> list[Sat]:
        """Values of the coins that can pay for closing channels."""
        return [
            coin.value
            for coin in self.ledger.coins()
            if self.is_mature(coin) and not self.held.is_for_funding(coin.outpoint)
        ]

    def is_mature(self, coin: Coin) -> bool:
        """Whether it is in the best chain and, as a block reward, old enough."""
        return self.ledger.is_mature(coin, self.tip())

    def free_confirmed(self) -> list[Coin]:
        """Confirmed coins that are promised to nothing."""
        return [each for each in self.ledger.coins() if each.outpoint not in self.held and self.is_mature(each)]

    def spendable(self) -> list[Coin]:
        """These, and change of our own that is not confirmed yet."""
        ours = [
            coin
            for coin in self.ledger.coins()
            if coin.height is None and coin.outpoint not in self.held and self.ledger.trusts(coin)
        ]
        return self.free_confirmed() + ours
