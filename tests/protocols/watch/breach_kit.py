"""Revoked commitments of Bob as Alice keeps them, and what a hunter makes of her remedies. Given by the fixture `breaches`."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

from protocols.channel import records
from protocols.channel.records import RevokedOutput
from protocols.ids import PaymentHash, Txid
from protocols.onchain import commitment, ec, scripts, tx
from protocols.onchain.coins import FeeCoin
from protocols.onchain.commitment import BuiltCommitment, CommitmentParams, CommitmentSpec, HtlcSpec
from protocols.onchain.keys import ChannelKeys
from protocols.units import BlockDelta, BlockHeight, Msat, Sat
from protocols.watch import pairs, policy
from protocols.watch.bounty import BountyClaim
from protocols.watch.pairs import Pair
from protocols.watch.policy import BountyConfig, Plan
from protocols.watch.remedy import Remedy

HUNTER = b"\x00\x14" + b"\x77" * 20
COIN_SECRET = b"\x05" * 32
COIN_SCRIPT = scripts.p2wpkh(ec.point_of(COIN_SECRET))
DELAY = 144
DUST = Sat(354)


def keys_of(name: str) -> ChannelKeys:
    wallet_key = hashlib.sha256(f"{name} wallet".encode()).digest()
    return ChannelKeys.from_seed(hashlib.sha256(name.encode()).digest(), ec.point_of(wallet_key))


ALICE, BOB = keys_of("alice"), keys_of("bob")


def hash_of(place: int) -> PaymentHash:
    return PaymentHash(hashlib.sha256(b"hash %d" % place).digest())


@dataclass(frozen=True)
class Breach:
    """A commitment of Bob's, revoked.

    Attributes:
        bob: his balance in it, satoshi.
        htlcs: (whether Bob offered it, satoshi, expiry).
        stake: what Bob has to lose; None: the reserve of 2 % of the capacity.
    """

    bob: int = 6_000_000
    htlcs: tuple[tuple[bool, int, int], ...] = ()
    capacity: int = 10_000_000
    stake: int | None = None
    number: int = 6
    funding: tuple[bytes, int] = (bytes(range(32)), 1)

    @property
    def params(self) -> CommitmentParams:
        return CommitmentParams(
            funding_txid=Txid(self.funding[0]),
            funding_index=self.funding[1],
            capacity=Sat(self.capacity),
            broadcaster=BOB.points,
            countersignatory=ALICE.points,
            opener_is_broadcaster=False,
            to_self_delay=BlockDelta(DELAY),
            dust_limit=DUST,
        )

    @cached_property
    def built(self) -> BuiltCommitment:
        in_htlcs = sum(sat for _, sat, _ in self.htlcs)
        spec = CommitmentSpec(
            number=self.number,
            to_broadcaster=Msat(1000 * self.bob),
            to_countersignatory=Msat(1000 * (self.capacity - self.bob - in_htlcs)),
            htlcs=tuple(
                HtlcSpec(
                    id=place,
                    offered=offered,
                    amount=Msat(1000 * sat),
                    payment_hash=hash_of(place),
                    expiry=BlockHeight(expiry),
                )
                for place, (offered, sat, expiry) in enumerate(self.htlcs)
            ),
        )
        return commitment.build(self.params, spec, BOB.per_commitment_point(self.number))

    @cached_property
    def raw(self) -> bytes:
        """As Bob publishes it."""
        signatures = [commitment.sign(self.built, each.funding_secret) for each in (BOB, ALICE)]
        return commitment.finalize(self.built, signatures[0], signatures[1])

    @property
    def parsed(self) -> tx.Tx:
        return tx.parse(self.raw)

    @property
    def txid(self) -> Txid:
        return self.built.txid

    @property
    def outputs(self) -> tuple[RevokedOutput, ...]:
        return records.decode(records.encode(self.built))

    def plan(self, config: BountyConfig | None = None) -> Plan:
        stake = self.capacity // 50 if self.stake is None else self.stake
        return policy.plan(self.outputs, capacity=Sat(self.capacity), stake=Sat(stake), config=config or BountyConfig())

    def remedy(self, config: BountyConfig | None = None) -> Remedy | None:
        return pairs.build(
            self.plan(config),
            number=self.number,
            txid=self.txid,
            params=self.params,
            keys=ALICE,
            secret=BOB.per_commitment_secret(self.number),
        )

    def pairs(self, config: BountyConfig | None = None) -> tuple[Pair, ...]:
        remedy = self.remedy(config)
        return () if remedy is None else pairs.check(remedy, self.parsed)


def coins(*values: int) -> tuple[FeeCoin, ...]:
    """Confirmed coins of the hunter's."""
    return tuple(
        FeeCoin(txid=Txid(bytes([9]) * 32), index=place, value=Sat(value), script=COIN_SCRIPT)
        for place, value in enumerate(values)
    )


def signed(claim: BountyClaim) -> bytes:
    """The claim with its coins signed, as a wallet does it."""
    parsed = tx.parse(claim.raw)
    inputs = list(parsed.inputs)
    for place in range(len(inputs) - len(claim.coins), len(inputs)):
        value, script = claim.spent[place]
        digest = tx.input_digest(parsed, place, scripts.p2wpkh_code(script), value)
        signature = ec.to_der(ec.sign(COIN_SECRET, digest)) + b"\x01"
        inputs[place] = replace(inputs[place], witness=(signature, ec.point_of(COIN_SECRET)))
    return replace(parsed, inputs=tuple(inputs)).serialize()
