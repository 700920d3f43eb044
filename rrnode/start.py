"""Making a node out of its settings, and running it: what `rrnode start` does (DESIGN 3)."""

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import structlog
import trio

from rrnode.chain.configured import backend_of
from rrnode.config import Settings
from rrnode.control.server import serve_control
from rrnode.errors import UserError
from rrnode.guard import Keeper
from rrnode.host.base import Host, HostConfig
from rrnode.host.libp2p import LibP2PHost
from rrnode.keys import KeyTree, SeedFile
from rrnode.node import Node
from rrnode.owner import Owner
from rrnode.parts import Parts
from rrnode.recording import Recorder
from rrnode.storage import Store
from rrnode.storage.mails import MailLimits, MailStore
from rrnode.storage.remedies import Quotas, RemedyStore
from rrnode.version import AGENT
from rrnode.wallet import Wallet

log = structlog.get_logger(__name__)

SWITCH_INTERVAL = (
    0.0005  # seconds that a busy event loop makes each statement of a commit wait; Python's default is 5 ms
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def host_of(settings: Settings, keys: KeyTree) -> Host:
    """The node's own host on libp2p."""
    return LibP2PHost(
        keys.identity_secret(),
        genesis=settings.network.genesis,
        switches=settings.switches,
        agent=AGENT,
        listen=settings.listen,
        announce=settings.host.announce,
        config=HostConfig(max_connections=settings.limits.max_peers, peer_frames=settings.limits.peer_frames),
    )


@asynccontextmanager
async def throw_away_host(settings: Settings) -> AsyncIterator[Host]:
    """A host with a fresh identity that listens nowhere, for one delivery (R14)."""
    host = LibP2PHost(os.urandom(32), genesis=settings.network.genesis, agent=AGENT)
    async with host.running():
        yield host


def remedies_of(settings: Settings, keys: KeyTree) -> RemedyStore | None:
    """What a watcher keeps for others; None when this node is none. Raises StorageFailed."""
    if not settings.roles.watch:
        return None
    return RemedyStore.open(
        settings.watch_storage_url,
        node_id=keys.node_id(),
        network=settings.node.network,
        quotas=Quotas(
            total=settings.watch.total_bytes,
            client=settings.watch.client_bytes,
            network=settings.watch.network_bytes,
            free=settings.watch.free_bytes,
        ),
        directory=settings.data_dir if settings.watch_storage_url.startswith("sqlite:") else None,
    )


def recorder_of(settings: Settings) -> Recorder | None:
    """What records both engines; None when it is off. Raises UserError."""
    megabytes = settings.node.record_mb
    if not megabytes:
        return None
    try:
        return Recorder.open(settings.data_dir, megabytes=megabytes, network=settings.node.network, now=time.time())
    except OSError as error:
        raise UserError(f"the recording cannot be written: {error}", "set node.record_mb to 0, or make room") from None


def mails_of(settings: Settings, keys: KeyTree) -> MailStore | None:
    """What a mailbox keeps for others; None when this node has none. Raises StorageFailed."""
    if not settings.roles.mailbox:
        return None
    mailbox = settings.mailbox
    limits = MailLimits(seconds=mailbox.keep_days * 86_400, per_payee=mailbox.client_mails, total=mailbox.total_mails)
    return MailStore.open(
        settings.mail_storage_url, node_id=keys.node_id(), network=settings.node.network, limits=limits
    )


async def run(settings: Settings, *, ready: Callable[[], None] | None = None) -> None:
    """Run the node of one data directory until it is told to stop. The caller holds the directory's lock.

    Args:
        ready: called once the node serves its owner and follows the chain.

    Raises:
        UserError: wrong or missing seed, port in use, chain of another network.
        StorageFailed, ChainUnavailable: what the machine refused at the start.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    seed = SeedFile(settings.data_dir)
    keys = KeyTree(seed.read(), settings.network)
    store = Store.open(settings.storage_url, node_id=keys.node_id(), network=settings.node.network)
    remedies: RemedyStore | None = None
    mails: MailStore | None = None
    recorder: Recorder | None = None
    try:
        host = host_of(settings, keys)
        remedies = remedies_of(settings, keys)
        mails = mails_of(settings, keys)
        recorder = recorder_of(settings)
        parts = Parts(
            settings=settings,
            keys=keys,
            store=store,
            wallet=Wallet.open(keys, store, fresh=seed.is_fresh()),
            host=host,
            backend=backend_of(settings, host),
            throw_away=partial(throw_away_host, settings),
            clock=time.time,
            keeper=(keeper := Keeper(settings)),
            remedies=remedies,
            recorder=recorder,
            mails=mails,
        )
        node = Node(parts)
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with trio.open_nursery() as nursery:

                async def stop_on_signal() -> None:
                    async for _ in signals:
                        node.stopping.set()

                nursery.start_soon(stop_on_signal)
                await nursery.start(node.run)
                seed.mark_used()
                await nursery.start(serve_control, Owner(node), settings.data_dir, node.stopping)
                if ready is not None:
                    ready()
                await node.stopping.wait()
                await node.ended.wait()
                if not node.halted():
                    await trio.to_thread.run_sync(keeper.end)
                nursery.cancel_scope.cancel()
    finally:
        for others in (remedies, mails, recorder):
            if others is not None:
                others.close()
        store.close()
