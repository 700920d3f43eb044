"""One channel, one event: the channel after, and what is to be done, in order.

Source: BOLT 2, DESIGN 6. The engine is a pure function over frozen state; no clock, no randomness. Which events mean
something in which phase stands in one table.
"""

from protocols.channel.events import ChannelEffect, ChannelEvent
from protocols.channel.state import Channel
from protocols.channel.step import Env, KeyRing, Step

__all__ = ["Env", "KeyRing", "Step", "handle", "loaded", "resume"]


def handle(channel: Channel | None, event: ChannelEvent, env: Env) -> Step:
    """What an event does to a channel.

    The caller finds the channel: by `channel_id` where event or message has one (open_channel, accept_channel and
    funding_created name the temporary id), every channel of the peer for `LinkUp` and `LinkDown`, every channel for
    `Flush` and `TipChanged`, the channel of the funding for `TxConfirmed`, `TxUnconfirmed`, `OutputSpent`, `SpendGone`
    (a channel ignores what is not its own). With None, `OpenRequested` and a received `OpenChannel` begin a channel
    (`Step.channel` is then new); messages for unknown channels are answered as BOLT 2 says.

    After a `StoreChannel(replaces=...)` the channel has another id.
    """
    raise NotImplementedError


def loaded(channel: Channel) -> Channel:
    """A channel as it comes from the disk: nothing volatile in it is trusted."""
    raise NotImplementedError


def resume(channel: Channel, env: Env) -> Step:
    """After loading (`loaded`): watches, publications that are due, and `HtlcReceived` for what is undecided."""
    raise NotImplementedError
