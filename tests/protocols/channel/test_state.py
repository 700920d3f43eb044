"""What is read off a channel's state; changing one without touching the one before."""

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from protocols.channel.state import Phase, available, evolve, pending, receivable, spendable
from protocols.units import Msat


def test_evolve_is_replace(kit: Any, opened: Any) -> None:
    channel = opened.alice.now
    changed = evolve(channel, phase=Phase.LOST, our_next_id=7)
    assert changed == replace(channel, phase=Phase.LOST, our_next_id=7)
    assert channel.phase is Phase.OPEN
    assert hash(changed) == hash(replace(channel, phase=Phase.LOST, our_next_id=7))
    assert all(getattr(evolve(channel), each.name) == getattr(channel, each.name) for each in fields(channel))


def test_a_field_that_is_not_there_cannot_be_evolved(opened: Any) -> None:
    with pytest.raises(KeyError):
        evolve(opened.alice.now, phaze=Phase.LOST)


def test_a_channel_cannot_be_changed_in_place(opened: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        opened.alice.now.phase = Phase.LOST


def test_the_two_sides_read_the_same_room_from_their_own_ends(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    alice.batch(kit.offer(alice.now, 1, 123_456_789))
    bob.batch(kit.offer(bob.now, 2, 100_000_001))
    opened.quiet()
    assert spendable(alice.now) == receivable(bob.now) == 580_000_000 - 123_456_789
    assert spendable(bob.now) == receivable(alice.now) == 380_000_000 - 100_000_001
    for ours in (True, False):
        assert available(alice.now, ours=ours) == available(bob.now, ours=not ours)
        assert pending(alice.now, ours=ours) == pending(bob.now, ours=not ours)
    assert pending(alice.now, ours=True) == (1, 123_456_789)


def test_room_below_the_minimum_is_none(kit: Any) -> None:
    pair = kit.pair(htlc_minimum=Msat(5_000_000)).open()
    pair.alice.batch(kit.offer(pair.alice.now, 1, 575_000_001))
    assert spendable(pair.alice.now) == 0
    assert receivable(pair.bob.now) == 580_000_000


def test_room_is_bounded_by_what_may_be_in_flight(kit: Any) -> None:
    pair = kit.pair(max_in_flight_ppm=100_000).open()
    assert spendable(pair.alice.now) == 100_000_000
    pair.alice.batch(kit.offer(pair.alice.now, 1, 60_000_000))
    assert spendable(pair.alice.now) == 40_000_000


def test_nothing_can_be_spent_before_terms_are_known_or_while_it_is_not_usable(kit: Any, opened: Any) -> None:
    channel = opened.alice.now
    assert spendable(replace(channel, their_terms=None)) == 0
    for change in ({"connected": False}, {"reestablished": False}, {"deep": False}, {"phase": Phase.SHUTTING}):
        assert spendable(replace(channel, **change)) == receivable(replace(channel, **change)) == 0
