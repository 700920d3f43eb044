"""A revoked commitment: its balance and HTLCs are claimed by the revocation key, before and after its second stage."""

from typing import Any

import pytest

from protocols.channel import records
from protocols.channel.events import Outpoint
from protocols.ids import Txid
from protocols.onchain import tx
from protocols.onchain.keys import derive_privkey
from protocols.onchain.sweep import Claim, build
from protocols.units import FeeRate, Sat
from protocols.watch import resolve
from protocols.watch.state import SpendKind


def test_cheats_balance_is_taken_at_once(scene: Any) -> None:
    s = scene()
    cheat = s.whole(s.old)
    assert s.tell_close(cheat, None) == [("alarm",), ("watch", "to_local", 94)]
    assert s.close.kind is SpendKind.REVOKED
    penalty = ("publish", "sweep", "to_local")
    assert s.tell_close(cheat, 100) == [penalty]
    assert s.tell_tip(101) == [penalty]
    raw = s.published("to_local")
    assert tx.parse(raw).outputs[0].value > 3_990_000
    assert s.tell_spent(s.at(s.old, "to_local"), raw, 102) == []
    s.tell_tip(106)
    assert not s.close.resolved
    s.tell_tip(107)
    assert s.close.resolved


def test_penalty_pays_more_as_the_cheats_delay_runs_out(scene: Any) -> None:
    fees = []
    for tip in (100, 110, 119):
        s = scene(tip=tip)
        s.tell_close(s.whole(s.old), 100)
        fees.append(4_000_000 - tx.parse(s.published("to_local")).outputs[0].value)
    assert fees[0] * 2 <= fees[1]
    assert fees[1] * 8 <= fees[2]


@pytest.mark.parametrize("ours", [True, False])
def test_htlc_of_a_revoked_state_is_taken_and_then_fails_if_it_was_still_ours(
    scene: Any, htlc: Any, ours: bool
) -> None:
    live = htlc(0, ours, expiry=150)
    s = scene(htlcs=(live,), revoked=(live,))
    cheat = s.whole(s.old)
    name = live.name
    assert s.tell_close(cheat, 100) == [
        ("alarm",),
        ("watch", name, 94),
        ("watch", "to_local", 94),
        ("publish", "sweep", name),
        ("publish", "sweep", "to_local"),
    ]
    s.tell_spent(s.at(s.old, name), s.published(name), 101)
    s.tell_spent(s.at(s.old, "to_local"), s.published("to_local"), 101)
    s.tell_tip(105)
    assert not s.close.resolved
    assert s.tell_tip(106) == ([("failed", 0, "TIMED_OUT")] if ours else [])
    assert s.close.resolved


@pytest.mark.parametrize(("ours", "preimage"), [(True, True), (False, False)])
def test_cheats_second_stage_is_taken_too_and_its_preimage_told(
    scene: Any, htlc: Any, ours: bool, preimage: bool
) -> None:
    live = htlc(0, ours, expiry=90)
    s = scene(htlcs=(live,), revoked=(live,))
    s.tell_close(s.whole(s.old), 100)
    raw = s.bobs_claim(s.old, live.name, preimage=preimage)
    told = [("fulfilled", 0)] if preimage else []
    penalty = ("publish", "sweep", f"output of {live.name}")
    watch = ("watch", f"output of {live.name}", 95)
    place = s.at(s.old, live.name)
    assert s.tell_spent(place, raw, 101) == [*told, watch, penalty]
    second = Outpoint(txid=tx.txid_of(raw), index=0)
    s.tell_spent(s.at(s.old, "to_local"), s.published("to_local"), 101)
    assert s.tell_tip(108) == [penalty]
    assert s.tell_spent(second, s.published(f"output of {live.name}"), 109) == []
    s.tell_tip(113)
    assert not s.close.resolved
    s.tell_tip(114)
    assert s.close.resolved


GONE_TAKEN = [
    ("watch", "offered 3", 94),
    ("watch", "received 4", 94),
    ("watch", "to_local", 94),
    ("publish", "sweep", "offered 3"),
    ("publish", "sweep", "received 4"),
    ("publish", "sweep", "to_local"),
]


@pytest.fixture
def long_gone(scene: Any, htlc: Any) -> Any:
    """A revoked state whose two HTLCs have left the channel since."""
    return scene(revoked=(htlc(3, True), htlc(4, False, sat=60_000)))


def test_htlcs_long_gone_are_taken_when_the_record_comes_with_the_breach(long_gone: Any) -> None:
    s = long_gone
    assert s.tell_close(s.whole(s.old), 100, records.encode(s.old)) == [("alarm",), *GONE_TAKEN]
    assert s._taken(resolve.resume(s.close, s.context, s.facts)) == GONE_TAKEN
    for name in ("offered 3", "received 4", "to_local"):
        s.tell_spent(s.at(s.old, name), s.published(name), 101)
    s.tell_tip(106)
    assert s.close.resolved


def test_record_that_comes_later_than_the_breach_is_used_and_kept(long_gone: Any) -> None:
    """The breach was in the mempool before its revocation was on disk; the block brings the record, a next one need not."""
    s, cheat = long_gone, long_gone.whole(long_gone.old)
    assert s.tell_close(cheat, None) == [("alarm",), ("watch", "to_local", 94)]
    assert s.tell_close(cheat, 100, records.encode(s.old)) == GONE_TAKEN
    assert s.tell_close(cheat, 100) == GONE_TAKEN[3:]


def test_record_of_a_breach_that_vanished_is_not_used_for_another(long_gone: Any) -> None:
    s = long_gone
    s.tell_close(s.whole(s.old), 100, records.encode(s.old))
    s.tell_gone(s.funding)
    assert s.close.record == b""


@pytest.mark.parametrize("damaged", [b"\x01", b"\x07nonsense", b"\x01\x01\x02\x00\x01\x01"])
def test_breach_with_a_damaged_record_is_answered_as_far_as_can_be(long_gone: Any, damaged: bytes) -> None:
    s = long_gone
    assert s.tell_close(s.whole(s.old), 100, damaged) == [
        ("alarm",),
        ("watch", "to_local", 94),
        ("publish", "sweep", "to_local"),
    ]


def test_cheat_who_gets_away_with_its_balance_is_the_end_of_it(scene: Any, bob: Any) -> None:
    s = scene(tip=125)
    s.tell_close(s.whole(s.old), 100)
    place = s.at(s.old, "to_local")
    output = s.old.outputs[place.index]
    stolen = build(
        Claim(
            txid=Txid(s.old.txid),
            index=place.index,
            value=Sat(output.value),
            witness_script=output.witness_script,
            secret=derive_privkey(bob.delayed_payment_secret, bob.points.delayed_payment, s.old.point),
            tail=(b"",),
            sequence=20,
        ),
        b"\x00\x14" + bytes(20),
        FeeRate(1_000),
    )
    assert stolen is not None
    s.tell_spent(place, stolen, 126)
    assert s.tell_tip(131) == []
    assert s.close.resolved
