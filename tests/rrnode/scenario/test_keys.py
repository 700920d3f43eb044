"""The keys of a channel are its own: with the secrets of another, its states would be punished as revoked ones."""

from scenario_kit import World


async def test_two_channels_that_others_open_never_share_keys(net: World) -> None:
    """Whoever is shown an index's keys may use them, whether or not anything of the channel is on disk by then."""
    alice, bob, carol = await net.add("A"), await net.add("B"), await net.add("C")
    await net.mine(101)
    await net.channel(alice, bob)
    await net.channel(carol, bob)
    await net.channel(alice, bob)
    indexes = [channel.key_index for channel in bob.node.money.channels()]
    assert len(set(indexes)) == 3
