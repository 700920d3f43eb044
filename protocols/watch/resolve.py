"""Resolve every output of a close: what to publish, what to watch, and when an HTLC has ended.

Source: BOLT 5, DESIGN 6 and R10. Pure functions over `Close` (chain facts) and `Context` (the channel, see there).

How the channel engine uses it:
- to close by force, or on a spend of the funding output: `channel.close` becomes `Close()` where it was None;
- `force(close, context, facts)` publishes our commitment;
- every `OutputSpent` and `SpendGone` (also those of the funding output), `TipChanged` and `SettleHtlc` of a channel whose
  close is not None goes to `advance`. For `SettleHtlc` the context has the preimage already (`LiveHtlc.preimage`);
- `resume(close, context, facts)` after a start;
- `Close.resolved`: the channel is closed, for good.
"""

from protocols.channel.events import ChannelEffect, OutputSpent, SettleHtlc, SpendGone, TipChanged
from protocols.facts import Facts
from protocols.watch.state import Close, Context

CloseEvent = OutputSpent | SpendGone | TipChanged | SettleHtlc


def force(close: Close, context: Context, facts: Facts) -> tuple[Close, list[ChannelEffect]]:
    """Decide to publish our commitment, and order it unless another spend of the funding output is seen. Idempotent."""
    raise NotImplementedError


def advance(close: Close, event: CloseEvent, context: Context, facts: Facts) -> tuple[Close, list[ChannelEffect]]:
    """The close after an event, and what is to be done: `Publish...`, `WatchOutpoint`, `HtlcFulfilled`, `HtlcFailed`, `Alarm`.

    Events that concern none of its outputs change nothing. Publications are ordered at each `TipChanged` until they are
    confirmed, and again when they vanish; sweeps are signed anew each time, at the feerate of the day.
    """
    raise NotImplementedError


def resume(close: Close, context: Context, facts: Facts) -> list[ChannelEffect]:
    """After a start: the watches of this close again, and the publications due."""
    raise NotImplementedError
