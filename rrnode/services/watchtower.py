"""A watcher as a whole: the service for clients, and the hunt, over one store (DESIGN 2, the `watch` switch)."""

from collections.abc import Callable

import trio

from protocols.units import AssetId, BlockHeight, UnixTime
from rrnode.chain.base import ChainBackend
from rrnode.chain.follower import Batch
from rrnode.config.settings import Settings
from rrnode.host.base import Host
from rrnode.services.hunting import Hunter, RewardWallet
from rrnode.services.watching import WatchServer
from rrnode.storage.cases import CaseStore
from rrnode.storage.remedies import RemedyStore


class Watchtower:
    """What a node with the `watch` switch has more than others.

    Args:
        secret: of the node's key.
        network: genesis hash.
        height: up to which the node has taken in the chain.
        now: unix time.
        alarm: brings a sentence to our owner.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        host: Host,
        backend: ChainBackend,
        wallet: RewardWallet,
        remedies: RemedyStore,
        secret: bytes,
        network: AssetId,
        height: Callable[[], BlockHeight],
        now: Callable[[], UnixTime],
        alarm: Callable[[str], None],
    ) -> None:
        self.server = WatchServer(
            host=host,
            store=remedies,
            secret=secret,
            network=network,
            height=height,
            keep=settings.watch.keep_blocks,
            most=settings.watch.max_clients,
        )
        self.hunter = Hunter(
            backend=backend,
            wallet=wallet,
            remedies=remedies,
            store=CaseStore(remedies.database),
            buried_depth=settings.channels.buried_depth,
            now=now,
            alarm=alarm,
        )

    async def run(self) -> None:
        """Serve and hunt until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.server.run)
            nursery.start_soon(self.hunter.run)

    async def take(self, batch: Batch) -> None:
        """See `Hunter.take`."""
        await self.hunter.take(batch)

    def tip_changed(self) -> None:
        """There is another best block. Never waits."""
        self.server.tip_changed()
