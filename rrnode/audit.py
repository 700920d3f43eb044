"""`rrnode audit`: per channel, whose collusion could rob this node, as things are now (DESIGN 2; `protocols.watch.collusion`)."""

from collections.abc import Iterable

import trio

from protocols.channel.state import BEFORE_FUNDING, Channel, Phase, balances
from protocols.ids import ChannelId, PeerId
from protocols.units import Msat
from protocols.watch.collusion import Collusion, Guarded, Means, Party, When, smallest
from rrnode.chain.base import ChainBackend
from rrnode.control import models as m
from rrnode.control.text import peer_text
from rrnode.guards import Guards
from rrnode.relations import Known, groups, relation
from rrnode.services.covering import CoverClient

_WHEN = {When.AWAY: "away", When.UP: "up"}
_MEANS = {Means.OLD_STATE: "old state", Means.IN_FLIGHT: "payments in flight"}


async def report(channels: Iterable[Channel], guards: Guards, client: CoverClient, backend: ChainBackend) -> m.Audit:
    """The smallest sets for each channel with money in it."""
    concerned = [each for each in channels if each.phase is not Phase.CLOSED and each.phase not in BEFORE_FUNDING]
    holders = await trio.to_thread.run_sync(_holders, client, concerned)
    told_by = backend.helpers()
    helpers = frozenset(each.peer for each in told_by if each.looks_out) if told_by else None
    watchers = frozenset(client.watchers)
    ours = [guards.of(each) for each in {each.peer for each in told_by} | watchers]
    found = []
    for channel in concerned:
        await trio.lowlevel.checkpoint()  # there may be a thousand
        held = balances(channel)
        guarded = Guarded(
            neighbour=channel.peer,
            ours=held.ours,
            in_flight=Msat(held.offered + held.received),
            old_states=channel.their_secrets.count,
            holders=holders[channel.channel_id],
            helpers=helpers,
        )
        known = {each.peer: each for each in (*ours, guards.of(channel.peer))}
        sets = smallest(guarded, groups(known.values()))
        found.append(
            m.ChannelAudit(
                channel_id=channel.channel_id.hex(),
                peer_id=peer_text(channel.peer),
                to_self_delay_blocks=channel.our_terms.to_self_delay,
                sets=tuple(_set(each, guarded, known) for each in sets),
                warning=guards.unwatched(channel.peer),
            )
        )
    return m.Audit(own_chain=helpers is None, channels=tuple(found))


def _holders(client: CoverClient, channels: Iterable[Channel]) -> dict[ChannelId, frozenset[PeerId]]:
    """By channel, the watchers that hold the remedies of its revoked states: of the newest, and of all before it, since the
    neighbour would publish the one that is missing. Blocking."""
    found = {}
    for channel in channels:
        newest, holders = channel.their_secrets.count - 1, []
        for watcher in client.watchers.values():
            extent = client.extent(watcher, channel.channel_id)
            if extent.newest == newest and not extent.lacks:
                holders.append(watcher.peer)
        found[channel.channel_id] = frozenset(holders)
    return found


def _set(collusion: Collusion, guarded: Guarded, known: dict[PeerId, Known]) -> m.AuditSet:
    parties = sorted(collusion.parties, key=lambda party: (guarded.neighbour not in party, sorted(party)))
    return m.AuditSet.model_validate(
        {
            "when": _WHEN[collusion.when],
            "means": _MEANS[collusion.means],
            "at_stake_msat": collusion.at_stake,
            "parties": tuple(_party(each, guarded, known) for each in parties),
        }
    )


def _party(party: Party, guarded: Guarded, known: dict[PeerId, Known]) -> m.AuditParty:
    members = sorted(party, key=lambda peer: (peer != guarded.neighbour, peer))
    roles = {
        "neighbour": {guarded.neighbour},
        "helper": guarded.helpers or frozenset(),
        "watcher": guarded.holders,
    }
    return m.AuditParty(
        peers=tuple(
            m.AuditPeer.model_validate(
                {"peer_id": peer_text(peer), "roles": tuple(name for name, those in roles.items() if peer in those)}
            )
            for peer in members
        ),
        why=tuple(
            f"{peer_text(one)} {why} as {peer_text(other)}"
            for place, one in enumerate(members)
            for other in members[:place]
            if (why := relation(known[one], known[other]))
        ),
    )
