"""Who guards this node's channels, who could rob it, and the breaches of others that it hunts (DESIGN 7)."""

from typing import Literal

from rrnode.control.models.base import Model


class WatcherInfo(Model):
    """A watcher of ours. `problem` says why it is not used, or holds less than it could."""

    peer_id: str
    address: str
    connected: bool
    problem: str = ""


class HeldStates(Model):
    """What one watcher holds of one channel: how many revoked states, the newest of them, until when the first is kept.

    Attributes:
        lacks: revoked states that it should hold and does not.
        related: why it counts for nothing on this channel: it seems to belong to the neighbour.
    """

    peer_id: str
    states: int
    lacks: int = 0
    newest: int | None = None
    has_newest: bool = False
    until_height: int | None = None
    related: str = ""


class ChannelCover(Model):
    """Who could stop a cheat on one channel while this node is away.

    Attributes:
        states_revoked: numbered from 0.
        stake_sat: what the neighbour is sure to lose by cheating; bounties are paid out of half of it.
        note: why it is not covered, or not wholly; a sentence or "".
    """

    channel_id: str
    peer_id: str
    states_revoked: int
    stake_sat: int
    holders_of_newest: int
    held: tuple[HeldStates, ...] = ()
    note: str = ""


class Cover(Model):
    watchers: tuple[WatcherInfo, ...]
    channels: tuple[ChannelCover, ...]


class AuditPeer(Model):
    """A peer and what it is to this channel; one node may be helper and watcher."""

    peer_id: str
    roles: tuple[Literal["neighbour", "helper", "watcher"], ...]


class AuditParty(Model):
    """Peers who seem to belong together, and a sentence for each two of them about why; most often there is one peer."""

    peers: tuple[AuditPeer, ...]
    why: tuple[str, ...] = ()


class AuditSet(Model):
    """Parties who could together rob this node, none of whom could be missing.

    Attributes:
        when: "away": only while this node is down, for `to_self_delay_blocks`, or until payments in flight expire;
            "up": although it runs, by hiding the chain from it.
        means: publishing an "old state" of the channel, or letting "payments in flight" run out.
        at_stake_msat: the most that they could take.
        parties: the neighbour's first.
    """

    when: Literal["away", "up"]
    means: Literal["old state", "payments in flight"]
    at_stake_msat: int
    parties: tuple[AuditParty, ...]


class ChannelAudit(Model):
    """The smallest such sets for one channel, as things are now; fewest parties first. `warning` as in `ChannelInfo`."""

    channel_id: str
    peer_id: str
    to_self_delay_blocks: int
    sets: tuple[AuditSet, ...]
    warning: str = ""


class Audit(Model):
    """`own_chain`: this node reads the chain by itself, so that nobody can hide it while it runs."""

    own_chain: bool
    channels: tuple[ChannelAudit, ...]


class BountyOutput(Model):
    """An output of a breach. `spender` is "" while no block has spent it; `ours`: by a claim of ours."""

    index: int
    value_sat: int
    bounty_sat: int
    spender: str = ""
    height: int | None = None
    ours: bool = False


class BountyInfo(Model):
    """A breach that this node hunts or hunted.

    Attributes:
        outcome: "hunting", "won", "won in part", "lost", "the breach is gone" or "left for want of room" (it goes on when
            there is room).
        breach_height: None while no block holds the breach.
        reward_sat: what blocks have paid us.
        lost: outputs that somebody else has taken: a rival, the victim, or the cheat.
        claim_txid, claim_fee_sat: what was published last; "" before.
    """

    txid: str
    outcome: str
    first_seen_unix: int
    breach_height: int | None
    reward_sat: int
    lost: int
    claim_txid: str = ""
    claim_fee_sat: int = 0
    outputs: tuple[BountyOutput, ...] = ()
