"""Lines and sums about channels for people."""

from protocols.channel.state import Phase
from protocols.payment.summary import ChannelSummary, ours_in_all, summary_of
from protocols.units import Msat, Sat


def test_a_line_says_where_the_capacity_is(kit, desk):
    desk.locked(kit.offer("near", 1_002_000))
    desk.htlc_in("near", 2, 7_000)
    assert summary_of(desk.channel("near")) == ChannelSummary(
        channel_id=kit.channel_id("near"),
        peer=kit.peer("near"),
        asset=kit.COIN,
        phase=Phase.OPEN,
        usable=True,
        we_fund=True,
        capacity=Sat(1_000_000),
        ours=Msat(498_998_000),
        theirs=Msat(499_993_000),
        offered=Msat(1_002_000),
        received=Msat(7_000),
        can_send=Msat(497_998_000),
        can_receive=Msat(498_993_000),
        htlcs=2,
    )


def test_the_sum_counts_what_is_offered_as_ours_and_leaves_other_coins_and_closed_channels_out(kit, desk):
    desk.locked(kit.offer("near", 1_002_000))
    channels = (*desk.engine.channels(), kit.channel("gold", asset=kit.GOLD), kit.channel("old", phase=Phase.CLOSED))
    assert ours_in_all(channels, kit.COIN) == 1_500_000_000
