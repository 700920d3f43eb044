"""What the disk keeps of a revoked state, given to the engine together with the spend that publishes it.

Source: DESIGN 6 ("Kept per revoked state"). The engine reads no disk, and what it is told is journaled: so the fact carries it.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

import structlog
import trio

from protocols.channel import records
from protocols.channel.commitments import params_of
from protocols.channel.events import OutputSpent
from protocols.channel.state import Channel, SignedCommitment
from protocols.errors import DecodeError
from protocols.ids import ChannelId
from protocols.onchain import tx
from protocols.onchain.commitment import published_number
from rrnode.chain.watches import ChainFact
from rrnode.errors import StorageFailed
from rrnode.storage import RevokedState

log = structlog.get_logger(__name__)

Kept = SignedCommitment | RevokedState


async def with_record(
    fact: ChainFact,
    channels: Iterable[Channel],
    *,
    committed: Callable[[], Awaitable[object]],
    stored: Callable[[ChannelId, int], RevokedState | None],
) -> ChainFact:
    """The fact; where it tells that the peer published a commitment, with what is kept of that state, if it can be read.

    Args:
        channels: as the engine has them now.
        committed: returns once the disk has all that the engine knows now: the state may have been revoked a moment ago.
        stored: reads one record from disk; blocking, called in a worker thread.
    """
    if not isinstance(fact, OutputSpent):
        return fact
    channel = next((each for each in channels if each.funding == fact.outpoint), None)
    if channel is None:
        return fact
    try:
        spend = tx.parse(fact.transaction)
        number = published_number(params_of(channel, ours=False), spend)
        if number is None:
            return fact
        signed = (channel.their_commitment, channel.their_unrevoked)
        kept: Kept | None = next((each for each in signed if each is not None and each.number == number), None)
        if kept is None:
            await committed()
            kept = await trio.to_thread.run_sync(stored, channel.channel_id, number)
        if kept is None or kept.txid != spend.txid():
            return fact
        records.decode(kept.record)
    except (StorageFailed, DecodeError) as error:
        # Balance and live HTLCs are claimed without it: better than not to tell of the breach at all.
        log.error("what is kept of a published state cannot be read", channel=channel.channel_id.hex(), why=str(error))
        return fact
    return replace(fact, record=kept.record)
