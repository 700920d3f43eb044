"""What is kept of each revoked state: every output of it, in few bytes, and damage is noticed."""

from typing import Any

import pytest

from protocols.channel import records
from protocols.channel.commitments import build_ours
from protocols.channel.records import Kept, RevokedOutput
from protocols.units import BlockHeight, Sat


def test_the_record_of_a_revoked_state_names_every_output_of_it(kit: Any, opened: Any) -> None:
    opened.alice.batch(kit.offer(opened.alice.now, 1, 50_000_000))
    opened.quiet()
    opened.bob.batch(kit.offer(opened.bob.now, 2, 30_000_000), kit.offer(opened.bob.now, 3, 1_000))
    opened.quiet()
    number = opened.bob.now.our_number
    built = build_ours(opened.bob.now, kit.bob_keys, number)
    opened.alice.batch(kit.offer(opened.alice.now, 4, 5_000_000))
    opened.quiet()
    stored = opened.alice.revoked[number]
    assert stored.txid == built.txid
    outputs = records.decode(stored.record)
    assert {each.kind for each in outputs} == set(Kept)
    for each in outputs:
        assert built.outputs[each.index].value == each.value
    offered = next(each for each in outputs if each.kind is Kept.OFFERED_BY_THEM)
    assert offered == RevokedOutput(
        kind=Kept.OFFERED_BY_THEM,
        index=offered.index,
        value=Sat(30_000),
        payment_hash=kit.hash_of(2),
        expiry=BlockHeight(kit.tip_at + 100),
    )
    assert next(each for each in outputs if each.kind is Kept.OFFERED_BY_US).payment_hash == kit.hash_of(1)


@pytest.mark.parametrize(("count", "size"), [(0, 12), (1, 50), (10, 392), (100, 3812)])
def test_bytes_kept_per_revoked_state(kit: Any, opened: Any, count: int, size: int) -> None:
    """12 bytes for the two balances and 38 per HTLC: a million states of one payment each are 50 MB."""
    opened.alice.batch(*[kit.offer(opened.alice.now, place, 1_000_000) for place in range(count)])
    opened.quiet()
    opened.alice.batch(kit.offer(opened.alice.now, 999, 5_000_000))
    opened.quiet()
    newest = opened.alice.revoked[max(opened.alice.revoked)]
    assert len(records.decode(newest.record)) == count + 2
    assert len(newest.record) == size


@pytest.mark.parametrize("damage", [b"", b"\x02\x00", b"\x01", b"\x01\x01", b"\x01\x01\x09\x00\x00", b"\x01\x00\x00"])
def test_a_damaged_record_is_refused(damage: bytes) -> None:
    with pytest.raises(records.DecodeError, match="record of a revoked commitment"):
        records.decode(damage)
