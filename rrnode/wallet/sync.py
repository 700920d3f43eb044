"""Bring a wallet to the chain's tip by reading blocks: after a restore from the words, and when it is behind its node."""

import structlog

from protocols.units import BlockHeight, UnixTime
from rrnode.chain.base import ChainBackend
from rrnode.chain.follower import DEEPEST, read_blocks
from rrnode.wallet.ledger import BlockPlace
from rrnode.wallet.wallet import Wallet

RESTORE_LOOK_AHEAD = 1000  # channels that came to nothing leave holes in the addresses
_TOLD_FROM = 10_000  # blocks; reading so many takes long enough for a person to wonder
_FLUSH_EVERY = 500  # blocks; what is lost by a crash is read again

log = structlog.get_logger(__name__)


async def catch_up(wallet: Wallet, chain: ChainBackend) -> None:
    """Read the blocks that the wallet has not taken in, across a reorganisation if need be.

    A wallet that was never fed begins at the tip when its seed is fresh, else with the first block that the chain can
    tell of: the seed may have been used before.

    Raises:
        ChainUnavailable: no answer, or the chain was reorganised meanwhile; what was read is kept, call again.
        StorageFailed: nothing more is kept.
    """
    best = await chain.tip()
    cursor = wallet.cursor()
    if cursor is None:
        if wallet.fresh:
            wallet.begin_at((best.height, best.hash))
            wallet.flush()
        else:
            await rescan(wallet, chain, chain.lowest)
        return
    height = BlockHeight(cursor[0])
    if best.height - height > DEEPEST:
        wallet.look_further(RESTORE_LOOK_AHEAD)  # perhaps a restore that was interrupted
    ref = await chain.block_at(height)
    if ref is None or ref.hash != cursor[1]:
        height = BlockHeight(max(chain.lowest, min(height, best.height) - DEEPEST))
        ref = await chain.block_at(height)
        if ref is None:
            return  # the chain has just become shorter: the caller looks again
        log.warning("wallet.reorganised_while_away", from_height=height)
        wallet.undo_blocks(BlockHeight(height + 1), ref.hash)
    await _read(wallet, chain, BlockHeight(height + 1))


async def rescan(wallet: Wallet, chain: ChainBackend, from_height: BlockHeight) -> None:
    """Find the coins of a seed that was used before: read every block from a height on.

    Args:
        from_height: of the first block that could concern the seed; too low only costs time.

    Raises:
        ChainUnavailable: no answer, or the chain was reorganised meanwhile; call again with `wallet.cursor()`'s height.
        StorageFailed: nothing more is kept.
    """
    wallet.look_further(RESTORE_LOOK_AHEAD)
    await _read(wallet, chain, from_height)


async def _read(wallet: Wallet, chain: ChainBackend, first: BlockHeight) -> None:
    best = await chain.tip()
    waiting = 0
    if best.height - first > _TOLD_FROM:
        log.warning("wallet.reads_the_chain", from_height=first, to_height=best.height)
    async for block in read_blocks(chain, first, best, wallet.interests):
        ref = block.ref
        wallet.take_block(BlockPlace(ref.height, ref.hash, UnixTime(ref.time)), block.transactions)
        waiting += 1
        if waiting >= _FLUSH_EVERY:
            wallet.flush()
            waiting = 0
    wallet.flush()
