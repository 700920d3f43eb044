"""State and events as bytes: round trips of every event, and garbage that is always said to be damage."""

import dataclasses
import enum
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.channel.state import Channel, Phase, Stage
from protocols.payment.events import Forward, Kind, Payment, PayPhase, Promise, PromisePhase
from protocols.wire.channel import FailureCode
from rrnode.errors import StorageFailed
from rrnode.storage import codec


@pytest.mark.parametrize("name", sorted(codec.EVENT_TYPES))
def test_every_event_type_can_be_decoded(name: str) -> None:
    with pytest.raises(StorageFailed, match="journal line 5 is damaged"):
        codec.decode_event(name, b"\xc1", "journal line 5")


@given(st.binary(max_size=300))
def test_garbage_is_damage_and_nothing_else(raw: bytes) -> None:
    for kind in (Channel, Payment, Promise, Forward):
        with pytest.raises(StorageFailed, match="row 1 is damaged"):
            codec.decode(kind, raw, "row 1")


def test_a_cut_or_changed_channel_is_damage_or_another_channel(kit: Any) -> None:
    raw = codec.encode(kit.channel(1))
    assert codec.decode(Channel, raw, "row") == kit.channel(1)
    for cut in range(0, len(raw), 7):
        with pytest.raises(StorageFailed, match="damaged"):
            codec.decode(Channel, raw[:cut], "row")


def test_a_field_that_is_new_and_has_a_default_reads_old_rows(kit: Any) -> None:
    channel = kit.channel(1)
    old = msgspec.msgpack.decode(codec.encode(channel))
    spared = [
        field.name
        for field in dataclasses.fields(Channel)
        if field.default is not dataclasses.MISSING and getattr(channel, field.name) == field.default
    ]
    assert spared
    for name in spared:
        del old[name]
    assert codec.decode(Channel, msgspec.msgpack.encode(old), "row") == channel


def test_an_amount_that_is_no_whole_number_is_damage(kit: Any) -> None:
    fields = msgspec.msgpack.decode(codec.encode(kit.channel(1)))
    for wrong in (1.5, "600000000", None, True):
        with pytest.raises(StorageFailed, match="damaged"):
            codec.decode(Channel, msgspec.msgpack.encode({**fields, "our_balance": wrong}), "row")


def test_the_values_of_stored_enums_are_part_of_the_schema() -> None:
    """Changing one makes databases unreadable: it needs a migration, and then a change here."""
    assert {each.name: each.value for each in Kind} == {"PUSH": "push", "REQUEST": "request"}
    assert {each.name: each.value for each in PayPhase} == {
        "COLLECTING": "collecting offers",
        "LOCKED": "locked",
        "PAID": "paid",
        "FAILED": "failed",
    }
    assert {each.name: each.value for each in PromisePhase} == {
        "WAITING": "waiting",
        "CLAIMED": "claimed",
        "EXPIRED": "expired",
    }
    assert [each.value for each in Stage] == list(range(10))
    assert [each.value for each in FailureCode] == list(range(1, 13))
    assert {each.name: each.value for each in Phase} == {
        "OPENING": "waiting for the neighbour to accept",
        "FUNDING": "waiting for our wallet",
        "SIGNING": "waiting for the neighbour's signature",
        "ACCEPTED": "waiting for the neighbour's funding",
        "CONFIRMING": "waiting for confirmations",
        "OPEN": "open",
        "SHUTTING": "closing, waiting for payments to end",
        "CLOSING": "closing together",
        "FORCED": "closing by force",
        "LOST": "our record is old: waiting for the neighbour to close",
        "CLOSED": "closed",
    }


def _plain(kind: Any, seen: set[Any]) -> list[str]:
    """Types below a stored dataclass that a decoder could not check exactly."""
    if kind in seen or kind in (int, bytes, str, bool, type(None)):
        return []
    seen.add(kind)
    if isinstance(kind, typing.NewType):
        return _plain(kind.__supertype__, seen)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return [each for field in dataclasses.fields(kind) for each in _plain(hints[field.name], seen)]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return []
    if typing.get_args(kind) and typing.get_origin(kind) is not list:
        return [each for part in typing.get_args(kind) if part is not Ellipsis for each in _plain(part, seen)]
    return [str(kind)]


@pytest.mark.parametrize("kind", [Channel, Payment, Promise, Forward])
def test_stored_state_is_fully_typed(kind: type) -> None:
    assert _plain(kind, set()) == []
