"""What payer, payee and forwarder share: the channels, the ledger, and the effects of the event at hand."""

from collections.abc import Callable, Sequence

from protocols.channel.events import (
    ChannelEffect,
    ChannelEvent,
    FailHtlc,
    HtlcFailed,
    HtlcFulfilled,
    HtlcOffered,
    HtlcReceived,
    HtlcRefused,
    OfferHtlc,
    Refusal,
    SettleHtlc,
    StoreRevoked,
)
from protocols.channel.state import is_usable
from protocols.errors import MisuseError
from protocols.facts import Facts
from protocols.ids import ChannelId, PaymentHash, Preimage
from protocols.payment.book import Book
from protocols.payment.config import EngineConfig
from protocols.payment.cover import Cover
from protocols.payment.events import HtlcRef, PaymentEffect
from protocols.payment.ledger import Ledger
from protocols.routing.events import KeptOffer
from protocols.units import BlockHeight
from protocols.wire.channel import FailureCode

Effect = ChannelEffect | PaymentEffect
Upward = HtlcReceived | HtlcFulfilled | HtlcFailed


class Desk:
    """Gives orders to channels and passes on what follows.

    Args:
        upward: takes what channels tell about HTLCs.
        left: told when HTLCs have left a channel, or the channel has ended.
    """

    def __init__(
        self,
        *,
        book: Book,
        cover: Cover,
        ledger: Ledger,
        config: EngineConfig,
        upward: Callable[[Upward, Facts], None],
        left: Callable[[ChannelId], None],
    ) -> None:
        self.book, self.cover, self.ledger, self.config = book, cover, ledger, config
        self._upward, self._left = upward, left
        self.out: list[Effect] = []

    def begin(self) -> list[Effect]:
        """A new, empty list of effects for the event at hand."""
        self.out = []
        return self.out

    def step(self, channel_id: ChannelId | None, event: ChannelEvent, facts: Facts) -> None:
        """One event on one channel, and all that follows from it."""
        watched = channel_id in self.ledger.settling
        before = self.book.get(channel_id) if watched and channel_id is not None else None
        self.unfold(self.book.apply(channel_id, event, facts), facts)
        if before is not None and channel_id is not None:
            after = self.book.get(channel_id)
            if after is None or len(after.htlcs) < len(before.htlcs) or after.phase is not before.phase:
                self._left(channel_id)

    def unfold(self, effects: Sequence[ChannelEffect], facts: Facts) -> None:
        """Pass a channel's effects on, those meant for payments upward."""
        for effect in effects:
            match effect:
                case HtlcReceived() | HtlcFulfilled() | HtlcFailed():
                    self._upward(effect, facts)
                case HtlcOffered() | HtlcRefused():
                    raise MisuseError("an answer to an HTLC that was not offered here")
                case StoreRevoked(channel_id=channel_id):
                    self.cover.behind(channel_id, facts.now)
                    self.out.append(effect)
                case _:
                    self.out.append(effect)

    def offer_to(
        self, kept: KeptOffer, reference: bytes, payment_hash: PaymentHash, expiry: BlockHeight, facts: Facts
    ) -> HtlcRef | Refusal:
        """Lock an HTLC to the neighbour who made this offer, over whichever channel takes it. `NOT_COVERED_YET`: one may soon."""
        refusal, waits = Refusal.NOT_OPEN, False
        for channel in self.book.carriers(kept.neighbour, kept.amount.asset, kept.amount.msat):
            # One that is closing, or whose peer is gone, says so itself: watchers would be waited for in vain.
            if is_usable(channel) and (uncovered := self.cover.refusal(channel)):
                refusal, waits = uncovered, waits or uncovered is Refusal.NOT_COVERED_YET
                continue
            if not self.book.may_offer(channel, kept.amount.msat, expiry):
                refusal = Refusal.NO_CHAIN_RESERVE
                continue
            offer = OfferHtlc(
                channel_id=channel.channel_id,
                reference=reference,
                amount=kept.amount.msat,
                payment_hash=payment_hash,
                expiry=expiry,
            )
            answer = self._offer(offer, facts)
            if isinstance(answer, HtlcRef):
                return answer
            refusal = answer
        return Refusal.NOT_COVERED_YET if waits else refusal

    def _offer(self, offer: OfferHtlc, facts: Facts) -> HtlcRef | Refusal:
        answer: HtlcRef | Refusal | None = None
        for effect in self.book.apply(offer.channel_id, offer, facts):
            match effect:
                case HtlcOffered(channel_id=channel_id, htlc_id=htlc_id):
                    answer = HtlcRef(channel_id=channel_id, htlc_id=htlc_id)
                case HtlcRefused(reason=reason):
                    answer = reason
                case _:
                    self.out.append(effect)
        if answer is None:
            raise MisuseError("an OfferHtlc without an answer")
        return answer

    def fail_back(self, incoming: HtlcRef, code: FailureCode, facts: Facts) -> None:
        """Give up an HTLC of theirs."""
        channel_id, htlc_id = incoming.channel_id, incoming.htlc_id
        self.step(channel_id, FailHtlc(channel_id=channel_id, htlc_id=htlc_id, code=code), facts)

    def settle(self, incoming: HtlcRef, preimage: Preimage, facts: Facts) -> None:
        """Claim an HTLC of theirs."""
        channel_id, htlc_id = incoming.channel_id, incoming.htlc_id
        self.step(channel_id, SettleHtlc(channel_id=channel_id, htlc_id=htlc_id, preimage=preimage), facts)

    def holds(self, incoming: HtlcRef) -> bool:
        """Whether an HTLC of theirs is still in its channel."""
        return incoming.htlc_id in self.book.incoming_in(incoming.channel_id)
