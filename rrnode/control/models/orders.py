"""Bodies of requests, with the bounds within which they are taken at all."""

from typing import Annotated

from pydantic import Field

from protocols.units import MAX_MSAT, MAX_SAT, PPM
from rrnode.control.models.base import Model

_PeerText = Annotated[str, Field(min_length=1, max_length=1024)]
_PaymentText = Annotated[str, Field(min_length=1, max_length=4096)]
_Memo = Annotated[str, Field(max_length=256)]


class ConnectOrder(Model):
    """`address` is a multiaddr ending in `/p2p/<peer id>`."""

    address: _PeerText


class OpenOrder(Model):
    """`peer` is a peer id of a connected or known peer, or a multiaddr, which is dialled first."""

    peer: _PeerText
    capacity_sat: int = Field(gt=0, le=MAX_SAT)
    push_msat: int = Field(default=0, ge=0, le=MAX_MSAT)


class CloseOrder(Model):
    force: bool = False


class RequestOrder(Model):
    amount_msat: int = Field(gt=0, le=MAX_MSAT)
    memo: _Memo = ""
    expiry_s: int = Field(default=3600, ge=10, le=30 * 86400)


class PayOrder(Model):
    """Pay a request string, or `amount_msat` to a contact string.

    Attributes:
        amount_msat: for a contact; with a request it may only repeat the request's amount.
        ceiling_msat: the most to be paid, fees included; None: from `max_fee_msat`, else the configuration.
        max_fee_msat: the most to be paid in fees; not together with `ceiling_msat`.
        quiet_ms, maximum_ms, good_enough_ppm: overrides of the wait policy (R9).
        asleep_s: how long to wait for a payee that is away; 0: not at all; None: from the configuration.
    """

    target: _PaymentText
    amount_msat: int | None = Field(default=None, gt=0, le=MAX_MSAT)
    ceiling_msat: int | None = Field(default=None, gt=0, le=MAX_MSAT)
    max_fee_msat: int | None = Field(default=None, ge=0, le=MAX_MSAT)
    quiet_ms: int | None = Field(default=None, ge=0, le=3_600_000)
    maximum_ms: int | None = Field(default=None, ge=1, le=3_600_000)
    good_enough_ppm: int | None = Field(default=None, ge=0, le=PPM)
    memo: _Memo = ""
    asleep_s: int | None = Field(default=None, ge=0, le=14 * 86400)


class ReceiveOrder(Model):
    """`text` is what the payer's `rrnode pay --out-of-band` made."""

    text: _PaymentText


class SendOrder(Model):
    """`amount_sat` None sends everything that is not reserved."""

    address: Annotated[str, Field(min_length=1, max_length=128)]
    amount_sat: int | None = Field(default=None, gt=0, le=MAX_SAT)
    feerate_sat_per_kvb: int | None = Field(default=None, ge=1000, le=10_000_000)


class MineOrder(Model):
    """`address` None pays the coinbase to the node's own wallet."""

    blocks: int = Field(default=1, ge=1, le=1000)
    address: Annotated[str, Field(min_length=1, max_length=128)] | None = None
