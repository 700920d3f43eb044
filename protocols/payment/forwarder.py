"""The forwarder: an HTLC came in; which kept offers can carry it on, and what to answer when none can (R5, R10; THEORY 5)."""

from collections.abc import Sequence
from dataclasses import dataclass

from protocols.payment.events import Forward, ForwardPolicy
from protocols.routing.events import KeptOffer
from protocols.units import Amount, AssetId, BlockHeight, UnixTime
from protocols.wire.channel import FailureCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Carry:
    """What to try, cheapest first, with the height at which each outgoing HTLC must end; or why there is nothing."""

    offers: tuple[KeptOffer, ...]
    expiry: BlockHeight
    failure: FailureCode


def carry(
    forward: Forward,
    asset: AssetId,
    offers: Sequence[KeptOffer],
    *,
    policy: ForwardPolicy,
    tip: BlockHeight,
    now: UnixTime,
) -> Carry:
    """Offers whose quote the incoming HTLC pays and whose lock fits under it, less our delta.

    Args:
        asset: what the incoming HTLC is of; a quote in another is no price for it.
        offers: as the routing table holds them, each with what we asked of this upstream neighbour.
    """
    outgoing = BlockHeight(forward.incoming_expiry - policy.lock_delta)
    paid = Amount(forward.incoming_amount, asset)
    fitting: list[KeptOffer] = []
    # The answer names the nearest miss: a price that is too low says more than a hash that is known to nobody.
    failure = FailureCode.DOWNSTREAM_FAILED if forward.tried else FailureCode.UNKNOWN_HASH
    misses = set()
    for offer in offers:
        if offer.neighbour == forward.upstream or offer.neighbour in forward.tried or offer.quote.asset != asset:
            continue
        if offer.expiry + policy.offer_grace < now:
            misses.add(FailureCode.OFFER_EXPIRED)
        elif offer.quote > paid:
            misses.add(FailureCode.AMOUNT_TOO_LOW)
        elif outgoing < tip + offer.lock_blocks:
            misses.add(FailureCode.EXPIRY_TOO_SOON)
        else:
            fitting.append(offer)
    if not forward.tried:
        for code in (FailureCode.EXPIRY_TOO_SOON, FailureCode.AMOUNT_TOO_LOW, FailureCode.OFFER_EXPIRED):
            if code in misses:
                failure = code
                break
    fitting.sort(key=lambda offer: (offer.quote.msat, offer.lock_blocks))  # stable: then first seen (R4)
    return Carry(offers=tuple(fitting), expiry=outgoing, failure=failure)


def earned(forward: Forward, *, same_asset: bool) -> int:
    """What a settled forward brought us, millisatoshi; see `DropForward`."""
    return forward.incoming_amount - forward.outgoing_amount if same_asset else 0
