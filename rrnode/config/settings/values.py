"""Settings that are written as one text and mean several things: exchange rates, neighbours' fees, operators."""

from bootstrap.networks import NETWORKS
from protocols.ids import PeerId
from protocols.routing.pricing import FeePolicy, NeighbourFee, Rate
from protocols.units import MAX_MSAT, PPM, AssetId, Msat
from rrnode.host.peer_text import from_text

MAX_NAME = 100  # characters of an operator's name
MAX_RATIO = 1_000_000_000  # either side of an exchange rate


def _parse_asset(text: str) -> AssetId:
    if text in NETWORKS:
        return NETWORKS[text].genesis
    raw = bytes.fromhex(text) if len(text) == 64 else b""
    if len(raw) != 32:
        raise ValueError(text)
    return AssetId(raw[::-1])


def parse_rate(text: str) -> Rate:
    """An exchange rate as configured: `signet regtest 3/2` wants 3 msat of signet for 2 of regtest. Raises ValueError."""
    upstream, downstream, ratio = text.split()
    numerator, _, denominator = ratio.partition("/")
    if not numerator.isdecimal() or not (denominator or "1").isdecimal():
        raise ValueError(text)
    wanted, carried = int(numerator), int(denominator or "1")
    incoming, outgoing = _parse_asset(upstream), _parse_asset(downstream)
    if not 0 < wanted <= MAX_RATIO or not 0 < carried <= MAX_RATIO or incoming == outgoing:
        raise ValueError(text)
    return Rate(upstream=incoming, downstream=outgoing, numerator=wanted, denominator=carried)


def parse_neighbour_fee(text: str) -> NeighbourFee:
    """A neighbour's own fee as configured: peer id, base_msat, ppm. Raises ValueError or DecodeError."""
    peer, base, ppm = text.split()
    if not base.isdecimal() or not ppm.isdecimal() or int(base) > MAX_MSAT or int(ppm) > PPM:
        raise ValueError(text)
    return NeighbourFee(neighbour=from_text(peer), fee=FeePolicy(base_msat=Msat(int(base)), ppm=int(ppm)))


def parse_operator(text: str) -> tuple[PeerId, str]:
    """Who runs a node as configured: peer id, name. Raises ValueError or DecodeError."""
    peer, name = text.split(maxsplit=1)
    if len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(text)
    return from_text(peer), name
