"""What a channel engine's handlers are given besides the channel, and what they give back."""

from collections.abc import Callable
from dataclasses import dataclass

from protocols.channel.events import ChannelConfig, ChannelEffect, StoreChannel
from protocols.channel.state import Channel
from protocols.facts import Facts
from protocols.onchain.keys import ChannelKeys
from protocols.units import AssetId

KeyRing = Callable[[int], ChannelKeys]


@dataclass(frozen=True, slots=True, kw_only=True)
class Env:
    """What a channel may look at besides its own state.

    Attributes:
        config: what we demand and grant.
        keys: our keys by `Channel.key_index`.
        facts: of this event.
        asset: genesis hash of the chain our channels live on.
        accepts_chain: whether the chain can be reached: without it no channel is opened or accepted, no HTLC offered.
    """

    config: ChannelConfig
    keys: KeyRing
    facts: Facts
    asset: AssetId
    accepts_chain: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """The channel after an event (None: there is none, or none any more) and what is to be done, in order."""

    channel: Channel | None
    effects: tuple[ChannelEffect, ...] = ()


def keep(channel: Channel | None, *effects: ChannelEffect) -> Step:
    """A step after which the disk needs no new state: nothing that binds us has changed."""
    return Step(channel, effects)


def store(channel: Channel, *effects: ChannelEffect) -> Step:
    """A step whose state goes to disk before its effects are performed."""
    return Step(channel, (StoreChannel(channel=channel), *effects))


def then(first: Step, second: Step) -> Step:
    """One step of two: effects in their order, and one store of the state after both."""
    effects = (*first.effects, *second.effects)
    rest = tuple(each for each in effects if not isinstance(each, StoreChannel))
    if len(rest) == len(effects) or second.channel is None:
        return Step(second.channel, effects)
    return store(second.channel, *rest)
