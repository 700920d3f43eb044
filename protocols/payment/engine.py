"""The money engine: every channel, payment, promise and forward of the node, so that what belongs together is stored together.

Source: DESIGN 3, 5 (R4, R5, R9 to R11, R14) and 6; THEORY, step 5. Events in, effects out; `Facts` carry clock, tip and
entropy. What to decide is in `payer`, `payee` and `forwarder`, the channels are in `book`; this module keeps what is
live and ties an incoming HTLC to what it causes. Every decision and the HTLC it leads to are effects of one event or of
one batch (`FindOffers` is answered within it), so a crash can fall between two payments, never into one.
"""

from typing import assert_never

from protocols.channel.engine import KeyRing
from protocols.channel.events import (
    Alarm,
    ChannelEvent,
    Flush,
    HtlcFailed,
    HtlcFulfilled,
    HtlcReceived,
    MessageReceived,
    Refusal,
)
from protocols.channel.state import UPDATING, Channel, Phase
from protocols.errors import MisuseError
from protocols.facts import Facts
from protocols.ids import ChannelId, PaymentHash, PeerId
from protocols.payment.book import Book, ChannelRules
from protocols.payment.carrying import Carrying
from protocols.payment.config import EngineConfig
from protocols.payment.cover import Cover
from protocols.payment.desk import Desk, Effect, Upward
from protocols.payment.events import (
    ChainReserveChanged,
    Forward,
    HtlcRef,
    LockRequested,
    NeighbourLiquidity,
    OffersFound,
    PayAbandoned,
    Payment,
    PaymentEvent,
    PayRequested,
    Promise,
    PromiseMade,
    RemediesHeld,
    Snapshot,
)
from protocols.payment.ledger import Ledger
from protocols.payment.paying import PAY, Paying
from protocols.payment.taking import Taking
from protocols.routing.events import Liquidity
from protocols.units import AssetId, Msat, Sat
from protocols.wire.channel import FailureCode

__all__ = ["Effect", "Engine", "Event"]

Event = ChannelEvent | PaymentEvent


class Engine:
    """Owns all money of a node that is not on the chain.

    Args:
        us: our node key.
        asset: the coin of the chain that new channels live on.
        keys: the secrets of each of our channels.
        snapshot: what was on disk.
        config: bounds and policies.
        rules: how one channel behaves; `protocols.channel.engine` unless a test says otherwise.
    """

    def __init__(
        self,
        *,
        us: PeerId,
        asset: AssetId,
        keys: KeyRing,
        snapshot: Snapshot | None = None,
        config: EngineConfig | None = None,
        rules: ChannelRules | None = None,
    ) -> None:
        snapshot = snapshot or Snapshot()
        self.us, self.asset = us, asset
        self.config = config or EngineConfig()
        self._cover = Cover(needed=self.config.needs_cover, patience=self.config.cover_patience)
        self._book = Book(
            asset=asset, keys=keys, config=self.config, channels=snapshot.channels, rules=rules, late=self._cover.late
        )
        self._ledger = Ledger(snapshot, history=self.config.history)
        self._desk = Desk(
            book=self._book,
            cover=self._cover,
            ledger=self._ledger,
            config=self.config,
            upward=self._told,
            left=self._htlcs_left,
        )
        self._paying, self._carrying, self._taking = Paying(self._desk, us), Carrying(self._desk), Taking(self._desk)

    # --- readers ----------------------------------------------------------------------------------------------------

    def channels(self) -> tuple[Channel, ...]:
        """Every channel that is not forgotten, oldest first."""
        return tuple(self._book)

    def channel(self, channel_id: ChannelId) -> Channel | None:
        """One channel, None when it is not known."""
        return self._book.get(channel_id)

    def concerns(self, event: MessageReceived) -> bool:
        """Whether a message is about a channel of the peer that sent it; all others are answered or ignored."""
        return any(self._book.addressed(event))

    def payments(self) -> tuple[Payment, ...]:
        """Payments that we make: all that live, and the newest ended ones; oldest first."""
        return tuple(self._ledger.payments.values())

    def payment(self, payment_hash: PaymentHash) -> Payment | None:
        """One of them."""
        return self._ledger.payments.get(payment_hash)

    def promises(self) -> tuple[Promise, ...]:
        """Payments that we take; likewise."""
        return tuple(self._ledger.promises.values())

    def promise(self, payment_hash: PaymentHash) -> Promise | None:
        """One of them."""
        return self._ledger.promises.get(payment_hash)

    def forwards(self) -> tuple[Forward, ...]:
        """Forwards whose HTLCs are not both gone."""
        return tuple(self._ledger.forwards.values())

    def liquidity(self, peer: PeerId) -> tuple[Liquidity, ...]:
        """What the channels with a neighbour can carry now: the largest single HTLC each way, per asset."""
        return self._book.liquidity(peer)

    def reserve_needed(self) -> Sat:
        """Confirmed satoshi that the end of every channel on the chain would take now, the HTLCs in them included."""
        return self._book.need

    def coins_needed(self) -> int:
        """In how many coins that reserve has to be, at the least."""
        return self._book.coins_needed

    def most_receivable(self, asset: AssetId) -> Msat:
        """The largest HTLC that any neighbour could offer us now."""
        return self._book.most(asset, ours=False)

    # --- events -----------------------------------------------------------------------------------------------------

    def handle(self, event: Event, facts: Facts) -> list[Effect]:
        """Take one event. Effects are to be done in this order, those to disk (`Store...`, `Drop...`, `Forget...`)
        committed before any other of the batch is performed."""
        out = self._desk.begin()
        match event:
            case PayRequested():
                self._paying.requested(event, facts)
            case LockRequested():
                self._paying.satisfied(event)
            case PayAbandoned():
                self._paying.abandoned(event, facts)
            case PromiseMade():
                self._taking.promised(event, facts)
            case OffersFound():
                self._offers(event, facts)
            case ChainReserveChanged(confirmed_sat=confirmed, coins=coins):
                self._book.reserve_is(confirmed, coins)
            case RemediesHeld():
                self._remedies_held(event, facts)
            case _:
                if isinstance(event, Flush):
                    self._give_up_late(facts)  # before it: what is failed here is signed with the rest
                for channel_id in self._book.targets(event):
                    self._desk.step(channel_id, event, facts)
        if isinstance(event, Flush):
            self._expire(facts)
            self._tell_liquidity()
        return out

    def resume(self, facts: Facts) -> list[Effect]:
        """Once, after loading and before any event: what the state on disk still owes the world."""
        out = self._desk.begin()
        for channel in self.channels():
            if channel.their_secrets.count:
                self._cover.behind(channel.channel_id, facts.now)
            self._desk.unfold(self._book.resume(channel.channel_id, facts), facts)
        for forward in self.forwards():
            self._carrying.resume(forward, facts)
        for payment in self.payments():
            self._paying.resume(payment, facts)
        self._expire(facts)
        self._tell_liquidity()
        return out

    def _tell_liquidity(self) -> None:
        for peer, liquidity in self._book.news():
            self._desk.out.append(NeighbourLiquidity(neighbour=peer, liquidity=liquidity))

    def _expire(self, facts: Facts) -> None:
        self._taking.expire(facts)
        self._paying.expire(facts)

    def _offers(self, found: OffersFound, facts: Facts) -> None:
        if found.reference.startswith(PAY):
            self._paying.offers(found, facts)
        else:
            self._carrying.offers(found, facts)

    # --- what channels tell -----------------------------------------------------------------------------------------

    def _told(self, told: Upward, facts: Facts) -> None:
        match told:
            case HtlcReceived():
                self._received(told, facts)
            case HtlcFulfilled() | HtlcFailed():
                self._resolved(told, facts)
            case _:
                assert_never(told)

    def _received(self, htlc: HtlcReceived, facts: Facts) -> None:
        incoming = HtlcRef(channel_id=htlc.channel_id, htlc_id=htlc.htlc_id)
        forward = self._ledger.forwards.get(incoming)
        if forward is not None:  # told again, after a restart or reconnect
            self._carrying.resume(forward, facts)
        else:
            self._decide(htlc, incoming, facts)

    def _decide(self, htlc: HtlcReceived, incoming: HtlcRef, facts: Facts, *, waited: bool = False) -> None:
        code = self._take_or_carry(htlc, incoming, facts, waited=waited)
        if code is not None:
            self._desk.fail_back(incoming, code, facts)

    def _take_or_carry(
        self, htlc: HtlcReceived, incoming: HtlcRef, facts: Facts, *, waited: bool
    ) -> FailureCode | None:
        """Whose it is: ours to claim, ours to carry on, or neither. `waited`: watchers hold what they must for it."""
        channel = self._book.get(htlc.channel_id)
        if channel is None:
            raise MisuseError("an HTLC on a channel that is not there")
        promise = self._ledger.promises.get(htlc.payment_hash)
        if promise is not None and promise.claimed_by == incoming:  # told again
            self._desk.settle(incoming, promise.preimage, facts)
            return None
        if not waited and (uncovered := self._cover.refusal(channel)):
            if uncovered is Refusal.UNCOVERED:
                return FailureCode.NODE_BUSY
            self._cover.keep(channel, incoming, htlc)
            return None
        if self._ledger.is_live(htlc.payment_hash):
            return FailureCode.DUPLICATE_HASH  # R11
        if promise is not None:
            return self._taking.received(promise, htlc, incoming, channel.asset, facts)
        if htlc.payment_hash in self._ledger.settled:
            return FailureCode.ALREADY_PAID
        return self._carrying.received(htlc, incoming, channel)

    # --- waiting for watchers ---------------------------------------------------------------------------------------

    def covering(self, channel_id: ChannelId) -> Refusal | None:
        """Why a channel waits for its watchers; None: it does not."""
        channel = self._book.get(channel_id)
        return None if channel is None or channel.phase not in UPDATING else self._cover.refusal(channel)

    def _remedies_held(self, told: RemediesHeld, facts: Facts) -> None:
        channel = self._book.get(told.channel_id)
        if channel is None:
            return
        self._cover.told(channel, told.states, facts.now)
        self._book.lateness_changed(told.channel_id)
        self._go_on(told.channel_id, facts)

    def _give_up_late(self, facts: Facts) -> None:
        """What waits in vain is refused, so that those whose money is locked for it get it back."""
        for channel_id in self._cover.overdue(facts.now):
            channel = self._book.get(channel_id)
            if channel is None or channel.phase is Phase.CLOSED:
                self._cover.forget(channel_id)
            elif channel.phase in UPDATING:
                self._book.lateness_changed(channel_id)
                text = f"nothing new is taken on: {Refusal.UNCOVERED.value}"
                self._desk.out.append(Alarm(channel_id=channel_id, text=text))
            self._go_on(channel_id, facts)  # others may wait for a channel that has ended, too

    def _go_on(self, channel_id: ChannelId, facts: Facts) -> None:
        """Decide what needs to wait no longer."""
        for incoming, htlc in self._cover.ready(channel_id):
            if self._desk.holds(incoming):
                self._decide(htlc, incoming, facts, waited=channel_id not in self._cover.late)
        for reference in self._cover.asking():
            if isinstance(reference, HtlcRef):
                self._carrying.look_again(reference, facts)
            else:
                self._paying.look_again(reference)

    def _resolved(self, told: HtlcFulfilled | HtlcFailed, facts: Facts) -> None:
        """An HTLC of ours has ended; told a second time, it has no owner any more."""
        outgoing = HtlcRef(channel_id=told.channel_id, htlc_id=told.htlc_id)
        owner = self._ledger.owner_of(outgoing)
        self._ledger.release(outgoing)
        match owner, told:
            case Payment(), HtlcFulfilled():
                self._paying.paid(owner, told, facts)
            case Payment(), HtlcFailed():
                self._paying.came_back(owner, told.code)
            case Forward(), HtlcFulfilled():
                self._carrying.paid(owner, told, facts)
            case Forward(), HtlcFailed():
                self._carrying.came_back(owner, facts)

    def _htlcs_left(self, channel_id: ChannelId) -> None:
        self._carrying.drop_settled(channel_id)
