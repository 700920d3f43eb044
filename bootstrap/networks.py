"""The networks a node can work on: genesis hash, text prefix, default ports (DESIGN 3)."""

import re
import struct
from dataclasses import dataclass

from protocols.errors import DecodeError
from protocols.light.headers import Checkpoint, parse_header, reaches_its_target
from protocols.light.work import MAINNET_RULES, REGTEST_RULES, SIGNET_RULES, TESTNET4_RULES, PowRules
from protocols.units import AssetId, BlockHeight


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Attributes:
    name: as written in the configuration.
    genesis: hash of block 0 in serialization order; also the asset id of its coin and `chain_hash` on the wire.
    prefix: human-readable part of contact and request strings on this network.
    address_prefix: of segwit addresses.
    port: default TCP port of a routing server.
    rpc_port: Bitcoin Core's default RPC port.
    pow_rules: how its difficulty moves.
    checkpoint: where a client without a chain begins to read headers, unless its owner names a nearer block.
    """

    name: str
    genesis: AssetId
    prefix: str
    address_prefix: str
    port: int
    rpc_port: int
    pow_rules: PowRules
    checkpoint: Checkpoint


def _genesis(displayed: str) -> AssetId:
    return AssetId(bytes.fromhex(displayed)[::-1])


_SATOSHIS_COINBASE = "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"  # shared by all but testnet4


def _first_block(merkle_root: str, time: int, bits: int, nonce: int) -> Checkpoint:
    root = bytes.fromhex(merkle_root)[::-1]
    return Checkpoint(height=BlockHeight(0), header=struct.pack("<I32s32sIII", 1, bytes(32), root, time, bits, nonce))


REGTEST = Network(
    name="regtest",
    genesis=_genesis("0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"),
    prefix="rrr",
    address_prefix="bcrt",
    port=19780,
    rpc_port=18443,
    pow_rules=REGTEST_RULES,
    checkpoint=_first_block(_SATOSHIS_COINBASE, 1296688602, 0x207FFFFF, 2),
)
SIGNET = Network(
    name="signet",
    genesis=_genesis("00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6"),
    prefix="rrs",
    address_prefix="tb",
    port=39780,
    rpc_port=38332,
    pow_rules=SIGNET_RULES,
    checkpoint=_first_block(_SATOSHIS_COINBASE, 1598918400, 0x1E0377AE, 52613770),
)
TESTNET4 = Network(
    name="testnet4",
    genesis=_genesis("00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043"),
    prefix="rrt",
    address_prefix="tb",
    port=49780,
    rpc_port=48332,
    pow_rules=TESTNET4_RULES,
    checkpoint=_first_block(
        "7aa0a7ae1e223414cb807e40cd57e667b718e42aaf9306db9102fe28912b7b4e", 1714777860, 0x1D00FFFF, 393743547
    ),
)
MAINNET = Network(
    name="mainnet",
    genesis=_genesis("000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"),
    prefix="rrb",
    address_prefix="bc",
    port=9780,
    rpc_port=8332,
    pow_rules=MAINNET_RULES,
    checkpoint=_first_block(_SATOSHIS_COINBASE, 1231006505, 0x1D00FFFF, 2083236893),
)
_CHECKPOINT_FORM = re.compile("[0-9]{1,9} [0-9a-fA-F]{160}", re.ASCII)


def parse_checkpoint(text: str, network: Network) -> Checkpoint:
    """A checkpoint as people write it, "height header": its work alone is checked, for who names it vouches for it.

    Raises:
        DecodeError: it is no such text, not the first block of a difficulty period, or no header of this network.
    """
    if not _CHECKPOINT_FORM.fullmatch(text):
        raise DecodeError("a height and the 160 hexadecimal digits of a header, with one space between, wanted")
    height, header = int(text.split()[0]), bytes.fromhex(text.split()[1])
    interval = network.pow_rules.interval
    if height % interval:
        raise DecodeError(f"height {height}, a multiple of {interval} wanted: the first block of a difficulty period")
    if not reaches_its_target(parse_header(header), network.pow_rules):
        raise DecodeError(f"no header of {network.name}: it has too little work")
    return Checkpoint(height=BlockHeight(height), header=header)


NETWORKS = {network.name: network for network in (REGTEST, SIGNET, TESTNET4, MAINNET)}
