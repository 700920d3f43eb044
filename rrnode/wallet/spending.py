"""Building our own transactions: what they pay, what comes back, and that the reserve stays (DESIGN 6)."""

from protocols.units import MAX_SAT, FeeRate, Sat
from rrnode.errors import UserError
from rrnode.wallet.building import Builder, Built
from rrnode.wallet.ledger import Coin, Entry
from rrnode.wallet.purse import SMALLEST_FEE_COIN, Purse
from rrnode.wallet.scripts import Place, Scripts

DUST = Sat(546)
MAX_SPLIT = 4  # additional change outputs of one transaction, 31 vbytes each


class Spending:
    """Chooses among what can be spent; the caller holds the wallet's lock."""

    def __init__(self, builder: Builder, scripts: Scripts, purse: Purse) -> None:
        self._builder, self._scripts, self._purse = builder, scripts, purse

    def build(self, pay: list[tuple[bytes, Sat]], rest: bytes | None, feerate: FeeRate, *, keep: Sat) -> Built:
        """Pay, with change to us; or everything to `rest`. `keep` stays with us in any case."""
        coins = self._purse.spendable()
        available = sum(coin.value for coin in coins)
        asked = sum(value for _, value in pay)
        for _, value in pay:
            if not 0 < value <= MAX_SAT:
                raise UserError(f"{value} sat is no amount that can be sent")
        if keep > 0 and asked + keep > available:
            raise self._kept(available, keep)
        first = self._scripts.next(change=True)
        mine = [self._scripts.script(Place(True, first + place)) for place in range(1 + MAX_SPLIT)]
        extra = self._split(Sat(available - asked)) if rest is None else [keep] if keep >= DUST else []
        while True:
            outputs = [*pay, *zip(mine[1:], extra, strict=False)]
            try:
                built = self._builder.build(
                    coins=[(coin, self._entry_of(coin)) for coin in coins],
                    pay=outputs,
                    rest=mine[0] if rest is None else rest,
                    everything=rest is not None,
                    feerate=feerate,
                    tip=self._purse.tip(),
                )
                break
            except UserError:
                if rest is not None or not extra:
                    raise
                extra = []  # splitting the change is a nicety
        back = sum(output.value for output in built.tx.outputs if output.script in mine)
        if available - sum(self._coin(point).value for point in built.spent) + back < keep:
            raise self._kept(available, keep)
        if rest is not None and not any(output.script == rest for output in built.tx.outputs):
            raise UserError("nothing would be left to send after the fee")
        for _ in range(1 + len(extra)):
            self._scripts.give_out(change=True)
        return built

    @staticmethod
    def _kept(available: int, keep: Sat) -> UserError:
        return UserError(
            f"{max(0, available - keep)} sat can be spent now, fee included: "
            f"{keep} sat are kept to pay for closing channels"
        )

    def _split(self, left: Sat) -> list[Sat]:
        """Values of additional change outputs, so that the fee reserve comes to be in as many coins as it should be."""
        if self._purse.fee_coins == 0:
            return []
        size = max(Sat(self._purse.reserve // self._purse.fee_coins), SMALLEST_FEE_COIN)
        there = sum(coin.value >= size for coin in self._purse.free_confirmed())
        missing = self._purse.fee_coins - there + 1  # the coin spent now is one of those
        wanted = min(missing, MAX_SPLIT, left // (2 * size))
        return [size] * max(0, wanted)

    def _coin(self, point: bytes) -> Coin:
        coin = self._purse.ledger.coin(point)
        assert coin is not None
        return coin

    def _entry_of(self, coin: Coin) -> Entry:
        entry = self._purse.ledger.entry(coin.txid)
        assert entry is not None
        return entry
