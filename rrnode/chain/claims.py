"""Publish HTLC transactions: joined as far as it is safe, paid from confirmed coins, raised as deadlines come near (DESIGN 6).

`joining` says who leaves with whom. What was ordered is remembered only so that one order alone does not break up those
that left before it; after a restart the engine orders everything anew.
"""

from collections.abc import Collection, Sequence, Set

import structlog

from protocols.channel.events import PublishWithInputs, Purpose
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
from rrnode.chain.verify import check_transaction

OUTPOINT_SIZE = 36
SOON = 6  # blocks within which all shall confirm, however far the deadline: until then nothing else has their coins
LEAVE_AT = 4  # times the feerate of a common transaction; two doublings into the hurry, where it was the estimate
REMEMBERED = 144  # tips after the last order of a group; each brings it again while the engine wants it

log = structlog.get_logger("rrnode.chain")


class Claims:
    """Every HTLC transaction that is ordered and not resolved by a block."""

    def __init__(self, out: Outgoing) -> None:
        self._out = out
        self._groups: dict[bytes, dict[bytes, PublishWithInputs]] = {}  # the last order for each output, by group
        self._joined = set[bytes]()  # shares that left at this tip
        self._tip, self._tips = -1, 0  # the last one, and how many different ones there were
        self._ordered: dict[bytes, int] = {}  # how many tips there had been when an output was last ordered
        self._lost: dict[bytes, int] = {}  # and when a stranger was first seen to spend it

    def take(self, order: PublishWithInputs, bare: Tx) -> None:
        """Note an order; `publish` of its group follows."""
        place = bare.prevouts[0]
        self._groups.setdefault(group_of(bare), {})[place] = order
        self._ordered[place] = self._tips

    def first_deadline(self, group: bytes) -> int:
        """Of what is ordered in a group."""
        return min((order.deadline for order in self._groups.get(group, {}).values()), default=0)

    def places_of(self, purpose: bytes) -> Sequence[bytes]:
        """The outputs that coins of this purpose are for; none when nothing was ordered for it since the start."""
        for group in self._groups:
            if any(purpose == purpose_of(group, share) for share in Share):
                return tuple(self._groups[group])
        return (purpose,) if len(purpose) == OUTPOINT_SIZE else ()

    async def publish(self, group: bytes) -> None:
        """Bring what is ordered of this group to the network, as things stand now."""
        tip = (await self._out.backend.tip()).height
        if tip != self._tip:
            self._begin(tip)
        pairs = await self._open(group)
        if not pairs:
            return
        policy, backend = self._out.policy, self._out.backend
        places = [pair.place for pair in pairs]
        spenders = await backend.mempool_spenders(places)
        kept = await self._out.purposes() & {*places, *(purpose_of(group, share) for share in Share)}
        own = await self._out.own_spends(places, kept)
        if (await backend.tip()).height != tip:
            await self.publish(group)  # what the block between holds of ours looks like a stranger's
            return
        lost = {place for place, spender in spenders.items() if spender not in own}
        quiet = [pair for pair in pairs if pair.place not in lost]
        contested = [pair for pair in pairs if pair.place in lost and self._is_wanted(pair)]
        for pair in quiet:
            self._lost.pop(pair.place, None)
        first = min(pair.order.deadline for pair in pairs)
        estimate = await self._out.estimate(first - tip, within=SOON)
        shares, exposed = shares_of(quiet, tip, estimate, policy)
        alone = [party_of_one(pair, tip, purpose_of(group, Share.FOUGHT)) for pair in contested]
        leaving = set[bytes]()
        for number, pair in enumerate(exposed):
            # Half of them stays together, to pay what taking the others out of their common transaction costs.
            if number < len(exposed) // 2 and await self._has_coins_of_its_own(pair):
                alone.append(party_of_one(pair, tip))
                leaving.add(pair.place)
            else:
                shares[Share.HURRIED].append(pair)
        together = parties_of(group, shares, tip, estimate, policy)
        idle = kept & {purpose_of(group, share) for share in Share if not shares[share]}
        standing = _Mempool(own, frozenset(places), leaving)
        pressed = {purpose_of(group, share) for share in (Share.HURRIED, Share.CAPPED)}
        parties = [party for party in together if party.purpose in pressed]
        parties += [party for party in alone if party.blocks_left <= policy.hurry]
        parties += [party for party in (*together, *alone) if party not in parties]
        for number, party in enumerate(parties):
            lenders = tuple(later.purpose for later in parties[number + 1 :] if later in together)
            # Its members may have coins of their own, from when they left alone.
            await self._publish(party, standing, (*sorted(idle), *sorted(party.places & kept)), lenders)

    def _is_wanted(self, pair: Pair) -> bool:
        """Whether to fight over an output that a stranger spends.

        Who spends a timeout's shows the preimage, and then the engine orders it no more: only a later order than that is
        an order to fight, lest each of many sets coins aside for nothing.
        """
        since = self._lost.setdefault(pair.place, self._tips)
        return pair.order.purpose is not Purpose.HTLC_TIMEOUT or self._ordered.get(pair.place, 0) > since

    def _begin(self, tip: int) -> None:
        """There is another tip. What the engine has not ordered for long it will not order again."""
        self._tip, self._tips = tip, self._tips + 1
        self._joined.clear()
        for group, orders in list(self._groups.items()):
            if all(self._ordered.get(place, 0) < self._tips - REMEMBERED for place in orders):
                del self._groups[group]
                for place in orders:
                    self._forget(place)

    def _forget(self, place: bytes) -> None:
        self._ordered.pop(place, None)
        self._lost.pop(place, None)

    async def _open(self, group: bytes) -> list[Pair]:
        """What is ordered and not resolved by a block."""
        orders, pairs = self._groups.get(group, {}), []
        for place, order in list(orders.items()):
            spent = await self._out.backend.confirmed_output(*split(place))
            try:
                if spent is not None:  # else a block resolved it, or (BIP 431) its commitment is in none yet
                    pair = Pair(order, read_pair(order), (spent.value, spent.script))
                    if problem := check_transaction(order.transaction, [pair.spent]):
                        raise MisuseError(problem)  # one invalid input would void all that leave with it
                    pairs.append(pair)
                    continue
            except (MisuseError, DecodeError) as error:  # the others have deadlines too
                log.error("publish.failed", **named(order), reason=str(error))
            if orders.get(place) is order:
                del orders[place]
                self._forget(place)
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
        self, party: Party, mempool: "_Mempool", idle: tuple[bytes, ...], lenders: tuple[bytes, ...]
    ) -> None:
        """Publish a party, or raise its fee, unless what is out already does for it."""
        if party.places <= mempool.taken - mempool.leaving:
            return  # what was left standing for others carries these too
        bare, policy = party.bare(), self._out.policy
        need = Need(
            purpose=party.purpose,
            size=lambda coins: bumping.bumped_vbytes(bare, coins),
            rate=await self._out.rate(party.blocks_left, within=SOON),
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
        order = party.pairs[0].order
        if rivals:
            if self._stands(party, rivals.values(), wanted, vbytes, mempool):
                await self._keep(rivals, mempool, order)
                return
            outbid = _outbid(rivals.values(), vbytes, policy)
            wanted, least = max(wanted, outbid), max(least, outbid)
        bumped = bumping.add_inputs(bare, coins, await self._out.change_script(party.purpose), wanted, least=least)
        if party.is_worth_coins and (bumped is None or bumped.fee < wanted):
            too_poor(order, wanted, coins)
        if bumped is None:
            await self._keep(rivals, mempool, order)
            return
        if await self._out.sign_and_leave(order, bumped, [pair.spent for pair in party.pairs]):
            mempool.replaced(rivals)
            self._joined.add(party.purpose)
            mempool.taken.update(outpoint(coin.txid, coin.index) for coin in bumped.coins)
        else:
            await self._keep(rivals, mempool, order)

    async def _keep(self, standing: dict[Txid, OwnSpend], mempool: "_Mempool", order: PublishWithInputs) -> None:
        mempool.keep(standing)
        for each in standing.values():
            await self._out.assert_out(each, order)

    def _stands(
        self, party: Party, rivals: Collection[OwnSpend], wanted: Sat, vbytes: int, mempool: "_Mempool"
    ) -> bool:
        """Whether what we have in the mempool is left there, rather than replaced at this fee."""
        policy = self._out.policy
        spent = frozenset[bytes]().union(*(each.prevouts for each in rivals))
        if party.places <= spent and spent.isdisjoint(mempool.leaving):
            fee, size = Sat(sum(each.fee for each in rivals)), sum(each.vbytes for each in rivals)
            if policy.worth_replacing(fee, size, wanted, vbytes):
                return False
            # Few that leave many must outbid all of them: only when they want to pay a multiple of what those do.
            if spent.isdisjoint(mempool.places - party.places) or wanted * size < LEAVE_AT * fee * vbytes:
                return True
        # Newcomers, or some that shall leave: once a block at most, as each time costs more.
        return party.purpose in self._joined or _outbid(rivals, vbytes, policy) > party.stake // policy.stake_share


def _outbid(rivals: Collection[OwnSpend], vbytes: int, policy: FeePolicy) -> Sat:
    """The least fee that drives these out of the mempool."""
    return Sat(sum(each.fee for each in rivals) + fee_for(vbytes, policy.floor))


class _Mempool:
    """Our transactions of one group that are out, while its parties are published one after the other.

    Attributes:
        places: all outputs that the group is about.
        taken: coins that are not to be had any more: of what stands, and of what left just now.
        leaving: places that shall go alone, out of the transaction that they are in.
    """

    def __init__(self, own: dict[Txid, OwnSpend], places: Set[bytes], leaving: Set[bytes]) -> None:
        self._own, self.places, self.leaving = own, places, leaving
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
