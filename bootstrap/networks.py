"""The networks a node can work on: genesis hash, text prefix, default ports (DESIGN 3)."""

from dataclasses import dataclass

from protocols.units import AssetId


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Attributes:
    name: as written in the configuration.
    genesis: hash of block 0 in serialization order; also the asset id of its coin and `chain_hash` on the wire.
    prefix: human-readable part of contact and request strings on this network.
    address_prefix: of segwit addresses.
    port: default TCP port of a routing server.
    rpc_port: Bitcoin Core's default RPC port.
    """

    name: str
    genesis: AssetId
    prefix: str
    address_prefix: str
    port: int
    rpc_port: int


def _genesis(displayed: str) -> AssetId:
    return AssetId(bytes.fromhex(displayed)[::-1])


REGTEST = Network(
    name="regtest",
    genesis=_genesis("0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"),
    prefix="rrr",
    address_prefix="bcrt",
    port=19780,
    rpc_port=18443,
)
SIGNET = Network(
    name="signet",
    genesis=_genesis("00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6"),
    prefix="rrs",
    address_prefix="tb",
    port=39780,
    rpc_port=38332,
)
TESTNET4 = Network(
    name="testnet4",
    genesis=_genesis("00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043"),
    prefix="rrt",
    address_prefix="tb",
    port=49780,
    rpc_port=48332,
)
MAINNET = Network(
    name="mainnet",
    genesis=_genesis("000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"),
    prefix="rrb",
    address_prefix="bc",
    port=9780,
    rpc_port=8332,
)
NETWORKS = {network.name: network for network in (REGTEST, SIGNET, TESTNET4, MAINNET)}
