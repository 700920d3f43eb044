"""Opening a channel at the order of this node's owner, up to where its funding is on its way to the chain (BOLT 2)."""

import os
from contextlib import suppress

import trio

from protocols.channel.events import OpenRequested
from protocols.channel.state import BEFORE_FUNDING, Channel
from protocols.ids import ChannelId, PeerId
from protocols.units import Msat, Sat, to_msat
from rrnode.control.text import peer_text
from rrnode.errors import ChainUnavailable, UserError
from rrnode.node import Node

LINK_WITHIN = 15.0  # seconds for a channel's stream to stand once the peer is linked
OPEN_WITHIN = 60.0  # seconds for a neighbour and our wallet to agree on a channel
PUBLISHED_WITHIN = 5.0
PUBLISHED_EVERY = 0.02


async def open_channel(node: Node, peer: PeerId, capacity: Sat, push: Msat) -> Channel:
    """Agree with a connected peer on a channel and fund it.

    Args:
        capacity: what we put in, satoshi.
        push: what of it is theirs from the start, millisatoshi.

    Raises:
        UserError: why it cannot be; nothing was spent.
    """
    if peer == node.us:
        raise UserError("a channel needs somebody else")
    if peer not in node.host.connected():
        raise UserError(f"{peer_text(peer)} is not connected", "connect first: rrnode connect ADDRESS")
    if why := node.guards.refuses_neighbour(peer):
        raise UserError(why, "see: rrnode audit")
    if to_msat(capacity) < push:
        raise UserError("more would be given away than the channel holds")
    node.channels.want(peer)
    with trio.move_on_after(LINK_WITHIN):
        while not node.channels.is_up(peer):
            await node.changed()
    if not node.channels.is_up(peer):
        raise UserError(f"{peer_text(peer)} is connected but does not speak about channels", "try again in a moment")
    temporary = ChannelId(os.urandom(32))
    key_index = await trio.to_thread.run_sync(node.wallet.reserve_key_index)
    order = OpenRequested(temporary_id=temporary, peer=peer, key_index=key_index, capacity=capacity, push=push)
    with node.openings.following(temporary) as opening:
        await node.ask(order)
        with trio.move_on_after(OPEN_WITHIN):
            while not opening.reason and not _agreed(node.money.channel(opening.now_called)):
                await node.changed()
        channel = node.money.channel(opening.now_called)
    if opening.reason:
        raise UserError(opening.reason, opening.hint)
    if channel is None or not _agreed(channel):
        raise UserError("the neighbour did not answer in time; nothing was spent", "try again later")
    await _until_published(node, channel)
    return channel


async def _until_published(node: Node, channel: Channel) -> None:
    """Wait a moment until the chain knows the funding; if it does not, it is published again at each block."""
    assert channel.funding is not None
    with trio.move_on_after(PUBLISHED_WITHIN), suppress(ChainUnavailable):
        # A backend tells nobody when it has taken something, so it is asked.
        while await node.backend.unspent(channel.funding.txid, channel.funding.index) is None:  # noqa: ASYNC110
            await trio.sleep(PUBLISHED_EVERY)


def _agreed(channel: Channel | None) -> bool:
    """Whether both have signed: the funding transaction is stored and on its way."""
    return channel is not None and channel.phase not in BEFORE_FUNDING
