"""Facts from the chain get the record of the state that a peer published, wherever it is kept at that moment."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from protocols.channel import records
from protocols.channel.commitments import params_of, spec_of
from protocols.channel.events import Outpoint, OutputSpent, TipChanged
from protocols.channel.state import Channel, Phase, SignedCommitment, Terms
from protocols.ids import ChannelId, PeerId, Txid
from protocols.onchain import commitment, ec
from protocols.onchain.keys import ChannelKeys
from protocols.units import AssetId, BlockDelta, BlockHeight, Msat, Sat
from rrnode.breaches import with_record
from rrnode.errors import StorageFailed
from rrnode.storage import RevokedState


def keys_of(name: str) -> ChannelKeys:
    return ChannelKeys.from_seed(
        hashlib.sha256(name.encode()).digest(), ec.point_of(hashlib.sha256(b"wallet" + name.encode()).digest())
    )


ALICE, BOB = keys_of("alice"), keys_of("bob")
TERMS = Terms(
    dust_limit=Sat(354),
    max_in_flight=Msat(10**9),
    reserve=Sat(20_000),
    htlc_minimum=Msat(1),
    to_self_delay=BlockDelta(6),
    max_accepted_htlcs=114,
    shutdown_script=b"",
)
FUNDING = Outpoint(txid=Txid(bytes(range(32))), index=1)
CHANNEL = Channel(
    channel_id=ChannelId(b"\xcc" * 32),
    peer=PeerId(b"\x02" * 33),
    asset=AssetId(bytes(32)),
    key_index=0,
    phase=Phase.OPEN,
    we_fund=True,
    capacity=Sat(1_000_000),
    push=Msat(0),
    opened_tip=BlockHeight(0),
    our_terms=TERMS,
    their_terms=TERMS,
    our_points=ALICE.points,
    their_points=BOB.points,
    our_balance=Msat(600_000_000),
    their_balance=Msat(400_000_000),
    funding=FUNDING,
)


def published(number: int, *, ours: bool = False) -> tuple[OutputSpent, RevokedState]:
    """That a commitment of this number was published, and what Alice keeps of it."""
    owner = ALICE if ours else BOB
    built = commitment.build(
        params_of(CHANNEL, ours=ours), spec_of(CHANNEL, number, ours=ours), owner.per_commitment_point(number)
    )
    fact = OutputSpent(outpoint=FUNDING, transaction=built.base, height=BlockHeight(100))
    return fact, RevokedState(number=number, txid=built.txid, record=records.encode(built))


class Disk:
    """Records by number, and what was asked of it, in order. Nothing is there before it is committed."""

    def __init__(self, *kept: RevokedState) -> None:
        self._waiting, self._kept = kept, dict[int, RevokedState]()
        self.asked: list[object] = []
        self.broken = False

    async def committed(self) -> None:
        self.asked.append("commit")
        self._kept = {each.number: each for each in self._waiting}

    def stored(self, channel_id: ChannelId, number: int) -> RevokedState | None:
        assert channel_id == CHANNEL.channel_id
        self.asked.append(number)
        if self.broken:
            raise StorageFailed("no disk")
        return self._kept.get(number)

    async def complete(self, fact: Any, channel: Channel = CHANNEL) -> Any:
        other = replace(channel, funding=None, channel_id=ChannelId(bytes(32)))
        return await with_record(fact, (other, channel), committed=self.committed, stored=self.stored)


async def test_record_is_read_after_all_that_the_engine_knows_is_on_disk() -> None:
    fact, kept = published(3)
    disk = Disk(kept, published(4)[1])
    assert await disk.complete(fact) == replace(fact, record=kept.record)
    assert disk.asked == ["commit", 3]


@pytest.mark.parametrize("field", ["their_commitment", "their_unrevoked"])
async def test_record_of_a_state_that_is_just_being_revoked_is_in_the_channel_itself(field: str) -> None:
    """The revocation may be handled between this and the engine's turn."""
    fact, kept = published(3)
    signed = SignedCommitment(number=3, txid=kept.txid, record=kept.record)
    disk = Disk()
    assert await disk.complete(fact, replace(CHANNEL, **{field: signed})) == replace(fact, record=kept.record)
    assert disk.asked == []


async def test_facts_that_tell_of_no_commitment_of_the_peer_stay_as_they_are() -> None:
    fact, kept = published(3)
    disk = Disk(kept)
    elsewhere = replace(fact, outpoint=Outpoint(txid=FUNDING.txid, index=0))
    mutual = replace(fact, transaction=fact.transaction[:-4] + bytes(4))
    for other in (TipChanged(), elsewhere, mutual, replace(fact, transaction=b"nonsense")):
        assert await disk.complete(other) == other
    assert disk.asked == []


async def test_record_of_another_transaction_of_that_number_is_not_given() -> None:
    """Our own commitments are numbered in the same way."""
    disk = Disk(published(3)[1])
    ours, _ = published(3, ours=True)
    assert await disk.complete(ours) == ours
    assert disk.asked == ["commit", 3]


async def test_breach_is_told_although_its_record_cannot_be_read() -> None:
    fact, kept = published(3)
    missing, broken, damaged = Disk(), Disk(kept), Disk(replace(kept, record=b"\x01\x09"))
    broken.broken = True
    for disk in (missing, broken, damaged):
        assert await disk.complete(fact) == fact
        assert disk.asked == ["commit", 3]
