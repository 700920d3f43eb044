"""Bring transactions to the network and pay for those that cannot pay for themselves (DESIGN 6, 9).

The engine orders each publication again at every block until it, or a rival, is buried; so nothing is remembered here that
could be lost. At each order the chain is asked how things stand, and only what is missing is done: the parent with a child,
a better paying child, coins for an HTLC transaction. Coins of purposes that have ended are given back.
"""

from dataclasses import dataclass

import structlog
import trio

from protocols.channel.events import Publish, PublishWithChild, PublishWithInputs, Purpose
from protocols.errors import DecodeError, MisuseError
from protocols.ids import ChannelId, Txid
from protocols.units import FeeRate, Sat
from rrnode.chain import bumping
from rrnode.chain.base import ChainBackend, Verdict
from rrnode.chain.bumping import Unsigned
from rrnode.chain.fees import FeeCoin, FeePolicy, FeeWallet
from rrnode.chain.parse import Tx, outpoint, parse_transaction
from rrnode.chain.verify import check_transaction
from rrnode.errors import ChainUnavailable, StorageFailed

Order = Publish | PublishWithChild | PublishWithInputs

MAX_WAITING = 10_000  # orders; 114 HTLCs each way on forty channels that all close at once
RELEASE_AFTER = 3  # blocks on top of the spend before a purpose's coins are free again
_FIRST_RETRY, _LAST_RETRY = 0.5, 30.0  # seconds

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
class _Spent:
    """How an output stands: unspent, spent in the mempool (by whom), or spent in a block (or never there)."""

    unspent: bool
    spender: Txid | None


class Broadcaster:
    """Takes orders from the engine and carries them out in a task of its own."""

    def __init__(self, backend: ChainBackend, wallet: FeeWallet, *, policy: FeePolicy | None = None) -> None:
        """Nothing is done before `run`."""
        self._backend, self._wallet, self._policy = backend, wallet, policy or FeePolicy()
        self._waiting: dict[tuple[str, bytes], Order] = {}
        self._wake = trio.Event()
        self._ended: dict[bytes, int] = {}  # purposes whose outpoint a block spends, with the tip when that was seen

    def take(self, order: Order) -> None:
        """Carry this out soon; the same order again replaces one that still waits. Never waits itself."""
        key = _key(order)
        if key is None:
            log.error("publish.no_transaction", purpose=_purpose_of(order).value)
            return
        if key not in self._waiting and len(self._waiting) >= MAX_WAITING:
            log.error("publish.too_many_waiting", purpose=_purpose_of(order).value, waiting=len(self._waiting))
            return
        self._waiting[key] = order
        self._wake.set()

    def tip_changed(self) -> None:
        """There is another best block: see which purposes have ended. Never waits itself."""
        self._wake.set()

    async def run(self) -> None:
        """Carry out orders until cancelled. While the chain is away they wait, with back-off."""
        retry = _FIRST_RETRY
        while True:
            if not self._waiting:
                await self._wake.wait()
            self._wake = trio.Event()
            try:
                await self.carry_out()
                retry = _FIRST_RETRY
            except ChainUnavailable as error:
                log.warning("publish.waits_for_the_chain", orders=len(self._waiting), reason=str(error))
                await trio.sleep(retry)
                retry = min(retry * 2, _LAST_RETRY)

    async def carry_out(self) -> None:
        """Carry out what waits now, those with the nearest deadline first.

        Raises:
            ChainUnavailable: no answer; what was not done still waits.
        """
        tip = await self._backend.tip()
        for key in sorted(self._waiting, key=lambda key: _urgency(self._waiting[key])):
            order = self._waiting.get(key)
            if order is None:
                continue
            try:
                await self._do(order, tip.height)
            except (MisuseError, StorageFailed, DecodeError) as error:
                # Others have deadlines too; this one comes again at the next block.
                log.error("publish.failed", **_named(order), reason=str(error))
            if self._waiting.get(key) is order:
                del self._waiting[key]
        await self._give_back(tip.height)

    async def _do(self, order: Order, tip: int) -> None:
        match order:
            case Publish():
                await self._publish(order)
            case PublishWithChild():
                await self._publish_with_child(order, tip)
            case PublishWithInputs():
                await self._publish_with_inputs(order, tip)

    # --- whole transactions ------------------------------------------------------------------------------------------

    async def _publish(self, order: Publish) -> None:
        tx = parse_transaction(order.transaction)
        if await self._backend.mempool_transaction(tx.txid) is not None:
            return
        spent = [await self._output(place) for place in tx.prevouts]
        known = [state for state in spent if state is not None]
        if len(known) < len(spent):
            return  # confirmed, lost to a rival, or its parent is not there yet: nothing to be done now
        await self._leave((order.transaction,), known, order)

    async def _output(self, place: bytes) -> tuple[Sat, bytes] | None:
        """Value and script of an output that the chain has unspent or the mempool makes."""
        txid, index = _split(place)
        state = await self._backend.confirmed_output(txid, index)
        if state is not None:
            return state.value, state.script
        raw = await self._backend.mempool_transaction(txid)
        if raw is None:
            return None
        outputs = parse_transaction(raw).outputs
        return (outputs[index].value, outputs[index].script) if index < len(outputs) else None

    # --- commitments -------------------------------------------------------------------------------------------------

    async def _publish_with_child(self, order: PublishWithChild, tip: int) -> None:
        parent = parse_transaction(order.transaction)
        purpose = _purpose_key(parent)
        funding = await self._standing(parent.prevouts[0])
        if not funding.unspent and funding.spender is None:
            return  # a commitment is in a block, or the funding is not on this chain: nothing to pay for
        if funding.spender != parent.txid:
            spent = [await self._output(place) for place in parent.prevouts]
            problem = check_transaction(parent.raw, [each for each in spent if each is not None])
            if problem is not None:
                log.error("publish.invalid", **_named(order), reason=problem)
                return
        stake = Sat(sum(output.value for output in parent.outputs))
        rate = await self._rate(order.deadline - tip)
        change = await self._wallet.change_script(purpose)
        anchor = outpoint(parent.txid, order.anchor_index)
        current = await self._ours(anchor, purpose) if funding.spender == parent.txid else None
        coins: tuple[FeeCoin, ...] = ()
        for count in (1, 2, 3, bumping.MAX_COINS):  # more coins make it larger, and so dearer
            vbytes = parent.vsize + bumping.child_vbytes(max(count, len(coins)))
            wanted = self._policy.fee(vbytes, rate, stake)
            coins = await self._coins(purpose, Sat(wanted + bumping.CHANGE_DUST))
            if len(coins) <= count:
                break
        vbytes = parent.vsize + bumping.child_vbytes(min(len(coins), bumping.MAX_COINS))
        wanted, least = self._policy.fee(vbytes, rate, stake), self._policy.fee(vbytes, self._policy.floor, stake)
        if current is not None and not self._policy.worth_replacing(
            current.fee, parent.vsize + current.vbytes, wanted, vbytes
        ):
            return
        child = bumping.build_child(parent, order.anchor_index, coins, change, wanted, least=least)
        if child is None:
            self._too_poor(order, wanted, coins)
            return
        if child.fee < wanted:
            self._too_poor(order, wanted, coins)
        output = parent.outputs[order.anchor_index]
        await self._sign_and_leave(order, child, [(output.value, output.script)], before=(parent.raw,))

    # --- HTLC transactions -------------------------------------------------------------------------------------------

    async def _publish_with_inputs(self, order: PublishWithInputs, tip: int) -> None:
        bare = parse_transaction(order.transaction)
        if len(bare.prevouts) != 1 or len(bare.outputs) != 1:
            raise MisuseError("inputs are added to transactions of one input and one output only")
        purpose = _purpose_key(bare)
        txid, index = _split(bare.prevouts[0])
        spent = await self._backend.confirmed_output(txid, index)
        if spent is None:
            return  # resolved by a block, or its commitment is not in one yet (BIP 431: one child at a time)
        current = await self._ours(bare.prevouts[0], purpose)
        rate = await self._rate(order.deadline - tip)
        change = await self._wallet.change_script(purpose)
        coins: tuple[FeeCoin, ...] = ()
        for count in (1, 2, 3, bumping.MAX_COINS):
            vbytes = bumping.bumped_vbytes(bare, max(count, len(coins)))
            wanted = self._policy.fee(vbytes, rate, order.spent_value)
            coins = await self._coins(purpose, wanted)
            if len(coins) <= count:
                break
        vbytes = bumping.bumped_vbytes(bare, min(len(coins), bumping.MAX_COINS))
        wanted = self._policy.fee(vbytes, rate, order.spent_value)
        least = self._policy.fee(vbytes, self._policy.floor, order.spent_value)
        if current is not None and not self._policy.worth_replacing(current.fee, current.vbytes, wanted, vbytes):
            return
        bumped = bumping.add_inputs(bare, coins, change, wanted, least=least)
        if bumped is None:
            self._too_poor(order, wanted, coins)
            return
        if bumped.fee < wanted:
            self._too_poor(order, wanted, coins)
        await self._sign_and_leave(order, bumped, [(spent.value, spent.script)])

    # --- what both need ----------------------------------------------------------------------------------------------

    async def _rate(self, blocks_left: int) -> FeeRate:
        estimate = await self._backend.feerate(self._policy.blocks_to_ask_for(blocks_left))
        return self._policy.feerate(estimate, blocks_left)

    async def _coins(self, purpose: bytes, at_least: Sat) -> tuple[FeeCoin, ...]:
        self._ended.pop(purpose, None)
        return await self._wallet.reserve_coins(purpose, at_least)

    async def _standing(self, place: bytes) -> _Spent:
        if await self._backend.unspent(*_split(place)) is not None:
            return _Spent(True, None)
        return _Spent(False, (await self._backend.mempool_spenders([place])).get(place))

    async def _ours(self, place: bytes, purpose: bytes) -> Unsigned | None:
        """Our own spend of this output that is in the mempool, with what it pays; None when there is none, or a stranger's."""
        spender = (await self._backend.mempool_spenders([place])).get(place)
        raw = await self._backend.mempool_transaction(spender) if spender is not None else None
        if raw is None:
            return None
        tx = parse_transaction(raw)
        held = {outpoint(c.txid, c.index): c for c in await self._wallet.reserve_coins(purpose, Sat(0))}
        coins = tuple(held[prevout] for prevout in tx.prevouts if prevout in held)
        if not coins or len(coins) != len(tx.prevouts) - 1:
            return None
        own = await self._output(place)
        if own is None:
            return None
        fee = own[0] + sum(coin.value for coin in coins) - sum(output.value for output in tx.outputs)
        return Unsigned(raw=raw, coins=coins, fee=Sat(fee), vbytes=tx.vsize)

    async def _sign_and_leave(
        self, order: Order, unsigned: Unsigned, first: list[tuple[Sat, bytes]], *, before: tuple[bytes, ...] = ()
    ) -> None:
        spent = (*first, *((coin.value, coin.script) for coin in unsigned.coins))
        signed = await self._wallet.sign(unsigned.raw, unsigned.coins, spent)
        await self._leave((*before, signed), list(spent), order)

    async def _leave(self, transactions: tuple[bytes, ...], spent: list[tuple[Sat, bytes]], order: Order) -> None:
        """The last gate: what libbitcoinkernel refuses does not leave. `spent` is of the last transaction's inputs."""
        problem = check_transaction(transactions[-1], spent)
        if problem is not None:
            log.error("publish.invalid", **_named(order), reason=problem)
            return
        result = await self._backend.publish(transactions)
        if result.verdict is not Verdict.REFUSED:
            return
        if result.reason.startswith(_BENIGN):
            log.debug("publish.not_now", **_named(order), reason=result.reason)
        else:
            log.warning("publish.refused", **_named(order), reason=result.reason)

    def _too_poor(self, order: Order, wanted: Sat, coins: tuple[FeeCoin, ...]) -> None:
        have = sum(coin.value for coin in coins)
        log.warning("publish.coins_missing", **_named(order), fee_wanted=wanted, confirmed_coins=have)

    async def _give_back(self, tip: int) -> None:
        """Free the coins of purposes whose outpoint a block spends, a few blocks later."""
        for purpose in await self._wallet.fee_purposes():
            if len(purpose) != 36:
                continue
            state = await self._standing(purpose)
            if state.unspent or state.spender is not None:
                self._ended.pop(purpose, None)
            elif tip - self._ended.setdefault(purpose, tip) >= RELEASE_AFTER:
                await self._wallet.release_coins(purpose)
                del self._ended[purpose]


def _split(place: bytes) -> tuple[Txid, int]:
    return Txid(place[:32]), int.from_bytes(place[32:], "little")


def _purpose_key(transaction: Tx) -> bytes:
    """Coins are set aside for the output that is fought over, so rivals of ours for it share them."""
    return transaction.prevouts[0]


def _key(order: Order) -> tuple[str, bytes] | None:
    try:
        transaction = parse_transaction(order.transaction)
    except DecodeError:
        return None
    if isinstance(order, Publish):
        return "whole", transaction.txid
    return ("child" if isinstance(order, PublishWithChild) else "inputs"), transaction.txid


def _urgency(order: Order) -> tuple[int, int]:
    return (0, 0) if isinstance(order, Publish) else (1, order.deadline)


def _purpose_of(order: Order) -> Purpose:
    return Purpose.COMMITMENT if isinstance(order, PublishWithChild) else order.purpose


def _named(order: Order) -> dict[str, str]:
    channel: ChannelId = order.channel_id
    return {"channel": channel.hex(), "purpose": _purpose_of(order).value}
