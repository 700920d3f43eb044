"""What every publication needs: outputs looked up, coins set aside and given back, signatures, and the last gate to the network.

Nothing of it is remembered that could be lost: coins set aside are the wallet's to keep, everything else is asked anew.
"""

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

import structlog

from protocols.channel.events import Publish, PublishWithChild, PublishWithInputs, Purpose
from protocols.ids import Txid
from protocols.units import FeeRate, Sat
from rrnode.chain import bumping
from rrnode.chain.base import ChainBackend, Verdict
from rrnode.chain.bumping import Unsigned
from rrnode.chain.fees import UNHURRIED, FeeCoin, FeePolicy, FeeWallet
from rrnode.chain.parse import Tx, outpoint, parse_transaction
from rrnode.chain.verify import check_transaction

Order = Publish | PublishWithChild | PublishWithInputs
Coins = tuple[FeeCoin, ...]

RELEASE_AFTER = 3  # blocks on top of the spend before a purpose's coins are free again

# Words that mean "not now" or "somebody was faster or pays more": the next block brings the order again.
_BENIGN = (
    "non-final",
    "non-BIP68-final",
    "insufficient fee",
    "replacement-failed",
    "package RBF failed",
    "bad-txns-inputs-missingorspent",
    "bad-txns-spends-conflicting-tx",
    "txn-mempool-conflict",
)

log = structlog.get_logger("rrnode.chain")


@dataclass(frozen=True, slots=True)
class OwnSpend:
    """A transaction of ours that is in the mempool: what it pays, takes and spends (outpoints; values and scripts)."""

    raw: bytes
    fee: Sat
    vbytes: int
    prevouts: frozenset[bytes]
    spent: tuple[tuple[Sat, bytes], ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """How an output stands: unspent, spent in the mempool (by whom), or spent in a block (or never there)."""

    unspent: bool
    spender: Txid | None

    @property
    def is_over(self) -> bool:
        return not self.unspent and self.spender is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a transaction needs of the wallet.

    Attributes:
        purpose: what the coins are set aside for.
        size: virtual bytes with so many coins.
        extra: what the coins must hold beyond the fee.
        idle: other purposes, whose coins nobody uses now; before fresh ones are set aside.
        lenders: other purposes that can wait; when nothing else is left.
        taken: outpoints of coins that are not to be had.
        fresh: whether further coins may be set aside for it.
    """

    purpose: bytes
    size: Callable[[int], int]
    rate: FeeRate
    stake: Sat
    extra: Sat = Sat(0)
    idle: tuple[bytes, ...] = ()
    lenders: tuple[bytes, ...] = ()
    taken: Set[bytes] = frozenset()
    fresh: bool = True


class Outgoing:
    """The way out for transactions of ours."""

    def __init__(self, backend: ChainBackend, wallet: FeeWallet, policy: FeePolicy) -> None:
        self.backend, self.policy = backend, policy
        self._wallet = wallet
        self._ended: dict[bytes, int] = {}  # purposes that a block has ended, with the tip when that was seen

    # --- how things stand ---------------------------------------------------------------------------------------------

    async def output(self, place: bytes) -> tuple[Sat, bytes] | None:
        """Value and script of an output that the chain has unspent or the mempool makes."""
        txid, index = split(place)
        state = await self.backend.confirmed_output(txid, index)
        if state is not None:
            return state.value, state.script
        raw = await self.backend.mempool_transaction(txid)
        if raw is None:
            return None
        outputs = parse_transaction(raw).outputs
        return (outputs[index].value, outputs[index].script) if index < len(outputs) else None

    async def standing(self, place: bytes) -> Standing:
        """How an output stands now."""
        if await self.backend.unspent(*split(place)) is not None:
            return Standing(True, None)
        return Standing(False, (await self.backend.mempool_spenders([place])).get(place))

    async def own_spends(self, places: Iterable[bytes], purposes: Iterable[bytes]) -> dict[Txid, OwnSpend]:
        """Transactions in the mempool that spend any of these outputs and are ours: each has a coin of these purposes."""
        spenders = set((await self.backend.mempool_spenders(list(places))).values())
        if not spenders:
            return {}
        held = set()
        for purpose in purposes:
            held |= {outpoint(coin.txid, coin.index) for coin in await self.held(purpose)}
        found = {}
        for txid, raw in (await self.backend.mempool_transactions(list(spenders))).items():
            tx = parse_transaction(raw)
            spent = await self._spent_by(tx)
            if held.isdisjoint(tx.prevouts) or spent is None:
                continue
            if self.backend.is_hearsay and check_transaction(raw, spent) is not None:
                continue  # who tells of it has changed its witnesses: nobody would take it
            fee = sum(value for value, _ in spent) - sum(each.value for each in tx.outputs)
            found[txid] = OwnSpend(raw, Sat(fee), tx.vsize, frozenset(tx.prevouts), spent)
        return found

    async def _spent_by(self, tx: Tx) -> tuple[tuple[Sat, bytes], ...] | None:
        """Value and script of everything it spends, None when one of them is not known."""
        spent = []
        for place in tx.prevouts:
            output = await self.output(place)
            if output is None:
                return None
            spent.append(output)
        return tuple(spent)

    async def estimate(self, blocks_left: int, *, within: int = UNHURRIED) -> FeeRate:
        """The feerate to confirm well before a deadline, or within so many blocks, whichever is sooner."""
        return await self.backend.feerate(self.policy.blocks_to_ask_for(blocks_left, within))

    async def rate(self, blocks_left: int, *, within: int = UNHURRIED) -> FeeRate:
        """What to pay with so many blocks left."""
        return self.policy.feerate(await self.estimate(blocks_left, within=within), blocks_left)

    # --- coins --------------------------------------------------------------------------------------------------------

    async def held(self, purpose: bytes) -> Coins:
        """What is set aside for this purpose already."""
        return await self._wallet.reserve_coins(purpose, Sat(0))

    async def coins(self, purpose: bytes, at_least: Sat) -> Coins:
        """See `FeeWallet.reserve_coins`."""
        self._ended.pop(purpose, None)
        return await self._wallet.reserve_coins(purpose, at_least)

    async def purposes(self) -> frozenset[bytes]:
        """What coins are set aside for."""
        return frozenset(await self._wallet.fee_purposes())

    async def release(self, purpose: bytes) -> None:
        """See `FeeWallet.release_coins`."""
        await self._wallet.release_coins(purpose)

    async def fee_and_coins(self, need: "Need") -> tuple[Sat, Coins]:
        """The fee to pay and coins for it, as far as there are any; more coins make a transaction larger, and so dearer."""
        chosen: list[FeeCoin] = []

        def best() -> list[FeeCoin]:
            # Only so many fit: small ones, set aside when little was asked for, must not keep a large one out.
            return sorted(chosen, key=lambda coin: -coin.value)[: bumping.MAX_COINS]

        def short() -> int:
            coins = best()
            return self.fee(need, max(1, len(coins))) + need.extra - sum(coin.value for coin in coins)

        def choose(coins: Iterable[FeeCoin]) -> bool:
            before = len(chosen)
            for coin in coins:
                if short() > 0 and coin not in chosen and outpoint(coin.txid, coin.index) not in need.taken:
                    chosen.append(coin)
            return len(chosen) > before

        own = await self.coins(need.purpose, Sat(0))
        choose(own)
        for idle in need.idle:
            choose(await self.held(idle))
        while need.fresh and short() > 0:
            before = short()
            own = await self.coins(need.purpose, Sat(sum(coin.value for coin in own) + before))
            if not choose(own) or short() >= before:
                break
        for lender in need.lenders:
            choose(await self.held(lender))
        coins = tuple(best())
        return self.fee(need, len(coins)), coins

    def fee(self, need: "Need", coins: int) -> Sat:
        """What a transaction with so many coins should pay, at the policy's rate and within its share of the stake."""
        return self.policy.fee(need.size(coins), need.rate, need.stake)

    async def change_script(self, purpose: bytes) -> bytes:
        """See `FeeWallet`."""
        return await self._wallet.change_script(purpose)

    async def give_back(self, tip: int, places_of: Callable[[bytes], Sequence[bytes]]) -> None:
        """Free the coins of purposes that a block has ended, a few blocks later.

        Args:
            places_of: the outputs that a purpose is about; when blocks spend them all, it has ended.
        """
        for purpose in await self.purposes():
            if await self._is_over(places_of(purpose)):
                if tip - self._ended.setdefault(purpose, tip) >= RELEASE_AFTER:
                    await self._wallet.release_coins(purpose)
                    del self._ended[purpose]
            else:
                self._ended.pop(purpose, None)

    async def _is_over(self, places: Sequence[bytes]) -> bool:
        for place in places:
            if not (await self.standing(place)).is_over:
                return False
        return True

    # --- out ----------------------------------------------------------------------------------------------------------

    async def sign_and_leave(
        self, order: Order, unsigned: Unsigned, first: Sequence[tuple[Sat, bytes]], *, before: tuple[bytes, ...] = ()
    ) -> bool:
        """Sign the added coins and publish, after `before`; gives whether it was taken.

        Args:
            first: what the inputs before the coins spend.
        """
        spent = (*first, *((coin.value, coin.script) for coin in unsigned.coins))
        signed = await self._wallet.sign(unsigned.raw, unsigned.coins, spent)
        return await self.leave((*before, signed), spent, order)

    async def assert_out(self, own: OwnSpend, order: Order, *, before: tuple[bytes, ...] = ()) -> None:
        """What is out already stays as it is; where that is others' word only, they are given it again."""
        if self.backend.is_hearsay:
            await self.leave((*before, own.raw), own.spent, order)

    async def leave(self, transactions: tuple[bytes, ...], spent: Sequence[tuple[Sat, bytes]], order: Order) -> bool:
        """The last gate: what libbitcoinkernel refuses does not leave. Gives whether it was taken.

        Args:
            spent: what the last transaction's inputs spend.
        """
        problem = check_transaction(transactions[-1], spent)
        if problem is not None:
            log.error("publish.invalid", **named(order), reason=problem)
            return False
        result = await self.backend.publish(transactions)
        if result.verdict is not Verdict.REFUSED:
            return True
        if result.reason.startswith(_BENIGN):
            log.debug("publish.not_now", **named(order), reason=result.reason)
        else:
            log.warning("publish.refused", **named(order), reason=result.reason)
        return False


def too_poor(order: Order, wanted: Sat, coins: Coins) -> None:
    """Say that the confirmed coins do not reach."""
    have = sum(coin.value for coin in coins)
    log.warning("publish.coins_missing", **named(order), fee_wanted=wanted, confirmed_coins=have)


def split(place: bytes) -> tuple[Txid, int]:
    """The transaction id and the index of an outpoint."""
    return Txid(place[:32]), int.from_bytes(place[32:36], "little")


def purpose_of(order: Order) -> Purpose:
    """What an order is for."""
    return Purpose.COMMITMENT if isinstance(order, PublishWithChild) else order.purpose


def named(order: Order) -> dict[str, str]:
    """An order as log lines name it."""
    return {"channel": order.channel_id.hex(), "purpose": purpose_of(order).value}
