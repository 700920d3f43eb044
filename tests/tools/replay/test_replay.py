"""Recordings: what is written, what a damaged or full file costs, and that a replay names the first difference."""

import io
import os
import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest

from protocols.errors import MisuseError
from protocols.ids import PeerId
from protocols.payment.events import ChainReserveChanged
from protocols.routing.config import RoutingConfig
from protocols.routing.events import BundleReceived, Liquidity, LiquidityChanged, NeighbourUp
from protocols.routing.pricing import FeePolicy
from protocols.units import Msat, UnixTime
from protocols.wire.routing import RoutingMessage
from rrnode import recording
from rrnode.recording import MONEY, ROUTING, BadRecording, Entry, Header, Recorder, money_engine, read, routing_engine
from tools.replay.__main__ import run_file
from tools.replay.replay import replay
from tools.simulate.network import Network
from tools.simulate.node import COIN

NOW = UnixTime(1_700_000_000)
US, UP, DOWN = (PeerId(b"\x02" + bytes([number]) * 32) for number in (1, 2, 3))


class Kept(io.BytesIO):
    """A file whose content outlives its closing."""

    def close(self):
        self.content = self.getvalue()
        super().close()


def recorder(limit=10**7):
    file = Kept()
    return Recorder(file, limit=limit, network="regtest"), file


def offer(amount=1_000_000):
    message = RoutingMessage(bytes(32), COIN, amount, 30, 5, 2_000_000, COIN, NOW + 60)
    return BundleReceived(neighbour=DOWN, offers=(message,), now=NOW)


def routed(into):
    """An engine that quotes one offer on."""
    engine = routing_engine(into, RoutingConfig(fee=FeePolicy(base_msat=Msat(1000), ppm=0)), US)
    for peer in (UP, DOWN):
        rich = (Liquidity(asset=COIN, ours=Msat(10**9), theirs=Msat(10**9)),)
        engine.handle(LiquidityChanged(neighbour=peer, liquidity=rich, now=NOW))
        engine.handle(NeighbourUp(neighbour=peer, routes=True, now=NOW))
    engine.handle(offer())
    return engine


@pytest.fixture
def frames():
    """A recording of the routing engine: its start, four events about neighbours, one offer."""
    into, file = recorder()
    routed(into)
    into.close()
    return list(read(io.BytesIO(file.content)))


@pytest.fixture(scope="module")
def forwarder():
    """Recordings of both engines of B, through which A pays C and C pays A; and B's keys."""
    into, file = recorder()
    net = Network("A", "B", "C")
    node = net["B"]
    node.money = money_engine(
        into, us=node.id, asset=COIN, keys=node.keys, snapshot=node.disk.read(), config=node.config
    )
    node.routing = routing_engine(into, node.routing_config, node.id)
    node.batch(ChainReserveChanged(confirmed_sat=node.reserve, coins=100))
    net.channel("A", "B")
    net.channel("B", "C")
    for number, (payer, payee) in enumerate((("A", "C"), ("C", "A"), ("A", "B")), start=1):
        net.pay(payer, payee, number, 20_000_000)
        net.quiet()
    into.close()
    return list(read(io.BytesIO(file.content))), node.keys


# --- what replays -----------------------------------------------------------------------------------------------------


def test_both_engines_of_a_forwarder_replay_to_the_byte(forwarder):
    frames, keys = forwarder
    done = replay(frames, keys)
    assert done.difference is None
    assert done.calls[MONEY] > 60
    assert done.calls[ROUTING] > 10
    assert {name for entry in frames[1:] for name, _ in entry.ordered} >= {"StoreForward", "SendMessage", "SendOffers"}


def test_without_keys_only_the_routing_engine_is_run(forwarder):
    frames, keys = forwarder
    done, whole = replay(frames, None), replay(frames, keys)
    assert (done.difference, done.calls[ROUTING], done.calls[MONEY]) == (None, whole.calls[ROUTING], 0)
    assert done.skipped == whole.calls[MONEY]


def test_a_start_from_a_disk_with_channels_and_a_resume_replay(forwarder):
    net = Network("A", "B")
    net.channel("A", "B")
    net.pay("A", "B", 1, 20_000_000)
    net.quiet()
    node, (into, file) = net["A"], recorder()
    engine = money_engine(into, us=node.id, asset=COIN, keys=node.keys, snapshot=node.disk.read(), config=node.config)
    assert engine.resume(node.facts())
    into.close()
    done = replay(read(io.BytesIO(file.content)), node.keys)
    assert (done.difference, done.calls) == (None, {MONEY: 2})


def test_what_an_engine_raised_is_raised_again_and_ends_the_recording():
    into, file = recorder()
    engine = routed(into)
    with pytest.raises(MisuseError):
        engine.handle(NeighbourUp(neighbour=US, routes=True, now=NOW))
    engine.handle(offer())
    frames = list(read(io.BytesIO(file.content)))
    assert (frames[-1].event, frames[-1].ordered, frames[-1].raised) == (
        "NeighbourUp", None, "MisuseError('we are not our own neighbour')",
    )  # fmt: skip
    assert replay(frames, None).difference is None


# --- what differs -----------------------------------------------------------------------------------------------------


def test_a_changed_event_is_found_with_the_effect_that_differs(frames):
    changed = [*frames[:-1], msgspec.structs.replace(frames[-1], told=msgspec.msgpack.encode(offer(1_000_001)))]
    difference = replay(changed, None).difference
    assert (difference.call, difference.engine, difference.effect) == (6, ROUTING, 1)
    assert difference.told.startswith("BundleReceived {'neighbour': '0203")
    assert difference.recorded.startswith("SendOffers")
    assert difference.recorded.replace("1001000", "1001001") == difference.found
    assert str(difference).startswith("call 6, routing engine, effect 1 differs\n  it was told  BundleReceived")


def test_another_rule_is_found_at_the_first_call_that_it_changes(frames):
    start = msgspec.msgpack.decode(frames[1].told, type=recording.RoutingStart)
    other = msgspec.structs.replace(start, config=replace(start.config, fee=FeePolicy(base_msat=Msat(7), ppm=0)))
    changed = [frames[0], msgspec.structs.replace(frames[1], told=msgspec.msgpack.encode(other)), *frames[2:]]
    difference = replay(changed, None).difference
    assert (difference.call, "1001000" in difference.recorded, "1000007" in difference.found) == (6, True, True)


def test_effects_that_are_missing_or_new_are_found(frames):
    last = frames[-1]
    fewer = replay([*frames[:-1], msgspec.structs.replace(last, ordered=last.ordered[:-1])], None).difference
    assert (fewer.call, fewer.effect, fewer.recorded) == (6, len(last.ordered), "")
    more = replay(
        [*frames[:-1], msgspec.structs.replace(last, ordered=(*last.ordered, last.ordered[0]))], None
    ).difference
    assert (more.call, more.effect, more.found) == (6, len(last.ordered) + 1, "")
    raised = replay([*frames[:-1], msgspec.structs.replace(last, ordered=None, raised="KeyError()")], None).difference
    assert (raised.recorded, raised.found[:10]) == ("raised KeyError()", "SendOffers")


def test_a_payment_event_that_was_changed_is_found(forwarder):
    frames, keys = forwarder
    place = next(at for at, frame in enumerate(frames) if isinstance(frame, Entry) and frame.event == "OffersFound")
    emptied = msgspec.msgpack.decode(frames[place].told) | {"offers": ()}
    changed = [*frames]
    changed[place] = msgspec.structs.replace(frames[place], told=msgspec.msgpack.encode(emptied))
    difference = replay(changed, keys).difference
    assert (difference.call, difference.engine, difference.told[:11]) == (place, MONEY, "OffersFound")


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_full_recording_holds_whole_entries_only_and_the_engine_goes_on(frames):
    whole = sum(4 + len(msgspec.msgpack.encode(frame)) for frame in frames)
    for limit in (whole, whole - 1):
        into, file = recorder(limit)
        engine = routed(into)
        assert engine.handle(offer(900_000))
        into.close()
        assert len(file.content) <= limit
        assert list(read(io.BytesIO(file.content))) == frames[: len(frames) - (limit < whole)]


def test_a_disk_that_refuses_ends_the_recording_and_nothing_else():
    into, file = recorder()
    file.write = lambda data: (_ for _ in ()).throw(OSError("no space left"))
    assert routed(into).handle(offer(900_000))
    assert file.closed


@pytest.mark.parametrize(("told", "effect"), [(object(), "fine"), ("fine", object()), ("fine", 1 << 64)])
def test_what_cannot_be_written_ends_the_recording_and_nothing_else(told, effect):
    into, file = recorder()
    with into.call(ROUTING, "Event", told) as effects:
        effects.append(effect)
    assert effects == [effect]
    assert file.closed
    assert [type(each) for each in read(io.BytesIO(file.content))] == [Header]


def test_a_recording_that_was_cut_off_replays_up_to_there(frames):
    raw = b"".join(len(each).to_bytes(4, "big") + each for each in map(msgspec.msgpack.encode, frames))
    assert list(read(io.BytesIO(raw))) == frames
    for lost in (1, 5):
        assert list(read(io.BytesIO(raw[:-lost]))) == frames[:-1]


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (b"", "no frame in it"),
        (b"\xff\xff\xff\xff", "frame 0 of 4294967295 bytes"),
        (b"\0\0\0\1\xc0", "frame 0 is damaged"),
        (b"\0\0\0\4\x93\x07\xa0\xa0", "a recording of format 7; this version reads format 1"),
    ],
)
def test_what_is_no_recording_is_refused(raw, wanted):
    with pytest.raises(BadRecording, match=wanted):
        list(read(io.BytesIO(raw)))


def test_events_that_nobody_knows_or_that_come_before_a_start_are_refused(frames):
    with pytest.raises(BadRecording, match=r"call 1, LiquidityChanged: the routing engine has not started"):
        replay(frames[2:], None)
    for entry in (
        Entry(ROUTING, "Unheard", b"\x80", b"", ()), Entry(ROUTING, "NeighbourUp", b"\x80", b"", ()),
        Entry("third", "Start", b"\x80", b"", ()),
    ):  # fmt: skip
        with pytest.raises(BadRecording, match=r"call \d, \w+: not readable for this version"):
            replay([*frames[:2], entry], None)


def test_recordings_are_their_owners_alone_and_the_oldest_go(tmp_path):
    for now in range(6):
        Recorder.open(tmp_path, megabytes=1, network="regtest", now=now).close()
    files = sorted((tmp_path / "recordings").iterdir())
    assert [int(path.name.split("-")[0]) for path in files] == [2000, 3000, 4000, 5000]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_a_nodes_keys_run_only_what_stands_in_its_own_folder(tmp_path, forwarder):
    """A file from elsewhere is a list of states to sign, and what is signed is shown where something differs."""
    frames, keys = forwarder
    asked = []

    def ring(data_dir, network):
        asked.append((data_dir, network))
        return keys

    folder = tmp_path / "node" / recording.FOLDER
    folder.mkdir(parents=True)
    elsewhere, own = tmp_path / "report.rec", folder / "1.rec"
    for path in (elsewhere, own):
        path.write_bytes(b"".join(len(each).to_bytes(4, "big") + each for each in map(msgspec.msgpack.encode, frames)))
    (folder / "link.rec").symlink_to(elsewhere)
    for path in (elsewhere, folder / "link.rec", folder / ".." / ".." / "report.rec"):
        with pytest.raises(BadRecording, match="not one of this node's own"):
            run_file(path, tmp_path / "node", ring)
    assert asked == []
    assert run_file(own, tmp_path / "node", ring)[1].difference is None
    assert asked == [(tmp_path / "node", "regtest")]


def test_the_command_says_what_differs_and_ends_with_one(tmp_path, frames):
    def run(some):
        path = tmp_path / "some.rec"
        path.write_bytes(b"".join(len(each).to_bytes(4, "big") + each for each in map(msgspec.msgpack.encode, some)))
        return subprocess.run(
            [sys.executable, "-m", "tools.replay", str(path)],
            capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=120, check=False,
        )  # fmt: skip

    same = run(frames)
    assert (same.returncode, same.stderr) == (0, "")
    assert same.stdout.endswith("\n6 calls of the routing engine\neverything is the same\n")
    differs = run([*frames[:-1], msgspec.structs.replace(frames[-1], ordered=())])
    assert differs.returncode == 1
    assert "call 6, routing engine, effect 1 differs" in differs.stdout
    odd = run([Header(1, "9\x1b[2J", "\x9b2J"), *frames[1:]])
    assert odd.stdout.startswith("recorded by version 9·[2J on ·2J, run again")
    bad = run([Header(9, "", "")])
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == f"{tmp_path / 'some.rec'}: a recording of format 9; this version reads format 1\n"
