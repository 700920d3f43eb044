"""Remedies of our own channels, made of what is kept per revoked state (DESIGN 6, 7). Called in a worker thread."""

import os
from collections.abc import Iterable

import structlog

from protocols.channel import records
from protocols.channel.commitments import params_of, spec_of
from protocols.channel.state import Channel
from protocols.errors import DecodeError, MisuseError
from protocols.onchain.keys import ChannelKeys
from protocols.units import Sat
from protocols.watch import pairs, policy
from protocols.watch.policy import BountyConfig, Plan
from protocols.watch.remedy import NONCE_SIZE, seal
from rrnode.storage import RevokedState

STEPS = 16  # of the reserve

log = structlog.get_logger(__name__)


def stake_of(channel: Channel) -> Sat:
    """What the neighbour is sure to lose by cheating, as the channel stands now.

    In steps: with each larger stake all states without a remedy are looked at again, and a neighbour could raise it by a
    satoshi at a time.
    """
    newest = channel.their_unrevoked or channel.their_commitment
    if newest is None or channel.their_terms is None:
        return Sat(0)
    spec = spec_of(channel, newest.number, ours=False)
    reserve = channel.our_terms.reserve
    stake = policy.at_stake(reserve, spec.to_broadcaster, channel.their_terms.dust_limit)
    return stake if stake == reserve else Sat(stake - stake % max(1, reserve // STEPS))


def plan_of(channel: Channel, state: RevokedState, stake: Sat, config: BountyConfig) -> Plan:
    """The bounties of one revoked state. Raises DecodeError when its record is of no form known here."""
    return policy.plan(records.decode(state.record), capacity=channel.capacity, stake=stake, config=config)


def sealed_remedies(
    channel: Channel, keys: ChannelKeys, states: Iterable[RevokedState], stake: Sat, config: BountyConfig
) -> list[tuple[RevokedState, bytes | None]]:
    """Each state with its sealed remedy; None where no bounty can be offered for it.

    A state whose record does not fit the channel is a fault of ours or of the disk: it is logged, and the others go on.
    """
    params, made = params_of(channel, ours=False), list[tuple[RevokedState, bytes | None]]()
    for state in states:
        sealed, secret = None, channel.their_secrets.get(state.number)
        try:
            plan = plan_of(channel, state, stake, config)
            if secret is None:
                raise MisuseError("its secret is not at hand")
            remedy = pairs.build(plan, number=state.number, txid=state.txid, params=params, keys=keys, secret=secret)
            sealed = None if remedy is None else seal(remedy, state.txid, os.urandom(NONCE_SIZE))
        except (DecodeError, MisuseError) as error:
            log.error(
                "no remedy for a revoked state", channel=channel.channel_id.hex(), number=state.number, why=str(error)
            )
        made.append((state, sealed))
    return made
