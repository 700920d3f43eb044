"""Channels and what can move through them."""

from rrnode.control.models.base import Model


class ChannelInfo(Model):
    """One channel.

    Attributes:
        phase: the channel engine's word for where it is in its life (`open`, `closing`, ...).
        usable: payments can pass now: open, reestablished, peer connected.
        ours_msat, theirs_msat: settled balances; what is in flight is in neither.
        can_send_msat, can_receive_msat: the largest single HTLC that could move now.
        closing_txid: the transaction that closes it, once known.
        note: what is waited for, or why it failed; a sentence or "".
        warning: what its owner should do about who guards it; a sentence or "".
    """

    channel_id: str
    peer_id: str
    phase: str
    usable: bool
    funded_by_us: bool
    capacity_sat: int
    ours_msat: int
    theirs_msat: int
    in_flight_out_msat: int = 0
    in_flight_in_msat: int = 0
    can_send_msat: int = 0
    can_receive_msat: int = 0
    our_reserve_sat: int = 0
    their_reserve_sat: int = 0
    htlcs: int = 0
    funding_txid: str = ""
    funding_index: int = 0
    funding_height: int | None = None
    states_revoked: int = 0
    closing_txid: str = ""
    note: str = ""
    warning: str = ""
