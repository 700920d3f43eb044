"""Who looks after our channels while we are away: what its owner is told about it (DESIGN 7)."""

from collections.abc import Iterable

from protocols.channel.state import Channel, Phase
from protocols.errors import DecodeError
from protocols.watch.policy import BountyConfig, least_bounty
from rrnode.control import models as m
from rrnode.control.text import peer_text
from rrnode.guards import Guards
from rrnode.remedies import plan_of, stake_of
from rrnode.services.covering import CoverClient
from rrnode.services.handing import Watcher
from rrnode.storage import Store

BOUNTIES = BountyConfig()


def report(client: CoverClient, store: Store, guards: Guards, channels: Iterable[Channel]) -> m.Cover:
    """Which watcher holds which newest state of each channel. Blocking."""
    watchers = list(client.watchers.values())
    return m.Cover(
        watchers=tuple(
            m.WatcherInfo(
                peer_id=peer_text(each.peer), address=each.address, connected=each.connected, problem=each.problem
            )
            for each in watchers
        ),
        channels=tuple(
            _channel(client, store, guards, channel, watchers)
            for channel in channels
            if channel.phase is not Phase.CLOSED
        ),
    )


def _channel(
    client: CoverClient, store: Store, guards: Guards, channel: Channel, watchers: list[Watcher]
) -> m.ChannelCover:
    held = tuple(_held(client, guards, channel, watcher) for watcher in watchers)
    revoked = channel.their_secrets.count
    notes = [_why_not(store, channel)] if revoked else []
    if not watchers:
        notes = ["no watcher is configured: somebody who is online must watch for this channel"]
    elif revoked and not any(each.has_newest for each in held):
        notes.insert(0, "no watcher holds the newest revoked state")
    elif revoked and not any(each.has_newest and not each.related for each in held):
        notes.insert(0, "only watchers that seem to belong to the neighbour hold the newest revoked state")
    elif revoked and all(each.lacks for each in held if not each.related):
        notes.insert(0, "no watcher holds all of its older revoked states, which the neighbour could publish, too")
    if client.quorum.waits(channel):
        notes.insert(
            0,
            f"takes on nothing new before {client.quorum.needed} watchers hold its newest revoked state (watch.quorum)",
        )
    return m.ChannelCover(
        channel_id=channel.channel_id.hex(),
        peer_id=peer_text(channel.peer),
        states_revoked=revoked,
        stake_sat=stake_of(channel),
        holders_of_newest=sum(each.has_newest and not each.related for each in held),
        held=held,
        note="; ".join(note for note in notes if note),
    )


def _held(client: CoverClient, guards: Guards, channel: Channel, watcher: Watcher) -> m.HeldStates:
    extent = client.extent(watcher, channel.channel_id)
    return m.HeldStates(
        peer_id=peer_text(watcher.peer),
        states=extent.states,
        lacks=extent.lacks,
        newest=extent.newest,
        has_newest=extent.newest is not None and extent.newest == channel.their_secrets.count - 1,
        until_height=extent.until,
        related=guards.related_watcher(watcher.peer, channel.peer),
    )


def _why_not(store: Store, channel: Channel) -> str:
    """Why the newest revoked state has no remedy, or not for all of it; "" when it has."""
    state = store.revoked_state(channel.channel_id, channel.their_secrets.count - 1)
    if state is None:
        return "its newest revoked state is not on disk yet"
    try:
        plan = plan_of(channel, state, stake_of(channel), BOUNTIES)
    except DecodeError as error:
        return f"what is kept of its newest revoked state cannot be read: {error}"
    if not plan.left:
        return ""
    reasons = "; ".join(
        f"{each.output.value} sat: {each.reason.value} ({least_bounty(each.output.kind, BOUNTIES)} sat at least)"
        for each in plan.left[:3]
    )
    return f"{'partly' if plan.priced else 'not'} covered by bounties: {reasons}"
