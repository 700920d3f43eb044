"""The wallet's part in opening channels: never-used channel keys, and the funding of those that our owner opens."""

import trio

from protocols.channel.events import BuildFunding, FundingBuilt, FundingFailed
from protocols.ids import ChannelId
from rrnode.dispatcher import Dispatcher
from rrnode.errors import UserError
from rrnode.services.following import Following
from rrnode.services.openings import Openings
from rrnode.wallet import Wallet


class Funding:
    """The wallet in a worker thread, and what comes of it as events for the money engine.

    Args:
        following: knows the fee rate, and what is to be held back.
        openings: hears why a funding could not be built.
    """

    def __init__(self, *, wallet: Wallet, following: Following, dispatcher: Dispatcher, openings: Openings) -> None:
        self._wallet, self._following, self._dispatcher, self._openings = wallet, following, dispatcher, openings

    async def fresh_keys(self) -> int:
        """Set a never-used channel key index aside, durably."""
        return await trio.to_thread.run_sync(self._wallet.reserve_key_index)

    async def give_back_keys(self, key_index: int) -> None:
        """Nobody has seen these keys: a later channel may use them."""
        await trio.to_thread.run_sync(self._wallet.give_back_key_index, key_index)

    async def build(self, order: BuildFunding) -> None:
        """Build the transaction, or say why not."""
        self._following.keep_reserve()
        try:
            transaction, index = await trio.to_thread.run_sync(
                self._wallet.build_funding, order.channel_id, order.script, order.amount, self._following.feerate
            )
        except UserError as error:
            self._openings.failed(order.channel_id, str(error), error.hint)
            await self._dispatcher.post(FundingFailed(channel_id=order.channel_id, reason=str(error)))
            return
        await self._dispatcher.post(
            FundingBuilt(channel_id=order.channel_id, transaction=transaction, output_index=index)
        )

    async def release(self, channel_id: ChannelId) -> None:
        """The channel came to nothing: the wallet may spend what it had set aside for it."""
        await trio.to_thread.run_sync(self._wallet.release, channel_id)
