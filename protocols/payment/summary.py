"""What a person wants to see of the channels: one line each, and the sums. Read only."""

from collections.abc import Iterable
from dataclasses import dataclass

from protocols.channel.state import Channel, Phase, balances, is_usable, receivable, spendable
from protocols.ids import ChannelId, PeerId
from protocols.units import AssetId, Msat, Sat


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSummary:
    """One channel; amounts in millisatoshi of `asset` unless said otherwise.

    Attributes:
        ours, theirs: in no HTLC. offered, received: in HTLCs, by whoever offered them. The four sum to the capacity.
        can_send, can_receive: the largest single HTLC that could move now.
        htlcs: in flight.
    """

    channel_id: ChannelId
    peer: PeerId
    asset: AssetId
    phase: Phase
    usable: bool
    we_fund: bool
    capacity: Sat
    ours: Msat
    theirs: Msat
    offered: Msat
    received: Msat
    can_send: Msat
    can_receive: Msat
    htlcs: int


def summary_of(channel: Channel) -> ChannelSummary:
    """One channel in a line."""
    held = balances(channel)
    return ChannelSummary(
        channel_id=channel.channel_id,
        peer=channel.peer,
        asset=channel.asset,
        phase=channel.phase,
        usable=is_usable(channel),
        we_fund=channel.we_fund,
        capacity=channel.capacity,
        ours=held.ours,
        theirs=held.theirs,
        offered=held.offered,
        received=held.received,
        can_send=spendable(channel),
        can_receive=receivable(channel),
        htlcs=len(channel.htlcs),
    )


def ours_in_all(channels: Iterable[Channel], asset: AssetId) -> Msat:
    """Everything of ours in channels that have not closed, HTLCs that we offered included until they are claimed."""
    total = 0
    for channel in channels:
        if channel.asset == asset and channel.phase is not Phase.CLOSED:
            held = balances(channel)
            total += held.ours + held.offered
    return Msat(total)
