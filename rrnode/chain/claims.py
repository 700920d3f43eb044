"""Publish HTLC transactions: joined as far as it is safe, paid from confirmed coins, raised as deadlines come near (DESIGN 6).

`joining` says who leaves with whom. What was ordered is remembered only so that one order alone does not break up those
that left before it; after a restart the engine orders everything anew.
"""

from collections.abc import Collection, Sequence, Set

import structlog

from protocols.channel.events import PublishWithInputs
from protocols.errors import DecodeError, MisuseError
from protocols.ids import Txid
from protocols.units import Sat, fee_for
from rrnode.chain import bumping
from rrnode.chain.fees import FeePolicy
from rrnode.chain.joining import (
    Pair,
    Party,
    Share,
    group_of,
    parties_of,
    party_of_one,
    purpose_of,
    read_pair,
    shares_of,
)
from rrnode.chain.outgoing import Need, Outgoing, OwnSpend, named, split, too_poor
from rrnode.chain.parse import Tx, outpoint

OUTPOINT_SIZE = 36

log = structlog.get_logger("rrnode.chain")


class Claims:
    """Every HTLC transaction that is ordered and not resolved by a block."""

    def __init__(self, out: Outgoing) -> None:
        self._out = out
        self._groups: dict[bytes, dict[bytes, PublishWithInputs]] = {}  # the last order for each output, by group
        self._joined_at: dict[bytes, int] = {}  # tip when a share last left

    def take(self, order: PublishWithInputs, bare: Tx) -> None:
        """Note an order; `publish` of its group follows."""
        self._groups.setdefault(group_of(bare), {})[bare.prevouts[0]] = order

    def first_deadline(self, group: bytes) -> int:
        """Of what is ordered in a group."""
        return min((order.deadline for order in self._groups.get(group, {}).values()), default=0)

    def places_of(self, purpose: bytes) -> Sequence[bytes]:
        """The outputs that coins of this purpose are for; none when nothing was ordered for it since the start."""
        for group in self._groups:
            if any(purpose == purpose_of(group, share) for share in Share):
                return tuple(self._groups[group])
        return (purpose,) if len(purpose) == OUTPOINT_SIZE else ()

    async def publish(self, group: bytes, tip: int) -> None:
        """Bring what is ordered of this group to the network, as things stand now."""
        pairs = await self._open(group)
        if not pairs:
            return
        policy, backend = self._out.policy, self._out.backend
        places = [pair.place for pair in pairs]
        spenders = await backend.mempool_spenders(places)
        own = await self._out.own_spends(places, [*places, *(purpose_of(group, share) for share in Share)])
        contested = [pair for pair in pairs if spenders.get(pair.place) not in (None, *own)]
        quiet = [pair for pair in pairs if pair not in contested]
        first = min(pair.order.deadline for pair in pairs)
        estimate = await backend.feerate(policy.blocks_to_ask_for(first - tip))
        shares, exposed = shares_of(quiet, tip, estimate, policy)
        alone = [party_of_one(pair, tip) for pair in contested]
        leaving = set[bytes]()
        for number, pair in enumerate(exposed):
            # Half of them stays together, to pay what taking the others out of their common transaction costs.
            if number < len(exposed) // 2 and await self._has_coins_of_its_own(pair):
                alone.append(party_of_one(pair, tip))
                leaving.add(pair.place)
            else:
                shares[Share.HURRIED].append(pair)
        together = parties_of(group, shares, tip, estimate, policy)
        idle = tuple(purpose_of(group, share) for share in Share if not shares[share])
        standing = _Mempool(own, leaving)
        for number, party in enumerate(together):
            lenders = tuple(later.purpose for later in together[number + 1 :])
            await self._publish(party, tip, standing, idle, lenders)
        for party in alone:
            await self._publish(party, tip, standing, idle, ())

    async def _open(self, group: bytes) -> list[Pair]:
        """What is ordered and not resolved by a block."""
        orders, pairs = self._groups.get(group, {}), []
        for place, order in list(orders.items()):
            spent = await self._out.backend.confirmed_output(*split(place))
            try:
                if spent is not None:  # else a block resolved it, or (BIP 431) its commitment is in none yet
                    pairs.append(Pair(order, read_pair(order), (spent.value, spent.script)))
                    continue
            except (MisuseError, DecodeError) as error:  # the others have deadlines too
                log.error("publish.failed", **named(order), reason=str(error))
            if orders.get(place) is order:
                del orders[place]
        if not orders:
            self._groups.pop(group, None)
        return pairs

    async def _has_coins_of_its_own(self, pair: Pair) -> bool:
        least = fee_for(bumping.bumped_vbytes(pair.bare, 1), self._out.policy.floor)
        if sum(coin.value for coin in await self._out.coins(pair.place, least)) >= least:
            return True
        await self._out.release(pair.place)
        return False

    async def _publish(
        self, party: Party, tip: int, mempool: "_Mempool", idle: tuple[bytes, ...], lenders: tuple[bytes, ...]
    ) -> None:
        """Publish a party, or raise its fee, unless what is out already does for it."""
        bare, policy = party.bare(), self._out.policy
        need = Need(
            purpose=party.purpose,
            size=lambda coins: bumping.bumped_vbytes(bare, coins),
            rate=await self._out.rate(party.blocks_left),
            stake=party.stake,
            idle=idle,
            lenders=lenders,
            taken=mempool.taken,
            fresh=party.is_worth_coins,
        )
        wanted, coins = await self._out.fee_and_coins(need)
        vbytes = need.size(len(coins))
        least = policy.fee(vbytes, policy.floor, party.stake)
        rivals = mempool.touching(party.places | {outpoint(coin.txid, coin.index) for coin in coins})
        if rivals:
            if self._stands(party, rivals.values(), wanted, vbytes, tip, mempool.leaving):
                mempool.keep(rivals)
                return
            outbid = _outbid(rivals.values(), vbytes, policy)
            wanted, least = max(wanted, outbid), max(least, outbid)
        bumped = bumping.add_inputs(bare, coins, await self._out.change_script(party.purpose), wanted, least=least)
        order = party.pairs[0].order
        if party.is_worth_coins and (bumped is None or bumped.fee < wanted):
            too_poor(order, wanted, coins)
        if bumped is None:
            mempool.keep(rivals)
            return
        if await self._out.sign_and_leave(order, bumped, [pair.spent for pair in party.pairs]):
            mempool.replaced(rivals)
            self._joined_at[party.purpose] = tip
        else:
            mempool.keep(rivals)
        mempool.taken.update(outpoint(coin.txid, coin.index) for coin in bumped.coins)

    def _stands(
        self, party: Party, rivals: Collection[OwnSpend], wanted: Sat, vbytes: int, tip: int, leaving: Set[bytes]
    ) -> bool:
        """Whether what we have in the mempool is left there, rather than replaced at this fee."""
        policy = self._out.policy
        spent = frozenset[bytes]().union(*(each.prevouts for each in rivals))
        if party.places <= spent and spent.isdisjoint(leaving):
            fee, size = Sat(sum(each.fee for each in rivals)), sum(each.vbytes for each in rivals)
            return not policy.worth_replacing(fee, size, wanted, vbytes)
        # Newcomers, or some that shall leave: once a block at most, as each time costs more.
        return (
            self._joined_at.get(party.purpose) == tip
            or _outbid(rivals, vbytes, policy) > party.stake // policy.stake_share
        )


def _outbid(rivals: Collection[OwnSpend], vbytes: int, policy: FeePolicy) -> Sat:
    """The least fee that drives these out of the mempool."""
    return Sat(sum(each.fee for each in rivals) + fee_for(vbytes, policy.floor))


class _Mempool:
    """Our transactions of one group that are out, while its parties are published one after the other.

    Attributes:
        taken: coins that are not to be had any more: of what stands, and of what left just now.
        leaving: places that shall go alone, out of the transaction that they are in.
    """

    def __init__(self, own: dict[Txid, OwnSpend], leaving: Set[bytes]) -> None:
        self._own, self.leaving = own, leaving
        self.taken: set[bytes] = set()

    def touching(self, spent: Set[bytes]) -> dict[Txid, OwnSpend]:
        """Those that spend any of these, and would have to give way."""
        return {txid: each for txid, each in self._own.items() if not each.prevouts.isdisjoint(spent)}

    def keep(self, standing: dict[Txid, OwnSpend]) -> None:
        """These stay."""
        self.taken.update(*(each.prevouts for each in standing.values()))

    def replaced(self, gone: dict[Txid, OwnSpend]) -> None:
        """These are out no more."""
        for txid in gone:
            del self._own[txid]
