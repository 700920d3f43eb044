"""Every channel of the node: found by id, by peer and by what is watched; with what each neighbour can carry now.

Source: DESIGN 6; `protocols.channel.engine` says which event belongs to which channel.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from typing import Protocol

from protocols.channel import engine as bolt2
from protocols.channel.engine import Env, KeyRing, Step
from protocols.channel.events import (
    ChannelEffect,
    ChannelEvent,
    CloseRequested,
    FailHtlc,
    Flush,
    ForgetChannel,
    FundingBuilt,
    FundingFailed,
    LinkDown,
    LinkUp,
    MessageReceived,
    OfferHtlc,
    OpenRequested,
    Outpoint,
    OutputSpent,
    SendMessage,
    SettleHtlc,
    SpendGone,
    TipChanged,
    TxConfirmed,
    TxUnconfirmed,
    WatchOutpoint,
    WatchTx,
)
from protocols.channel.state import BEFORE_FUNDING, Channel, Phase, is_usable, receivable, spendable
from protocols.facts import Facts
from protocols.ids import ChannelId, PeerId, Txid
from protocols.onchain.weights import close_reserve, close_steps
from protocols.payment.config import EngineConfig
from protocols.routing.events import Liquidity
from protocols.units import AssetId, BlockHeight, FeeRate, Msat, Sat, to_msat
from protocols.wire.channel import AcceptChannel, Error, FundingCreated, OpenChannel, Warn

ALL_CHANNELS = ChannelId(bytes(32))  # BOLT 1: an error for the peer, not for one channel
SMALLEST_OUTPUT = Sat(330)  # no HTLC below it can ever be an output, whatever dust limits were agreed (BOLT 3)
_OUTPUT_MSAT = to_msat(SMALLEST_OUTPUT)


class ChannelRules(Protocol):
    """`protocols.channel.engine`, or a fake that behaves."""

    def handle(self, channel: Channel | None, event: ChannelEvent, env: Env) -> Step: ...

    def loaded(self, channel: Channel) -> Channel: ...

    def resume(self, channel: Channel, env: Env) -> Step: ...


class Book:
    """Owns the channels. Applies events to them, one channel at a time, and keeps the indexes true.

    Args:
        late: channels that take on nothing new (`protocols.payment.cover`).
    """

    def __init__(
        self,
        *,
        asset: AssetId,
        keys: KeyRing,
        config: EngineConfig,
        channels: Iterable[Channel],
        rules: ChannelRules | None = None,
        late: Set[ChannelId] = frozenset(),
    ) -> None:
        self._rules: ChannelRules = rules or bolt2
        self._late = late
        self._asset, self._keys, self._config = asset, keys, config
        self._channels: dict[ChannelId, Channel] = {}
        self._by_peer: dict[PeerId, dict[ChannelId, None]] = {}
        self._watched: dict[Txid | Outpoint, dict[ChannelId, None]] = {}
        self._watches: dict[ChannelId, dict[Txid | Outpoint, None]] = {}
        self._dirty: dict[ChannelId, None] = {}  # changed since the last Flush: only these can have something to sign
        self._touched: dict[PeerId, None] = {}
        self._told: dict[PeerId, tuple[Liquidity, ...]] = {}
        self._ends: dict[ChannelId, tuple[int, int]] = {}  # satoshi and steps of each channel's end on the chain
        self._need = self._steps = 0  # their sums
        self._feerate = FeeRate(0)
        self._confirmed: int | None = None
        self._coins = 0
        for channel in channels:
            self._put(self._rules.loaded(channel))

    # --- reading ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._channels.values())

    def get(self, channel_id: ChannelId) -> Channel | None:
        return self._channels.get(channel_id)

    def of_peer(self, peer: PeerId) -> list[Channel]:
        return [self._channels[channel_id] for channel_id in self._by_peer.get(peer, ())]

    def carriers(self, peer: PeerId, asset: AssetId, amount: Msat) -> list[Channel]:
        """Channels to try for an HTLC of this amount to the peer, the tightest fit first, so that room for larger ones is
        kept. When none fits: the roomiest one, which will say why."""
        rooms = [(spendable(channel), channel) for channel in self.of_peer(peer) if channel.asset == asset]
        rooms.sort(key=lambda pair: pair[0])
        return [channel for room, channel in rooms if room >= amount] or [channel for _, channel in rooms[-1:]]

    def incoming_in(self, channel_id: ChannelId) -> set[int]:
        """Ids of the HTLCs of theirs that a channel holds."""
        channel = self._channels.get(channel_id)
        if channel is None or channel.phase is Phase.CLOSED:
            return set()
        return {each.id for each in channel.htlcs if not each.ours}

    def most(self, asset: AssetId, *, ours: bool) -> Msat:
        """The largest HTLC that any channel could offer (ours) or be offered now."""
        rooms = [spendable(c) if ours else receivable(c) for c in self if c.asset == asset and self._carries(c)]
        return self._bounded(max(rooms, default=Msat(0)))

    def liquidity(self, peer: PeerId) -> tuple[Liquidity, ...]:
        """The largest HTLC each way per asset, for channels that are usable now."""
        best: dict[AssetId, tuple[Msat, Msat]] = {}
        for channel in self.of_peer(peer):
            if is_usable(channel) and self._carries(channel):
                ours, theirs = best.get(channel.asset, (Msat(0), Msat(0)))
                best[channel.asset] = max(ours, spendable(channel)), max(theirs, receivable(channel))
        return tuple(
            Liquidity(asset=asset, ours=self._bounded(ours), theirs=self._bounded(theirs))
            for asset, (ours, theirs) in best.items()
        )

    def _carries(self, channel: Channel) -> bool:
        return channel.channel_id not in self._late

    def all_late(self, asset: AssetId) -> bool:
        """Whether no usable channel carries anything, since each waits for its watchers."""
        return not any(self._carries(each) for each in self if each.asset == asset and is_usable(each))

    def lateness_changed(self, channel_id: ChannelId) -> None:
        """A channel came to be late, or is so no more: its neighbour is told what it can carry."""
        if (channel := self._channels.get(channel_id)) is not None:
            self._touched[channel.peer] = None

    def news(self) -> list[tuple[PeerId, tuple[Liquidity, ...]]]:
        """Neighbours whose liquidity is not what was told last."""
        changed: list[tuple[PeerId, tuple[Liquidity, ...]]] = []
        for peer in self._touched:
            liquidity = self.liquidity(peer)
            if liquidity != self._told.get(peer, ()):
                changed.append((peer, liquidity))
                if liquidity:
                    self._told[peer] = liquidity
                else:
                    del self._told[peer]
        self._touched.clear()
        return changed

    # --- the chain reserve (DESIGN 6) -------------------------------------------------------------------------------

    def reserve_is(self, confirmed: int | None, coins: int) -> None:
        """Confirmed satoshi for fees, and in how many coins; None: the chain does not answer."""
        before = self.covered, self._confirmed is None
        self._confirmed, self._coins = confirmed, coins
        if (self.covered, confirmed is None) != before:
            self._touched.update(dict.fromkeys(self._by_peer))

    @property
    def need(self) -> Sat:
        """Confirmed satoshi that the end of every channel on the chain would take now (DESIGN 6)."""
        return Sat(self._need)

    @property
    def covered(self) -> bool:
        """Whether we could pay for the end of every channel on the chain, with the HTLCs in it, before any deadline."""
        return self._suffices(self._need, self._steps)

    def _suffices(self, need: int, steps: int) -> bool:
        return self._confirmed is not None and self._confirmed >= need and self._coins >= self._coins_for(steps)

    def _coins_for(self, steps: int) -> int:
        return -(-steps // self._config.steps_per_coin)

    @property
    def coins_needed(self) -> int:
        """Coins that could carry, each one step after the other, all channels to their end at once."""
        return self._coins_for(self._steps)

    def _weigh(self, channel: Channel) -> None:
        """What the end of this channel would cost at the feerate of now: every HTLC with an output counts, or a peer could
        fill a channel with HTLCs that nobody can afford to claim."""
        was_covered = self.covered
        self._forget_end(channel.channel_id)
        if _is_guarded(channel):
            need, steps = self._ends[channel.channel_id] = self._end_of(channel)
            self._need, self._steps = self._need + need, self._steps + steps
        self._covers(was_covered)

    def _end_of(self, channel: Channel, adding: BlockHeight | None = None) -> tuple[int, int]:
        """Satoshi and deadline-bound steps of a channel's end, perhaps with one more HTLC of ours that expires then."""
        outputs = [htlc for htlc in channel.htlcs if htlc.amount >= _OUTPUT_MSAT]
        expiries = Counter(htlc.expiry for htlc in outputs if htlc.ours)
        received = len(outputs) - expiries.total()
        if adding is not None:
            expiries[adding] += 1
        need = max(self._config.chain_reserve, close_reserve(received + expiries.total(), self._feerate))
        # Of more different expiries than `settle_margin`, not all can be due at once.
        return need, close_steps(received, expiries.values(), self._config.channel.settle_margin)

    def _forget_end(self, channel_id: ChannelId) -> None:
        need, steps = self._ends.pop(channel_id, (0, 0))
        self._need, self._steps = self._need - need, self._steps - steps

    def _covers(self, before: bool) -> None:
        """Neighbours are told what they can carry whenever it changes whether we may hold anything."""
        if self.covered != before:
            self._touched.update(dict.fromkeys(self._by_peer))

    def _feerate_is(self, feerate: FeeRate) -> None:
        if feerate != self._feerate:
            self._feerate = feerate
            for channel in self:
                self._weigh(channel)

    def may_hold(self, amount: Msat) -> bool:
        """Whether an HTLC of this amount may be held: what can never be an output needs no reserve."""
        if self._confirmed is None:
            return False
        return self.covered or amount < _OUTPUT_MSAT

    def may_offer(self, channel: Channel, amount: Msat, expiry: BlockHeight) -> bool:
        """Whether one more HTLC of ours may be added to a channel: it would still be covered with it."""
        if self._confirmed is None or amount < _OUTPUT_MSAT:
            return self._confirmed is not None
        need, steps = self._end_of(channel, adding=expiry)
        before = self._ends.get(channel.channel_id, (0, 0))
        return self._suffices(self._need - before[0] + need, self._steps - before[1] + steps)

    @property
    def why_not(self) -> str:
        """Why nothing may be held now, for people."""
        if self._confirmed is None:
            return "The chain does not answer, and without it no payment can be made safely; see: rrnode status"
        if self._confirmed >= self._need:
            return (
                f"To bring all that this node holds to its end on the chain takes {self.coins_needed + 1} separate coins with "
                f"one more payment, and it has {self._coins}. Send another coin to: rrnode wallet address"
            )
        return (
            f"This node keeps {self._need:,} confirmed sat to pay for the end of its channels on the chain, and has "
            f"{self._confirmed:,}. Send coins to: rrnode wallet address"
        )

    def _bounded(self, room: Msat) -> Msat:
        if self._confirmed is None:
            return Msat(0)
        return room if self.covered else Msat(min(room, _OUTPUT_MSAT - 1))

    # --- applying events --------------------------------------------------------------------------------------------

    def targets(self, event: ChannelEvent) -> list[ChannelId | None]:
        """The channels that an event concerns; None: one that does not exist (yet)."""
        match event:
            case OpenRequested():
                return [None]
            case MessageReceived():
                return self.addressed(event)
            case LinkUp(peer=peer) | LinkDown(peer=peer):
                return list(self._by_peer.get(peer, ()))
            case Flush():
                return list(self._dirty)
            case TipChanged():
                return [channel_id for channel_id, c in self._channels.items() if c.phase is not Phase.CLOSED]
            case TxConfirmed(txid=txid) | TxUnconfirmed(txid=txid):
                return list(self._watched.get(txid, ()))
            case OutputSpent(outpoint=outpoint) | SpendGone(outpoint=outpoint):
                return list(self._watched.get(outpoint, ()))
            case (
                FundingBuilt(channel_id=channel_id)
                | FundingFailed(channel_id=channel_id)
                | OfferHtlc(channel_id=channel_id)
                | SettleHtlc(channel_id=channel_id)
                | FailHtlc(channel_id=channel_id)
                | CloseRequested(channel_id=channel_id)
            ):
                return [channel_id]

    def addressed(self, event: MessageReceived) -> list[ChannelId | None]:
        """The channels of its sender that a message is about; None stands for one that is not there."""
        match event.message:
            case (
                OpenChannel(temporary_channel_id=raw)
                | AcceptChannel(temporary_channel_id=raw)
                | FundingCreated(temporary_channel_id=raw)
            ):
                channel_id = ChannelId(raw)
            case Error(channel_id=raw) | Warn(channel_id=raw) if raw == ALL_CHANNELS:
                return list(self._by_peer.get(event.peer, ()))
            case other:
                channel_id = ChannelId(other.channel_id)
        # A channel of another peer is as unknown to this one as one that never was.
        channel = self._channels.get(channel_id)
        return [channel_id] if channel is not None and channel.peer == event.peer else [None]

    def apply(self, channel_id: ChannelId | None, event: ChannelEvent, facts: Facts) -> tuple[ChannelEffect, ...]:
        """One event on one channel; its effects, with the indexes brought up to date."""
        self._feerate_is(facts.feerate)
        before = self._channels.get(channel_id) if channel_id is not None else None
        if before is None and (problem := self._no_room(event)) is not None:
            return (problem,)
        step = self._rules.handle(before, event, self._env(before, facts))
        if isinstance(event, Flush) and before is not None:
            self._dirty.pop(before.channel_id, None)
        return self._take(before, step, flushed=isinstance(event, Flush))

    def resume(self, channel_id: ChannelId, facts: Facts) -> tuple[ChannelEffect, ...]:
        """What a channel that was loaded still owes the world."""
        self._feerate_is(facts.feerate)
        channel = self._channels[channel_id]
        self._touched[channel.peer] = None
        return self._take(channel, self._rules.resume(channel, self._env(channel, facts)), flushed=False)

    def _env(self, channel: Channel | None, facts: Facts) -> Env:
        return Env(
            config=self._config.channel,
            keys=self._keys,
            facts=facts,
            asset=channel.asset if channel is not None else self._asset,
            accepts_chain=self._confirmed is not None,
        )

    def _no_room(self, event: ChannelEvent) -> SendMessage | None:
        """The refusal of a channel that a peer wants to open, before anything is made for it."""
        if not isinstance(event, MessageReceived) or not isinstance(event.message, OpenChannel):
            return None
        named = event.message.temporary_channel_id
        live = [channel for channel in self if channel.phase is not Phase.CLOSED]
        if ChannelId(named) in self._channels or named == ALL_CHANNELS:
            problem = "this temporary_channel_id is in use"
        elif len(live) >= self._config.max_channels:
            problem = "no room for another channel here"
        elif sum(channel.peer == event.peer for channel in live) >= self._config.max_channels_per_peer:
            problem = "there are too many channels between us already"
        elif sum(each.peer == event.peer and _is_unfunded(each) for each in live) >= self._config.max_opening_per_peer:
            problem = "too many of your channels are not confirmed yet"
        else:
            return None
        return SendMessage(peer=event.peer, message=Error(named, problem))

    def _take(self, before: Channel | None, step: Step, *, flushed: bool) -> tuple[ChannelEffect, ...]:
        after = step.channel
        if after is before:
            self._watch(before, step.effects)
            return step.effects
        moved = after is not None and before is not None and after.channel_id != before.channel_id
        if after is not None and (before is None or moved) and after.channel_id in self._channels:
            return self._collision(before, after)
        if before is not None and (after is None or moved):
            self._drop(before)
        if after is not None:
            self._put(after)
            if not flushed:
                self._dirty[after.channel_id] = None
            self._watch(after, step.effects)
        for changed in (before, after):
            if changed is not None:
                self._touched[changed.peer] = None
        return step.effects

    def _collision(self, before: Channel | None, after: Channel) -> tuple[ChannelEffect, ...]:
        """A peer names the funding of a channel that exists: taking it would replace that channel. Nothing is at stake in
        the new one yet, as nothing of it was signed."""
        self._touched[after.peer] = None
        effects: list[ChannelEffect] = []
        if before is not None:
            self._drop(before)
            effects.append(ForgetChannel(channel_id=before.channel_id))
        named = before.channel_id if before is not None else after.channel_id
        effects.append(SendMessage(peer=after.peer, message=Error(named, "this funding output belongs to a channel")))
        return tuple(effects)

    # --- indexes ----------------------------------------------------------------------------------------------------

    def _put(self, channel: Channel) -> None:
        self._channels[channel.channel_id] = channel
        self._by_peer.setdefault(channel.peer, {})[channel.channel_id] = None
        self._weigh(channel)

    def _drop(self, channel: Channel) -> None:
        channel_id, was_covered = channel.channel_id, self.covered
        del self._channels[channel_id]
        self._forget_end(channel_id)
        self._dirty.pop(channel_id, None)
        peers = self._by_peer[channel.peer]
        del peers[channel_id]
        if not peers:
            del self._by_peer[channel.peer]
        for key in self._watches.pop(channel_id, {}):
            watchers = self._watched[key]
            del watchers[channel_id]
            if not watchers:
                del self._watched[key]
        self._covers(was_covered)

    def _watch(self, channel: Channel | None, effects: Iterable[ChannelEffect]) -> None:
        for effect in effects:
            if isinstance(effect, WatchTx | WatchOutpoint) and channel is not None:
                key = effect.txid if isinstance(effect, WatchTx) else effect.outpoint
                self._watched.setdefault(key, {})[channel.channel_id] = None
                self._watches.setdefault(channel.channel_id, {})[key] = None


def _is_unfunded(channel: Channel) -> bool:
    """Whether its peer opens the channel and has nothing confirmed in it, however far the talk about it went."""
    return not channel.we_fund and channel.funding_height is None and not channel.ready_sent


def _is_guarded(channel: Channel) -> bool:
    """Whether its end on the chain is to be paid for. What a peer says it will fund must not use up the reserve."""
    return channel.phase not in BEFORE_FUNDING and channel.phase is not Phase.CLOSED and not _is_unfunded(channel)
