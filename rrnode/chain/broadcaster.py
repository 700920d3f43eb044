"""Bring transactions to the network and pay for those that cannot pay for themselves (DESIGN 6, 9).

The engine orders each publication again at every block until it, or a rival, is buried; so nothing is remembered here that
could be lost. At each order the chain is asked how things stand, and only what is missing is done: the parent with a child,
a better paying child, coins for HTLC transactions (`claims`). Coins of purposes that have ended are given back.
"""

import structlog
import trio

from protocols.channel.events import Publish, PublishWithChild, PublishWithInputs
from protocols.errors import DecodeError, MisuseError
from protocols.units import Sat
from rrnode.chain import bumping
from rrnode.chain.base import ChainBackend
from rrnode.chain.claims import Claims
from rrnode.chain.fees import FeePolicy, FeeWallet
from rrnode.chain.joining import group_of
from rrnode.chain.outgoing import Need, Order, Outgoing, named, purpose_of, too_poor
from rrnode.chain.parse import Tx, outpoint, parse_transaction
from rrnode.chain.verify import check_transaction
from rrnode.errors import ChainUnavailable, StorageFailed

MAX_WAITING = (
    10_000  # orders, HTLCs that could leave together counted as one; a thousand channels that all close at once
)
_FIRST_RETRY, _LAST_RETRY = 0.5, 30.0  # seconds

log = structlog.get_logger("rrnode.chain")


class Broadcaster:
    """Takes orders from the engine and carries them out in a task of its own."""

    def __init__(self, backend: ChainBackend, wallet: FeeWallet, *, policy: FeePolicy | None = None) -> None:
        """Nothing is done before `run`."""
        self._backend = backend
        self._out = Outgoing(backend, wallet, policy or FeePolicy())
        self._claims = Claims(self._out)
        self._waiting: dict[tuple[str, bytes], Order] = {}
        self._wake = trio.Event()

    def take(self, order: Order) -> None:
        """Carry this out soon; the same order again replaces one that still waits. Never waits itself."""
        try:
            transaction = parse_transaction(order.transaction)
        except DecodeError:
            log.error("publish.no_transaction", purpose=purpose_of(order).value)
            return
        match order:
            case Publish():
                key = "whole", bytes(transaction.txid)
            case PublishWithChild():
                key = "child", bytes(transaction.txid)
            case PublishWithInputs():
                key = "inputs", group_of(transaction)
        if key not in self._waiting and len(self._waiting) >= MAX_WAITING:
            log.error("publish.too_many_waiting", purpose=purpose_of(order).value, waiting=len(self._waiting))
            return
        if isinstance(order, PublishWithInputs):
            self._claims.take(order, transaction)
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
        for key in sorted(self._waiting, key=self._urgency):
            order = self._waiting.get(key)
            if order is None:
                continue
            try:
                match order:
                    case Publish():
                        await self._publish(order)
                    case PublishWithChild():
                        await self._publish_with_child(order, tip.height)
                    case PublishWithInputs():
                        await self._claims.publish(key[1])
            except (MisuseError, StorageFailed, DecodeError) as error:
                # Others have deadlines too; this one comes again at the next block.
                log.error("publish.failed", **named(order), reason=str(error))
            if self._waiting.get(key) is order:
                del self._waiting[key]
        await self._out.give_back(tip.height, self._claims.places_of)

    def _urgency(self, key: tuple[str, bytes]) -> tuple[int, int]:
        match self._waiting[key]:
            case Publish():
                return 0, 0
            case PublishWithChild(deadline=deadline):
                return 1, deadline
            case PublishWithInputs():
                return 1, self._claims.first_deadline(key[1])

    async def _publish(self, order: Publish) -> None:
        """A whole transaction."""
        tx = parse_transaction(order.transaction)
        if not self._backend.is_hearsay and await self._backend.mempool_transaction(tx.txid) is not None:
            return
        spent = [await self._out.output(place) for place in tx.prevouts]
        known = [state for state in spent if state is not None]
        if len(known) < len(spent):
            return  # confirmed, lost to a rival, or its parent is not there yet: nothing to be done now
        await self._out.leave((order.transaction,), known, order)

    async def _publish_with_child(self, order: PublishWithChild, tip: int) -> None:
        """A commitment, and what spends its anchor and pays for both."""
        parent, policy = parse_transaction(order.transaction), self._out.policy
        funding = parent.prevouts[0]  # what is fought over: rivals of ours for it share the coins
        stands = await self._out.standing(funding)
        if stands.is_over:
            return  # a commitment is in a block, or the funding is not on this chain: nothing to pay for
        if stands.spender != parent.txid and not await self._is_valid(parent, order):
            return
        anchor = outpoint(parent.txid, order.anchor_index)
        own = await self._out.own_spends([anchor], [funding]) if stands.spender == parent.txid else {}
        need = Need(
            purpose=funding,
            size=lambda coins: parent.vsize + bumping.child_vbytes(coins),
            rate=await self._out.rate(order.deadline - tip),
            stake=Sat(sum(output.value for output in parent.outputs)),
            extra=bumping.CHANGE_DUST,
        )
        wanted, coins = await self._out.fee_and_coins(need)
        vbytes = need.size(len(coins))
        for current in own.values():
            if not policy.worth_replacing(current.fee, parent.vsize + current.vbytes, wanted, vbytes):
                await self._out.assert_out(current, order, before=(parent.raw,))
                return
        change, least = await self._out.change_script(funding), policy.fee(vbytes, policy.floor, need.stake)
        child = bumping.build_child(parent, order.anchor_index, coins, change, wanted, least=least)
        if child is None or child.fee < wanted:
            too_poor(order, wanted, coins)
        if child is None:
            return
        output = parent.outputs[order.anchor_index]
        await self._out.sign_and_leave(order, child, [(output.value, output.script)], before=(parent.raw,))

    async def _is_valid(self, parent: Tx, order: PublishWithChild) -> bool:
        spent = [await self._out.output(place) for place in parent.prevouts]
        problem = check_transaction(parent.raw, [each for each in spent if each is not None])
        if problem is not None:
            log.error("publish.invalid", **named(order), reason=problem)
        return problem is None
