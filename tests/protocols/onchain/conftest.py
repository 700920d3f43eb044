"""Two sides of a channel with fixed keys, and commitments of either, for the tests of transactions."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from protocols.ids import PaymentHash, Preimage, Txid
from protocols.onchain import commitment
from protocols.onchain.commitment import CommitmentParams, CommitmentSpec, HtlcSpec
from protocols.onchain.ec import point_of
from protocols.onchain.keys import ChannelKeys
from protocols.units import BlockDelta, BlockHeight, Msat, Sat

VECTORS = Path(__file__).parents[4] / "shared" / "vectors" / "bolt3-zero-fee-commitments.json"
CAPACITY = Sat(10_000_000)


@pytest.fixture(scope="session")
def vectors() -> Any:
    if not VECTORS.exists():
        pytest.skip("no ../shared/vectors/bolt3-zero-fee-commitments.json beside the repository")
    return json.loads(VECTORS.read_text())


def keys_of(name: str) -> ChannelKeys:
    wallet_key = hashlib.sha256(f"{name} wallet".encode()).digest()
    return ChannelKeys.from_seed(hashlib.sha256(name.encode()).digest(), point_of(wallet_key))


@dataclass(frozen=True)
class Sides:
    """Alice opened the channel. `params_of` gives the parameters of the commitments that a side may broadcast."""

    alice: ChannelKeys
    bob: ChannelKeys
    txid: Txid = Txid(bytes(range(32)))
    index: int = 1

    def params(self, *, alice_broadcasts: bool = True, dust: int = 354, delay: int = 144) -> CommitmentParams:
        own, other = (self.alice, self.bob) if alice_broadcasts else (self.bob, self.alice)
        return CommitmentParams(
            funding_txid=self.txid,
            funding_index=self.index,
            capacity=CAPACITY,
            broadcaster=own.points,
            countersignatory=other.points,
            opener_is_broadcaster=alice_broadcasts,
            to_self_delay=BlockDelta(delay),
            dust_limit=Sat(dust),
        )


@pytest.fixture(scope="session")
def sides() -> Sides:
    return Sides(keys_of("alice"), keys_of("bob"))


def preimage_of(number: int) -> Preimage:
    return Preimage(hashlib.sha256(b"preimage %d" % number).digest())


def make_spec(*htlcs: tuple[bool, int, int], theirs: int = 3_000_000_000, number: int = 7) -> CommitmentSpec:
    """HTLCs as (offered, amount in msat, expiry); HTLC n has `preimage_of(n)`."""
    made = tuple(
        HtlcSpec(
            id=place,
            offered=offered,
            amount=Msat(amount),
            payment_hash=PaymentHash(hashlib.sha256(preimage_of(place)).digest()),
            expiry=BlockHeight(expiry),
        )
        for place, (offered, amount, expiry) in enumerate(htlcs)
    )
    own = CAPACITY * 1000 - theirs - sum(each.amount for each in made)
    return CommitmentSpec(number=number, to_broadcaster=Msat(own), to_countersignatory=Msat(theirs), htlcs=made)


@pytest.fixture(scope="session")
def spec_of() -> Callable[..., CommitmentSpec]:
    return make_spec


@pytest.fixture(scope="session")
def preimage() -> Callable[[int], Preimage]:
    return preimage_of


@pytest.fixture(scope="session")
def funding_coin(sides: Sides) -> tuple[int, bytes]:
    """Value and script of the funding output, for the checks by libbitcoinkernel."""
    from protocols.onchain.funding import funding_output_script

    return CAPACITY, funding_output_script(sides.alice.points, sides.bob.points)


@pytest.fixture(scope="session")
def build(sides: Sides) -> Callable[..., commitment.BuiltCommitment]:
    """Alice's commitment of a spec."""

    def make(spec: CommitmentSpec, **options: Any) -> commitment.BuiltCommitment:
        broadcaster = sides.alice if options.get("alice_broadcasts", True) else sides.bob
        return commitment.build(sides.params(**options), spec, broadcaster.per_commitment_point(spec.number))

    return make
