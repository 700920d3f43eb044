"""The chain backend that the settings name; imports only what that one needs."""

import os

from protocols.units import FeeRate
from rrnode.chain.base import ChainBackend
from rrnode.config import Settings
from rrnode.datadir import HEADERS_NAME
from rrnode.host.base import Host


def backend_of(settings: Settings, host: Host | None = None) -> ChainBackend:
    """Make the backend; nothing is opened yet.

    Args:
        host: the node's own, on which helpers are reached; None for who has none (the guard): one under a fresh identity
            then runs with the backend.
    """
    chain = settings.chain
    if chain.kind == "remote":
        from bootstrap.networks import parse_checkpoint
        from rrnode.chain.remote import RemoteChain, RemotePolicy

        own = None
        if host is None:
            from rrnode.host.libp2p import LibP2PHost

            host = own = LibP2PHost(os.urandom(32), genesis=settings.network.genesis)
        policy = RemotePolicy(
            least=chain.least_helpers,
            answer_within=chain.answer_seconds,
            feerate_cap=FeeRate(chain.max_feerate * 1000),
        )
        return RemoteChain(
            host,
            chain.helpers,
            settings.network,
            checkpoint=parse_checkpoint(chain.checkpoint, settings.network) if chain.checkpoint else None,
            policy=policy,
            headers_file=settings.data_dir / HEADERS_NAME,
            own_host=own,
        )
    if chain.kind == "kernel":
        from rrnode.chain.kernel import KernelChain

        return KernelChain(settings.data_dir / "chain", mine_every=chain.mine_every or None)
    from rrnode.chain.bitcoind import BitcoindChain

    return BitcoindChain(
        settings.rpc_url,
        network=settings.network,
        cookie=settings.cookie_file,
        user=chain.user or None,
        password=chain.password or None,
        zmq=chain.zmq or None,
        poll_every=chain.poll_seconds,
    )
