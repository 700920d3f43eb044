"""The HTLCs that we carry for others (R5, R10, R11; THEORY, step 5). What fits is in `forwarder`."""

from collections.abc import Sequence
from dataclasses import replace

from protocols.channel.events import Alarm, HtlcFulfilled, HtlcReceived, Refusal
from protocols.channel.state import Channel, Phase
from protocols.errors import MisuseError
from protocols.facts import Facts
from protocols.ids import ChannelId
from protocols.payment import forwarder, payer
from protocols.payment.desk import Desk
from protocols.payment.events import DropForward, FindOffers, Forward, HtlcRef, OffersFound, OfferUsed, StoreForward
from protocols.routing.events import KeptOffer
from protocols.units import AssetId, Msat
from protocols.wire.channel import FailureCode

CARRY = b"carry"  # what the reference of a forwarder's FindOffers begins with; the incoming HTLC follows
_ENDING = frozenset({Phase.FORCED, Phase.LOST, Phase.CLOSED})  # an HTLC there is decided by the chain


class Carrying:
    """One forward after the other; at most one outgoing HTLC is live for each."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def received(self, htlc: HtlcReceived, incoming: HtlcRef, channel: Channel) -> FailureCode | None:
        """Carry an HTLC on, or say why not."""
        forwards = self._desk.ledger.forwards
        if len(forwards) >= self._desk.config.forward.max_live_forwards or not self._desk.book.may_hold(htlc.amount):
            return FailureCode.NODE_BUSY
        forward = Forward(
            incoming=incoming,
            payment_hash=htlc.payment_hash,
            incoming_amount=htlc.amount,
            incoming_expiry=htlc.expiry,
            upstream=channel.peer,
        )
        self._desk.ledger.keep_forward(forward)  # on disk once something of ours is locked for it
        self._ask_for(forward, channel.asset)
        return None

    def offers(self, found: OffersFound, facts: Facts) -> None:
        """The answer to our question."""
        channel_id, htlc_id = found.reference[len(CARRY) : -8], int.from_bytes(found.reference[-8:], "big")
        forward = self._desk.ledger.forwards.get(HtlcRef(channel_id=ChannelId(channel_id), htlc_id=htlc_id))
        if forward is not None and forward.outgoing is None and forward.preimage is None:
            self._lock(forward, found.offers, facts)

    def _ask_for(self, forward: Forward, asset: AssetId) -> None:
        incoming = forward.incoming
        self._desk.out.append(
            FindOffers(
                reference=CARRY + incoming.channel_id + incoming.htlc_id.to_bytes(8, "big"),
                payment_hash=forward.payment_hash,
                upstream=forward.upstream,
                asset=asset,
            )
        )

    def _lock(self, forward: Forward, offers: Sequence[KeptOffer], facts: Facts) -> None:
        """Offer the HTLC on to the cheapest kept offer that takes it, or fail it back."""
        policy, channel = self._desk.config.forward, self._desk.book.get(forward.incoming.channel_id)
        if channel is None or channel.phase in _ENDING or not channel.deep or not self._desk.holds(forward.incoming):
            # The chain decides over the incoming HTLC now, or may take the channel's coins away (a reorganisation did
            # take their confirmations): to lock another one for it would only be a risk.
            self._give_up(forward, FailureCode.CHANNEL_CLOSING, facts)
            return
        fit = forwarder.carry(forward, channel.asset, offers, policy=policy, tip=facts.tip, now=facts.now)
        failure, waits = fit.failure, False
        for offer in fit.offers if len(forward.tried) < policy.max_tries else ():
            answer = self._desk.offer_to(offer, CARRY, forward.payment_hash, fit.expiry, facts)
            if isinstance(answer, Refusal):
                failure = FailureCode.DOWNSTREAM_FAILED if forward.tried else FailureCode.NODE_BUSY
                waits = waits or answer is Refusal.NOT_COVERED_YET
                continue
            forward = replace(forward, outgoing=answer, outgoing_amount=offer.amount.msat, downstream=offer.neighbour)
            self._desk.ledger.keep_forward(forward)
            self._desk.out.append(StoreForward(forward=forward))
            return
        if waits:
            self._desk.cover.ask_again(forward.incoming)
        else:
            self._give_up(forward, failure, facts)

    def _give_up(self, forward: Forward, code: FailureCode, facts: Facts) -> None:
        """Fail the incoming HTLC back; nothing of ours is locked for it."""
        self._desk.ledger.drop_forward(forward)
        if forward.downstream is not None:  # it was stored
            self._desk.out.append(DropForward(incoming=forward.incoming, earned=Msat(0)))
        self._desk.fail_back(forward.incoming, code, facts)

    def came_back(self, forward: Forward, facts: Facts) -> None:
        """The outgoing HTLC is irrevocably gone (R10): the next offer, if there is one that still pays."""
        downstream = forward.downstream
        if downstream is None:
            raise MisuseError("an outgoing HTLC without a neighbour")
        amount = forward.outgoing_amount
        forward = replace(forward, outgoing=None, outgoing_amount=Msat(0), tried=(*forward.tried, downstream))
        self._desk.ledger.keep_forward(forward)
        self._desk.out += [
            StoreForward(forward=forward),
            OfferUsed(
                payment_hash=forward.payment_hash,
                downstream=downstream,
                paid=False,
                amount=amount,
                upstream=forward.upstream,
            ),
        ]
        self._look_again(forward, facts)

    def _look_again(self, forward: Forward, facts: Facts) -> None:
        channel = self._desk.book.get(forward.incoming.channel_id)
        if channel is None:
            self._give_up(forward, FailureCode.CHANNEL_CLOSING, facts)
        else:
            self._ask_for(forward, channel.asset)

    def look_again(self, incoming: HtlcRef, facts: Facts) -> None:
        """Watchers hold more now, or are late: what found only channels that wait for them is tried once more."""
        forward = self._desk.ledger.forwards.get(incoming)
        if forward is not None and forward.outgoing is None and forward.preimage is None:
            self._look_again(forward, facts)

    def paid(self, forward: Forward, told: HtlcFulfilled, facts: Facts) -> None:
        """The preimage came back: to disk first, then claim with it upstream."""
        forward = replace(forward, preimage=told.preimage)
        self._desk.out.append(StoreForward(forward=forward))
        if forward.downstream is not None:
            self._desk.out.append(
                OfferUsed(
                    payment_hash=forward.payment_hash,
                    downstream=forward.downstream,
                    paid=True,
                    amount=forward.outgoing_amount,
                    upstream=forward.upstream,
                )
            )
        self._desk.ledger.keep_forward(forward)
        if not self._desk.holds(forward.incoming):
            text = f"{payer.in_words(forward.outgoing_amount)} were claimed from us after the incoming lock had ended"
            self._desk.out.append(Alarm(channel_id=told.channel_id, text=text))
        self._settle_upstream(forward, facts)

    def _settle_upstream(self, forward: Forward, facts: Facts) -> None:
        if forward.preimage is None:
            raise MisuseError("a forward is settled without its preimage")
        if self._desk.holds(forward.incoming):
            self._desk.settle(forward.incoming, forward.preimage, facts)
        else:
            self._drop(forward)

    def drop_settled(self, channel_id: ChannelId) -> None:
        """Forwards that are settled upstream end when their incoming HTLC has left the channel."""
        held = self._desk.book.incoming_in(channel_id)
        for forward in self._desk.ledger.settled_on(channel_id):
            if forward.incoming.htlc_id not in held:
                self._drop(forward)

    def _drop(self, forward: Forward) -> None:
        self._desk.ledger.drop_forward(forward)
        book = self._desk.book
        incoming = book.get(forward.incoming.channel_id)
        outgoing = book.get(forward.outgoing.channel_id) if forward.outgoing is not None else None
        same = incoming is None or outgoing is None or incoming.asset == outgoing.asset
        earned = Msat(forwarder.earned(forward, same_asset=same))
        self._desk.out.append(DropForward(incoming=forward.incoming, earned=earned))

    def resume(self, forward: Forward, facts: Facts) -> None:
        """Go on with a forward as it stands on disk."""
        if forward.incoming not in self._desk.ledger.forwards:
            return  # ended while others were resumed
        if forward.preimage is not None:
            self._settle_upstream(forward, facts)
        elif forward.outgoing is None:
            self._look_again(forward, facts)
