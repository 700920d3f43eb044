"""Feed a recording to the same engines and find the first call that ends differently."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

import msgspec

from protocols.channel.engine import KeyRing
from protocols.channel.events import ChannelEvent
from protocols.facts import Facts
from protocols.payment.engine import Engine as MoneyEngine
from protocols.payment.events import PaymentEvent, Snapshot
from protocols.routing.engine import Engine as RoutingEngine
from protocols.routing.events import RoutingEvent
from rrnode.recording import MONEY, ROUTING, BadRecording, Entry, Header, MoneyStart, RoutingStart, effects_as_bytes

_TYPES: dict[str, dict[str, Any]] = {
    MONEY: {kind.__name__: kind for kind in (*get_args(ChannelEvent), *get_args(PaymentEvent))},
    ROUTING: {kind.__name__: kind for kind in get_args(RoutingEvent)},
}

Ordered = tuple[tuple[str, bytes], ...] | None  # as in `Entry.ordered`


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first call that ended differently.

    Attributes:
        call: its number in the recording, from 1.
        told: the event.
        effect: number of the first effect that differs, from 1; one more than there were where effects are missing.
        recorded, found: that effect, or what was raised, in words; "" where there is none.
    """

    call: int
    engine: str
    told: str
    effect: int
    recorded: str
    found: str

    def __str__(self) -> str:
        return (
            f"call {self.call}, {self.engine} engine, effect {self.effect} differs\n"
            f"  it was told  {self.told}\n  recorded     {self.recorded or 'no more effects'}\n"
            f"  now          {self.found or 'no more effects'}"
        )


@dataclass(slots=True)
class Replayed:
    """How far a replay came.

    Attributes:
        calls: run again, by engine.
        skipped: calls of the money engine, which was not run for want of keys.
        difference: None: everything was the same.
    """

    calls: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    difference: Difference | None = None


def replay(frames: Iterable[Header | Entry], keys: KeyRing | None) -> Replayed:
    """Run the calls again, up to the first difference.

    Args:
        keys: of the node that was recorded; None: only the routing engine is run.

    Raises:
        BadRecording: something is told to an engine that never started, or that this version does not know.
    """
    engines: dict[str, Any] = {}
    done = Replayed()
    entries = (frame for frame in frames if isinstance(frame, Entry))
    for number, entry in enumerate(entries, start=1):
        if entry.engine == MONEY and keys is None:
            done.skipped += 1
            continue
        try:
            told = _told(entry)
            facts = msgspec.msgpack.decode(entry.facts, type=Facts) if entry.facts else None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRecording(f"call {number}, {entry.event}: not readable for this version: {error}") from None
        found, raised = _call(engines, entry, told, facts, keys, number)
        done.calls[entry.engine] += 1
        if found != entry.ordered or raised != entry.raised:
            done.difference = _difference(number, entry, told, found, raised)
            return done
    return done


def _told(entry: Entry) -> Any:
    """The event, or what the engine is made from."""
    kind: Any
    if entry.event == "Start":
        kind = MoneyStart if entry.engine == MONEY else RoutingStart
    elif entry.event == "Resume":
        kind = None
    else:
        kind = _TYPES.get(entry.engine, {}).get(entry.event)
        if kind is None:
            raise msgspec.DecodeError(f"the {entry.engine} engine knows no such event")
    return msgspec.msgpack.decode(entry.told, type=kind)


def _call(
    engines: dict[str, Any], entry: Entry, told: Any, facts: Facts | None, keys: KeyRing | None, number: int
) -> tuple[Ordered, str]:
    """One call; what it ordered, or what it raised."""
    engine: Any = engines.get(entry.engine)
    if engine is None and entry.event != "Start":
        raise BadRecording(f"call {number}, {entry.event}: the {entry.engine} engine has not started")
    effects: Any = []
    try:
        match told:
            case MoneyStart():
                assert keys is not None
                engines[MONEY] = _money(told, keys)
            case RoutingStart():
                engines[ROUTING] = RoutingEngine(told.config, told.us)
            case None:
                effects = engine.resume(facts)
            case _ if facts is not None:
                effects = engine.handle(told, facts)
            case _:
                effects = engine.handle(told)
    except Exception as error:  # noqa: BLE001 - whatever an engine raises is what is compared
        return None, repr(error)
    return effects_as_bytes(effects), ""


def _money(start: MoneyStart, keys: KeyRing) -> MoneyEngine:
    snapshot = Snapshot(
        channels=start.channels,
        payments=start.payments,
        promises=start.promises,
        forwards=start.forwards,
        settled_hashes=frozenset(start.settled_hashes),
    )
    return MoneyEngine(us=start.us, asset=start.asset, keys=keys, snapshot=snapshot, config=start.config)


def _difference(number: int, entry: Entry, told: Any, found: Ordered, raised: str) -> Difference:
    before, now = entry.ordered or (), found or ()
    place = next((at for at, (one, other) in enumerate(zip(before, now, strict=False)) if one != other), None)
    if place is None:
        place = min(len(before), len(now))
    return Difference(
        call=number,
        engine=entry.engine,
        told=_shown(told) if told is not None else entry.event,
        effect=place + 1,
        recorded=_words(before, place, entry.raised),
        found=_words(now, place, raised),
    )


def _words(effects: tuple[tuple[str, bytes], ...], place: int, raised: str) -> str:
    if raised:
        return f"raised {raised}"
    if place >= len(effects):
        return ""
    name, raw = effects[place]
    return f"{name} {_shown(msgspec.msgpack.decode(raw))}"


def _shown(value: Any) -> str:
    """A value for people, one line."""
    text = value if isinstance(value, dict | list) else msgspec.msgpack.decode(msgspec.msgpack.encode(value))
    name = "" if isinstance(value, dict | list) else f"{type(value).__name__} "
    return name + str(_hex(text))


def _hex(value: Any) -> Any:
    """Bytes as hex, wherever they stand."""
    match value:
        case bytes():
            return value.hex()
        case dict():
            return {key: _hex(each) for key, each in value.items()}
        case list():
            return [_hex(each) for each in value]
        case _:
            return value
