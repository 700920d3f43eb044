"""A recording of both engines: what each was told, under which facts, and what it ordered; `tools.replay` runs it again.

Off unless `node.record_mb` says how much. An engine is a function of its events (CONVENTIONS, "Data and engines"), so a
recording that begins with the engine's start replays exactly, and the first difference names what has changed: another
version of the rules, or a bug that depends on something which is in no event. The database's journal cannot do this: it
has neither a beginning nor what was ordered.

A file is frames: 4 bytes of length, big-endian, then one MessagePack array, `Header` first and `Entry` after. It holds
payment secrets and every channel's state, as the database does, but no keys: who replays money needs the node's seed.
"""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import structlog

from protocols.channel.engine import KeyRing
from protocols.channel.state import Channel
from protocols.facts import Facts
from protocols.ids import PaymentHash, PeerId
from protocols.payment.config import EngineConfig
from protocols.payment.engine import Effect, Event
from protocols.payment.engine import Engine as MoneyEngine
from protocols.payment.events import Forward, Payment, Promise, Snapshot
from protocols.routing.config import RoutingConfig
from protocols.routing.engine import Engine as RoutingEngine
from protocols.routing.events import RoutingEffect, RoutingEvent
from protocols.units import AssetId
from rrnode.version import VERSION

log = structlog.get_logger(__name__)

FORMAT = 1
FOLDER = "recordings"
KEPT = 4  # files; with `record_mb` each, so that a node that starts again and again does not fill the disk
MAX_FRAME = 1 << 30  # what a reader allocates at most for one entry; a start holds every channel
MONEY, ROUTING = "money", "routing"
_LENGTH = struct.Struct(">I")
_encode = msgspec.msgpack.Encoder().encode


class Header(msgspec.Struct, frozen=True, array_like=True):
    """The first frame."""

    format: int
    version: str
    network: str


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One call of an engine.

    Attributes:
        engine: `money` or `routing`.
        event: name of the event's type; `Start` and `Resume` are calls without one.
        told: the event, or what the engine was made from.
        facts: under which a money event was handled.
        ordered: type and bytes of each effect, in order; None: the engine raised `raised` instead.
    """

    engine: str
    event: str
    told: bytes
    facts: bytes
    ordered: tuple[tuple[str, bytes], ...] | None
    raised: str = ""


class MoneyStart(msgspec.Struct, frozen=True):
    """What a money engine was made from, its keys left out. Fields as in `Snapshot`."""

    us: PeerId
    asset: AssetId
    config: EngineConfig
    channels: tuple[Channel, ...]
    payments: tuple[Payment, ...]
    promises: tuple[Promise, ...]
    forwards: tuple[Forward, ...]
    settled_hashes: tuple[PaymentHash, ...]


class RoutingStart(msgspec.Struct, frozen=True):
    """What a routing engine was made from."""

    us: PeerId
    config: RoutingConfig


def effects_as_bytes(effects: Sequence[Any]) -> tuple[tuple[str, bytes], ...]:
    """Type and bytes of each effect: equal exactly where the effects are."""
    return tuple((type(effect).__name__, _encode(effect)) for effect in effects)


class Recorder:
    """Writes one file, at most so many bytes; what comes after the last whole entry that fits is left out.

    A recording must never harm the node: when the disk refuses, or something cannot be written, it ends and the node
    goes on. What is recorded is frozen, so it can be written after the call.

    Args:
        file: open for writing, buffered; closed by `close`.
    """

    def __init__(self, file: BinaryIO, *, limit: int, network: str) -> None:
        self._file: BinaryIO | None = file
        self._left = limit
        self._put(lambda: Header(FORMAT, VERSION, network))

    @classmethod
    def open(cls, data_dir: Path, *, megabytes: int, network: str, now: float) -> "Recorder":
        """A new file in the data directory's `recordings`, readable by its owner only; the oldest ones are removed.

        Raises:
            OSError: the directory cannot be written.
        """
        folder = data_dir / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        for old in sorted(folder.glob("*.rec"))[: -(KEPT - 1)]:
            old.unlink()
        path = folder / f"{int(now * 1000):015d}-{os.getpid()}.rec"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        log.warning("recording both engines; the file holds payment secrets", file=str(path), megabytes=megabytes)
        return cls(os.fdopen(descriptor, "wb"), limit=megabytes * 1_000_000, network=network)

    def close(self) -> None:
        """Write what is buffered; later calls record nothing."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                log.error("the end of the recording could not be written", error=str(error))

    @contextmanager
    def call(self, engine: str, event: str, told: object, facts: Facts | None = None) -> Iterator[list[Any]]:
        """Record one call. The body appends what the engine ordered; where it raises, that is recorded."""
        if self._file is None:
            yield []
            return
        effects: list[Any] = []

        def entry(raised: str = "") -> Entry:
            ordered = None if raised else effects_as_bytes(effects)
            return Entry(engine, event, _encode(told), b"" if facts is None else _encode(facts), ordered, raised)

        try:
            yield effects
        except BaseException as error:
            self._put(partial(entry, repr(error)))
            self.close()  # the engine's state is anybody's guess from here on
            raise
        self._put(entry)

    def _put(self, make: Callable[[], Header | Entry]) -> None:
        if self._file is None:
            return
        try:
            raw = _encode(make())
            self._left -= _LENGTH.size + len(raw)
            if self._left < 0:
                log.warning("the recording is full and ends here; node.record_mb is its size")
                self.close()
            else:
                self._file.write(_LENGTH.pack(len(raw)) + raw)
        except OSError as error:
            log.error("the recording ends: the disk refused it", error=str(error))
            self.close()
        except (TypeError, ValueError, ArithmeticError, msgspec.MsgspecError) as error:
            log.error("the recording ends: something in it cannot be written", error=str(error))
            self.close()


class _RecordedMoney(MoneyEngine):
    def __init__(self, recorder: Recorder, *, keys: KeyRing, start: MoneyStart, snapshot: Snapshot) -> None:
        self._recorder = recorder
        with recorder.call(MONEY, "Start", start):
            super().__init__(us=start.us, asset=start.asset, keys=keys, snapshot=snapshot, config=start.config)

    def handle(self, event: Event, facts: Facts) -> list[Effect]:
        with self._recorder.call(MONEY, type(event).__name__, event, facts) as effects:
            effects += super().handle(event, facts)
        return effects

    def resume(self, facts: Facts) -> list[Effect]:
        with self._recorder.call(MONEY, "Resume", None, facts) as effects:
            effects += super().resume(facts)
        return effects


class _RecordedRouting(RoutingEngine):
    def __init__(self, recorder: Recorder, config: RoutingConfig, us: PeerId) -> None:
        self._recorder = recorder
        with recorder.call(ROUTING, "Start", RoutingStart(us, config)):
            super().__init__(config, us)

    def handle(self, event: RoutingEvent) -> list[RoutingEffect]:
        with self._recorder.call(ROUTING, type(event).__name__, event) as effects:
            effects += super().handle(event)
        return effects


def money_engine(
    recorder: Recorder | None, *, us: PeerId, asset: AssetId, keys: KeyRing, snapshot: Snapshot, config: EngineConfig
) -> MoneyEngine:
    """The money engine, recorded if there is a recorder."""
    if recorder is None:
        return MoneyEngine(us=us, asset=asset, keys=keys, snapshot=snapshot, config=config)
    start = MoneyStart(
        us=us,
        asset=asset,
        config=config,
        channels=snapshot.channels,
        payments=snapshot.payments,
        promises=snapshot.promises,
        forwards=snapshot.forwards,
        settled_hashes=tuple(snapshot.settled_hashes),
    )
    return _RecordedMoney(recorder, keys=keys, start=start, snapshot=snapshot)


def routing_engine(recorder: Recorder | None, config: RoutingConfig, us: PeerId) -> RoutingEngine:
    """The routing engine, likewise."""
    return RoutingEngine(config, us) if recorder is None else _RecordedRouting(recorder, config, us)


# --- reading ----------------------------------------------------------------------------------------------------------


class BadRecording(Exception):
    """A file that is no recording, or is damaged; the message says where."""


def read(file: BinaryIO) -> Iterator[Header | Entry]:
    """The frames of a recording; a last one that was cut off, as by a crash, is left out.

    Raises:
        BadRecording: damaged, or of another format.
    """
    number = 0
    while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
        (length,) = _LENGTH.unpack(head)
        if length > MAX_FRAME:
            raise BadRecording(f"frame {number} of {length} bytes, at most {MAX_FRAME} are read; this is no recording")
        raw = file.read(length)
        if len(raw) < length:
            break
        try:
            yield (_entry_of if number else _header_of)(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRecording(f"frame {number} is damaged: {error}") from None
        number += 1
    if not number:
        raise BadRecording("no frame in it; this is no recording")


def _entry_of(raw: bytes) -> Entry:
    return msgspec.msgpack.decode(raw, type=Entry)


def _header_of(raw: bytes) -> Header:
    header = msgspec.msgpack.decode(raw, type=Header)
    if header.format != FORMAT:
        raise BadRecording(f"a recording of format {header.format}; this version reads format {FORMAT}")
    return header
