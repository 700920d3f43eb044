"""The chain backend that the settings name; imports only what that one needs."""

from rrnode.chain.base import ChainBackend
from rrnode.config import Settings


def backend_of(settings: Settings) -> ChainBackend:
    """Make the backend; nothing is opened yet."""
    chain = settings.chain
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
